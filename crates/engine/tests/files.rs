//! Descriptors of real programs across a checkpoint, their end, and a restart.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use cryonaut_engine::checkpoint::{CheckpointRequest, Output, checkpoint};
use cryonaut_engine::freeze::Afterwards;
use cryonaut_engine::restart::{Input, Pids, RestartRequest, Restarted, open, restart};
use cryonaut_engine::target::{Scope, Target};
use cryonaut_sys::descriptor;

const PATIENCE: Duration = Duration::from_secs(20);

/// A directory of its own for a test, gone afterwards.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("cryonaut-files-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn wait_for(&self, name: &str) {
        let start = Instant::now();
        while !self.at(name).exists() {
            assert!(
                start.elapsed() < PATIENCE,
                "the program did not get as far as {name}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn start(program: &str, place: &Place) -> Child {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(program);
    let child = Command::new("python3")
        .arg(script)
        .arg(&place.0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3 starts");
    place.wait_for("ready");
    child
}

fn save(pid: i32, place: &Place) {
    let request = CheckpointRequest {
        target: Target::find(pid, Scope::Tree).unwrap(),
        afterwards: Afterwards::Kill,
        output: Output::File(place.at("image")),
        job_name: "files".into(),
        generation: 0,
        tracer: Default::default(),
        packing: Default::default(),
    };
    if let Err(error) = checkpoint(request, &AtomicBool::new(false), &mut |_| {}) {
        panic!("checkpoint: {error}");
    }
}

fn bring_back(place: &Place, standard: [Option<File>; 3]) -> Restarted {
    bring_back_telling(place, standard, || {})
}

fn bring_back_telling(
    place: &Place,
    standard: [Option<File>; 3],
    late: impl FnOnce(),
) -> Restarted {
    let image = open(Input::File(place.at("image"))).unwrap();
    let request = RestartRequest {
        pids: Pids::Namespace,
        standard,
        ..RestartRequest::default()
    };
    match restart(&image, request, &AtomicBool::new(false), |rebuilt| {
        rebuilt.commit(late)
    }) {
        Ok(restarted) => restarted,
        Err(error) => panic!("restart: {error}"),
    }
}

#[test]
fn every_kind_of_descriptor_comes_back() {
    let place = Place::new("kinds");
    let mut child = start("files.py", &place);
    save(child.id() as i32, &place);
    // A checkpoint that kills its own caller's child takes notice of its end too.
    let _ = child.wait();
    // Written by a life that is forgotten.
    File::options()
        .append(true)
        .open(place.at("log"))
        .unwrap()
        .write_all(b"growth\n")
        .unwrap();
    let (reader, writer) = descriptor::pipe(0).unwrap();
    let mut then = String::new();
    let standard = [None, Some(File::from(writer)), None];
    let restarted = bring_back_telling(&place, standard, || {
        then = std::fs::read_to_string(place.at("log")).unwrap();
    });
    assert!(
        then.ends_with("growth\n"),
        "it was told after what may take its time: {then:?}"
    );
    assert!(
        restarted
            .remarks
            .iter()
            .any(|remark| remark.contains("cut back")),
        "{:?}",
        restarted.remarks
    );
    std::fs::write(place.at("go"), "").unwrap();
    let mut line = String::new();
    BufReader::new(File::from(reader))
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "good 16\n");
    assert_eq!(
        std::fs::read_to_string(place.at("log")).unwrap(),
        "before\nafter\n"
    );
}

#[test]
fn a_job_on_a_terminal_gets_a_new_one() {
    let place = Place::new("terminal");
    let mut outside = start("terminal.py", &place);
    let pid = std::fs::read_to_string(place.at("ready"))
        .unwrap()
        .parse()
        .unwrap();
    save(pid, &place);
    outside.kill().unwrap();
    outside.wait().unwrap();
    let mut restarted = bring_back(&place, [None, None, None]);
    let terminal = restarted.terminal.take().expect("the job has a terminal");
    std::fs::write(place.at("go"), "").unwrap();
    assert_ne!(
        descriptor::poll_now(terminal.as_fd(), libc::POLLOUT).unwrap(),
        0
    );
    let mut line = String::new();
    BufReader::new(File::from(terminal))
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line.trim_end(), "good");
}

#[test]
fn what_cannot_come_back_is_refused_by_name() {
    let code = "import ctypes,os,socket,time; n=socket.socket(socket.AF_NETLINK,socket.SOCK_RAW,11); \
                assert ctypes.CDLL(None).syscall(323,1)>=0; \
                open(os.path.join(os.sys.argv[1],'ready'),'w'); time.sleep(60)";
    let place = Place::new("refused");
    let mut child = Command::new("python3")
        .args(["-c", code])
        .arg(&place.0)
        .stdin(Stdio::null())
        .spawn()
        .expect("python3 starts");
    place.wait_for("ready");
    let target = Target::find(child.id() as i32, Scope::Tree).unwrap();
    let refusals: Vec<String> = target
        .refusals()
        .list()
        .iter()
        .map(ToString::to_string)
        .collect();
    child.kill().unwrap();
    child.wait().unwrap();
    for what in ["userfaultfd", "netlink"] {
        assert!(
            refusals.iter().any(|refusal| refusal.contains(what)),
            "{what} in {refusals:#?}"
        );
    }
}
