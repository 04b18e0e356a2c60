//! Fresh namespaces for a job, and the supervisor's side of the talk with their init.
//!
//! A process between (the "forge") leaves the caller's namespaces, sets the new ones up and clones the
//! init into them with CLONE_PARENT, so that init is a child of the caller and the caller itself stays
//! where it is. What each step rests on: user_namespaces(7), pid_namespaces(7), mount_namespaces(7),
//! time_namespaces(7).

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryonaut_sys::spawn::message::{self, Waiting};
use cryonaut_sys::spawn::signal::{self, SignalSet};
use cryonaut_sys::spawn::{self, CloneRequest, WaitFor, namespace};

use crate::LaunchError;
use crate::birth::{self, Birth, Planned};
use crate::child::{Child, ChildSpec, SharesSession, pid_of};
use crate::init;
use crate::nursery::{await_start, clone_failed};
use crate::order::{self, Message, Request};

/// Whether the job gets a user namespace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UserNamespace {
    /// Only if the caller lacks the capabilities that the other namespaces need.
    #[default]
    WhenNeeded,
    /// In any case. The caller's own uid and gid are mapped to themselves, all others show as nobody.
    Fresh,
    /// The caller's.
    Shared,
}

/// How far a clock of the job runs ahead of the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeOffset {
    /// Seconds, negative if it lags.
    pub seconds: i64,
    /// Nanoseconds on top, 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// Offsets of the job's clocks; neither clock may become negative (`ERANGE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeOffsets {
    /// CLOCK_MONOTONIC and its variants.
    pub monotonic: TimeOffset,
    /// CLOCK_BOOTTIME.
    pub boottime: TimeOffset,
}

/// What becomes of the job when its supervisor dies, by SIGKILL too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lifetime {
    /// Every process of it is killed. Init waits for orders even without children.
    WithSupervisor,
    /// It lives on; init ends when its last child has.
    #[default]
    Independent,
}

/// The /dev/pts that the job sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Terminals {
    /// That of the caller.
    #[default]
    Callers,
    /// One of its own, in which all numbers are free.
    Fresh,
}

/// Which namespaces are wanted. Pid, mount and IPC namespace are always fresh (in the last all ids of System V objects are free, and
/// all that is there is the job's), the network never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NamespaceRequest {
    /// About the user namespace.
    pub user: UserNamespace,
    /// Offsets for a fresh time namespace; `None` leaves the job in the caller's.
    pub time_offsets: Option<TimeOffsets>,
    /// What becomes of the job when the caller dies, to begin with.
    pub lifetime: Lifetime,
    /// Which pseudo-terminals the job sees.
    pub terminals: Terminals,
}

/// The steps of making namespaces that can fail, with the remedy for each.
const STEPS: [(&str, &str); 10] = [
    (
        "make a user namespace",
        "this system does not let you have one; ask for user.max_user_namespaces > 0 (and kernel.unprivileged_userns_clone = 1, kernel.apparmor_restrict_unprivileged_userns = 0 where these exist), or for CAP_CHECKPOINT_RESTORE on cryo",
    ),
    (
        "map your user into the new user namespace",
        "this system restricts user namespaces; on Ubuntu an AppArmor profile for cryo or kernel.apparmor_restrict_unprivileged_userns = 0 allows it",
    ),
    (
        "make pid, mount and IPC namespaces",
        "this system restricts user namespaces; on Ubuntu an AppArmor profile for cryo or kernel.apparmor_restrict_unprivileged_userns = 0 allows it",
    ),
    (
        "make a time namespace",
        "the kernel needs CONFIG_TIME_NS and user.max_time_namespaces > 0",
    ),
    (
        "set the clocks of the time namespace",
        "no clock may become negative: the offset asked for lies before this machine's start",
    ),
    (
        "make the mounts private",
        "the mount namespace refuses changes",
    ),
    (
        "start the init process",
        "the limit of processes (ulimit -u) may be reached",
    ),
    (
        "mount /proc",
        "parts of /proc are hidden here, as in many containers; run the container with its /proc unmasked (podman and docker: --security-opt systempaths=unconfined)",
    ),
    (
        "set up the init process",
        "this is unexpected; please report it",
    ),
    (
        "mount a /dev/pts of the job's own",
        "the job has pseudo-terminals, whose numbers have to be free: there must be a directory /dev/pts",
    ),
];

