//! Parsers against files captured from Linux 6.18, and against nasty variants of them.

use cryonaut_procfs::{
    AreaName, Device, EpollTarget, NotifyKind, NotifyTarget, OptionalField, VmFlag, auxv, cgroup,
    cpuinfo, fdinfo, maps, mountinfo, namespace, pagemap, scalar, smaps, stat, status, strings,
    system, timers,
};

const STAT: &[u8] = b"29242 (a) R (\nb\\ ) S 29169 29169 2851 0 -1 4194304 83 0 0 0 0 0 0 0 20 0 1 0 185358 3485696 383 \
18446744073709551615 93909601488896 93909601491273 140721678791664 0 0 0 65536 6 0 1 0 0 17 1 0 0 0 0 0 93909601500624 \
93909601501448 93910368043008 140721678797342 140721678797354 140721678797354 140721678798828 256\n";

#[test]
fn stat_with_a_nasty_command_name() {
    let stat = stat::parse(STAT).unwrap();
    assert_eq!(stat.comm, b"a) R (\nb\\ ");
    assert_eq!(
        (stat.pid, stat.state, stat.ppid, stat.pgrp, stat.session),
        (29242, 'S', 29169, 29169, 2851)
    );
    assert_eq!(
        (stat.tty_nr, stat.tpgid, stat.flags, stat.num_threads),
        (0, -1, 4_194_304, 1)
    );
    assert_eq!(
        (
            stat.starttime,
            stat.exit_signal,
            stat.processor,
            stat.exit_code
        ),
        (185_358, 17, 1, 256)
    );
    assert_eq!(
        (stat.start_code, stat.end_code, stat.start_stack),
        (93_909_601_488_896, 93_909_601_491_273, 140_721_678_791_664)
    );
    assert_eq!(
        (stat.start_data, stat.end_data, stat.start_brk),
        (93_909_601_500_624, 93_909_601_501_448, 93_910_368_043_008)
    );
    assert_eq!(
        (stat.arg_start, stat.arg_end),
        (140_721_678_797_342, 140_721_678_797_354)
    );
    assert_eq!(
        (stat.env_start, stat.env_end),
        (140_721_678_797_354, 140_721_678_798_828)
    );
}

#[test]
fn stat_that_is_cut_short_is_an_error_everywhere() {
    let numbers = STAT.len() - "256\n".len();
    for length in 0..numbers {
        assert!(
            stat::parse(&STAT[..length]).is_err(),
            "accepted {length} bytes"
        );
    }
    let error = stat::parse(&STAT[..60]).unwrap_err();
    assert_eq!((error.file, error.line), ("stat", 1));
    assert!(stat::parse(b")( 1").is_err());
}

#[test]
fn stat_of_a_thread_has_exit_signal_minus_one() {
    let text = String::from_utf8(STAT.to_vec())
        .unwrap()
        .replace(" 17 1 0", " -1 1 0");
    assert_eq!(stat::parse(text.as_bytes()).unwrap().exit_signal, -1);
}

const STATUS: &[u8] = b"Name:\ta) R (\\nb\\\\ \nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t29242\nNgid:\t0\nPid:\t29242\n\
PPid:\t29169\nTracerPid:\t0\nUid:\t0\t1\t2\t4294967295\nGid:\t5\t6\t7\t8\nFDSize:\t256\nGroups:\t4 24 27 \nNStgid:\t29242\t1\n\
NSpid:\t29242\t1\nNSpgid:\t29169\t0\nNSsid:\t2851\t0\nKthread:\t0\nVmPeak:\t    3440 kB\nVmSize:\t    3404 kB\n\
VmLck:\t       0 kB\nVmRSS:\t    1628 kB\nVmSwap:\t       12 kB\nHugetlbPages:\t       0 kB\nCoreDumping:\t0\nTHP_enabled:\t1\n\
untag_mask:\t0xffffffffffffffff\nThreads:\t1\nSigQ:\t3/96365\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000\n\
SigBlk:\t0000000000010000\nSigIgn:\t0000000000000006\nSigCgt:\tffffffffffffffff\nCapInh:\t0000000000000000\n\
CapPrm:\t000001fffeffffff\nCapEff:\t000001fffeffffff\nCapBnd:\t000001fffeffffff\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n\
Seccomp:\t2\nSeccomp_filters:\t3\nSpeculation_Store_Bypass:\tvulnerable\nSpeculationIndirectBranch:\talways enabled\n\
Cpus_allowed:\t3\nCpus_allowed_list:\t0-1\nMems_allowed_list:\t0\nvoluntary_ctxt_switches:\t2\n\
nonvoluntary_ctxt_switches:\t0\nx86_Thread_features:\tshstk wrss \nx86_Thread_features_locked:\t\n";

