//! `cryo receive`: the other end of `cryo migrate`.

use std::fs::{DirBuilder, File};
use std::io::{IsTerminal, Write, stdin, stdout};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueHint};
use cryonaut_engine::restart::{self, Committed, Input, Rebuilt, RestartRequest, Restarted};
use cryonaut_image::AtomicFile;
use cryonaut_launch::WatchedSignals;
use cryonaut_launch::registry::{Job, Registry};
use cryonaut_sys::spawn::{self, OnExec};

use super::restart::{Conditions, let_go};
use crate::console::Console;
use crate::exit::{self, Code, Failure};
use crate::handover::{Accepted, Complete, Failed, Hello, Offer, PROTOCOL, Running, node};
use crate::interrupt::stoppable_by;
use crate::job;
use crate::line::{Kind, Line, Trouble};
use crate::when;

/// How long the sender may be silent.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long the last word may take.
const LAST_WORD: Duration = Duration::from_secs(10);

/// Takes a job over that `cryo migrate` sends; it runs this command by itself
///
/// Standard input and output are the connection. The image is kept in a directory until the job runs: `$XDG_STATE_HOME/cryonaut`, or
/// `~/.local/state/cryonaut`. If the connection is lost when all of it is here, and before it was said whether the original has
/// ended, it stays there, with a text beside it that says what to do.
#[derive(Args, Debug)]
#[command(after_long_help = exit::DOCUMENTED)]
pub struct Arguments {
    /// Where the image is kept until the job runs
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
}

/// What has become of a job that was rebuilt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Nothing yet.
    Open,
    /// The sender keeps it, or never had to give it away.
    Kept,
    /// Its original may have ended: nobody has said so yet.
    InDoubt,
    /// Its original has ended.
    Ended,
}

impl Arguments {
    /// Takes it.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        if stdin().is_terminal() || stdout().is_terminal() {
            return Err(Failure::usage(
                "`cryo migrate` runs this command on the machine that a job is moved to; it is of no use by itself",
            ));
        }
        let signals = WatchedSignals::block()?;
        let mut line = connection()?;
        let outcome = self.receive(&mut line, &signals, console);
        // The last word is said whoever wants this to stop.
        line.stop = Arc::default();
        line.patience = LAST_WORD;
        match outcome {
            Ok(()) => Ok(0),
            Err(failure) => {
                // The sender tells it. Where that has gone nobody listens.
                let _ = line.send(Kind::Failed, &Failed::from(&failure));
                Ok(failure.status)
            }
        }
    }

    fn receive(
        &self,
        line: &mut Line,
        signals: &WatchedSignals,
        console: Console,
    ) -> Result<(), Failure> {
        let stop = line.stop.clone();
        let (offer, kept) = stoppable_by(signals, &stop, || {
            let offer = greet(line)?;
            let kept = self.take(line, &offer)?;
            Ok::<_, Failure>((offer, kept))
        })??;
        let mut fate = Fate::Open;
        match rebuild(line, signals, (&offer, &kept), &mut fate, console) {
            Ok((restarted, job)) => settle(line, restarted, job, &kept, console),
            Err(failure) if matches!(fate, Fate::InDoubt | Fate::Ended) => {
                Err(kept.explain(failure, &offer, fate))
            }
            Err(failure) => {
                kept.remove();
                Err(failure)
            }
        }
    }

    /// Takes the image; it is on disk then, under its name.
    fn take(&self, line: &mut Line, offer: &Offer) -> Result<Kept, Failure> {
        if let Some(name) = &offer.name {
            Registry::open()?.check_free(name)?;
        }
        let directory = match &self.dir {
            Some(directory) => std::path::absolute(directory)
                .map_err(Failure::system("find out the working directory"))?,
            None => usual_directory()?,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(Failure::system(format!("make {}", directory.display())))?;
        let path = directory.join(format!("{}-{}.cryo", offer.label, when::stamp()));
        let mut file = AtomicFile::create(&path)?;
        line.send(
            Kind::Accepted,
            &Accepted {
                image: path.clone(),
            },
        )?;
        let mut bytes = 0;
        loop {
            let message = line.next()?;
            match message.kind {
                Kind::Image => {
                    bytes += message.body.len() as u64;
                    file.write_all(&message.body)
                        .map_err(Failure::system(format!(
                            "keep the image in {}",
                            directory.display()
                        )))?;
                }
                Kind::Complete if message.read::<Complete>()?.bytes == bytes => break,
                Kind::Cancel => return Err(cancelled()),
                other => return Err(Trouble::Nonsense(format!("{other:?} within an image")).into()),
            }
        }
        let beating = line.beat().map_err(Failure::system("start a thread"))?;
        file.sync()?;
        file.commit()?;
        drop(beating);
        Ok(Kept { path })
    }
}

