//! `cryo receive`: the other end of `cryo migrate`.

use std::fs::File;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueHint};
use cryonaut_engine::resource::file::leading_out;
use cryonaut_engine::restart::{self, Committed, Rebuilt, RestartRequest, Restarted};
use cryonaut_image::SeekableImage;
use cryonaut_launch::WatchedSignals;
use cryonaut_launch::registry::{Job, Registry};
use cryonaut_sys::spawn::{self, OnExec};

use super::restart::{Conditions, let_go};
use crate::console::Console;
use crate::exit::{self, Code, Failure};
use crate::handover::{
    Accepted, Commit, Complete, Failed, Hello, Offer, PROTOCOL, Ready, Running, node, token,
};
use crate::interrupt::stoppable_by;
use crate::job;
use crate::kept::Kept;
use crate::line::{Beating, Kind, Line, Trouble};

/// How long the sender may be silent, at most; it says itself how long it waits.
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
        let (offer, mut received) = stoppable_by(signals, &stop, || {
            let offer = greet(line)?;
            let received = self.take(line, &offer)?;
            Ok::<_, Failure>((offer, received))
        })??;
        let mut fate = Fate::Open;
        match rebuild(line, signals, (&offer, &mut received), &mut fate, console) {
            Ok(arrived) => settle(line, arrived, &mut received.kept, console),
            Err(failure) => {
                let Offer { node, .. } = &offer;
                let told = match fate {
                    Fate::InDoubt => {
                        format!("Nobody has said whether its original on {node} has ended.")
                    }
                    Fate::Ended => format!("Its original on {node} has ended."),
                    Fate::Open | Fate::Kept => {
                        // Where it cannot be removed the text says what to do.
                        let _ = received.kept.withdraw();
                        return Err(failure);
                    }
                };
                Err(received.kept.explain(failure, &told))
            }
        }
    }

    /// Takes the image; it is on the medium then, without a name.
    fn take(&self, line: &mut Line, offer: &Offer) -> Result<Received, Failure> {
        if let Some(name) = &offer.name {
            Registry::open()?.check_free(name)?;
        }
        let directory = match &self.dir {
            Some(directory) => std::path::absolute(directory)
                .map_err(Failure::system("find out the working directory"))?,
            None => usual_directory()?,
        };
        let mut kept = Kept::create(&directory, &offer.label)?;
        line.send(
            Kind::Accepted,
            &Accepted {
                image: kept.path().to_owned(),
            },
        )?;
        let mut bytes = 0;
        let token = loop {
            let message = line.next()?;
            match message.kind {
                Kind::Image => {
                    bytes += message.body.len() as u64;
                    let written = kept.image().write_all(&message.body);
                    written.map_err(Failure::system(format!(
                        "keep the image in {}",
                        directory.display()
                    )))?;
                }
                Kind::Complete => match message.read()? {
                    Complete { bytes: sent, token } if sent == bytes => break token,
                    Complete { bytes: sent, .. } => {
                        let what = format!("{sent} bytes, of which {bytes} came");
                        return Err(Trouble::Nonsense(what).into());
                    }
                },
                Kind::Cancel => return Err(cancelled()),
                other => return Err(Trouble::Nonsense(format!("{other:?} within an image")).into()),
            }
        };
        let beating = line.beat().map_err(Failure::system("start a thread"))?;
        kept.image().sync()?;
        drop(beating);
        Ok(Received { kept, token })
    }
}

/// All of an image, and the word that the answer to it repeats.
struct Received {
    kept: Kept,
    token: String,
}

/// A job that was let go here.
struct Arrived {
    restarted: Restarted,
    job: Option<Job>,
    /// That we are at work still.
    beating: Option<Beating>,
}

