//! Processes of ours at which a task of the job may look unless a Landlock domain forbids it: with its user and group, in its pid
//! and user namespaces, without capabilities. They have no part in the job, hold nothing of ours (their program is the empty
//! stub), stand still, and end with us.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;

use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::spawn::{self, CloneRequest, StringArray};
use cryonaut_sys::{descriptor, namespace, ptrace, task, wait};
use cryonaut_tracee::Stub;

use crate::error::Attempt;
use crate::finisher::{self, Answer};
use crate::freeze::FrozenProcess;
use crate::{Error, Result};

/// Where the stub lies in a witness, and the memory that it has.
const STUB: (u64, u64) = (0x1000_0000, 4096);

const WHAT: &str = "starting a witness";

fn what() -> String {
    WHAT.to_owned()
}

/// What all threads of a process have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Surroundings {
    pid_namespace: u64,
    user_namespace: u64,
    label: Option<Vec<u8>>,
}

impl Surroundings {
    fn of(directory: &ProcessDirectory) -> Option<Self> {
        Some(Self {
            pid_namespace: directory.namespace("pid").ok()?,
            user_namespace: directory.namespace("user").ok()?,
            label: directory.read("attr/current").ok(),
        })
    }

    /// The namespaces to be entered one after the other to be where a process is: a pid namespace from the user namespace that it
    /// belongs to, which may be another than that of the process, and above it.
    fn way_to(&self, theirs: &Self, directory: &ProcessDirectory) -> Result<Vec<File>> {
        let mut way = Vec::new();
        let mut user_namespace = self.user_namespace;
        if self.pid_namespace != theirs.pid_namespace {
            let what = || "finding whose its pid namespace is".to_owned();
            let inner = directory.open_file("ns/pid")?;
            let owner = File::from(namespace::owner(inner.as_fd()).attempt(what)?);
            let number = owner.metadata().attempt(what)?.ino();
            if number != user_namespace {
                user_namespace = number;
                way.push(owner);
            }
            way.push(inner);
        }
        if user_namespace != theirs.user_namespace {
            way.push(directory.open_file("ns/user")?);
        }
        Ok(way)
    }
}

/// Namespaces (pid, user), and user and group in the latter.
type Likeness = (u64, u64, u32, u32);

/// The witnesses that have been called for.
#[derive(Debug)]
pub(crate) struct Witnesses {
    /// Or why there is none.
    called: BTreeMap<Likeness, std::result::Result<Witness, String>>,
    own: Option<Surroundings>,
    /// The process looked at last, as we see it, and its surroundings.
    last: (i32, Option<Surroundings>),
    needed: bool,
}

impl Witnesses {
    /// None is there yet.
    pub(crate) fn none() -> Self {
        let own = ProcessDirectory::open(spawn::own_pid()).ok();
        Self {
            called: BTreeMap::new(),
            own: own.as_ref().and_then(Surroundings::of),
            last: (0, None),
            needed: task::knows_landlock(),
        }
    }

    /// Whether this kernel has domains at all.
    pub(super) fn are_needed(&self) -> bool {
        self.needed
    }

    /// Whether our pid is ours also where the process is.
    pub(super) fn see_us(&mut self, process: &FrozenProcess) -> bool {
        let theirs = self.surroundings(process).map(|it| it.pid_namespace);
        theirs.is_some() && theirs == self.own.as_ref().map(|own| own.pid_namespace)
    }

    /// The pid, as the process sees it, of one that its tasks of this user and group, as it sees them, may look at. Nothing where
    /// its security label is out of our reach.
    ///
    /// # Errors
    /// Why there can be none: the namespaces or the user are out of our reach.
    pub(super) fn of(
        &mut self,
        process: &FrozenProcess,
        (user, group): (u32, u32),
    ) -> std::result::Result<Option<i32>, String> {
        let unseen = || "its namespaces cannot be seen".to_owned();
        let theirs = self.surroundings(process).ok_or_else(unseen)?.clone();
        let own = self.own.as_ref().ok_or_else(unseen)?;
        let likeness = (theirs.pid_namespace, theirs.user_namespace, user, group);
        let witness = self.called.entry(likeness).or_insert_with(|| {
            let way = own.way_to(&theirs, &process.directory);
            let called = way.and_then(|way| Witness::call(&way, (user, group)));
            called.map_err(|error| error.to_string())
        });
        let witness = witness.as_ref().map_err(Clone::clone)?;
        Ok((witness.label == theirs.label).then_some(witness.inner))
    }

