//! Files that an image names: grown, changed, moved and replaced between checkpoint and restart.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use cryonaut_suite::scene::{LIMIT, Running, describe_status};
use cryonaut_suite::victim::checkpoint;
use cryonaut_suite::{Outcome, Program, Scene, failed, for_each_user, processes};

/// The status of `cryo` for a refusal.
const REFUSED: i32 = 3;

/// A killed job with its image, and the directory that it works in.
struct Saved<'scene> {
    scene: &'scene Scene,
    job: Running,
    image: PathBuf,
    place: PathBuf,
}

/// What a job is started from.
#[derive(Default)]
struct Setting {
    /// A library, copied into the directory as `libpart.so`.
    library: Option<PathBuf>,
    /// Whether the program itself lies in the directory.
    own_program: bool,
    /// Options of the checkpoint.
    options: &'static [&'static str],
}

impl<'scene> Saved<'scene> {
    /// Runs the victim in a directory of its own up to its checkpoint, and kills it.
    fn new(scene: &'scene Scene, setting: &Setting) -> Outcome<Self> {
        let place = scene.work("place");
        fs::create_dir(&place)?;
        let mut program = Program::victim("file_reference", &["-ldl"])?;
        if setting.own_program {
            let copy = place.join("program");
            fs::copy(&program.path, &copy)?;
            program.path = copy;
        }
        program = program.argument(&place);
        if let Some(library) = &setting.library {
            let copy = place.join("libpart.so");
            fs::copy(library, &copy)?;
            program = program.argument(copy);
        }
        give(scene, &place)?;
        let job = scene.start("victim", &program)?;
        scene.wait_for("READY", LIMIT, || {
            job.output().contains("READY").then_some(())
        })?;
        let image = scene.file("image");
        let pid = job.pid().to_string();
        scene
            .cryo(["checkpoint", &pid, "--kill", "-o"])
            .arguments([&image])
            .arguments(setting.options)
            .run()?
            .success()?;
        scene.wait(&job)?;
        scene.wait_for_disappearance(&[job.pid()])?;
        Ok(Self {
            scene,
            job,
            image,
            place,
        })
    }

    /// Expects `cryo check` and `cryo restart` to refuse it for a reason with all these words.
    fn refused(&self, options: &[&str], words: &[&str]) -> Outcome {
        for command in ["check", "restart"] {
            let mut call = self
                .scene
                .cryo([command])
                .arguments([&self.image])
                .arguments(options);
            if command == "restart" {
                call = call.arguments(["--detach"]);
            }
            let result = call.run()?.refusal_with(&[REFUSED], &[])?;
            let text = format!("{}{}", result.stdout, result.stderr);
            for word in words {
                if !text.contains(word) {
                    return failed(format!("{}: no {word:?} in {text}", result.what));
                }
            }
        }
        Ok(())
    }

