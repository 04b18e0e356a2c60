use super::capability::members;
use super::step::{Calls, flag_calls};
use super::*;
use crate::target::{Scope, TargetProcess};

fn own_status() -> Status {
    ProcessDirectory::open(spawn::own_pid())
        .unwrap()
        .status()
        .unwrap()
}

fn sample() -> CredentialsRecord {
    CredentialsRecord {
        process: 17,
        users: vec![1000, 1001, 1002, 1003],
        groups: vec![100; 4],
        supplementary: vec![4, 24, 70_000],
        capabilities: CapabilitySets {
            inheritable: 1,
            permitted: 1 << 40 | 3,
            effective: 2,
            bounding: 0x1ff_ffff_ffff,
            ambient: 1,
        },
        secure_bits: 0x10,
        no_new_privileges: true,
        dumpable: 1,
        out_of_memory_score: -500,
        child_subreaper: true,
        personality: 0x0004_0000,
        core_dump_filter: 0x33,
        huge_pages_disabled: 1,
        deny_write_execute: 1,
        memory_merge: true,
        login: Some(1000),
    }
}

/// What this process itself would be recorded as.
fn like_us(status: &Status) -> CredentialsRecord {
    let mut supplementary = status.groups.clone();
    supplementary.sort_unstable();
    CredentialsRecord {
        process: 17,
        users: status.uid.to_vec(),
        groups: status.gid.to_vec(),
        supplementary,
        capabilities: CapabilitySets::of(status),
        no_new_privileges: status.no_new_privileges.unwrap_or(false),
        dumpable: 1,
        ..CredentialsRecord::default()
    }
}

fn means(status: Status, effective: u64, fresh: bool) -> Means {
    Means {
        own: status,
        secure_bits: 0,
        score: 0,
        effective,
        fresh,
    }
}

fn refused(means: &Means, record: &CredentialsRecord, reach: Reach) -> Vec<String> {
    let mut plan = Plan::default();
    means.judge((17, "x"), record, reach, &mut plan);
    plan.refusals
        .list()
        .iter()
        .map(|refusal| refusal.object.clone())
        .collect()
}

#[test]
fn the_record_survives_an_image() {
    let mut records = RecordSet::new();
    records.push(&sample()).unwrap();
    assert_eq!(records.one::<CredentialsRecord>().unwrap(), sample());
}

#[test]
fn sets_are_split_for_capset() {
    let bytes = split(0x0000_0001_8000_0002, 0xffff_ffff, 1 << 40);
    let words: Vec<u32> = bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
        .collect();
    assert_eq!(words, [0x8000_0002, 0xffff_ffff, 0, 1, 0, 0x100]);
    assert_eq!(members(1 << 40 | 1).collect::<Vec<_>>(), [0, 40]);
    assert_eq!(names(1 << 21 | 1), "cap_chown, cap_sys_admin");
    assert_eq!(
        names(0xff),
        "cap_chown, cap_dac_override, cap_dac_read_search, cap_fowner, cap_fsetid, 3 more"
    );
}

#[test]
fn this_process_is_not_refused() {
    let own = vec![TargetProcess::read(spawn::own_pid()).unwrap()];
    let target = Target::of(own, Scope::Process, (spawn::own_pid(), 0));
    let mut refusals = Refusals::default();
    Credentials.inspect(&target, &mut refusals);
    assert_eq!(refusals.list(), []);
}

#[test]
fn what_we_are_anybody_may_become() {
    let status = own_status();
    let mut record = like_us(&status);
    assert_eq!(
        refused(&means(status.clone(), 0, false), &record, Reach::Machine),
        Vec::<String>::new()
    );
    record.capabilities = CapabilitySets {
        bounding: u64::MAX,
        ..CapabilitySets::default()
    };
    assert_eq!(
        refused(&means(status, 0, true), &record, Reach::Job),
        Vec::<String>::new()
    );
}

#[test]
fn an_ordinary_user_may_not_become_another() {
    let status = Status {
        no_new_privileges: Some(false),
        ..own_status()
    };
    let record = CredentialsRecord {
        users: vec![4711; 4],
        groups: vec![4712; 4],
        supplementary: vec![4713],
        ..like_us(&status)
    };
    let all = [
        "its user 4711",
        "its group 4712",
        "its supplementary groups [4713]",
    ];
    assert_eq!(
        refused(&means(status.clone(), 0, false), &record, Reach::Machine),
        all
    );
    // In a fresh user namespace not even all capabilities help.
    assert_eq!(
        refused(
            &means(status.clone(), u64::MAX, true),
            &record,
            Reach::Machine
        ),
        all
    );
    assert_eq!(
        refused(&means(status, u64::MAX, false), &record, Reach::Machine),
        Vec::<String>::new()
    );
}

