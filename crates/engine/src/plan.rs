//! The plan of a restart: printable steps, made without creating anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::rebuild::Rebuild;
use crate::{Error, Refusals, Result};

/// The coarse order of a rebuild.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Kernel objects that several processes share are made.
    Objects,
    /// Processes are born and their memory is built: what is shared after fork is inherited.
    Tree,
    /// Slots (descriptors) get their objects.
    Descriptors,
    /// What belongs to a whole process.
    Process,
    /// Processes enter the namespaces that the job had made itself, as long as they have one thread.
    Namespaces,
    /// Threads are born.
    Threads,
    /// What belongs to one thread.
    Task,
    /// Ties between objects (epoll entries), pending signals, timers: what may act by itself comes late.
    Attach,
    /// What takes abilities away: credentials, limits.
    Restrict,
    /// The last that tasks do as stubs.
    Finish,
    /// The stub goes; registers.
    Release,
    /// What leaves a task no freedom to make another call: seccomp where it cannot be suspended meanwhile.
    Confine,
}

/// What steps need and give.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Token {
    /// The process with this pid exists, in the session it is born in.
    Process(i32),
    /// The process leads a session of its own.
    SessionOf(i32),
    /// The session with this number has its controlling terminal, which those born in it from then on have too.
    TerminalOf(i32),
    /// The memory of the process is built and filled.
    Memory(i32),
    /// The process group with this number exists.
    Group(i32),
    /// A kernel object exists.
    Object(u64),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Process(pid) => write!(f, "process {pid}"),
            Token::SessionOf(pid) => write!(f, "session {pid}"),
            Token::TerminalOf(pid) => write!(f, "terminal of session {pid}"),
            Token::Memory(pid) => write!(f, "memory of {pid}"),
            Token::Group(id) => write!(f, "group {id}"),
            Token::Object(id) => write!(f, "object {id}"),
        }
    }
}

/// What a step does. Its text says it in one line.
pub trait Action: fmt::Display + Send + Sync {
    /// Does it.
    ///
    /// # Errors
    /// Any error ends the rebuild; everything built is killed.
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()>;
}

/// One planned unit of work.
pub struct Step {
    /// When.
    pub stage: Stage,
    /// The process that it is about (its pid in the image), 0 for the job.
    pub process: i32,
    /// What must have been given before.
    pub needs: Vec<Token>,
    /// What it gives.
    pub gives: Vec<Token>,
    /// Its effect.
    pub action: Box<dyn Action>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.stage)?;
        if self.process != 0 {
            write!(f, " [{}]", self.process)?;
        }
        write!(f, " {}", self.action)?;
        let list = |tokens: &[Token]| {
            tokens
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        };
        if !self.needs.is_empty() {
            write!(f, " | needs {}", list(&self.needs))?;
        }
        if !self.gives.is_empty() {
            write!(f, " | gives {}", list(&self.gives))?;
        }
        Ok(())
    }
}

/// All steps of a restart, and what stands in its way.
#[derive(Default)]
pub struct Plan {
    steps: Vec<Step>,
    required: Vec<(Token, Token)>,
    /// What this host cannot do for this image.
    pub refusals: Refusals,
    /// Things the user should know, which do not stand in the way.
    pub remarks: Vec<String>,
}

impl Plan {
    /// Adds a step without needs.
    pub fn step(&mut self, stage: Stage, process: i32, action: impl Action + 'static) {
        self.linked_step(stage, process, Vec::new(), Vec::new(), action);
    }

    /// Adds a step with what it needs and gives.
    pub fn linked_step(
        &mut self,
        stage: Stage,
        process: i32,
        needs: Vec<Token>,
        gives: Vec<Token>,
        action: impl Action + 'static,
    ) {
        self.steps.push(Step {
            stage,
            process,
            needs,
            gives,
            action: Box::new(action),
        });
    }

    /// Says that whatever gives `what` needs `need` first.
    pub fn requires(&mut self, what: Token, need: Token) {
        self.required.push((what, need));
    }

    /// The steps in the order in which they are done: by stage, then as needs demand, then as they were added.
    ///
    /// # Errors
    /// When a need is never given, or needs form a circle: the image is damaged or the plan is wrong.
    pub fn ordered(mut self) -> Result<Vec<Step>> {
        self.steps.sort_by_key(|step| step.stage);
        for (what, need) in std::mem::take(&mut self.required) {
            if let Some(step) = self
                .steps
                .iter_mut()
                .find(|step| step.gives.contains(&what))
            {
                step.needs.push(need);
            }
        }
        let mut given: BTreeMap<&Token, usize> = BTreeMap::new();
        for (index, step) in self.steps.iter().enumerate() {
            for token in &step.gives {
                given.entry(token).or_insert(index);
            }
        }
        let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); self.steps.len()];
        let mut open: Vec<usize> = vec![0; self.steps.len()];
        for (index, step) in self.steps.iter().enumerate() {
            for need in &step.needs {
                let Some(&giver) = given.get(need) else {
                    return Err(Error::Failed(format!(
                        "the plan needs {need}, which nothing gives"
                    )));
                };
                if self.steps[giver].stage == step.stage && giver != index {
                    dependents[giver].push(index);
                    open[index] += 1;
                } else if self.steps[giver].stage > step.stage {
                    return Err(Error::Failed(format!(
                        "the plan needs {need} before it is given"
                    )));
                }
            }
        }
        // Always the earliest step that is ready: an order that is the same every time.
        let mut ready: BTreeSet<usize> = (0..self.steps.len())
            .filter(|&index| open[index] == 0)
            .collect();
        let mut order = Vec::with_capacity(self.steps.len());
        while let Some(index) = ready.pop_first() {
            order.push(index);
            for &dependent in &dependents[index] {
                open[dependent] -= 1;
                if open[dependent] == 0 {
                    ready.insert(dependent);
                }
            }
        }
        if order.len() != self.steps.len() {
            return Err(Error::Failed("the needs of the plan form a circle".into()));
        }
        order.sort_by_key(|&index| self.steps[index].stage);
        let mut steps: Vec<Option<Step>> = self.steps.into_iter().map(Some).collect();
        Ok(order
            .into_iter()
            .filter_map(|index| steps[index].take())
            .collect())
    }
}
