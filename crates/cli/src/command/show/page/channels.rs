//! What joins processes, drawn as a circuit: processes on the left, each pipe a line of its own column, arrows in its direction.

use std::collections::BTreeMap;

use cryonaut_engine::show::{Channel, ChannelEnd, Description};

use super::markup::Markup;
use crate::units::{count, number, size};

/// The most that is drawn; the rest is in the table.
const CHANNELS: usize = 48;
const LANES: usize = 240;
/// The most that is in the table.
const ROWS: usize = 400;

/// Measures in pixels: of a process' box, between lanes and columns.
const BOX: usize = 190;
const LANE: usize = 18;
const COLUMN: usize = 30;
const OUTSIDE: usize = 230;

/// Classes of channels, and what they are called.
const CLASSES: [(&str, &str); 5] = [
    ("c-pipe", "pipe"),
    ("c-fifo", "named pipe"),
    ("c-epoll", "epoll"),
    ("c-outside", "leads out of the job"),
    ("c-other", "anything else that processes share"),
];

fn class_of(channel: &Channel) -> usize {
    match channel.kind.as_str() {
        _ if channel.external => 3,
        "pipe" => 0,
        "fifo" => 1,
        "epoll" => 2,
        _ => 4,
    }
}

/// One end of a channel, in a lane of its process.
struct Lane {
    channel: usize,
    process: i32,
    numbers: Vec<i32>,
    reads: bool,
    writes: bool,
    at: usize,
}

/// Draws the circuit, and the same as a table.
pub fn draw(page: &mut Markup, image: &Description) {
    let channels = &image.channels;
    let drawn = drawn(channels);
    if !drawn.is_empty() {
        legend(page, channels, &drawn);
        circuit(page, image, &drawn);
        if drawn.len() < channels.len() {
            page.element("p", &[("class", "note")], |page| {
                page.text(&format!(
                    "{} of {} are drawn.",
                    number(drawn.len() as u64),
                    number(channels.len() as u64)
                ));
            });
        }
    }
    let rows = channels
        .iter()
        .take(ROWS)
        .enumerate()
        .map(|(index, channel)| {
            let ends = |wanted: fn(&ChannelEnd) -> bool| ends(channel, wanted);
            vec![
                (index + 1).to_string(),
                channel.kind.clone(),
                channel.path.clone().unwrap_or_default(),
                channel.in_flight.map(size).unwrap_or_default(),
                match channel.in_flight {
                    Some(_) => format!("{} → {}", ends(|end| end.writes), ends(|end| end.reads)),
                    None => ends(|_| true),
                },
                match (channel.external, channel.watches.len()) {
                    (true, _) => "its other end lies outside the job".to_owned(),
                    (false, 0) => String::new(),
                    (false, watched) => {
                        format!("watches {}", count(watched, "descriptor", "descriptors"))
                    }
                },
            ]
        });
    let heads = [
        "#no.",
        "kind",
        "path",
        "#in flight",
        "process:descriptor",
        "",
    ];
    page.table(&heads, rows);
    if channels.len() > ROWS {
        page.leaf(
            "p",
            &[("class", "note")],
            &format!("The first {ROWS} are listed; --json has all."),
        );
    }
}

fn legend(page: &mut Markup, channels: &[Channel], drawn: &[usize]) {
    page.literal("<ul class=\"legend\">");
    for (index, (class, name)) in CLASSES.iter().enumerate() {
        if drawn
            .iter()
            .any(|&channel| class_of(&channels[channel]) == index)
        {
            page.element("li", &[("class", class)], |page| {
                page.literal(
                    "<svg aria-hidden=\"true\" width=\"14\" height=\"14\"><circle cx=\"7\" cy=\"7\" r=\"6\" fill=\"currentColor\"/></svg>",
                );
                page.leaf("b", &[], name);
            });
        }
    }
    page.literal(
        "</ul><p class=\"note\">Arrows point where bytes and events go; small numbers are descriptors.</p>",
    );
}