/// A step of [`STEPS`] by its place.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    User = 0,
    Map = 1,
    PidAndMount = 2,
    Time = 3,
    Clocks = 4,
    Private = 5,
    Init = 6,
    Proc = 7,
    Setup = 8,
    Terminals = 9,
}

pub(crate) type Failure = (Step, io::Error);

pub(crate) fn at(step: Step) -> impl Fn(io::Error) -> Failure {
    move |error| (step, error)
}

/// Fresh namespaces with their init process, which starts the job's processes on request.
///
/// Dropping it closes the socket to init, and [`Lifetime`] says what follows.
#[derive(Debug)]
pub struct Namespaces {
    init_pid: i32,
    init_pidfd: OwnedFd,
    socket: OwnedFd,
    waiting: Mutex<VecDeque<Message>>,
}

impl Namespaces {
    /// Makes the namespaces and their init: pid 1 in them, a child of the caller, with /proc mounted
    /// afresh, mounts private, working directory, umask and limits as the caller's.
    ///
    /// Call it early: init keeps a copy-on-write copy of the caller's memory.
    pub fn create(request: &NamespaceRequest) -> Result<Namespaces, LaunchError> {
        let system = LaunchError::system;
        let fresh_user = match request.user {
            UserNamespace::Fresh => true,
            UserNamespace::Shared => false,
            UserNamespace::WhenNeeded => {
                !privileged(request).map_err(system("read the capabilities of this process"))?
            }
        };
        let (ours, theirs) = message::message_sockets().map_err(system("open a socket pair"))?;
        let mask = signal::set_signal_mask(SignalSet::FULL).map_err(system("block signals"))?;
        let forge = spawn::fork_child(|| {
            let forge = Forge {
                request,
                fresh_user,
                socket: theirs.as_fd(),
            };
            forge.run()
        });
        signal::set_signal_mask(mask).map_err(system("unblock signals"))?;
        let forge = forge.map_err(system("start a process"))?;
        drop(theirs);
        let outcome = meet_init(ours.as_fd());
        spawn::wait_for(WaitFor::Pid(forge.pid), libc::WEXITED)
            .map_err(system("wait for the process that makes the namespaces"))?;
        let (init_pid, met) = outcome;
        if let Err(error) = met {
            if let Some(pid) = init_pid {
                // It ends by itself after a failure.
                let _ = spawn::wait_for(WaitFor::Pid(pid), libc::WEXITED);
            }
            return Err(error);
        }
        let init_pid = init_pid.ok_or(LaunchError::InitGone)?;
        // Our own child that nobody has waited for: the number is still its.
        let init_pidfd = cryonaut_sys::pidfd::open(init_pid)
            .map_err(system("open a descriptor of the init process"))?;
        Ok(Namespaces {
            init_pid,
            init_pidfd,
            socket: ours,
            waiting: Mutex::default(),
        })
    }

    /// The pid of init as the caller sees it.
    pub fn init_pid(&self) -> i32 {
        self.init_pid
    }

