//! Signal actions as the kernel has them.

use cryonaut_tracee::CallList;

use super::{SIGNAL_COUNT, SignalAction};
use crate::Result;
use crate::error::Attempt;
use crate::freeze::FrozenProcess;

/// Size in bytes of the kernel's sigset_t, which calls must name.
pub const MASK_SIZE: i32 = 8;
/// Size in bytes of the kernel's `struct sigaction` on x86-64: handler, flags, restorer, mask.
pub const ACTION_SIZE: usize = 32;

/// Asks a process for its actions, in one list.
pub fn actions_of(process: &mut FrozenProcess) -> Result<Vec<SignalAction>> {
    let mut list = CallList::new();
    let asked: Vec<_> = settable()
        .map(|signal| {
            let old = list.space(ACTION_SIZE);
            (
                signal,
                old,
                list.call(
                    libc::SYS_rt_sigaction,
                    &[signal.into(), 0.into(), old.into(), MASK_SIZE.into()],
                ),
            )
        })
        .collect();
    let outcomes = process.run(0, &list)?;
    let mut actions = Vec::new();
    for (signal, old, call) in asked {
        let what = || {
            format!(
                "process {}: reading what it does upon signal {signal}",
                process.pid
            )
        };
        outcomes.result(call).attempt(what)?;
        let bytes = outcomes.buffer(old);
        if bytes.iter().any(|&byte| byte != 0) {
            actions.push(decode_action(signal, bytes));
        }
    }
    Ok(actions)
}

/// The signals whose action can be changed.
pub fn settable() -> impl Iterator<Item = i32> {
    (1..=SIGNAL_COUNT).filter(|signal| !matches!(*signal, libc::SIGKILL | libc::SIGSTOP))
}

/// Reads the kernel's `struct sigaction`.
pub fn decode_action(signal: i32, bytes: &[u8]) -> SignalAction {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    SignalAction {
        signal,
        handler: word(0),
        flags: word(8),
        restorer: word(16),
        mask: word(24),
    }
}

/// Writes the kernel's `struct sigaction`.
pub fn encode_action(action: &SignalAction) -> [u8; ACTION_SIZE] {
    let mut bytes = [0; ACTION_SIZE];
    for (index, word) in [action.handler, action.flags, action.restorer, action.mask]
        .into_iter()
        .enumerate()
    {
        bytes[index * 8..][..8].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_keep_the_kernel_layout() {
        let action = SignalAction {
            signal: 17,
            handler: 1,
            flags: 2,
            restorer: 3,
            mask: 1 << 63,
        };
        let bytes = encode_action(&action);
        assert_eq!((bytes[0], bytes[8], bytes[16], bytes[31]), (1, 2, 3, 0x80));
        assert_eq!(decode_action(17, &bytes), action);
    }
}
