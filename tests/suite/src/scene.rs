//! A scene: one test's directory, user and processes, and the account of what happened in it.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::outcome::{Outcome, failed, skip};
use crate::program::Program;
use crate::{place, processes};

/// How long anything that a test waits for may take.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The ids of the ordinary user that tests run by root take on: nobody of that name need exist.
pub const ORDINARY_ID: u32 = 4242;

/// Who runs the program under test and the `cryo` that acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// The superuser; skipped where the tests do not run as root.
    Root,
    /// An ordinary user without any privilege.
    Ordinary,
}

/// One test's surroundings; everything it started is ended when it is dropped.
#[derive(Debug)]
pub struct Scene {
    user: User,
    directory: PathBuf,
    cryo: PathBuf,
    launcher: PathBuf,
    history: RefCell<String>,
    outputs: RefCell<Vec<PathBuf>>,
    handles: RefCell<HashSet<i32>>,
    calls: Cell<u32>,
    kept: Cell<bool>,
    _alone: MutexGuard<'static, ()>,
}

/// Tests of one process run one after the other: each ends all descendants of the process.
static ALONE: Mutex<()> = Mutex::new(());
static SCENES: AtomicU32 = AtomicU32::new(0);

impl Scene {
    /// A fresh directory that belongs to `user`.
    pub fn new(name: &str, user: User) -> Outcome<Self> {
        let alone = ALONE
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let is_root = rustix::process::geteuid().is_root();
        if user == User::Root && !is_root {
            return skip("needs root");
        }
        processes::adopt_orphans();
        let cryo = place::cryo()?;
        let source = place::programs().join("launch.c");
        let launcher = place::compile("launch", &["gcc", "-O1", "-Wall", "-Werror"], &[source])?;
        let directory = std::env::temp_dir().join(format!(
            "cryonaut-test-{}-{}-{}",
            std::process::id(),
            SCENES.fetch_add(1, Ordering::Relaxed),
            name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_")
        ));
        let scene = Self {
            user,
            directory,
            cryo,
            launcher,
            history: RefCell::default(),
            outputs: RefCell::default(),
            handles: RefCell::default(),
            calls: Cell::new(0),
            kept: Cell::new(false),
            _alone: alone,
        };
        scene.make_directory("")?;
        for inner in ["work", "run", "tmp"] {
            scene.make_directory(inner)?;
        }
        Ok(scene)
    }

    /// Who acts.
    #[must_use]
    pub fn user(&self) -> User {
        self.user
    }

    /// The user id that acts.
    #[must_use]
    pub fn user_id(&self) -> u32 {
        match self.user {
            User::Ordinary if rustix::process::geteuid().is_root() => ORDINARY_ID,
            _ => rustix::process::geteuid().as_raw(),
        }
    }

    /// The `cryo` under test.
    #[must_use]
    pub fn cryo_path(&self) -> &Path {
        &self.cryo
    }

