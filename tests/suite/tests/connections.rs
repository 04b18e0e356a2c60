//! Connections to outside the job go on, and their peers notice nothing: where CAP_NET_ADMIN is held over the network namespace.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::{
    Outcome, Program, Random, Running, Scene, User, failed, kill_rounds, processes, skip, test,
};

/// The status of `cryo` for a refusal.
const REFUSED: i32 = 3;
/// Bytes of a stream that goes on while its job is saved.
const AMOUNT: &str = "200000000";
/// How long a stream may take on a busy machine.
const STREAM_LIMIT: Duration = Duration::from_secs(120);

/// Where programs run.
enum Net {
    /// Where the tests do.
    Here,
    /// In namespaces that this process holds.
    Inside(i32),
}

/// What happens to the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// It is saved three times and runs on.
    Continued,
    /// It is saved, killed and restarted.
    Restarted,
    /// The same, and once more.
    Twice,
}

/// One end of a connection, and its peer.
struct Talk<'s> {
    scene: &'s Scene,
    job: Running,
    peer: Running,
    port: String,
    net: &'s Net,
}

/// What a talk is about.
#[derive(Clone, Copy)]
struct About<'a> {
    role: &'a str,
    how: &'a str,
    address: &'a str,
}

fn need(program: &str) -> Outcome {
    let there = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|place| Path::new(place).join(program).exists());
    if there {
        Ok(())
    } else {
        skip(format!("there is no {program} here"))
    }
}

fn start_in<T: AsRef<OsStr>>(
    scene: &Scene,
    net: &Net,
    label: &str,
    words: &[T],
) -> Outcome<Running> {
    let mut line: Vec<OsString> = Vec::new();
    if let Net::Inside(holder) = net {
        let holder = holder.to_string();
        let enter = ["/usr/bin/nsenter", "--target", &holder, "--net", "--pid"];
        line.extend(enter.map(OsString::from));
        line.push("--mount".into());
        if scene.user() == User::Ordinary {
            line.extend(["--user", "--preserve-credentials"].map(OsString::from));
        }
        let work = scene.work("");
        line.push(format!("--wd={}", work.display()).into());
        line.push("--".into());
    }
    line.extend(words.iter().map(|word| word.as_ref().to_owned()));
    let mut command = scene.session_command(Path::new(&line[0]));
    command.args(&line[1..]);
    scene.spawn(label, command)
}

/// Runs `cryo` there, and gives its exit status and what it said.
fn cryo(scene: &Scene, net: &Net, words: &[&str]) -> Outcome<(Option<i32>, String)> {
    let mut line = vec![scene.cryo_path().to_str().unwrap_or_default()];
    line.extend(words);
    let running = start_in(scene, net, words[0], &line)?;
    let status = scene.wait(&running)?;
    Ok((status.code(), running.errors() + &running.output()))
}

fn cryo_must(scene: &Scene, net: &Net, words: &[&str]) -> Outcome {
    match cryo(scene, net, words)? {
        (Some(0), _) => Ok(()),
        (status, said) => failed(format!("cryo {words:?} ended with {status:?}: {said}")),
    }
}

