//! `cryo demo`: the proof in a minute, on a small computation of several processes and threads joined by pipes.

use std::fs::File;
use std::io::{BufWriter, Read, Write, stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use clap::Args;
use cryonaut_launch::WatchedSignals;
use cryonaut_launch::registry::Registry;
use serde::Serialize;

use crate::console::{Console, Form};
use crate::exit::{self, Code, Failure};

/// Shows the main thing: a running computation is saved, killed and brought back, and its result is the right one
///
/// Starts a small computation twice: once to run through undisturbed, and once as a job that is checkpointed in the middle,
/// killed, and restarted. Takes about ten seconds, needs no root, and leaves nothing behind.
#[derive(Args, Debug)]
#[command(after_long_help = exit::DOCUMENTED)]
pub struct Arguments {}

/// What was shown.
#[derive(Serialize, Debug)]
struct Report {
    equal: bool,
    undisturbed: String,
    restarted: String,
    seconds: f64,
}

/// How long any step may take.
const PATIENCE: Duration = Duration::from_secs(60);

impl Arguments {
    /// Shows it.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        let start = Instant::now();
        let stage = Stage::set(console)?;
        stage.tell("A computation of three processes with ten threads, joined by pipes, runs undisturbed in the background.");
        let mut reference = stage.worker("reference")?;
        stage.tell("The same computation runs as a job:");
        let mut job = stage.cryo(
            &[
                "run",
                "--name",
                &stage.name,
                "--",
                &stage.program_text(),
                WORKER,
            ],
            Some("output"),
        )?;
        stage.wait(&mut job, |stage, job| stage.far_enough(job))?;
        let reached = stage.last_line("output");
        stage.tell(&format!(
            "It has come to \"{reached}\". Now it is saved, and killed:"
        ));
        let image = stage.path("demo.cryo").display().to_string();
        let mut saving = stage.cryo(
            &["checkpoint", &stage.name, "--kill", "-o", &image],
            Some("saved"),
        )?;
        stage.succeed(&mut saving, "checkpoint")?;
        stage.tell_indented(&stage.text("saved"));
        stage.wait(&mut job, |_, job| Ok(ended(job)?.is_some()))?;
        stage.tell("Nothing of it is left but the image. It is brought back:");
        let mut restarted = stage.cryo(&["restart", &image], Some("output"))?;
        stage.succeed(&mut restarted, "restart")?;
        stage.succeed(&mut reference, "computation")?;
        let digest = |file: &str| {
            stage
                .last_line(file)
                .trim_start_matches("digest ")
                .to_owned()
        };
        let report = Report {
            equal: stage.text("reference") == stage.text("output")
                && !stage.text("output").is_empty(),
            undisturbed: digest("reference"),
            restarted: digest("output"),
            seconds: start.elapsed().as_secs_f64(),
        };
        drop(stage);
        console.result(&report, || report.text())?;
        Ok(if report.equal {
            0
        } else {
            Code::Unexpected as u8
        })
    }
}

impl Report {
    fn text(&self) -> String {
        let verdict = match self.equal {
            true => "They are equal, and so is every line that was printed on the way.",
            false => "They differ. This must not happen: please report it.",
        };
        format!(
            "undisturbed: {}\nrestarted:   {}\n{verdict}",
            self.undisturbed, self.restarted
        )
    }
}

/// Where the demonstration takes place. Dropping it leaves nothing of it behind.
struct Stage {
    console: Console,
    signals: WatchedSignals,
    directory: PathBuf,
    program: PathBuf,
    name: String,
}

