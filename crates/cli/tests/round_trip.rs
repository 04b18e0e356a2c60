//! A job saved and brought back by the command itself.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A command whose list of jobs lies in `directory`, without descriptors that tie a job to whoever runs this test.
fn cryo(directory: &Path) -> Command {
    cryonaut_sys::spawn::close_on_exec_from(3).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cryo"));
    command
        .env("XDG_RUNTIME_DIR", directory)
        .env_remove("CRYO_LOG")
        .stdin(Stdio::null());
    command
}

fn json(command: &mut Command) -> Value {
    let output = command.arg("--json").output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn start(directory: &Path, extra: &[&str], output: &Path) -> Child {
    let file = || {
        File::options()
            .append(true)
            .create(true)
            .open(output)
            .unwrap()
    };
    let child = cryo(directory)
        .args(["run", "--name", "counting"])
        .args(extra)
        .args([
            "--",
            "sh",
            "-c",
            "n=0; while [ $n -lt 40 ]; do echo $n; n=$((n+1)); sleep 0.05; done; exit 9",
        ])
        .stdout(file())
        .stderr(file())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while fs::read_to_string(output)
        .unwrap_or_default()
        .lines()
        .count()
        < 5
    {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the job does not count"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

fn expected() -> String {
    (0..40).map(|number| format!("{number}\n")).collect()
}

#[test]
fn a_killed_job_goes_on_where_it_was() {
    for extra in [&[][..], &["--namespaces"]] {
        let directory = tempfile::tempdir().unwrap();
        let here = directory.path();
        let (output, image) = (here.join("output"), here.join("image.cryo"));
        let mut job = start(here, extra, &output);
        let listed = json(cryo(here).arg("list"));
        assert_eq!(listed[0]["name"], "counting");
        assert_eq!(
            json(cryo(here).args(["check", "counting"]))["possible"],
            true
        );
        let report = json(
            cryo(here)
                .args(["checkpoint", "counting", "--kill", "-o"])
                .arg(&image),
        );
        assert_eq!(report["image"], image.display().to_string());
        assert_eq!(report["afterwards"], "killed");
        assert!(
            report["bytes"].as_u64().unwrap() > 4096
                && report["still_seconds"].as_f64().unwrap() > 0.0
        );
        assert_eq!(job.wait().unwrap().code(), Some(137));
        assert_eq!(json(cryo(here).arg("list")), serde_json::json!([]));
        assert_eq!(json(cryo(here).arg("verify").arg(&image))["sound"], true);
        let shown = json(cryo(here).arg("show").arg(&image));
        assert_eq!(shown["job_name"], "counting");
        assert_eq!(shown["processes"][0]["name"], "sh");
        assert!(
            !shown["processes"][0]["mappings"]
                .as_array()
                .unwrap()
                .is_empty()
        );
        let plan = json(cryo(here).args(["check", "--plan"]).arg(&image));
        assert!(!plan["steps"].as_array().unwrap().is_empty());
        let status = cryo(here)
            .arg("restart")
            .arg(&image)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(9), "the job's own status");
        assert_eq!(fs::read_to_string(&output).unwrap(), expected());
    }
}

#[test]
fn periodic_checkpoints_keep_the_newest() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let (output, images) = (here.join("output"), here.join("images"));
    let every = [
        "--every",
        "1s",
        "--keep",
        "1",
        "--dir",
        images.to_str().unwrap(),
    ];
    let mut job = start(here, &every, &output);
    assert_eq!(
        job.wait().unwrap().code(),
        Some(9),
        "checkpoints do not change the job"
    );
    assert_eq!(fs::read_to_string(&output).unwrap(), expected());
    let names: Vec<String> = fs::read_dir(&images)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(
        names[0].starts_with("counting-2") && names[0].ends_with(".cryo"),
        "{names:?}"
    );
}

#[test]
fn a_detached_job_is_listed_and_its_pid_usable() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let (output, image, pidfile) = (
        here.join("output"),
        here.join("image.cryo"),
        here.join("pid"),
    );
    let mut job = start(here, &["--namespaces"], &output);
    json(
        cryo(here)
            .args(["checkpoint", "counting", "--kill", "-o"])
            .arg(&image),
    );
    job.wait().unwrap();
    let restart = |name: &str| {
        let mut command = cryo(here);
        command.args([
            "restart",
            "--detach",
            "--pids",
            "namespace",
            "--name",
            name,
            "--pidfile",
        ]);
        json(command.arg(&pidfile).arg(&image))
    };
    let report = restart("again");
    assert_eq!(report["name"], "again");
    let pid = report["pid"].as_i64().unwrap();
    assert_eq!(
        fs::read_to_string(&pidfile).unwrap().trim(),
        pid.to_string()
    );
    let listed = json(cryo(here).arg("list"));
    assert_eq!(listed[0]["root"]["pid"].as_i64(), Some(pid));
    cryonaut_sys::spawn::kill(pid as i32, libc::SIGKILL).unwrap();
}

#[test]
fn the_demonstration_ends_well_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let report = json(
        cryo(directory.path())
            .arg("demo")
            .env("TMPDIR", directory.path()),
    );
    assert_eq!(report["equal"], true);
    let left: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != "cryonaut")
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