    /// A path in the scene's directory.
    #[must_use]
    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.join(name)
    }

    /// A path in the directory that programs are started in.
    #[must_use]
    pub fn work(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.join("work").join(name)
    }

    /// Creates a directory that belongs to the acting user (mode 0700, the scene's own 0755).
    pub fn make_directory(&self, name: &str) -> Outcome<PathBuf> {
        let path = if name.is_empty() {
            self.directory.clone()
        } else {
            self.directory.join(name)
        };
        fs::create_dir_all(&path)?;
        let mode = if name.is_empty() { 0o755 } else { 0o700 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        chown(&path, Some(self.user_id()), Some(self.user_id()))?;
        Ok(path)
    }

    /// Writes a file that belongs to the acting user.
    pub fn write(&self, path: &Path, content: impl AsRef<[u8]>) -> Outcome {
        fs::write(path, content)?;
        chown(path, Some(self.user_id()), Some(self.user_id()))?;
        Ok(())
    }

    /// Adds a line to the account that a failure prints.
    pub fn note(&self, text: impl AsRef<str>) {
        let mut history = self.history.borrow_mut();
        history.push_str(text.as_ref());
        history.push('\n');
    }

    /// Everything that a reader of a failure needs to know.
    #[must_use]
    pub fn account(&self) -> String {
        let mut text = format!(
            "--- as {} in {}\n{}",
            match self.user {
                User::Root => "root".to_owned(),
                User::Ordinary => format!("ordinary user {}", self.user_id()),
            },
            self.directory.display(),
            self.history.borrow()
        );
        for path in self.outputs.borrow().iter() {
            let content = fs::read(path).unwrap_or_default();
            let content = String::from_utf8_lossy(&content);
            if !content.trim().is_empty() {
                let name = path.strip_prefix(&self.directory).unwrap_or(path);
                text += &format!("--- {}\n{}\n", name.display(), shorten(content.trim_end()));
            }
        }
        let family = processes::describe_descendants();
        if !family.is_empty() {
            text += &format!("--- processes\n{family}");
        }
        text
    }

    /// Keeps the directory of a failed test where `CRYONAUT_KEEP` asks for it.
    pub fn keep_if_asked(&self) {
        if std::env::var_os("CRYONAUT_KEEP").is_some() {
            println!("kept: {}", self.directory.display());
            self.kept.set(true);
        }
    }

    /// A command as the acting user, in the working directory, with a small environment and no descriptors but the
    /// standard ones.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        self.launch("here", program)
    }

    /// As [`Scene::command`], in a session of its own.
    #[must_use]
    pub fn session_command(&self, program: &Path) -> Command {
        self.launch("session", program)
    }

    /// As [`Scene::command`], in a session of its own whose controlling terminal is standard input.
    #[must_use]
    pub fn terminal_command(&self, program: &Path) -> Command {
        self.launch("terminal", program)
    }

    /// Leaves this child of the tests to whoever waits for it.
    pub(crate) fn look_after(&self, pid: i32) {
        self.handles.borrow_mut().insert(pid);
    }

    fn launch(&self, place: &str, program: &Path) -> Command {
        let mut command = Command::new(&self.launcher);
        command
            .arg(place)
            .arg(program)
            .current_dir(self.directory.join("work"))
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", self.directory.join("work"))
            .env("TMPDIR", self.directory.join("tmp"))
            .env("XDG_RUNTIME_DIR", self.directory.join("run"))
            .env("LANG", "C.UTF-8")
            .env("VICTIM_GO", self.go_path())
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null());
        if rustix::process::geteuid().is_root() {
            // This also drops root's supplementary groups.
            command.uid(self.user_id()).gid(self.user_id());
        }
        command
    }

    /// The file whose appearance lets a victim go on.
    #[must_use]
    pub fn go_path(&self) -> PathBuf {
        self.directory.join("go")
    }

    /// Lets the victim go on.
    pub fn go(&self) -> Outcome {
        self.write(&self.go_path(), "")
    }

    /// An appending output file that belongs to the acting user; its content is part of the account.
    pub fn output_file(&self, name: &str) -> Outcome<(PathBuf, File)> {
        let path = self.directory.join(name);
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        chown(&path, Some(self.user_id()), Some(self.user_id()))?;
        if !self.outputs.borrow().contains(&path) {
            self.outputs.borrow_mut().push(path.clone());
        }
        Ok((path, file))
    }

    /// Starts a program in a session of its own, its output appended to LABEL.out and LABEL.err.
    pub fn start(&self, label: &str, program: &Program) -> Outcome<Running> {
        let mut command = self.session_command(&program.path);
        command.args(&program.arguments);
        command.envs(
            program
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        );
        self.spawn(label, command)
    }

    /// Starts a prepared command, its output appended to LABEL.out and LABEL.err.
    pub fn spawn(&self, label: &str, mut command: Command) -> Outcome<Running> {
        let (out, out_file) = self.output_file(&format!("{label}.out"))?;
        let (err, err_file) = self.output_file(&format!("{label}.err"))?;
        let what = describe(&command);
        let child = match command.stdout(out_file).stderr(err_file).spawn() {
            Ok(child) => child,
            Err(error) => return failed(format!("cannot start {what}: {error}")),
        };
        let pid = child.id() as i32;
        self.note(format!("{label}: process {pid}: {what}"));
        self.handles.borrow_mut().insert(pid);
        Ok(Running {
            label: label.to_owned(),
            pid,
            child: RefCell::new(child),
            status: Cell::new(None),
            out,
            err,
        })
    }

    /// A call of `cryo` with these arguments.
    pub fn cryo<T: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = T>) -> CryoCall<'_> {
        CryoCall {
            scene: self,
            program: self.cryo.clone(),
            arguments: arguments
                .into_iter()
                .map(|argument| argument.as_ref().to_owned())
                .collect(),
            environment: Vec::new(),
        }
    }

    /// Waits until `condition` gives something; the account says how the processes stood if it does not.
    pub fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut() -> Option<T>,
    ) -> Outcome<T> {
        let end = Instant::now() + limit;
        loop {
            if let Some(value) = condition() {
                return Ok(value);
            }
            if Instant::now() > end {
                return failed(format!("waited {} s for {what}", limit.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for a program's end.
    pub fn wait(&self, running: &Running) -> Outcome<ExitStatus> {
        self.wait_within(running, LIMIT)
    }

    /// Waits for a program's end, at most this long.
    pub fn wait_within(&self, running: &Running, limit: Duration) -> Outcome<ExitStatus> {
        let status = self.wait_for(&format!("the end of {}", running.label), limit, || {
            running.ended()
        })?;
        self.note(format!("{}: {}", running.label, describe_status(status)));
        self.handles.borrow_mut().remove(&running.pid);
        Ok(status)
    }

    /// Waits until these processes, as many as they are, stand in calls of their own with nobody tracing them, or nothing is left that
    /// this test has started; gives what is left. They are known by their names.
    pub fn whole_or_nothing(&self, names: &[&str]) -> Outcome<Vec<i32>> {
        let read = |pid: &i32, what: &str| {
            fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default()
        };
        let is_free = |pid: &i32| {
            let status = read(pid, "status");
            processes::state(*pid) == Some('S')
                && status.lines().any(|line| line == "TracerPid:\t0")
        };
        let mut wanted = names.to_vec();
        wanted.sort_unstable();
        self.wait_for("the whole job, or nothing", LIMIT, || {
            processes::reap_orphans(&Default::default());
            let left = processes::descendants(std::process::id() as i32);
            let named = left.iter().map(|pid| (pid, read(pid, "comm")));
            let job: Vec<_> = named
                .filter(|(_, name)| wanted.contains(&name.trim()))
                .collect();
            let mut found: Vec<_> = job.iter().map(|(_, name)| name.trim()).collect();
            found.sort_unstable();
            let whole = found == wanted && job.iter().all(|(pid, _)| is_free(pid));
            (whole || left.is_empty()).then_some(left)
        })
    }

    /// Kills these processes, and waits until nothing is left that this test has started.
    pub fn end_all(&self, pids: Vec<i32>) -> Outcome {
        for pid in pids {
            processes::signal(pid, Signal::KILL);
        }
        self.wait_for("the job to be gone", LIMIT, || {
            processes::reap_orphans(&Default::default());
            processes::descendants(std::process::id() as i32)
                .is_empty()
                .then_some(())
        })
    }

    /// Waits until these processes, killed before, have gone; reaps those that are left to this one.
    pub fn wait_for_disappearance(&self, pids: &[i32]) -> Outcome {
        self.wait_for("the killed processes to disappear", LIMIT, || {
            processes::reap_orphans(&self.handles.borrow());
            let handles = self.handles.borrow();
            pids.iter()
                .all(|pid| processes::state(*pid).is_none() || handles.contains(pid))
                .then_some(())
        })
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let left = processes::end_descendants();
        if !left.is_empty() {
            println!("processes that could not be ended: {left:?}");
        }
        if !self.kept.get() {
            // A file that cannot be removed is no reason to fail a test.
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// A program that was started.
#[derive(Debug)]
pub struct Running {
    label: String,
    pid: i32,
    child: RefCell<Child>,
    status: Cell<Option<ExitStatus>>,
    out: PathBuf,
    err: PathBuf,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Where its output goes.
    #[must_use]
    pub fn out_path(&self) -> &Path {
        &self.out
    }

    /// What it has written to standard output so far.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    /// What it has written to standard error so far.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.err).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        if self.status.get().is_none() {
            self.status
                .set(self.child.borrow_mut().try_wait().ok().flatten());
        }
        self.status.get()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if self.ended().is_none() {
            processes::signal(self.pid, signal);
        }
    }
}

/// A call of `cryo` that is about to be made.
#[derive(Debug)]
pub struct CryoCall<'scene> {
    scene: &'scene Scene,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl CryoCall<'_> {
    /// By another of the names that it has.
    #[must_use]
    pub fn by(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments<T: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments
            .extend(arguments.into_iter().map(|one| one.as_ref().to_owned()));
        self
    }

    /// Adds a program with its arguments, and its variables to the environment.
    #[must_use]
    pub fn program(mut self, program: &Program) -> Self {
        self.environment.extend(program.environment.iter().cloned());
        self.arguments([&program.path])
            .arguments(&program.arguments)
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The command, to be changed and run by hand.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = self.scene.command(&self.program);
        command.args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it with its output thrown away, sends it a signal after so long, and again each millisecond until it was sent `times`;
    /// gives how it ended.
    pub fn signalled_after(
        self,
        delay: Duration,
        signal: Signal,
        times: u32,
    ) -> Outcome<ExitStatus> {
        let mut command = self.command();
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        std::thread::sleep(delay);
        for time in 0..times {
            if time > 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            processes::signal(child.id() as i32, signal);
        }
        Ok(child.wait()?)
    }

    /// Kills it after so long; whether that was before its end.
    pub fn killed_after(self, delay: Duration) -> Outcome<bool> {
        let status = self.signalled_after(delay, Signal::KILL, 1)?;
        Ok(status.code().is_none())
    }

    /// Starts it; its output goes to LABEL.out and LABEL.err.
    pub fn start(self, label: &str) -> Outcome<Running> {
        self.scene.spawn(label, self.command())
    }

    /// Runs it to its end.
    pub fn run(self) -> Outcome<CryoResult> {
        let number = self.scene.calls.get() + 1;
        self.scene.calls.set(number);
        let start = Instant::now();
        let running = self
            .scene
            .spawn(&format!("cryo.{number}"), self.command())?;
        let status = self.scene.wait(&running)?;
        Ok(CryoResult {
            what: describe(&self.command()),
            status,
            stdout: running.output(),
            stderr: running.errors(),
            took: start.elapsed(),
        })
    }
}

/// How a call of `cryo` ended.
#[derive(Debug)]
pub struct CryoResult {
    /// The command line.
    pub what: String,
    /// Its status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl CryoResult {
    /// Fails unless it ended with 0.
    pub fn success(self) -> Outcome<Self> {
        if self.status.success() {
            return Ok(self);
        }
        failed(format!("{}: {}", self.what, describe_status(self.status)))
    }

    /// Fails unless it refused in an orderly way: an exit status that is not 0 and no panic, and a text of a few lines
    /// that contains all of `words` (in any case).
    pub fn refusal(self, words: &[&str]) -> Outcome<Self> {
        // `cryo check` tells its reasons as its result.
        let told = if self.stderr.is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        let text = told.to_lowercase();
        match self.status.code() {
            None => failed(format!("{}: {}", self.what, describe_status(self.status))),
            Some(0) => failed(format!("{}: succeeded, but should not have", self.what)),
            Some(1) => failed(format!("{}: ended as something unexpected", self.what)),
            Some(101) => failed(format!("{}: panicked", self.what)),
            Some(_) if text.contains("panicked at") => failed(format!("{}: panicked", self.what)),
            Some(_) if text.trim().is_empty() => failed(format!("{}: gave no reason", self.what)),
            Some(_) if text.trim().lines().count() > 12 => {
                failed(format!("{}: said too much", self.what))
            }
            Some(_) => {
                let unsaid = |word: &&&str| !text.contains(&word.to_lowercase());
                match words.iter().find(unsaid) {
                    Some(word) => failed(format!("{}: no {word:?} in its reason", self.what)),
                    None => Ok(self),
                }
            }
        }
    }
}

impl CryoResult {
    /// As [`CryoResult::refusal`], with one of these exit statuses.
    pub fn refusal_with(self, codes: &[i32], words: &[&str]) -> Outcome<Self> {
        let result = self.refusal(words)?;
        if result
            .status
            .code()
            .is_some_and(|code| codes.contains(&code))
        {
            return Ok(result);
        }
        failed(format!(
            "{}: {}, expected one of {codes:?}",
            result.what,
            describe_status(result.status)
        ))
    }
}

/// A command line as a person would type it, without the launcher.
fn describe(command: &Command) -> String {
    let words: Vec<_> = command
        .get_args()
        .skip(1)
        .map(OsStr::to_string_lossy)
        .collect();
    words.join(" ")
}

/// An end in words.
#[must_use]
pub fn describe_status(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (_, Some(signal)) => format!("ended by signal {signal}"),
        _ => format!("{status}"),
    }
}

/// The beginning and the end of a long text.
fn shorten(text: &str) -> String {
    const PART: usize = 3000;
    if text.len() <= 2 * PART {
        return text.to_owned();
    }
    let head = text.floor_char_boundary(PART);
    let tail = text.ceil_char_boundary(text.len() - PART);
    format!(
        "{}\n[… {} bytes …]\n{}",
        &text[..head],
        tail - head,
        &text[tail..]
    )
}