#[test]
fn a_login_has_its_own_group_among_the_others_or_not() {
    let with = |groups: &[u32]| Status {
        gid: [4712; 4],
        groups: groups.to_vec(),
        no_new_privileges: Some(false),
        ..own_status()
    };
    let record = |groups: &[u32]| like_us(&with(groups));
    let none = Vec::<String>::new();
    for fresh in [false, true] {
        let login = means(with(&[27, 4712]), 0, fresh);
        assert_eq!(refused(&login, &record(&[27]), Reach::Machine), none);
        assert_eq!(login.supplementary(&record(&[27])), [27, 4712]);
        let elsewhere = means(with(&[27]), 0, fresh);
        assert_eq!(
            refused(&elsewhere, &record(&[27, 4712]), Reach::Machine),
            none
        );
        assert_eq!(elsewhere.supplementary(&record(&[27, 4712])), [27]);
        let refused = refused(&login, &record(&[28]), Reach::Machine);
        assert_eq!(refused, ["its supplementary groups [28]"]);
    }
    // Who may change them gives what there was.
    let root = means(with(&[27, 4712]), u64::MAX, false);
    assert_eq!(root.supplementary(&record(&[27])), [27]);
}

#[test]
fn capabilities_are_never_more_than_they_were() {
    let status = Status {
        capabilities_permitted: 1 << 21,
        capabilities_bounding: 0x3f_ffff,
        no_new_privileges: Some(false),
        ..own_status()
    };
    let mut record = like_us(&status);
    let root = means(status, u64::MAX, false);
    record.capabilities = CapabilitySets {
        permitted: 1 << 21,
        bounding: 0x3f_ffff,
        ..CapabilitySets::default()
    };
    assert_eq!(
        refused(&root, &record, Reach::Machine),
        Vec::<String>::new()
    );
    assert_eq!(
        refused(&root, &record, Reach::Job),
        ["its capabilities cap_sys_admin"]
    );
    record.capabilities.permitted = 1 << 22;
    assert_eq!(
        refused(&root, &record, Reach::Machine),
        ["its capabilities cap_sys_boot"]
    );
    record.capabilities = CapabilitySets {
        bounding: 1,
        ..CapabilitySets::default()
    };
    let user = Means {
        effective: 0,
        ..root
    };
    assert_eq!(
        refused(&user, &record, Reach::Machine),
        ["its capability bounding set or secure bits"]
    );
}

#[test]
fn only_the_personality_is_set_where_nothing_changes() {
    let status = Status {
        capabilities_effective: 0,
        ..own_status()
    };
    let record = CredentialsRecord {
        no_new_privileges: false,
        capabilities: CapabilitySets {
            effective: 0,
            ..CapabilitySets::of(&status).known_here()
        },
        ..like_us(&status)
    };
    assert_eq!(Calls::from(&record, &status).list.len(), 1);
}

#[test]
fn a_namespaced_stub_gives_up_everything() {
    let all = (1_u64 << 41) - 1;
    let status = Status {
        capabilities_inheritable: all,
        capabilities_permitted: all,
        capabilities_effective: all,
        capabilities_bounding: all,
        capabilities_ambient: all,
        ..own_status()
    };
    let record = CredentialsRecord {
        no_new_privileges: false,
        capabilities: CapabilitySets {
            bounding: all & !1,
            ..CapabilitySets::default()
        },
        ..like_us(&status)
    };
    // Two capset, clearing the ambient set, one drop from the bounding set, the secure bits, the personality.
    let known = capability::known().count_ones();
    assert_eq!(
        Calls::from(&record, &status).list.len() as u32,
        if known >= 41 { 6 } else { 6 + 41 - known }
    );
}

/// A child that sleeps, killed at the end.
pub(crate) struct Sleeper(std::process::Child);

