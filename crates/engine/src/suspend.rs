//! Suspend and resume: a job stands still where it is, and its memory is given back.
//!
//! ```text
//! Target ─notify→ Ready ─freeze→ Suspended ─reclaim→ …  ─release→ running job ─notify→
//! ```
//!
//! Nothing of ours has to live on meanwhile: the kernel holds the job, in a frozen cgroup or by SIGSTOP. What is done is noted
//! before it begins (see `cryonaut_launch::registry`), and where a process stands is asked of the kernel, so that a `cryo`
//! that was killed at any point leaves a job that runs, or is suspended, or can be made to do either.

mod copies;
mod freezer;
mod need;
mod prefetch;
mod reclaim;
mod report;
mod resume;
mod signals;
mod thawed;

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use cryonaut_launch::registry::{Phase, ProcessIdentity, SuspendedProcess, Suspension, Way};

use crate::freeze::{Afterwards, Frozen, job_stop};
use crate::notify::Notified;
use crate::target::Target;
use crate::{Error, Refusals, Result};

pub use freezer::{Cgroup, sweep};
pub use need::Swap;
pub use prefetch::{Prefetch, prefetch};
pub use reclaim::may_advise;
pub use report::{GIVEN_BACK, HELD_BY, Stayed, SuspendReport, Why, held_in_memory};
pub use resume::{ResumeReport, resume};
pub use signals::Login;
pub use thawed::Thawed;

use copies::Copies;
use freezer::{Moved, Places};
use need::{Memory, SharedMemory};
use reclaim::{Inject, Order};

/// How much of the job's memory is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum GiveBack {
    /// None: it only stands still.
    Nothing,
    /// All of it; refused before anything is stopped if swap has no room for it.
    #[default]
    Everything,
    /// As much as swap takes.
    WhatFits,
}

/// What is to be suspended, and how.
#[derive(Debug)]
pub struct SuspendRequest {
    /// The processes.
    pub target: Target,
    /// How much memory is given back.
    pub give_back: GiveBack,
    /// How many bytes may stay: those used last.
    pub keep: u64,
    /// The suspension that it is in already, or was in when `cryo` was killed.
    pub before: Option<Suspension>,
}

/// Where a suspension has come to, for a progress bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Programs that asked for it were told, and get ready.
    Telling,
    /// The job stands still.
    Frozen,
    /// So many bytes of memory are to be gone through.
    Reclaiming(u64),
    /// So many were.
    Reclaimed(u64),
}

/// Takes down what has become of the suspension; called before the job is stopped, and when it is done.
pub type Note<'a> = &'a mut dyn FnMut(&Suspension) -> Result<()>;

/// How a job stands, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All processes stand still.
    Still,
    /// Some do.
    Partly,
    /// None does, or none is left.
    Running,
}

/// How the processes of a suspension stand. Those that a `cryo` has traced which was killed or given up are not still again before
/// they have run through the kernel: what should stand still and does not is looked at once more.
pub fn standing(suspension: &Suspension) -> Standing {
    const MOMENT: Duration = Duration::from_millis(200);
    match suspension.phase {
        Phase::Suspended => settled(suspension, MOMENT),
        Phase::Suspending | Phase::Resuming => standing_now(suspension),
    }
}

/// How they stand when all are still, or so much time has passed.
fn settled(suspension: &Suspension, patience: Duration) -> Standing {
    const PAUSE: Duration = Duration::from_millis(1);
    let start = Instant::now();
    loop {
        let standing = standing_now(suspension);
        if standing == Standing::Still || start.elapsed() >= patience || !suspension.is_alive() {
            return standing;
        }
        std::thread::sleep(PAUSE);
    }
}

fn standing_now(suspension: &Suspension) -> Standing {
    let mut still = 0;
    let mut alive = 0;
    for process in &suspension.processes {
        if !process.identity.is_alive() {
            continue;
        }
        alive += 1;
        let pid = process.identity.pid;
        let held = match suspension.way {
            Way::Signals => signals::is_stopped(pid) && !process.stopped_before,
            Way::Freezer => Cgroup::of(pid).is_some_and(|cgroup| {
                suspension.cgroups.iter().any(|path| path == cgroup.path()) && cgroup.is_frozen()
            }),
        };
        still += usize::from(held || process.stopped_before && suspension.way == Way::Signals);
    }
    match (still, alive) {
        (0, _) => Standing::Running,
        (still, alive) if still == alive => Standing::Still,
        _ => Standing::Partly,
    }
}

