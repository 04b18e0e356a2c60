//! `cr_restart`: brings processes back from a context file, and ends as they do.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use cryonaut_engine::dialogue;
use cryonaut_engine::restart::Restarted;
use cryonaut_engine::target::{Scope, Target};
use cryonaut_launch::{Ended, Nursery};
use cryonaut_sys::spawn::signal::{SignalSet, default_signal_action, set_signal_mask};
use cryonaut_sys::{spawn, task};

use super::caller::Caller;
use super::errno::{CR_ERSTRTABRT, Trouble, of_system};
use super::options::{Known, Line, Value, option, parse};
use super::{Messages, Speech, USAGE, VERSION, complain, print, signal, tell};
use crate::console::{Console, Form};
use crate::exit::{Code, Failure};

const HELP: &str = "\
Usage: cr_restart [options] FILE
Brings processes back from a context file of cr_checkpoint, waits for the first of them, and ends as that does.

  -f FILE, -F FD           the context file, in place of FILE
  --relocate OLD=NEW       what was at the path OLD is at NEW now (up to 16 times)
  --restore-pid            the processes have their own pids (the default): here where they are
                           free and you may, otherwise in a pid namespace of their own
  --no-restore-pid         they have them in a pid namespace of their own
  -S NUM, --run, --stop, --term, --kill, --abort, --cont
                           the signal that they get when their callbacks are done (none)
  --run-on-success=COMMAND, --run-on-failure=COMMAND,
  --run-on-fail-args=COMMAND, --run-on-fail-temp=COMMAND,
  --run-on-fail-env=COMMAND, --run-on-fail-perm=COMMAND
                           a command for the shell; if that fails cr_restart ends as it did
  --restore-pgid, --no-restore-pgid, --restore-sid, --no-restore-sid
                           process groups and sessions come back in any case
  --omit-maybe, --omit-always, --omit-never
                           cr_restart is no part of later checkpoints in any case
  --kmsg-none, --kmsg-error, --kmsg-warning
                           say more: never, after a failure (the default), always
  -q, --quiet, -?, -h, --help, -v, --version
";

const KNOWN: &[Known] = &[
    option("file", "f", Value::Needed),
    option("fd", "F", Value::Needed),
    option("dir", "d", Value::Needed),
    option("relocate", "", Value::Needed),
    option("restore-pid", "", Value::None),
    option("no-restore-pid", "", Value::None),
    option("restore-pgid", "", Value::None),
    option("no-restore-pgid", "", Value::None),
    option("restore-sid", "", Value::None),
    option("no-restore-sid", "", Value::None),
    option("omit-maybe", "", Value::None),
    option("omit-always", "", Value::None),
    option("omit-never", "", Value::None),
    option("signal", "S", Value::Needed),
    option("run", "", Value::None),
    option("stop", "", Value::None),
    option("freeze", "", Value::None),
    option("term", "", Value::None),
    option("kill", "", Value::None),
    option("abort", "", Value::None),
    option("cont", "", Value::None),
    option("run-on-success", "", Value::Needed),
    option("run-on-failure", "", Value::Needed),
    option("run-on-fail-args", "", Value::Needed),
    option("run-on-fail-temp", "", Value::Needed),
    option("run-on-fail-env", "", Value::Needed),
    option("run-on-fail-perm", "", Value::Needed),
    option("kmsg-none", "", Value::None),
    option("kmsg-error", "", Value::None),
    option("kmsg-warning", "", Value::None),
    option("quiet", "q", Value::None),
    option("help", "h", Value::None),
    option("version", "v", Value::None),
    option("", "?", Value::None),
    // For libcr, which starts this command.
    option("answer-to", "", Value::Needed),
    option("ring", "", Value::Needed),
    option("for-process", "", Value::Needed),
];

/// The most relocations (CR_MAX_RSTRT_RELOC).
const MOST_RELOCATIONS: usize = 16;

