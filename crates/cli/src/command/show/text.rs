//! An image on a terminal: a heading, the tree of processes as a table, and each process by itself.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use cryonaut_engine::show::{
    Channel, Description, DescriptorDescription, EmbeddedDescription, ProcessDescription, State,
};
use cryonaut_sys::terminal;

use crate::console::clean;
use crate::units::{count, number, size};
use crate::when;

/// Descriptors of a process that are listed if not all are asked for.
const FEW: usize = 16;

/// What is wanted beside the usual.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Every mapping, not only sums by kind.
    pub mappings: bool,
    /// Every descriptor, not only the first of each process.
    pub descriptors: bool,
    /// Every embedded file, not only their sum.
    pub embedded: bool,
}

/// How text looks where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    coloured: bool,
    /// Columns of the terminal; none where lines may be as long as they are.
    width: Option<usize>,
}

impl Look {
    /// As standard output wants it: colours on a terminal alone, and not where NO_COLOR (no-color.org) or a terminal without
    /// abilities forbid them.
    pub fn of_output() -> Self {
        let output = std::io::stdout();
        if !output.is_terminal() {
            return Self {
                coloured: false,
                width: None,
            };
        }
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|name| name == "dumb");
        let columns = terminal::window_size(output.as_fd())
            .ok()
            .map(|size| usize::from(size.columns))
            .filter(|&columns| columns >= 20);
        Self {
            coloured: !set("NO_COLOR") && !dumb,
            width: columns,
        }
    }

    fn paint(self, tone: Tone, text: &str) -> String {
        match self.coloured {
            true => format!("\x1b[{}m{text}\x1b[0m", tone as u8),
            false => text.to_owned(),
        }
    }

    /// The text, cut where it would not fit behind `before` columns.
    fn fit(self, text: &str, before: usize) -> String {
        let room = self
            .width
            .map_or(usize::MAX, |width| width.saturating_sub(before).max(8));
        match text.chars().nth(room) {
            None => text.to_owned(),
            Some(_) => text.chars().take(room - 1).chain(['…']).collect(),
        }
    }
}

/// Kinds of text, by their SGR codes (console_codes(4)).
#[derive(Clone, Copy, Debug)]
enum Tone {
    Strong = 1,
    Faint = 2,
    Red = 31,
    Yellow = 33,
    Cyan = 36,
}

