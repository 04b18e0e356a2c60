//! Namespaces that a job has made itself, by the commands that people use for it; and what becomes of mounts that its namespace
//! was born with.

use std::path::Path;

use cryonaut_suite::victim::{await_ready, checkpoint, finish, finish_ok, generation, restart};
use cryonaut_suite::{
    Mounted, Outcome, Program, Running, Scene, failed, for_each_user, leave_mount_namespace, skip,
};

/// The status of `cryo` for a refusal.
const REFUSED: i32 = 3;

/// unshare(1) with these options and this command, if it may do that here.
fn unshare(scene: &Scene, options: &[&str], command: &[&str]) -> Outcome<Program> {
    let unshare = Program::installed("unshare")?;
    let mut tried = scene.command(&unshare.path);
    let tried = tried.args(options).arg("true").output()?;
    if !tried.status.success() {
        let why = String::from_utf8_lossy(&tried.stderr);
        return skip(format!("unshare {options:?}: {}", why.trim()));
    }
    Ok(Program::at(unshare.path)
        .arguments(options)
        .arguments(command))
}

/// Starts a victim behind unshare(1), which becomes it.
fn start(
    scene: &Scene,
    options: &[&str],
    (source, arguments): (&str, &[&str]),
) -> Outcome<Running> {
    let victim = Program::victim(source, &[])?;
    let program = unshare(scene, options, &[])?
        .argument(&victim.path)
        .arguments(arguments);
    let job = scene.start("victim", &program)?;
    await_ready(scene, &job)?;
    Ok(job)
}

/// It comes back twice.
fn comes_back(scene: &Scene, options: &[&str], victim: (&str, &[&str])) -> Outcome {
    twice(scene, &start(scene, options, victim)?)
}

