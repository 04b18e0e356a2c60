//! Capability sets as capset(2) takes them (capabilities(7)).

use cryonaut_procfs::Status;

/// CAP_SETGID.
pub(super) const SETGID: u64 = 6;
/// CAP_SETUID.
pub(super) const SETUID: u64 = 7;
/// CAP_SETPCAP.
pub(super) const SETPCAP: u64 = 8;
/// CAP_SYS_RESOURCE.
pub(super) const SYS_RESOURCE: u64 = 24;

/// The five capability sets of a process; bit n is capability n.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct CapabilitySets {
    /// What exec may keep.
    #[prost(fixed64, tag = "1")]
    pub inheritable: u64,
    /// What it may make effective.
    #[prost(fixed64, tag = "2")]
    pub permitted: u64,
    /// What is in force.
    #[prost(fixed64, tag = "3")]
    pub effective: u64,
    /// What exec may ever give.
    #[prost(fixed64, tag = "4")]
    pub bounding: u64,
    /// What every exec keeps.
    #[prost(fixed64, tag = "5")]
    pub ambient: u64,
}

impl CapabilitySets {
    /// The sets that a status file tells.
    pub fn of(status: &Status) -> Self {
        Self {
            inheritable: status.capabilities_inheritable,
            permitted: status.capabilities_permitted,
            effective: status.capabilities_effective,
            bounding: status.capabilities_bounding,
            ambient: status.capabilities_ambient,
        }
    }

    /// Without what this kernel does not know.
    pub fn known_here(&self) -> Self {
        let known = known();
        Self {
            inheritable: self.inheritable & known,
            permitted: self.permitted & known,
            effective: self.effective & known,
            bounding: self.bounding & known,
            ambient: self.ambient & known,
        }
    }
}

/// The data of capset(2) in version 3: effective, permitted and inheritable, of the lower 32 capabilities, then of the others.
pub fn split(effective: u64, permitted: u64, inheritable: u64) -> [u8; 24] {
    let mut bytes = [0; 24];
    let words = [effective, permitted, inheritable];
    for (index, word) in words
        .iter()
        .map(|set| *set as u32)
        .chain(words.iter().map(|set| (set >> 32) as u32))
        .enumerate()
    {
        bytes[index * 4..][..4].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The capabilities of a set, ascending.
pub(super) fn members(set: u64) -> impl Iterator<Item = u64> {
    (0..64).filter(move |capability| set >> capability & 1 == 1)
}

/// The capabilities that this kernel knows: /proc/sys/kernel/cap_last_cap. All, where it cannot be read.
pub(super) fn known() -> u64 {
    let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok();
    match last.and_then(|last| last.trim().parse::<u32>().ok()) {
        Some(last @ 0..63) => (1 << (last + 1)) - 1,
        _ => u64::MAX,
    }
}

/// Names, in the order of their numbers (include/uapi/linux/capability.h).
const NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// A set in words, at most five names of it.
pub fn names(set: u64) -> String {
    const MOST: usize = 5;
    let name = |capability: u64| match NAMES.get(capability as usize) {
        Some(name) => format!("cap_{name}"),
        None => format!("capability {capability}"),
    };
    let count = set.count_ones() as usize;
    let mut words: Vec<String> = members(set).take(MOST).map(name).collect();
    if count > MOST {
        words.push(format!("{} more", count - MOST));
    }
    words.join(", ")
}