#[test]
fn status_of_a_process_in_a_pid_namespace() {
    let status = status::parse(STATUS).unwrap();
    assert_eq!(status.name, b"a) R (\nb\\ ");
    assert_eq!(
        (status.umask, status.state, status.ppid),
        (Some(0o22), 'S', 29169)
    );
    assert_eq!(
        (status.uid, status.gid),
        ([0, 1, 2, u32::MAX], [5, 6, 7, 8])
    );
    assert_eq!(
        (status.groups, status.namespace_pid),
        (vec![4, 24, 27], vec![29242, 1])
    );
    assert_eq!(
        (
            status.vm_resident,
            status.vm_locked,
            status.vm_swap,
            status.vm_pinned
        ),
        (Some(1628), Some(0), Some(12), None)
    );
    assert_eq!(
        (
            status.core_dumping,
            status.thp_enabled,
            status.kernel_thread
        ),
        (Some(false), Some(true), Some(false))
    );
    assert_eq!(
        (
            status.signals_queued,
            status.signals_blocked,
            status.signals_caught
        ),
        ((3, 96365), 0x10000, u64::MAX)
    );
    assert_eq!(
        (
            status.no_new_privileges,
            status.seccomp,
            status.seccomp_filters
        ),
        (Some(true), Some(2), Some(3))
    );
    assert_eq!(
        status.speculation_indirect_branch.as_deref(),
        Some("always enabled")
    );
    assert_eq!(
        status.x86_thread_features,
        Some(vec!["shstk".to_owned(), "wrss".to_owned()])
    );
    assert_eq!(status.x86_thread_features_locked, Some(vec![]));
}

#[test]
fn status_of_an_older_kernel_lacks_lines() {
    let text = b"Name:\tzombie\nState:\tZ (zombie)\nTgid:\t7\nPid:\t7\nPPid:\t1\nUid:\t0\t0\t0\t0\nGid:\t0\t0\t0\t0\n";
    let status = status::parse(text).unwrap();
    assert_eq!(
        (
            status.state,
            status.vm_size,
            status.umask,
            status.seccomp_filters
        ),
        ('Z', None, None, None)
    );
    let error = status::parse(b"Name:\tx\nPid:\tseven\n").unwrap_err();
    assert_eq!((error.line, error.text.as_str()), (2, "Pid:\\tseven"));
    assert!(status::parse(b"Name:\tx\n").is_err());
}

/// Parses one line of `maps` whose name is `name`.
fn name_of(name: &str) -> AreaName {
    let line = format!(
        "7fb490d4f000-7fb490d50000 r--s 00001000 fe:00 10068907                   {name}\n"
    );
    maps::parse(line.as_bytes()).unwrap().remove(0).name
}

fn file(path: &str, deleted: bool) -> AreaName {
    AreaName::File {
        path: path.into(),
        deleted,
    }
}