/// The whole text.
pub fn text(image: &Description, wanted: Wanted, look: Look) -> String {
    let mut lines = heading(image, look);
    lines.push(String::new());
    lines.extend(tree(&image.processes, look));
    for process in &image.processes {
        if !matches!(process.state, State::Zombie(_)) {
            lines.push(String::new());
            lines.extend(details(process, wanted, look));
        }
    }
    let joined = channels(&image.channels, look);
    if !joined.is_empty() {
        lines.push(String::new());
        lines.push(look.paint(Tone::Strong, "Pipes and other ties"));
        lines.extend(joined);
    }
    lines.extend(embedded(&image.embedded, wanted, look));
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

/// The files in the image: their sum, and if that is wanted each, the size that it takes before its path.
fn embedded(files: &[EmbeddedDescription], wanted: Wanted, look: Look) -> Vec<String> {
    if files.is_empty() {
        return Vec::new();
    }
    let regular = files.iter().filter(|file| file.kind == "file").count();
    let stored = files.iter().map(|file| file.stored_bytes).sum();
    let mut lines = vec![
        String::new(),
        look.paint(Tone::Strong, "Files in the image"),
        format!(
            "  {} and {}, {}",
            count(regular, "file", "files"),
            count(
                files.len() - regular,
                "directory or link",
                "directories and links"
            ),
            size(stored)
        ),
    ];
    if wanted.embedded {
        lines.extend(files.iter().map(|file| {
            let taken = match (file.kind, file.stored_bytes) {
                ("directory", _) => "directory".to_owned(),
                ("link", _) => "link".to_owned(),
                (_, 0) if file.bytes > 0 => "the same".to_owned(),
                (_, bytes) => size(bytes),
            };
            let leads = file
                .target
                .as_ref()
                .map(|target| format!(" → {}", clean(target)));
            let path = format!("{}{}", clean(&file.path), leads.unwrap_or_default());
            format!("  {taken:>9}  {}", look.fit(&path, 13))
        }));
    }
    lines
}

fn heading(image: &Description, look: Look) -> Vec<String> {
    let name = match image.job_name.as_str() {
        "" => first_name(&image.processes),
        name => clean(name),
    };
    let mut first = look.paint(Tone::Strong, &name);
    first.push_str(&format!(
        "  saved {}",
        when::moment(image.created_unix_nanoseconds / 1_000_000_000)
    ));
    if !image.node.is_empty() {
        first.push_str(&format!(" on {}", clean(&image.node)));
    }
    if !image.kernel.is_empty() {
        first.push_str(&format!(" (Linux {})", clean(&image.kernel)));
    }
    first.push_str(&format!(" by {}", clean(&image.created_by)));
    if image.generation > 0 {
        let times = count(image.generation as usize, "time", "times");
        first.push_str(&format!(", restarted {times} before"));
    }
    let threads = image.processes.iter().map(|one| one.threads.len()).sum();
    let mut second = vec![
        size(image.bytes),
        count(image.processes.len(), "process", "processes"),
        count(threads, "thread", "threads"),
        format!("{} of memory stored", size(image.stored_bytes)),
    ];
    if image.same_bytes > 0 {
        second.push(format!(
            "{} more shared by processes",
            size(image.same_bytes)
        ));
    }
    let id = look.paint(Tone::Faint, &format!("image {}", clean(&image.id)));
    vec![first, second.join(", "), id]
}

fn first_name(processes: &[ProcessDescription]) -> String {
    processes
        .first()
        .map(|process| clean(&process.name))
        .unwrap_or_default()
}

/// The tree as a table: one line for each process.
fn tree(processes: &[ProcessDescription], look: Look) -> Vec<String> {
    let head = ["PID", "STATE", "THREADS", "MEMORY", "SAVED", "FILES"].map(str::to_owned);
    let mut rows = vec![head];
    rows.extend(processes.iter().map(columns));
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let before = widths.iter().sum::<usize>() + 2 * widths.len();
    let branches = Branches::new(processes.iter().map(|process| process.depth));
    let mut lines = Vec::with_capacity(rows.len());
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, &width))| match column {
                1 => format!("{cell:width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        let line = cells.join("  ");
        lines.push(match index.checked_sub(1) {
            None => look.paint(Tone::Faint, &format!("{line}  COMMAND")),
            Some(at) => {
                let branch = branches.before(at);
                let room = before + branch.chars().count();
                let command = look.fit(&clean(&command(&processes[at])), room);
                let line = match processes[at].state {
                    State::Running => line,
                    State::Stopped(_) => look.paint(Tone::Yellow, &line),
                    State::Zombie(_) => look.paint(Tone::Red, &line),
                };
                format!("{line}  {}{command}", look.paint(Tone::Faint, &branch))
            }
        });
    }
    lines
}

fn columns(process: &ProcessDescription) -> [String; 6] {
    let sum = |part: fn(&cryonaut_engine::show::MemoryDescription) -> u64| {
        let parts = process.memory.iter().filter(|kind| kind.kind != "reserved");
        parts.fold(0_u64, |sum, kind| sum.saturating_add(part(kind)))
    };
    [
        process.pid.to_string(),
        state(process.state),
        number(process.threads.len() as u64),
        size(sum(|kind| kind.bytes)),
        size(sum(|kind| kind.saved_bytes)),
        number(process.descriptors.len() as u64),
    ]
}