impl Sleeper {
    /// Its pid.
    pub(crate) fn id(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A child in hand.
pub(crate) struct Subject {
    /// The child, frozen; let go before it is killed.
    pub(crate) frozen: Frozen,
    _child: Sleeper,
}

impl Subject {
    /// Starts a program and waits until it is called `name` and sleeps; nothing where this machine does not let us.
    pub(crate) fn spawn(command: &[&str], name: &str) -> Option<Sleeper> {
        let child = Sleeper(
            std::process::Command::new(command[0])
                .args(&command[1..])
                .spawn()
                .ok()?,
        );
        for _ in 0..1000 {
            let directory = ProcessDirectory::open(child.id()).ok()?;
            if directory.comm().is_ok_and(|comm| comm == name.as_bytes())
                && directory.stat().ok()?.state == 'S'
            {
                return Some(child);
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        None
    }

    /// As [`Subject::spawn`], and freezes it.
    pub(crate) fn start(command: &[&str], name: &str) -> Option<Self> {
        let child = Self::spawn(command, name)?;
        let target = Target::find(child.id(), Scope::Process).unwrap();
        assert_eq!(target.refusals().list(), []);
        Some(Self {
            frozen: Frozen::freeze(&target).unwrap(),
            _child: child,
        })
    }

    fn record(&mut self) -> CredentialsRecord {
        let mut collection = Collection::default();
        Credentials
            .collect(&mut self.frozen, &mut collection)
            .unwrap();
        collection.records.one().unwrap()
    }

    fn become_like(&mut self, record: &CredentialsRecord) {
        let process = &mut self.frozen.processes[0];
        let now = process.directory.status().unwrap();
        let calls = Calls::from(record, &now);
        let outcomes = process.run(0, &calls.list).unwrap();
        calls.check(17, &outcomes).unwrap();
        let flags = flag_calls(record);
        let outcomes = process.run(0, &flags.list).unwrap();
        flags.check(17, &outcomes).unwrap();
    }
}

#[test]
fn credentials_are_read_from_a_frozen_process() {
    let mut subject = Subject::start(&["sleep", "60"], "sleep").expect("sleep runs");
    let status = own_status();
    let record = subject.record();
    let expected = CredentialsRecord {
        process: record.process,
        secure_bits: record.secure_bits,
        core_dump_filter: record.core_dump_filter,
        out_of_memory_score: record.out_of_memory_score,
        personality: record.personality,
        login: record.login,
        ..like_us(&status)
    };
    assert_eq!(record, expected);
}

#[test]
fn a_process_of_root_becomes_what_the_record_says() {
    let status = own_status();
    let mut subject = Subject::start(&["sleep", "60"], "sleep").expect("sleep runs");
    let before = subject.record();
    if status.uid != [0; 4] || status.capabilities_effective & (1 << SETPCAP_NUMBER) == 0 {
        return;
    }
    let mut record = CredentialsRecord {
        process: before.process,
        capabilities: CapabilitySets {
            inheritable: 3,
            permitted: 7,
            effective: 5,
            bounding: status.capabilities_bounding & !(1 << 5),
            ambient: 1,
        },
        out_of_memory_score: before.out_of_memory_score,
        core_dump_filter: before.core_dump_filter,
        login: before.login,
        deny_write_execute: 0,
        memory_merge: false,
        ..sample()
    };
    subject.become_like(&record);
    assert_eq!(subject.record(), record);
    record.capabilities = CapabilitySets {
        bounding: record.capabilities.bounding,
        ..CapabilitySets::default()
    };
    record.personality = 0;
    let last = subject.frozen.processes[0].directory.status().unwrap();
    // Without CAP_SETPCAP by now, which nothing here needs.
    let calls = Calls::from(&record, &last);
    let outcomes = subject.frozen.processes[0].run(0, &calls.list).unwrap();
    calls.check(17, &outcomes).unwrap();
    assert_eq!(subject.record(), record);
}

const SETPCAP_NUMBER: u32 = capability::SETPCAP as u32;

#[test]
fn a_process_in_a_fresh_user_namespace_ends_without_capabilities() {
    let command = [
        "unshare",
        "--user",
        "--map-current-user",
        "--keep-caps",
        "sleep",
        "60",
    ];
    let Some(mut subject) = Subject::start(&command, "sleep") else {
        return;
    };
    let before = subject.record();
    assert_ne!(before.capabilities.ambient, 0);
    let mut record = before.clone();
    record.capabilities = CapabilitySets {
        bounding: before.capabilities.bounding,
        ..CapabilitySets::default()
    };
    record.no_new_privileges = true;
    record.dumpable = 1;
    subject.become_like(&record);
    assert_eq!(subject.record(), record);
}