/// Finds out from the kernel alone whether any of these processes is suspended: from the cgroups that they are in. Job-control
/// stops tell nothing of who stopped them.
pub fn discover(pids: &[i32]) -> Option<Suspension> {
    let mut cgroups: Vec<Cgroup> = Vec::new();
    for &pid in pids {
        if let Some(cgroup) = Cgroup::of(pid)
            && (cgroup.is_of_suspend() || cgroup.is_of_run() && cgroup.is_asked_to_freeze())
            && !cgroups.contains(&cgroup)
        {
            cgroups.push(cgroup);
        }
    }
    let first = cgroups.first()?;
    let made = std::fs::metadata(first.path()).map_or(0, |metadata| metadata.mtime());
    let members = cgroups.iter().flat_map(Cgroup::members_by_thread);
    Some(Suspension {
        since: made.try_into().unwrap_or(0),
        way: Way::Freezer,
        phase: Phase::Suspending,
        processes: members.filter_map(|pid| identify(pid, None)).collect(),
        cgroups: cgroups
            .into_iter()
            .map(|cgroup| cgroup.path().to_owned())
            .collect(),
        continued: None,
    })
}

fn identify(pid: i32, before: Option<&Suspension>) -> Option<SuspendedProcess> {
    let identity = ProcessIdentity::of(pid).ok()?;
    let known = before
        .into_iter()
        .flat_map(|suspension| &suspension.processes)
        .find(|process| process.identity == identity);
    Some(known.cloned().unwrap_or_else(|| SuspendedProcess {
        identity,
        stopped_before: signals::is_stopped(pid),
        told: false,
        hot: Vec::new(),
    }))
}

/// Suspends a job.
///
/// # Errors
/// [`Error::Refused`] before anything is stopped; otherwise the job is as it was before: it runs on, or stands still if it was
/// suspended already.
pub fn suspend(
    request: SuspendRequest,
    note: Note<'_>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress),
) -> Result<SuspendReport> {
    let start = Instant::now();
    let SuspendRequest {
        target,
        give_back,
        keep,
        before,
    } = request;
    let plan = Plan::make(&target, give_back, keep, before.as_ref())?;
    let held = before
        .as_ref()
        .filter(|before| standing(before) == Standing::Still);
    let mut suspension = begun(&target, &plan, before.as_ref());
    if held.is_some() {
        // It stands still all the while, whatever becomes of this.
        suspension.phase = Phase::Suspended;
    }
    note(&suspension)?;
    let copies = Copies::before();
    let mut work = Work {
        target: &target,
        suspension: &mut suspension,
        note: &mut *note,
        remarks: plan.remarks.clone(),
        stop,
        still: Instant::now(),
    };
    let outcome = work.hold(&plan, progress).and_then(|()| {
        progress(Progress::Frozen);
        work.push_out(&plan, progress)
    });
    let (remarks, since_still) = (std::mem::take(&mut work.remarks), work.still);
    if let Err(error) = outcome {
        return Err(undo(&suspension, held, note, error));
    }
    suspension.phase = Phase::Suspended;
    // It stands still: what was noted before is enough to find it again.
    let noted = note(&suspension);
    let pids: Vec<i32> = suspension
        .processes
        .iter()
        .map(|process| process.identity.pid)
        .collect();
    let mut report = report::of(&suspension, &plan, &need::read(&pids), give_back);
    report.remarks.splice(0..0, remarks);
    if give_back != GiveBack::Nothing {
        report.remarks.extend(copies.remark());
    }
    if let Err(error) = noted {
        let remark =
            format!("it is suspended, but the list of jobs does not say since when: {error}");
        report.remarks.push(remark);
    }
    report.until_still = since_still.saturating_duration_since(start);
    report.total = start.elapsed();
    Ok(report)
}

/// The suspension as it is noted before anything is stopped.
fn begun(target: &Target, plan: &Plan, before: Option<&Suspension>) -> Suspension {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut processes: Vec<SuspendedProcess> = target
        .live_pids()
        .into_iter()
        .filter_map(|pid| identify(pid, before))
        .collect();
    if plan.give_back != GiveBack::Nothing {
        for process in &mut processes {
            let hot = plan.order.hot(process.identity.pid);
            if !hot.is_empty() {
                process.hot = hot;
            }
        }
    }
    Suspension {
        since: before
            .map(|before| before.since)
            .filter(|&since| since != 0)
            .unwrap_or(now.map_or(0, |now| now.as_secs())),
        way: plan.way(),
        phase: Phase::Suspending,
        cgroups: plan.places.as_ref().map(Places::paths).unwrap_or_default(),
        processes,
        continued: before.and_then(|before| before.continued),
    }
}