/// What a process does, in a word or two.
pub fn state(state: State) -> String {
    match state {
        State::Running => "running".to_owned(),
        State::Stopped(signal) => format!("stopped ({signal})"),
        // Wait status: the exit code is in its second byte, a signal in the lowest seven bits (wait(2)).
        State::Zombie(status) if status & 0x7f == 0 => format!("ended ({})", status >> 8 & 0xff),
        State::Zombie(status) => format!("killed ({})", status & 0x7f),
    }
}

/// The arguments of a process, or its name in brackets where it has none.
pub fn command(process: &ProcessDescription) -> String {
    match process.command_line.as_slice() {
        [] => format!("[{}]", process.name),
        words => words.join(" "),
    }
}

/// The lines of a tree.
pub struct Branches {
    texts: Vec<String>,
}

impl Branches {
    /// Those of processes with these depths, parents before children.
    pub fn new(depths: impl Iterator<Item = usize>) -> Self {
        // A hostile image may nest without end.
        let depths: Vec<usize> = depths.map(|depth| depth.min(64)).collect();
        let mut texts = vec![String::new(); depths.len()];
        // From the end: whether a line goes on at each depth.
        let mut goes_on = [false; 66];
        for (index, own) in depths.into_iter().enumerate().rev() {
            let mut text: String = (1..own)
                .map(|level| if goes_on[level] { "│  " } else { "   " })
                .collect();
            text.push_str(match (own, goes_on[own]) {
                (0, _) => "",
                (_, true) => "├─ ",
                (_, false) => "└─ ",
            });
            goes_on[own] = own > 0;
            goes_on[own + 1..].fill(false);
            texts[index] = text;
        }
        Self { texts }
    }

    /// What comes before a process.
    pub fn before(&self, index: usize) -> String {
        self.texts.get(index).cloned().unwrap_or_default()
    }
}

fn details(process: &ProcessDescription, wanted: Wanted, look: Look) -> Vec<String> {
    let title = format!("{} {}", process.pid, clean(&process.name));
    let mut lines = vec![look.paint(Tone::Strong, &title)];
    let mut item = |name: &str, text: &str| {
        let label = look.paint(Tone::Cyan, &format!("{name:<12}"));
        lines.push(format!("  {label}{}", look.fit(clean(text).trim_end(), 14)));
    };
    item("program", &process.executable);
    item("directory", &process.working_directory);
    if let Some(root) = &process.root {
        item("root", root);
    }
    let user = process
        .user
        .map(|user| format!("user {user}, "))
        .unwrap_or_default();
    let (group, session) = (process.group, process.session);
    item("ids", &format!("{user}group {group}, session {session}"));
    let mut name = "memory";
    for kind in &process.memory {
        let saved = match kind.saved_bytes {
            0 => String::new(),
            saved => format!("{:>10} saved", size(saved)),
        };
        let areas = count(kind.mappings, "area", "areas");
        let (kind, bytes) = (kind.kind, size(kind.bytes));
        item(
            name,
            &format!("{kind:<12}{bytes:>10} in {areas:<12}{saved}"),
        );
        name = "";
    }
    let mut name = "mappings";
    for mapping in process.mappings.iter().filter(|_| wanted.mappings) {
        let what = mapping.file.as_deref().unwrap_or(mapping.kind);
        let (start, end) = (mapping.start, mapping.end);
        let permissions = &mapping.permissions;
        let bytes = size(end.saturating_sub(start));
        item(
            name,
            &format!("{start:012x}-{end:012x} {permissions} {bytes:>9}  {what}"),
        );
        name = "";
    }
    let shown = match wanted.descriptors {
        true => process.descriptors.len(),
        false => FEW.min(process.descriptors.len()),
    };
    let kinds = process.descriptors[..shown].iter();
    let widest = kinds.map(|one| one.kind.chars().count()).max().unwrap_or(0);
    let mut name = "descriptors";
    for descriptor in &process.descriptors[..shown] {
        item(name, &described(descriptor, widest));
        name = "";
    }
    let left = process.descriptors.len() - shown;
    if left > 0 {
        let left = number(left as u64);
        item(name, &format!("and {left} more: --descriptors lists all"));
    }
    lines
}

