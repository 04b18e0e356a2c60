//! The tree of processes as a table. Siblings that do the same are one line.

use cryonaut_engine::show::{Description, ProcessDescription, State};

use super::super::text::{Branches, command, state};
use super::markup::Markup;
use crate::units::{count, number, ranges, size};

/// Jobs with no more processes than this are shown whole.
const FEW: usize = 60;
/// Lines at most.
const LINES: usize = 500;
/// Characters of a command line.
const COMMAND: usize = 300;

/// A line: the first of processes that are alike, with the others.
struct Line<'a> {
    first: &'a ProcessDescription,
    others: Vec<&'a ProcessDescription>,
}

/// Draws the tree.
pub fn draw(page: &mut Markup, image: &Description) {
    let lines = lines(&image.processes);
    let branches = Branches::new(lines.iter().map(|line| line.first.depth));
    page.open("div", &[("class", "scroll"), ("tabindex", "0")]);
    page.literal(
        "<table class=\"tree\"><thead><tr><th scope=\"col\">process</th><th scope=\"col\" class=\"number\">pid</th>\
         <th scope=\"col\">state</th><th scope=\"col\" class=\"number\">threads</th><th scope=\"col\" class=\"number\">user</th>\
         <th scope=\"col\" class=\"number\">memory</th><th scope=\"col\" class=\"number\">saved</th>\
         <th scope=\"col\" class=\"number\">files</th><th scope=\"col\">command</th></tr></thead><tbody>",
    );
    for (index, line) in lines.iter().take(LINES).enumerate() {
        row(page, line, &branches.before(index));
    }
    page.literal("</tbody></table></div>");
    if lines.len() > LINES {
        let left: usize = lines[LINES..]
            .iter()
            .map(|line| 1 + line.others.len())
            .sum();
        let left = count(left, "process", "processes");
        page.leaf(
            "p",
            &[("class", "note")],
            &format!("and {left} more; --json has all"),
        );
    }
    threads(page, image);
}

/// Joins neighbours without children that are alike, where there are many.
fn lines(processes: &[ProcessDescription]) -> Vec<Line<'_>> {
    let is_leaf = |index: usize| {
        processes
            .get(index + 1)
            .is_none_or(|next| next.depth <= processes[index].depth)
    };
    let mut lines: Vec<Line<'_>> = Vec::new();
    let mut last_is_leaf = false;
    for (index, process) in processes.iter().enumerate() {
        let leaf = is_leaf(index);
        match lines.last_mut() {
            Some(last)
                if processes.len() > FEW && leaf && last_is_leaf && alike(last.first, process) =>
            {
                last.others.push(process);
            }
            _ => lines.push(Line {
                first: process,
                others: Vec::new(),
            }),
        }
        last_is_leaf = leaf;
    }
    lines
}

fn alike(one: &ProcessDescription, other: &ProcessDescription) -> bool {
    one.depth == other.depth
        && one.parent == other.parent
        && one.name == other.name
        && one.state == other.state
        && one.threads.len() == other.threads.len()
        && one.command_line == other.command_line
}

fn row(page: &mut Markup, line: &Line<'_>, branch: &str) {
    let process = line.first;
    let class = match process.state {
        State::Running => "",
        State::Stopped(_) => "stopped",
        State::Zombie(_) => "ended",
    };
    page.open(
        "tr",
        &[
            ("class", class),
            ("id", &format!("process-{}", process.pid)),
        ],
    );
    page.element("td", &[("class", "name")], |page| {
        page.leaf(
            "span",
            &[("class", "branch"), ("aria-hidden", "true")],
            branch,
        );
        page.leaf("bdi", &[], &process.name);
        if !line.others.is_empty() {
            let pids: Vec<i32> = line.others.iter().map(|other| other.pid).collect();
            let more = format!("and {} like it", number(pids.len() as u64));
            page.leaf(
                "span",
                &[("class", "more"), ("title", &ranges(&pids, 40))],
                &more,
            );
        }
    });
    let all = || std::iter::once(&process).chain(&line.others);
    let sum = |part: fn(&cryonaut_engine::show::MemoryDescription) -> u64| {
        let kinds = all().flat_map(|process| &process.memory);
        let sum = kinds
            .filter(|kind| kind.kind != "reserved")
            .fold(0_u64, |sum, kind| sum.saturating_add(part(kind)));
        if sum == 0 { String::new() } else { size(sum) }
    };
    let threads = all().map(|process| process.threads.len() as u64).sum();
    let descriptors = all().map(|process| process.descriptors.len() as u64).sum();
    let number_cell = |page: &mut Markup, text: &str| page.leaf("td", &[("class", "number")], text);
    number_cell(page, &process.pid.to_string());
    page.leaf("td", &[("class", "state")], &state(process.state));
    number_cell(page, &number(threads));
    number_cell(
        page,
        &process
            .user
            .map(|user| user.to_string())
            .unwrap_or_default(),
    );
    number_cell(page, &sum(|kind| kind.bytes));
    number_cell(page, &sum(|kind| kind.saved_bytes));
    number_cell(page, &number(descriptors));
    let mut text = command(process);
    if let Some((end, _)) = text.char_indices().nth(COMMAND) {
        text.truncate(end);
        text.push('…');
    }
    page.leaf("td", &[("class", "command")], &text);
    page.close("tr");
}

/// The ids of threads, of processes with several.
fn threads(page: &mut Markup, image: &Description) {
    let several = || {
        image
            .processes
            .iter()
            .filter(|process| process.threads.len() > 1)
    };
    if several().next().is_none() {
        return;
    }
    page.literal("<details><summary>Threads</summary>");
    let rows = several().take(LINES).map(|process| {
        vec![
            process.pid.to_string(),
            process.name.clone(),
            number(process.threads.len() as u64),
            ranges(&process.threads, 40),
        ]
    });
    page.table(&["#pid", "process", "#threads", "their ids"], rows);
    page.literal("</details>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_alike_are_one_line() {
        let process = |pid: i32, depth: usize| ProcessDescription {
            pid,
            parent: i32::from(depth > 0),
            depth,
            group: 1,
            session: 1,
            name: "x".into(),
            command_line: Vec::new(),
            executable: String::new(),
            user: None,
            working_directory: String::new(),
            root: None,
            state: State::Running,
            threads: vec![pid],
            memory: Vec::new(),
            mappings: Vec::new(),
            descriptors: Vec::new(),
        };
        let mut processes = vec![process(1, 0)];
        processes.extend((2..500).map(|pid| process(pid, 1)));
        let joined = lines(&processes);
        assert_eq!(joined.len(), 2);
        assert_eq!(joined[1].others.len(), 497);
        assert_eq!(lines(&processes[..FEW]).len(), FEW);
    }
}
