//! Internet sockets that lead out of the job, ports that are taken, and data that nobody can read yet.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::victim::{checkpoint, finish_ok as finish, restart, start_ready as start};
use cryonaut_suite::{Outcome, Program, Running, Scene, User, failed, for_each_user, skip};

/// The status of `cryo` for a refusal.
const REFUSED: i32 = 3;
/// The status of a restart in the foreground that did not come about.
const NOT_RESTARTED: i32 = 125;

/// The victim, and the end of its connection that is outside.
fn served(scene: &Scene, how: &str) -> Outcome<(Running, TcpListener, TcpStream)> {
    let service = TcpListener::bind("127.0.0.1:0")?;
    let port = service.local_addr()?.port().to_string();
    let program = Program::victim("tcp_external", &[])?.arguments([how, port.as_str()]);
    let job = scene.start("victim", &program)?;
    let (mut stream, _) = service.accept()?;
    heard(&mut stream, "before")?;
    stream.write_all(b"answer")?;
    scene.wait_for("READY", LIMIT, || {
        job.output().contains("READY\n").then_some(())
    })?;
    Ok((job, service, stream))
}

fn heard(stream: &mut TcpStream, wanted: &str) -> Outcome {
    let mut text = vec![0; wanted.len()];
    stream.read_exact(&mut text)?;
    if text == wanted.as_bytes() {
        return Ok(());
    }
    failed(format!("the service was told {text:?}, not {wanted}"))
}

fn external_refused(scene: &Scene) -> Outcome {
    let (job, service, mut stream) = served(scene, "reconnect")?;
    let image = scene.file("image");
    let address = service.local_addr()?.to_string();
    let own = format!("process {}", std::process::id());
    let wanted = [address.as_str(), "outside the job", "--external"];
    let refused = scene
        .cryo(["checkpoint", &job.pid().to_string(), "-o"])
        .arguments([&image])
        // Root may take the connection along.
        .arguments(["--external", "refuse"])
        .run()?
        .refusal_with(&[REFUSED], &wanted)?;
    // Whose it is an ordinary user is not told of root's processes.
    if scene.user() == User::Root && !refused.stderr.contains(&own) {
        return failed(format!("the peer is not named: {}", refused.stderr));
    }
    finish(scene, &job, &job)?;
    heard(&mut stream, "after")
}

fn external(scene: &Scene, how: &str) -> Outcome {
    let (job, service, stream) = served(scene, how)?;
    let image = scene.file("image");
    let pid = job.pid().to_string();
    scene
        .cryo(["checkpoint", &pid, "--kill", "--external", how, "-o"])
        .arguments([&image])
        .run()?
        .success()?;
    scene.wait(&job)?;
    drop(stream);
    let life = restart(scene, &image, "restart")?;
    finish(scene, &job, &life.running)?;
    if how == "reconnect" {
        let (mut stream, _) = service.accept()?;
        heard(&mut stream, "after")?;
    }
    Ok(())
}

/// A connection outlives the suspension of one of its ends, and carries what was sent meanwhile.
fn suspended(scene: &Scene) -> Outcome {
    let (job, _service, mut stream) = served(scene, "goes_on")?;
    let pid = job.pid().to_string();
    scene
        .cryo(["suspend", "--partial", &pid])
        .run()?
        .success()?;
    stream.write_all(b"meanwhile")?;
    scene.cryo(["resume", &pid]).run()?.success()?;
    finish(scene, &job, &job)?;
    heard(&mut stream, "after")
}

/// A port of IPv4 that a process listens at.
fn listening_port(pid: impl std::fmt::Display) -> Outcome<Option<u16>> {
    let mut links = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        links.push(std::fs::read_link(entry?.path())?);
    }
    let is_own = |inode: &str| {
        let link = format!("socket:[{inode}]");
        links.iter().any(|found| found.as_os_str() == link.as_str())
    };
    let listed = std::fs::read_to_string("/proc/net/tcp")?;
    Ok(listed.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = words.get(1)?.split(':').nth(1)?;
        let listens = words.get(3) == Some(&"0A") && is_own(words.get(9)?);
        listens.then(|| u16::from_str_radix(port, 16).ok())?
    }))
}

