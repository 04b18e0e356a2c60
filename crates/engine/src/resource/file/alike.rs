//! Which slots share one open file description: those that look alike are compared (kcmp(2)).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use cryonaut_procfs::FdInfo;

use crate::Result;

/// What two slots of one description surely have in common. The position is left out: another holder may move it meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Likeness {
    link: Vec<u8>,
    flags: u32,
    mount: i32,
    inode: Option<u64>,
    event: Option<i32>,
}

impl Likeness {
    pub(crate) fn of(link: &[u8], info: &FdInfo) -> Self {
        Self {
            link: link.to_vec(),
            flags: info.flags & !(libc::O_CLOEXEC as u32),
            mount: info.mount_id,
            inode: info.inode,
            event: info.eventfd.and_then(|event| event.id),
        }
    }
}

/// Groups slots that share a description: only those that look alike are compared, each with a few by bisection. Groups and
/// their members are in the order of the slots.
pub(crate) fn group<K: Ord>(
    keys: Vec<K>,
    mut compare: impl FnMut(usize, usize) -> Result<Ordering>,
) -> Result<Vec<Vec<usize>>> {
    let mut alike: BTreeMap<K, Vec<Vec<usize>>> = BTreeMap::new();
    for (slot, key) in keys.into_iter().enumerate() {
        let groups = alike.entry(key).or_default();
        let mut failed = None;
        let found = groups.binary_search_by(|group| match compare(group[0], slot) {
            Ok(order) => order,
            Err(error) => {
                failed = Some(error);
                Ordering::Equal
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        match found {
            Ok(at) => groups[at].push(slot),
            Err(at) => groups.insert(at, vec![slot]),
        }
    }
    let mut groups: Vec<Vec<usize>> = alike.into_values().flatten().collect();
    groups.sort_unstable_by_key(|group| group[0]);
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn slots_of_one_description_are_found_with_few_comparisons() {
        // A thousand look-alikes on 500 descriptions, two slots each.
        let description = |slot: usize| (slot * 7919) % 500;
        let mut comparisons = 0;
        let groups = group(vec![(); 1000], |first, second| {
            comparisons += 1;
            Ok(description(first).cmp(&description(second)))
        })
        .unwrap();
        assert_eq!(groups.len(), 500);
        assert!(groups.iter().all(
            |members| members.len() == 2 && description(members[0]) == description(members[1])
        ));
        assert!(groups.is_sorted_by_key(|members| members[0]));
        assert!(comparisons < 11_000, "{comparisons} comparisons");
    }

    #[test]
    fn what_looks_different_is_never_compared() {
        let groups = group(vec![1, 2, 3], |_, _| panic!("nothing to compare")).unwrap();
        assert_eq!(groups, [[0], [1], [2]]);
    }

    #[test]
    fn a_failed_comparison_is_told() {
        assert!(group(vec![(), ()], |_, _| Err(Error::Interrupted)).is_err());
    }
}