    /// A descriptor that refers to init; readable when it has ended, and all processes with it.
    pub fn init_pidfd(&self) -> BorrowedFd<'_> {
        self.init_pidfd.as_fd()
    }

    /// The inode number of the pid namespace, which identifies it while it exists.
    pub fn pid_namespace(&self) -> io::Result<u64> {
        Ok(fs::metadata(format!("/proc/{}/ns/pid", self.init_pid))?.ino())
    }

    /// Starts a process; see [`crate::Nursery::spawn`].
    pub fn spawn(&self, spec: &ChildSpec) -> Result<Child, LaunchError> {
        let Planned {
            birth,
            numbers,
            listener,
            speaker,
            gate,
        } = Birth::plan(spec)?;
        birth::check_count(&numbers)?;
        let orders = write_orders(&birth).map_err(LaunchError::system("write down the orders"))?;
        let mut descriptors = vec![orders.as_raw_fd()];
        descriptors.extend(&numbers);
        let mut queue = self.queue();
        let (reply, mut received) = self.ask(&mut queue, Request::Spawn, &descriptors)?;
        drop(speaker);
        let inner_pid = match reply {
            Message::Born(inner_pid) => inner_pid,
            Message::NotBorn(errno) => {
                return Err(clone_failed(spec, io::Error::from_raw_os_error(errno)));
            }
            _ => return Err(LaunchError::InitGone),
        };
        let pidfd = received.pop().ok_or(LaunchError::InitGone)?;
        // Init does not reap before it hears Seen, so the pid can be read even if the child has ended.
        let pid = pid_of(pidfd.as_fd()).map_err(LaunchError::system("read the new pid"))?;
        self.tell(Request::Seen, &[])?;
        drop(queue);
        let child = Child {
            pid: pid.ok_or(LaunchError::InitGone)?,
            inner_pid,
            pidfd,
            shares_session: SharesSession::No,
            program: spec.name(),
            report: Some(listener.into()),
            gate: gate.map(|gate| gate.opens),
        };
        await_start(child, spec)
    }

    /// Says what becomes of the job when the caller dies.
    pub fn set_lifetime(&self, lifetime: Lifetime) -> Result<(), LaunchError> {
        let request = match lifetime {
            Lifetime::WithSupervisor => Request::LiveWithSupervisor,
            Lifetime::Independent => Request::LiveIndependently,
        };
        self.order(request, &[])
    }

    /// Makes a process that others have borne here, as a child of init (clone(2), CLONE_PARENT), the root of the job.
    pub(crate) fn adopt(&self, inner_pid: i32) -> Result<(), LaunchError> {
        self.order(Request::Adopt(inner_pid), &[])
    }

    /// Has the next process or thread born here get this id.
    pub(crate) fn choose_next_id(&self, id: i32) -> Result<(), LaunchError> {
        self.order(Request::NextId(id), &[])
    }

    /// Lets init keep this pty master too, so that the terminal survives the caller's death and
    /// [`held_terminal`] can take it up again. From then on init writes the root's exit code to the pipe of [`held_status`].
    pub fn hold_terminal(&self, master: BorrowedFd<'_>) -> Result<(), LaunchError> {
        self.order(Request::Hold(HELD_TERMINAL), &[master.as_raw_fd()])?;
        let (reader, writer) = io::pipe().map_err(LaunchError::system("open a pipe"))?;
        self.order(Request::Hold(HELD_STATUS), &[reader.as_raw_fd()])?;
        self.order(Request::Hold(TOLD_STATUS), &[writer.as_raw_fd()])
    }

    /// Has init keep it no longer.
    pub fn release_terminal(&self) -> Result<(), LaunchError> {
        let nothing =
            std::fs::File::open("/dev/null").map_err(LaunchError::system("open /dev/null"))?;
        self.order(Request::Hold(HELD_TERMINAL), &[nothing.as_raw_fd()])
    }

    /// Lets init keep a mount namespace (a descriptor of /proc/PID/ns/mnt): files that processes of the job have open by mounts
    /// of it keep their paths then (a namespace that nobody holds loses its mounts, `put_mnt_ns` in fs/namespace.c).
    pub fn hold_mounts(&self, mounts: BorrowedFd<'_>) -> Result<(), LaunchError> {
        self.order(Request::Hold(HELD_MOUNTS), &[mounts.as_raw_fd()])
    }

    /// Ends init, and with it every process in the namespaces, and waits until they are gone.
    pub fn end(self) -> Result<(), LaunchError> {
        let killed = cryonaut_sys::pidfd::send_signal(self.init_pidfd.as_fd(), libc::SIGKILL);
        match killed {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                return Err(LaunchError::System {
                    what: "end the job's init process",
                    source: error,
                });
            }
            _ => {}
        }
        let pidfd = WaitFor::Descriptor(self.init_pidfd.as_fd());
        match spawn::wait_for(pidfd, libc::WEXITED) {
            // Somebody else has waited for it already.
            Err(error) if error.raw_os_error() != Some(libc::ECHILD) => Err(LaunchError::System {
                what: "wait for the job's init process",
                source: error,
            }),
            _ => Ok(()),
        }
    }

    /// The socket from init, readable when there may be a notice.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The next thing init told by itself, without waiting; an error `InitGone` after the last one.
    pub(crate) fn notice(&self) -> Result<Option<Message>, LaunchError> {
        let mut queue = self.queue();
        if let Some(message) = queue.pop_front() {
            return Ok(Some(message));
        }
        match receive(self.socket(), Waiting::Never) {
            Ok((message, _)) => Ok(Some(message)),
            Err(LaunchError::System { source, .. })
                if source.kind() == io::ErrorKind::WouldBlock =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Message>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, request: Request, descriptors: &[RawFd]) -> Result<(), LaunchError> {
        let mut queue = self.queue();
        match self.ask(&mut queue, request, descriptors)?.0 {
            Message::Done => Ok(()),
            Message::NotDone(errno) => Err(LaunchError::System {
                what: "have the job's init process carry out an order",
                source: io::Error::from_raw_os_error(errno),
            }),
            _ => Err(LaunchError::InitGone),
        }
    }

    fn tell(&self, request: Request, descriptors: &[RawFd]) -> Result<(), LaunchError> {
        let bytes = request.encode();
        message::send_message(self.socket(), &bytes, descriptors, Waiting::Block).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EPIPE | libc::ECONNRESET) => LaunchError::InitGone,
                _ => LaunchError::System {
                    what: "talk to the job's init process",
                    source: error,
                },
            }
        })
    }

    fn ask(
        &self,
        queue: &mut VecDeque<Message>,
        request: Request,
        descriptors: &[RawFd],
    ) -> Result<(Message, Vec<OwnedFd>), LaunchError> {
        self.tell(request, descriptors)?;
        loop {
            match receive(self.socket(), Waiting::Block)? {
                (notice @ (Message::Root(..) | Message::Empty), _) => queue.push_back(notice),
                reply => return Ok(reply),
            }
        }
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // Only tidies up: an init that has ended already is reaped, a living one is left alone.
        let _ = spawn::wait_now(WaitFor::Descriptor(self.init_pidfd.as_fd()), libc::WEXITED);
    }
}

