//! `cryo show`: what an image holds.

use std::path::PathBuf;

use clap::{Args, ValueHint};
use cryonaut_engine::show::{self, Description, ProcessDescription, State};
use indicatif::BinaryBytes;

use super::restart::open;
use crate::console::Console;
use crate::exit::{self, Failure};
use crate::when;

/// Shows what an image holds: processes, threads, memory, descriptors
#[derive(Args, Debug)]
#[command(after_long_help = exit::DOCUMENTED)]
pub struct Arguments {
    /// The image: a file, or - for standard input
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    image: PathBuf,
    /// List every mapping, not only sums by kind
    #[arg(long)]
    mappings: bool,
}

impl Arguments {
    /// Shows it.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        let description = show::describe(&open(&self.image)?)?;
        console.result(&description, || {
            text(&description, self.mappings.then_some(Mappings))
        })?;
        Ok(0)
    }
}

/// That every mapping is wanted.
#[derive(Clone, Copy)]
struct Mappings;

fn text(image: &Description, mappings: Option<Mappings>) -> String {
    let mut lines = vec![heading(image)];
    let threads: usize = image
        .processes
        .iter()
        .map(|process| process.threads.len())
        .sum();
    lines.push(format!(
        "{}, processes: {}, threads: {threads}, memory: {} stored, {} shared between processes",
        BinaryBytes(image.bytes),
        image.processes.len(),
        BinaryBytes(image.stored_bytes),
        BinaryBytes(image.same_bytes),
    ));
    lines.push(String::new());
    for (index, process) in image.processes.iter().enumerate() {
        let (first, rest) = branches(&image.processes, index);
        lines.push(format!("{first}{}", title(process)));
        lines.extend(
            details(process, mappings)
                .into_iter()
                .map(|line| format!("{rest}    {line}")),
        );
    }
    lines.join("\n")
}

fn heading(image: &Description) -> String {
    let mut text = format!("image {}", image.id);
    if !image.job_name.is_empty() {
        text.push_str(&format!(" of the job {}", image.job_name));
    }
    if image.generation > 0 {
        text.push_str(&format!(" (restarted {} times before)", image.generation));
    }
    text.push_str(&format!(
        "\nmade {}",
        when::moment(image.created_unix_nanoseconds / 1_000_000_000)
    ));
    if !image.node.is_empty() {
        text.push_str(&format!(" on {}", image.node));
    }
    format!("{text} by {}", image.created_by)
}

/// The lines of the tree before a process' first line and before its further ones.
fn branches(processes: &[ProcessDescription], index: usize) -> (String, String) {
    // Whether a later process at this depth has the same parent: none shallower comes in between.
    let goes_on = |depth: usize| {
        let later = processes[index + 1..]
            .iter()
            .take_while(|later| later.depth >= depth);
        later.into_iter().any(|later| later.depth == depth)
    };
    let depth = processes[index].depth;
    // A hostile image may nest without end.
    let shown = depth.min(64);
    let trunk: String = (1..shown)
        .map(|level| if goes_on(level) { "│  " } else { "   " })
        .collect();
    let children = goes_on_below(processes, index);
    let (fork, below) = match (shown, goes_on(depth)) {
        (0, _) => ("", ""),
        (_, true) => ("├─ ", "│  "),
        (_, false) => ("└─ ", "   "),
    };
    (
        format!("{trunk}{fork}"),
        format!("{trunk}{below}{children}"),
    )
}

/// The line down to the first child, if there is one.
fn goes_on_below(processes: &[ProcessDescription], index: usize) -> &'static str {
    match processes.get(index + 1) {
        Some(next) if next.depth > processes[index].depth => "│",
        _ => " ",
    }
}

fn title(process: &ProcessDescription) -> String {
    let state = match process.state {
        State::Running => String::new(),
        State::Stopped(signal) => format!("  stopped by signal {signal}"),
        State::Zombie(status) => format!("  ended with wait status {status:#x}, not yet reaped"),
    };
    let command = shortened(&process.command_line.join(" "));
    format!("{} {}{state}  {command}", process.pid, process.name)
        .trim_end()
        .to_owned()
}

fn details(process: &ProcessDescription, mappings: Option<Mappings>) -> Vec<String> {
    let mut lines = Vec::new();
    if matches!(process.state, State::Zombie(_)) {
        return lines;
    }
    let threads = process.threads.len();
    let ids = format!("group {}, session {}", process.group, process.session);
    lines.push(format!(
        "{}, {ids}",
        if threads == 1 {
            "1 thread".into()
        } else {
            format!("{threads} threads")
        }
    ));
    if !process.executable.is_empty() {
        lines.push(format!("runs {}", process.executable));
    }
    let kinds: Vec<String> = process
        .memory
        .iter()
        .map(|kind| {
            format!(
                "{} {} in {} (to be saved: {})",
                kind.kind,
                BinaryBytes(kind.bytes),
                kind.mappings,
                BinaryBytes(kind.saved_bytes)
            )
        })
        .collect();
    if !kinds.is_empty() {
        lines.push(format!("memory: {}", kinds.join(", ")));
    }
    if mappings.is_some() {
        lines.extend(process.mappings.iter().map(|mapping| {
            let what = mapping.file.as_deref().unwrap_or(mapping.kind);
            format!(
                "  {:012x}-{:012x} {} {what}",
                mapping.start, mapping.end, mapping.permissions
            )
        }));
    }
    let descriptors: Vec<String> = process
        .descriptors
        .iter()
        .map(|descriptor| {
            let path = descriptor.path.as_deref().unwrap_or_default();
            format!("{} {} {path}", descriptor.number, descriptor.kind)
                .trim_end()
                .to_owned()
        })
        .collect();
    if !descriptors.is_empty() {
        lines.push(format!("descriptors: {}", descriptors.join(", ")));
    }
    lines
}

fn shortened(text: &str) -> String {
    const MOST: usize = 100;
    let clean = text
        .chars()
        .map(|letter| if letter.is_control() { '?' } else { letter });
    let short: String = clean.take(MOST).collect();
    if text.chars().count() > MOST {
        short + "…"
    } else {
        short
    }
}