impl<'s> Talk<'s> {
    fn begin(scene: &'s Scene, (net, peers): (&'s Net, &Net), about: About<'_>) -> Outcome<Self> {
        let About { role, how, address } = about;
        let program = Program::victim("tcp_outside", &[])?;
        let program = program.path.to_str().unwrap_or_default().to_owned();
        for left in ["port", "pid"] {
            let _ = std::fs::remove_file(scene.work(left));
        }
        let _ = std::fs::remove_file(scene.go_path());
        let start = |label: &str, role: &str, port: &str| {
            let words = [
                "/bin/sh",
                "-c",
                "[ $1 = ${1#peer} ] && echo $$ > pid; exec \"$0\" \"$@\"",
                &program,
                role,
                how,
                address,
                port,
                AMOUNT,
            ];
            let net = if role.starts_with("peer") { peers } else { net };
            start_in(scene, net, label, &words)
        };
        static TALKS: AtomicU32 = AtomicU32::new(0);
        let serial = TALKS.fetch_add(1, Ordering::Relaxed);
        let (job, peer) = (format!("job.{serial}"), format!("peer.{serial}"));
        let (peer_role, server, client) = match role {
            "client" => ("peer-server", &peer, &job),
            _ => ("peer-client", &job, &peer),
        };
        let (first, second) = match role {
            "client" => (peer_role, role),
            _ => (role, peer_role),
        };
        let serving = start(server, first, "0")?;
        let port = scene.wait_for("a port", LIMIT, || {
            std::fs::read_to_string(scene.work("port")).ok()
        })?;
        let connecting = start(client, second, &port)?;
        let (job, peer) = match role {
            "client" => (connecting, serving),
            _ => (serving, connecting),
        };
        scene.wait_for("READY", LIMIT, || {
            job.output().contains("READY").then_some(())
        })?;
        Ok(Self {
            scene,
            job,
            peer,
            port,
            net,
        })
    }

    /// The job's first process, as `cryo` sees it.
    fn pid(&self) -> Outcome<String> {
        let text = std::fs::read_to_string(self.scene.work("pid"))?;
        Ok(text.trim().to_owned())
    }

    fn undergo(&self, then: Then) -> Outcome {
        let (scene, net) = (self.scene, self.net);
        let image = scene.file("image");
        let image = image.to_str().unwrap_or_default();
        let rounds = if then == Then::Restarted { 1 } else { 3 };
        for round in 0..rounds {
            let pid = self.pid()?;
            if then == Then::Continued {
                cryo_must(scene, net, &["checkpoint", &pid, "-o", image])?;
                continue;
            }
            let (status, said) = cryo(scene, net, &["checkpoint", &pid, "--kill", "-o", image])?;
            // Whoever throws the image away has to know, also where a script called.
            if status != Some(0) || !said.contains("nft delete table inet cryonaut-") {
                return failed(format!(
                    "cryo checkpoint --kill ended with {status:?}: {said}"
                ));
            }
            self.await_end(&pid)?;
            // Long enough for the peer to send again.
            std::thread::sleep(Duration::from_millis(300 * round));
            let pidfile = scene.work("pid");
            let pidfile = pidfile.to_str().unwrap_or_default();
            let words = ["restart", "--detach", "--pidfile", pidfile, image];
            cryo_must(scene, net, &words)?;
        }
        Ok(())
    }

    /// Waits until the job, which was killed, has gone.
    fn await_end(&self, pid: &str) -> Outcome {
        self.scene.wait(&self.job)?;
        match (self.net, pid.parse()) {
            (Net::Here, Ok(pid)) => self.scene.wait_for_disappearance(&[pid]),
            _ => Ok(()),
        }
    }

    fn finish(&self) -> Outcome {
        let scene = self.scene;
        scene.go()?;
        for end in [&self.peer, &self.job] {
            scene.wait_for("the end of a talk", STREAM_LIMIT, || {
                let said = end.output();
                let ended = said.contains("OK\n") || said.contains("WRONG");
                (ended || said.contains("BROKEN")).then_some(())
            })?;
        }
        if matches!(self.net, Net::Here) {
            expect_unlisted(scene, &self.port)?;
        }
        let (job, peer) = (self.job.output(), self.peer.output());
        if job == "READY\nOK\n" && peer == "OK\n" {
            return Ok(());
        }
        failed(format!("the job: {job}\nits peer: {peer}"))
    }
}

/// Nothing that the firewall holds for a connection of this port may stay.
fn expect_unlisted(scene: &Scene, port: &str) -> Outcome {
    let listed = start_in(
        scene,
        &Net::Here,
        "nft",
        &["/usr/sbin/nft", "list", "ruleset"],
    )?;
    scene.wait(&listed)?;
    let text = listed.output();
    let _ = std::fs::remove_file(listed.out_path());
    let mut numbers = text.split(|letter: char| !letter.is_ascii_digit());
    match numbers.any(|number| number == port) {
        true => failed(format!("the firewall holds port {port} still:\n{text}")),
        false => Ok(()),
    }
}