impl Stage {
    fn set(console: Console) -> Result<Stage, Failure> {
        // Whatever else a caller left open would tie the job to processes outside it.
        cryonaut_sys::spawn::close_on_exec_from(3).map_err(Failure::system("close descriptors"))?;
        let program = std::env::current_exe().map_err(Failure::system("find cryo itself"))?;
        let name = format!("demo-{}", std::process::id());
        let directory = std::env::temp_dir().join(format!("cryo-{name}"));
        let signals = WatchedSignals::block()?;
        std::fs::create_dir(&directory)
            .map_err(Failure::system(format!("make {}", directory.display())))?;
        Ok(Stage {
            console,
            signals,
            directory,
            program,
            name,
        })
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.path(file)).unwrap_or_default()
    }

    fn last_line(&self, file: &str) -> String {
        self.text(file)
            .lines()
            .next_back()
            .unwrap_or_default()
            .to_owned()
    }

    fn program_text(&self) -> String {
        self.program.display().to_string()
    }

    fn tell(&self, text: &str) {
        if self.console.form == Form::Text {
            // What is told on the way counts as little as progress does.
            let _ = writeln!(stdout().lock(), "{text}");
        }
    }

    fn tell_indented(&self, text: &str) {
        text.lines()
            .for_each(|line| self.tell(&format!("    {line}")));
    }

    /// Starts the computation itself.
    fn worker(&self, output: &str) -> Result<Running, Failure> {
        let mut command = Command::new(&self.program);
        command.arg(WORKER);
        self.start(command, output)
    }

    /// Shows a command of cryo, and starts it; its output is appended to a file.
    fn cryo(&self, arguments: &[&str], output: Option<&str>) -> Result<Running, Failure> {
        self.tell(&format!(
            "  $ cryo {}",
            arguments.join(" ").replace(&self.program_text(), "cryo")
        ));
        let mut command = Command::new(&self.program);
        command.args(arguments);
        self.start(command, output.unwrap_or("saved"))
    }

    fn start(&self, mut command: Command, output: &str) -> Result<Running, Failure> {
        let append = |file: &str| {
            let opened = File::options()
                .append(true)
                .create(true)
                .open(self.path(file));
            opened.map_err(Failure::system("write into the demonstration's directory"))
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(append(output)?)
            .stderr(append(ERRORS)?)
            .env_remove("CRYO_LOG")
            .current_dir("/")
            .spawn();
        Ok(Running(
            child.map_err(Failure::system("start cryo itself"))?,
        ))
    }

    /// Waits for something; Ctrl-C ends the demonstration.
    fn wait(
        &self,
        running: &mut Running,
        mut done: impl FnMut(&Stage, &mut Child) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        while !done(self, &mut running.0)? {
            while let Some(signal) = self.signals.next()? {
                if matches!(
                    signal.number,
                    libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT
                ) {
                    return Err(Failure::new(
                        Code::Failed,
                        "interrupted; nothing is left behind",
                    ));
                }
            }
            if start.elapsed() > PATIENCE {
                return Err(self.failed("the demonstration takes too long"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn succeed(&self, running: &mut Running, what: &str) -> Result<(), Failure> {
        self.wait(running, |_, child| Ok(ended(child)?.is_some()))?;
        match ended(&mut running.0)? {
            Some(0) => Ok(()),
            status => Err(self.failed(&format!(
                "the {what} ended with status {}",
                status.unwrap_or(-1)
            ))),
        }
    }

    /// Whether the job is near the middle of its work.
    fn far_enough(&self, job: &mut Child) -> Result<bool, Failure> {
        if ended(job)?.is_some() {
            return Err(self.failed("the job ended too early"));
        }
        Ok(self.text("output").lines().count() as u64 >= BLOCKS / BLOCKS_PER_LINE * 2 / 5)
    }

    fn failed(&self, what: &str) -> Failure {
        let said = self.text(ERRORS);
        let said = said.trim();
        let why = if said.is_empty() {
            String::new()
        } else {
            format!(": {}", said.trim_start_matches("cryo: "))
        };
        Failure::new(
            Code::Failed,
            format!("{what}{why}; `cryo doctor` tells what this machine lacks"),
        )
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Whatever runs still, after a failure.
        if let Ok(job) = Registry::open().and_then(|registry| registry.find(&self.name)) {
            let process = job.init.map_or(job.root, |init| init.process);
            let _ = cryonaut_sys::spawn::kill(process.pid, libc::SIGKILL);
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A process of the demonstration, which does not outlive it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// The exit code, once there is one.
fn ended(child: &mut Child) -> Result<Option<i32>, Failure> {
    let status = child
        .try_wait()
        .map_err(Failure::system("wait for a process"))?;
    Ok(status.map(|status| status.code().unwrap_or(-1)))
}

const ERRORS: &str = "errors";
/// The hidden command that computes.
const WORKER: &str = "__demo-worker";
/// How much there is to compute.
const BLOCKS: u64 = 500;
const BLOCKS_PER_LINE: u64 = 10;
const WORDS: usize = 512;
/// The rate: four seconds for all of it, on any machine.
const PAUSE: Duration = Duration::from_millis(8);
/// Words of state in each thread that mixes.
const STATE: usize = 1 << 15;

/// Computes.
#[derive(Args, Debug)]
pub struct WorkerArguments {
    /// Be the stage with this number in the chain, between standard input and output
    #[arg(long)]
    stage: Option<u64>,
}

type Block = Box<[u64; WORDS]>;

impl WorkerArguments {
    /// Computes, or is one stage of the computation.
    pub fn run(self) -> Result<u8, Failure> {
        let failed = || Failure::system("compute");
        match self.stage {
            None => compute().map_err(failed())?,
            Some(stage) => {
                let (input, output) = (
                    stdin().as_fd().try_clone_to_owned(),
                    stdout().as_fd().try_clone_to_owned(),
                );
                be_stage(stage, input.map_err(failed())?, output.map_err(failed())?)
                    .map_err(failed())?;
            }
        }
        Ok(0)
    }
}

/// The first process: makes blocks in one thread, sends them through two further processes, and digests what comes back.
fn compute() -> std::io::Result<()> {
    let program = std::env::current_exe()?;
    let stage = |number: &str, input: Stdio| {
        Command::new(&program)
            .args([WORKER, "--stage", number])
            .stdin(input)
            .stdout(Stdio::piped())
            .spawn()
    };
    let mut first = stage("1", Stdio::piped())?;
    let missing = || std::io::Error::other("a pipe is missing");
    let sink = first.stdin.take().ok_or_else(missing)?;
    let middle = first.stdout.take().ok_or_else(missing)?;
    let mut second = stage("2", middle.into())?;
    let source = second.stdout.take().ok_or_else(missing)?;
    let maker = spawn(move || make_blocks(sink.into()));
    let mut source = File::from(OwnedFd::from(source));
    let mut digest = 0_u64;
    for number in 1..=BLOCKS {
        for word in read_block(&mut source)?.ok_or_else(missing)?.iter() {
            digest = mixed(digest.rotate_left(5) ^ word);
        }
        if number % BLOCKS_PER_LINE == 0 {
            println!("block {number} of {BLOCKS}");
        }
    }
    maker
        .join()
        .map_err(|_| std::io::Error::other("a thread failed"))??;
    let ends = [first.wait()?, second.wait()?];
    if ends.iter().any(|end| !end.success()) {
        return Err(std::io::Error::other("a process failed"));
    }
    println!("digest {digest:016x}");
    Ok(())
}

fn make_blocks(sink: OwnedFd) -> std::io::Result<()> {
    let mut sink = File::from(sink);
    let mut seed = 1_u64;
    for _ in 0..BLOCKS {
        std::thread::sleep(PAUSE);
        let mut block: Block = Box::new([0; WORDS]);
        for word in block.iter_mut() {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            *word = mixed(seed);
        }
        write_block(&mut sink, &block)?;
    }
    Ok(())
}

/// A further process: a thread that reads, two that mix, and this one, which writes.
fn be_stage(stage: u64, input: OwnedFd, output: OwnedFd) -> std::io::Result<()> {
    let (blocks, arrived) = sync_channel(4);
    let mut input = File::from(input);
    let reader = spawn(move || -> std::io::Result<()> {
        while let Some(block) = read_block(&mut input)? {
            if blocks.send(block).is_err() {
                break;
            }
        }
        Ok(())
    });
    let (once, first) = mixer(stage * 2, arrived);
    let (twice, second) = mixer(stage * 2 + 1, once);
    let mut output = File::from(output);
    for block in twice {
        write_block(&mut output, &block)?;
    }
    let failed = |_| std::io::Error::other("a thread failed");
    first.join().map_err(failed)?;
    second.join().map_err(failed)?;
    reader.join().map_err(failed)?
}

/// A thread that mixes each block with a state that all earlier blocks have changed.
fn mixer(number: u64, blocks: Receiver<Block>) -> (Receiver<Block>, JoinHandle<()>) {
    let (done, mixed_blocks) = sync_channel(4);
    let thread = spawn(move || {
        let mut state: Vec<u64> = (0..STATE as u64)
            .map(|place| mixed(place ^ number << 32))
            .collect();
        for mut block in blocks {
            for word in block.iter_mut() {
                let place = &mut state[*word as usize % STATE];
                *place = mixed(*place ^ *word);
                *word = word.rotate_left(17) ^ *place;
            }
            if done.send(block).is_err() {
                return;
            }
        }
    });
    (mixed_blocks, thread)
}

/// The finalizer of splitmix64.
fn mixed(mut word: u64) -> u64 {
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

fn write_block(sink: &mut File, block: &Block) -> std::io::Result<()> {
    let mut buffered = BufWriter::with_capacity(WORDS * 8, sink);
    block
        .iter()
        .try_for_each(|word| buffered.write_all(&word.to_le_bytes()))?;
    buffered.flush()
}

/// The next block; `None` at the end.
fn read_block(source: &mut File) -> std::io::Result<Option<Block>> {
    let mut bytes = [0; WORDS * 8];
    match source.read_exact(&mut bytes) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        outcome => outcome?,
    }
    let mut block: Block = Box::new([0; WORDS]);
    for (word, bytes) in block.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut array = [0; 8];
        array.copy_from_slice(bytes);
        *word = u64::from_le_bytes(array);
    }
    Ok(Some(block))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_survive_a_pipe() {
        let (reader, writer) = std::io::pipe().unwrap();
        let block: Block = Box::new(std::array::from_fn(|place| mixed(place as u64)));
        write_block(&mut File::from(OwnedFd::from(writer)), &block).unwrap();
        let mut reader = File::from(OwnedFd::from(reader));
        assert_eq!(read_block(&mut reader).unwrap(), Some(block));
        assert_eq!(read_block(&mut reader).unwrap(), None);
    }
}
