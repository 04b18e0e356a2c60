//! Every victim, in every mode, as root and as an ordinary user.

use cryonaut_suite::{Mode, User, Victim, test};

/// For each `name => victim` the tests `name::root_plain`, `name::user_restarted` and so on.
macro_rules! victims {
    ($($name:ident => $victim:expr;)*) => {
        /// The sources that the table uses.
        const SOURCES: &[&str] = &[$(stringify!($name)),*];
        const VICTIMS: &[Victim] = &[$($victim),*];
        $(mod $name {
            use super::*;
            const VICTIM: Victim = $victim;
            victims!(@tests $name
                root_plain Root Plain, root_continued Root Continued, root_restarted Root Restarted,
                root_twice Root Twice, root_named Root Named, root_suspended Root Suspended,
                user_plain Ordinary Plain, user_continued Ordinary Continued, user_restarted Ordinary Restarted,
                user_twice Ordinary Twice, user_named Ordinary Named, user_suspended Ordinary Suspended);
        })*
    };
    (@tests $name:ident $($test:ident $user:ident $mode:ident),*) => {
        $(#[test]
        fn $test() {
            let name = concat!(stringify!($name), "::", stringify!($test));
            test(name, User::$user, |scene| VICTIM.run(scene, Mode::$mode));
        })*
    };
}

/// Options of a build without shared libraries.
const STATIC: &[&str] = &["-static"];
/// Options of a build without any library.
const BARE: &[&str] = &[
    "-static",
    "-nostdlib",
    "-fno-stack-protector",
    "-fno-builtin",
];

