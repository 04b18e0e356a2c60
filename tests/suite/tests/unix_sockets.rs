//! Unix sockets that lead out of the job, names that are taken, and data that nobody can read yet.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};

use cryonaut_suite::victim::{checkpoint, finish_ok as finish, restart, start_ready as start};
use cryonaut_suite::{Outcome, Scene, failed, for_each_user};

/// The status of `cryo` for a refusal.
const REFUSED: i32 = 3;
/// The status of a restart in the foreground that did not come about.
const NOT_RESTARTED: i32 = 125;

/// What the victim's sockets are connected to.
struct Outside {
    service: UnixListener,
    log: UnixDatagram,
}

fn outside(scene: &Scene) -> Outcome<Outside> {
    let (service, log) = (scene.work("service"), scene.work("log"));
    let outside = Outside {
        service: UnixListener::bind(&service)?,
        log: UnixDatagram::bind(&log)?,
    };
    for path in [service, log] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
    }
    outside.log.set_nonblocking(true)?;
    Ok(outside)
}

impl Outside {
    /// Takes one connection, on which `wanted` comes.
    fn served(&self, wanted: &str) -> Outcome {
        let (mut stream, _) = self.service.accept()?;
        let mut text = vec![0; wanted.len()];
        stream.read_exact(&mut text)?;
        // It stays open.
        std::mem::forget(stream);
        if text == wanted.as_bytes() {
            return Ok(());
        }
        failed(format!("the service was told {text:?}, not {wanted}"))
    }

    fn logged(&self, wanted: &str) -> Outcome {
        let mut text = [0; 64];
        let length = self.log.recv(&mut text)?;
        if &text[..length] == wanted.as_bytes() {
            return Ok(());
        }
        failed(format!(
            "the log was told {:?}, not {wanted}",
            &text[..length]
        ))
    }
}

fn external_refused(scene: &Scene) -> Outcome {
    let outside = outside(scene)?;
    let job = start(scene, "unix_external", &["reconnect"])?;
    outside.served("before")?;
    outside.logged("before")?;
    let image = scene.file("image");
    let path = scene.work("service").display().to_string();
    scene
        .cryo(["checkpoint", &job.pid().to_string(), "-o"])
        .arguments([&image])
        .run()?
        .refusal_with(&[REFUSED], &[&path, "outside the job", "--external"])?;
    finish(scene, &job, &job)
}

fn external(scene: &Scene, how: &str) -> Outcome {
    let outside = outside(scene)?;
    let job = start(scene, "unix_external", &[how])?;
    outside.served("before")?;
    outside.logged("before")?;
    let image = scene.file("image");
    scene
        .cryo([
            "checkpoint",
            &job.pid().to_string(),
            "--kill",
            "--external",
            how,
            "-o",
        ])
        .arguments([&image])
        .run()?
        .success()?;
    scene.wait(&job)?;
    let life = restart(scene, &image, "restart")?;
    finish(scene, &job, &life.running)?;
    if how == "reconnect" {
        outside.served("after")?;
        outside.logged("after")?;
    }
    Ok(())
}

/// A name that somebody took after the checkpoint keeps the job from coming back, until it is let go.
fn name_taken(scene: &Scene) -> Outcome {
    let job = start(scene, "unix_backlog", &[])?;
    let image = scene.file("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    scene.wait(&job)?;
    let taken = scene.work("server");
    std::fs::remove_file(&taken)?;
    let listener = UnixListener::bind(&taken)?;
    scene
        .cryo(["restart"])
        .arguments([&image])
        .run()?
        .refusal_with(&[NOT_RESTARTED], &["has a socket at", "server"])?;
    drop(listener);
    std::fs::remove_file(&taken)?;
    let life = restart(scene, &image, "restart")?;
    finish(scene, &job, &life.running)
}

/// What nobody can read is refused as long as it is there, and waited for if it goes.
fn unaccepted(scene: &Scene) -> Outcome {
    let job = start(scene, "unix_unaccepted", &[])?;
    let image = scene.file("image");
    scene
        .cryo(["checkpoint", &job.pid().to_string(), "-o"])
        .arguments([&image])
        .run()?
        .refusal_with(&[REFUSED], &["waits to be accepted", "try again"])?;
    finish(scene, &job, &job)
}

fn accepted_late(scene: &Scene) -> Outcome {
    let job = start(scene, "unix_unaccepted", &["late"])?;
    let image = scene.file("image");
    checkpoint(scene, &job.pid().to_string(), &image, "--kill")?;
    scene.wait(&job)?;
    let life = restart(scene, &image, "restart")?;
    finish(scene, &job, &life.running)
}

for_each_user! {
    external_refused_by_name => external_refused;
    external_close => |scene| external(scene, "close");
    external_reconnect => |scene| external(scene, "reconnect");
    name_of_another => name_taken;
    never_accepted => unaccepted;
    accepted_meanwhile => accepted_late;
}