fn ends(channel: &Channel, wanted: fn(&ChannelEnd) -> bool) -> String {
    let names: Vec<String> = channel
        .ends
        .iter()
        .filter(|end| wanted(end))
        .map(|end| format!("{}:{}", end.process, end.number))
        .collect();
    match names.len() {
        0 => "nobody".to_owned(),
        1..=8 => names.join(" "),
        more => format!(
            "{} and {} more",
            names[..7].join(" "),
            number(more as u64 - 7)
        ),
    }
}

/// The channels that are drawn, by their places: those with most processes first, as many as fit.
fn drawn(channels: &[Channel]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..channels.len())
        .filter(|&index| !channels[index].ends.is_empty())
        .collect();
    // What leads somewhere else says more than what a process has by itself.
    order.sort_by_key(|&index| {
        let mut processes: Vec<i32> = channels[index].ends.iter().map(|end| end.process).collect();
        processes.dedup();
        std::cmp::Reverse(processes.len().min(2))
    });
    let mut lanes = 0;
    order.retain(|&index| {
        lanes += channels[index].ends.len();
        lanes <= LANES
    });
    order.truncate(CHANNELS);
    order.sort_unstable();
    order
}

fn lanes(image: &Description, drawn: &[usize]) -> Vec<Lane> {
    let mut lanes: BTreeMap<(usize, usize), Lane> = BTreeMap::new();
    let places: BTreeMap<i32, usize> = image
        .processes
        .iter()
        .enumerate()
        .map(|(place, process)| (process.pid, place))
        .collect();
    for &channel in drawn {
        for end in &image.channels[channel].ends {
            let place = places.get(&end.process).copied().unwrap_or(usize::MAX);
            let lane = lanes.entry((place, channel)).or_insert(Lane {
                channel,
                process: end.process,
                numbers: Vec::new(),
                reads: false,
                writes: false,
                at: 0,
            });
            lane.numbers.push(end.number);
            lane.reads |= end.reads;
            lane.writes |= end.writes;
        }
    }
    let mut lanes: Vec<Lane> = lanes.into_values().collect();
    let mut top = LANE;
    let mut last = None;
    for lane in &mut lanes {
        if last.is_some_and(|last| last != lane.process) {
            top += LANE * 2 / 3;
        }
        last = Some(lane.process);
        lane.at = top;
        top += LANE;
    }
    lanes
}

fn circuit(page: &mut Markup, image: &Description, drawn: &[usize]) {
    let lanes = lanes(image, drawn);
    let columns = columns(&lanes, drawn);
    let used = columns.values().max().map_or(0, |most| most + 1);
    let outside = drawn
        .iter()
        .any(|&channel| image.channels[channel].external);
    let right = BOX + 60 + used * COLUMN;
    let width = right + if outside { OUTSIDE } else { 20 };
    let height = lanes.last().map_or(0, |lane| lane.at) + LANE + 8;
    page.open("div", &[("class", "scroll"), ("tabindex", "0")]);
    page.open(
        "svg",
        &[
            ("class", "circuit"),
            ("role", "img"),
            (
                "aria-label",
                "Pipes and other ties between processes; the table below says the same",
            ),
            ("width", &width.to_string()),
            ("height", &height.to_string()),
            ("viewBox", &format!("0 0 {width} {height}")),
        ],
    );
    boxes(page, image, &lanes);
    for &channel in drawn {
        let column = columns.get(&channel).copied().unwrap_or_default();
        let x = BOX + 60 + column * COLUMN;
        line(page, &image.channels[channel], channel, x, right, &lanes);
    }
    page.literal("</svg></div>");
}

/// A column for each channel: the first that is free over its whole height.
fn columns(lanes: &[Lane], drawn: &[usize]) -> BTreeMap<usize, usize> {
    let mut ends: Vec<usize> = Vec::new();
    let mut spans: Vec<(usize, usize, usize)> = drawn
        .iter()
        .filter_map(|&channel| {
            let of = || lanes.iter().filter(|lane| lane.channel == channel);
            Some((
                of().map(|lane| lane.at).min()?,
                of().map(|lane| lane.at).max()?,
                channel,
            ))
        })
        .collect();
    spans.sort_unstable();
    let mut columns = BTreeMap::new();
    for (top, bottom, channel) in spans {
        let free = ends.iter().position(|&end| end + LANE < top);
        let column = free.unwrap_or(ends.len());
        match free {
            Some(column) => ends[column] = bottom,
            None => ends.push(bottom),
        }
        columns.insert(channel, column);
    }
    columns
}