/// Nothing of the firewall's may stay in a network namespace of the test's own.
fn expect_no_table(scene: &Scene, net: &Net) -> Outcome {
    let listed = start_in(scene, net, "nft", &["/usr/sbin/nft", "list", "tables"])?;
    scene.wait(&listed)?;
    match listed.output().contains("cryonaut-") {
        true => failed(format!(
            "tables of the firewall are left: {}",
            listed.output()
        )),
        false => Ok(()),
    }
}

const HOWS: [&str; 7] = [
    "queued", "options", "closing", "closed", "both", "full", "stream",
];
/// Those with no more unconfirmed than an ordinary user may have a socket hold.
const MODEST: [&str; 6] = ["queued", "options", "closing", "closed", "both", "modest"];

fn every(scene: &Scene, nets: (&Net, &Net), addresses: &[&str], then: Then) -> Outcome {
    let hows = match scene.user() {
        User::Root => HOWS.as_slice(),
        User::Ordinary => MODEST.as_slice(),
    };
    for address in addresses {
        for role in ["client", "server"] {
            for how in hows {
                scene.note(format!("{how}, {role}, {address}, {then:?}"));
                let about = About { role, how, address };
                let talk = Talk::begin(scene, nets, about)?;
                talk.undergo(then)?;
                talk.finish()?;
            }
        }
    }
    match nets.0 {
        Net::Here => Ok(()),
        net => expect_no_table(scene, net),
    }
}

fn over_loopback(scene: &Scene, then: Then) -> Outcome {
    need("nft")?;
    every(scene, (&Net::Here, &Net::Here), &["127.0.0.1", "::1"], then)
}

/// Namespaces of their own, with loopback up: what `unshare` is told, and the process that holds them.
fn namespaces(scene: &Scene, label: &str, how: &[&str]) -> Outcome<(Running, i32)> {
    need("nft")?;
    need("unshare")?;
    need("ip")?;
    let mut words = vec!["/usr/bin/unshare", "--net", "--pid", "--fork"];
    words.extend(["--mount-proc", "--kill-child"]);
    words.extend(how);
    let script = "ip link set lo up && echo up && while :; do sleep 1; done";
    words.extend(["/bin/sh", "-c", script]);
    let holder = start_in(scene, &Net::Here, label, &words)?;
    let up = scene.wait_for("namespaces", LIMIT, || {
        let up = holder.output().contains("up\n").then_some(true);
        up.or_else(|| holder.ended().map(|_| false))
    })?;
    // The shell, not what it starts every second.
    let parent = format!("PPid:\t{}", holder.pid());
    let is_shell = |pid: &&i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == parent)
    };
    let inside = processes::descendants(holder.pid());
    match (up, inside.iter().find(is_shell)) {
        (true, Some(&inside)) => Ok((holder, inside)),
        _ => skip(format!("namespaces cannot be made: {}", holder.errors())),
    }
}

/// An ordinary user may do it in namespaces that are theirs.
fn of_a_user(scene: &Scene, then: Then) -> Outcome {
    let (_holder, inside) = namespaces(scene, "holder", &["--user", "--map-root-user"])?;
    let net = Net::Inside(inside);
    every(scene, (&net, &net), &["127.0.0.1"], then)
}

