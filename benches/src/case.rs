//! What the subject holds while it is checkpointed.

use std::fmt;
use std::str::FromStr;

/// One thing a job may have much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holding {
    /// Bytes of resident memory that do not compress, in pages of 4 KiB.
    SmallPages(u64),
    /// The same with transparent huge pages advised.
    HugePages(u64),
    /// Processes: one parent, the others its children.
    Processes(u64),
    /// Threads of one process.
    Threads(u64),
    /// Small private mappings, each of them two areas.
    Mappings(u64),
    /// Open descriptors: half regular files, half ends of pipes with bytes in them.
    Descriptors(u64),
}

/// A case: its name, as given on the command line and shown in the table, and what the subject holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    name: String,
    holding: Holding,
}

impl Case {
    /// The arguments that make the subject hold what this case asks for.
    pub fn subject_arguments(&self) -> Vec<String> {
        let (option, amount) = match self.holding {
            Holding::SmallPages(bytes) | Holding::HugePages(bytes) => ("--resident", bytes),
            Holding::Processes(processes) => ("--processes", processes),
            Holding::Threads(threads) => ("--threads", threads),
            Holding::Mappings(mappings) => ("--mappings", mappings),
            Holding::Descriptors(descriptors) => ("--descriptors", descriptors),
        };
        let mut arguments = vec![option.to_owned(), amount.to_string()];
        if matches!(self.holding, Holding::HugePages(_)) {
            arguments.extend(["--pages".to_owned(), "huge".to_owned()]);
        }
        arguments
    }

    /// Bytes of memory the subject fills by itself; 0 where the case is about something else.
    pub fn resident_bytes(&self) -> u64 {
        match self.holding {
            Holding::SmallPages(bytes) | Holding::HugePages(bytes) => bytes,
            _ => 0,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let holding = match name.split_once('-') {
            Some(("memory", size)) => match size.strip_suffix("-huge") {
                Some(size) => bytes(size).map(Holding::HugePages),
                None => bytes(size).map(Holding::SmallPages),
            },
            Some(("processes", count)) => amount(count).map(Holding::Processes),
            Some(("threads", count)) => amount(count).map(Holding::Threads),
            Some(("mappings", count)) => amount(count).map(Holding::Mappings),
            Some(("descriptors", count)) => amount(count).map(Holding::Descriptors),
            _ => None,
        };
        holding.map(|holding| Self { name: name.to_owned(), holding }).ok_or_else(|| {
            "expected memory-SIZE[-huge] (SIZE such as 64m or 1g), processes-N, threads-N, mappings-N or descriptors-N"
                .to_owned()
        })
    }
}

/// A whole number of at least one.
fn amount(text: &str) -> Option<u64> {
    text.parse().ok().filter(|&number| number > 0)
}

/// A size with its unit: `k`, `m` or `g`, as powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let unit = text.chars().last()?;
    let shift = match unit {
        'k' => 10,
        'm' => 20,
        'g' => 30,
        _ => return None,
    };
    amount(text.strip_suffix(unit)?)?.checked_mul(1 << shift)
}

/// Reads a size of the command line.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    bytes(text).ok_or_else(|| "expected a size such as 64m or 1g".to_owned())
}

/// The cases that are measured when none is named.
pub fn standard() -> Vec<Case> {
    let count = |name: &str, holding: fn(u64) -> Holding, amount: u64| Case {
        name: format!("{name}-{amount}"),
        holding: holding(amount),
    };
    let memory = |size: &str, holding: Holding| Case {
        name: format!("memory-{size}"),
        holding,
    };
    vec![
        memory("1m", Holding::SmallPages(1 << 20)),
        memory("64m", Holding::SmallPages(64 << 20)),
        memory("64m-huge", Holding::HugePages(64 << 20)),
        memory("1g", Holding::SmallPages(1 << 30)),
        memory("1g-huge", Holding::HugePages(1 << 30)),
        count("processes", Holding::Processes, 1),
        count("processes", Holding::Processes, 10),
        count("processes", Holding::Processes, 100),
        count("threads", Holding::Threads, 1),
        count("threads", Holding::Threads, 100),
        count("threads", Holding::Threads, 1000),
        count("mappings", Holding::Mappings, 10_000),
        count("descriptors", Holding::Descriptors, 1000),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_standard_case_is_found_by_its_name() {
        for case in standard() {
            assert_eq!(case.to_string().parse::<Case>().as_ref(), Ok(&case));
        }
    }

    #[test]
    fn names_without_a_meaning_are_refused() {
        for name in [
            "",
            "memory",
            "memory-",
            "memory-1",
            "memory-0m",
            "memory-1x",
            "threads-0",
            "threads--1",
            "x-1",
        ] {
            assert!(name.parse::<Case>().is_err(), "{name:?} was taken");
        }
        assert!("memory-99999999999999g".parse::<Case>().is_err());
    }
}
