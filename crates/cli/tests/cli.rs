//! The command line from outside: help, exit codes, the shape of JSON, and what a closed pipe does.

use std::fs;
use std::io::Read;
use std::process::{Command as Plain, Stdio};

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

const COMMANDS: [&str; 17] = [
    "run",
    "checkpoint",
    "restart",
    "migrate",
    "receive",
    "attach",
    "suspend",
    "resume",
    "check",
    "show",
    "verify",
    "extract",
    "list",
    "doctor",
    "demo",
    "completions",
    "man",
];

fn cryo() -> Command {
    let mut command = Command::cargo_bin("cryo").unwrap();
    command.env_remove("CRYO_LOG");
    command
}

/// The error object that a failing command prints.
fn error_of(arguments: &[&str], status: i32) -> Value {
    let output = cryo()
        .arg("--json")
        .args(arguments)
        .assert()
        .code(status)
        .get_output()
        .clone();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "",
        "a failure has no result"
    );
    let value: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(value["error"]["exit"], status);
    value["error"].clone()
}

fn free_pid() -> String {
    let free = (300..32_000)
        .rev()
        .find(|pid| fs::metadata(format!("/proc/{pid}")).is_err());
    free.unwrap().to_string()
}

#[test]
fn every_command_has_help_with_exit_codes() {
    for command in COMMANDS {
        cryo()
            .args([command, "--help"])
            .assert()
            .success()
            .stdout(contains("Usage: cryo").and(contains("Exit codes:")));
        cryo()
            .args([command, "-h"])
            .assert()
            .success()
            .stdout(contains("Usage: cryo"));
    }
    let all = COMMANDS
        .iter()
        .fold(cryo().arg("--help").assert().success(), |all, command| {
            all.stdout(contains(*command))
        });
    all.stdout(contains("__").not());
}

#[test]
fn a_wrong_command_line_ends_with_2_or_125() {
    cryo().assert().code(2);
    cryo()
        .arg("freeze")
        .assert()
        .code(2)
        .stderr(contains("freeze"));
    cryo().args(["checkpoint"]).assert().code(2);
    cryo()
        .args(["checkpoint", "1", "--stop", "--kill"])
        .assert()
        .code(2);
    cryo()
        .args(["checkpoint", "1", "--tree", "--session"])
        .assert()
        .code(2);
    cryo().args(["run"]).assert().code(125);
    cryo()
        .args(["run", "--every", "soon", "--dir", "/tmp", "--", "true"])
        .assert()
        .code(125)
        .stderr(contains("30m"));
    cryo()
        .args(["run", "--every", "30m", "--", "true"])
        .assert()
        .code(125);
    cryo().args(["restart"]).assert().code(125);
    cryo().args(["restart", "--detach"]).assert().code(2);
    assert_eq!(error_of(&["checkpoint"], 2)["code"], "usage");
    cryo()
        .args(["--log", "=bad=", "list"])
        .assert()
        .code(2)
        .stderr(contains("--log debug"));
}

#[test]
fn wrong_targets_are_told_in_one_line() {
    let free = free_pid();
    for (target, reason) in [
        (free.as_str(), "there is no process"),
        ("0", "not a process id"),
        ("1", "init"),
        ("99999999999", "too large"),
        ("no-such-job", "no job named"),
        ("not a name", "no name for a job"),
    ] {
        for command in ["checkpoint", "check"] {
            let outcome = cryo().args([command, target]).assert().code(2);
            if command == "checkpoint" {
                outcome.stderr(
                    contains(reason)
                        .and(predicate::function(|text: &str| text.lines().count() == 1)),
                );
            }
        }
    }
}

#[test]
fn what_is_no_image_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let garbage = path("garbage.cryo");
    fs::write(&garbage, vec![0x5a; 70_000]).unwrap();
    let empty = path("empty.cryo");
    fs::write(&empty, b"").unwrap();
    for command in ["show", "verify", "check"] {
        cryo()
            .args([command, &path("")])
            .assert()
            .code(2)
            .stderr(contains("is a directory"));
        cryo().args([command, &garbage]).assert().code(5);
        cryo().args([command, &empty]).assert().code(5);
        cryo()
            .args([command, &path("none.cryo")])
            .assert()
            .code(4)
            .stderr(contains("No such file"));
    }
    for (image, code) in [
        (path(""), 2),
        (garbage, 5),
        (empty, 5),
        (path("none.cryo"), 4),
    ] {
        cryo()
            .args(["restart", "--detach", &image])
            .assert()
            .code(code);
        cryo().args(["restart", &image]).assert().code(125);
    }
    let error = error_of(&["verify", &path("garbage.cryo")], 5);
    assert_eq!(error["code"], "image");
    assert!(error["message"].is_string());
}