/// Job and peer in network namespaces of their own, with a pair of interfaces between them.
fn over_veth(scene: &Scene, then: Then) -> Outcome {
    let (_one, here) = namespaces(scene, "one", &[])?;
    let (_other, there) = namespaces(scene, "other", &[])?;
    let (net, peers) = (Net::Inside(here), Net::Inside(there));
    let there = there.to_string();
    let lines = [
        (
            &net,
            vec![
                "link", "add", "job0", "type", "veth", "peer", "name", "peer0", "netns", &there,
            ],
        ),
        (&net, vec!["address", "add", "10.77.0.1/24", "dev", "job0"]),
        (&net, vec!["link", "set", "job0", "up"]),
        (
            &peers,
            vec!["address", "add", "10.77.0.2/24", "dev", "peer0"],
        ),
        (&peers, vec!["link", "set", "peer0", "up"]),
    ];
    for (net, words) in lines {
        let net = match words[1] {
            // It names the other by its number here.
            "add" if words[0] == "link" => &Net::Here,
            _ => net,
        };
        let line: Vec<&str> = std::iter::once("/usr/sbin/ip").chain(words).collect();
        let line = match net {
            Net::Here => {
                let mut entered = vec!["/usr/bin/nsenter", "--target"];
                let number = here.to_string();
                entered.push(Box::leak(number.into_boxed_str()));
                entered.push("--net");
                entered.extend(line);
                entered
            }
            Net::Inside(_) => line,
        };
        let running = start_in(scene, net, "ip", &line)?;
        if !scene.wait(&running)?.success() {
            return skip(format!("no interfaces: {}", running.errors()));
        }
    }
    for (role, address) in [("client", "10.77.0.2"), ("server", "10.77.0.1")] {
        for how in HOWS {
            scene.note(format!("{how}, {role}, {then:?}"));
            let about = About { role, how, address };
            let talk = Talk::begin(scene, (&net, &peers), about)?;
            talk.undergo(then)?;
            talk.finish()?;
        }
    }
    expect_no_table(scene, &net)
}

/// Waits until nothing of a killed `cryo` works any more.
fn await_guardians(scene: &Scene) -> Outcome {
    let own = std::process::id() as i32;
    scene.wait_for("the end of all that cryo left to others", LIMIT, || {
        let works = |pid: &i32| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.starts_with("cryo") && processes::state(*pid).is_some_and(|state| state != 'Z')
        };
        (!processes::descendants(own).iter().any(works)).then_some(())
    })
}

fn lives(pid: &str) -> bool {
    let pid = pid.parse().unwrap_or(0);
    processes::state(pid).is_some_and(|state| state != 'Z')
}

/// `cryo` killed at random instants: the stream goes on, or is in the image, and nothing stays behind.
fn killed_anytime(scene: &Scene) -> Outcome {
    need("nft")?;
    let mut random = Random::new();
    let (net, image) = (Net::Here, scene.file("image"));
    let rounds = kill_rounds(40);
    let (mut killed, mut restarted, mut streams) = (0, 0, 0);
    while killed < rounds {
        streams += 1;
        let role = if streams % 2 == 0 { "client" } else { "server" };
        let about = About {
            role,
            how: "stream",
            address: "127.0.0.1",
        };
        let talk = Talk::begin(scene, (&net, &net), about)?;
        let start = Instant::now();
        let usual = talk.pid()?;
        let path = image.to_str().unwrap_or_default();
        cryo_must(scene, &net, &["checkpoint", &usual, "-o", path])?;
        let usual = start.elapsed();
        while killed < rounds && !talk.job.output().contains("OK") {
            let pid = talk.pid()?;
            let afterwards = ["--leave-running", "--kill"][(killed % 2) as usize];
            let _ = std::fs::remove_file(&image);
            let call = scene.cryo(["checkpoint", &pid, afterwards, "-o", path]);
            if call.killed_after(random.between(Duration::ZERO, usual * 3 / 2))? {
                killed += 1;
            }
            await_guardians(scene)?;
            if afterwards == "--kill" && !lives(&pid) {
                talk.await_end(&pid)?;
                if talk.job.output().contains("OK") {
                    break;
                }
                let pidfile = scene.work("pid");
                let pidfile = pidfile.to_str().unwrap_or_default();
                let words = ["restart", "--detach", "--pidfile", pidfile, path];
                cryo_must(scene, &net, &words)?;
                restarted += 1;
            }
        }
        talk.finish()?;
    }
    println!("{killed} checkpoints killed, {restarted} restarts, {streams} streams");
    Ok(())
}