    /// Restarts it with these options, lets it go on, and expects it to find what it needs.
    fn goes_on(&self, options: &[&str]) -> Outcome {
        self.scene
            .cryo(["check"])
            .arguments([&self.image])
            .arguments(options)
            .run()?
            .success()?;
        let life = self
            .scene
            .cryo(["restart"])
            .arguments([&self.image])
            .arguments(options)
            .start("life")?;
        self.scene.go()?;
        let status = self.scene.wait(&life)?;
        let output = self.job.output();
        if status.success() && output == "READY\nOK\n" {
            return Ok(());
        }
        failed(format!("{}, {output:?}", describe_status(status)))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    fn append(&self, name: &str, text: &str) -> Outcome {
        let mut file = File::options().append(true).open(self.file(name))?;
        Ok(file.write_all(text.as_bytes())?)
    }

    fn expect(&self, name: &str, wanted: &str) -> Outcome {
        let found = fs::read_to_string(self.file(name))?;
        if found == wanted {
            return Ok(());
        }
        failed(format!("{name}: expected {wanted:?}, found {found:?}"))
    }
}

/// Gives a directory and what is in it to the acting user.
fn give(scene: &Scene, place: &Path) -> Outcome {
    let own = Some(scene.user_id());
    std::os::unix::fs::chown(place, own, own)?;
    for entry in fs::read_dir(place)? {
        std::os::unix::fs::chown(entry?.path(), own, own)?;
    }
    Ok(())
}

/// A library whose build id is chosen; its content is the same but for that and the text.
fn library(scene: &Scene, build: &str, text: &str) -> Outcome<PathBuf> {
    let source = scene.file("part.c");
    fs::write(
        &source,
        format!("const char text[] = \"{text}\"; int answer(void) {{ return 42; }}\n"),
    )?;
    let path = scene.file(format!("part-{build}-{text}.so"));
    let status = Command::new("gcc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&path)
        .arg(&source)
        .arg(format!("-Wl,--build-id=0x{build}"))
        .status()?;
    match status.success() {
        true => Ok(path),
        false => failed("gcc failed"),
    }
}

/// Replaces a file by another one under its name, as an upgrade does.
fn replace(from: &Path, to: &Path) -> Outcome {
    let fresh = to.with_extension("fresh");
    fs::copy(from, &fresh)?;
    Ok(fs::rename(&fresh, to)?)
}

fn a_log_that_grew(scene: &Scene) -> Outcome {
    let saved = Saved::new(scene, &Setting::default())?;
    saved.append("log", "stray\n")?;
    saved.refused(
        &["--grown", "refuse"],
        &["/place/log", "from 7 to 13 bytes", "--grown"],
    )?;
    saved.expect("log", "before\nstray\n")?;
    saved.goes_on(&[])?;
    saved.expect("log", "before\nafter\n")
}

fn a_log_that_is_kept(scene: &Scene) -> Outcome {
    let saved = Saved::new(scene, &Setting::default())?;
    saved.append("log", "stray\n")?;
    saved.goes_on(&["--grown", "keep"])?;
    saved.expect("log", "before\nstray\nafter\n")
}

fn an_input_that_grew(scene: &Scene) -> Outcome {
    let saved = Saved::new(scene, &Setting::default())?;
    saved.append("input", "more\n")?;
    saved.append("data", "more\n")?;
    saved.refused(&["--grown", "refuse"], &["/place/input", "/place/data"])?;
    saved.goes_on(&[])?;
    saved.expect("input", "0123456789\nmore\n")
}

fn an_input_that_is_cut_back(scene: &Scene) -> Outcome {
    let saved = Saved::new(scene, &Setting::default())?;
    saved.append("input", "more\n")?;
    saved.goes_on(&["--grown", "truncate"])?;
    saved.expect("input", "0123456789\n")
}

fn an_input_that_changed(scene: &Scene) -> Outcome {
    let saved = Saved::new(scene, &Setting::default())?;
    scene.write(&saved.file("input"), "---3456789\n")?;
    let words = ["/place/input", "last changed", "--allow-changed"];
    saved.refused(&[], &words)?;
    saved.goes_on(&["--allow-changed"])
}

/// By its hash a file is known however often it was touched, and however much like the old one a new one looks.
fn an_input_with_a_hash(scene: &Scene) -> Outcome {
    let setting = Setting {
        options: &["--hash-files"],
        ..Setting::default()
    };
    let saved = Saved::new(scene, &setting)?;
    scene.write(&saved.file("input"), "---3456789\n")?;
    saved.refused(&[], &["/place/input", "hash"])?;
    scene.write(&saved.file("input"), "0123456789\n")?;
    let data = fs::read(saved.file("data"))?;
    scene.write(&saved.file("data"), data)?;
    saved.append("log", "stray\n")?;
    saved.goes_on(&[])?;
    saved.expect("log", "before\nafter\n")
}

fn a_file_that_is_gone(scene: &Scene) -> Outcome {
    let saved = Saved::new(scene, &Setting::default())?;
    fs::rename(saved.file("input"), saved.file("elsewhere"))?;
    saved.refused(&[], &["/place/input", "does not exist", "--relocate"])?;
    let relocation = format!(
        "{}={}",
        saved.file("input").display(),
        saved.file("elsewhere").display()
    );
    saved.goes_on(&["--relocate", &relocation])
}

/// Program, library, open files, mapped file and directories have all been moved.
fn a_tree_that_moved(scene: &Scene) -> Outcome {
    let setting = Setting {
        library: Some(library(scene, "1234abcd", "old")?),
        own_program: true,
        ..Setting::default()
    };
    let mut saved = Saved::new(scene, &setting)?;
    let moved = scene.work("moved to here");
    fs::rename(&saved.place, &moved)?;
    let names = ["/place/program", "/place/libpart.so", "/place/log"];
    saved.refused_everywhere(&names)?;
    let relocation = format!("{}={}", saved.place.display(), moved.display());
    saved.goes_on(&["--relocate", "/nothing=/nowhere", "--relocate", &relocation])?;
    saved.place = moved;
    saved.expect("log", "before\nafter\n")
}

/// A copy of the tree without its times is known by build ids and hashes.
fn a_tree_that_was_copied(scene: &Scene) -> Outcome {
    let setting = Setting {
        library: Some(library(scene, "1234abcd", "old")?),
        own_program: true,
        options: &["--hash-files"],
    };
    let mut saved = Saved::new(scene, &setting)?;
    let copied = scene.work("copied");
    fs::create_dir(&copied)?;
    for entry in fs::read_dir(&saved.place)? {
        let entry = entry?;
        fs::copy(entry.path(), copied.join(entry.file_name()))?;
    }
    give(scene, &copied)?;
    fs::remove_dir_all(&saved.place)?;
    let relocation = format!("{}={}", saved.place.display(), copied.display());
    saved.goes_on(&["--relocate", &relocation])?;
    saved.place = copied;
    saved.expect("log", "before\nafter\n")
}

/// The same build of a library put there once more is the same library; another build is not, whatever its size and time.
fn a_library_that_was_upgraded(scene: &Scene) -> Outcome {
    let old = library(scene, "1234abcd", "old")?;
    let setting = Setting {
        library: Some(old.clone()),
        ..Setting::default()
    };
    let saved = Saved::new(scene, &setting)?;
    let place = saved.file("libpart.so");
    let time = fs::metadata(&place)?.modified()?;
    replace(&library(scene, "5678cdef", "new")?, &place)?;
    let words = ["/place/libpart.so", "build id", "1234abcd", "5678cdef"];
    saved.refused(&[], &words)?;
    File::options()
        .write(true)
        .open(&place)?
        .set_modified(time)?;
    saved.refused(&[], &words)?;
    replace(&old, &place)?;
    saved.goes_on(&[])
}

impl Saved<'_> {
    /// Expects every one of these paths, and the way out, in the refusals of `cryo check`.
    fn refused_everywhere(&self, names: &[&str]) -> Outcome {
        let result = self
            .scene
            .cryo(["check", "--json"])
            .arguments([&self.image])
            .run()?;
        for name in names {
            if !result.stdout.contains(name) || !result.stdout.contains("--relocate OLD=NEW") {
                return failed(format!("no {name} in {}", result.stdout));
            }
        }
        Ok(())
    }
}

/// Malformed options are told before anything is looked at.
fn nonsense(scene: &Scene) -> Outcome {
    let job = scene.start("victim", &Program::victim("mem_private", &[])?)?;
    scene.wait_for("READY", LIMIT, || {
        job.output().contains("READY").then_some(())
    })?;
    let image = scene.file("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--leave-running")?;
    for value in ["nothing", "/a", "a=/b", "/a=b"] {
        scene
            .cryo(["check", "--relocate", value])
            .arguments([&image])
            .run()?
            .refusal_with(&[2], &["two absolute paths"])?;
    }
    scene.go()?;
    scene.wait(&job)?;
    let left = processes::descendants(std::process::id() as i32);
    match left.is_empty() {
        true => Ok(()),
        false => failed(format!("processes are left: {left:?}")),
    }
}

for_each_user!(
    a_log_that_grew,
    a_log_that_is_kept,
    an_input_that_grew,
    an_input_that_is_cut_back,
    an_input_that_changed,
    an_input_with_a_hash,
    a_file_that_is_gone,
    a_tree_that_moved,
    a_tree_that_was_copied,
    a_library_that_was_upgraded,
    nonsense,
);