#[test]
fn every_kind_of_area_name() {
    assert_eq!(name_of(""), AreaName::Anonymous);
    assert_eq!(name_of("[heap]"), AreaName::Heap);
    assert_eq!(name_of("[stack]"), AreaName::Stack);
    assert_eq!(name_of("[vdso]"), AreaName::Vdso);
    assert_eq!(name_of("[vvar]"), AreaName::Vvar);
    assert_eq!(name_of("[vvar_vclock]"), AreaName::VvarVclock);
    assert_eq!(name_of("[vsyscall]"), AreaName::Vsyscall);
    assert_eq!(name_of("[uprobes]"), AreaName::Uprobes);
    assert_eq!(name_of("/dev/zero (deleted)"), AreaName::SharedAnonymous);
    assert_eq!(name_of("/dev/zero"), file("/dev/zero", false));
    assert_eq!(
        name_of("/anon_hugepage (deleted)"),
        AreaName::AnonymousHugetlb
    );
    assert_eq!(name_of("/[aio] (deleted)"), AreaName::AioRing);
    assert_eq!(
        name_of("/SYSV1234abcd (deleted)"),
        AreaName::SystemV { key: 0x1234_abcd }
    );
    assert_eq!(name_of("/SYSV1234abcd"), file("/SYSV1234abcd", false));
    assert_eq!(name_of("/SYSV12 (deleted)"), file("/SYSV12", true));
    assert_eq!(
        name_of("[anon:my name]"),
        AreaName::AnonNamed {
            name: b"my name".into(),
            shared: false
        }
    );
    assert_eq!(
        name_of("[anon_shmem:x]"),
        AreaName::AnonNamed {
            name: b"x".into(),
            shared: true
        }
    );
    assert_eq!(name_of("[stack:17]"), AreaName::Other(b"[stack:17]".into()));
    assert_eq!(
        name_of("anon_inode:[perf_event]"),
        AreaName::Other(b"anon_inode:[perf_event]".into())
    );
    assert_eq!(
        name_of("/memfd:my mem (deleted)").memfd_name(),
        Some(&b"my mem"[..])
    );
    assert_eq!(name_of("/a b  (deleted)"), file("/a b ", true));
}

#[test]
fn maps_decodes_the_newline_and_nothing_else() {
    assert_eq!(
        name_of(r"/home/new\012line \134 \040"),
        file("/home/new\nline \\134 \\040", false)
    );
}

#[test]
fn maps_fields_and_bad_lines() {
    let line =
        b"ffffffffff600000-ffffffffff601000 --xp 00002000 103:1f 42                  [vsyscall]";
    let area = maps::parse(line).unwrap().remove(0);
    assert_eq!(
        (area.start, area.length(), area.offset, area.inode),
        (0xffff_ffff_ff60_0000, 4096, 0x2000, 42)
    );
    assert_eq!(
        area.device,
        Device {
            major: 0x103,
            minor: 0x1f
        }
    );
    assert!(area.permissions.execute && !area.permissions.read && !area.permissions.shared);
    assert!(area.contains(area.start) && !area.contains(area.end));
    for bad in [
        &b"\n"[..],
        b"1000-2000\n",
        b"2000-1000 r--p 0 0:0 0\n",
        b"1000-2000 r-?p 0 0:0 0\n",
        b"10000000000000000-2000 r--p 0 0:0 0\n",
        b"1000-2000 r--p 0 100000000:0 0\n",
        b"1000-2000 r--p 0 0:0 18446744073709551616\n",
    ] {
        assert!(maps::parse(bad).is_err(), "accepted {}", bad.escape_ascii());
    }
    let error = maps::parse(b"1000-2000 r--p 0 0:0 0\nnonsense\n").unwrap_err();
    assert_eq!((error.line, error.text.as_str()), (2, "nonsense"));
}

#[test]
fn smaps_of_a_process_with_every_kind_of_area() {
    let areas = smaps::parse(include_bytes!("samples/smaps")).unwrap();
    assert_eq!(areas.len(), 35);
    let find = |name: AreaName| areas.iter().find(|area| area.area.name == name).unwrap();
    let stack = find(AreaName::Stack);
    assert!(stack.flags.contains(VmFlag::GrowsDown) && stack.flags.contains(VmFlag::Accounted));
    assert_eq!(
        (
            stack.kernel_page_size,
            stack.thp_eligible,
            stack.protection_key
        ),
        (4, Some(false), None)
    );
    assert!(stack.rss > 0 && stack.anonymous > 0);
    let ring = find(AreaName::AioRing);
    assert!(ring.flags.contains(VmFlag::DontExpand) && ring.flags.contains(VmFlag::Shared));
    assert_eq!(
        find(AreaName::Vsyscall).flags.iter().collect::<Vec<_>>(),
        [VmFlag::Execute]
    );
    let with = |flag| {
        areas
            .iter()
            .filter(|area| area.flags.contains(flag))
            .count()
    };
    assert_eq!(
        (
            with(VmFlag::DontFork),
            with(VmFlag::WipeOnFork),
            with(VmFlag::NoReserve)
        ),
        (1, 1, 1)
    );
    assert_eq!(with(VmFlag::PageFrames), 2);
}