/// How long callbacks may take in a restarted life.
const PATIENCE: Duration = Duration::from_secs(3600);

/// How a command ends that stands in for a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// With an exit code that tells how the job ended.
    #[default]
    Code,
    /// As the job did, by a signal too.
    Same,
}

impl Ending {
    /// Ends so, or gives the exit status.
    pub fn status(self, ended: Ended) -> u8 {
        /// RLIMIT_CORE (include/uapi/asm-generic/resource.h), which each C library gives another type.
        const CORE: u32 = 4;
        if let (Ending::Same, Ended::Killed(signal)) = (self, ended) {
            let none = task::limit(0, CORE).map(|limit| task::Limit { soft: 0, ..limit });
            // It was its memory that was of interest.
            let _ = none.and_then(|none| task::set_limit(0, CORE, none));
            let _ = default_signal_action(signal);
            let _ = set_signal_mask(SignalSet::of(&[]));
            let _ = spawn::kill(spawn::own_pid(), signal);
        }
        ended.exit_code()
    }
}

/// How a restart by this command differs.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    signal: i32,
    hooks: Hooks,
    caller: Caller,
}

/// What is run at an event, for the shell.
#[derive(Clone, Debug, Default)]
struct Hooks {
    success: Option<OsString>,
    arguments: Option<OsString>,
    temporary: Option<OsString>,
    environment: Option<OsString>,
    permanent: Option<OsString>,
}

#[derive(Debug, Default)]
struct Request {
    source: Option<PathBuf>,
    /// In place of that.
    number: Option<i32>,
    relocations: Vec<OsString>,
    in_namespace: Option<OsString>,
    manner: Manner,
    speech: Speech,
    messages: Messages,
}

/// Brings them back.
pub fn run(words: Vec<OsString>) -> u8 {
    let is_quiet = words.iter().any(|word| word == "-q" || word == "--quiet");
    let mut request = Request {
        speech: match is_quiet {
            true => Speech::Quiet,
            false => Speech::Normal,
        },
        ..Request::default()
    };
    match request.understand(words) {
        Ok(None) => {}
        Ok(Some(text)) => return print(&text),
        Err((status, text)) => {
            if let Some(status) = hook(request.manner.hooks.arguments.as_ref()) {
                return status;
            }
            complain(request.speech, &format!("cr_restart: {text}"));
            return status;
        }
    }
    request.restart()
}

/// Runs a command; its status if it has failed.
fn hook(command: Option<&OsString>) -> Option<u8> {
    let status = Command::new("/bin/sh").arg("-c").arg(command?).status();
    match status {
        Ok(status) if status.success() => None,
        Ok(status) => Some(status.code().map_or(USAGE, |code| code as u8)),
        Err(_) => Some(127),
    }
}

impl Request {
    /// Takes the command line; gives what is to be printed instead, if anything is.
    ///
    /// # Errors
    /// An exit status, and what is wrong.
    fn understand(&mut self, words: Vec<OsString>) -> Result<Option<String>, (u8, String)> {
        let invalid = |text: &str| (libc::EINVAL as u8, text.to_owned());
        let Line { options, operands } = parse(words, KNOWN).map_err(|text| (USAGE, text))?;
        for (name, value) in options {
            let value = value.unwrap_or_default();
            let number = || value.to_str().and_then(|text| text.parse::<i32>().ok());
            match name.as_str() {
                "file" => self.from(value.into())?,
                "fd" => {
                    let number = number().filter(|number| *number >= 0);
                    let number = number.ok_or_else(|| invalid("this is no descriptor"))?;
                    self.number = Some(number);
                    self.from(PathBuf::from("the descriptor"))?;
                }
                "dir" => return Err(invalid("there are no directories of context files")),
                "relocate" => {
                    self.relocations.extend(relocation(&value).ok_or_else(|| {
                        invalid("--relocate takes two absolute paths, as OLD=NEW")
                    })?)
                }
                "no-restore-pid" => self.in_namespace = Some("--pids=namespace".into()),
                "restore-pid" => self.in_namespace = None,
                "signal" => {
                    let number = signal(&value);
                    self.manner.signal =
                        number.ok_or_else(|| invalid("there is no such signal"))?;
                }
                "answer-to" => self.manner.caller.answer = number(),
                "ring" => self.manner.caller.ring = number(),
                "for-process" => self.manner.caller.process = number(),
                "help" | "?" => return Ok(Some(HELP.to_owned())),
                "version" => return Ok(Some(format!("cr_restart version {VERSION}\n"))),
                other => self.flag(other, value),
            }
        }
        for operand in operands {
            match self.source.is_some() {
                true => return Err((USAGE, "there is more than one context file".into())),
                false => self.from(operand.into())?,
            }
        }
        match (&self.source, self.relocations.len()) {
            (None, _) => Err((USAGE, "give a context file; try cr_restart --help".into())),
            (_, count) if count > MOST_RELOCATIONS => {
                Err(invalid("there are too many relocations"))
            }
            _ => Ok(None),
        }
    }