/// Rebuilds the job from the image that is on disk, and lets it go at the sender's word.
fn rebuild(
    line: &mut Line,
    signals: &WatchedSignals,
    (offer, kept): (&Offer, &Kept),
    fate: &mut Fate,
    console: Console,
) -> Result<(Restarted, Option<Job>), Failure> {
    let stop = line.stop.clone();
    let image = restart::open(Input::File(kept.path.clone()))?;
    let conditions = Conditions::from(offer.taking.clone());
    // Now, while there is one thread, as in `cryo restart`.
    let request = RestartRequest {
        view: conditions.enter_view(&image)?,
        ..conditions.request()?
    };
    let mut listed = None;
    let told = Muted::begin()?;
    let restarted = stoppable_by(signals, &stop, || {
        let beating = line.beat().map_err(Failure::system("start a thread"))?;
        let decide = |rebuilt: Rebuilt<'_>| -> Result<Committed, Failure> {
            drop((beating, told));
            await_word(line, fate)?;
            let (job, committed) = let_go(rebuilt, offer.name.clone(), console)?;
            listed = job;
            Ok(committed)
        };
        restart::restart(&image, request, &stop, decide)
    })??;
    Ok((restarted, listed))
}

/// Waits for the word that the original has ended.
fn await_word(line: &mut Line, fate: &mut Fate) -> Result<(), Failure> {
    line.send(Kind::Ready, &())?;
    *fate = Fate::InDoubt;
    match line.next()?.kind {
        Kind::Commit => {
            *fate = Fate::Ended;
            Ok(())
        }
        Kind::Cancel => {
            *fate = Fate::Kept;
            Err(cancelled())
        }
        other => Err(Trouble::Nonsense(format!("{other:?} instead of a commit")).into()),
    }
}

fn cancelled() -> Failure {
    Failure::new(Code::Failed, "the sender has given it up")
}

/// Standard input and output, which from here on are nothing: neither the job nor what is printed may get at the connection.
fn connection() -> Result<Line, Failure> {
    let failed = "take over the connection";
    let copy = |descriptor: std::os::fd::BorrowedFd<'_>| {
        let copy = descriptor.try_clone_to_owned();
        copy.map(File::from).map_err(Failure::system(failed))
    };
    let (from, to) = (copy(stdin().as_fd())?, copy(stdout().as_fd())?);
    let null = nothing()?;
    for number in 0..2 {
        spawn::duplicate_onto(null.as_raw_fd(), number, OnExec::Keep)
            .map_err(Failure::system(failed))?;
    }
    Ok(Line::new(from, to, PATIENCE))
}

fn nothing() -> Result<File, Failure> {
    let null = File::options().read(true).write(true).open("/dev/null");
    null.map_err(Failure::system("open /dev/null"))
}

/// While it lives, standard error is nothing, as standard input and output are: a job whose own led out of it gets what ours are
/// while it is rebuilt, and would hold the connection open.
struct Muted(File);