/// A job comes back twice, and then goes on to its end.
fn twice(scene: &Scene, job: &Running) -> Outcome {
    let image = scene.file("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    scene.wait(job)?;
    let life = restart(scene, &image, "restart")?;
    let life = generation(scene, &life.running, &life.pid.to_string(), 2)?;
    finish(scene, job, &life.running)
}

/// Everything at once, around a program with threads.
fn everything(scene: &Scene) -> Outcome {
    let options = [
        "--user",
        "--map-root-user",
        "--uts",
        "--net",
        "--ipc",
        "--cgroup",
    ];
    comes_back(scene, &options, ("threads", &["20"]))
}

/// Started by `cryo run`, which makes namespaces of its own around.
fn inside_of_ours(scene: &Scene) -> Outcome {
    let victim = Program::victim("threads", &[])?;
    let program = unshare(scene, &["-Urun"], &[])?
        .argument(&victim.path)
        .argument("20");
    let name = format!("own-{}-{:?}", std::process::id(), scene.user());
    let job = scene
        .cryo(["run", "--namespaces", "--name", &name, "--"])
        .program(&program)
        .start("victim")?;
    await_ready(scene, &job)?;
    let life = generation(scene, &job, &name, 1)?;
    finish(scene, &job, &life.running)
}

/// A checkpoint is refused with `word`, and the job lives on.
fn refused(scene: &Scene, job: &Running, word: &str) -> Outcome {
    let image = scene.file("image");
    scene
        .cryo(["checkpoint", &job.pid().to_string(), "-o"])
        .arguments([&image])
        .run()?
        .refusal_with(&[REFUSED], &[word])?;
    if image.exists() {
        return failed("a refused checkpoint left an image");
    }
    finish_ok(scene, job, job)
}

/// Something is in its IPC namespace.
fn something_in_ipc(scene: &Scene) -> Outcome {
    let victim = Program::victim("mem_private", &[])?;
    let ipcmk = Program::installed("ipcmk")?;
    let program = unshare(
        scene,
        &["--user", "--map-root-user", "--ipc"],
        &["sh", "-c"],
    )?
    .argument("\"$0\" -Q > /dev/null && exec \"$1\"")
    .argument(&ipcmk.path)
    .argument(&victim.path);
    let job = scene.start("victim", &program)?;
    await_ready(scene, &job)?;
    refused(scene, &job, "it has system v message queues")
}

/// Its loopback device has an address more.
fn an_address_more(scene: &Scene) -> Outcome {
    let program = Program::victim("own_network_namespace", &[])?.argument("address");
    let job = scene.start("victim", &program)?;
    await_ready(scene, &job)?;
    refused(scene, &job, "it has other addresses")
}

/// A victim in a mount namespace, in which the shell has done this before.
fn after_mounting(scene: &Scene, commands: &str) -> Outcome<Running> {
    let victim = Program::victim("mem_private", &[])?;
    let options = ["--user", "--map-root-user", "--mount"];
    let program = unshare(scene, &options, &["sh", "-c"])?
        .argument(format!("{commands} && exec \"$0\""))
        .argument(&victim.path);
    let job = scene.start("victim", &program)?;
    await_ready(scene, &job)?;
    Ok(job)
}

/// File systems in memory and a directory mounted elsewhere, by mount(8), and a working directory there.
fn own_mounts(scene: &Scene) -> Outcome {
    let commands = "mount -t tmpfs -o size=1m none /mnt && mkdir /mnt/deep && mount --bind /usr /mnt/deep && \
                    mount -o remount,bind,ro /mnt/deep && cd /mnt/deep/bin";
    twice(scene, &after_mounting(scene, commands)?)
}

/// A file system in memory that is mounted twice.
fn mounted_twice(scene: &Scene) -> Outcome {
    let commands = "mount -t tmpfs none /mnt && mount --bind /mnt /opt";
    let job = after_mounting(scene, commands)?;
    refused(scene, &job, "which it has several mounts of")
}

/// A file is open that outside is not found.
fn open_within(scene: &Scene) -> Outcome {
    let commands = "mount -t tmpfs none /mnt && exec 5> /mnt/file";
    let job = after_mounting(scene, commands)?;
    refused(scene, &job, "/mnt/file open or mapped")
}

/// A victim in a sandbox of bubblewrap, with these options, whose own process waits for it outside.
fn sandbox(scene: &Scene, options: &[&str]) -> Outcome {
    let sandbox = Program::installed("bwrap")?;
    let mut tried = scene.command(&sandbox.path);
    let tried = tried.args(options).arg("true").output()?;
    if !tried.status.success() {
        let why = String::from_utf8_lossy(&tried.stderr);
        return skip(format!("bwrap {options:?}: {}", why.trim()));
    }
    let victim = Program::victim("threads", &[])?;
    let program = sandbox
        .arguments(options)
        .argument(&victim.path)
        .argument("20");
    let job = scene.start("victim", &program)?;
    await_ready(scene, &job)?;
    twice(scene, &job)
}

/// A disk that is there for this test only, with a program on it.
fn disk(scene: &Scene, program: &Path) -> Outcome<[Mounted; 2]> {
    leave_mount_namespace()?;
    let place = scene.make_directory("disk")?;
    let outer = Mounted::new(&["-t", "tmpfs", "none"], &place)?;
    let inner = place.join("inner");
    std::fs::create_dir(&inner)?;
    let inner = Mounted::new(&["-t", "tmpfs", "none"], &inner)?;
    std::fs::copy(program, place.join("program"))?;
    Ok([inner, outer])
}

/// Starts a job in a mount namespace that is born with the disk, which is unplugged then.
fn start_and_unplug(scene: &Scene, script: &str, name: &str) -> Outcome<Running> {
    let victim = Program::victim("mem_private", &[])?;
    let disk = disk(scene, &victim.path)?;
    let job = scene
        .cryo(["run", "--namespaces", "--name", name, "--", "sh", "-c"])
        .arguments([script])
        .arguments([disk[1].place(), &victim.path])
        .start("victim")?;
    await_ready(scene, &job)?;
    drop(disk);
    Ok(job)
}

/// A disk that was unplugged since the job was started, and that the job does not use, is in nobody's way.
fn unplugged(scene: &Scene) -> Outcome {
    let name = format!("unplugged-{}-{:?}", std::process::id(), scene.user());
    let job = start_and_unplug(scene, "exec \"$1\"", &name)?;
    let life = generation(scene, &job, &name, 1)?;
    finish(scene, &job, &life.running)
}

/// Whoever has something of the disk is refused, with what it is.
fn unplugged_in_use(scene: &Scene, script: &str, what: &str) -> Outcome {
    let name = format!("in-use-{}-{:?}", std::process::id(), scene.user());
    let job = start_and_unplug(scene, script, &name)?;
    scene
        .cryo(["checkpoint", &name, "-o"])
        .arguments([scene.file("image")])
        .run()?
        .refusal_with(&[REFUSED], &["disk", what, "not mounted here any more"])?;
    finish_ok(scene, &job, &job)
}

/// What a job has mounted itself is never left out, used or not: it comes back.
fn own_mount_in_namespaces_of_run(scene: &Scene) -> Outcome {
    let victim = Program::victim("mem_private", &[])?;
    let name = format!("mounts-{}-{:?}", std::process::id(), scene.user());
    let job = scene
        .cryo(["run", "--namespaces", "--name", &name, "--", "sh", "-c"])
        .arguments([
            "mount -t tmpfs none /mnt || { echo SKIP: may not mount; exit 77; }; cd /mnt; exec \"$0\"",
        ])
        .arguments([&victim.path])
        .start("victim")?;
    await_ready(scene, &job)?;
    let life = generation(scene, &job, &name, 1)?;
    finish(scene, &job, &life.running)
}

/// A sandbox whose root is a file system in memory, in which a few directories of the machine are found.
fn sandbox_with_new_root(scene: &Scene) -> Outcome {
    let victim = Program::victim("threads", &[])?;
    let text = |path: Option<&Path>| path.map(|path| path.to_string_lossy().into_owned());
    let program = text(victim.path.parent()).unwrap_or_default();
    let work = text(scene.go_path().parent()).unwrap_or_default();
    let words = "--ro-bind /usr /usr --symlink usr/lib /lib --symlink usr/lib64 /lib64 --symlink usr/bin /bin --dev /dev --proc /proc";
    let mut options: Vec<&str> = words.split(' ').collect();
    for place in [&program, &work] {
        options.extend(["--bind", place, place]);
    }
    sandbox(scene, &options)
}

/// A pid namespace, with its init.
fn own_pids(scene: &Scene) -> Outcome {
    let options = [
        "--user",
        "--map-root-user",
        "--pid",
        "--fork",
        "--mount-proc",
    ];
    let job = start(scene, &options, ("mem_private", &[]))?;
    refused(scene, &job, "pid namespace")
}

for_each_user! {
    user_namespace => |scene| comes_back(scene, &["-Ur"], ("threads", &["20"]));
    uts_namespace => |scene| comes_back(scene, &["-Uru"], ("mem_private", &[]));
    network_namespace => |scene| comes_back(scene, &["-Urn"], ("pipe_data", &[]));
    mapped_to_itself => |scene| comes_back(scene, &["-c", "-u"], ("mem_private", &[]));
    unplugged_open => |scene| unplugged_in_use(scene, "exec 3< \"$0\"/program; exec \"$1\"", "descriptor 3");
    unplugged_directory => |scene| unplugged_in_use(scene, "here=$PWD; cd \"$0\"; exec \"$1\"", "working directory");
    unplugged_program => |scene| unplugged_in_use(scene, "exec \"$0\"/program", "program");
    sandbox_to_read => |scene| sandbox(scene, &["--ro-bind", "/", "/", "--tmpfs", "/mnt"]);
    sandbox_with_devices => |scene| sandbox(scene, &["--bind", "/", "/", "--dev", "/dev", "--unshare-uts", "--unshare-net"]);
    without_maps => |scene| comes_back(scene, &["-U"], ("mem_private", &[]));
}
for_each_user!(
    everything,
    inside_of_ours,
    something_in_ipc,
    an_address_more,
    own_mount_in_namespaces_of_run,
    unplugged,
    own_mounts,
    sandbox_with_new_root,
    mounted_twice,
    open_within,
    own_pids
);