/// A port that somebody took after the checkpoint keeps the job from coming back, until it is let go.
fn port_taken(scene: &Scene) -> Outcome {
    let job = start(scene, "tcp_backlog", &[])?;
    let Some(port) = listening_port(job.pid())? else {
        return failed("the victim listens nowhere");
    };
    let image = scene.file("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    scene.wait(&job)?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let address = listener.local_addr()?.to_string();
    scene
        .cryo(["restart"])
        .arguments([&image])
        .run()?
        .refusal_with(&[NOT_RESTARTED], &[&address, "is taken here by"])?;
    drop(listener);
    let life = restart(scene, &image, "restart")?;
    finish(scene, &job, &life.running)
}

/// What nobody can read is refused as long as it is there, and waited for if it goes.
fn unaccepted(scene: &Scene) -> Outcome {
    let job = start(scene, "tcp_unaccepted", &[])?;
    let image = scene.file("image");
    scene
        .cryo(["checkpoint", &job.pid().to_string(), "-o"])
        .arguments([&image])
        .run()?
        .refusal_with(&[REFUSED], &["waits to be accepted", "try again"])?;
    finish(scene, &job, &job)
}

fn accepted_late(scene: &Scene) -> Outcome {
    let job = start(scene, "tcp_unaccepted", &["late"])?;
    let image = scene.file("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    scene.wait(&job)?;
    let life = restart(scene, &image, "restart")?;
    finish(scene, &job, &life.running)
}

/// Connects two of its sockets, one of them from a port that connect(2) chooses from a range of one, and sends when told to.
const FROM_PORT: &str = r#"
import os, socket, struct, sys, time
IP_LOCAL_PORT_RANGE = 51
port = int(sys.argv[1])
service = socket.create_server(("127.0.0.1", 0))
client = socket.socket()
try:
    client.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("HH", port, port))
except OSError:
    print("OLD KERNEL", flush=True)
client.connect(service.getsockname())
server = service.accept()[0]
print("READY", client.getsockname()[1] == port, flush=True)
while not os.path.exists(os.environ["VICTIM_GO"]):
    time.sleep(0.05)
client.sendall(b"x")
print("SENT", server.recv(1) == b"x" and client.getsockname()[1] == port, flush=True)
"#;

/// Programs whose connections go to different places from one port, as connect(2) lets them, are restarted beside each other.
fn port_in_common(scene: &Scene) -> Outcome {
    // Where nobody is: it is free again when it is asked for.
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let python = Program::installed("python3")?;
    let program = python.arguments(["-c", FROM_PORT, &free.to_string()]);
    let mut jobs = Vec::new();
    for label in ["one", "other"] {
        let job = scene.start(label, &program)?;
        scene.wait_for("the connection", LIMIT, || {
            let output = job.output();
            (output.contains("READY True\n") || output.contains("OLD")).then_some(())
        })?;
        if job.output().contains("OLD") {
            return skip(
                "the kernel does not let connect(2) choose among so few ports (Linux 6.3)",
            );
        }
        let image = scene.file(format!("{label}.image"));
        checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
        scene.wait(&job)?;
        jobs.push((job, image));
    }
    let mut lives = Vec::new();
    for (number, (_, image)) in jobs.iter().enumerate() {
        lives.push(restart(scene, image, &format!("restart.{number}"))?);
    }
    scene.go()?;
    for life in &lives {
        scene.wait(&life.running)?;
    }
    match jobs
        .iter()
        .all(|(job, _)| job.output().contains("SENT True\n"))
    {
        true => Ok(()),
        false => failed("a connection is not what it was"),
    }
}

for_each_user! {
    port_of_several => port_in_common;
    external_refused_by_name => external_refused;
    external_close => |scene| external(scene, "close");
    external_reconnect => |scene| external(scene, "reconnect");
    external_suspended => suspended;
    port_of_another => port_taken;
    never_accepted => unaccepted;
    accepted_meanwhile => accepted_late;
}
