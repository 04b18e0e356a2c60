//! A login shell goes to another machine: by a pipe, as a mail, and by `cryo migrate`.
//!
//! The other machine has a root directory, processes, a name, a network, terminals and users of its own, on the same kernel. The
//! shell's pids are in use there.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cryonaut_suite::machine::Machine;
use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::{Outcome, Program, Running, Scene, Screen, failed, for_each_user, processes};

/// What sets the machine up, as root, with the tree, the user, and the pids that are to be taken; it ends with the machine.
const BOOT: &str = r#"
set -e
tree=$1; user=$2; shift 2
mount --bind "$tree" "$tree"
cd "$tree"
mount -t proc proc proc
mount -t tmpfs dev dev
for node in null zero full random urandom tty; do touch dev/$node; mount --bind /dev/$node dev/$node; done
mkdir dev/pts dev/shm
chmod 1777 dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
pivot_root . old
cd /
/bin/busybox umount -l /old
/bin/busybox hostname elsewhere
for pid; do
    echo $((pid - 1)) > /proc/sys/kernel/ns_last_pid
    /bin/busybox sleep 100000 &
    [ $! = $pid ]
done
echo up
exec /bin/busybox sleep 100000
"#;

/// The other machine, running.
struct Elsewhere<'scene> {
    machine: Machine<'scene>,
    scene: &'scene Scene,
    /// Its first process, as it is seen from here.
    first: i32,
    _boot: Running,
}

impl<'scene> Elsewhere<'scene> {
    /// Starts it; nobody but its own users is known there, and these pids are taken.
    fn start(scene: &'scene Scene, taken: &[i32]) -> Outcome<Self> {
        let machine = Machine::new(scene)?;
        for program in ["nsenter", "setpriv"] {
            Program::installed(program)?;
        }
        let own = scene.user_id();
        install(&machine, scene.cryo_path())?;
        let users = "root:x:0:0::/:/bin/sh\nstranger:x:4242:4242::/home/stranger:/bin/sh\n";
        fs::write(machine.tree().join("etc/passwd"), users)?;
        let run = machine.tree().join("run/own");
        fs::create_dir(&run)?;
        fs::set_permissions(&run, fs::Permissions::from_mode(0o700))?;
        chown(&run, Some(own), Some(own))?;
        let mut boot = scene.session_command(&Program::installed("unshare")?.path);
        boot.args(["--mount", "--propagation", "private", "--pid", "--fork"])
            .args([
                "--kill-child=KILL",
                "--uts",
                "--net",
                "sh",
                "-c",
                BOOT,
                "sh",
            ])
            .arg(machine.tree())
            .arg(own.to_string())
            .args(taken.iter().map(ToString::to_string))
            .uid(0)
            .gid(0);
        let boot = scene.spawn("elsewhere", boot)?;
        let up = scene.wait_for("the other machine", LIMIT, || {
            let ended = boot.ended().is_some();
            (ended || boot.output().contains("up")).then_some(!ended)
        })?;
        if !up {
            return failed("the other machine did not start");
        }
        let is_first = |pid: &i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let numbers = status.lines().find(|line| line.starts_with("NSpid:"));
            numbers.is_some_and(|line| line.ends_with("\t1"))
        };
        let all = processes::descendants(boot.pid());
        match all.into_iter().find(is_first) {
            Some(first) => Ok(Self {
                machine,
                scene,
                first,
                _boot: boot,
            }),
            None => failed("the other machine has no first process"),
        }
    }

    /// What runs a script there as the scene's user, as sh reads it; root's to call.
    fn enter(&self, script: &str) -> String {
        let (first, own) = (self.first, self.scene.user_id());
        format!(
            "nsenter --target {first} --mount --pid --uts --net /opt/cryo/ld.so --library-path /opt/cryo/lib /opt/cryo/setpriv \
             --reuid {own} --regid {own} --clear-groups /bin/busybox env -i PATH=/usr/bin:/bin HOME=/ TMPDIR=/tmp TERM=xterm \
             XDG_RUNTIME_DIR=/run/own XDG_STATE_HOME=/run/own LANG=C.UTF-8 /bin/busybox sh -c '{script}'"
        )
    }

    /// A terminal on which root's shell runs this here.
    fn screen(&self, script: &str) -> Outcome<Screen<'scene>> {
        let shell = self.scene.terminal_command(Path::new("/bin/sh"));
        Screen::start_command(self.scene, as_root(shell, script))
    }
}

/// Has a shell run this as root.
fn as_root(mut command: Command, script: &str) -> Command {
    command.args(["-c", script]).uid(0).gid(0);
    command
}

/// Puts `cryo` there under its own name, with its libraries where it looks for them: it starts processes of itself.
fn install(machine: &Machine<'_>, cryo: &Path) -> Outcome {
    let wrapper = machine.tree().join("bin/cryo");
    fs::remove_file(&wrapper)?;
    fs::copy(cryo, &wrapper)?;
    let listed = Command::new("ldd").arg(cryo).output()?;
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let path = line.split_whitespace().find(|word| word.starts_with('/'));
        if let Some(path) = path.map(Path::new) {
            let place = machine.tree().join(path.strip_prefix("/").unwrap_or(path));
            fs::create_dir_all(place.parent().unwrap_or(&place))?;
            fs::copy(path, place)?;
        }
    }
    Ok(())
}