impl Muted {
    fn begin() -> Result<Muted, Failure> {
        let failed = "put standard error aside";
        let copy = std::io::stderr().as_fd().try_clone_to_owned();
        let muted = Muted(File::from(copy.map_err(Failure::system(failed))?));
        spawn::duplicate_onto(nothing()?.as_raw_fd(), 2, OnExec::Keep)
            .map_err(Failure::system(failed))?;
        Ok(muted)
    }
}

impl Drop for Muted {
    fn drop(&mut self) {
        // It worked the other way round.
        let _ = spawn::duplicate_onto(self.0.as_raw_fd(), 2, OnExec::Keep);
    }
}

fn greet(line: &mut Line) -> Result<Offer, Failure> {
    line.greet(&Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").into(),
        architecture: std::env::consts::ARCH.into(),
        node: node(),
    })?;
    let offer: Offer = line.expect(Kind::Offer)?.read()?;
    let good = !offer.label.is_empty()
        && offer
            .label
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-'))
        && !offer.label.starts_with('.');
    match good {
        true => Ok(offer),
        false => Err(Trouble::Nonsense("a label that is no file name".into()).into()),
    }
}

/// Where images are kept until their jobs run.
fn usual_directory() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| {
        let value = std::env::var_os(name).map(PathBuf::from);
        value.filter(|path| path.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    state.map(|state| state.join("cryonaut")).ok_or_else(|| {
        Failure::usage(
            "there is no place to keep the image: set HOME or XDG_STATE_HOME, or give --dir",
        )
    })
}

/// An image that was received.
struct Kept {
    path: PathBuf,
}

impl Kept {
    fn remove(&self) {
        // Where it cannot be removed it does no harm.
        let _ = std::fs::remove_file(&self.path);
    }

    /// Leaves it, and says beside it what to do with it.
    fn explain(&self, failure: Failure, offer: &Offer, fate: Fate) -> Failure {
        let Offer { label, node, .. } = offer;
        let why = &failure.message;
        let path = self.path.display();
        let state = match fate {
            Fate::Ended => format!("Its original on {node} has ended. This brings it back here:"),
            _ => format!(
                "It was not started here, since its original may still run on {node}. If it runs, remove the image:\n\
                 two copies of one job would undo each other's work. If it does not, this brings it back here:"
            ),
        };
        let text = format!(
            "The image beside this file is of the job {label}, which was on its way here from {node}.\n\
             That was broken off when all of it was here: {why}.\n\
             {state}\n\n    cryo restart {path}\n"
        );
        let beside = self.path.with_extension("txt");
        let written = write_durably(&beside, &text);
        let told = match written {
            Ok(()) => format!("{} says what to do", beside.display()),
            Err(error) => format!("{} could not be written: {error}", beside.display()),
        };
        Failure {
            message: format!(
                "{}; the image stays in {}, and {told}",
                failure.message,
                self.path.display()
            ),
            ..failure
        }
    }
}

fn write_durably(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// The job runs: its image is not needed any more.
fn settle(
    line: &mut Line,
    restarted: Restarted,
    job: Option<Job>,
    kept: &Kept,
    console: Console,
) -> Result<(), Failure> {
    kept.remove();
    let terminal = restarted.terminal.is_some();
    if let Some(master) = restarted.terminal
        && let Err(failure) =
            job::start_holder(&restarted.nursery, &restarted.root, master, job.as_ref())
    {
        console.warning(&format!(
            "the job runs, but nobody reads what it prints until `cryo attach`: {}",
            failure.message
        ));
    }
    let running = Running {
        pid: restarted.root.pid,
        name: job.map(|job| job.name),
        terminal,
        remarks: restarted.remarks,
    };
    // Where nobody hears it, it runs all the same.
    let _ = line.send(Kind::Running, &running);
    Ok(())
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Failure {
        Failure::new(Code::Failed, trouble.to_string())
    }
}