fn boxes(page: &mut Markup, image: &Description, lanes: &[Lane]) {
    for group in lanes.chunk_by(|one, other| one.process == other.process) {
        let (first, last) = (group[0].at, group[group.len() - 1].at);
        let process = image
            .processes
            .iter()
            .find(|one| one.pid == group[0].process);
        let name = process.map(|one| one.name.as_str()).unwrap_or_default();
        let top = (first - LANE / 2).to_string();
        let height = (last - first + LANE).to_string();
        let attributes = [
            ("class", "box"),
            ("x", "1"),
            ("y", &top),
            ("width", &BOX.to_string()),
            ("height", &height),
            ("rx", "4"),
        ];
        page.element("rect", &attributes, |_| {});
        let label = format!("{} {name}", group[0].process);
        let middle = ((first + last) / 2 + 4).to_string();
        page.leaf("text", &[("x", "10"), ("y", &middle)], &label);
    }
}

fn line(
    page: &mut Markup,
    channel: &Channel,
    index: usize,
    x: usize,
    right: usize,
    lanes: &[Lane],
) {
    let own: Vec<&Lane> = lanes.iter().filter(|lane| lane.channel == index).collect();
    let (Some(first), Some(last)) = (own.first(), own.last()) else {
        return;
    };
    page.open("g", &[("class", CLASSES[class_of(channel)].0)]);
    let bytes = channel.in_flight.filter(|&bytes| bytes > 0);
    let flight = bytes.map(|bytes| format!(", {} in flight", size(bytes)));
    let path = channel.path.as_deref().unwrap_or_default();
    let title = format!(
        "{}: {} {path}{}",
        index + 1,
        channel.kind,
        flight.unwrap_or_default()
    );
    page.leaf("title", &[], &title);
    let mut path_of = |class: &'static str, points: String| {
        let attributes = [("class", class), ("d", points.as_str())];
        page.element("path", &attributes, |_| {});
    };
    let left = BOX + 3;
    path_of("wire", format!("M{x} {}V{}", first.at, last.at));
    for lane in &own {
        path_of("wire", format!("M{left} {}H{x}", lane.at));
        if lane.reads {
            path_of("head", format!("M{left} {}l8 -4v8z", lane.at));
        }
        if lane.writes && channel.in_flight.is_some() {
            path_of("head", format!("M{} {}l-8 -4v8z", x - 1, lane.at));
        }
    }
    if channel.external {
        path_of("wire", format!("M{x} {}H{right}", first.at));
        let text = channel.path.as_ref().unwrap_or(&channel.kind);
        let (left, y) = ((right + 6).to_string(), (first.at + 4).to_string());
        let text = format!("outside: {text}");
        page.leaf("text", &[("x", &left), ("y", &y)], &text);
    }
    for lane in &own {
        let numbers: Vec<String> = lane
            .numbers
            .iter()
            .take(3)
            .map(ToString::to_string)
            .collect();
        let more = if lane.numbers.len() > 3 { "…" } else { "" };
        let y = (lane.at - 3).to_string();
        let x = (BOX + 14).to_string();
        let attributes = [("class", "number"), ("x", x.as_str()), ("y", y.as_str())];
        page.leaf("text", &attributes, &format!("{}{more}", numbers.join(" ")));
    }
    let (x, y) = (x.to_string(), first.at.to_string());
    page.element("circle", &[("cx", &x), ("cy", &y), ("r", "8")], |_| {});
    let y = (first.at + 3).to_string();
    page.leaf(
        "text",
        &[("class", "badge"), ("x", &x), ("y", &y)],
        &(index + 1).to_string(),
    );
    page.close("g");
}
