//! Jobs that travel over real ssh: an sshd of the test's own, with its own keys, at this machine's loopback.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::victim::await_ready;
use cryonaut_suite::{
    Outcome, Program, Running, Scene, Screen, failed, for_each_user, name, processes, skip,
};
use rustix::process::Signal;

/// Where sshd is, which is in nobody's PATH.
const SSHD: &str = "/usr/sbin/sshd";
/// The exit code that says that the job runs on here.
const UNDONE: i32 = 4;

/// A machine that is reached by ssh.
struct Host<'scene> {
    scene: &'scene Scene,
    place: PathBuf,
    port: u16,
    _sshd: Running,
}

impl<'scene> Host<'scene> {
    /// Starts its sshd; skips the test where that is not installed, or cannot log the user in.
    fn start(scene: &'scene Scene) -> Outcome<Self> {
        if !Path::new(SSHD).exists() {
            return skip(format!("{SSHD} is not installed"));
        }
        for program in ["ssh", "ssh-keygen"] {
            Program::installed(program)?;
        }
        name::give(scene)?;
        let place = scene.make_directory("ssh")?;
        for key in ["host", "user"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(place.join(key))
                .stdin(Stdio::null())
                .status()?;
            if !made.success() {
                return failed("no key could be made");
            }
        }
        let own = Some(scene.user_id());
        chown(place.join("user"), own, own)?;
        // Free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let shown = place.display();
        fs::write(
            place.join("config"),
            format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {shown}/host\nAuthorizedKeysFile {shown}/user.pub\nPidFile none\n\
                 StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
            ),
        )?;
        let key = fs::read_to_string(place.join("host.pub"))?;
        fs::write(place.join("known"), format!("[127.0.0.1]:{port} {key}"))?;
        // A wrapper stands for the other machine's environment.
        for directory in ["run", "state"] {
            scene.make_directory(&format!("ssh/{directory}"))?;
        }
        let wrapper = place.join("cryo");
        fs::write(
            &wrapper,
            format!(
                "#!/bin/sh\nXDG_RUNTIME_DIR={shown}/run XDG_STATE_HOME={shown}/state exec {} \"$@\"\n",
                scene.cryo_path().display()
            ),
        )?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
        let sshd = scene.spawn("sshd", sshd(scene, &place))?;
        scene.wait_for("sshd", LIMIT, || {
            TcpStream::connect(("127.0.0.1", port)).ok().map(drop)
        })?;
        Ok(Self {
            scene,
            place,
            port,
            _sshd: sshd,
        })
    }

    /// The arguments that ssh needs for it.
    fn options(&self) -> Vec<String> {
        let place = self.place.display();
        [
            "-F".into(),
            "none".into(),
            "-p".into(),
            self.port.to_string(),
            "-i".into(),
            format!("{place}/user"),
            format!("-oUserKnownHostsFile={place}/known"),
            "-oGlobalKnownHostsFile=none".into(),
            "-oStrictHostKeyChecking=yes".into(),
            "-oBatchMode=yes".into(),
        ]
        .into()
    }

    fn cryo(&self) -> PathBuf {
        self.place.join("cryo")
    }

    /// What its list of jobs says.
    fn list(&self) -> Outcome<String> {
        let call = self.scene.cryo(["list"]);
        let call = call.variable("XDG_RUNTIME_DIR", self.place.join("run"));
        Ok(call.run()?.success()?.stdout)
    }
}

/// Root's sshd, which logs any user in, wants a directory under /run, which it finds in a mount namespace of its own.
fn sshd(scene: &Scene, place: &Path) -> Command {
    let config = place.join("config");
    let words = format!("exec {SSHD} -D -e -f {}", config.display());
    let mut command = scene.session_command(Path::new("/bin/sh"));
    command.arg("-c");
    if rustix::process::geteuid().is_root() {
        command.uid(0).gid(0).arg(format!(
            "exec unshare --mount --propagation private sh -c 'mount -t tmpfs none /run && mkdir /run/sshd && {words}'"
        ));
    } else {
        command.arg(words);
    }
    command
}

