//! Memory policies (NUMA): of a task (set_mempolicy(2)) and of areas (mbind(2)).
//!
//! No file of /proc tells them without a walk over all page tables, so they are asked of the process (get_mempolicy(2)). Not
//! preserved: the home node of set_mempolicy_home_node(2), which nothing shows; in shared memory a policy that begins inside of
//! an area (which only another process can have set there).

use std::io;

use cryonaut_tracee::{BufferId, CallId, CallList, Outcomes};

use super::record::AreaRecord;
use crate::Result;
use crate::error::Attempt;
use crate::freeze::FrozenProcess;
use crate::plan::Plan;

/// A memory policy that is not the default.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MemoryPolicy {
    /// `MPOL_*` with its `MPOL_F_*` flags (include/uapi/linux/mempolicy.h).
    #[prost(uint32, tag = "1")]
    pub mode: u32,
    /// The nodes that it names, bit 0 being node 0, without the zero words at the end.
    #[prost(fixed64, repeated, tag = "2")]
    pub nodes: Vec<u64>,
}

/// `MPOL_F_ADDR`: of an address rather than of the task.
const OF_ADDRESS: u64 = 2;
/// `MPOL_F_RELATIVE_NODES`: the nodes are counted among those allowed, so that any do.
const RELATIVE: u32 = 1 << 14;
/// Words of the largest node mask (MAX_NUMNODES is 1024).
const WORDS: usize = 16;
/// That mask's size as the calls count it: the number of bits, and one (get_mempolicy(2), BUGS).
const MASK_BITS: u64 = WORDS as u64 * 64 + 1;
/// Areas that are asked about in one list.
const AT_ONCE: usize = 500;

/// What a list asks about one policy.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    call: CallId,
    mode: BufferId,
    nodes: BufferId,
}

impl Question {
    /// Asks a task for its own policy.
    pub fn of_task(list: &mut CallList) -> Self {
        Self::ask(list, 0, 0)
    }

    fn ask(list: &mut CallList, address: u64, flags: u64) -> Self {
        let (mode, nodes) = (list.space(4), list.space(WORDS * 8));
        let arguments = [
            mode.into(),
            nodes.into(),
            MASK_BITS.into(),
            address.into(),
            flags.into(),
        ];
        let call = list.call(libc::SYS_get_mempolicy, &arguments);
        Self { call, mode, nodes }
    }

