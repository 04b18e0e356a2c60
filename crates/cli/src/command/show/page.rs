//! An image as one page of HTML, which needs nothing else: no network, no script for what matters.
//!
//! Everything in it that comes from the image is a name that anybody may have chosen. [`markup`] escapes all of it, and a
//! Content-Security-Policy lets the browser run and apply nothing but this page's own script and style, known by a number
//! drawn for each page. Lists are bounded, so that a page of the largest job still opens.

mod channels;
mod markup;
mod memory;
mod tree;

use std::fs::File;
use std::io::Read;

use cryonaut_engine::Refusal;
use cryonaut_engine::show::{Description, FileDescription, ProcessDescription, State};

use self::markup::Markup;
use crate::units::{count, number, size};
use crate::when;

/// Processes whose memory is drawn, and whose descriptors are listed.
const PROCESSES: usize = 24;
/// Blocks in all strips; rows in the tables of areas and of descriptors, shared among processes.
const BLOCKS: usize = 3200;
const ROWS: usize = 4000;
/// Rows of other tables.
const FILES: usize = 400;
const LARGEST: usize = 12;

/// Whether the image can be restarted on the machine where the page is made.
#[derive(Debug)]
pub enum Verdict {
    /// It was planned.
    Planned {
        /// Which pids the job would get, as --pids names it.
        pids: &'static str,
        /// What stands in the way.
        refusals: Vec<Refusal>,
        /// What else there is to know.
        remarks: Vec<String>,
    },
    /// Even planning failed.
    Failed(String),
}

/// The page.
pub fn page(image: &Description, verdict: &Verdict) -> String {
    let mut page = Markup::default();
    let name = title(image);
    let once = once();
    page.literal("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    page.open(
        "meta",
        &[
            ("http-equiv", "Content-Security-Policy"),
            (
                "content",
                &format!(
                    "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; \
                     style-src 'nonce-{once}'; script-src 'nonce-{once}'"
                ),
            ),
        ],
    );
    page.literal(
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><link rel=\"icon\" href=\"data:,\">",
    );
    page.leaf("title", &[], &format!("{name} – Cryonaut image"));
    page.element("style", &[("nonce", &once)], |page| {
        page.literal(include_str!("page/style.css"));
    });
    page.literal("</head><body><a class=\"skip\" href=\"#main\">Skip to the content</a>");
    header(&mut page, image, &name);
    page.literal("<main id=\"main\">");
    judged(&mut page, verdict);
    section(&mut page, "processes", "Processes", |page| {
        tree::draw(page, image)
    });
    section(&mut page, "memory", "Memory", |page| memories(page, image));
    if !image.channels.is_empty() {
        section(&mut page, "pipes", "Pipes and other ties", |page| {
            channels::draw(page, image)
        });
    }
    section(&mut page, "descriptors", "Descriptors", |page| {
        descriptors(page, image)
    });
    section(&mut page, "largest", "Largest", |page| largest(page, image));
    section(&mut page, "files", "By reference", |page| {
        files(page, image)
    });
    section(&mut page, "records", "Needs and records", |page| {
        records(page, image)
    });
    page.literal("</main>");
    page.element("footer", &[], |page| {
        page.text(&format!(
            "Made by {} on {}.",
            concat!("cryo ", env!("CARGO_PKG_VERSION")),
            when::moment(when::now())
        ));
    });
    page.element("script", &[("nonce", &once)], |page| {
        page.literal(include_str!("page/script.js"));
    });
    page.literal("</body></html>\n");
    page.into_text()
}