#[test]
fn an_image_from_standard_input_is_verified_too() {
    cryo()
        .args(["verify", "-"])
        .write_stdin("not an image")
        .assert()
        .code(5);
    cryo()
        .args(["restart", "-", "--detach"])
        .write_stdin("not an image")
        .assert()
        .code(5);
}

#[test]
fn an_image_does_not_go_where_it_cannot() {
    let own = std::process::id().to_string();
    let outcome = cryo()
        .args(["checkpoint", &own, "-o", "/nonexistent/image.cryo"])
        .assert()
        .failure();
    let code = outcome.get_output().status.code().unwrap();
    assert!([3, 4].contains(&code), "{code}");
    cryo()
        .args(["checkpoint", &own, "--kill", "-o", "-"])
        .assert()
        .failure()
        .stdout("");
}

#[test]
fn completions_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        cryo()
            .args(["completions", shell])
            .assert()
            .success()
            .stdout(contains("checkpoint").and(contains("__demo-worker").not()));
    }
    cryo().args(["completions", "tea"]).assert().code(2);
}

#[test]
fn manual_pages_for_each_command() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("man1");
    cryo().arg("man").arg(&target).assert().success();
    for command in COMMANDS {
        let page = fs::read_to_string(target.join(format!("cryo-{command}.1"))).unwrap();
        assert!(
            page.contains(".SH NAME") && page.contains("Exit codes"),
            "{command}"
        );
    }
    assert_eq!(fs::read_dir(&target).unwrap().count(), COMMANDS.len() + 1);
    cryo().args(["man", "/proc/no"]).assert().failure();
}

#[test]
fn lists_and_findings_are_json() {
    let directory = tempfile::tempdir().unwrap();
    let mut list = cryo();
    list.env("XDG_RUNTIME_DIR", directory.path())
        .args(["list", "--json"]);
    let output = list.assert().success().get_output().stdout.clone();
    assert_eq!(
        serde_json::from_slice::<Value>(&output).unwrap(),
        serde_json::json!([])
    );
    let output = cryo().args(["doctor", "--json"]).output().unwrap();
    assert!([Some(0), Some(6)].contains(&output.status.code()));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["checkpoint"].is_boolean());
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.len() > 10);
    for finding in findings {
        let state = finding["state"].as_str().unwrap();
        assert!(["ok", "missing", "limited"].contains(&state));
        assert!(
            state == "ok" || finding["remedy"].as_str().is_some(),
            "{finding}"
        );
    }
}

#[test]
fn an_empty_list_is_quiet_when_piped() {
    let directory = tempfile::tempdir().unwrap();
    cryo()
        .env("XDG_RUNTIME_DIR", directory.path())
        .arg("list")
        .assert()
        .success()
        .stdout("")
        .stderr("");
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    for arguments in [
        &["completions", "bash"][..],
        &["--help"],
        &["doctor"],
        &["__support"],
    ] {
        let mut child = Plain::new(env!("CARGO_BIN_EXE_cryo"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert_eq!(said, "", "{arguments:?}");
        assert!(
            [Some(0), Some(6)].contains(&child.wait().unwrap().code()),
            "{arguments:?}"
        );
    }
}

#[test]
fn the_support_table_names_every_level() {
    cryo().arg("__support").assert().success().stdout(
        contains("| What | Level | How |")
            .and(contains("| restored |"))
            .and(contains("| refused |")),
    );
}

#[test]
fn a_job_ends_with_its_own_status() {
    cryo()
        .args(["run", "--", "sh", "-c", "exit 7"])
        .assert()
        .code(7);
    cryo()
        .args(["run", "--", "sh", "-c", "kill -TERM $$"])
        .assert()
        .code(143);
    cryo()
        .args(["run", "--", "no-such-command"])
        .assert()
        .code(127)
        .stderr(contains("no-such-command"));
    cryo().args(["run", "--", "/etc/passwd"]).assert().code(126);
    cryo()
        .args(["run", "--name", "not a name", "--", "true"])
        .assert()
        .code(125);
    cryo()
        .args(["run", "--", "cat"])
        .write_stdin("through")
        .assert()
        .success()
        .stdout("through");
    assert_eq!(
        error_of(&["run", "--", "no-such-command"], 127)["code"],
        "usage"
    );
}