    /// The answer; `None` is the default, which is all that a kernel without NUMA has.
    ///
    /// # Errors
    /// EFAULT when nothing is mapped at the address.
    pub fn answer(&self, outcomes: &Outcomes) -> io::Result<Option<MemoryPolicy>> {
        match outcomes.result(self.call) {
            Ok(_) => Ok(policy(
                outcomes.word(self.mode) as u32,
                outcomes.buffer(self.nodes),
            )),
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn policy(mode: u32, mask: &[u8]) -> Option<MemoryPolicy> {
    let mut nodes: Vec<u64> = mask
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
        .collect();
    while nodes.last() == Some(&0) {
        nodes.pop();
    }
    (mode != 0).then_some(MemoryPolicy { mode, nodes })
}

/// Asks a process for the policies of its areas. Nearly always there are none: the first round asks only for that.
///
/// # Errors
/// When the process stumbles.
pub fn read_all(process: &mut FrozenProcess, areas: &mut [AreaRecord]) -> Result<()> {
    let mut asked: Vec<&mut AreaRecord> = areas.iter_mut().filter(|area| area.is_built()).collect();
    for chunk in asked.chunks_mut(AT_ONCE) {
        let mut list = CallList::new();
        let modes = list.space(chunk.len() * 4);
        let calls: Vec<CallId> = chunk
            .iter()
            .enumerate()
            .map(|(index, area)| {
                let arguments = [
                    modes.part(index * 4, 4).into(),
                    0.into(),
                    0.into(),
                    area.start.into(),
                    OF_ADDRESS.into(),
                ];
                list.call(libc::SYS_get_mempolicy, &arguments)
            })
            .collect();
        let outcomes = process.run(0, &list)?;
        let mut some = Vec::new();
        for ((area, call), mode) in chunk
            .iter_mut()
            .zip(calls)
            .zip(outcomes.buffer(modes).chunks_exact(4))
        {
            match outcomes.result(call) {
                Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => return Ok(()),
                result => drop(result.attempt(|| what(process.pid, area))?),
            }
            if mode != [0; 4] {
                some.push(area);
            }
        }
        for few in some.chunks_mut(AT_ONCE / 2) {
            let mut list = CallList::new();
            let questions: Vec<Question> = few
                .iter()
                .map(|area| Question::ask(&mut list, area.start, OF_ADDRESS))
                .collect();
            let outcomes = process.run(0, &list)?;
            for (area, question) in few.iter_mut().zip(questions) {
                area.policy = question
                    .answer(&outcomes)
                    .attempt(|| what(process.pid, area))?;
            }
        }
    }
    Ok(())
}

fn what(pid: i32, area: &AreaRecord) -> String {
    format!(
        "process {pid}: asking for the memory policy at {:#x}",
        area.start
    )
}

/// Arguments that set a policy, or the default: mode, mask, size of the mask. They are the first of set_mempolicy(2) and, after
/// the area, of mbind(2).
pub fn arguments(
    list: &mut CallList,
    policy: Option<&MemoryPolicy>,
) -> [cryonaut_tracee::Argument; 3] {
    let Some(policy) = policy else {
        return [0.into(), 0.into(), 0.into()];
    };
    if policy.nodes.is_empty() {
        return [u64::from(policy.mode).into(), 0.into(), 0.into()];
    }
    let nodes = list.space(WORDS * 8);
    for (index, word) in policy.nodes.iter().take(WORDS).enumerate() {
        list.set_word(nodes, index * 8, *word);
    }
    [
        u64::from(policy.mode).into(),
        nodes.into(),
        MASK_BITS.into(),
    ]
}

/// The nodes that this process may use, from Mems_allowed_list of /proc/self/status; all where that is missing.
fn nodes_here() -> Vec<u64> {
    let own = cryonaut_procfs::ProcessDirectory::open(std::process::id() as i32);
    let list = own
        .and_then(|own| own.status())
        .ok()
        .and_then(|status| status.mems_allowed_list);
    list.map_or_else(|| vec![!0; WORDS], |list| parse_nodes(&list))
}

/// A list of numbers and ranges, as `0-1,4`, as a mask.
fn parse_nodes(list: &str) -> Vec<u64> {
    let mut mask = vec![0; WORDS];
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>())
        else {
            continue;
        };
        for node in first..=last.min(WORDS * 64 - 1) {
            mask[node / 64] |= 1 << (node % 64);
        }
    }
    mask
}

/// Leaves out policies none of whose nodes exist here, and says so.
pub fn leave_out<'a>(
    policies: impl Iterator<Item = &'a mut Option<MemoryPolicy>>,
    plan: &mut Plan,
) {
    const TEXT: &str = "this machine lacks the memory nodes that memory policies of the job name: these become the default";
    let mut here = None;
    for slot in policies {
        let Some(policy) = slot else {
            continue;
        };
        if !is_usable(policy, here.get_or_insert_with(nodes_here)) {
            *slot = None;
            if !plan.remarks.iter().any(|remark| remark == TEXT) {
                plan.remarks.push(TEXT.into());
            }
        }
    }
}

/// Whether a policy means anything where these nodes exist.
fn is_usable(policy: &MemoryPolicy, here: &[u64]) -> bool {
    let mut pairs = policy.nodes.iter().zip(here);
    policy.nodes.is_empty()
        || policy.mode & RELATIVE != 0
        || pairs.any(|(node, here)| node & here != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_read_and_cut() {
        let mut mask = [0; WORDS * 8];
        assert_eq!(policy(0, &mask), None);
        mask[0] = 3;
        mask[8] = 1;
        let found = policy(2, &mask).unwrap();
        assert_eq!((found.mode, found.nodes), (2, vec![3, 1]));
        assert_eq!(parse_nodes("0-1,65")[..2], [3, 2]);
        assert_eq!(parse_nodes("0-99999").len(), WORDS);
        assert_eq!(parse_nodes(""), [0; WORDS]);
    }

    #[test]
    fn policies_of_missing_nodes_are_left_out() {
        let usable = |mode, nodes: &[u64]| {
            let nodes = nodes.to_vec();
            is_usable(&MemoryPolicy { mode, nodes }, &parse_nodes("0"))
        };
        assert!(usable(2, &[3]));
        assert!(!usable(2, &[2]));
        assert!(!usable(2, &[0, 1]));
        assert!(usable(4, &[]));
        assert!(usable(2 | RELATIVE, &[2]));
    }
}
