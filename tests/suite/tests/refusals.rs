//! What is refused: a checkpoint says so and does not hurt the job, a restart says so and starts nothing.

use std::fs::File;

use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::victim::{
    await_ready, checkpoint, finish_ok as finish, restart, start_ready as start,
};
use cryonaut_suite::{Outcome, Program, Scene, User, failed, for_each_user, skip};
use rustix::fs::{FlockOperation, flock};

/// The status of `cryo` for a refusal.
const REFUSED: i32 = 3;
/// The status of a restart in the foreground that did not come about.
const NOT_RESTARTED: i32 = 125;

/// A checkpoint is refused with all of `words`, and the victim finds everything as it was.
fn refused(scene: &Scene, state: &str, words: &[&str]) -> Outcome {
    refused_victim(scene, ("refused_state", &[state]), words)
}

fn refused_victim(scene: &Scene, (source, arguments): (&str, &[&str]), words: &[&str]) -> Outcome {
    let job = start(scene, source, arguments)?;
    let image = scene.file("image");
    scene
        .cryo(["checkpoint", &job.pid().to_string(), "-o"])
        .arguments([&image])
        .run()?
        .refusal_with(&[REFUSED], words)?;
    if image.exists() {
        return failed("a refused checkpoint left an image");
    }
    finish(scene, &job, &job)
}

/// A checkpoint is refused because of a descriptor, with all of `words`.
fn refused_descriptor(scene: &Scene, what: &str, words: &[&str]) -> Outcome {
    refused_victim(scene, ("refused_descriptors", &[what]), words)
}

/// A victim in namespaces of `cryo run`'s making cannot be checkpointed, and lives on.
fn refused_in_namespaces(scene: &Scene, program: &Program, word: &str) -> Outcome {
    let name = format!("refused-{}", std::process::id());
    let job = scene
        .cryo(["run", "--namespaces", "--name", &name, "--"])
        .program(program)
        .start("victim")?;
    await_ready(scene, &job)?;
    let image = scene.file("image");
    scene
        .cryo(["checkpoint", &name, "-o"])
        .arguments([&image])
        .run()?
        .refusal_with(&[REFUSED], &[word])?;
    finish(scene, &job, &job)
}

/// A queue that only its name leads to, in an IPC namespace of the job's own.
fn queue_left(scene: &Scene) -> Outcome {
    let program = Program::victim("refused_state", &[])?.argument("queue-left");
    refused_in_namespaces(scene, &program, "no process of the job has it open")
}

/// Cryo is not in the namespaces of the job, and so cannot be looked at from there anyway.
fn landlock_in_namespaces(scene: &Scene) -> Outcome {
    let program = Program::victim("landlock", &[])?;
    refused_in_namespaces(scene, &program, "confined by landlock")
}

/// A process of another user may not look at cryo anyway.
fn landlock_of_another_user(scene: &Scene) -> Outcome {
    match scene.user() {
        User::Root => refused_victim(scene, ("landlock", &["4343"]), &["confined by landlock"]),
        User::Ordinary => skip("only root checkpoints programs of others"),
    }
}

/// A tracer outside of the job is named.
fn tracer_outside(scene: &Scene) -> Outcome {
    let job = start(scene, "refused_state", &["nothing"])?;
    let program = Program::victim("refused_state", &[])?;
    let pid = job.pid().to_string();
    let tracer = scene.start("tracer", &program.arguments(["tracer", &pid]))?;
    await_ready(scene, &tracer)?;
    let image = scene.work("image");
    let named = format!("process {} (refused_state) traces it", tracer.pid());
    for command in [&["checkpoint", "-o", "image", &pid][..], &["check", &pid]] {
        scene
            .cryo(command)
            .run()?
            .refusal_with(&[REFUSED], &[&named])?;
    }
    if image.exists() {
        return failed("a refused checkpoint left an image");
    }
    scene.go()?;
    let (ended, status) = (scene.wait(&tracer)?, scene.wait(&job)?);
    if ended.success() && status.success() {
        return Ok(());
    }
    failed(format!("{}{}", job.output(), tracer.output()))
}