fn described(descriptor: &DescriptorDescription, widest: usize) -> String {
    let mut text = format!("{:>4}  {:<widest$}", descriptor.number, descriptor.kind);
    let path = descriptor.path.as_deref();
    let parts = path.into_iter().chain(descriptor.detail.as_deref());
    let access = descriptor.access.as_deref();
    for part in parts.chain(access.filter(|_| descriptor.kind != "directory")) {
        text.push_str("  ");
        text.push_str(part);
    }
    if let Some(position) = descriptor.position.filter(|&position| position > 0) {
        text.push_str(&format!("  at {}", number(position)));
    }
    text
}

/// One line for each pipe, epoll instance, and way out of the job.
fn channels(channels: &[Channel], look: Look) -> Vec<String> {
    let line = |channel: &Channel| {
        let ends = |wanted: fn(&cryonaut_engine::show::ChannelEnd) -> bool| {
            let ends = channel.ends.iter().filter(|end| wanted(end));
            let names: Vec<String> = ends
                .map(|end| format!("{}:{}", end.process, end.number))
                .collect();
            match names.len() {
                0 => "nobody".to_owned(),
                1..=6 => names.join(" "),
                more => format!("{} and {} more", names[..5].join(" "), more - 5),
            }
        };
        let mut text = match (channel.in_flight.is_some(), channel.external) {
            (true, _) => format!("{} → {}", ends(|end| end.writes), ends(|end| end.reads)),
            (false, true) => format!("{} ⇄ outside the job", ends(|_| true)),
            (false, false) => ends(|_| true),
        };
        if let Some(bytes) = channel.in_flight.filter(|&bytes| bytes > 0) {
            text.push_str(&format!(", {} bytes in flight", number(bytes)));
        }
        if !channel.watches.is_empty() {
            let watched = count(channel.watches.len(), "descriptor", "descriptors");
            text.push_str(&format!(", watches {watched}"));
        }
        if let Some(path) = &channel.path {
            text.push_str(&format!("  {path}"));
        }
        let kind = look.paint(Tone::Cyan, &format!("{:<16}", clean(&channel.kind)));
        format!("  {kind}{}", look.fit(&clean(&text), 18))
    };
    channels.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, depth: usize) -> ProcessDescription {
        ProcessDescription {
            pid,
            parent: 0,
            depth,
            group: 1,
            session: 1,
            name: "evil\x1b[31m".into(),
            command_line: vec!["x".repeat(100)],
            executable: "/bin/x".into(),
            user: Some(0),
            working_directory: "/".into(),
            root: None,
            state: State::Running,
            threads: vec![pid],
            memory: Vec::new(),
            mappings: Vec::new(),
            descriptors: Vec::new(),
        }
    }

    #[test]
    fn trees_have_lines_to_their_children() {
        let branches = Branches::new([0, 1, 2, 1, 2, 0].into_iter());
        let texts: Vec<String> = (0..6).map(|index| branches.before(index)).collect();
        assert_eq!(texts, ["", "├─ ", "│  └─ ", "└─ ", "   └─ ", ""]);
    }

    #[test]
    fn lines_fit_and_obey_no_name() {
        let look = Look {
            coloured: true,
            width: Some(60),
        };
        let lines = tree(&[process(1, 0)], look);
        let plain = |line: &str| line.replace("\x1b[2m", "").replace("\x1b[0m", "");
        assert!(lines.iter().all(|line| plain(line).chars().count() <= 60));
        assert!(lines[1].ends_with('…'));
        let details = details(&process(1, 0), Wanted::default(), look);
        assert!(details[0].contains("evil?[31m"), "{details:?}");
    }

    #[test]
    fn states_are_read_from_wait_statuses() {
        assert_eq!(state(State::Zombie(0x700)), "ended (7)");
        assert_eq!(state(State::Zombie(9)), "killed (9)");
        assert_eq!(state(State::Stopped(19)), "stopped (19)");
    }
}
