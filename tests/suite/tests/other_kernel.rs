//! Jobs on another machine: one that a processor is emulated for, where Debian's own kernel runs. Images made here are
//! restarted there, saved there, and restarted after that machine has been started anew; victims live and come back there.

#[path = "other_kernel/archive.rs"]
mod archive;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use archive::Archive;
use cryonaut_suite::victim::{await_ready, checkpoint};
use cryonaut_suite::{Outcome, Program, Running, Scene, User, failed, skip, test};

/// How long that machine may take from its start to its end. It is slow, and this one may be busy.
const LIMIT: Duration = Duration::from_secs(420);
/// Room for what outlives its end.
const DISK: u64 = 64 << 20;

/// Its swap space.
const SWAP: u64 = 64 << 20;

/// Victims that live there alone, as root: kinds of kernel objects of which kernels differ in what they show.
const VICTIMS: [&str; 6] = [
    "epoll",
    "mem_fork_cow",
    "pipe_data",
    "threads",
    "timer_fd",
    "timer_posix",
];
/// The same, as an ordinary user.
const THEIRS: [&str; 2] = ["file_offsets", "unix_pair"];
/// Victims that are suspended there.
const OTHERS: [&str; 1] = ["stays"];

/// The kernel with its modules, and QEMU.
struct Parts {
    kernel: PathBuf,
    modules: PathBuf,
    emulator: Program,
    shell: Program,
    user: Program,
}

impl Parts {
    fn find() -> Outcome<Self> {
        let emulator = Program::installed("qemu-system-x86_64")?;
        let shell = Program::installed("busybox")?;
        let user = Program::installed("setpriv")?;
        let test = std::env::current_exe()?;
        let directory = test
            .ancestors()
            .map(|above| above.join("other-kernel"))
            .find(|found| found.join("vmlinuz").exists());
        match directory {
            Some(directory) => Ok(Self {
                kernel: directory.join("vmlinuz"),
                modules: directory.join("modules"),
                emulator,
                shell,
                user,
            }),
            None => skip("there is no other kernel; run cargo xtask setup"),
        }
    }
}

/// Starts a victim as a job of the cautious kind, saves it, and ends it.
fn image(scene: &Scene, victim: &str, name: &str, isa: &str) -> Outcome<PathBuf> {
    let program = Program::victim(victim, &[])?;
    let job: Running = scene
        .cryo(["run", "--isa", isa, "--name", name, "--"])
        .arguments([&program.path])
        .variable("VICTIM_GO", scene.file(format!("{name}.go")))
        .start(name)?;
    await_ready(scene, &job)?;
    // Archives know whole seconds.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let second = Duration::from_secs(now.map_or(0, |now| now.as_secs()));
    for kind in ["out", "err"] {
        let file = File::options()
            .write(true)
            .open(scene.file(format!("{name}.{kind}")))?;
        file.set_modified(SystemTime::UNIX_EPOCH + second)?;
    }
    let image = scene.file(format!("{name}.cryo"));
    checkpoint(scene, name, &image, "--kill")?;
    scene.wait(&job)?;
    Ok(program.path)
}

/// Adds the libraries that a program is linked with.
fn add_libraries(machine: &mut Archive, path: &Path) -> Outcome {
    let output = Command::new("ldd")
        .arg(path)
        .stdin(Stdio::null())
        .output()?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(library) = line.split_whitespace().find(|word| word.starts_with('/')) {
            machine.add(Path::new(library))?;
        }
    }
    Ok(())
}

/// Adds what the machine has of its own, but for its first program.
fn furnish(machine: &mut Archive, scene: &Scene, parts: &Parts) -> Outcome {
    for directory in [
        "/dev", "/etc", "/modules", "/others", "/own", "/real", "/proc", "/sys", "/theirs",
        "/victims",
    ] {
        machine.directory(directory);
    }
    machine.executable("/own/busybox", &fs::read(&parts.shell.path)?);
    let small = scene.file("cryo-for-there");
    let stripped = Command::new("strip")
        .arg("-o")
        .args([&small, scene.cryo_path()])
        .status();
    if !stripped.is_ok_and(|status| status.success()) {
        fs::copy(scene.cryo_path(), &small)?;
    }
    machine.executable("/own/cryo", &fs::read(&small)?);
    fs::remove_file(&small)?;
    machine.executable("/real/setpriv", &fs::read(&parts.user.path)?);
    add_libraries(machine, &parts.user.path)?;
    add_libraries(machine, scene.cryo_path())?;
    machine.add(&std::env::temp_dir())?;
    machine.add(Path::new("/tmp"))?;
    for entry in fs::read_dir(&parts.modules)? {
        let entry = entry?;
        let name = format!("/modules/{}", entry.file_name().to_string_lossy());
        machine.executable(&name, &fs::read(entry.path())?);
    }
    for (directory, names) in [
        ("/victims", &VICTIMS[..]),
        ("/theirs", &THEIRS),
        ("/others", &OTHERS),
    ] {
        for name in names {
            let path = Program::victim(name, &[])?.path;
            add_libraries(machine, &path)?;
            machine.executable(&format!("{directory}/{name}"), &fs::read(path)?);
        }
    }
    Ok(())
}

