//! What a TARGET on the command line means.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};
use cryonaut_engine::suspend::{Standing, discover, standing};
use cryonaut_engine::target::{Cut, External, Firewall, Scope, Target};
use cryonaut_launch::registry::{Job, ProcessIdentity, Registry};
use cryonaut_procfs::ProcessDirectory;
use cryonaut_procfs::system::all_pids;

use crate::exit::Failure;

/// Which processes around the named one belong to the job.
#[derive(Args, Debug, Clone, Copy, Default)]
#[group(multiple = false)]
pub struct ScopeArguments {
    /// The process and all its descendants (the default for a pid)
    #[arg(long)]
    tree: bool,
    /// The process alone
    #[arg(long)]
    process: bool,
    /// Its process group
    #[arg(long)]
    group: bool,
    /// The session that it leads, with those on terminals of script, expect, tmux and the like that are in it
    #[arg(long)]
    session: bool,
}

impl ScopeArguments {
    /// As if this scope was asked for; a tree is what is usual.
    pub fn of(scope: Scope) -> Self {
        Self {
            tree: false,
            process: scope == Scope::Process,
            group: scope == Scope::Group,
            session: scope == Scope::Session,
        }
    }

    fn chosen(self) -> Option<Scope> {
        match self {
            ScopeArguments { tree: true, .. } => Some(Scope::Tree),
            ScopeArguments { process: true, .. } => Some(Scope::Process),
            ScopeArguments { group: true, .. } => Some(Scope::Group),
            ScopeArguments { session: true, .. } => Some(Scope::Session),
            _ => None,
        }
    }
}

/// What becomes of sockets whose other end is outside the job.
#[derive(Args, Debug, Clone, Copy, Default)]
pub struct ExternalArguments {
    /// What becomes of a socket whose peer is outside the job
    #[arg(long, value_name = "HOW", value_enum, default_value_t = ExternalChoice::Keep)]
    external: ExternalChoice,
    /// Leave the firewall alone: connections to outside are lost if their peer sends anything before the restart
    #[arg(long)]
    no_firewall: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy, Default)]
enum ExternalChoice {
    /// A TCP connection goes on after the restart, and its peer notices nothing, where this user has CAP_NET_ADMIN over the
    /// network namespace; the firewall (nft) holds it while the job is killed. All else is refused
    #[default]
    Keep,
    /// The checkpoint is refused
    Refuse,
    /// It comes back as if the peer had closed
    Close,
    /// The restart connects it again to the same address
    Reconnect,
}

impl ExternalArguments {
    /// As the engine has it.
    pub fn chosen(self) -> External {
        let firewall = match self.no_firewall {
            true => Firewall::Idle,
            false => Firewall::Holds,
        };
        match self.external {
            ExternalChoice::Keep => External::Keep(firewall),
            ExternalChoice::Refuse => External::Refuse,
            ExternalChoice::Close => External::Close,
            ExternalChoice::Reconnect => External::Reconnect,
        }
    }

    /// As the engine has it for a job that moves: its connections cannot go on while the original is there.
    pub fn chosen_for_move(self) -> External {
        match self.chosen() {
            External::Keep(_) => External::Refuse,
            chosen => chosen,
        }
    }
}

