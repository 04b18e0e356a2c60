//! Feeds arbitrary bytes to one parser of `/proc`, chosen by the first byte. None may panic.
#![no_main]

use cryonaut_procfs::{
    AreaName, auxv, cgroup, cpuinfo, fdinfo, locks, maps, mountinfo, namespace, pagemap, scalar,
    smaps, stat, status, strings, swap, system, sysvipc, tcp, timers,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, text)) = data.split_first() else {
        return;
    };
    match choice {
        b'a' => drop(stat::parse(text)),
        b'b' => drop(status::parse(text)),
        b'c' => check_areas(maps::parse(text).unwrap_or_default().iter()),
        b'd' => check_areas(
            smaps::parse(text)
                .unwrap_or_default()
                .iter()
                .map(|area| &area.area),
        ),
        b'e' => drop(fdinfo::parse(text)),
        b'f' => drop(timers::parse(text)),
        b'g' => drop(mountinfo::parse(text)),
        b'h' => drop(auxv::parse(text)),
        b'i' => drop(cgroup::parse(text)),
        b'j' => drop(cpuinfo::parse(text)),
        b'k' => drop(namespace::parse_link(text)),
        b'l' => drop(namespace::parse_id_map(text)),
        b'm' => drop(namespace::parse_time_offsets(text)),
        b'n' => assert_eq!(pagemap::decode(text).count(), text.len() / 8),
        b'o' => drop(strings::parse(text)),
        b'p' => drop(AreaName::from_bytes(text)),
        b'q' => drop(scalar::parse_exec_start(text)),
        b'r' => drop(scalar::parse_children(text)),
        b's' => drop((
            scalar::parse_personality(text),
            scalar::parse_coredump_filter(text),
        )),
        b't' => drop((
            scalar::parse_oom_score_adj(text),
            scalar::parse_timerslack_ns(text),
        )),
        b'u' => drop((scalar::parse_loginuid(text), scalar::parse_comm(text))),
        b'v' => drop((
            system::parse_boot_id(text),
            system::parse_boot_time(text),
            system::parse_swap_traffic(text),
        )),
        b'w' => drop(locks::parse(text)),
        b'x' => drop(swap::parse(text)),
        b'y' => drop((
            sysvipc::segments(text),
            sysvipc::semaphore_sets(text),
            sysvipc::message_queues(text),
        )),
        b'z' => drop(tcp::parse(text)),
        _ => {}
    }
});

/// What users of an area rely on: its length never underflows.
fn check_areas<'area>(areas: impl Iterator<Item = &'area cryonaut_procfs::Area>) {
    for area in areas {
        assert!(area.start <= area.end);
        assert_eq!(area.start + area.length(), area.end);
    }
}