    fn from(&mut self, source: PathBuf) -> Result<(), (u8, String)> {
        match self.source.replace(source) {
            None => Ok(()),
            Some(_) => Err((
                libc::EINVAL as u8,
                "there is more than one context file".into(),
            )),
        }
    }

    fn flag(&mut self, name: &str, value: OsString) {
        let Manner { signal, hooks, .. } = &mut self.manner;
        match name {
            "run" => *signal = 0,
            "stop" | "freeze" => *signal = libc::SIGSTOP,
            "term" => *signal = libc::SIGTERM,
            "kill" => *signal = libc::SIGKILL,
            "abort" => *signal = libc::SIGABRT,
            "cont" => *signal = libc::SIGCONT,
            "run-on-success" => hooks.success = Some(value),
            "run-on-fail-args" => hooks.arguments = Some(value),
            "run-on-fail-temp" => hooks.temporary = Some(value),
            "run-on-fail-env" => hooks.environment = Some(value),
            "run-on-fail-perm" => hooks.permanent = Some(value),
            "run-on-failure" => {
                let all = [
                    &mut hooks.arguments,
                    &mut hooks.temporary,
                    &mut hooks.environment,
                    &mut hooks.permanent,
                ];
                all.into_iter().for_each(|hook| *hook = Some(value.clone()));
            }
            "kmsg-none" => self.messages = Messages::Never,
            "kmsg-error" => self.messages = Messages::OnFailure,
            "kmsg-warning" => self.messages = Messages::Always,
            // What comes back in any case, and being quiet.
            _ => {}
        }
    }

    fn restart(self) -> u8 {
        let caller = self.manner.caller;
        let mut source = self.source.clone().unwrap_or_default();
        // Kept open until it is read.
        let opened = match self.number {
            Some(number) => caller.open(number),
            None => File::open(&source).map_err(|error| of_system(&error)),
        };
        if let (Some(_), Ok(file)) = (self.number, &opened) {
            source = format!("/proc/self/fd/{}", file.as_raw_fd()).into();
        }
        if let Err(trouble) = &opened {
            caller.answer(trouble.number, &[]);
            if let Some(status) = hook(self.manner.hooks.arguments.as_ref()) {
                return status;
            }
            complain(
                self.speech,
                &format!("Failed to open {}: {}", source.display(), trouble.text()),
            );
            return USAGE;
        }
        let mut words: Vec<OsString> = vec!["restart".into()];
        for relocation in &self.relocations {
            words.push("--relocate".into());
            words.push(relocation.clone());
        }
        words.extend(self.in_namespace.clone());
        words.push("--".into());
        words.push(std::path::absolute(&source).unwrap_or(source).into());
        let console = Console { form: Form::Text };
        let hooks = self.manner.hooks.clone();
        let failure = match crate::command::restart_as_blcr(words, self.manner, console) {
            Ok(status) => return status,
            Err(failure) => failure,
        };
        let trouble = trouble(failure);
        caller.answer(trouble.number, &[]);
        let command = match trouble.number {
            libc::ENOMEM | libc::EBUSY => hooks.temporary,
            libc::EACCES
            | libc::EPERM
            | libc::ENOENT
            | libc::EEXIST
            | libc::EISDIR
            | libc::ENOTDIR => hooks.environment,
            _ => hooks.permanent,
        };
        if let Some(status) = hook(command.as_ref()) {
            return status;
        }
        complain(self.speech, &format!("Restart failed: {}", trouble.text()));
        if self.messages != Messages::Never {
            tell(self.speech, &trouble.details);
        }
        trouble.status()
    }
}

