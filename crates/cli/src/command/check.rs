//! `cryo check`: a dry run of either direction.

use std::path::Path;

use clap::{Args, ValueHint};
use cryonaut_engine::host::Host;
use cryonaut_engine::plan::Plan;
use cryonaut_engine::relocate::{Relocated, relocate};
use cryonaut_engine::restart::{self, Pids, may_choose_pids};
use cryonaut_engine::{Error, Refusal};
use cryonaut_image::SeekableImage;
use cryonaut_launch::registry::Registry;
use serde::Serialize;

use super::restart::Conditions;
use crate::console::Console;
use crate::exit::{self, Code, Failure};
use crate::opening::{KeyArguments, open};
use crate::subject::{CutArguments, ExternalArguments, ScopeArguments, Subject};

/// Tells whether something can be checkpointed, or an image restarted here, and if not, every reason
///
/// Nothing is disturbed and nothing is started. A few things show only in frozen processes; a checkpoint refuses them before
/// it changes anything.
#[derive(Args, Debug)]
#[command(after_long_help = exit::DOCUMENTED)]
pub struct Arguments {
    /// A process id, the name of a job, or an image (with a slash in its name, or else a file that is there)
    #[arg(value_name = "TARGET|FILE", value_hint = ValueHint::AnyPath)]
    subject: String,
    #[command(flatten)]
    scope: ScopeArguments,
    #[command(flatten)]
    external: ExternalArguments,
    #[command(flatten)]
    cut: CutArguments,
    #[command(flatten)]
    conditions: Conditions,
    #[command(flatten)]
    opening: KeyArguments,
    /// Of an image, print every step of the restart
    #[arg(long)]
    plan: bool,
}

/// What stands in the way of a checkpoint.
#[derive(Serialize, Debug)]
struct TargetReport {
    possible: bool,
    refusals: Vec<Refusal>,
    processes: usize,
    threads: usize,
}

/// What stands in the way of a restart, and how it would go.
#[derive(Serialize, Debug)]
struct ImageReport {
    possible: bool,
    refusals: Vec<Refusal>,
    remarks: Vec<String>,
    pids: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<Vec<String>>,
}

impl Arguments {
    /// Checks.
    pub fn run(self, console: Console) -> Result<u8, Failure> {
        if self.names_image()? {
            self.check_image(console)
        } else {
            self.check_target(console)
        }
    }

    fn names_image(&self) -> Result<bool, Failure> {
        let text = &self.subject;
        if text.contains('/') {
            return Ok(true);
        }
        if text.chars().all(|letter| letter.is_ascii_digit()) {
            return Ok(false);
        }
        let is_file = Path::new(text).exists();
        let is_job = Registry::open()
            .and_then(|registry| registry.find(text))
            .is_ok();
        match (is_job, is_file) {
            (true, _) => Ok(false),
            (false, true) => Ok(true),
            (false, false) => Err(Failure::usage(format!(
                "{text} is neither a running job (see `cryo list`) nor a file here"
            ))),
        }
    }

    fn check_target(self, console: Console) -> Result<u8, Failure> {
        if self.plan {
            return Err(Failure::usage(
                "--plan is for images: only a restart has steps to show",
            ));
        }
        let mut target = Subject::find(&self.subject, self.scope)?.target;
        target.external = self.external.chosen();
        target.cut = self.cut.chosen();
        let refusals = refusals_of(target.refusals().into_result())?;
        let threads = target
            .processes
            .iter()
            .map(|process| process.stat.num_threads as usize)
            .sum();
        let report = TargetReport {
            possible: refusals.is_empty(),
            refusals,
            processes: target.processes.len(),
            threads,
        };
        console.result(&report, || match report.refusals.as_slice() {
            [] => format!(
                "nothing stands in the way: {} processes, {} threads",
                report.processes, report.threads
            ),
            refusals => listing("cannot be checkpointed", refusals),
        })?;
        Ok(status(report.possible))
    }

    fn check_image(self, console: Console) -> Result<u8, Failure> {
        let image = open(Path::new(&self.subject), &self.opening)?;
        let Planned { plan, pids } = plan_here(&image, &self.conditions)?;
        let refusals = plan.refusals.list().to_vec();
        let remarks = plan.remarks.clone();
        let steps = match self.plan {
            true => Some(
                plan.ordered()?
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>(),
            ),
            false => None,
        };
        let report = ImageReport {
            possible: refusals.is_empty(),
            refusals,
            remarks,
            pids,
            steps,
        };
        console.result(&report, || report.text())?;
        Ok(status(report.possible))
    }
}

/// What a restart here would do.
pub(super) struct Planned {
    /// The plan.
    pub plan: Plan,
    /// Which pids the job would get, as --pids names it.
    pub pids: &'static str,
}

/// Plans a restart as `cryo restart` would with these conditions.
pub(super) fn plan_here(
    image: &SeekableImage,
    conditions: &Conditions,
) -> Result<Planned, Failure> {
    let Relocated { records, remarks } = relocate(&image.records()?, conditions.relocations())?;
    let mut keep = match conditions.pids() {
        Pids::Keep => true,
        Pids::Namespace => false,
        Pids::Auto => may_choose_pids(),
    };
    let provided = conditions.provided(&records)?;
    let plan_for = |keep: bool| -> Result<Plan, Failure> {
        let host = Host {
            provided: provided.clone(),
            ..conditions.host(keep)?
        };
        Ok(restart::plan(image, &records, &host)?)
    };
    let mut plan = plan_for(keep)?;
    if keep && conditions.pids() == Pids::Auto && !plan.refusals.list().is_empty() {
        keep = false;
        plan = plan_for(keep)?;
    }
    if keep && !may_choose_pids() {
        plan.refusals.add_for_job(
            "the pids",
            "only root (or CAP_CHECKPOINT_RESTORE) may give a process its old pid here",
            "use --pids namespace",
        );
    }
    plan.remarks.extend(remarks);
    if !provided.is_empty() {
        let count = provided.len();
        plan.remarks.push(format!(
            "{count} of its files would come from the image, for the job alone"
        ));
    }
    let pids = if keep { "keep" } else { "namespace" };
    Ok(Planned { plan, pids })
}

impl ImageReport {
    fn text(&self) -> String {
        let mut text = match self.refusals.as_slice() {
            [] if self.pids == "keep" => {
                "nothing stands in the way: it can be restarted with its own pids".to_owned()
            }
            [] => {
                "nothing stands in the way: it can be restarted in namespaces of its own".to_owned()
            }
            refusals => listing("cannot be restarted here", refusals),
        };
        for remark in &self.remarks {
            text.push_str(&format!("\nremark: {remark}"));
        }
        for step in self.steps.iter().flatten() {
            text.push('\n');
            text.push_str(step);
        }
        text
    }
}

/// The refusals out of a result that holds nothing else.
fn refusals_of(outcome: Result<(), Error>) -> Result<Vec<Refusal>, Failure> {
    match outcome {
        Ok(()) => Ok(Vec::new()),
        Err(Error::Refused(refusals)) => Ok(refusals),
        Err(error) => Err(error.into()),
    }
}

fn listing(what: &str, refusals: &[Refusal]) -> String {
    let lines: Vec<String> = refusals
        .iter()
        .map(|refusal| format!("  {refusal}"))
        .collect();
    format!("{what}:\n{}", lines.join("\n"))
}

fn status(possible: bool) -> u8 {
    if possible { 0 } else { Code::Refused as u8 }
}
