//! No parser panics, whatever the bytes; escapes and names survive.

use cryonaut_procfs::{
    AreaName, auxv, cgroup, cpuinfo, fdinfo, locks, maps, mountinfo, namespace, pagemap, scalar,
    smaps, stat, status, strings, swap, system, timers,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// Every parser of the crate.
fn parse_with_all(bytes: &[u8]) {
    let _ = stat::parse(bytes);
    let _ = status::parse(bytes);
    let _ = maps::parse(bytes);
    let _ = smaps::parse(bytes);
    let _ = fdinfo::parse(bytes);
    let _ = timers::parse(bytes);
    let _ = locks::parse(bytes);
    let _ = mountinfo::parse(bytes);
    let _ = auxv::parse(bytes);
    let _ = cgroup::parse(bytes);
    let _ = cpuinfo::parse(bytes);
    let _ = namespace::parse_link(bytes);
    let _ = namespace::parse_id_map(bytes);
    let _ = namespace::parse_time_offsets(bytes);
    let _ = pagemap::decode(bytes).count();
    let _ = strings::parse(bytes);
    let _ = swap::parse(bytes);
    let _ = scalar::parse_personality(bytes);
    let _ = scalar::parse_oom_score_adj(bytes);
    let _ = scalar::parse_timerslack_ns(bytes);
    let _ = scalar::parse_coredump_filter(bytes);
    let _ = scalar::parse_loginuid(bytes);
    let _ = scalar::parse_children(bytes);
    let _ = scalar::parse_exec_start(bytes);
    let _ = scalar::parse_comm(bytes);
    let _ = system::parse_boot_id(bytes);
    let _ = system::parse_boot_time(bytes);
    let _ = system::parse_swap_traffic(bytes);
    let _ = AreaName::from_bytes(bytes).memfd_name();
}

/// Pieces that the files are made of, so that the parsers get past their first check.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<&'static [u8]> = vec![
        b"Name:\t",
        b"Pid:\t",
        b"Uid:\t0\t0\t0\t0\n",
        b"VmRSS:\t 8 kB\n",
        b"SigQ:\t1/2\n",
        b"State:\tR",
        b"pos:\t",
        b"flags:\t",
        b"mnt_id:\t",
        b"tfd: 1 events: 1 data: 1",
        b"inotify wd:1 f_handle:0",
        b"it_value: (1, 2)\n",
        b"eventfd-count: ff\n",
        b"1000-2000 rw-p 00000000 00:00 0",
        b"Rss: 8 kB\n",
        b"VmFlags: rd ",
        b"ID: 1\n",
        b"signal: 1/00\n",
        b"notify: signal/pid.1\n",
        b"ClockID: -6\n",
        b"1 (x) S ",
        b"1 1 0:1 / / rw - t s rw\n",
        b"\\012",
        b"\\777",
        b"\\",
        b"(",
        b")",
        b"[anon:",
        b"]",
        b"/",
        b" (deleted)",
        b"\n",
        b"\t",
        b" ",
        b":",
        b"-",
        b"-1",
        b"0",
        b"18446744073709551616",
        b"ffffffffffffffff",
    ];
    prop_oneof![
        proptest::sample::select(known).prop_map(<[u8]>::to_vec),
        vec(any::<u8>(), 0..4)
    ]
}

/// `mangle_path` of the kernel: the bytes of `escaped` as three octal digits.
fn mangle(plain: &[u8], escaped: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for &byte in plain {
        if escaped.contains(&byte) {
            text.extend(format!("\\{byte:03o}").into_bytes());
        } else {
            text.push(byte);
        }
    }
    text
}

proptest! {
    #[test]
    fn no_parser_panics_on_bytes(bytes in vec(any::<u8>(), 0..400)) {
        parse_with_all(&bytes);
    }

    #[test]
    fn no_parser_panics_on_pieces(pieces in vec(piece(), 0..60)) {
        parse_with_all(&pieces.concat());
    }

    #[test]
    fn any_command_name_survives_stat(comm in vec(any::<u8>(), 0..64), parent in any::<i32>()) {
        let mut text = b"1 (".to_vec();
        text.extend(&comm);
        text.extend(format!(") R {parent}").into_bytes());
        text.extend(b" 0".repeat(48));
        text.push(b'\n');
        let stat = stat::parse(&text).unwrap();
        prop_assert_eq!(stat.comm, comm);
        prop_assert_eq!(stat.ppid, parent);
    }

    #[test]
    fn any_command_name_survives_status(comm in vec(1_u8.., 0..16)) {
        let mut text = b"Name:\t".to_vec();
        for &byte in &comm {
            match byte {
                b'\n' => text.extend(b"\\n"),
                b'\\' => text.extend(b"\\\\"),
                _ => text.push(byte),
            }
        }
        text.extend(b"\nState:\tR (running)\nTgid:\t1\nPid:\t1\nPPid:\t0\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n");
        prop_assert_eq!(status::parse(&text).unwrap().name, comm);
    }

    #[test]
    fn any_path_survives_mountinfo(path in vec(1_u8.., 0..40), source in vec(1_u8.., 0..40)) {
        let mut text = b"1 2 3:4 / /".to_vec();
        text.extend(mangle(&path, b" \t\n\\"));
        text.extend(b" rw - tmpfs ");
        text.extend(mangle(&source, b" \t\n\\#"));
        text.extend(b" rw\n");
        let mounts = mountinfo::parse(&text).unwrap();
        prop_assert_eq!(&mounts[0].mount_point[1..], path);
        prop_assert_eq!(&mounts[0].source, &source);
    }

    #[test]
    fn any_path_survives_maps_unless_it_looks_escaped(path in vec(1_u8.., 0..40)) {
        let ambiguous = path.windows(4).any(|part| part == b"\\012") || path.ends_with(b" (deleted)");
        prop_assume!(!ambiguous);
        let mut text = b"1000-2000 rw-p 00000000 00:00 0 /".to_vec();
        text.extend(mangle(&path, b"\n"));
        text.push(b'\n');
        let full = [b"/", path.as_slice()].concat();
        let areas = maps::parse(&text).unwrap();
        prop_assert_eq!(&areas[0].name, &AreaName::File { path: full, deleted: false });
    }
}