/// The number at which init, or a keeper outside of namespaces, keeps a terminal.
pub const HELD_TERMINAL: RawFd = 100;
/// The two ends of the pipe that init tells the root's exit code on.
const HELD_STATUS: RawFd = 101;
pub(crate) const TOLD_STATUS: RawFd = 102;

/// The number at which init keeps a mount namespace.
const HELD_MOUNTS: RawFd = 103;

/// Takes the pty master that the init, or the keeper, with this pid keeps for its job; `None` if it keeps none.
pub fn held_terminal(keeper: i32) -> io::Result<Option<OwnedFd>> {
    held(keeper, HELD_TERMINAL)
}

/// Takes the pipe on which the init with this pid tells the root's exit code, one byte; `None` if it has none.
pub fn held_status(init_pid: i32) -> io::Result<Option<OwnedFd>> {
    held(init_pid, HELD_STATUS)
}

fn held(keeper: i32, number: RawFd) -> io::Result<Option<OwnedFd>> {
    let keeper = cryonaut_sys::pidfd::open(keeper)?;
    match cryonaut_sys::pidfd::get_descriptor(keeper.as_fd(), number) {
        Ok(descriptor) => Ok(Some(descriptor)),
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => Ok(None),
        Err(error) => Err(error),
    }
}

