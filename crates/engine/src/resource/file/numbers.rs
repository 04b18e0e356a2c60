//! Descriptor numbers that only rebuilding needs: ones that no process of the job uses, nor an epoll of it for what it watches.
//!
//! They lie above all of the job's where the limit on descriptors leaves room there, otherwise between them: a program that has
//! moved its descriptors to the top of what is allowed (valgrind does) has free numbers below.

use std::collections::BTreeSet;

use cryonaut_image::RecordSet;
use cryonaut_sys::task;

use super::{DescriptorTable, LIMIT, epoll, unix_socket};
use crate::error::Attempt;
use crate::resource::kept_file;
use crate::{Error, Result};

/// The numbers, each for one purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpareNumbers {
    /// Of the channel by which descriptors come.
    pub channel: i32,
    /// Of what a process has for the time of a few calls.
    pub spare: [i32; SPARE],
    /// Of a message's descriptors.
    pub message: Vec<i32>,
    /// Where descriptors wait that have arrived; at least one.
    pub aside: Vec<i32>,
    /// Of what processes are lent to map or to execute it.
    pub lent: Vec<i32>,
}

/// How many [`SpareNumbers::spare`] has.
const SPARE: usize = 6;
/// Descriptors that are sent at once, where there is room.
const ASIDE: usize = 200;
/// The lowest number: those of the standard streams are left alone.
const LOWEST: i32 = 3;
/// The lowest number that is taken where there is room above.
const COMFORTABLE: i32 = 64;

/// In [`SpareNumbers::spare`]: a terminal, a socket, or what an epoll is to watch.
pub(crate) const TARGET: usize = 0;
/// What gives way to that.
pub(crate) const DISPLACED: usize = 1;
/// An epoll that a process has only meanwhile.
pub(crate) const EPOLL: usize = 2;
/// A file that is being filled.
pub(crate) const FILLED: usize = 3;
/// The first of two directories that are entered.
pub(crate) const DIRECTORIES: usize = 4;

impl SpareNumbers {
    /// Finds them for a restart by this process; how many lack where there are too few.
    ///
    /// # Errors
    /// When the records are damaged.
    pub fn find(records: &RecordSet) -> Result<std::result::Result<Self, u64>> {
        let limit = task::limit(0, LIMIT).attempt(|| "reading the limit on descriptors".into())?;
        Self::below(records, limit.hard)
    }

    /// Finds them below `limit`.
    fn below(records: &RecordSet, limit: u64) -> Result<std::result::Result<Self, u64>> {
        let used = used(records)?;
        let message = unix_socket::most_in_a_message(records)?;
        let lent = kept_file::lent_count(records)?;
        let fixed = 1 + SPARE + message + lent;
        let above = used.last().map_or(0, |last| last + 1).max(COMFORTABLE);
        // No kernel allows more (NR_OPEN).
        let limit = i32::try_from(limit).unwrap_or(i32::MAX).min(MOST);
        let between = (LOWEST..above.min(limit)).rev();
        let between = between.filter(|number| !used.contains(number));
        let all = (above..limit).chain(between).take(fixed + ASIDE);
        // The channel has the lowest: its maker wants some above it.
        let all: BTreeSet<i32> = all.collect();
        let mut all = all.into_iter();
        let mut some = |count: usize| -> Vec<i32> { all.by_ref().take(count).collect() };
        let (first, message, lent) = (some(1 + SPARE), some(message), some(lent));
        let aside = some(ASIDE);
        let found = first.len() + message.len() + lent.len() + aside.len();
        let (Some(&channel), Some(spare)) = (first.first(), first.get(1..)) else {
            return Ok(Err((fixed + 1 - found) as u64));
        };
        Ok(match <[i32; SPARE]>::try_from(spare) {
            Ok(spare) if !aside.is_empty() => Ok(Self {
                channel,
                spare,
                message,
                aside,
                lent,
            }),
            _ => Err((fixed + 1 - found) as u64),
        })
    }
}

const MOST: i32 = 1 << 30;

/// The numbers that the job uses.
fn used(records: &RecordSet) -> Result<BTreeSet<i32>> {
    let tables = records.all::<DescriptorTable>()?;
    let slots = tables.iter().flat_map(|table| &table.slots);
    let mut used: BTreeSet<i32> = slots.map(|slot| slot.number).collect();
    used.extend(epoll::numbers(records)?);
    if used.iter().any(|number| !(0..MOST).contains(number)) {
        return Err(Error::Failed(
            "the image is damaged: it has an impossible descriptor number".into(),
        ));
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::super::tests::slot;
    use super::*;

    fn records(numbers: impl Iterator<Item = i32>) -> RecordSet {
        let mut records = RecordSet::new();
        let slots = numbers.map(|number| slot(number, 1)).collect();
        records
            .push(&DescriptorTable { process: 7, slots })
            .unwrap();
        records
    }

    fn all(numbers: &SpareNumbers) -> Vec<i32> {
        let mut all = vec![numbers.channel];
        all.extend(numbers.spare);
        all.extend(&numbers.message);
        all.extend(&numbers.aside);
        all.extend(&numbers.lent);
        all
    }

    #[test]
    fn they_are_above_all_that_the_job_uses() {
        for (highest, channel) in [(5, 64), (99, 100)] {
            let found = SpareNumbers::below(&records(0..=highest), 1024).unwrap();
            let found = found.unwrap();
            assert_eq!(found.channel, channel);
            assert!(all(&found).iter().all(|number| *number > highest));
            assert_eq!(found.aside.len(), ASIDE);
        }
    }

    #[test]
    fn where_there_is_no_room_above_they_are_between() {
        let job = records((0..3).chain(1014..1024));
        let found = SpareNumbers::below(&job, 1024).unwrap().unwrap();
        let numbers = all(&found);
        let distinct: BTreeSet<i32> = numbers.iter().copied().collect();
        assert_eq!(distinct.len(), numbers.len());
        assert!(numbers.iter().all(|number| (3..1014).contains(number)));
        assert_eq!(found.aside.len(), ASIDE);
        // Scattered, and just enough of them.
        let free = [4, 9, 17, 20, 33, 40, 41, 63];
        let job = records((0..64).filter(|number| !free.contains(number)));
        let found = SpareNumbers::below(&job, 64).unwrap().unwrap();
        assert_eq!((found.channel, found.aside), (4, vec![63]));
        assert_eq!(SpareNumbers::below(&job, 62).unwrap(), Err(1));
    }

    #[test]
    fn where_none_is_free_it_is_said_how_many_lack() {
        let found = SpareNumbers::below(&records(0..64), 64).unwrap();
        assert_eq!(found, Err(8));
        // A lower limit than the job had.
        let found = SpareNumbers::below(&records(0..64), 20).unwrap();
        assert_eq!(found, Err(8));
    }

    #[test]
    fn impossible_numbers_are_damage() {
        assert!(SpareNumbers::below(&records(-1..1), 64).is_err());
        assert!(SpareNumbers::below(&records(MOST..MOST + 1), 64).is_err());
    }
}
