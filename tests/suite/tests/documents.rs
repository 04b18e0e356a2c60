//! What documents say of the tests is so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every `FILE::NAME` in backticks, with the line that it is on.
fn named_tests(text: &str) -> Vec<(usize, &str, &str)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        // What stands between backticks is every second part.
        for quoted in line.split('`').skip(1).step_by(2) {
            if let Some((file, name)) = quoted.split_once("::")
                && file != "FILE"
            {
                found.push((number + 1, file, name));
            }
        }
    }
    found
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn every_test_that_the_requirements_name_is_there() {
    let requirements = std::fs::read_to_string(repository().join("docs/requirements.md"))
        .expect("docs/requirements.md");
    let named = named_tests(&requirements);
    assert!(named.len() > 100, "only {} tests are named", named.len());
    let mut sources: BTreeMap<&str, String> = BTreeMap::new();
    let mut missing = Vec::new();
    for (line, file, name) in named {
        let source = sources.entry(file).or_insert_with(|| {
            let path = repository().join(format!("tests/suite/tests/{file}.rs"));
            std::fs::read_to_string(path).unwrap_or_default()
        });
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        if !source.split(|c| !is_name(c)).any(|word| word == name) {
            missing.push(format!("docs/requirements.md:{line}: {file}::{name}"));
        }
    }
    assert!(missing.is_empty(), "no such tests:\n{}", missing.join("\n"));
}

#[test]
fn names_are_found_between_backticks() {
    let text = "none\n| `a::b`, c::d and `e::f` | `FILE::NAME` `g` |";
    assert_eq!(named_tests(text), [(2, "a", "b"), (2, "e", "f")]);
}
