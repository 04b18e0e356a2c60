//! Every command line of the README, and of the page about MPI, is run.
//!
//! Each fenced block of the language `sh` is run by `bash -eu` as it stands, in the order of the page and in one
//! directory, with `cryo` on the path. In a block of the language `console` the lines that begin with `$ ` are run,
//! together, and the others are output, which is not compared: it holds pids and times. A block is left out by a
//! comment in the line before it that says why:
//!
//! ```text
//! <!-- not run: this is what runs the tests -->
//! ```
//!
//! The blocks run as an ordinary user; after `<!-- run as root -->` as root.

use std::fs;
use std::path::Path;

use cryonaut_suite::scene::describe_status;
use cryonaut_suite::{Outcome, Program, Scene, User, failed, place, test};

/// What a block is run as.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    Root,
    Ordinary,
    Not,
}

#[derive(Debug, PartialEq, Eq)]
struct Block {
    line: usize,
    way: Way,
    script: String,
}

/// The blocks of shell commands on a page.
fn blocks(page: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut way = Way::Ordinary;
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let trimmed = line.trim();
        if trimmed.starts_with("<!-- not run:") {
            way = Way::Not;
        } else if trimmed == "<!-- run as root -->" {
            way = Way::Root;
        } else if let Some(language) = trimmed.strip_prefix("```") {
            let body: Vec<&str> = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| line.trim() != "```")
                .collect();
            let script = match language.trim() {
                "sh" => Some(body.join("\n")),
                "console" => Some(
                    body.iter()
                        .filter_map(|line| line.trim_start().strip_prefix("$ "))
                        .collect::<Vec<_>>()
                        .join("\n"),
                ),
                _ => None,
            };
            if let Some(script) = script {
                found.push(Block {
                    line: number + 1,
                    way: way.clone(),
                    script,
                });
            }
            way = Way::Ordinary;
        } else if !trimmed.is_empty() {
            way = Way::Ordinary;
        }
    }
    found
}

fn run(scene: &Scene, page: &Path, wanted: &Way) -> Outcome {
    let text = fs::read_to_string(page)?;
    let beside = scene
        .cryo_path()
        .parent()
        .unwrap_or(Path::new("/"))
        .to_owned();
    // The binary may be a copy under another name; the page says cryo.
    let names = scene.make_directory("bin")?;
    std::os::unix::fs::symlink(scene.cryo_path(), names.join("cryo"))?;
    for block in blocks(&text)
        .into_iter()
        .filter(|block| block.way == *wanted)
    {
        let mut command = scene.session_command(Path::new("/bin/bash"));
        command
            .args(["-eu", "-c", &block.script])
            .env_remove("VICTIM_GO")
            .env(
                "PATH",
                format!(
                    "{}:{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                    names.display(),
                    beside.display()
                ),
            );
        let shell = scene.spawn(&format!("line {}", block.line), command)?;
        let status = scene.wait_within(&shell, std::time::Duration::from_secs(120))?;
        if !status.success() {
            return failed(format!(
                "{} line {}: {}",
                page.display(),
                block.line,
                describe_status(status)
            ));
        }
    }
    Ok(())
}

#[test]
fn user() {
    let page = place::repository().join("README.md");
    test("readme::user", User::Ordinary, |scene| {
        run(scene, &page, &Way::Ordinary)
    });
}

#[test]
fn root() {
    let page = place::repository().join("README.md");
    test("readme::root", User::Root, |scene| {
        run(scene, &page, &Way::Root)
    });
}

#[test]
fn mpi() {
    let page = place::repository().join("docs/mpi.md");
    test("readme::mpi", User::Ordinary, |scene| {
        Program::installed("mpirun")?;
        Program::installed("mpicc")?;
        run(scene, &page, &Way::Ordinary)
    });
}

#[test]
fn finds_blocks() {
    let page = "text\n```sh\none\n```\n<!-- not run: why -->\n```sh\ntwo\n```\n<!-- run as root -->\n\n```console\n$ three\nout\n$ four\n```\n```rust\nfive\n```\n";
    let block = |line, way, script: &str| Block {
        line,
        way,
        script: script.to_owned(),
    };
    assert_eq!(
        blocks(page),
        [
            block(2, Way::Ordinary, "one"),
            block(6, Way::Not, "two"),
            block(11, Way::Root, "three\nfour")
        ]
    );
}
