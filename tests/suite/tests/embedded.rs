//! Files that travel in an image: restarts where they are gone or others, on this machine and in a tree that has none of them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use cryonaut_engine::resource::embedded::{EmbeddedFile, FIRST_EMBEDDED};
use cryonaut_engine::resource::memory::FileIdentity;
use cryonaut_image::{ImageWriter, Preamble, RecordSet};
use cryonaut_suite::machine::Machine;
use cryonaut_suite::scene::{LIMIT, Running, describe_status};
use cryonaut_suite::victim::{checkpoint, finish, generation, restart};
use cryonaut_suite::{Outcome, Program, Random, Scene, User, failed, for_each_user, skip};
use rustix::process::Signal;

/// The status of `cryo` for a refusal.
const REFUSED: i32 = 3;

/// A library with a function `answer`.
fn library(scene: &Scene, path: &Path, answer: i32) -> Outcome {
    let source = scene.file("part.c");
    fs::write(
        &source,
        format!("int answer(void) {{ return {answer}; }}\n"),
    )?;
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(path)
        .arg(&source);
    match gcc.status()?.success() {
        true => Ok(()),
        false => failed("gcc failed"),
    }
}

fn give(scene: &Scene, place: &Path) -> Outcome {
    let own = Some(scene.user_id());
    std::os::unix::fs::lchown(place, own, own)?;
    for entry in fs::read_dir(place)? {
        std::os::unix::fs::lchown(entry?.path(), own, own)?;
    }
    Ok(())
}

/// The victim in a directory of its own, with another one beside it.
struct Placed<'scene> {
    scene: &'scene Scene,
    job: Running,
    place: PathBuf,
    outside: PathBuf,
    image: PathBuf,
}

impl<'scene> Placed<'scene> {
    fn start(scene: &'scene Scene) -> Outcome<Self> {
        let place = scene.work("place");
        let outside = scene.work("outside");
        for directory in [&place, &outside] {
            fs::create_dir(directory)?;
        }
        let mut program = Program::victim("embedded", &["-ldl"])?;
        fs::copy(&program.path, place.join("program"))?;
        program.path = place.join("program");
        library(scene, &place.join("libpart.so"), 42)?;
        library(scene, &place.join("liblater.so"), 43)?;
        fs::write(place.join("data"), "0123456789")?;
        fs::write(place.join("note"), "old text")?;
        symlink("data", place.join("alias"))?;
        give(scene, &place)?;
        give(scene, &outside)?;
        let job = scene.start("victim", &program.argument(&place).argument(&outside))?;
        scene.wait_for("READY", LIMIT, || {
            job.output().contains("READY").then_some(())
        })?;
        let image = scene.file("image");
        Ok(Self {
            scene,
            job,
            place,
            outside,
            image,
        })
    }

    fn save_and_kill(&self, options: &[&str]) -> Outcome {
        self.scene
            .cryo(["checkpoint", &self.job.pid().to_string(), "--kill", "-o"])
            .arguments([&self.image])
            .arguments(options)
            .run()?
            .success()?;
        self.scene.wait(&self.job)?;
        self.scene.wait_for_disappearance(&[self.job.pid()])
    }

