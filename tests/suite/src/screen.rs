//! A user at a terminal: a pseudo-terminal with a command on it, what that has shown, and keys to type.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

use cryonaut_launch::terminal::{Pty, WindowSize};
use cryonaut_sys::spawn::set_nonblocking;
use cryonaut_sys::terminal::{Settings, set_window_size};
use rustix::process::Signal;

use crate::outcome::{Outcome, failed};
use crate::processes;
use crate::scene::{LIMIT, Scene};

/// A terminal of the user's, 24 lines of 80 characters at first.
#[derive(Debug)]
pub struct Screen<'scene> {
    scene: &'scene Scene,
    pty: Pty,
    master: RefCell<File>,
    shown: RefCell<Vec<u8>>,
    child: Child,
    before: Settings,
}

impl<'scene> Screen<'scene> {
    /// Starts `cryo` with these arguments on a terminal of its own.
    pub fn start<T: AsRef<OsStr>>(
        scene: &'scene Scene,
        arguments: impl IntoIterator<Item = T>,
    ) -> Outcome<Self> {
        Screen::start_program(scene, scene.cryo_path(), arguments)
    }

    /// Starts a program with these arguments on a terminal of its own.
    pub fn start_program<T: AsRef<OsStr>>(
        scene: &'scene Scene,
        program: &Path,
        arguments: impl IntoIterator<Item = T>,
    ) -> Outcome<Self> {
        let mut command = scene.terminal_command(program);
        command.args(arguments);
        Screen::start_command(scene, command)
    }

    /// Starts a command of [`Scene::terminal_command`] on a terminal of its own.
    pub fn start_command(scene: &'scene Scene, mut command: Command) -> Outcome<Self> {
        command.env("TERM", "xterm").env("PS1", "$ ");
        let pty = Pty::open(None)?;
        let size = WindowSize {
            rows: 24,
            columns: 80,
            ..WindowSize::default()
        };
        set_window_size(pty.master.as_fd(), size)?;
        let slave = || pty.slave.try_clone();
        command.stdin(slave()?).stdout(slave()?).stderr(slave()?);
        let before = Settings::of(pty.slave.as_fd())?;
        let child = command.spawn()?;
        scene.look_after(child.id() as i32);
        let arguments: Vec<_> = command.get_args().skip(1).collect();
        scene.note(format!(
            "on a terminal, process {}: {arguments:?}",
            child.id()
        ));
        set_nonblocking(pty.master.as_fd())?;
        let master = File::from(pty.master.try_clone()?);
        Ok(Screen {
            scene,
            pty,
            master: RefCell::new(master),
            shown: RefCell::default(),
            child,
            before,
        })
    }

    /// The pid of `cryo`.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Everything that was shown so far.
    #[must_use]
    pub fn shown(&self) -> String {
        let mut room = [0; 65536];
        while let Ok(length) = self.master.borrow_mut().read(&mut room) {
            if length == 0 {
                break;
            }
            self.shown.borrow_mut().extend_from_slice(&room[..length]);
        }
        String::from_utf8_lossy(&self.shown.borrow()).into_owned()
    }

    /// Forgets what was shown.
    pub fn clear(&self) {
        let _ = self.shown();
        self.shown.borrow_mut().clear();
    }

    /// Waits until this is shown.
    pub fn expect(&self, text: &str) -> Outcome {
        let waited = self
            .scene
            .wait_for(&format!("{text:?} on the terminal"), LIMIT, || {
                self.shown().contains(text).then_some(())
            });
        if waited.is_err() {
            self.scene
                .note(format!("shown instead: {:?}", self.shown()));
        }
        waited
    }

    /// Types something.
    pub fn type_keys(&self, keys: &str) -> Outcome {
        self.scene.note(format!("typed: {keys:?}"));
        Ok(self.master.borrow_mut().write_all(keys.as_bytes())?)
    }

    /// Gives the window another size.
    pub fn resize(&self, rows: u16, columns: u16) -> Outcome {
        let size = WindowSize {
            rows,
            columns,
            ..WindowSize::default()
        };
        Ok(set_window_size(self.pty.master.as_fd(), size)?)
    }

    /// Sends `cryo` a signal.
    pub fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal);
    }

    /// Waits for the end of `cryo`; fails if the terminal is not as it was before.
    pub fn wait(&mut self) -> Outcome<ExitStatus> {
        let mut ended = None;
        let (scene, pid) = (self.scene, self.pid());
        let waited = scene.wait_for("the end of cryo on the terminal", LIMIT, || {
            // Whoever writes to a terminal that nobody reads waits.
            let _ = self.shown();
            ended = self.child.try_wait().ok().flatten();
            ended
        });
        scene.note(format!("{pid}: {waited:?}, shown: {:?}", self.shown()));
        let status = waited?;
        // After SIGKILL a process of its own does it, a moment later.
        let restored = scene.wait_for("the terminal to be as it was", LIMIT, || {
            let now = Settings::of(self.pty.slave.as_fd()).ok()?;
            (now == self.before).then_some(())
        });
        match restored {
            Ok(()) => Ok(status),
            Err(_) => failed("the terminal was left in another state"),
        }
    }

    /// Waits for an end with this status; fails as [`Screen::wait`] does.
    pub fn wait_for_status(&mut self, wanted: i32) -> Outcome {
        let status = self.wait()?;
        match status.code() {
            Some(code) if code == wanted => Ok(()),
            _ => failed(format!("{status}, expected status {wanted}")),
        }
    }

    /// Takes the terminal away, as the end of its window does.
    pub fn vanish(self) -> Child {
        self.child
    }
}