/// A lock that somebody took after the checkpoint keeps the job from coming back, until it is let go.
fn lock_taken(scene: &Scene) -> Outcome {
    let job = start(scene, "lock_flock", &[])?;
    let image = scene.file("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    scene.wait(&job)?;
    let taken = File::open(scene.work("exclusive"))?;
    // The processes of the victim end one by one.
    scene.wait_for("the lock", LIMIT, || {
        flock(&taken, FlockOperation::NonBlockingLockShared).ok()
    })?;
    let holder = format!("process {} ", std::process::id());
    scene
        .cryo(["restart"])
        .arguments([&image])
        .run()?
        .refusal_with(&[NOT_RESTARTED], &[&holder])?;
    drop(taken);
    let life = restart(scene, &image, "restart")?;
    finish(scene, &job, &life.running)
}

/// A process that has made itself unreadable is refused to its own user, and comes back by root.
fn not_dumpable(scene: &Scene) -> Outcome {
    if let User::Ordinary = scene.user() {
        return refused(scene, "not-dumpable", &["pr_set_dumpable"]);
    }
    let job = start(scene, "refused_state", &["not-dumpable"])?;
    let image = scene.file("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    scene.wait(&job)?;
    let life = restart(scene, &image, "restart")?;
    finish(scene, &job, &life.running)
}

/// A thread has left the UTS namespace of its process, which takes root.
fn thread_elsewhere(scene: &Scene) -> Outcome {
    match scene.user() {
        User::Root => refused(scene, "thread-elsewhere", &["namespace than its process"]),
        User::Ordinary => skip("only root leaves a namespace for another by unshare alone"),
    }
}

for_each_user! {
    owner_outside => |scene| refused(scene, "owner-outside", &["f_setown"]);
    directory_notify => |scene| refused(scene, "notify", &["f_notify"]);
    proc_outside => |scene| refused(scene, "proc-outside", &["is not in the job"]);
    directory_outside => |scene| refused(scene, "directory-outside", &["is not in the job"]);
    not_dumpable => not_dumpable;
    landlock => |scene| refused_victim(scene, ("landlock", &[]), &["landlock"]);
    landlock_in_namespaces => landlock_in_namespaces;
    landlock_of_another_user => landlock_of_another_user;
    keyring => |scene| refused_victim(scene, ("keyring", &[]), &["keyring"]);
    socket_named => |scene| refused(scene, "socket-named", &["a socket that is in use"]);
    io_uring => |scene| refused_descriptor(scene, "io-uring", &["an io_uring"]);
    perf_event => |scene| refused_descriptor(scene, "perf", &["a perf event"]);
    bpf_map => |scene| refused_descriptor(scene, "bpf", &["a bpf object"]);
    userfaultfd => |scene| refused_descriptor(scene, "userfaultfd", &["a userfaultfd"]);
    vsock => |scene| refused_descriptor(scene, "vsock", &["a vsock stream socket"]);
    crypto_socket => |scene| refused_descriptor(scene, "crypto", &["a crypto (af_alg) seqpacket socket"]);
    xdp_socket => |scene| refused_descriptor(scene, "xdp", &["an xdp raw socket"]);
    sctp_socket => |scene| refused_descriptor(scene, "sctp", &["an sctp socket"]);
    connector_socket => |scene| refused_descriptor(scene, "connector", &["a netlink datagram socket of protocol 11"]);
    several_paths => |scene| refused_descriptor(scene, "multipath", &["connected over multipath tcp"]);
    netlink_waiting => |scene| refused_descriptor(scene, "netlink-waiting", &["messages wait in it"]);
    encrypted_connection => |scene| refused_descriptor(scene, "encrypted", &["speaks tls on it"]);
    queue_to_tell_of => |scene| refused(scene, "queue-notify", &["mq_notify"]);
    queue_left => queue_left;
    queue_outside => |scene| refused(scene, "queue-outside", &["has it open too"]);
    tracer_in_the_job => |scene| refused(scene, "tracer-inside", &["(refused_state) traces it"]);
    tracer_of_a_thread => |scene| refused(scene, "tracer-of-thread", &["(refused_state) traces it"]);
    tracer_elsewhere => tracer_outside;
    thread_elsewhere => thread_elsewhere;
    lock_of_another => lock_taken;
}
