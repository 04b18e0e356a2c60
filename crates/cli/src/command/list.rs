//! `cryo list`: the running jobs.

use clap::Args;
use cryonaut_engine::suspend::{Cgroup, Standing, held_in_memory, standing, sweep};
use cryonaut_launch::registry::{Job, Registry};
use cryonaut_launch::registry::{Phase, Suspension};
use indicatif::BinaryBytes;
use serde::Serialize;

use crate::console::{Console, clean};
use crate::exit::{self, Failure};
use crate::terminal;
use crate::{units, when};

/// Lists the running jobs that were started with `cryo run` or `cryo restart`, their checkpoints, and all that are suspended
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
            .map(|job| Listed::of(job, &registry))
            .collect();
        if let Some(own) = Cgroup::of(std::process::id() as i32) {
            sweep(&own);
        }
        if jobs.is_empty() {
            console.remark("no job is running; start one with `cryo run -- COMMAND`");
        }
        console.result(&jobs, || jobs.iter().map(describe).collect())?;
        Ok(0)
    }
}

/// A job, who looks at it, and how it stands.
#[derive(Serialize, Debug)]
struct Listed {
    #[serde(flatten)]
    job: Job,
    /// How many are attached to its terminal; none for a job without a terminal of its own.
    viewers: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    standing: Option<Stand>,
}

/// How a job stands that was suspended.
#[derive(Serialize, Debug)]
struct Stand {
    /// Whether all of it stands still, part of it, or nothing.
    still: &'static str,
    /// What it holds in memory.
    bytes_in_memory: u64,
}

impl Listed {
    fn of(job: Job, registry: &Registry) -> Self {
        let standing = job.suspension.as_ref().map(|suspension| Stand {
            still: match standing(suspension) {
                Standing::Still => "all",
                Standing::Partly => "partly",
                Standing::Running => "none",
            },
            bytes_in_memory: held_in_memory(suspension),
        });
        Self {
            viewers: terminal::viewers(registry, &job),
            job,
            standing,
        }
    }

    /// How it stands with its suspension, as a line.
    fn stand(&self) -> Option<String> {
        let (suspension, stand): (&Suspension, &Stand) =
            (self.job.suspension.as_ref()?, self.standing.as_ref()?);
        let name = &self.job.name;
        Some(match (stand.still, suspension.phase) {
            ("all", _) => format!(
                "  suspended since {}, {} in memory",
                when::moment(suspension.since),
                units::size(stand.bytes_in_memory)
            ),
            ("partly", _) => format!(
                "  suspended in part: `cryo suspend {name}` completes it, `cryo resume {name}` lets it go on"
            ),
            (_, Phase::Suspended) => format!(
                "  suspended since {}, but somebody else has let it run: `cryo suspend {name}` stops it again, \
                 `cryo resume {name}` ends the suspension",
                when::moment(suspension.since)
            ),
            _ => format!(
                "  is being suspended or resumed; if that was killed, `cryo resume {name}` cleans up"
            ),
        })
    }
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
    if let Some(stand) = listed.stand() {
        text.push_str(&stand);
        text.push('\n');
    }
    if let Some(why) = &job.not_saved {
        text.push_str(&format!(
            "  not saved when it was last tried: {}\n",
            first_line(why)
        ));
    }
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

/// The first line of a text of several.
fn first_line(text: &str) -> String {
    clean(text.lines().next().unwrap_or_default())
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
