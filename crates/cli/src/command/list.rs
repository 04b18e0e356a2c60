//! `cryo list`: the running jobs.

use clap::Args;
use cryonaut_launch::registry::{Job, Registry};
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::console::Console;
use crate::exit::{self, Failure};
use crate::terminal;
use crate::when;

/// Lists the running jobs that were started with `cryo run` or `cryo restart`, and their checkpoints
#[derive(Args, Debug)]
#[command(after_long_help = exit::DOCUMENTED)]
pub struct Arguments {}

impl Arguments {
    /// Lists them.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        let registry = Registry::open()?;
        let jobs: Vec<Listed> = registry
            .list()?
            .into_iter()
            .map(|job| Listed {
                viewers: terminal::viewers(&registry, &job),
                job,
            })
            .collect();
        if jobs.is_empty() {
            console.remark("no job is running; start one with `cryo run -- COMMAND`");
        }
        console.result(&jobs, || jobs.iter().map(describe).collect())?;
        Ok(0)
    }
}

/// A job, and who looks at it.
#[derive(Serialize, Debug)]
struct Listed {
    #[serde(flatten)]
    job: Job,
    /// How many are attached to its terminal; none for a job without a terminal of its own.
    viewers: Option<u32>,
}

fn describe(listed: &Listed) -> String {
    let job = &listed.job;
    let terminal = match listed.viewers {
        None => String::new(),
        Some(0) => "  detached".into(),
        Some(1) => "  attached".into(),
        Some(several) => format!("  attached {several} times"),
    };
    let mut text = format!(
        "{}  pid {}  since {}{terminal}  {}\n",
        job.name,
        job.root.pid,
        when::moment(job.started_at),
        words(job)
    );
    for checkpoint in job
        .checkpoints
        .iter()
        .filter(|checkpoint| checkpoint.path.exists())
    {
        text.push_str(&format!(
            "  {}  {}  {}\n",
            when::moment(checkpoint.taken_at),
            BinaryBytes(checkpoint.bytes),
            checkpoint.path.display()
        ));
    }
    text
}

/// The command in one printable line.
fn words(job: &Job) -> String {
    let line = job.command.join(" ");
    let mut short: String = line
        .chars()
        .map(|letter| if letter.is_control() { '?' } else { letter })
        .take(100)
        .collect();
    if line.chars().count() > 100 {
        short.push('…');
    }
    short
}