/// Brings the job back to what it was before a suspension that failed: running, or, with `held`, suspended as before. Gives what is
/// to be told.
fn undo(suspension: &Suspension, held: Option<&Suspension>, note: Note<'_>, error: Error) -> Error {
    let Some(held) = held else {
        // What fails here is found by the next `cryo resume`: the suspension is noted.
        let _ = resume::let_go(suspension, &[]);
        return error;
    };
    resume::let_newcomers_go(suspension, held);
    // Whoever looks next must not take it for one that runs.
    settled(held, signals::PATIENCE);
    let _ = note(held);
    match error {
        Error::Failed(error) => Error::Failed(format!("{error}; it stays suspended, as before")),
        error => error,
    }
}

/// What is going to be done, found out while the job runs.
struct Plan {
    /// The cgroups to freeze it in; none where signals have to do.
    places: Option<Places>,
    order: Order,
    shared: SharedMemory,
    before: Vec<Memory>,
    /// What processes have to do themselves.
    inject: Option<Inject>,
    give_back: GiveBack,
    keep: u64,
    privileged: bool,
    remarks: Vec<String>,
}

impl Plan {
    fn make(
        target: &Target,
        give_back: GiveBack,
        keep: u64,
        before: Option<&Suspension>,
    ) -> Result<Self> {
        let pids = target.live_pids();
        let mut refusals = Refusals::default();
        freezer::refuse_foreign(&pids, &mut refusals);
        let held_already = before.is_some_and(|before| standing(before) == Standing::Still);
        if give_back != GiveBack::Nothing && !held_already {
            watch_use(&pids);
        }
        let shared = SharedMemory::find();
        let memory = need::read(&pids);
        let held = shared.sum(&memory);
        let order = match give_back {
            GiveBack::Nothing => Order::default(),
            _ => Order::plan(&memory, &shared, (held.total(), keep)),
        };
        if give_back == GiveBack::Everything {
            let need = held.swappable.min(held.total().saturating_sub(keep));
            Swap::now().refuse_if_short(need, &mut refusals);
        }
        refusals.into_result()?;
        let privileged = pids.first().is_some_and(|&pid| may_advise(pid));
        let mut remarks = Vec::new();
        let places = match Self::places(target, &pids, before) {
            Ok(places) => Some(places),
            Err(why) => {
                remarks.push(format!(
                    "held by SIGSTOP, since no freezer can be used ({why}): parents outside the job see it, and anybody's SIGCONT, \
                     such as `fg` in a shell, lets it run"
                ));
                None
            }
        };
        let inject = match (give_back, privileged) {
            (GiveBack::Nothing, _) => None,
            (_, true) if order.let_go.is_empty() => None,
            (_, true) => Some(Inject::LetGo),
            (_, false) => Some(Inject::All),
        };
        let frozen_already =
            held_already && before.is_some_and(|before| before.way == Way::Freezer);
        if frozen_already && inject.is_some() {
            remarks.push(
                "it is frozen already, so its processes cannot push their memory out themselves: resume it and suspend it again"
                    .into(),
            );
        }
        Ok(Self {
            places,
            order,
            shared,
            before: memory,
            inject: inject.filter(|_| !frozen_already),
            give_back,
            keep,
            privileged,
            remarks,
        })
    }

    fn places(
        target: &Target,
        pids: &[i32],
        before: Option<&Suspension>,
    ) -> std::result::Result<Places, String> {
        if before.is_some_and(|before| {
            before.way == Way::Signals && standing(before) != Standing::Running
        }) {
            return Err("it was stopped that way before".into());
        }
        let start = ProcessIdentity::of(target.named).map_or(0, |identity| identity.start_time);
        let places = Places::plan(&format!("{}-{start}", target.named), pids)?;
        places.make()?;
        Ok(places)
    }

    fn way(&self) -> Way {
        match self.places {
            Some(_) => Way::Freezer,
            None => Way::Signals,
        }
    }
}

/// Finds out which memory the job uses: what it touches within a moment is marked by the processor
/// (Documentation/filesystems/proc.rst, `clear_refs`).
fn watch_use(pids: &[i32]) {
    const MOMENT: Duration = Duration::from_millis(100);
    for &pid in pids {
        // Without it, everything used since the kernel last looked counts.
        let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "1");
    }
    std::thread::sleep(MOMENT);
}