fn receive(
    socket: BorrowedFd<'_>,
    waiting: Waiting,
) -> Result<(Message, Vec<OwnedFd>), LaunchError> {
    let mut room = [0; order::LENGTH];
    let received = match message::receive_message(socket, &mut room, waiting) {
        // The other end closed with something unread; what it had said is still there.
        Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => {
            message::receive_message(socket, &mut room, waiting)
        }
        received => received,
    };
    let (length, descriptors) =
        received.map_err(LaunchError::system("hear from the job's init process"))?;
    let message = Message::decode(&room[..length]).ok_or(LaunchError::InitGone)?;
    Ok((message, descriptors))
}

fn write_orders(birth: &Birth) -> io::Result<File> {
    let mut file = File::from(cryonaut_sys::descriptor::memory_file(c"cryo-orders")?);
    file.write_all(&birth.encode())?;
    file.rewind()?;
    Ok(file)
}

/// Listens until init is ready or something failed; returns init's pid as soon as one was made.
fn meet_init(socket: BorrowedFd<'_>) -> (Option<i32>, Result<(), LaunchError>) {
    let mut init_pid = None;
    loop {
        match receive(socket, Waiting::Block) {
            Ok((Message::Forged(pid), _)) => init_pid = Some(pid),
            // The two are sent by different processes and may come in either order.
            Ok((Message::Ready, _)) if init_pid.is_some() => return (init_pid, Ok(())),
            Ok((Message::Ready, _)) => match receive(socket, Waiting::Block) {
                Ok((Message::Forged(pid), _)) => return (Some(pid), Ok(())),
                Ok(_) => return (None, Err(LaunchError::InitGone)),
                Err(error) => return (None, Err(error)),
            },
            Ok((Message::Failed { step, errno }, _)) => {
                let (step, advice) = STEPS[(step as usize).min(STEPS.len() - 1)];
                let source = io::Error::from_raw_os_error(errno);
                return (
                    init_pid,
                    Err(LaunchError::Namespaces {
                        step,
                        source,
                        advice,
                    }),
                );
            }
            Ok(_) => return (init_pid, Err(LaunchError::InitGone)),
            Err(error) => return (init_pid, Err(error)),
        }
    }
}

/// `CAP_SYS_TIME` (include/uapi/linux/capability.h).
const CAP_SYS_TIME: u64 = 1 << 25;

/// The capabilities, as a set, with which namespaces are made without a user namespace ([`UserNamespace::WhenNeeded`]):
/// `CAP_SYS_ADMIN`, and for clocks that are set `CAP_SYS_TIME`, which containers of root most often lack.
pub const WITHOUT_USER_NAMESPACE: u64 = 1 << 21 | CAP_SYS_TIME;

/// Whether the caller may make what is asked for without a user namespace.
fn privileged(request: &NamespaceRequest) -> io::Result<bool> {
    let clocks = request.time_offsets.map_or(CAP_SYS_TIME, |_| 0);
    let needed = WITHOUT_USER_NAMESPACE & !clocks;
    Ok(spawn::effective_capabilities()? & needed == needed)
}

/// The process that makes the namespaces and clones init into them.
struct Forge<'a> {
    request: &'a NamespaceRequest,
    fresh_user: bool,
    socket: BorrowedFd<'a>,
}

impl Forge<'_> {
    fn run(&self) -> i32 {
        match self.work() {
            Ok(init_pid) => {
                say(self.socket, Message::Forged(init_pid));
                0
            }
            Err(failure) => {
                say_failure(self.socket, &failure);
                1
            }
        }
    }

    fn work(&self) -> Result<i32, Failure> {
        signal::reset_signal_actions();
        // A cryo with file capabilities is not dumpable, and its /proc files belong to root.
        spawn::allow_inspection().map_err(at(Step::Setup))?;
        if self.fresh_user {
            enter_user_namespace()?;
        }
        let always = namespace::MOUNT | namespace::PID | namespace::IPC;
        spawn::unshare(always).map_err(at(Step::PidAndMount))?;
        if let Some(offsets) = &self.request.time_offsets {
            spawn::unshare(namespace::TIME).map_err(at(Step::Time))?;
            // Takes effect for children, and is possible only before the first one.
            set_clocks(offsets).map_err(at(Step::Clocks))?;
        }
        make_mounts_private()?;
        let clone = CloneRequest {
            flags: spawn::CLONE_PARENT,
            ..CloneRequest::default()
        };
        let request = self.request;
        // As good as any number, and no other job that lives now has been given it.
        let first = spawn::own_pid();
        let init = spawn::clone_child(&clone, || init::run(self.socket, request, first))
            .map_err(at(Step::Init))?;
        Ok(init.pid)
    }
}