    /// What is kept of it so, with all that it will ask for.
    fn save_all(&self) -> Outcome {
        let include = self.place.to_string_lossy().into_owned();
        self.save_and_kill(&["--embed", "--include", &include])
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    /// What the job wrote outside is there, and nothing that it wrote inside.
    fn expect_traces(&self, names: &[&str]) -> Outcome {
        let written = fs::read_to_string(self.outside.join("made"))?;
        if written != "outside\n" {
            return failed(format!("outside is {written:?}"));
        }
        let mut found: Vec<String> = fs::read_dir(&self.place)
            .map(|entries| {
                entries
                    .flatten()
                    .map(|entry| entry.file_name().to_string_lossy().into_owned())
                    .collect()
            })
            .unwrap_or_default();
        found.sort();
        match found == names {
            true => Ok(()),
            false => failed(format!("the directory has {found:?}")),
        }
    }
}

/// The whole directory is gone: all of it comes out of the image, for the job alone.
fn all_gone(scene: &Scene) -> Outcome {
    let placed = Placed::start(scene)?;
    placed.save_all()?;
    fs::remove_dir_all(&placed.place)?;
    let checked = scene
        .cryo(["check"])
        .arguments([&placed.image])
        .run()?
        .success()?;
    if !checked.stdout.contains("come from the image") {
        return failed(format!("check says {:?}", checked.stdout));
    }
    let life = scene
        .cryo(["--json", "restart"])
        .arguments([&placed.image])
        .start("life")?;
    finish(scene, &placed.job, &life)?;
    let told = life.errors();
    if !told.contains("in memory") {
        return failed(format!(
            "it was not told that the directory is in memory only: {told:?}"
        ));
    }
    placed.expect_traces(&[])
}

/// Other files have come in the places of all: they stay as they are.
fn all_replaced(scene: &Scene) -> Outcome {
    let placed = Placed::start(scene)?;
    placed.save_all()?;
    let names = ["data", "liblater.so", "libpart.so", "note", "program"];
    for name in names {
        fs::remove_file(placed.file(name))?;
        scene.write(&placed.file(name), "another")?;
    }
    fs::remove_file(placed.file("alias"))?;
    symlink("note", placed.file("alias"))?;
    let life = restart(scene, &placed.image, "life")?;
    finish(scene, &placed.job, &life.running)?;
    for name in names {
        let now = fs::read_to_string(placed.file(name))?;
        if now != "another" {
            return failed(format!("{name} is {now:?}"));
        }
    }
    placed.expect_traces(&[
        "alias",
        "data",
        "liblater.so",
        "libpart.so",
        "note",
        "program",
    ])
}

/// Nothing has changed: the machine's own files are used, and written to.
fn nothing_changed(scene: &Scene) -> Outcome {
    let placed = Placed::start(scene)?;
    placed.save_all()?;
    let life = restart(scene, &placed.image, "life")?;
    finish(scene, &placed.job, &life.running)?;
    let note = fs::read_to_string(placed.file("note"))?;
    match note == "new TEXT" && placed.file("made").exists() {
        true => Ok(()),
        false => failed(format!("the machine's own files were not used: {note:?}")),
    }
}

/// Without --embed the same is refused, and with a pattern that misses something too.
fn what_is_not_in_it(scene: &Scene) -> Outcome {
    let placed = Placed::start(scene)?;
    placed.save_and_kill(&["--embed=*.so"])?;
    let shown = scene
        .cryo(["show", "--embedded"])
        .arguments([&placed.image])
        .run()?
        .success()?;
    if !shown.stdout.contains("libpart.so") || shown.stdout.contains("place/note\n") {
        return failed(format!("show says {:?}", shown.stdout));
    }
    fs::remove_file(placed.file("libpart.so"))?;
    fs::remove_file(placed.file("note"))?;
    scene
        .cryo(["restart", "--detach"])
        .arguments([&placed.image])
        .run()?
        .refusal_with(&[REFUSED], &["note"])?;
    Ok(())
}

/// A job that was restarted so is saved again, without a word about its files, as often as wanted.
fn generations(scene: &Scene) -> Outcome {
    let placed = Placed::start(scene)?;
    placed.save_all()?;
    fs::remove_dir_all(&placed.place)?;
    let mut life = restart(scene, &placed.image, "life")?;
    for number in 1..=2 {
        life = generation(scene, &life.running, &life.pid.to_string(), number)?;
    }
    finish(scene, &placed.job, &life.running)?;
    placed.expect_traces(&[])
}

/// `cryo restart` dies while it lays the files out, or at any other time: nothing is left, and the image is as good as before.
fn killed_meanwhile(scene: &Scene) -> Outcome {
    let placed = Placed::start(scene)?;
    placed.save_all()?;
    fs::remove_dir_all(&placed.place)?;
    let mut random = Random::new();
    for round in 0..6 {
        let killed = scene
            .cryo(["restart", "--detach"])
            .arguments([&placed.image])
            .start(&format!("killed.{round}"))?;
        std::thread::sleep(random.between(Duration::ZERO, Duration::from_millis(60)));
        killed.signal(Signal::KILL);
        scene.wait(&killed)?;
        // Past its commit point the job runs: it is ended then.
        scene.wait_for("everything to end", LIMIT, || {
            let left = cryonaut_suite::processes::end_descendants();
            left.is_empty().then_some(())
        })?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        if placed.place.exists() || mounts.contains("cryonaut-embedded") {
            return failed("something was left behind");
        }
    }
    let life = restart(scene, &placed.image, "life")?;
    finish(scene, &placed.job, &life.running)?;
    placed.expect_traces(&[])
}

/// What is too much is refused before anything is stopped, with the largest files; patterns make it less.
fn limits(scene: &Scene) -> Outcome {
    let placed = Placed::start(scene)?;
    let pid = placed.job.pid().to_string();
    scene
        .cryo([
            "checkpoint",
            &pid,
            "--self-contained",
            "--embed-limit",
            "100K",
            "-o",
        ])
        .arguments([&placed.image])
        .run()?
        .refusal_with(&[REFUSED], &["limit"])?;
    if placed.image.exists() {
        return failed("there is an image");
    }
    scene
        .cryo([
            "checkpoint",
            &pid,
            "--self-contained",
            "--exclude",
            "/usr",
            "--exclude",
            "/lib*",
            "--embed-limit",
            "100K",
            "-o",
        ])
        .arguments([&placed.image])
        .run()?
        .success()?;
    scene
        .cryo(["checkpoint", &pid, "--embed", "--embed-limit", "much", "-o"])
        .arguments([&placed.image])
        .run()?
        .refusal_with(&[2], &["size"])?;
    finish(scene, &placed.job, &placed.job)
}

/// A library that an upgrade replaced while it is mapped: root has its old content, for others that is a refusal.
fn replaced_before(scene: &Scene) -> Outcome {
    let placed = Placed::start(scene)?;
    fs::remove_file(placed.file("libpart.so"))?;
    scene.write(&placed.file("libpart.so"), "another")?;
    let pid = placed.job.pid().to_string();
    let call = scene
        .cryo(["checkpoint", &pid, "--embed", "-o"])
        .arguments([&placed.image]);
    match scene.user() {
        User::Root => drop(call.run()?.success()?),
        User::Ordinary => {
            call.run()?.refusal_with(&[REFUSED], &["libpart.so"])?;
        }
    }
    // The job has lost nothing.
    fs::remove_file(placed.file("libpart.so"))?;
    library(scene, &placed.file("libpart.so"), 42)?;
    finish(scene, &placed.job, &placed.job)
}

/// Files come out of the image as they were, and what is in the way is named.
fn extraction(scene: &Scene) -> Outcome {
    let placed = Placed::start(scene)?;
    placed.save_all()?;
    let target = scene.work("target");
    let place = placed.place.to_string_lossy().into_owned();
    let extract = |more: &[&str]| {
        scene
            .cryo(["extract"])
            .arguments([&placed.image, &target])
            .arguments(more)
            .run()
    };
    extract(&[&place])?.success()?;
    let below = target.join(placed.place.strip_prefix("/").unwrap_or(&placed.place));
    for name in ["data", "note", "program", "libpart.so", "liblater.so"] {
        let (then, now) = (placed.file(name), below.join(name));
        let (before, after) = (fs::metadata(&then)?, fs::metadata(&now)?);
        let same = fs::read(&then)? == fs::read(&now)?
            && before.mode() == after.mode()
            && before.mtime_nsec() == after.mtime_nsec()
            && before.uid() == after.uid();
        if !same {
            return failed(format!("{name} has changed on its way"));
        }
    }
    if fs::read_link(below.join("alias"))? != Path::new("data") {
        return failed("the link leads elsewhere");
    }
    // The directories on the way are not left closed.
    for (then, now) in placed.place.ancestors().zip(below.ancestors()) {
        if now == target {
            break;
        }
        let (before, after) = (fs::metadata(then)?.mode(), fs::metadata(now)?.mode());
        let new = 0o40777 & !0o022;
        if after != before & !0o6000 && after != new {
            return failed(format!(
                "{} has mode {after:o}, and had {before:o}",
                now.display()
            ));
        }
    }
    // Once more: all is there. With another content: refused, and nothing replaced.
    extract(&[&place])?.success()?;
    scene.write(&below.join("note"), "mine")?;
    extract(&[&place])?.refusal_with(&[REFUSED], &["note"])?;
    if fs::read_to_string(below.join("note"))? != "mine" {
        return failed("a file was replaced");
    }
    extract(&["/nowhere/*"])?.success()?;
    Ok(())
}

/// A disk that is too small for all: what did not fit is not there, and it is said.
fn full_disk(scene: &Scene) -> Outcome {
    let placed = Placed::start(scene)?;
    fs::write(placed.file("large"), vec![7; 3 << 20])?;
    placed.save_all()?;
    let small = scene.make_directory("small")?;
    let options = format!("size=1M,mode=0700,uid={0},gid={0}", scene.user_id());
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
        .arg(&small)
        .output()?;
    if !mount.status.success() {
        return skip("cannot mount a small file system");
    }
    let pattern = placed.file("large").to_string_lossy().into_owned();
    let result = scene
        .cryo(["extract"])
        .arguments([&placed.image, &small])
        .arguments([&pattern])
        .run();
    let left = small
        .join(placed.file("large").strip_prefix("/").unwrap_or(&small))
        .exists();
    let _ = Command::new("umount").arg("-l").arg(&small).status();
    result?.refusal_with(&[4], &["no space"])?;
    match left {
        false => Ok(()),
        true => failed("half a file was left"),
    }
}

/// Images that want to write elsewhere: each is refused, and nothing is made outside of the directory.
fn hostile_paths(scene: &Scene) -> Outcome {
    let victim = scene.make_directory("victim")?;
    let escape = victim.join("escaped");
    let inside = escape.to_string_lossy().trim_start_matches('/').to_owned();
    let file = |path: &str, mode: u32, target: &str| EmbeddedFile {
        identity: Some(FileIdentity {
            path: path.into(),
            mode,
            ..FileIdentity::default()
        }),
        target: target.into(),
        ..EmbeddedFile::default()
    };
    let regular = |path: &str| file(path, libc_mode::FILE, "");
    let up = "/..".repeat(20);
    let elsewhere = victim.to_string_lossy();
    let images: [(&str, &str, Vec<EmbeddedFile>); 7] = [
        ("up", "damaged", vec![regular(&format!("{up}/{inside}"))]),
        (
            "inner",
            "damaged",
            vec![regular(&format!("/a{up}/{inside}"))],
        ),
        ("relative", "damaged", vec![regular("escaped")]),
        (
            "link",
            "not a directory",
            vec![
                file("/a", libc_mode::LINK, &elsewhere),
                regular("/a/escaped"),
            ],
        ),
        (
            "order",
            "not a directory",
            vec![
                regular("/a/escaped"),
                file("/a", libc_mode::LINK, &elsewhere),
            ],
        ),
        ("device", "damaged", vec![file("/a", 0o060_600, "")]),
        (
            "space",
            "damaged",
            vec![EmbeddedFile {
                content: FIRST_EMBEDDED - 1,
                stored: 1,
                ..regular("/a")
            }],
        ),
    ];
    for (name, reason, files) in images {
        let image = scene.file(format!("hostile.{name}"));
        write_image(&image, &files)?;
        let target = scene.work(format!("target.{name}"));
        scene
            .cryo(["extract"])
            .arguments([&image, &target])
            .run()?
            .refusal(&[reason])?;
    }
    // A link that is there already is not followed either.
    let image = scene.file("hostile.found");
    write_image(&image, &[regular("/a/escaped")])?;
    let target = scene.make_directory("work/found")?;
    symlink(&victim, target.join("a"))?;
    scene
        .cryo(["extract"])
        .arguments([&image, &target])
        .run()?
        .refusal(&["symbolic link"])?;
    match fs::read_dir(&victim)?.next() {
        None => Ok(()),
        Some(made) => failed(format!("made outside: {made:?}")),
    }
}

/// File types as stat(2) tells them, with permissions.
mod libc_mode {
    pub const FILE: u32 = 0o100_644;
    pub const LINK: u32 = 0o120_777;
}

fn write_image(path: &Path, files: &[EmbeddedFile]) -> Outcome {
    let wrong = |error: cryonaut_image::ImageError| cryonaut_suite::Stop::Failed(error.to_string());
    let mut records = RecordSet::new();
    for file in files {
        records.push(file).map_err(wrong)?;
    }
    let preamble = Preamble::new("a test").map_err(wrong)?;
    let mut writer = ImageWriter::begin(fs::File::create(path)?, &preamble).map_err(wrong)?;
    writer.records(&records).map_err(wrong)?;
    writer.finish().map_err(wrong)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
    Ok(())
}

/// A program that talks over pipes, saved and killed; what it says up to then is awaited.
fn save_talker(scene: &Scene, program: &Program, options: &[&str]) -> Outcome<PathBuf> {
    let mut command = scene.session_command(&program.path);
    command.args(&program.arguments);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut output = child
        .stdout
        .take()
        .ok_or(cryonaut_suite::Stop::Failed("no pipe".into()))?;
    let mut said = [0; 6];
    std::io::Read::read_exact(&mut output, &mut said)?;
    if said != *b"READY\n" {
        return failed(format!("it says {said:?}"));
    }
    let image = scene.file("image");
    scene
        .cryo([
            "checkpoint",
            &child.id().to_string(),
            "--kill",
            "--self-contained",
            "-o",
        ])
        .arguments([&image])
        .arguments(options)
        .run()?
        .success()?;
    child.wait()?;
    Ok(image)
}

fn expect_said(output: &Output, expected: &str) -> Outcome {
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.success() && said == expected {
        true => Ok(()),
        false => failed(format!(
            "{}, it says {said:?}",
            describe_status(output.status)
        )),
    }
}

/// bash goes on where there is no bash, and can be executed there again by its name; the machine's own programs are there too.
fn shell_elsewhere(scene: &Scene) -> Outcome {
    let machine = Machine::new(scene)?;
    let script = scene.work("script.sh");
    scene.write(
        &script,
        "f() { echo \"function $1\"; }\nv=kept\necho READY\nread -r line\nf \"$line\"\necho $v\n\
         [[ -e /bin/busybox && ! -e /usr/bin/find ]] && echo elsewhere\n\
         busybox echo 'a program of its own'\necho mine > /tmp/mine\nexec bash -c 'read -r line; echo \"again $line\"'\n",
    )?;
    let image = save_talker(scene, &Program::installed("bash")?.argument(&script), &[])?;
    machine.bring(&image, "image")?;
    let output = machine.run("exec cryo restart /image", "one\ntwo\n")?;
    expect_said(
        &output,
        "function one\nkept\nelsewhere\na program of its own\nagain two\n",
    )?;
    // What it made in a directory that was there is there; nothing else has come.
    let mut found: Vec<String> = fs::read_dir(machine.tree())?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    found.retain(|name| name != "run");
    if found
        != [
            "bin", "dev", "etc", "home", "image", "old", "opt", "proc", "tmp",
        ]
    {
        return failed(format!("the tree has {found:?}"));
    }
    Ok(())
}

/// Python goes on where there is no Python, imports from its standard library and a module of its own that was included, is saved
/// there again, and executes itself.
fn python_elsewhere(scene: &Scene) -> Outcome {
    let python = Path::new("/usr/bin/python3");
    if !python.exists() {
        return skip("no /usr/bin/python3");
    }
    let machine = Machine::new(scene)?;
    let modules = scene.make_directory("work/modules")?;
    scene.write(&modules.join("later.py"), "def say(): return 'later'\n")?;
    let script = scene.work("main.py");
    scene.write(
        &script,
        "import sys, os\nsys.path.insert(0, 'modules')\nprint('READY', flush=True)\nline = sys.stdin.readline().strip()\n\
         print('first', line, flush=True)\nline = sys.stdin.readline().strip()\nimport later, json, colorsys\n\
         print(later.say(), json.dumps([line]), colorsys.__name__, flush=True)\n\
         os.execv(sys.executable, [sys.executable, '-c', 'print(\"again\")'])\n",
    )?;
    let program = Program::at(python).argument("main.py");
    let include = modules.to_string_lossy().into_owned();
    let image = save_talker(scene, &program, &["--include", &include])?;
    machine.bring(&image, "image")?;
    // Named pipes, by which the second life is reached as the first one was. The job runs, and speaks, a moment before it is in
    // the list; and a job that is left behind would hold the pipes of this test.
    let script = "cd /tmp; busybox mkfifo in out; exec 3<> in 4<> out
        cryo restart --name talk /image < in > out & echo one >&3
        read -r line <&4; echo \"$line\"
        until cryo list | busybox grep -q talk; do busybox sleep 0.1; kill -0 $! || exit 1; done
        cryo checkpoint talk --kill -o again >&2 || { kill $!; exit 1; }
        wait; cryo restart again & echo two >&3
        read -r line <&4; echo \"$line\"; read -r line <&4; echo \"$line\"; wait $!";
    let output = machine.run(script, "")?;
    expect_said(&output, "first one\nlater [\"two\"] colorsys\nagain\n")
}

/// The other machine has libraries of the same names that are no libraries, and a real directory where this one has a link.
fn other_versions(scene: &Scene) -> Outcome {
    let machine = Machine::new(scene)?;
    let script = scene.work("script.sh");
    scene.write(
        &script,
        "echo READY\nread -r line\nexec bash -c \"echo again $line\"\n",
    )?;
    let image = save_talker(scene, &Program::installed("bash")?.argument(&script), &[])?;
    machine.bring(&image, "image")?;
    for directory in [
        "lib64",
        "lib/x86_64-linux-gnu",
        "usr/lib/x86_64-linux-gnu",
        "usr/lib64",
        "usr/bin",
    ] {
        fs::create_dir_all(machine.tree().join(directory))?;
        for name in ["libc.so.6", "ld-linux-x86-64.so.2", "libtinfo.so.6", "bash"] {
            fs::write(machine.tree().join(directory).join(name), "another version")?;
        }
    }
    expect_said(
        &machine.run("exec cryo restart /image", "word\n")?,
        "again word\n",
    )?;
    let kept = fs::read_to_string(machine.tree().join("usr/lib/x86_64-linux-gnu/libc.so.6"))?;
    match kept == "another version" {
        true => Ok(()),
        false => failed("the machine's own library has changed"),
    }
}

/// A job in memory-only files is saved while it runs on, without hurt.
fn saved_and_left(scene: &Scene) -> Outcome {
    let placed = Placed::start(scene)?;
    placed.save_all()?;
    fs::remove_dir_all(&placed.place)?;
    let life = restart(scene, &placed.image, "life")?;
    for round in 0..2 {
        let image = scene.file(format!("again.{round}"));
        checkpoint(scene, &life.pid.to_string(), &image, "--leave-running")?;
    }
    finish(scene, &placed.job, &life.running)?;
    placed.expect_traces(&[])
}

for_each_user!(
    all_gone,
    all_replaced,
    nothing_changed,
    what_is_not_in_it,
    generations,
    killed_meanwhile,
    limits,
    replaced_before,
    extraction,
    full_disk,
    hostile_paths,
    shell_elsewhere,
    python_elsewhere,
    other_versions,
    saved_and_left,
);
