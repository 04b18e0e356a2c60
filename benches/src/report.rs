//! What was measured: samples, medians, ratios; as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::case::Case;
use crate::failure::Failure;
use crate::tool::Tool;

/// What one round gave.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// The longest stretch in which the subject did not run during the checkpoint that left it running.
    pub still: Duration,
    /// The longest such stretch in a quiet time before: what the machine itself takes.
    pub noise: Duration,
    /// The command `checkpoint --leave-running` from start to end.
    pub total: Duration,
    /// The same with the image brought to the disk, whoever does it.
    pub durable: Duration,
    /// The command `checkpoint --kill` from start to end.
    pub kill: Duration,
    /// All files of the image.
    pub image_bytes: u64,
    /// From the start of the restart command to the subject's first instruction, as the subject saw it.
    pub restart: Duration,
    /// The restart command from start to end.
    pub restart_command: Duration,
}

/// One measure: its row in the table, its name in JSON, and its value in a sample.
struct Measure {
    row: &'static str,
    key: &'static str,
    unit: Unit,
    /// Whether the tools are compared by it. What the machine does is no tool's merit.
    compared: bool,
    value: fn(&Sample) -> f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Milliseconds,
    Mebibytes,
}

const MEASURES: [Measure; 8] = [
    Measure {
        row: "still",
        key: "still_ms",
        unit: Unit::Milliseconds,
        compared: true,
        value: |sample| milliseconds(sample.still),
    },
    Measure {
        row: "  (noise)",
        key: "noise_ms",
        unit: Unit::Milliseconds,
        compared: false,
        value: |sample| milliseconds(sample.noise),
    },
    Measure {
        row: "total",
        key: "total_ms",
        unit: Unit::Milliseconds,
        compared: true,
        value: |sample| milliseconds(sample.total),
    },
    Measure {
        row: "total, on disk",
        key: "durable_ms",
        unit: Unit::Milliseconds,
        compared: true,
        value: |sample| milliseconds(sample.durable),
    },
    Measure {
        row: "total, kill",
        key: "kill_ms",
        unit: Unit::Milliseconds,
        compared: true,
        value: |sample| milliseconds(sample.kill),
    },
    Measure {
        row: "image size",
        key: "image_bytes",
        unit: Unit::Mebibytes,
        compared: true,
        // Sizes stay far below the 2^53 up to which this is exact.
        value: |sample| sample.image_bytes as f64,
    },
    Measure {
        row: "restart",
        key: "restart_ms",
        unit: Unit::Milliseconds,
        compared: true,
        value: |sample| milliseconds(sample.restart),
    },
    Measure {
        row: "restart command",
        key: "restart_command_ms",
        unit: Unit::Milliseconds,
        compared: true,
        value: |sample| milliseconds(sample.restart_command),
    },
];

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Rounds of one case with one tool.
#[derive(Debug, Default)]
struct Rounds {
    samples: Vec<Sample>,
    failures: Vec<String>,
}

impl Rounds {
    fn values(&self, measure: &Measure) -> Vec<f64> {
        let mut values: Vec<f64> = self.samples.iter().map(measure.value).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    fn median(&self, measure: &Measure) -> Option<f64> {
        median(&self.values(measure))
    }
}

/// Middle of sorted values, the mean of both where there are two.
pub fn median(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = sorted[(sorted.len() - 1) / 2];
    Some((lower + upper) / 2.0)
}

/// Everything measured in this run.
#[derive(Debug)]
pub struct Report {
    rounds: u32,
    load_at_begin: String,
    interrupted: bool,
    /// In the order in which cases were first added.
    cases: Vec<(String, BTreeMap<&'static str, Rounds>)>,
}

impl Report {
    /// An empty report of a run with that many rounds.
    pub fn new(rounds: u32) -> Self {
        Self {
            rounds,
            load_at_begin: load(),
            interrupted: false,
            cases: Vec::new(),
        }
    }

    /// Adds what one round gave.
    pub fn add(&mut self, case: &Case, tool: &Tool, outcome: Result<Sample, Failure>) {
        let name = case.to_string();
        let at = self
            .cases
            .iter()
            .position(|(known, _)| *known == name)
            .unwrap_or_else(|| {
                self.cases.push((name, BTreeMap::new()));
                self.cases.len() - 1
            });
        let rounds = self.cases[at].1.entry(tool.name()).or_default();
        match outcome {
            Ok(sample) => rounds.samples.push(sample),
            Err(failure) => {
                eprintln!("{case}: {}: {failure}", tool.name());
                rounds.failures.push(failure.to_string());
            }
        }
    }

    /// Says that the rounds still to come are left out.
    pub fn interrupt(&mut self) {
        self.interrupted = true;
    }

    /// Whether every round was made and succeeded.
    pub fn is_complete(&self) -> bool {
        !self.interrupted
            && self
                .cases
                .iter()
                .flat_map(|(_, tools)| tools.values())
                .all(|rounds| rounds.failures.is_empty())
    }