/// Puts the calling process, which must have one thread, into a fresh user namespace where its user and group are mapped to
/// themselves.
fn enter_user_namespace() -> Result<(), Failure> {
    let (user, group) = (spawn::effective_user(), spawn::effective_group());
    spawn::unshare(namespace::USER).map_err(at(Step::User))?;
    // The kernel lets an ordinary user map a group only after giving up setgroups(2).
    let map = |file: &str, text: &str| {
        fs::write(format!("/proc/self/{file}"), text).map_err(at(Step::Map))
    };
    map("setgroups", "deny")?;
    map("uid_map", &format!("{user} {user} 1"))?;
    map("gid_map", &format!("{group} {group} 1"))
}

fn make_mounts_private() -> Result<(), Failure> {
    let private = libc::MS_REC | libc::MS_PRIVATE;
    spawn::mount(c"none", c"/", None, private).map_err(at(Step::Private))
}

/// Puts the calling process itself into a mount namespace of its own, whose changes nobody else sees; without CAP_SYS_ADMIN into
/// a user namespace first, in which it has all capabilities. `UserNamespace::Fresh` says that it did so.
///
/// # Errors
/// [`LaunchError::Namespaces`] where the system does not permit it, or the process has several threads.
pub fn enter_private_mounts() -> Result<UserNamespace, LaunchError> {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let held = spawn::effective_capabilities()
        .map_err(LaunchError::system("read the capabilities of this process"))?;
    let user = match held & CAP_SYS_ADMIN {
        0 => UserNamespace::Fresh,
        _ => UserNamespace::Shared,
    };
    let entered = || {
        if user == UserNamespace::Fresh {
            spawn::allow_inspection().map_err(at(Step::Setup))?;
            enter_user_namespace()?;
        }
        spawn::unshare(namespace::MOUNT).map_err(at(Step::PidAndMount))?;
        make_mounts_private()
    };
    entered().map(|()| user).map_err(|(step, source)| {
        let (step, advice) = STEPS[step as usize];
        LaunchError::Namespaces {
            step,
            source,
            advice,
        }
    })
}

pub(crate) fn say(socket: BorrowedFd<'_>, message: Message) {
    // If the supervisor is gone, nobody wants to know.
    let _ = message::send_message(socket, &message.encode(), &[], Waiting::Block);
}

pub(crate) fn say_failure(socket: BorrowedFd<'_>, (step, error): &Failure) {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    say(
        socket,
        Message::Failed {
            step: *step as i32,
            errno,
        },
    );
}

/// Moves the clocks of the time namespace for children ahead by these offsets.
fn set_clocks(offsets: &TimeOffsets) -> io::Result<()> {
    const FILE: &str = "/proc/self/timens_offsets";
    // The file counts from the machine's own clocks; the caller may live in a time namespace already.
    let present = fs::read_to_string(FILE)?;
    let mut lines = String::new();
    for (clock, ahead) in [
        ("monotonic", offsets.monotonic),
        ("boottime", offsets.boottime),
    ] {
        let (seconds, nanoseconds) = present
            .lines()
            .find_map(|line| clock_line(line, clock))
            .ok_or(io::ErrorKind::InvalidData)?;
        let sum = i64::from(nanoseconds) + i64::from(ahead.nanoseconds);
        let seconds = seconds
            .saturating_add(ahead.seconds)
            .saturating_add(sum / 1_000_000_000);
        lines.push_str(&format!("{clock} {seconds} {}\n", sum % 1_000_000_000));
    }
    fs::write(FILE, lines)
}

fn clock_line(line: &str, clock: &str) -> Option<(i64, u32)> {
    let mut fields = line.split_whitespace();
    if fields.next()? != clock {
        return None;
    }
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
