//! Another machine: a root directory of its own.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::outcome::{Outcome, skip};
use crate::program::Program;
use crate::scene::Scene;

/// Another machine: a tree with busybox and `cryo`, and nothing else. `cryo` has the libraries that it needs apart.
#[derive(Debug)]
pub struct Machine<'scene> {
    scene: &'scene Scene,
    tree: PathBuf,
}

impl<'scene> Machine<'scene> {
    /// Makes the tree; skips the test where that is not permitted.
    pub fn new(scene: &'scene Scene) -> Outcome<Self> {
        if !rustix::process::geteuid().is_root() {
            return skip("a root directory of its own takes root to set up");
        }
        let busybox = Program::installed("busybox")?.path;
        let setpriv = Program::installed("setpriv")?.path;
        let tree = scene.file("tree");
        for directory in [
            "bin",
            "etc",
            "proc",
            "dev",
            "tmp",
            "old",
            "home",
            "run",
            "opt/cryo/lib",
        ] {
            fs::create_dir_all(tree.join(directory))?;
        }
        fs::set_permissions(tree.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        fs::copy(&busybox, tree.join("bin/busybox"))?;
        symlink("busybox", tree.join("bin/sh"))?;
        let tools = tree.join("opt/cryo");
        for (program, name) in [(scene.cryo_path(), "cryo"), (setpriv.as_path(), "setpriv")] {
            fs::copy(program, tools.join(name))?;
            let listed = Command::new("ldd").arg(program).output()?;
            for line in String::from_utf8_lossy(&listed.stdout).lines() {
                let path = line.split_whitespace().find(|word| word.starts_with('/'));
                let Some(path) = path.map(Path::new) else {
                    continue;
                };
                let name = path.file_name().unwrap_or_default();
                let place = match name.to_string_lossy().starts_with("ld-linux") {
                    true => tools.join("ld.so"),
                    false => tools.join("lib").join(name),
                };
                fs::copy(path, place)?;
            }
        }
        let script =
            "#!/bin/sh\nexec /opt/cryo/ld.so --library-path /opt/cryo/lib /opt/cryo/cryo \"$@\"\n";
        fs::write(tree.join("bin/cryo"), script)?;
        fs::set_permissions(tree.join("bin/cryo"), fs::Permissions::from_mode(0o755))?;
        Ok(Self { scene, tree })
    }

    /// Its root directory, as it is seen from here.
    #[must_use]
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    /// Puts a file there, readable by everybody.
    pub fn bring(&self, file: &Path, name: &str) -> Outcome {
        let copy = self.tree.join(name);
        fs::copy(file, &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o644))?;
        Ok(())
    }

    /// Runs a script of busybox' shell there, as the scene's user.
    pub fn run(&self, script: &str, input: &str) -> Outcome<Output> {
        const ENTER: &str = "mount --bind \"$0\" \"$0\" && cd \"$0\" && mount --rbind /dev dev && mount -t proc proc proc && \
            pivot_root . old && cd / && /bin/busybox umount -l /old && \
            exec /opt/cryo/ld.so --library-path /opt/cryo/lib /opt/cryo/setpriv --reuid \"$1\" --regid \"$1\" --clear-groups \
            /bin/busybox sh -c \"$2\"";
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", ENTER])
            .arg(&self.tree)
            .arg(self.scene.user_id().to_string())
            .arg(script)
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("TMPDIR", "/tmp")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut pipe) = child.stdin.take() {
            pipe.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        self.scene.note(format!(
            "on the other machine: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ));
        Ok(output)
    }
}
