//! The licences of what is linked into a static binary: its crates, the standard library, the C library.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::dist::{TARGET, at, cargo_home, file_name, sorted};
use crate::steps::{Result, cargo, output};

const HEAD: &str = "\
The program cryo holds parts by others. What follows are their licences.

The standard library of Rust: MIT or Apache-2.0, by the Rust contributors, https://www.rust-lang.org.

The C library musl (https://musl.libc.org): MIT, Copyright © 2005-2020 Rich Felker, et al. The terms are those of the
file LICENSE-MIT.
";

/// The whole text.
pub fn text() -> Result<String> {
    let tree = output(cargo().args([
        "tree",
        "--locked",
        "-p",
        "cryonaut-cli",
        "--edges",
        "normal",
        "--target",
        TARGET,
        "--prefix",
        "none",
        "--format",
        "{p}|{l}",
    ]))?;
    let mut text = HEAD.to_owned();
    // The same text stands in many crates; it is given once.
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for (name, licence) in crates(&tree) {
        text += &format!("\n==== {name}: {licence}\n");
        for path in licences_of(&name) {
            let terms = fs::read(&path).map_err(at(&path))?;
            let terms = String::from_utf8_lossy(&terms).into_owned();
            let title = file_name(&path);
            match seen.get(&terms) {
                Some(first) => text += &format!("\n{title}: the same as {first}\n"),
                None => {
                    text += &format!("\n{title}:\n\n{}\n", terms.trim_end());
                    seen.insert(terms, format!("{title} of {name}"));
                }
            }
        }
    }
    Ok(text)
}

/// The crates of others as `name-version`, with their licences, in order.
fn crates(tree: &str) -> BTreeMap<String, String> {
    tree.lines()
        .filter_map(|line| {
            let (package, licence) = line.split_once('|')?;
            // "name v1.2.3", and "(/a/path)" after it for a crate of the workspace.
            let mut words = package.split_whitespace();
            let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
            let ours = words.any(|word| word.starts_with("(/"));
            // Marks of cargo for what was shown before.
            let licence = licence.trim_end_matches("(*)").trim();
            (!ours).then(|| (format!("{name}-{version}"), licence.to_owned()))
        })
        .collect()
}

/// Its files of terms, in the sources that cargo has unpacked.
fn licences_of(name: &str) -> Vec<PathBuf> {
    let registries = sorted(&cargo_home().join("registry/src")).unwrap_or_default();
    let files = registries.into_iter().map(|registry| registry.join(name));
    let files = files.filter_map(|directory| sorted(&directory).ok()).next();
    files
        .unwrap_or_default()
        .into_iter()
        .filter(|path| {
            let name = file_name(path).to_uppercase();
            let telling = [
                "LICENSE",
                "LICENCE",
                "COPYING",
                "COPYRIGHT",
                "NOTICE",
                "UNLICENSE",
            ];
            path.is_file() && telling.iter().any(|start| name.starts_with(start))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn crates_of_a_tree() {
        let tree = "cryonaut-cli v0.1.0 (/somewhere/crates/cli)|MIT\nlibc v0.2.191|MIT OR Apache-2.0\nserde_derive v1.0.2 (proc-macro)|MIT\nlibc v0.2.191|MIT OR Apache-2.0 (*)\n";
        let found: Vec<(String, String)> = super::crates(tree).into_iter().collect();
        let pair = |name: &str, licence: &str| (name.to_owned(), licence.to_owned());
        assert_eq!(
            found,
            [
                pair("libc-0.2.191", "MIT OR Apache-2.0"),
                pair("serde_derive-1.0.2", "MIT")
            ]
        );
    }
}