/// In one step.
fn moved(scene: &Scene) -> Outcome {
    let host = Host::start(scene)?;
    let program = Program::victim("mem_private", &[])?;
    let job = scene
        .cryo(["run", "--name", "job", "--"])
        .arguments([&program.path])
        .start("job")?;
    await_ready(scene, &job)?;
    let migrate = |to: &str, more: &[&str]| {
        let call = scene.cryo(["migrate", "job", to]).arguments(more);
        call.arguments(["--"]).arguments(host.options()).run()
    };
    // What cannot be reached, or has no cryo.
    migrate("127.0.0.2", &[])?
        .refusal_with(&[UNDONE], &["ssh says why"])?
        .refusal(&["runs on here"])?;
    migrate("127.0.0.1", &["--remote-cryo", "/no/such/cryo"])?
        .refusal_with(&[UNDONE], &["there is no such command"])?
        .refusal(&["runs on here"])?;
    let cryo = host.cryo();
    let said = migrate("127.0.0.1", &["--remote-cryo", &cryo.to_string_lossy()])?.success()?;
    if !said.stdout.contains("running on 127.0.0.1: job, pid ") {
        return failed(format!("it says {:?}", said.stdout));
    }
    let (here, there) = (scene.cryo(["list"]).run()?.success()?.stdout, host.list()?);
    if here.contains("job") || !there.contains("job  pid ") {
        return failed(format!("here are {here:?}, there {there:?}"));
    }
    scene.wait(&job)?;
    scene.go()?;
    scene.wait_for("the moved victim's word", LIMIT, || {
        job.output().contains("OK").then_some(())
    })
}

/// What ssh(1) is to run there with a terminal, as a program of the user's.
fn ssh_terminal<'scene>(host: &Host<'scene>, words: &str) -> Outcome<Screen<'scene>> {
    let options = host.options().join(" ");
    let there = host.cryo();
    let words = format!(
        "exec ssh -t {options} 127.0.0.1 '{} {words}'",
        there.display()
    );
    Screen::start_program(host.scene, Path::new("/bin/sh"), ["-c", &words])
}

/// Types a line, and waits for what it says.
fn ask(screen: &Screen<'_>, keys: &str, answer: &str) -> Outcome {
    screen.clear();
    screen.type_keys(keys)?;
    screen.expect(answer)
}

/// Types until a shell answers with this.
fn ask_until(scene: &Scene, screen: &Screen<'_>, keys: &str, answer: &str) -> Outcome {
    screen.clear();
    scene.wait_for(&format!("{answer:?}"), LIMIT, || {
        let _ = screen.type_keys(keys);
        std::thread::sleep(Duration::from_millis(200));
        screen.shown().contains(answer).then_some(())
    })
}