/// `cryo restart` killed at random instants: the image brings the connection back, or the job runs.
fn restart_killed(scene: &Scene) -> Outcome {
    need("nft")?;
    let mut random = Random::new();
    let net = Net::Here;
    let image = scene.file("image");
    let path = image.to_str().unwrap_or_default();
    let rounds = kill_rounds(20);
    let (mut killed, mut lived) = (0, 0);
    while killed < rounds {
        let about = About {
            role: "client",
            how: "full",
            address: "127.0.0.1",
        };
        let talk = Talk::begin(scene, (&net, &net), about)?;
        let pid = talk.pid()?;
        cryo_must(scene, &net, &["checkpoint", &pid, "--kill", "-o", path])?;
        talk.await_end(&pid)?;
        let mut usual = Duration::from_millis(250);
        loop {
            let start = Instant::now();
            let call = scene.cryo(["restart", "--detach", path]);
            let ended = !call.killed_after(random.between(Duration::ZERO, usual))?;
            usual = usual.max(start.elapsed());
            // What was not committed ends with it, and what was goes on.
            await_guardians(scene)?;
            let (lives, number) = (lives(&pid), pid.parse().unwrap_or(0));
            killed += u32::from(!ended);
            if lives {
                lived += u32::from(!ended);
                break;
            }
            if ended {
                return failed("a restart that nobody killed left nothing");
            }
            // On a busy machine one that is always killed would never come to its end.
            usual += usual / 8;
            scene.wait_for_disappearance(&[number])?;
        }
        talk.finish()?;
    }
    println!("{killed} restarts killed, of which {lived} had let the job go");
    Ok(())
}

/// Where it is not permitted the peer is named, with the way out; and where the user does not want it.
fn refused(scene: &Scene, options: &[&str], words: &[&str]) -> Outcome {
    let net = Net::Here;
    let about = About {
        role: "client",
        how: "queued",
        address: "127.0.0.1",
    };
    let talk = Talk::begin(scene, (&net, &net), about)?;
    let image = scene.file("image");
    let pid = talk.pid()?;
    let mut line = vec!["checkpoint", &pid, "-o"];
    line.push(image.to_str().unwrap_or_default());
    line.extend(options);
    let (status, said) = cryo(scene, &net, &line)?;
    let missing = words.iter().find(|word| !said.contains(**word));
    if status != Some(REFUSED) || missing.is_some() || image.exists() {
        return failed(format!("expected {words:?}, found {status:?}: {said}"));
    }
    talk.finish()
}

/// The addresses are taken: a refusal says by whom, and the image brings the job back once they are free.
fn tuple_taken(scene: &Scene) -> Outcome {
    need("nft")?;
    let net = Net::Here;
    let about = About {
        role: "client",
        how: "queued",
        address: "127.0.0.1",
    };
    let talk = Talk::begin(scene, (&net, &net), about)?;
    let image = scene.file("image");
    let path = image.to_str().unwrap_or_default();
    let pid = talk.pid()?;
    cryo_must(scene, &net, &["checkpoint", &pid, "-o", path])?;
    let (status, said) = cryo(scene, &net, &["check", path])?;
    if status != Some(REFUSED) || !said.contains("is taken here by") {
        return failed(format!("expected a refusal, found {status:?}: {said}"));
    }
    talk.finish()
}

macro_rules! cases {
    ($($name:ident, $user:ident => $body:expr;)*) => {
        $(#[test]
        fn $name() {
            test(stringify!($name), User::$user, $body);
        })*
    };
}

cases! {
    loopback_continued, Root => |scene| over_loopback(scene, Then::Continued);
    loopback_restarted, Root => |scene| over_loopback(scene, Then::Restarted);
    loopback_twice, Root => |scene| over_loopback(scene, Then::Twice);
    veth_continued, Root => |scene| over_veth(scene, Then::Continued);
    veth_restarted, Root => |scene| over_veth(scene, Then::Restarted);
    own_namespaces_continued, Ordinary => |scene| of_a_user(scene, Then::Continued);
    own_namespaces_restarted, Ordinary => |scene| of_a_user(scene, Then::Restarted);
    checkpoint_killed_anytime, Root => killed_anytime;
    restart_killed_anytime, Root => restart_killed;
    refused_without_privilege, Ordinary => |scene| {
        refused(scene, &[], &["127.0.0.1", "CAP_NET_ADMIN", "--external reconnect"])
    };
    refused_if_asked_for, Root => |scene| {
        refused(scene, &["--external", "refuse"], &["127.0.0.1", "outside the job"])
    };
    addresses_taken, Root => tuple_taken;
}