/// A login shell on a terminal here, with something of everything in it.
fn shell(scene: &Scene) -> Outcome<Screen<'_>> {
    let bash = Program::installed("bash")?.path;
    let screen = Screen::start_program(scene, &bash, ["--login"])?;
    scene.wait_for("a prompt", LIMIT, || {
        (!screen.shown().trim().is_empty()).then_some(())
    })?;
    for (line, answer) in [
        ("PS1='rea''dy> '", "ready> "),
        (
            "kept=remembered; f() { echo \"function <$1>\"; }",
            "ready> ",
        ),
        ("sleep 1000 &", "ready> "),
        ("cat", "cat\r\n"),
    ] {
        screen.clear();
        screen.type_keys(&format!("{line}\r"))?;
        screen.expect(answer)?;
    }
    // Before it starts a program a shell gives the terminal its settings back.
    scene.wait_for("cat", LIMIT, || {
        let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm"));
        let mut all = processes::descendants(screen.pid()).into_iter();
        all.any(|pid| name(&pid).is_ok_and(|name| name == "cat\n"))
            .then_some(())
    })?;
    screen.type_keys("here\r")?;
    screen.expect("here\r\nhere\r\n")?;
    screen.clear();
    screen.type_keys("\x1a")?;
    screen.expect("Stopped")?;
    screen.expect("ready> ")?;
    Ok(screen)
}

/// The pids of a shell and of its jobs.
fn pids(shell: &Screen<'_>) -> Vec<i32> {
    let mut pids = processes::descendants(shell.pid());
    pids.push(shell.pid());
    pids
}

/// Works with the shell there, and leaves it with status 7.
fn work_there(scene: &Scene, screen: &mut Screen<'_>, pid: i32) -> Outcome {
    scene.wait_for("the shell's prompt there", LIMIT, || {
        let _ = screen.type_keys("\r");
        std::thread::sleep(Duration::from_millis(200));
        screen.shown().contains("ready> ").then_some(())
    })?;
    let pid = format!("pid {pid}.");
    for (keys, answer) in [
        (
            "echo \"<$kept>\"; f two\r",
            "<remembered>\r\nfunction <two>",
        ),
        ("echo pid $BASHPID.\r", pid.as_str()),
        ("history\r", "kept=remembered; f()"),
        ("jobs\r", "Running"),
        ("jobs\r", "Stopped"),
        // What is there, and not here.
        (
            "echo ho''st $(< /proc/sys/kernel/hostname)\r",
            "host elsewhere",
        ),
        ("echo ~stranger\r", "/home/stranger\r\n"),
        ("echo $(busybox echo one of its ow''n)\r", "one of its own"),
        ("fg %2\r", "cat\r\n"),
        ("there\r", "there\r\nthere\r\n"),
        ("\x03", "ready> "),
        ("kill %1; wait; jobs; echo none le''ft\r", "none left"),
    ] {
        screen.clear();
        screen.type_keys(keys)?;
        screen.expect(answer)?;
    }
    screen.type_keys("exit 7\r")?;
    screen.wait_for_status(7)
}

/// Through a pipe, as through ssh: a copy goes, the original runs on.
fn piped(scene: &Scene) -> Outcome {
    let mut shell = shell(scene)?;
    let there = Elsewhere::start(scene, &pids(&shell))?;
    let (own, cryo, pid) = (scene.user_id(), scene.cryo_path().display(), shell.pid());
    let mut screen = there.screen(&format!(
        "setpriv --reuid {own} --regid {own} --clear-groups {cryo} checkpoint --session {pid} --self-contained --compress -o - | {}",
        there.enter("exec cryo restart -")
    ))?;
    work_there(scene, &mut screen, pid)?;
    shell.clear();
    shell.type_keys("jobs; echo he''re\r")?;
    shell.expect("here")?;
    shell.type_keys("kill -9 %2 %1; wait; exit 3\r")?;
    shell.wait_for_status(3)
}

/// As text in a file.
fn mailed(scene: &Scene) -> Outcome {
    let shell = shell(scene)?;
    let pid = shell.pid();
    let there = Elsewhere::start(scene, &pids(&shell))?;
    let mail: PathBuf = scene.file("mail");
    scene
        .cryo(["checkpoint", "--session", &pid.to_string()])
        .arguments(["--self-contained", "--armor", "--kill", "-o"])
        .arguments([&mail])
        .run()?
        .success()?;
    shell.vanish().wait()?;
    there.machine.bring(&mail, "mail")?;
    let mut screen = there.screen(&format!("exec {}", there.enter("exec cryo restart /mail")))?;
    work_there(scene, &mut screen, pid)
}

/// In one step; somebody there attaches to it.
fn moved(scene: &Scene) -> Outcome {
    let shell = shell(scene)?;
    let pid = shell.pid();
    let there = Elsewhere::start(scene, &pids(&shell))?;
    // The line between the two.
    let line = there.machine.tree().join("tmp");
    let receive = there.enter("cd /tmp; busybox mkfifo in out; exec cryo receive < in > out");
    let sh = scene.session_command(Path::new("/bin/sh"));
    let receiver = scene.spawn("receive", as_root(sh, &receive))?;
    let (into, out) = (line.join("in"), line.join("out"));
    scene.wait_for("the line", LIMIT, || {
        (into.exists() && out.exists()).then_some(())
    })?;
    let via = format!("cat {} & exec cat > {}", out.display(), into.display());
    scene
        .cryo(["migrate", "--session", &pid.to_string(), "--self-contained"])
        .arguments(["--name", "shell", "--via", &via])
        .run()?
        .success()?;
    shell.vanish().wait()?;
    scene.wait(&receiver)?;
    let mut screen = there.screen(&format!("exec {}", there.enter("exec cryo attach shell")))?;
    work_there(scene, &mut screen, pid)
}

for_each_user!(piped, mailed, moved);