/// A feature of this machine's processor that the emulated one does not have, if there is one.
fn lacking_feature() -> Outcome<&'static str> {
    let processor = fs::read_to_string("/proc/cpuinfo")?;
    let has = |name: &str| processor.split_whitespace().any(|word| word == name);
    Ok(if has("avx512f") { "avx512f" } else { "" })
}

/// Starts the machine, waits for its end, and gives what it said.
fn start(scene: &Scene, parts: &Parts, label: &str, files: &[&Path; 3]) -> Outcome<String> {
    let [archive, disk, swap] = files;
    let emulator = Program::at(Program::installed("nice")?.path)
        .arguments(["-n", "10"])
        .argument(&parts.emulator.path)
        .arguments([
            "-accel", "tcg", "-cpu", "max", "-m", "1024", "-display", "none",
        ])
        .arguments(["-nodefaults", "-no-reboot", "-serial", "stdio"])
        .argument("-kernel")
        .argument(&parts.kernel)
        .argument("-initrd")
        .argument(archive)
        .arguments(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"])
        .argument("-drive")
        .argument(format!("file={},format=raw,if=virtio", disk.display()))
        .argument("-drive")
        .argument(format!("file={},format=raw,if=virtio", swap.display()));
    let machine = scene.start(label, &emulator)?;
    let ended = scene.wait_within(&machine, LIMIT);
    let said = machine.output();
    ended?;
    if said.contains("@ end") {
        Ok(said)
    } else {
        failed(format!("the other machine stopped early:\n{said}"))
    }
}

/// Expects these checks, and no failure.
fn judge(said: &str, expected: &[&str]) -> Outcome {
    let lines: Vec<&str> = said.lines().map(str::trim_end).collect();
    let told = |what: &str, name: &str| {
        let (exact, beginning) = (format!("@ {what} {name}"), format!("@ {what} {name}:"));
        lines
            .iter()
            .any(|line| *line == exact || line.starts_with(&beginning))
    };
    if lines.iter().any(|line| line.starts_with("@ failed")) {
        return failed(said);
    }
    for name in expected {
        if !told("passed", name) && !told("skipped", name) {
            return failed(format!("nothing was said of {name}:\n{said}"));
        }
    }
    for line in lines.iter().filter(|line| line.starts_with("@ skipped")) {
        println!("on the other machine: {line}");
    }
    Ok(())
}

/// What an ordinary user takes along.
struct Luggage {
    files: Archive,
    directory: PathBuf,
    user: u32,
}

impl Luggage {
    /// Packs the directory of a scene with the image of one job.
    fn pack(scene: &Scene) -> Outcome<Self> {
        let mut files = Archive::default();
        let program = image(scene, "mem_vdso", "vdso_of_user", "x86-64-v2")?;
        files.add(&program)?;
        add_libraries(&mut files, &program)?;
        files.add_all(&scene.file(""))?;
        Ok(Self {
            files,
            directory: scene.file(""),
            user: scene.user_id(),
        })
    }
}

fn jobs_go_on(scene: &Scene, luggage: Luggage) -> Outcome {
    let parts = Parts::find()?;
    let mut machine = luggage.files;
    furnish(&mut machine, scene, &parts)?;
    for (victim, name, isa) in [
        ("mem_vdso", "mem_vdso", "x86-64-v2"),
        ("clock_goes_on", "clock_goes_on", "baseline"),
        ("eventfd", "host", "host"),
    ] {
        machine.add(&image(scene, victim, name, isa)?)?;
    }
    machine.add_all(&scene.file(""))?;
    let first = include_str!("other_kernel/init.sh")
        .replace("USERS", &luggage.directory.display().to_string())
        .replace("USER", &luggage.user.to_string())
        .replace("DIRECTORY", &scene.file("").display().to_string())
        .replace("FEATURE", lacking_feature()?);
    machine.executable("/init", first.as_bytes());
    let (archive, disk) = (scene.file("machine.cpio"), scene.file("disk"));
    fs::write(&archive, machine.finish())?;
    File::create(&disk)?.set_len(DISK)?;
    let swap = scene.file("swap");
    File::create(&swap)?.set_len(SWAP)?;
    let files = [archive.as_path(), disk.as_path(), swap.as_path()];
    let said = start(scene, &parts, "first-start", &files)?;
    let mut expected = vec![
        "doctor",
        "features",
        "mem_vdso",
        "vdso_of_user",
        "saved",
        "suspended",
        "moved",
    ];
    expected.extend(VICTIMS.iter().chain(&THEIRS));
    judge(&said, &expected)?;
    let said = start(scene, &parts, "second-start", &files)?;
    judge(&said, &["clock_goes_on"])
}

#[test]
fn jobs_go_on_under_another_kernel() {
    let mut luggage = None;
    test("other_kernel_luggage", User::Ordinary, |scene| {
        Parts::find()?;
        luggage = Some(Luggage::pack(scene)?);
        Ok(())
    });
    if let Some(luggage) = luggage {
        test("other_kernel", User::Root, |scene| {
            jobs_go_on(scene, luggage)
        });
    }
}