/// Rebuilds the job from the image that is on disk, and lets it go at the sender's word.
fn rebuild(
    line: &mut Line,
    signals: &WatchedSignals,
    (offer, received): (&Offer, &mut Received),
    fate: &mut Fate,
    console: Console,
) -> Result<Arrived, Failure> {
    let stop = line.stop.clone();
    let image = SeekableImage::open(received.kept.open()?)?;
    let lost = nothing_there(&image)?;
    let conditions = Conditions::from(offer.taking.clone());
    // Now, while there is one thread, as in `cryo restart`.
    let request = RestartRequest {
        view: conditions.enter_view(&image, signals)?,
        ..conditions.request()?
    };
    line.send(Kind::Beat, &())?;
    let (mut job, mut last_beating) = (None, None);
    let told = Muted::begin()?;
    let mut restarted = stoppable_by(signals, &stop, || {
        let beating = line.beat().map_err(Failure::system("start a thread"))?;
        let decide = |rebuilt: Rebuilt<'_>| -> Result<Committed, Failure> {
            drop(told);
            received.kept.publish(offer)?;
            drop(beating);
            await_word(line, (offer, received), fate)?;
            // The original has ended: nothing is to stop it any more.
            line.stop = Arc::default();
            // A list that somebody holds, or a file system, may take its time. It goes without saying so, too.
            last_beating = line.beat().ok();
            let (listed, committed) = let_go(rebuilt, offer.name.clone(), || Ok(()), console)?;
            job = listed;
            Ok(committed)
        };
        restart::restart(&image, request, &stop, decide)
    })??;
    restarted.remarks.extend(lost);
    Ok(Arrived {
        restarted,
        job,
        beating: last_beating,
    })
}

/// What is said of a job whose standard streams led out of it: in their place it gets what ours are, and that is nothing.
fn nothing_there(image: &SeekableImage) -> Result<Option<String>, Failure> {
    let streams = leading_out(&image.records()?)?;
    let names: Vec<&str> = [(0, "input"), (1, "output"), (2, "error output")]
        .into_iter()
        .filter_map(|(number, name)| streams.contains(&number).then_some(name))
        .collect();
    Ok((!names.is_empty()).then(|| {
        format!(
            "its standard {} led to processes outside of it, and {} /dev/null from now on",
            names.join(" and "),
            match names.len() {
                1 => "is",
                _ => "are",
            }
        )
    }))
}

/// Waits for the word that the original has ended. The image has its name, and may be all that is left of the job from here on.
fn await_word(
    line: &mut Line,
    (offer, received): (&Offer, &mut Received),
    fate: &mut Fate,
) -> Result<(), Failure> {
    line.expect_silence()?;
    let ready = Ready {
        token: std::mem::take(&mut received.token),
        answer: token()?,
    };
    // Whoever waits longer than the other may be believed to have gone.
    line.patience = offer.patience;
    // When this fails not all of it was written, so nobody has heard it.
    line.send(Kind::Ready, &ready)?;
    *fate = Fate::InDoubt;
    let word = line.next()?;
    match word.kind {
        Kind::Commit if word.read::<Commit>()?.answer == ready.answer => {
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
    line.patience = offer.patience.min(PATIENCE);
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

/// The job runs: its image is not needed any more.
fn settle(
    line: &mut Line,
    arrived: Arrived,
    kept: &mut Kept,
    console: Console,
) -> Result<(), Failure> {
    let Arrived {
        restarted,
        job,
        beating,
    } = arrived;
    if let Err(failure) = kept.withdraw() {
        console.warning(&format!("the job runs, but: {}", failure.message));
    }
    let terminal = restarted.terminal.is_some();
    let there = (&restarted.nursery, &restarted.root);
    job::hold_detached(there, restarted.terminal, job.as_ref(), console);
    let running = Running {
        pid: restarted.root.pid,
        name: job.map(|job| job.name),
        terminal,
        remarks: restarted.remarks,
    };
    drop(beating);
    // Where nobody hears it, it runs all the same.
    let _ = line.send(Kind::Running, &running);
    Ok(())
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Failure {
        Failure::new(Code::Failed, trouble.to_string())
    }
}