    /// Every sample with medians and ratios, and the machine.
    pub fn to_json(&self) -> Result<String, Failure> {
        let cases: Vec<Value> = self
            .cases
            .iter()
            .map(|(name, tools)| case_json(name, tools))
            .collect();
        let report = json!({
            "machine": {
                "kernel": kernel(),
                "processors": processors(),
                "load_at_begin": self.load_at_begin,
                "load_at_end": load(),
            },
            "rounds": self.rounds,
            "interrupted": self.interrupted,
            "cases": cases,
        });
        serde_json::to_string_pretty(&report)
            .map_err(|error| Failure::new(format!("the report cannot be written as JSON: {error}")))
    }
}

fn case_json(name: &str, tools: &BTreeMap<&'static str, Rounds>) -> Value {
    let mut case = serde_json::Map::new();
    case.insert("case".to_owned(), json!(name));
    for (tool, rounds) in tools {
        let measures: serde_json::Map<String, Value> = MEASURES
            .iter()
            .map(|measure| {
                let sorted = rounds.values(measure);
                let samples: Vec<f64> = rounds.samples.iter().map(measure.value).collect();
                let value = json!({
                    "median": median(&sorted), "least": sorted.first(), "most": sorted.last(), "samples": samples,
                });
                (measure.key.to_owned(), value)
            })
            .collect();
        case.insert(
            (*tool).to_owned(),
            json!({ "measures": measures, "failures": rounds.failures }),
        );
    }
    let ratios: serde_json::Map<String, Value> = MEASURES
        .iter()
        .filter_map(|measure| Some((measure.key.to_owned(), json!(ratio(tools, measure)?))))
        .collect();
    case.insert("cryo_to_criu".to_owned(), Value::Object(ratios));
    Value::Object(case)
}

/// Median of cryo as a multiple of CRIU's: below one where cryo is ahead.
fn ratio(tools: &BTreeMap<&'static str, Rounds>, measure: &Measure) -> Option<f64> {
    let of = |tool| {
        tools
            .get(tool)
            .and_then(|rounds: &Rounds| rounds.median(measure))
    };
    let (cryo, criu) = (of("cryo")?, of("criu")?);
    (measure.compared && criu > 0.0).then(|| cryo / criu)
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "Linux {}, {} processors, load {} at the beginning, {} at the end; medians of {} rounds",
            kernel(),
            processors(),
            self.load_at_begin,
            load(),
            self.rounds
        )?;
        writeln!(
            formatter,
            "{:<18}{:<17}{:>14}{:>14}{:>12}",
            "case", "measure", "cryo", "criu", "cryo/criu"
        )?;
        for (name, tools) in &self.cases {
            let mut label = name.as_str();
            for measure in &MEASURES {
                let shown = |tool| {
                    let value = tools
                        .get(tool)
                        .and_then(|rounds: &Rounds| rounds.median(measure));
                    value.map_or_else(|| "-".to_owned(), |value| measure.show(value))
                };
                let ratio = ratio(tools, measure)
                    .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
                let (cryo, criu) = (shown("cryo"), shown("criu"));
                writeln!(
                    formatter,
                    "{label:<18}{:<17}{cryo:>14}{criu:>14}{ratio:>12}",
                    measure.row
                )?;
                label = "";
            }
        }
        for (name, tools) in &self.cases {
            for (tool, rounds) in tools
                .iter()
                .filter(|(_, rounds)| !rounds.failures.is_empty())
            {
                writeln!(
                    formatter,
                    "{name}: {tool} failed in {} of {} rounds, first with: {}",
                    rounds.failures.len(),
                    self.rounds,
                    rounds.failures[0]
                )?;
            }
        }
        if self.interrupted {
            writeln!(formatter, "Interrupted: the rounds after that are missing.")?;
        }
        Ok(())
    }
}

impl Measure {
    fn show(&self, value: f64) -> String {
        match self.unit {
            Unit::Milliseconds => format!("{value:.2} ms"),
            Unit::Mebibytes => format!("{:.2} MiB", value / f64::from(1 << 20)),
        }
    }
}

fn kernel() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// Load average of the last minute: how much else ran on the machine.
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace()
        .next()
        .unwrap_or("unknown")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
        assert_eq!(median(&[1.0, 2.0, 9.0]), Some(2.0));
    }

    fn sample(still: u64) -> Sample {
        let time = Duration::from_millis(still);
        Sample {
            still: time,
            noise: time,
            total: time,
            durable: time,
            kill: time,
            image_bytes: still << 20,
            restart: time,
            restart_command: time,
        }
    }

    #[test]
    fn both_tools_stand_side_by_side_with_their_ratio() {
        let case: Case = "threads-5".parse().expect("a case");
        let (cryo, criu) = (Tool::Cryo("cryo".into()), Tool::Criu("criu".into()));
        let mut report = Report::new(3);
        for still in [10, 30, 20] {
            report.add(&case, &cryo, Ok(sample(still)));
            report.add(&case, &criu, Ok(sample(2 * still)));
        }
        assert!(report.is_complete());
        let table = report.to_string();
        let row = table
            .lines()
            .find(|line| line.contains("still"))
            .expect("a row");
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(
            cells,
            ["threads-5", "still", "20.00", "ms", "40.00", "ms", "0.50"]
        );

        let json: Value = serde_json::from_str(&report.to_json().expect("JSON")).expect("JSON");
        assert_eq!(
            json["cases"][0]["criu"]["measures"]["image_bytes"]["median"],
            40.0 * f64::from(1 << 20)
        );
        assert_eq!(json["cases"][0]["cryo_to_criu"]["still_ms"], 0.5);
    }

    #[test]
    fn a_failed_round_is_told() {
        let case: Case = "memory-1m".parse().expect("a case");
        let mut report = Report::new(1);
        report.add(
            &case,
            &Tool::Cryo("cryo".into()),
            Err(Failure::new("no luck".to_owned())),
        );
        assert!(!report.is_complete());
        assert!(
            report
                .to_string()
                .contains("memory-1m: cryo failed in 1 of 1 rounds, first with: no luck")
        );
    }
}
