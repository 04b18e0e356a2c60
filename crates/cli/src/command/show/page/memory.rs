//! The memory of a process, drawn: one strip to scale, one in which every area can be seen.

use cryonaut_engine::show::{MappingDescription, ProcessDescription};

use super::markup::Markup;
use crate::units::{count, number, size};

/// Width of a strip in its own units; height of it.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 48.0;
/// What a gap between far areas, and memory that nobody may touch, take of it, whatever their size.
const GAP: f64 = 3.0;
const RESERVED: f64 = 10.0;
/// The smallest gap that is shown, in bytes.
const FAR: u64 = 1 << 20;

/// The kinds of memory, with their classes and what they are.
pub const KINDS: [(&str, &str, &str); 9] = [
    ("heap", "k-heap", "the program's heap (brk)"),
    ("stack", "k-stack", "the first thread's stack"),
    (
        "anonymous",
        "k-anonymous",
        "private memory without a file: allocations, thread stacks",
    ),
    (
        "file",
        "k-file",
        "files mapped privately: programs, libraries",
    ),
    ("shared file", "k-shared-file", "files mapped shared"),
    ("shared", "k-shared", "memory shared between processes"),
    ("kernel", "k-kernel", "what the kernel maps: vDSO, vvar"),
    (
        "reserved",
        "k-reserved",
        "addresses that nobody may touch, and nobody has",
    ),
    ("unknown", "k-kernel", "of no known kind"),
];

fn class_of(kind: &str) -> &'static str {
    KINDS
        .iter()
        .find(|(name, _, _)| *name == kind)
        .map_or("k-kernel", |(_, class, _)| class)
}

/// Neighbouring areas that are drawn as one.
#[derive(Clone, Debug)]
struct Block {
    kind: &'static str,
    areas: usize,
    start: u64,
    end: u64,
    bytes: u64,
    saved: u64,
    text: String,
    width: f64,
    /// Whether a gap comes before it.
    apart: bool,
}

impl Block {
    fn of(area: &MappingDescription, apart: bool) -> Self {
        let bytes = area.end.saturating_sub(area.start);
        let what = area.file.as_deref().unwrap_or(area.kind);
        Self {
            kind: area.kind,
            areas: 1,
            start: area.start,
            end: area.end,
            bytes,
            saved: area.saved_bytes.min(bytes),
            text: format!("{} {what}", area.permissions),
            width: 0.0,
            apart,
        }
    }

    fn join(&mut self, next: &Self) {
        // Of the two the larger gives the colour.
        if next.bytes > self.bytes {
            self.kind = next.kind;
        }
        self.areas += next.areas;
        self.end = next.end;
        self.bytes = self.bytes.saturating_add(next.bytes);
        self.saved = self.saved.saturating_add(next.saved);
        self.width += next.width;
        self.text = format!(
            "{}, mostly {}",
            count(self.areas, "area", "areas"),
            self.kind
        );
    }

    fn title(&self) -> String {
        let saved = match self.saved {
            0 => "nothing saved".to_owned(),
            saved => format!("{} saved", size(saved)),
        };
        format!(
            "{:x}–{:x}: {}, {saved}; {}",
            self.start,
            self.end,
            size(self.bytes),
            self.text
        )
    }
}

fn blocks(areas: &[MappingDescription]) -> Vec<Block> {
    let mut last = None;
    areas
        .iter()
        .map(|area| {
            let apart = last.is_some_and(|end| area.start.saturating_sub(end) >= FAR);
            last = Some(area.end);
            Block::of(area, apart)
        })
        .collect()
}

/// Blocks to scale; those that would be too narrow to see are joined.
fn to_scale(areas: &[MappingDescription], most: usize) -> Vec<Block> {
    let mut all = blocks(areas);
    let fixed: f64 = all
        .iter()
        .map(|block| {
            let gap = if block.apart { GAP } else { 0.0 };
            gap + if block.kind == "reserved" {
                RESERVED
            } else {
                0.0
            }
        })
        .sum();
    let total = all
        .iter()
        .filter(|block| block.kind != "reserved")
        .fold(0_u64, |sum, block| sum.saturating_add(block.bytes));
    let room = (WIDTH - fixed).max(WIDTH / 4.0);
    for block in &mut all {
        block.width = match block.kind {
            "reserved" => RESERVED,
            _ => room * block.bytes as f64 / total.max(1) as f64,
        };
    }
    let mut joined: Vec<Block> = Vec::new();
    for block in all {
        match joined.last_mut() {
            Some(last)
                if !block.apart
                    && block.kind != "reserved"
                    && last.kind != "reserved"
                    && (block.width < 1.0 || last.width < 1.0) =>
            {
                last.join(&block);
            }
            _ => joined.push(block),
        }
    }
    at_most(joined, most)
}

/// Blocks whose widths grow with the number of digits of their sizes, so that every one can be seen.
fn to_see(areas: &[MappingDescription], most: usize) -> Vec<Block> {
    let mut all = blocks(areas);
    for block in &mut all {
        block.width = ((block.bytes / 4096).max(1) as f64).log2() + 2.0;
        block.apart = false;
    }
    let mut joined: Vec<Block> = Vec::new();
    let many = all.len() > most;
    for block in all {
        match joined.last_mut() {
            Some(last) if many && last.kind == block.kind => {
                last.join(&block);
                last.width = ((last.bytes / 4096).max(1) as f64).log2() + 2.0;
            }
            _ => joined.push(block),
        }
    }
    at_most(joined, most)
}

