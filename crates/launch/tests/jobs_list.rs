//! The list of running jobs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use cryonaut_launch::registry::{
    CheckpointEntry, NewJob, Notification, ProcessIdentity, Registry, RegistryError, check_name,
};

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let directory = std::env::temp_dir().join(format!("launch-{name}-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        Place(directory)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn job(name: Option<&str>, pid: i32) -> NewJob {
    NewJob {
        name: name.map(str::to_owned),
        supervisor: None,
        init: None,
        terminal_keeper: None,
        root: ProcessIdentity::of(pid).unwrap(),
        command: vec!["/bin/sleep".into(), "60".into()],
        checkpoint_directory: None,
        generation: 0,
        notification: Notification::default(),
    }
}

#[test]
fn jobs_are_listed_while_they_live() {
    let place = Place::new("list");
    let registry = Registry::open_at(&place.0.join("jobs")).unwrap();
    let own = std::process::id() as i32;
    assert_eq!(registry.register(job(None, own)).unwrap().name, "sleep-1");
    assert_eq!(registry.register(job(None, own)).unwrap().name, "sleep-2");
    let taken = registry.register(job(Some("sleep-2"), own)).unwrap_err();
    assert!(matches!(taken, RegistryError::NameTaken(_)), "{taken}");

    let mut sleeper = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    registry
        .register(job(Some("mine"), sleeper.id() as i32))
        .unwrap();
    let names = || -> Vec<String> {
        registry
            .list()
            .unwrap()
            .into_iter()
            .map(|job| job.name)
            .collect()
    };
    assert_eq!(names(), ["mine", "sleep-1", "sleep-2"]);
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert!(matches!(
        registry.find("mine"),
        Err(RegistryError::NoSuchJob(_))
    ));
    assert_eq!(names(), ["sleep-1", "sleep-2"]);
    assert!(!registry.directory().join("mine.json").exists());
    registry.remove("sleep-1").unwrap();
    registry.remove("sleep-1").unwrap();
    assert_eq!(names(), ["sleep-2"]);
}

#[test]
fn checkpoints_are_noted() {
    let place = Place::new("images");
    let registry = Registry::open_at(&place.0.join("jobs")).unwrap();
    registry
        .register(job(Some("a"), std::process::id() as i32))
        .unwrap();
    let image = place.0.join("a.cryo");
    fs::write(&image, "x").unwrap();
    for bytes in [1, 2] {
        let entry = CheckpointEntry {
            path: image.clone(),
            taken_at: 5,
            bytes,
        };
        registry.add_checkpoint("a", entry).unwrap();
    }
    let found = registry.find("a").unwrap();
    assert_eq!(found.checkpoints.len(), 1);
    assert_eq!(found.checkpoints[0].bytes, 2);
}

#[test]
fn damaged_files_and_reused_pids_are_no_jobs() {
    let place = Place::new("damage");
    let registry = Registry::open_at(&place.0.join("jobs")).unwrap();
    fs::write(registry.directory().join("bad.json"), "{").unwrap();
    let mut reused = job(Some("old"), std::process::id() as i32);
    reused.root.start_time += 1;
    registry.register(reused).unwrap();
    assert_eq!(registry.list().unwrap(), []);
    assert_eq!(
        fs::read_dir(registry.directory()).unwrap().count(),
        1,
        "only the lock"
    );
}

#[test]
fn jobs_of_other_namespaces_are_left_alone() {
    let place = Place::new("elsewhere");
    let registry = Registry::open_at(&place.0.join("jobs")).unwrap();
    let own = std::process::id() as i32;
    let mut ended = job(Some("container"), own);
    // In there it has a pid that here nobody has, or somebody else.
    ended.root.start_time += 1;
    let entered = registry.register(ended).unwrap();
    let file = registry.directory().join("container.json");
    let text = fs::read_to_string(&file).unwrap();
    let number = entered.view.unwrap().pid_namespace;
    let changed = text.replace(&number.to_string(), &(number + 1).to_string());
    assert_ne!(text, changed);
    fs::write(&file, &changed).unwrap();
    assert_eq!(registry.list().unwrap(), []);
    for refused in [
        registry.find("container").unwrap_err(),
        registry.check_free("container").unwrap_err(),
        registry.register(job(Some("container"), own)).unwrap_err(),
    ] {
        assert!(matches!(refused, RegistryError::Elsewhere(_)), "{refused}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), changed);
    // One of a version that did not note it is judged as ever.
    let text = fs::read_to_string(&file).unwrap();
    let mut old: serde_json::Value = serde_json::from_str(&text).unwrap();
    old.as_object_mut().unwrap().remove("view");
    fs::write(&file, old.to_string()).unwrap();
    assert!(registry.check_free("container").is_ok());
    assert!(!file.exists());
}

#[test]
fn an_open_directory_is_refused() {
    let place = Place::new("open");
    let directory = place.0.join("jobs");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    let error = Registry::open_at(&directory).unwrap_err();
    assert!(matches!(error, RegistryError::Untrusted { .. }), "{error}");
    let link = place.0.join("link");
    std::os::unix::fs::symlink("/tmp", &link).unwrap();
    assert!(Registry::open_at(&link).is_err());
}

#[test]
fn names() {
    for good in ["a", "sleep-1", "A.b_c", "4x"] {
        check_name(good).unwrap();
    }
    for bad in [
        "",
        "12",
        "../x",
        "a b",
        ".hidden",
        "-o",
        &"x".repeat(65),
        "ä",
    ] {
        assert!(check_name(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_claim_is_one_claim_also_when_its_file_was_removed() {
    let place = Place::new("claim");
    let registry = Registry::open_at(&place.0.join("jobs")).unwrap();
    let first = registry.claim(77).unwrap();
    let (told, through) = std::sync::mpsc::channel();
    let waiting = registry.clone();
    let waiter = std::thread::spawn(move || {
        let second = waiting.claim(77).unwrap();
        told.send(()).unwrap();
        second
    });
    // It waits for the file that is removed now, and another is made and claimed.
    std::thread::sleep(Duration::from_millis(100));
    fs::remove_file(registry.directory().join(".77.claim")).unwrap();
    let third = registry.claim(77).unwrap();
    drop(first);
    let early = through.recv_timeout(Duration::from_millis(200));
    assert!(early.is_err(), "two have the same claim");
    drop(third);
    through.recv_timeout(Duration::from_secs(20)).unwrap();
    drop(waiter.join().unwrap());
}