/// What becomes of children that are not in scope.
#[derive(Args, Debug, Clone, Copy, Default)]
pub struct CutArguments {
    /// With --process, --group or --session: how children that are not in scope look to their parents after a restart (without
    /// it a checkpoint that has such is refused)
    #[arg(long, value_name = "HOW", value_enum)]
    cut: Option<CutChoice>,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum CutChoice {
    /// As if they had just been killed: SIGCHLD comes, and waiting for them tells of SIGKILL
    Killed,
    /// As if there had never been any: waiting for them fails (ECHILD)
    Gone,
}

impl CutArguments {
    /// As the engine has it.
    pub fn chosen(self) -> Cut {
        match self.cut {
            None => Cut::Refused,
            Some(CutChoice::Killed) => Cut::Killed,
            Some(CutChoice::Gone) => Cut::Gone,
        }
    }
}

/// A TARGET with its scope.
#[derive(Args, Debug, Clone)]
pub struct TargetArguments {
    /// A process id, or the name of a job started with `cryo run`
    #[arg(value_name = "TARGET", value_hint = ValueHint::Other)]
    pub target: String,
    /// The scope.
    #[command(flatten)]
    pub scope: ScopeArguments,
}

/// The processes that a TARGET names, and the job that they are, if it is a known one.
#[derive(Debug)]
pub struct Subject {
    /// The processes.
    pub target: Target,
    /// The job of `cryo run` or `cryo restart`.
    pub job: Option<Job>,
}

impl Subject {
    /// Finds what `text` means.
    pub fn find(text: &str, scope: ScopeArguments) -> Result<Subject, Failure> {
        let mut subject = Subject::named(text, scope)?;
        let noted = subject.job.as_ref().and_then(|job| job.suspension.clone());
        let found = noted.or_else(|| discover(&subject.target.live_pids()));
        // One that was only begun, or was ended by somebody, is none.
        subject.target.suspension = found.filter(|found| standing(found) != Standing::Running);
        Ok(subject)
    }

    fn named(text: &str, scope: ScopeArguments) -> Result<Subject, Failure> {
        match text.parse::<i32>() {
            Ok(pid) => Subject::of_pid(pid, scope),
            Err(_) if text.is_empty() => Err(Failure::usage(
                "no target is named: give a process id or a job's name".to_owned(),
            )),
            Err(_) if text.chars().all(|letter| letter.is_ascii_digit()) => Err(Failure::usage(
                format!("{text} is too large for a process id"),
            )),
            Err(_) => {
                let job = Registry::open()?.find(text)?;
                Subject::of_job(job, scope)
            }
        }
    }

    fn of_pid(pid: i32, scope: ScopeArguments) -> Result<Subject, Failure> {
        // The pid of a known job's root stands for that job's name. Where the list cannot be read it is just a pid.
        let mut jobs = Registry::open()
            .and_then(|registry| registry.list())
            .unwrap_or_default();
        // And that of the command in its foreground, which is no part of it, for the job.
        let led = jobs.iter().position(|job| {
            job.supervisor
                .is_some_and(|supervisor| supervisor.pid == pid && supervisor.is_alive())
        });
        if let Some(led) = led {
            return Subject::of_job(jobs.swap_remove(led), scope);
        }
        let target = Target::find(pid, scope.chosen().unwrap_or_default())?;
        let job = jobs
            .into_iter()
            .find(|job| job.root.pid == pid && job.root.is_alive() || job.holds(pid));
        Ok(Subject { target, job })
    }

    fn of_job(job: Job, scope: ScopeArguments) -> Result<Subject, Failure> {
        let (pid, usual) = match &job.init {
            Some(init) => {
                let named = if job.root.is_alive() {
                    Some(job.root.pid)
                } else {
                    member(init.pid_namespace, init.process.pid)
                };
                let named = named.ok_or_else(|| {
                    Failure::usage(format!(
                        "the job {} has just ended: no process of it is left",
                        job.name
                    ))
                })?;
                (named, Scope::Namespace)
            }
            None => (job.root.pid, Scope::Tree),
        };
        let target = Target::find(pid, scope.chosen().unwrap_or(usual))?;
        Ok(Subject {
            target,
            job: Some(job),
        })
    }

    /// Its first process.
    pub fn root(&self) -> ProcessIdentity {
        match &self.job {
            Some(job) => job.root,
            None => self.target.identity(),
        }
    }

    /// The job's name, empty if it has none.
    pub fn job_name(&self) -> String {
        self.job
            .as_ref()
            .map(|job| job.name.clone())
            .unwrap_or_default()
    }

    /// The file that an image goes to if none is named, in the working directory.
    pub fn usual_file(&self) -> PathBuf {
        match &self.job {
            Some(job) => format!("{}.cryo", job.name),
            None => format!("{}.cryo", self.target.named),
        }
        .into()
    }
}

/// A process of this pid namespace other than its init.
fn member(namespace: u64, init: i32) -> Option<i32> {
    all_pids().ok()?.into_iter().find(|&pid| {
        let lives_there = || ProcessDirectory::open(pid)?.namespace("pid");
        pid != init && lives_there().is_ok_and(|found| found == namespace)
    })
}