    fn surroundings(&mut self, process: &FrozenProcess) -> Option<&Surroundings> {
        if self.last.0 != process.pid {
            self.last = (process.pid, Surroundings::of(&process.directory));
        }
        self.last.1.as_ref()
    }
}

/// One of them. It ends when this is dropped.
#[derive(Debug)]
struct Witness {
    /// Who started it, and waits for its end.
    starter: Answer,
    pid: i32,
    /// Its pid in its own namespace.
    inner: i32,
    label: Option<Vec<u8>>,
}

impl Witness {
    fn call(namespaces: &[File], (user, group): (u32, u32)) -> Result<Self> {
        let mut program: File = descriptor::memory_file(c"cryo-witness")
            .attempt(what)?
            .into();
        let stub = Stub::at(STUB.0, STUB.1).executable();
        program.write_all(&stub).attempt(what)?;
        let starter = finisher::ask(c"cryo-visitor", WHAT, |tell| {
            let witness = match start(namespaces, (user, group), &program) {
                Ok(witness) => witness,
                Err(error) => return i32::from(write!(tell, "{error}").is_err()),
            };
            let sent = tell.write_all(&witness.to_le_bytes());
            let _ = spawn::close_number(tell.as_raw_fd());
            // Our end kills it. It stands still until somebody kills it.
            while sent.is_ok()
                && matches!(wait::wait_for(witness), Ok(wait::Status::Stopped { .. }))
            {}
            0
        })?;
        // Its pid, else why there is none.
        let Ok(pid) = <[u8; 4]>::try_from(starter.bytes.as_slice()) else {
            let _ = starter.await_end(WHAT);
            let reason = String::from_utf8_lossy(&starter.bytes);
            return Err(Error::Failed(reason.into_owned()));
        };
        let pid = i32::from_le_bytes(pid);
        // From here on it ends with this.
        let mut witness = Self {
            starter,
            pid,
            inner: pid,
            label: None,
        };
        let directory = ProcessDirectory::open(pid)?;
        witness.label = directory.read("attr/current").ok();
        if let Some(&inner) = directory.status()?.namespace_pid.last() {
            witness.inner = inner;
        }
        Ok(witness)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // Its starter reaps it, and ends.
        let _ = spawn::kill(self.pid, libc::SIGKILL);
        let _ = self.starter.await_end(WHAT);
    }
}

/// Starts a witness and leaves it stopped right after its exec; gives its pid. In a process of its own.
fn start(namespaces: &[File], (user, group): (u32, u32), program: &File) -> Result<i32> {
    for namespace in namespaces {
        namespace::enter(namespace.as_fd()).attempt(what)?;
    }
    spawn::set_parent_death_signal(libc::SIGKILL).attempt(what)?;
    let (mut held, mut hold) = std::io::pipe().attempt(what)?;
    let arguments = StringArray::new(vec![c"cryo-witness".into()]);
    let environment = StringArray::new(Vec::new());
    let request = CloneRequest {
        exit_signal: libc::SIGCHLD,
        ..CloneRequest::default()
    };
    let started = spawn::clone_child(&request, || {
        let _ = spawn::close_number(hold.as_raw_fd());
        let ready = task::become_user(user, group)
            .and_then(|()| spawn::drop_capabilities())
            // Root has them all again after exec, and the task may not look at who has more than it has.
            .and_then(|()| spawn::gain_no_privileges())
            .is_ok();
        if ready && held.read_exact(&mut [0]).is_ok() {
            let _ = spawn::close_on_exec_from(0);
            let _ = spawn::execute_number(program.as_raw_fd(), &arguments, &environment);
        }
        1
    })
    .attempt(what)?;
    let pid = started.pid;
    let options = ptrace::KILL_WITH_TRACER | libc::PTRACE_O_TRACEEXEC;
    ptrace::seize(pid, options).attempt(what)?;
    hold.write_all(&[0]).attempt(what)?;
    match wait::wait_for(pid).attempt(what)? {
        wait::Status::Stopped {
            event: ptrace::EVENT_EXEC,
            ..
        } => Ok(pid),
        status => Err(Error::Failed(format!("{WHAT}: {status:?}"))),
    }
}