#[test]
fn smaps_keeps_unknown_flags_and_refuses_incomplete_areas() {
    let head =
        "1000-2000 r--p 00000000 00:00 0 \nRss:                   8 kB\nProtectionKey:         3\n";
    let text = format!("{head}VmFlags: rd zz ?? lf \n");
    let area = smaps::parse(text.as_bytes()).unwrap().remove(0);
    assert_eq!((area.rss, area.protection_key), (8, Some(3)));
    assert_eq!(area.flags.unknown, [*b"zz", *b"??"]);
    assert_eq!(
        area.flags.iter().collect::<Vec<_>>(),
        [VmFlag::Read, VmFlag::LockOnFault]
    );
    assert!(smaps::parse(head.as_bytes()).is_err());
    let error = smaps::parse(format!("{head}VmFlags: rd long \n").as_bytes()).unwrap_err();
    assert_eq!((error.line, error.what), (4, "bad flags"));
}

#[test]
fn every_flag_has_its_own_code() {
    for &flag in VmFlag::ALL {
        assert_eq!(VmFlag::from_code(flag.code()), Some(flag));
    }
    let codes = b"rd wr ex sh mr mw me ms gd pf dw lo io sr rr dc de ac nr ht sf nl ar wf dd sd mm hg nh mg um uw ss sl dp gu lf";
    for code in codes.chunks(3) {
        assert!(
            VmFlag::from_code([code[0], code[1]]).is_some(),
            "{}",
            code.escape_ascii()
        );
    }
}

/// The lines every descriptor has, and `extra`.
fn descriptor(extra: &str) -> cryonaut_procfs::FdInfo {
    fdinfo::parse(
        format!("pos:\t-3\nflags:\t02000002\nmnt_id:\t17\nino:\t1038\n{extra}").as_bytes(),
    )
    .unwrap()
}