/// A suspension under way.
struct Work<'a> {
    target: &'a Target,
    suspension: &'a mut Suspension,
    note: Note<'a>,
    remarks: Vec<String>,
    stop: &'a AtomicBool,
    still: Instant,
}

impl Work<'_> {
    /// Brings all processes to a stand, for good.
    fn hold(&mut self, plan: &Plan, progress: &mut dyn FnMut(Progress)) -> Result<()> {
        if self.target.notification.notices.checkpoint.is_some() {
            progress(Progress::Telling);
        }
        // If this fails they are told to go on, when the job runs again: what is made last is dropped first.
        let notified = Notified::tell_by_signals(self.target, self.stop)?;
        self.remarks.extend_from_slice(notified.remarks());
        let mut traced = self.trace(plan)?;
        if let (Some(frozen), Some(inject)) = (&mut traced, plan.inject)
            && !frozen.is_delicate()
        {
            progress(Progress::Reclaiming(plan.order.bytes()));
            let mut told = |bytes| progress(Progress::Reclaimed(bytes));
            let left_out = reclaim::inject(frozen, &plan.order, inject, self.stop, &mut told)?;
            if left_out > 0 {
                self.remarks.push(format!(
                    "{left_out} of its processes were frozen already and could not push their memory out themselves: resume it and suspend it again"
                ));
            }
        }
        // In the freezer no task could run the call any more that removes what is ours.
        traced.as_mut().map_or(Ok(()), Frozen::withdraw)?;
        let pids = self.pids(traced.as_ref())?;
        self.take_over(notified, traced.as_ref())?;
        match &plan.places {
            Some(places) => self.freeze_cgroups(places.clone(), pids, traced),
            None => {
                match traced {
                    Some(frozen) => {
                        frozen.release(Afterwards::Stop)?;
                        signals::await_stopped(&pids)?;
                    }
                    None => signals::stop(self.target, &mut |pids| self.announce(pids))?,
                }
                self.still = Instant::now();
                Ok(())
            }
        }
    }

    /// Takes down whom we are about to stop, and who waits for a *continue* that `cryo resume` owes them from here on.
    fn take_over(&mut self, notified: Notified, traced: Option<&Frozen>) -> Result<()> {
        for process in traced.into_iter().flat_map(Frozen::alive) {
            self.learn(process.pid, job_stop(process).is_some());
        }
        let told = notified.pids();
        if !told.is_empty() {
            self.suspension.continued = self.target.notification.notices.continued;
            for process in &mut self.suspension.processes {
                process.told |= told.contains(&process.identity.pid);
            }
        }
        (self.note)(self.suspension)?;
        notified.leave_waiting();
        Ok(())
    }

    /// Takes down processes that are about to be stopped, and tells which they are.
    fn announce(&mut self, pids: &[i32]) -> Result<Vec<ProcessIdentity>> {
        for &pid in pids {
            self.learn(pid, signals::is_stopped(pid));
        }
        (self.note)(self.suspension)?;
        let known = self.suspension.processes.iter();
        let identities = known.map(|process| process.identity);
        Ok(identities
            .filter(|identity| pids.contains(&identity.pid))
            .collect())
    }

    /// Has the job stand still under ptrace, if it can be traced. So all of it stops at one instant; its processes can push
    /// their memory out themselves; and system calls that a stop would end (signal(7)) are begun again, so that the job notices
    /// nothing.
    fn trace(&mut self, plan: &Plan) -> Result<Option<Frozen>> {
        match Frozen::freeze(self.target) {
            Ok(frozen) if plan.inject.is_some() && frozen.is_delicate() => {
                self.remarks.push(
                    "a process is under seccomp, so none pushes its memory out itself: root may do it from outside".into(),
                );
                Ok(Some(frozen))
            }
            Ok(frozen) => Ok(Some(frozen)),
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(error) => {
                let further = match plan.inject {
                    Some(_) => ", and its processes cannot push their memory out themselves",
                    None => "",
                };
                self.remarks.push(format!(
                    "it cannot be traced ({error}): calls that wait, such as epoll_wait, may end early with EINTR, as after ^Z{further}"
                ));
                Ok(None)
            }
        }
    }

    fn pids(&self, traced: Option<&Frozen>) -> Result<Vec<i32>> {
        match traced {
            Some(frozen) => Ok(frozen.alive().map(|process| process.pid).collect()),
            None => Ok(self.target.again()?.live_pids()),
        }
    }

    /// Freezes the job in its cgroups. New processes are born where their parents are; those born just before their parent was
    /// moved are found and moved too.
    fn freeze_cgroups(
        &mut self,
        mut places: Places,
        mut pids: Vec<i32>,
        traced: Option<Frozen>,
    ) -> Result<()> {
        const PASSES: usize = 100;
        let failed = |(pid, error): (i32, std::io::Error)| {
            Error::Failed(format!(
                "process {pid} cannot be moved to a cgroup that can be frozen: {error}; the job is as it was before"
            ))
        };
        places.take(&pids).map_err(failed)?;
        self.note_places(&places)?;
        places.freeze()?;
        // From here on its tasks go from under our hands straight into the freezer: no instruction is run between.
        if let Some(frozen) = traced {
            frozen.release(Afterwards::LeaveRunning)?;
        }
        for _ in 0..PASSES {
            places.await_frozen()?;
            self.still = Instant::now();
            pids = match self.target.again() {
                Ok(target) => target.live_pids(),
                // Only the end of the job's first process can be the reason, whose descendants cannot be told any more.
                Err(_) => pids,
            };
            let moved = places.take(&pids).map_err(failed)?;
            let members = places.paths();
            let members = members.iter().flat_map(|path| Cgroup::at(path).members());
            for pid in members.chain(pids.iter().copied()) {
                self.learn(pid, false);
            }
            self.note_places(&places)?;
            if moved == Moved::None {
                return Ok(());
            }
            places.freeze()?;
        }
        Err(Error::Failed(
            "the job creates processes faster than they can be stopped: try again".into(),
        ))
    }

    /// Takes in a process that was born since the suspension was noted.
    fn learn(&mut self, pid: i32, stopped_before: bool) {
        let Ok(identity) = ProcessIdentity::of(pid) else {
            return;
        };
        let known = &mut self.suspension.processes;
        if known.iter().all(|process| process.identity != identity) {
            known.push(SuspendedProcess {
                identity,
                stopped_before,
                told: false,
                hot: Vec::new(),
            });
        }
    }

    /// Takes down where the job is about to be frozen.
    fn note_places(&mut self, places: &Places) -> Result<()> {
        self.suspension.cgroups = places.paths();
        (self.note)(self.suspension)
    }

    /// Pushes out what can be pushed out from outside.
    fn push_out(&mut self, plan: &Plan, progress: &mut dyn FnMut(Progress)) -> Result<()> {
        if plan.give_back == GiveBack::Nothing {
            return Ok(());
        }
        reclaim::write_back(&plan.before, &plan.shared);
        if plan.privileged {
            progress(Progress::Reclaiming(plan.order.bytes()));
            let mut told = |bytes| progress(Progress::Reclaimed(bytes));
            reclaim::push_out(&plan.order, self.stop, &mut told)?;
        }
        self.reclaim_rest(plan);
        Ok(())
    }

    /// Has the cgroup that holds the job alone give back what advice did not reach.
    fn reclaim_rest(&self, plan: &Plan) {
        /// What goes first may be page cache, which is not the job's: so it is asked again.
        const ROUNDS: usize = 16;
        let pids: Vec<i32> = plan.before.iter().map(|memory| memory.pid).collect();
        for _ in 0..ROUNDS {
            let held = plan.shared.sum(&need::read(&pids));
            let wanted = held.swappable.min(held.total().saturating_sub(plan.keep));
            let cgroups: &[PathBuf] = &self.suspension.cgroups;
            let given = match wanted {
                0 => 0,
                wanted => reclaim::reclaim_cgroups(cgroups, wanted, self.stop),
            };
            if given == 0 {
                return;
            }
            tracing::debug!(bytes = given, "its cgroup gave memory back");
        }
    }
}

/// Pushes out again what was read from a suspended job's memory.
///
/// # Errors
/// [`Error::Interrupted`] when `stop` is set.
pub(crate) fn push_out_again(frozen: &mut Frozen, stop: &AtomicBool) -> Result<()> {
    let pids: Vec<i32> = frozen.alive().map(|process| process.pid).collect();
    let order = Order::plan(&need::read(&pids), &SharedMemory::find(), (0, 0));
    match pids.first() {
        Some(&pid) if may_advise(pid) => reclaim::push_out(&order, stop, &mut |_| {}),
        _ if frozen.is_delicate() => Ok(()),
        _ => reclaim::inject(frozen, &order, Inject::All, stop, &mut |_| {}).map(drop),
    }
}