/// A session in the foreground of a terminal over ssh: keys, jobs, the window, the end of the line, and attaching to it again.
fn foreground(scene: &Scene) -> Outcome {
    let host = Host::start(scene)?;
    let bash = Program::installed("bash")?.path;
    let shell = Screen::start_program(scene, &bash, ["--norc", "-i"])?;
    shell.expect("$ ")?;
    ask(
        &shell,
        "kept=remembered; sleep 1000 & echo do''ne\r",
        "done",
    )?;
    ask(&shell, "echo rea''dy; cat\r", "\rready\r")?;
    ask(&shell, "line\r", "line\r\nline")?;
    ask(&shell, "\x1a", "Stopped")?;
    let image = scene.file("image");
    scene
        .cryo([
            "checkpoint",
            "--session",
            &shell.pid().to_string(),
            "--kill",
            "-o",
        ])
        .arguments([&image])
        .run()?
        .success()?;
    shell.vanish().wait()?;
    // From a file there, and from standard input, which is not the terminal then.
    let mut screen = ssh_terminal(
        &host,
        &format!("restart --name shell - < {}", image.display()),
    )?;
    work_there(scene, &screen)?;
    screen.type_keys("\x1cd")?;
    screen.expect("cryo attach shell")?;
    screen.wait_for_status(0)?;
    // The user's window is closed, and ssh with it: the job lives on.
    let screen = ssh_terminal(&host, "attach shell")?;
    ask_until(scene, &screen, "echo \"<$kept>\"\r", "<remembered>")?;
    screen.vanish().wait()?;
    let mut screen = ssh_terminal(&host, "attach shell")?;
    ask_until(scene, &screen, "echo \"<$kept>\"\r", "<remembered>")?;
    ask(
        &screen,
        "kill -9 %1 %2; wait; echo none le''ft\r",
        "none left",
    )?;
    screen.type_keys("exit 7\r")?;
    screen.wait_for_status(7)?;
    let mut screen = ssh_terminal(&host, &format!("restart {}", image.display()))?;
    work_there(scene, &screen)?;
    ask(
        &screen,
        "kill -9 %1 %2; wait; echo none le''ft\r",
        "none left",
    )?;
    screen.type_keys("exit 9\r")?;
    screen.wait_for_status(9)
}

/// What the shell knew, its jobs, and keys that reach the right ones.
fn work_there(scene: &Scene, screen: &Screen<'_>) -> Outcome {
    ask_until(scene, screen, "echo \"<$kept>\"\r", "<remembered>")?;
    ask(screen, "jobs\r", "Running")?;
    ask(screen, "jobs\r", "Stopped")?;
    screen.resize(30, 90)?;
    ask_until(scene, screen, "stty size\r", "30 90")?;
    ask(screen, "fg %2\r", "cat\r\n")?;
    ask(screen, "there\r", "there\r\nthere")?;
    ask(screen, "\x1a", "Stopped")?;
    let listen = "perl -e '$| = 1; print \"list\" . \"ening\\n\"; sleep'\r";
    ask(screen, listen, "listening")?;
    ask(screen, "\x03", "$ ")
}

/// By a pipe: a copy goes, and somebody attaches to it over ssh, with a terminal.
fn piped(scene: &Scene) -> Outcome {
    let host = Host::start(scene)?;
    let started = scene
        .cryo(["--json", "run", "--detach", "--terminal", "--name", "shell"])
        .arguments(["--", "sh", "-c"])
        .arguments(["read line; echo \"heard $line\"; read line; exit 7"])
        .run()?
        .success()?;
    let pid = started.stdout.split("\"pid\":").nth(1);
    let pid = pid.and_then(|rest| rest.split([',', '}']).next()?.parse::<i32>().ok());
    let Some(pid) = pid else {
        return failed(format!("it says {:?}", started.stdout));
    };
    let (own, there) = (scene.cryo_path().display(), host.cryo());
    let (options, there) = (host.options().join(" "), there.display());
    let mut through = scene.command(Path::new("/bin/sh"));
    through.arg("-c").arg(format!(
        "{own} checkpoint --session {pid} --compress -o - | ssh {options} 127.0.0.1 {there} restart --detach -"
    ));
    through.stdin(File::open("/dev/null")?);
    let through = scene.spawn("through", through)?;
    if !scene.wait(&through)?.success() || !through.output().contains("running: shell") {
        return failed(format!("{:?}, {:?}", through.output(), through.errors()));
    }
    let mut screen = ssh_terminal(&host, "attach shell")?;
    screen.type_keys("you\r")?;
    screen.expect("heard you")?;
    screen.type_keys("\r")?;
    screen.wait_for_status(7)?;
    // The original has heard nothing.
    if !matches!(processes::state(pid), Some('S')) {
        return failed("the original does not wait any more");
    }
    processes::signal(pid, Signal::KILL);
    Ok(())
}

for_each_user! {moved, piped, foreground}
