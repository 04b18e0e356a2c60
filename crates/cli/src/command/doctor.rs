//! `cryo doctor`: what this machine and this user can do, tried out rather than guessed.

mod file_capabilities;
mod probe;
mod suspending;

use clap::Args;
use serde::Serialize;

use crate::console::Console;
use crate::exit::{self, Code, Failure};

/// Tells what this machine and this user can do, and how to get what is missing
///
/// Everything that can be tried without harm is tried: namespaces are made, pids chosen, a child is traced. Ends with 0 if
/// running programs can be checkpointed and restarted in some way, else with 6.
#[derive(Args, Debug)]
#[command(after_long_help = exit::DOCUMENTED)]
pub struct Arguments {}

/// How it stands with one thing.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is there.
    Ok,
    /// It is not, and something else does not work therefore.
    Missing,
    /// It is not, and `cryo` does without.
    Limited,
}

/// One thing looked at.
#[derive(Serialize, Debug, Clone)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// How it stands.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What can be done about it, empty if nothing needs to.
    pub remedy: String,
}

impl Finding {
    fn ok(what: &'static str, found: impl Into<String>) -> Finding {
        Finding {
            what,
            state: State::Ok,
            found: found.into(),
            remedy: String::new(),
        }
    }

    fn missing(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding {
            what,
            state: State::Missing,
            found: found.into(),
            remedy: remedy.into(),
        }
    }

    fn limited(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding {
            state: State::Limited,
            ..Finding::missing(what, found, remedy)
        }
    }
}

/// What can be done here, all in all.
#[derive(Serialize, Debug)]
struct Report {
    /// Own running programs can be checkpointed.
    checkpoint: bool,
    /// They can be restarted in namespaces of their own.
    restart_in_namespaces: bool,
    /// They can be restarted beside everything else, with their old pids.
    restart_with_pids: bool,
    findings: Vec<Finding>,
}

impl Arguments {
    /// Looks.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        let kernel = probe::kernel();
        let (tracing, namespaces, pids) = (
            probe::tracing(),
            probe::namespaces(),
            probe::choosing_pids(),
        );
        let good = |findings: &[Finding]| {
            findings
                .iter()
                .all(|finding| finding.state != State::Missing)
        };
        let sound = good(&kernel);
        let report = Report {
            checkpoint: sound && good(&tracing),
            restart_in_namespaces: sound && good(&namespaces),
            restart_with_pids: sound && pids.state == State::Ok,
            findings: [
                kernel,
                tracing,
                namespaces,
                vec![pids],
                file_capabilities::finding().into_iter().collect(),
                probe::surroundings(),
                suspending::findings(),
            ]
            .concat(),
        };
        console.result(&report, || report.text())?;
        let useful =
            report.checkpoint && (report.restart_in_namespaces || report.restart_with_pids);
        Ok(if useful { 0 } else { Code::NotPermitted as u8 })
    }
}

impl Report {
    fn text(&self) -> String {
        let width = self
            .findings
            .iter()
            .map(|finding| finding.what.len())
            .max()
            .unwrap_or(0);
        let mut text = String::new();
        for finding in &self.findings {
            let state = match finding.state {
                State::Ok => "ok     ",
                State::Missing => "MISSING",
                State::Limited => "without",
            };
            text.push_str(&format!(
                "{state}  {:width$}  {}\n",
                finding.what, finding.found
            ));
            if !finding.remedy.is_empty() {
                text.push_str(&format!("         {:width$}  -> {}\n", "", finding.remedy));
            }
        }
        let answer = |able: bool| if able { "yes" } else { "no" };
        text.push_str(&format!(
            "\ncheckpoint your running programs:                       {}\n\
             start jobs and restart them in namespaces of their own:  {}\n\
             restart them beside everything else, with their pids:    {}",
            answer(self.checkpoint),
            answer(self.restart_in_namespaces),
            answer(self.restart_with_pids)
        ));
        text
    }
}
