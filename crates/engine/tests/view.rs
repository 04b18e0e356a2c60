//! Files of an image laid over this machine's: it can be given up at any point.

use std::cell::Cell;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use cryonaut_engine::Error;
use cryonaut_engine::checkpoint::{CheckpointRequest, Output, checkpoint};
use cryonaut_engine::freeze::Afterwards;
use cryonaut_engine::pattern::Pattern;
use cryonaut_engine::resource::embedded::Embedding;
use cryonaut_engine::restart::{Input, open};
use cryonaut_engine::target::{Scope, Target};
use cryonaut_engine::view::{self, Choice};
use cryonaut_sys::spawn::{self, WaitFor, WaitStatus};

struct Job {
    place: PathBuf,
    child: Child,
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.place);
    }
}

#[test]
fn it_is_given_up_at_any_point() {
    /// How it went, as an exit status.
    const LAID_OUT: i32 = 10;
    const GIVEN_UP: i32 = 11;
    const NOT_PERMITTED: i32 = 12;
    let place = std::env::temp_dir().join(format!("cryonaut-view-{}", std::process::id()));
    let files = place.join("files");
    std::fs::create_dir_all(&files).unwrap();
    for number in 0..3_u8 {
        std::fs::write(files.join(number.to_string()), vec![number + 1; 4 << 20]).unwrap();
    }
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    let job = Job { place, child };
    let mut target = Target::find(job.child.id() as i32, Scope::Tree).unwrap();
    target.embedding = Arc::new(Embedding {
        include: vec![Pattern::parse(files.as_os_str()).unwrap()],
        ..Embedding::default()
    });
    let path = job.place.join("image");
    let request = CheckpointRequest {
        target,
        afterwards: Afterwards::LeaveRunning,
        output: Output::File(path.clone()),
        job_name: "view".into(),
        generation: 0,
        tracer: Default::default(),
        packing: Default::default(),
    };
    checkpoint(request, &AtomicBool::new(false), &mut |_| {}).unwrap();
    std::fs::remove_dir_all(&files).unwrap();
    let mut given_up = 0;
    loop {
        // It changes the process that does it.
        let laying = spawn::fork_child(|| {
            let image = open(Input::File(path.clone())).unwrap();
            let asked = Cell::new(0);
            let stop = || asked.replace(asked.get() + 1) == given_up;
            let records = image.records().unwrap();
            match view::enter(&image, &records, Choice::default(), &stop) {
                Ok(Some(_)) => LAID_OUT,
                Err(Error::Interrupted) => GIVEN_UP,
                Err(Error::NotPermitted(..)) => NOT_PERMITTED,
                other => panic!("{other:?}"),
            }
        });
        let pid = laying.unwrap().pid;
        match spawn::wait_for(WaitFor::Pid(pid), libc::WEXITED).unwrap() {
            (_, WaitStatus::Exited(GIVEN_UP)) => given_up += 1,
            (_, WaitStatus::Exited(LAID_OUT)) => break,
            (_, WaitStatus::Exited(NOT_PERMITTED)) => {
                println!("skipped: this machine does not permit it");
                return;
            }
            (_, other) => panic!("{other:?}"),
        }
    }
    // Within files, too.
    assert!(given_up > 12, "it asked {given_up} times");
    assert!(!files.exists());
}