fn at_most(blocks: Vec<Block>, most: usize) -> Vec<Block> {
    let together = blocks.len().div_ceil(most.max(1)).max(1);
    blocks
        .chunks(together)
        .map(|chunk| {
            let mut first = chunk[0].clone();
            chunk[1..].iter().for_each(|next| first.join(next));
            first
        })
        .collect()
}

/// Draws the memory of a process: two strips of at most `most` blocks each.
pub fn draw(page: &mut Markup, process: &ProcessDescription, most: usize) {
    let label = format!("process {} ({})", process.pid, process.name);
    let scale = to_scale(&process.mappings, most);
    strip(
        page,
        &scale,
        &format!("Memory of {label}, to scale"),
        "to scale",
    );
    let seen = to_see(&process.mappings, most);
    strip(
        page,
        &seen,
        &format!("Areas of {label}, each in sight"),
        "each area",
    );
}

fn strip(page: &mut Markup, blocks: &[Block], label: &str, caption: &'static str) {
    let gaps = blocks.iter().filter(|block| block.apart).count() as f64 * GAP;
    let total: f64 = blocks.iter().map(|block| block.width).sum();
    let factor = (WIDTH - gaps).max(1.0) / total.max(f64::MIN_POSITIVE);
    page.element("figure", &[("class", "strip")], |page| {
        page.leaf("figcaption", &[], caption);
        page.open(
            "svg",
            &[
                ("viewBox", "0 0 1000 48"),
                ("preserveAspectRatio", "none"),
                ("role", "img"),
                ("aria-label", label),
                ("class", "map"),
            ],
        );
        let mut left = 0.0;
        for block in blocks {
            if block.apart {
                left += GAP;
            }
            let width = block.width * factor;
            draw_block(page, block, left, width);
            left += width;
        }
        page.close("svg");
        page.literal("<output class=\"hint\" aria-live=\"polite\"></output>");
    });
}

fn draw_block(page: &mut Markup, block: &Block, left: f64, width: f64) {
    let class = class_of(block.kind);
    page.element("g", &[("class", class)], |page| {
        page.leaf("title", &[], &block.title());
        let (left, width) = (
            format!("{left:.2}"),
            format!("{:.2}", (width - 0.3).max(0.2)),
        );
        let rectangle = |page: &mut Markup, class: &str, top: f64, height: f64| {
            page.element(
                "rect",
                &[
                    ("class", class),
                    ("x", &left),
                    ("y", &format!("{top:.1}")),
                    ("width", &width),
                    ("height", &format!("{height:.1}")),
                ],
                |_| {},
            );
        };
        rectangle(page, "all", 0.0, HEIGHT);
        if block.saved > 0 {
            let part = (block.saved as f64 / block.bytes.max(1) as f64).min(1.0);
            let height = (HEIGHT * part).max(2.0);
            rectangle(page, "saved", HEIGHT - height, height);
        }
    });
}

/// The areas as a table: the text of the drawing. At most `most` of them, the largest.
pub fn table(page: &mut Markup, process: &ProcessDescription, most: usize) {
    let areas = &process.mappings;
    let mut shown: Vec<&MappingDescription> = areas.iter().collect();
    if areas.len() > most {
        let largest = |area: &&MappingDescription| {
            std::cmp::Reverse((area.saved_bytes, area.end.saturating_sub(area.start)))
        };
        shown.sort_by_key(largest);
        shown.truncate(most);
        shown.sort_by_key(|area| area.start);
    }
    page.literal("<details><summary>");
    page.text(&match areas.len() > most {
        true => format!("the {most} largest of {} areas", number(areas.len() as u64)),
        false => count(areas.len(), "area", "areas"),
    });
    page.literal("</summary>");
    let rows = shown.into_iter().map(|area| {
        vec![
            format!("{:x}–{:x}", area.start, area.end),
            area.permissions.clone(),
            size(area.end.saturating_sub(area.start)),
            match area.saved_bytes {
                0 => String::new(),
                saved => size(saved),
            },
            area.kind.to_owned(),
            area.file.clone().unwrap_or_default(),
        ]
    });
    page.table(&["address", "may", "#size", "#saved", "kind", "file"], rows);
    page.literal("</details>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(start: u64, end: u64, kind: &'static str) -> MappingDescription {
        MappingDescription {
            start,
            end,
            permissions: "rw-p".into(),
            kind,
            file: None,
            offset: 0,
            saved_bytes: 4096,
        }
    }

    #[test]
    fn very_many_areas_become_few_blocks_of_the_same_size() {
        let areas: Vec<_> = (0..10_000)
            .map(|index| {
                let kind = if index % 2 == 0 { "heap" } else { "file" };
                area(index * 8192, index * 8192 + 4096, kind)
            })
            .collect();
        for blocks in [to_scale(&areas, 100), to_see(&areas, 100)] {
            assert!(blocks.len() <= 100);
            assert_eq!(
                blocks.iter().map(|block| block.areas).sum::<usize>(),
                10_000
            );
            assert_eq!(
                blocks.iter().map(|block| block.bytes).sum::<u64>(),
                40_960_000
            );
        }
    }

    #[test]
    fn impossible_areas_are_drawn_somehow() {
        let mut page = Markup::default();
        let areas = [
            area(9, 1, "heap"),
            area(0, u64::MAX, "new"),
            area(0, u64::MAX, "reserved"),
        ];
        strip(&mut page, &to_scale(&areas, 10), "x", "y");
        let text = page.into_text();
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }
}
