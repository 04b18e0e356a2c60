//! Victims whose files are on other file systems than usual: overlays, as containers have them, and huge pages.

use std::fs;
use std::os::unix::fs::chown;

use cryonaut_suite::{Mode, Mounted, Outcome, Scene, Victim, for_each_user, leave_mount_namespace};

/// Where the layers of an overlay are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layers {
    /// All on one file system.
    Together,
    /// The one that is written on another: files of the lower one then have numbers and devices of their own for stat(2).
    Apart,
}

/// The directory that programs work in is an overlay, whose lower layer has some files of the directory that is read and watched.
fn overlay(scene: &Scene, layers: Layers) -> Outcome<Vec<Mounted>> {
    const LOWER: [&str; 3] = [
        "directory/entry-7",
        "directory/entry-150",
        "directory/lower",
    ];
    leave_mount_namespace()?;
    let mut mounted = Vec::new();
    let lower = scene.make_directory("lower")?;
    let upper = scene.make_directory("upper")?;
    if layers == Layers::Apart {
        mounted.push(Mounted::new(&["-t", "tmpfs", "none"], &upper)?);
    }
    scene.make_directory("lower/directory")?;
    for name in LOWER {
        scene.write(&lower.join(name), "lower")?;
    }
    let above = scene.make_directory("upper/above")?;
    let aside = scene.make_directory("upper/aside")?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        above.display(),
        aside.display()
    );
    let work = scene.work("");
    let words = ["-t", "overlay", "-o", &options, "overlay"];
    mounted.insert(0, Mounted::new(&words, &work)?);
    Ok(mounted)
}

/// A victim that works on an overlay.
fn on_overlay(scene: &Scene, source: &'static str, (layers, mode): (Layers, Mode)) -> Outcome {
    let _mounted = overlay(scene, layers)?;
    Victim::new(source).run(scene, mode)
}

/// A victim with a file system of huge pages in its directory.
fn on_huge_pages(scene: &Scene, mode: Mode) -> Outcome {
    leave_mount_namespace()?;
    let place = scene.work("huge");
    fs::create_dir(&place)?;
    let options = "pagesize=2M,mode=0777";
    let _mounted = Mounted::new(&["-t", "hugetlbfs", "-o", options, "none"], &place)?;
    chown(&place, Some(scene.user_id()), Some(scene.user_id()))?;
    Victim::new("file_huge_pages")
        .huge_pages(16)
        .run(scene, mode)
}

use Layers::{Apart, Together};
use Mode::{Continued, Named, Restarted, Suspended, Twice};

for_each_user! {
    offsets => |scene| on_overlay(scene, "file_offsets", (Together, Restarted));
    appended => |scene| on_overlay(scene, "file_append", (Together, Twice));
    deleted => |scene| on_overlay(scene, "file_deleted", (Together, Restarted));
    deleted_apart => |scene| on_overlay(scene, "file_deleted", (Apart, Named));
    links => |scene| on_overlay(scene, "file_deleted_links", (Together, Restarted));
    elsewhere => |scene| on_overlay(scene, "file_deleted_elsewhere", (Together, Restarted));
    directory => |scene| on_overlay(scene, "file_directory", (Together, Restarted));
    position_continued => |scene| on_overlay(scene, "file_directory_position", (Together, Continued));
    position_twice => |scene| on_overlay(scene, "file_directory_position", (Apart, Twice));
    position_named => |scene| on_overlay(scene, "file_directory_position", (Apart, Named));
    removed => |scene| on_overlay(scene, "directory_removed", (Together, Restarted));
    watched => |scene| on_overlay(scene, "inotify_watches", (Together, Restarted));
    watched_apart => |scene| on_overlay(scene, "inotify_watches", (Apart, Twice));
    watched_named => |scene| on_overlay(scene, "inotify_watches", (Apart, Named));
    watched_suspended => |scene| on_overlay(scene, "inotify_watches", (Apart, Suspended));
    watched_renamed => |scene| on_overlay(scene, "inotify_renamed", (Together, Restarted));
    watched_renamed_apart => |scene| on_overlay(scene, "inotify_renamed", (Apart, Restarted));
    watched_deleted => |scene| on_overlay(scene, "inotify_deleted", (Together, Restarted));
    watched_deleted_apart => |scene| on_overlay(scene, "inotify_deleted", (Apart, Restarted));
    mapped => |scene| on_overlay(scene, "mem_file_shared", (Together, Restarted));
    mapped_privately => |scene| on_overlay(scene, "mem_file_private", (Apart, Restarted));
    program_deleted => |scene| on_overlay(scene, "file_executable_deleted", (Apart, Restarted));
    locked => |scene| on_overlay(scene, "lock_posix", (Apart, Restarted));
    named_at_random => |scene| on_overlay(scene, "hostile_names", (Together, Restarted));
    huge_continued => |scene| on_huge_pages(scene, Continued);
    huge => |scene| on_huge_pages(scene, Restarted);
    huge_named => |scene| on_huge_pages(scene, Named);
}