#[test]
fn fdinfo_of_each_type() {
    let plain = descriptor("");
    assert_eq!(
        (plain.position, plain.flags, plain.mount_id, plain.inode),
        (-3, 0o2_000_002, 17, Some(1038))
    );
    let event =
        descriptor("eventfd-count:               2a\neventfd-id: 1\neventfd-semaphore: 1\n")
            .eventfd
            .unwrap();
    assert_eq!(
        (event.count, event.id, event.semaphore),
        (42, Some(1), Some(true))
    );
    assert_eq!(
        descriptor("sigmask:\t0000000000000200\n").signal_mask,
        Some(0x200)
    );
    let timer = "clockid: 1\nticks: 2\nsettime flags: 03\nit_value: (2999, 973940149)\nit_interval: (1, 500)\n";
    let timer = descriptor(timer).timerfd.unwrap();
    assert_eq!((timer.clock, timer.ticks, timer.settime_flags), (1, 2, 3));
    assert_eq!(
        (timer.value, timer.interval),
        ((2999, 973_940_149), (1, 500))
    );
    let epoll = descriptor(
        "tfd:        5 events: 80000019 data: deadbeef12345678  pos:0 ino:40e sdev:10\n\
         tfd:  1234567 events:       19 data:                3  pos:7 ino:1 sdev:fe00000\n",
    );
    let first = EpollTarget {
        descriptor: 5,
        events: 0x8000_0019,
        data: 0xdead_beef_1234_5678,
        position: 0,
        inode: 0x40e,
        device: 0x10,
    };
    assert_eq!(epoll.epoll_targets[0], first);
    assert_eq!(
        (
            epoll.epoll_targets[1].descriptor,
            epoll.epoll_targets[1].data
        ),
        (1_234_567, 3)
    );
    let inotify = descriptor(
        "inotify wd:2 ino:1 sdev:15 mask:20 ignored_mask:0 fhandle-bytes:c fhandle-type:81 f_handle:010000000000000000000000\n\
         inotify wd:1 ino:3c4a7 sdev:fe00000 mask:300 ignored_mask:0 \n",
    );
    assert_eq!(
        (
            inotify.inotify_watches[0].mask,
            inotify.inotify_watches[0].handle_type
        ),
        (0x20, Some(0x81))
    );
    assert_eq!(
        inotify.inotify_watches[0].handle,
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(
        (
            inotify.inotify_watches[1].inode,
            inotify.inotify_watches[1].handle_type
        ),
        (0x3c4a7, None)
    );
    let pidfd = descriptor("Pid:\t29242\nNSpid:\t29242\t5\n");
    assert_eq!(
        (pidfd.pid, pidfd.namespace_pids),
        (Some(29242), vec![29242, 5])
    );
    assert_eq!(descriptor("Pid:\t-1\nNSpid:\t-1\n").pid, Some(-1));
    assert_eq!(descriptor("scm_fds: 1\n").scm_fds, Some(1));
    let locks = descriptor(
        "lock:\t1: FLOCK  ADVISORY  WRITE 29242 fe:00:10068907 0 EOF\nlock:\t2: POSIX  ADVISORY  WRITE 1 fe:00:1 10 29\n",
    );
    assert_eq!(
        (locks.locks.len(), &locks.locks[1][..]),
        (2, &b"2: POSIX  ADVISORY  WRITE 1 fe:00:1 10 29"[..])
    );
    assert_eq!(descriptor("fanotify flags:10 event-flags:8002\nfanotify mnt_id:1b mflags:0 mask:2 ignored_mask:0\n").fanotify.len(), 2);
    assert_eq!(
        descriptor("pending:\t0\ntotal:\t0\nAPI:\taa:0:80000000000001ff\n")
            .other
            .len(),
        3
    );
}

#[test]
fn fdinfo_that_is_wrong() {
    assert!(fdinfo::parse(b"").is_err());
    assert!(fdinfo::parse(b"pos:\t0\nflags:\t9\nmnt_id:\t1\n").is_err());
    assert!(fdinfo::parse(b"pos:\t0\nflags:\t0\nmnt_id:\t1\ntfd: x\n").is_err());
    assert!(fdinfo::parse(b"pos:\t0\nflags:\t0\nmnt_id:\t1\nit_value: (1 2)\n").is_err());
}

#[test]
fn timers_of_each_kind() {
    let text = b"ID: 2\nsignal: 12/0000001122334455\nnotify: signal/tid.29242\nClockID: 1\n\
        ID: 1\nsignal: 12/0000001122334455\nnotify: none/pid.29242\nClockID: -6\n\
        ID: 0\nsignal: 34/0000000000000000\nnotify: thread/pid.29242\nClockID: 0\n";
    let timers = timers::parse(text).unwrap();
    assert_eq!(timers.len(), 3);
    assert_eq!(
        (
            timers[0].id,
            timers[0].signal,
            timers[0].value,
            timers[0].clock
        ),
        (2, 12, 0x11_2233_4455, 1)
    );
    assert_eq!(
        (timers[0].notify, timers[0].target),
        (NotifyKind::Signal, NotifyTarget::Thread(29242))
    );
    assert_eq!(
        (timers[1].notify, timers[1].target, timers[1].clock),
        (NotifyKind::None, NotifyTarget::Process(29242), -6)
    );
    assert_eq!(timers[2].notify, NotifyKind::Thread);
    assert_eq!(timers::parse(b"").unwrap(), []);
    assert!(timers::parse(b"ID: 2\nsignal: 12/0\n").is_err());
    assert!(timers::parse(b"ID: 2\nnotify: none/pid.1\n").is_err());
}

#[test]
fn mountinfo_with_blanks_empty_sources_and_propagation() {
    let text = br"63 43 0:39 / /mnt/a\040b#\134c rw,relatime shared:1 master:2 propagate_from:3 new:4 - tmpfs so\040urce\043 rw,size=1k
64 43 0:39 /sub /mnt ro,relatime unbindable - fuse.sshfs tmp rw
65 43 0:40 / /opt rw,relatime - tmpfs  rw
";
    let mounts = mountinfo::parse(text).unwrap();
    assert_eq!(
        (mounts[0].id, mounts[0].parent, mounts[0].device),
        (
            63,
            43,
            Device {
                major: 0,
                minor: 39
            }
        )
    );
    assert_eq!(
        (&mounts[0].mount_point[..], &mounts[0].source[..]),
        (&br"/mnt/a b#\c"[..], &b"so urce#"[..])
    );
    let fields = [
        OptionalField::Shared(1),
        OptionalField::Master(2),
        OptionalField::PropagateFrom(3),
        OptionalField::Unknown(b"new:4".into()),
    ];
    assert_eq!(mounts[0].optional_fields, fields);
    assert_eq!(
        (mounts[1].optional_fields.as_slice(), &mounts[1].root[..]),
        (&[OptionalField::Unbindable][..], &b"/sub"[..])
    );
    assert!(mounts[1].has_option("ro") && !mounts[1].has_option("r"));
    assert_eq!(
        (&mounts[2].source[..], &mounts[2].super_options[..]),
        (&b""[..], &b"rw"[..])
    );
    assert!(mountinfo::parse(b"65 43 0:40 / /opt rw,relatime\n").is_err());
}

#[test]
fn small_files() {
    let mut vector = Vec::new();
    for word in [33_u64, 0x7fb4_90d5_8000, 6, 4096, 0, 0] {
        vector.extend(word.to_ne_bytes());
    }
    let entries = auxv::parse(&vector).unwrap();
    assert_eq!(
        (entries.len(), auxv::value(&entries, auxv::AT_SYSINFO_EHDR)),
        (2, Some(0x7fb4_90d5_8000))
    );
    assert!(auxv::parse(&vector[..40]).is_err());
    assert_eq!(auxv::parse(b"").unwrap(), []);

    let groups =
        cgroup::parse(b"9:name=systemd:/\n2:cpu,cpuacct:/a:b\n0::/user.slice (deleted)\n").unwrap();
    assert_eq!(
        (groups[1].controllers.len(), &groups[1].path[..]),
        (2, &b"/a:b"[..])
    );
    assert!(groups[2].is_unified() && groups[2].deleted && groups[2].path == b"/user.slice");

    let page = pagemap::decode(&(1_u64 << 63 | 1 << 58 | 1 << 56 | 77).to_ne_bytes())
        .next()
        .unwrap();
    assert!(
        page.present() && page.exclusive() && page.guard() && !page.swapped() && !page.soft_dirty()
    );
    assert!(!page.file_or_shared() && !page.write_protected());
    assert_eq!(page.pfn(), 77);

    assert_eq!(strings::parse(b""), Vec::<Vec<u8>>::new());
    assert_eq!(strings::parse(b"\0"), [b""]);
    assert_eq!(strings::parse(b"a\0\0b"), [&b"a"[..], b"", b"b"]);
    assert_eq!(strings::parse(b"a\0b\0"), [b"a", b"b"]);
}

#[test]
fn single_values() {
    assert_eq!(scalar::parse_personality(b"00040000\n").unwrap(), 0x40000);
    assert_eq!(scalar::parse_oom_score_adj(b"-1000\n").unwrap(), -1000);
    assert_eq!(scalar::parse_timerslack_ns(b"50000\n").unwrap(), 50000);
    assert_eq!(
        scalar::parse_coredump_filter(b"00000033\n").unwrap(),
        Some(0x33)
    );
    assert_eq!(scalar::parse_coredump_filter(b"").unwrap(), None);
    assert_eq!(scalar::parse_loginuid(b"4294967295").unwrap(), None);
    assert_eq!(scalar::parse_loginuid(b"1000").unwrap(), Some(1000));
    assert_eq!(scalar::parse_children(b"1 22 333 ").unwrap(), [1, 22, 333]);
    assert_eq!(scalar::parse_children(b"").unwrap(), Vec::<i32>::new());
    assert_eq!(scalar::parse_comm(b"a\n\n"), b"a\n");
    assert!(scalar::parse_personality(b"").is_err());
    assert_eq!(
        namespace::parse_link(b"pid:[4026531836]").unwrap(),
        4_026_531_836
    );
    assert!(namespace::parse_link(b"/dev/null").is_err());
    let map = namespace::parse_id_map(b"         0       1000 4294967295\n").unwrap();
    assert_eq!((map[0].outside, map[0].count), (1000, u32::MAX));
    let offsets =
        namespace::parse_time_offsets(b"monotonic          -5         7\nboottime 0 0\n").unwrap();
    assert_eq!(
        (
            offsets[0].clock.as_str(),
            offsets[0].seconds,
            offsets[0].nanoseconds
        ),
        ("monotonic", -5, 7)
    );
}

#[test]
fn the_command_name_cannot_forge_the_scheduler_time() {
    let rule = "-".repeat(67);
    let text = format!(
        "\nse.exec_start (29242, #threads: 1)\n{rule}\nse.exec_start                                :       1853429.383330\n"
    );
    assert_eq!(
        scalar::parse_exec_start(text.as_bytes()).unwrap(),
        Some(1_853_429.383_33)
    );
    assert_eq!(scalar::parse_exec_start(b"").unwrap(), None);
}

#[test]
fn swap_traffic_is_found() {
    let text = b"MemTotal:  24683564 kB\nSwapCached:       540 kB\nDirty:   12 kB\nWriteback:         8 kB\nWritebackTmp:  9 kB\n";
    let traffic = system::parse_swap_traffic(text).unwrap();
    assert_eq!((traffic.cached, traffic.being_written), (540, 8));
    assert!(system::parse_swap_traffic(b"SwapCached: 1 kB\n").is_err());
    assert!(system::parse_swap_traffic(b"SwapCached: x kB\nWriteback: 1 kB\n").is_err());
}

#[test]
fn machine_files() {
    let processor = cpuinfo::parse(b"processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: other\n").unwrap();
    assert_eq!(
        (
            processor.vendor.as_str(),
            processor.family,
            processor.model_name.as_str()
        ),
        ("AuthenticAMD", Some(26), "AMD EPYC")
    );
    assert!(processor.flags.contains("avx2") && processor.flags.len() == 2);
    assert_eq!(
        system::parse_boot_time(b"cpu 1 2\nbtime 1795385108\n").unwrap(),
        1_795_385_108
    );
    assert_eq!(
        system::parse_boot_id(b"69f03b6b-3b28-4c02-b35c-db0063d8c580\n")
            .unwrap()
            .len(),
        36
    );
    assert!(system::parse_boot_id(b"no").is_err());
}

#[test]
fn swap_areas() {
    let areas = cryonaut_procfs::swap::parse(
        b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/var/my\\040swap\\040(deleted)             file\t\t262140\t\t163932\t\t-2\n/dev/zram0                              partition\t1048572\t\t0\t\t100\n",
    )
    .unwrap();
    assert_eq!(areas.len(), 2);
    assert_eq!(areas[0].name, b"/var/my swap (deleted)");
    assert_eq!((areas[0].free(), areas[0].priority), (98_208, -2));
    assert!(!areas[0].is_compressed_memory() && areas[1].is_compressed_memory());
    assert_eq!(areas[1].kind, b"partition");
    assert!(cryonaut_procfs::swap::parse(b"").unwrap().is_empty());
    assert!(cryonaut_procfs::swap::parse(b"Filename\n/swap file x 0 -2\n").is_err());
}

#[test]
fn twenty_thousand_areas() {
    use std::fmt::Write;
    let mut text = String::new();
    for index in 0..20_000_u64 {
        let (start, end) = (
            0x7f00_0000_0000 + index * 8192,
            0x7f00_0000_1000 + index * 8192,
        );
        let (_, sizes) = include_str!("samples/smaps").split_once('\n').unwrap();
        let (sizes, _) = sizes.split_once("VmFlags").unwrap();
        writeln!(
            text,
            "{start:x}-{end:x} rw-p 00000000 00:00 0 \n{sizes}VmFlags: rd wr mr mw me ac sd "
        )
        .unwrap();
    }
    let started = std::time::Instant::now();
    let areas = smaps::parse(text.as_bytes()).unwrap();
    println!("{} bytes of smaps in {:?}", text.len(), started.elapsed());
    assert_eq!(areas.len(), 20_000);
    assert!(
        areas
            .iter()
            .all(|area| area.area.length() == 4096 && area.flags.contains(VmFlag::Write))
    );
}