victims! {
    mem_private => Victim::new("mem_private");
    mem_shared_anonymous => Victim::new("mem_shared_anonymous");
    mem_shared_twice => Victim::new("mem_shared_twice");
    mem_fork_cow => Victim::new("mem_fork_cow");
    mem_fork_sharing => Victim::new("mem_fork_sharing");
    mem_file_private => Victim::new("mem_file_private");
    mem_file_shared => Victim::new("mem_file_shared");
    mem_protections => Victim::new("mem_protections");
    mem_advice => Victim::new("mem_advice");
    mem_dontfork => Victim::new("mem_dontfork");
    mem_lock => Victim::new("mem_lock");
    mem_brk => Victim::new("mem_brk");
    mem_stack => Victim::new("mem_stack");
    mem_many_mappings => Victim::new("mem_many_mappings");
    mem_huge_reservation => Victim::new("mem_huge_reservation");
    mem_sparse_shared => Victim::new("mem_sparse_shared").arguments(&["32"]);
    mem_sparse_shared_terabytes => Victim::new("mem_sparse_shared").arguments(&["4096"]).only(User::Root);
    mem_limit_data => Victim::new("mem_limit").arguments(&["data", "hard"]);
    mem_limit_address_space => Victim::new("mem_limit").arguments(&["as"]);
    mem_limit_address_space_hard => Victim::new("mem_limit").arguments(&["as", "hard"]).only(User::Root).unless_refused("its hard limit");
    mem_limit_locked => Victim::new("mem_limit").arguments(&["locked"]);
    mem_dontneed => Victim::new("mem_dontneed");
    mem_huge_pages => Victim::new("mem_huge_pages");
    mem_vdso => Victim::new("mem_vdso");
    mem_vdso_threads => Victim::new("mem_vdso_threads");
    mem_no_vdso => Victim::new("mem_no_vdso");
    mem_guard => Victim::new("mem_guard");
    mem_large => Victim::new("mem_large");
    mem_moved => Victim::new("mem_moved");
    mem_policy => Victim::new("mem_policy");
    mem_sealed => Victim::new("mem_sealed");
    mem_droppable => Victim::new("mem_droppable");
    mem_lock_future => Victim::new("mem_lock_all").arguments(&["future"]);
    mem_lock_future_on_fault => Victim::new("mem_lock_all").arguments(&["on_fault"]);
    mem_lock_present => Victim::new("mem_lock_all").arguments(&["present"]);
    mem_file_reopened => Victim::new("mem_file_reopened");
    mem_code => Victim::new("mem_code");
    mem_execute_gain => Victim::new("mem_execute_gain");
    mem_execute_gain_alone => Victim::new("mem_execute_gain").arguments(&["alone"]);
    mem_merge => Victim::new("mem_merge");
    mem_keys => Victim::new("mem_keys").unless_refused("protection keys");
    mem_layout => Victim::new("mem_layout");
    mem_personality => Victim::new("mem_personality");

    threads_100 => Victim::new("threads").arguments(&["100"]);
    threads_1000 => Victim::new("threads").arguments(&["1000"]);
    thread_robust => Victim::new("thread_robust");
    thread_inheriting => Victim::new("thread_inheriting");
    thread_names => Victim::new("thread_names");
    thread_altstack => Victim::new("thread_altstack");
    thread_masks => Victim::new("thread_masks");
    thread_affinity => Victim::new("thread_affinity");
    thread_policy => Victim::new("thread_policy");
    thread_registers => Victim::new("thread_registers");
    thread_registers_calls => Victim::new("thread_registers").arguments(&["calls"]);
    thread_segments => Victim::new("thread_segments");
    thread_rseq => Victim::new("thread_rseq");
    thread_join => Victim::new("thread_join");
    thread_leader_ended => Victim::new("thread_leader_ended");
    thread_private_state => Victim::new("thread_private_state");
    thread_tables => Victim::new("thread_tables");
    thread_credentials => Victim::new("thread_credentials");

    signal_actions => Victim::new("signal_actions").sees_stops();
    signal_pending => Victim::new("signal_pending").sees_stops();
    signal_trap => Victim::new("signal_trap");
    signal_fd => Victim::new("signal_fd");
    signal_in_handler => Victim::new("signal_in_handler");
    signal_exchange => Victim::new("signal_exchange");
    signal_codes => Victim::new("signal_codes");

    timer_intervals => Victim::new("timer_intervals");
    timer_alarm => Victim::new("timer_alarm");
    timer_posix => Victim::new("timer_posix");
    timer_pending => Victim::new("timer_pending");
    timer_overrun => Victim::new("timer_overrun");
    timer_fd => Victim::new("timer_fd");
    timer_clocks => Victim::new("timer_clocks");
    timer_kinds => Victim::new("timer_kinds");
    timer_threads => Victim::new("timer_threads");
    clock_goes_on => Victim::new("clock_goes_on");
    aio => Victim::new("aio");
    aio_waiting => Victim::new("aio_waiting").unless_refused("have not completed");

    blocking_nanosleep => Victim::new("blocking").arguments(&["nanosleep"]);
    blocking_sleep_monotonic => Victim::new("blocking").arguments(&["sleep_monotonic"]);
    blocking_sleep_monotonic_until => Victim::new("blocking").arguments(&["sleep_monotonic_until"]);
    blocking_sleep_boottime => Victim::new("blocking").arguments(&["sleep_boottime"]);
    blocking_sleep_boottime_until => Victim::new("blocking").arguments(&["sleep_boottime_until"]);
    blocking_sleep_boottime_alarm => Victim::new("blocking").arguments(&["sleep_boottime_alarm"]);
    blocking_sleep_realtime => Victim::new("blocking").arguments(&["sleep_realtime"]);
    blocking_sleep_realtime_until => Victim::new("blocking").arguments(&["sleep_realtime_until"]);
    blocking_sleep_realtime_alarm_until => Victim::new("blocking").arguments(&["sleep_realtime_alarm_until"]);
    blocking_sleep_tai => Victim::new("blocking").arguments(&["sleep_tai"]);
    blocking_sleep_tai_until => Victim::new("blocking").arguments(&["sleep_tai_until"]);
    blocking_sleep_process => Victim::new("blocking").arguments(&["sleep_process"]);
    blocking_sleep_process_until => Victim::new("blocking").arguments(&["sleep_process_until"]);
    blocking_poll => Victim::new("blocking").arguments(&["poll"]);
    blocking_poll_nothing => Victim::new("blocking").arguments(&["poll_nothing"]);
    blocking_ppoll => Victim::new("blocking").arguments(&["ppoll"]);
    blocking_select => Victim::new("blocking").arguments(&["select"]);
    blocking_pselect => Victim::new("blocking").arguments(&["pselect"]);
    blocking_epoll_wait => Victim::new("blocking").arguments(&["epoll_wait"]);
    blocking_epoll_pwait => Victim::new("blocking").arguments(&["epoll_pwait"]);
    blocking_futex => Victim::new("blocking").arguments(&["futex"]);
    blocking_futex_absolute => Victim::new("blocking").arguments(&["futex_absolute"]);
    blocking_futex_several => Victim::new("blocking").arguments(&["futex_several"]);
    blocking_condition => Victim::new("blocking").arguments(&["condition"]);
    blocking_sigtimedwait => Victim::new("blocking").arguments(&["sigtimedwait"]);
    blocking_timerfd => Victim::new("blocking").arguments(&["timerfd"]);
    blocking_read => Victim::new("blocking").arguments(&["read"]);
    blocking_write => Victim::new("blocking").arguments(&["write"]);
    blocking_poll_forever => Victim::new("blocking").arguments(&["poll_forever"]);
    blocking_select_forever => Victim::new("blocking").arguments(&["select_forever"]);
    blocking_epoll_forever => Victim::new("blocking").arguments(&["epoll_forever"]);
    blocking_futex_forever => Victim::new("blocking").arguments(&["futex_forever"]);
    blocking_futex_several_forever => Victim::new("blocking").arguments(&["futex_several_forever"]);
    blocking_pause => Victim::new("blocking").arguments(&["pause"]);
    blocking_sigsuspend => Victim::new("blocking").arguments(&["sigsuspend"]);
    blocking_sigwaitinfo => Victim::new("blocking").arguments(&["sigwaitinfo"]);
    blocking_signalfd => Victim::new("blocking").arguments(&["signalfd"]);
    blocking_eventfd => Victim::new("blocking").arguments(&["eventfd"]);
    blocking_open_fifo => Victim::new("blocking").arguments(&["open_fifo"]);
    blocking_waitpid => Victim::new("blocking").arguments(&["waitpid"]);
    blocking_waitid => Victim::new("blocking").arguments(&["waitid"]);
    blocking_join => Victim::new("blocking").arguments(&["join"]);

    file_deleted => Victim::new("file_deleted");
    file_deleted_links => Victim::new("file_deleted_links");
    file_deleted_elsewhere => Victim::new("file_deleted_elsewhere");
    file_deleted_nodes => Victim::new("file_deleted_nodes");
    directory_removed => Victim::new("directory_removed");
    directory_deep_working => Victim::new("directory_deep").arguments(&["working"]).unless_refused("longer than 4095 bytes");
    directory_deep => Victim::new("directory_deep").arguments(&["directory"]).unless_refused("longer than 4095 bytes");
    directory_deep_file => Victim::new("directory_deep").arguments(&["file"]).unless_refused("longer than 4095 bytes");
    directory_deep_mapped => Victim::new("directory_deep").arguments(&["mapped"]).unless_refused("longer than 4095 bytes");
    directory_ended => Victim::new("directory_ended");
    memfd_hugetlb => Victim::new("memfd_hugetlb").huge_pages(16);
    mem_huge_private => Victim::new("mem_huge_private").huge_pages(16);
    mem_sparse_file => Victim::new("mem_sparse_file");
    file_executable_deleted => Victim::new("file_executable_deleted");
    file_executable_replaced => Victim::new("file_executable_deleted").arguments(&["replaced"]);
    file_executable_memory => Victim::new("file_executable_memory");
    memfd => Victim::new("memfd");
    memfd_seals => Victim::new("memfd_seals");
    mem_shm_file => Victim::new("mem_shm_file");
    mem_shm_file_writes_on => Victim::new("mem_shm_file").arguments(&["writes_on"]);
    mem_deleted_file => Victim::new("mem_deleted_file");
    file_offsets => Victim::new("file_offsets");
    file_shared_offset => Victim::new("file_shared_offset");
    file_append => Victim::new("file_append");
    file_directory => Victim::new("file_directory");
    file_devices => Victim::new("file_devices");
    file_hardware_log => Victim::new("file_hardware").only(User::Root).unless_refused("the kernel's log");
    file_hardware_tunnel => Victim::new("file_hardware").arguments(&["/dev/net/tun"]).only(User::Root).unless_refused("a network tunnel");
    file_hardware_fuse => Victim::new("file_hardware").arguments(&["/dev/fuse"]).only(User::Root).unless_refused("a file system server");
    file_hardware_loop => Victim::new("file_hardware").arguments(&["/dev/loop-control"]).only(User::Root).unless_refused("a loop device");
    file_numbers => Victim::new("file_numbers");
    file_many => Victim::new("file_many");
    file_no_stdio => Victim::new("file_no_stdio");
    pty_lines => Victim::new("pty_lines");
    pty_bytes => Victim::new("pty_bytes");
    pty_pasted => Victim::new("pty_pasted");
    pty_given_up => Victim::new("pty_given_up");
    pty_session => Victim::new("pty_session");
    pty_modes => Victim::new("pty_modes");
    pty_gone => Victim::new("pty_gone");
    lock_flock => Victim::new("lock_flock");
    lock_posix => Victim::new("lock_posix");
    lock_description => Victim::new("lock_description");
    lock_waiting => Victim::new("lock_waiting");
    lease => Victim::new("lease");
    hostile_names => Victim::new("hostile_names");
    file_reference => Victim::new("file_reference").options(&["-ldl"]);
    file_owner_signal => Victim::new("file_owner_signal");
    file_namespace => Victim::new("file_namespace");
    file_directory_position => Victim::new("file_directory_position");
    file_no_follow => Victim::new("file_no_follow");
    file_proc => Victim::new("file_proc");
    file_proc_dead => Victim::new("file_proc_dead");
    pipe_data => Victim::new("pipe_data");
    pipe_half_open => Victim::new("pipe_half_open");
    pipe_packets => Victim::new("pipe_packets");
    pipe_stream => Victim::new("pipe_stream");
    pipe_fifo => Victim::new("pipe_fifo");
    eventfd => Victim::new("eventfd");
    epoll => Victim::new("epoll");
    epoll_closed => Victim::new("epoll_closed");
    epoll_oneshot => Victim::new("epoll_oneshot");
    epoll_shared => Victim::new("epoll_shared");
    pidfd_child => Victim::new("pidfd_child");
    pidfd_ended => Victim::new("pidfd_ended");
    inotify_watches => Victim::new("inotify_watches");
    inotify_renamed => Victim::new("inotify_renamed");
    inotify_deleted => Victim::new("inotify_deleted");
    inotify_queued => Victim::new("inotify_queued").unless_refused("wait to be read");
    unix_pair => Victim::new("unix_pair");
    unix_named => Victim::new("unix_named");
    unix_datagram => Victim::new("unix_datagram");
    unix_abstract => Victim::new("unix_abstract");
    unix_backlog => Victim::new("unix_backlog");
    unix_closed => Victim::new("unix_closed");
    unix_unlinked => Victim::new("unix_unlinked");
    unix_options => Victim::new("unix_options");
    unix_urgent => Victim::new("unix_urgent");
    unix_rights => Victim::new("unix_rights");
    unix_credentials => Victim::new("unix_credentials");
    udp_queue => Victim::new("udp_queue");
    udp_groups => Victim::new("udp_groups");
    netlink => Victim::new("netlink");
    tcp_listen => Victim::new("tcp_listen");
    tcp_multipath => Victim::new("tcp_multipath");
    tcp_pair => Victim::new("tcp_pair");
    tcp_pair_six => Victim::new("tcp_pair").arguments(&["::1"]);
    tcp_pair_mapped => Victim::new("tcp_pair").arguments(&["mapped"]);
    tcp_closing => Victim::new("tcp_closing");
    tcp_full => Victim::new("tcp_full");
    tcp_backlog => Victim::new("tcp_backlog");
    tcp_urgent => Victim::new("tcp_urgent");
    fanotify_marks => Victim::new("fanotify_marks").only(User::Root);
    fs_context => Victim::new("fs_context");
    fs_root => Victim::new("fs_root").only(User::Root);

    vfork_short => Victim::new("vfork").arguments(&["short"]);
    vfork_often => Victim::new("vfork").arguments(&["often"]);
    vfork_long => Victim::new("vfork").arguments(&["long"]).unless_refused("vfork");
    share_files => Victim::new("share_files");
    share_fs => Victim::new("share_fs");
    share_memory => Victim::new("share_memory");
    task_exit_signal => Victim::new("task_exit_signal").sees_stops();
    task_leader_ended => Victim::new("task_leader_ended");
    task_sessions_left => Victim::new("task_sessions_left");
    task_deep => Victim::new("task_deep");
    task_tree => Victim::new("task_tree");
    task_groups => Victim::new("task_groups");
    task_groups_orphaned => Victim::new("task_groups_orphaned");
    task_sessions => Victim::new("task_sessions");
    task_zombies => Victim::new("task_zombies");
    task_stopped => Victim::new("task_stopped");
    task_stopped_threads => Victim::new("task_stopped_threads");
    task_identity => Victim::new("task_identity");
    task_programs => Victim::new("task_programs");
    task_credentials => Victim::new("task_credentials");
    task_ambient => Victim::new("task_ambient");
    task_limits => Victim::new("task_limits");
    task_settings => Victim::new("task_settings");
    task_slack => Victim::new("task_slack");
    task_login => Victim::new("task_login");
    task_orphans => Victim::new("task_orphans");
    task_parent_death => Victim::new("task_parent_death");
    task_many => Victim::new("task_many");

    seccomp_filters => Victim::new("seccomp_filters").only(User::Root);
    seccomp_strict => Victim::new("seccomp_strict").only(User::Root);
    seccomp_threads => Victim::new("seccomp_threads").only(User::Root);
    seccomp_filters_user => Victim::new("seccomp_filters").only(User::Ordinary).unless_refused("seccomp");
    seccomp_threads_user => Victim::new("seccomp_threads").only(User::Ordinary).unless_refused("seccomp");
    task_no_counter => Victim::new("task_no_counter");
    task_descriptor_table => Victim::new("task_descriptor_table");
    task_dispatch => Victim::new("task_dispatch");
    task_dispatch_inclusive => Victim::new("task_dispatch").arguments(&["inclusive"]);
    task_breakpoint => Victim::new("task_breakpoint");
    thread_deadline => Victim::new("thread_deadline").only(User::Root);
    thread_slice => Victim::new("thread_slice");

    sysv_segments => Victim::new("sysv_segments").makes_system_v_objects();
    sysv_semaphores => Victim::new("sysv_semaphores").makes_system_v_objects();
    sysv_messages => Victim::new("sysv_messages").makes_system_v_objects();
    posix_messages => Victim::new("posix_messages").makes_system_v_objects();
    posix_stream => Victim::new("posix_stream").makes_system_v_objects();
    posix_semaphores => Victim::new("posix_semaphores");

    own_user_namespace => Victim::new("own_user_namespace");
    own_uts_namespace => Victim::new("own_uts_namespace");
    own_network_namespace_up => Victim::new("own_network_namespace").arguments(&["up"]);
    own_network_namespace_down => Victim::new("own_network_namespace").arguments(&["down"]);
    own_network_sockets => Victim::new("own_network_sockets");
    own_mount_namespace => Victim::new("own_mount_namespace");
    own_user_namespace_ranges => Victim::new("own_user_namespace_ranges");

    static_bare => Victim::new("static_bare").options(BARE);
    static_threads => Victim::new("threads").arguments(&["20"]).options(STATIC);
    static_memory => Victim::new("mem_private").options(STATIC);
    static_identity => Victim::new("task_identity").options(STATIC);
    static_heap => Victim::new("mem_brk").options(STATIC);
    fixed_address => Victim::new("mem_brk").options(&["-no-pie"]);
}

/// Sources that other tests use.
const ELSEWHERE: &[&str] = &[
    "file_forbidden",
    "keyring",
    "torture",
    "holder",
    "landlock",
    "heartbeat",
    "counting",
    "refused_descriptors",
    "refused_state",
    "pipe_external",
    "unix_external",
    "unix_unaccepted",
    "tcp_external",
    "tcp_unaccepted",
    "embedded",
    "blocking_continued",
    "tcp_outside",
    "expiring",
    "file_pages",
    "file_huge_pages",
    "pty_instances",
    "stays",
    "warm",
];

#[test]
fn every_source_is_in_the_table() {
    let mut missing = Vec::new();
    for entry in
        std::fs::read_dir(cryonaut_suite::place::victims()).expect("the victims' directory")
    {
        let name = entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("a plain name");
        if let Some(source) = name.strip_suffix(".c")
            && !VICTIMS.iter().any(|victim| victim.source() == source)
            && !ELSEWHERE.contains(&source)
        {
            missing.push(name);
        }
    }
    assert!(missing.is_empty(), "no test runs {missing:?}");
    assert_eq!(SOURCES.len(), VICTIMS.len());
}