/// A number that nobody who made the image can have known.
fn once() -> String {
    let mut bytes = [0; 16];
    // Without it the page has no script and no style, and is still right.
    let _ = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn title(image: &Description) -> String {
    match (image.job_name.as_str(), image.processes.first()) {
        ("", Some(process)) => process.name.clone(),
        ("", None) => "no process".to_owned(),
        (name, _) => name.to_owned(),
    }
}

fn section(
    page: &mut Markup,
    id: &'static str,
    heading: &'static str,
    inside: impl FnOnce(&mut Markup),
) {
    page.open(
        "section",
        &[("id", id), ("aria-labelledby", &format!("h-{id}"))],
    );
    page.leaf("h2", &[("id", &format!("h-{id}"))], heading);
    inside(page);
    page.close("section");
}

fn header(page: &mut Markup, image: &Description, name: &str) {
    page.literal("<header><p class=\"eyebrow\">Cryonaut image</p>");
    page.leaf("h1", &[], name);
    let mut lede = format!(
        "Saved {}",
        when::moment(image.created_unix_nanoseconds / 1_000_000_000)
    );
    if !image.node.is_empty() {
        lede.push_str(&format!(" on {}", image.node));
    }
    if !image.kernel.is_empty() {
        lede.push_str(&format!(", Linux {}", image.kernel));
    }
    lede.push_str(&format!(", by {}.", image.created_by));
    if image.generation > 0 {
        let times = count(image.generation as usize, "time", "times");
        lede.push_str(&format!(" Restarted {times} before."));
    }
    page.leaf("p", &[("class", "lede")], &lede);
    let threads: usize = image
        .processes
        .iter()
        .map(|process| process.threads.len())
        .sum();
    let mapped = image
        .processes
        .iter()
        .flat_map(|process| &process.memory)
        .filter(|kind| kind.kind != "reserved")
        .fold(0_u64, |sum, kind| sum.saturating_add(kind.bytes));
    page.literal("<dl class=\"tiles\">");
    for (name, value) in [
        ("Processes", number(image.processes.len() as u64)),
        ("Threads", number(threads as u64)),
        ("Memory mapped", size(mapped)),
        ("Memory stored", size(image.stored_bytes)),
        ("Shared by processes", size(image.same_bytes)),
        ("Size of the image", size(image.bytes)),
    ] {
        page.element("div", &[], |page| {
            page.leaf("dt", &[], name);
            page.leaf("dd", &[], &value);
        });
    }
    page.literal("</dl>");
    page.leaf("p", &[("class", "id")], &image.id);
    page.literal(
        "<nav aria-label=\"Sections\"><a href=\"#restart\">Restart</a><a href=\"#processes\">Processes</a>\
         <a href=\"#memory\">Memory</a>",
    );
    if !image.channels.is_empty() {
        page.literal("<a href=\"#pipes\">Pipes</a>");
    }
    page.literal(
        "<a href=\"#descriptors\">Descriptors</a><a href=\"#largest\">Largest</a><a href=\"#files\">Files</a>\
         <a href=\"#records\">Needs</a></nav></header>",
    );
}

/// What `cryo check` says.
fn judged(page: &mut Markup, verdict: &Verdict) {
    let (class, text) = match verdict {
        Verdict::Failed(text) => ("no", format!("It cannot be restarted: {text}")),
        Verdict::Planned { refusals, pids, .. } => match (refusals.len(), *pids) {
            (0, "keep") => (
                "yes",
                "Nothing stands in the way: its processes would get their own pids.".to_owned(),
            ),
            (0, _) => (
                "yes",
                "Nothing stands in the way: it would run in namespaces of its own.".to_owned(),
            ),
            (1, _) => (
                "no",
                "It cannot be restarted here, for one reason:".to_owned(),
            ),
            (several, _) => (
                "no",
                format!("It cannot be restarted here, for {several} reasons:"),
            ),
        },
    };
    page.open(
        "section",
        &[
            ("id", "restart"),
            ("class", &format!("verdict {class}")),
            ("aria-labelledby", "h-restart"),
        ],
    );
    page.leaf(
        "h2",
        &[("id", "h-restart")],
        "A restart on the machine where this page was made",
    );
    page.leaf("p", &[("class", "judged")], &text);
    if let Verdict::Planned {
        refusals, remarks, ..
    } = verdict
    {
        page.literal("<ul>");
        for refusal in refusals.iter().take(FILES) {
            page.element("li", &[], |page| {
                let process = match (refusal.pid, refusal.process.as_str()) {
                    (0, _) => String::new(),
                    (pid, "") => format!("process {pid}, "),
                    (pid, name) => format!("process {pid} ({name}), "),
                };
                page.leaf("strong", &[], &format!("{process}{}", refusal.object));
                page.text(&format!(": {}. ", refusal.reason));
                page.leaf("em", &[], &refusal.remedy);
            });
        }
        if let Some(left) = refusals.len().checked_sub(FILES).filter(|&left| left > 0) {
            page.leaf(
                "li",
                &[],
                &format!("and {} more: cryo check has them", number(left as u64)),
            );
        }
        for remark in remarks.iter().take(FILES) {
            page.leaf("li", &[("class", "remark")], &format!("Remark: {remark}"));
        }
        page.literal("</ul>");
    }
    page.close("section");
}

/// The processes that are shown one by one: the largest, in the order of the tree.
fn shown(image: &Description, weight: fn(&ProcessDescription) -> u64) -> Vec<&ProcessDescription> {
    let mut order: Vec<(usize, &ProcessDescription)> = image
        .processes
        .iter()
        .enumerate()
        .filter(|(_, process)| !matches!(process.state, State::Zombie(_)))
        .collect();
    order.sort_by_key(|(_, process)| std::cmp::Reverse(weight(process)));
    order.truncate(PROCESSES);
    order.sort_by_key(|(place, _)| *place);
    order.into_iter().map(|(_, process)| process).collect()
}

fn saved(process: &ProcessDescription) -> u64 {
    let kinds = process.memory.iter();
    kinds.fold(0_u64, |sum, kind| sum.saturating_add(kind.saved_bytes))
}

fn left_out(page: &mut Markup, shown: usize, image: &Description) {
    let alive = image.processes.iter();
    let alive = alive
        .filter(|process| !matches!(process.state, State::Zombie(_)))
        .count();
    if shown < alive {
        let text = format!(
            "The {shown} largest of {} processes; cryo show and its --json have all.",
            number(alive as u64)
        );
        page.leaf("p", &[("class", "note")], &text);
    }
}

fn memories(page: &mut Markup, image: &Description) {
    page.literal("<ul class=\"legend\">");
    for (kind, class, meaning) in memory::KINDS {
        let used = image.processes.iter().flat_map(|process| &process.memory);
        if used.into_iter().any(|found| found.kind == kind) {
            page.element("li", &[("class", class)], |page| {
                page.literal("<svg aria-hidden=\"true\" width=\"14\" height=\"14\"><rect class=\"saved\" width=\"14\" height=\"14\"/></svg>");
                page.leaf("b", &[], kind);
                page.text(&format!(" {meaning}"));
            });
        }
    }
    page.literal(
        "</ul><p class=\"note\">Low addresses are on the left. Strong colour: saved; pale: untouched, or taken from its file. \
         Areas next to each other that are too narrow to see are drawn as one.</p>",
    );
    let processes = shown(image, saved);
    let most = (BLOCKS / processes.len().max(1)).clamp(40, 240);
    let rows = (ROWS / processes.len().max(1)).clamp(20, 400);
    left_out(page, processes.len(), image);
    for process in processes {
        page.open("article", &[("id", &format!("memory-{}", process.pid))]);
        page.leaf("h3", &[], &format!("{} {}", process.pid, process.name));
        let kinds: Vec<String> = process
            .memory
            .iter()
            .map(|kind| match kind.saved_bytes {
                0 => format!("{} {}", kind.kind, size(kind.bytes)),
                saved => format!("{} {} ({} saved)", kind.kind, size(kind.bytes), size(saved)),
            })
            .collect();
        page.leaf("p", &[("class", "sums")], &kinds.join(" · "));
        memory::draw(page, process, most);
        memory::table(page, process, rows);
        page.close("article");
    }
}

fn descriptors(page: &mut Markup, image: &Description) {
    let processes = shown(image, |process| process.descriptors.len() as u64);
    let most = (ROWS / processes.len().max(1)).clamp(20, 400);
    left_out(page, processes.len(), image);
    for process in processes {
        let all = &process.descriptors;
        let open: &[(&'static str, &str)] = match all.len() {
            0..=24 => &[("open", "")],
            _ => &[],
        };
        page.open("details", open);
        let count = count(all.len(), "descriptor", "descriptors");
        page.leaf(
            "summary",
            &[],
            &format!("{} {}: {count}", process.pid, process.name),
        );
        let rows = all.iter().take(most).map(|one| {
            vec![
                one.number.to_string(),
                one.kind.clone(),
                one.path.clone().unwrap_or_default(),
                one.access.clone().unwrap_or_default(),
                one.position.map(number).unwrap_or_default(),
                one.detail.clone().unwrap_or_default(),
                if one.close_on_exec {
                    "closes at exec".to_owned()
                } else {
                    String::new()
                },
            ]
        });
        page.table(
            &["#no.", "kind", "path", "open for", "#position", "state", ""],
            rows,
        );
        if all.len() > most {
            let left = number((all.len() - most) as u64);
            page.leaf("p", &[("class", "note")], &format!("and {left} more"));
        }
        page.close("details");
    }
}

fn largest(page: &mut Markup, image: &Description) {
    let mut areas: Vec<_> = image
        .processes
        .iter()
        .flat_map(|process| process.mappings.iter().map(move |area| (process, area)))
        .filter(|(_, area)| area.saved_bytes > 0)
        .collect();
    areas.sort_by_key(|(_, area)| std::cmp::Reverse(area.saved_bytes));
    page.literal("<h3>Memory</h3>");
    let rows = areas.into_iter().take(LARGEST).map(|(process, area)| {
        vec![
            size(area.saved_bytes),
            size(area.end.saturating_sub(area.start)),
            area.kind.to_owned(),
            format!("{:x}", area.start),
            format!("{} {}", process.pid, process.name),
            area.file.clone().unwrap_or_default(),
        ]
    });
    page.table(&["#saved", "#of", "kind", "at", "process", "file"], rows);
    let mut files: Vec<&FileDescription> =
        image.files.iter().filter(|file| file.bytes > 0).collect();
    files.sort_by_key(|file| std::cmp::Reverse(file.bytes));
    page.literal("<h3>Files by reference</h3>");
    let rows = files
        .into_iter()
        .take(LARGEST)
        .map(|file| vec![size(file.bytes), file.path.clone()]);
    page.table(&["#size", "file"], rows);
}

fn files(page: &mut Markup, image: &Description) {
    page.literal(
        "<p class=\"note\">These are not in the image: they must be there, unchanged, where it is restarted \
         (or be named with --relocate).</p>",
    );
    let rows = image.files.iter().take(FILES).map(|file| {
        let uses = [
            (file.executable_of, "runs in", "process", "processes"),
            (file.mappings, "mapped by", "area", "areas"),
            (file.directory_of, "directory of", "process", "processes"),
        ];
        let mut used: Vec<String> = uses
            .iter()
            .filter(|(times, ..)| *times > 0)
            .map(|(times, what, one, several)| format!("{what} {}", count(*times, one, several)))
            .collect();
        let mut ways: Vec<&str> = file.open.iter().map(String::as_str).collect();
        ways.sort_unstable();
        ways.dedup();
        used.extend(ways.iter().map(|way| format!("open to {way}")));
        let seconds = u64::try_from(file.modified_unix_nanoseconds / 1_000_000_000).ok();
        vec![
            file.path.clone(),
            file.kind.to_owned(),
            if file.kind == "file" {
                size(file.bytes)
            } else {
                String::new()
            },
            seconds
                .filter(|&seconds| seconds > 0)
                .map(when::moment)
                .unwrap_or_default(),
            used.join("; "),
            match (&file.content_hash, &file.build_id) {
                (Some(hash), _) => format!("hash {}…", hash.chars().take(12).collect::<String>()),
                (None, Some(id)) => {
                    format!("build id {}…", id.chars().take(12).collect::<String>())
                }
                (None, None) => "size and time".to_owned(),
            },
        ]
    });
    page.table(
        &["path", "kind", "#size", "last changed", "used", "known by"],
        rows,
    );
    if image.files.len() > FILES {
        let left = number((image.files.len() - FILES) as u64);
        page.leaf(
            "p",
            &[("class", "note")],
            &format!("and {left} more; --json has all"),
        );
    }
}

fn records(page: &mut Markup, image: &Description) {
    page.literal("<h3>What the restarting machine must have</h3><dl class=\"needs\">");
    for (name, value) in &image.needs {
        page.leaf("dt", &[], name);
        page.leaf("dd", &[], value);
    }
    page.literal("</dl><details><summary>Records</summary>");
    let rows = image.records.iter().map(|record| {
        vec![
            record.kind.clone(),
            record.version.to_string(),
            number(record.count as u64),
        ]
    });
    page.table(&["kind", "#version", "#records"], rows);
    page.literal("</details>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryonaut_engine::show::{
        Channel, ChannelEnd, DescriptorDescription, MappingDescription, MemoryDescription,
    };

    const EVIL: &str = "</title><script>alert(1)</script>\"'\u{202e}\u{1b}[31m";

    fn process(pid: i32, areas: u64, threads: i32, descriptors: i32) -> ProcessDescription {
        let mapping = |index: u64| MappingDescription {
            start: index << 13,
            end: (index << 13) + 4096,
            permissions: "rw-p".into(),
            kind: ["heap", "file", "anonymous"][index as usize % 3],
            file: Some(format!("/{}{EVIL}", "directory/".repeat(10))),
            offset: 0,
            saved_bytes: 4096,
        };
        ProcessDescription {
            pid,
            parent: i32::from(pid > 1),
            depth: usize::from(pid > 1),
            group: 1,
            session: 1,
            name: EVIL.into(),
            command_line: vec![format!("{pid}"), EVIL.repeat(100)],
            executable: EVIL.into(),
            user: Some(0),
            working_directory: EVIL.into(),
            root: None,
            state: State::Running,
            threads: (0..threads).map(|thread| pid + 2 * thread).collect(),
            memory: vec![MemoryDescription {
                kind: "heap",
                mappings: areas as usize,
                bytes: areas * 4096,
                saved_bytes: areas * 4096,
            }],
            mappings: (0..areas).map(mapping).collect(),
            descriptors: (0..descriptors)
                .map(|number| DescriptorDescription {
                    number,
                    object: number as u64,
                    kind: "regular".into(),
                    path: Some(EVIL.into()),
                    close_on_exec: true,
                    access: Some("read".into()),
                    position: Some(7),
                    detail: None,
                })
                .collect(),
        }
    }

    fn image(processes: Vec<ProcessDescription>) -> Description {
        let channel = |index: i32| Channel {
            kind: "pipe".into(),
            path: Some(EVIL.into()),
            in_flight: Some(1),
            ends: (0..4)
                .map(|end| ChannelEnd {
                    process: (index + end) % 500 + 1,
                    number: end,
                    object: 1,
                    reads: end % 2 == 0,
                    writes: end % 2 == 1,
                })
                .collect(),
            watches: vec![1],
            external: index % 5 == 0,
        };
        let file = |index: u64| FileDescription {
            path: format!("/{index}{EVIL}"),
            kind: "file",
            bytes: index,
            modified_unix_nanoseconds: i64::MIN,
            build_id: Some("ab".repeat(20)),
            content_hash: None,
            mappings: 1,
            executable_of: 1,
            directory_of: 0,
            open: vec!["read".into(); 3],
        };
        Description {
            id: "0".repeat(32),
            created_by: EVIL.into(),
            created_unix_nanoseconds: u64::MAX,
            node: EVIL.into(),
            kernel: EVIL.into(),
            job_name: EVIL.into(),
            generation: 1,
            bytes: u64::MAX,
            stored_bytes: u64::MAX,
            same_bytes: 0,
            needs: [("cpu.features".to_owned(), EVIL.to_owned())].into(),
            processes,
            channels: (0..1000).map(channel).collect(),
            files: (0..5000).map(file).collect(),
            embedded: Vec::new(),
            records: Vec::new(),
        }
    }

    fn verdict() -> Verdict {
        let refusal = |index: i32| Refusal {
            pid: index,
            process: EVIL.into(),
            object: EVIL.into(),
            reason: EVIL.into(),
            remedy: EVIL.into(),
        };
        Verdict::Planned {
            pids: "keep",
            refusals: (0..2000).map(refusal).collect(),
            remarks: vec![EVIL.into()],
        }
    }

    fn expect_harmless(page: &str) {
        assert_eq!(page.matches("<script").count(), 1, "only its own script");
        assert_eq!(
            page.matches("<title>").count(),
            1 + page.matches("<g class").count()
        );
        for text in [
            "http:", "https:", "\u{202e}", "\u{1b}", " src=", "@import", "url(",
        ] {
            assert!(!page.contains(text), "{text:?}");
        }
    }

    #[test]
    fn the_largest_jobs_make_a_page_of_bounded_size() {
        let mut processes = vec![process(1, 10_000, 1000, 10_000)];
        processes.extend((2..=500).map(|pid| process(pid, 200, 3, 50)));
        let text = page(&image(processes), &verdict());
        assert!(text.len() < 5_000_000, "{} bytes", text.len());
        assert!(text.contains("10,000 areas"));
        expect_harmless(&text);
    }

    #[test]
    fn hardly_anything_makes_a_page_too() {
        let text = page(&image(Vec::new()), &Verdict::Failed(EVIL.into()));
        expect_harmless(&text);
        let alone = image(vec![process(1, 1, 1, 1)]);
        let alone = Description {
            channels: Vec::new(),
            files: Vec::new(),
            embedded: Vec::new(),
            ..alone
        };
        expect_harmless(&page(&alone, &verdict()));
    }
}