/// What it is that failed: a refusal is about what is not here as it was.
fn trouble(failure: Failure) -> Trouble {
    let number = match failure.code {
        Code::Usage | Code::Image => libc::EINVAL,
        Code::Refused => libc::ENOENT,
        Code::NotPermitted => libc::EPERM,
        Code::Unexpected => CR_ERSTRTABRT,
        _ => libc::EIO,
    };
    Trouble {
        number,
        ..Trouble::from(failure)
    }
}

/// OLD=NEW as `cryo restart` has it: nothing where both are the same.
fn relocation(text: &OsString) -> Option<Option<OsString>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = text.as_bytes().iter();
    while let Some(byte) = bytes.next() {
        let part = parts.last_mut()?;
        match byte {
            b'\\' => match bytes.next() {
                Some(quoted @ (b'=' | b'\\')) => part.push(*quoted),
                Some(other) => part.extend([b'\\', *other]),
                None => part.push(b'\\'),
            },
            b'=' => parts.push(Vec::new()),
            other => part.push(*other),
        }
    }
    let [old, new] = parts.as_mut_slice() else {
        return None;
    };
    for path in [&mut *old, &mut *new] {
        while path.len() > 1 && path.ends_with(b"/") {
            path.pop();
        }
    }
    let is_clear = !old.windows(2).any(|two| two == b"=/");
    if !old.starts_with(b"/") || !new.starts_with(b"/") || !is_clear {
        return None;
    }
    if old == new {
        return Some(None);
    }
    let joined = [&**old, b"=", &**new].concat();
    Some(Some(OsString::from_vec(joined)))
}

impl Manner {
    /// How the command ends.
    pub fn ending(&self) -> Ending {
        Ending::Same
    }

    /// The job runs again: waits for its callbacks, sends the signal, and runs the hook. Gives a status to end with at once, if the
    /// hook says so.
    ///
    /// # Errors
    /// When a callback has failed: the job is killed then.
    pub fn restarted(&self, restarted: &Restarted) -> Result<Option<u8>, Failure> {
        let scope = match restarted.nursery {
            Nursery::Namespace(_) => Scope::Namespace,
            Nursery::Direct(_) => Scope::Tree,
        };
        if let Ok(target) = Target::find(restarted.root.pid, scope) {
            let failed = dialogue::await_finished(&target, PATIENCE);
            let signal = match failed {
                0 => self.signal,
                _ => libc::SIGKILL,
            };
            if signal != 0 {
                for pid in target.live_pids() {
                    // One that has ended needs none.
                    let _ = task::kill(pid, signal);
                }
            }
            if failed != 0 {
                return Err(Failure::new(Code::Unexpected, "a callback has failed"));
            }
        }
        self.caller.answer(0, &[]);
        Ok(hook(self.hooks.success.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relocations_are_read() {
        let read = |text: &str| relocation(&text.into());
        assert_eq!(read("/old/=/new//"), Some(Some("/old=/new".into())));
        assert_eq!(read("/a\\=b=/c\\\\d"), Some(Some("/a=b=/c\\d".into())));
        assert_eq!(read("/same=/same/"), Some(None));
        for wrong in ["/old", "old=/new", "/old=new", "/a=/b=/c", ""] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
