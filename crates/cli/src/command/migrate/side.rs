//! The other side of a move, as it is spoken of.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use cryonaut_engine::Refusal;
use cryonaut_launch::Child;
use cryonaut_sys::spawn::WaitStatus;

use super::{LEAVE, end};
use crate::console::clean;
use crate::exit::{Code, Failure};
use crate::handover::Failed;
use crate::kept::quoted;
use crate::line::Trouble;
use crate::original::{Noted, Original, Stage, Standing};

/// The other side, as it is spoken of.
pub struct Side {
    /// Its name.
    pub host: String,
    /// How ssh is called, and cryo there; nothing where another command carries the bytes.
    pub ssh: Option<(Vec<String>, String)>,
    /// Whether files travel along.
    pub embeds: bool,
    /// The options of `cryo restart` that take the image as this move does, as sh reads them.
    pub restart_options: Vec<String>,
    /// Whether it is this machine, by its name.
    pub same_machine: Cell<bool>,
}

impl Side {
    /// A command of cryo there, as it can be typed here: through two shells.
    pub fn command(&self, words: &str, option: &str) -> String {
        match &self.ssh {
            Some((ssh, cryo)) => {
                let remote = format!("{cryo} {words}");
                let remote = match remote.contains(['\'', '"', '\\', '$']) {
                    true => quoted(&remote),
                    false => remote,
                };
                let (name, rest) = ssh.split_first().expect("it begins with ssh");
                format!("`{name} {option} {} {remote}`", rest.join(" "))
            }
            None => format!("`cryo {words}` there"),
        }
    }

    fn restart(&self, image: &Path) -> String {
        let mut words = vec!["restart --detach".to_owned()];
        words.extend(self.restart_options.iter().cloned());
        words.push(quoted(&image.to_string_lossy()));
        self.command(&words.join(" "), "-T")
    }

    /// What is said when the original has ended for sure.
    pub fn gone(&self, image: &Path) -> String {
        format!(
            "the job has ended here. If {} does not show it on {}, its image is there in {}, and {} brings it back",
            self.command("list", "-T"),
            self.host,
            image.display(),
            self.restart(image)
        )
    }

    /// What is said of a move that ended after the other side was ready, and before it was told to let the copy run.
    pub fn doubt(&self, failure: Failure, standing: Standing, image: &Path) -> Failure {
        let (code, what) = match standing {
            Standing::Runs => (Code::Failed, self.runs(image)),
            Standing::Ended => (Code::Elsewhere, self.gone(image)),
            Standing::Unknown => {
                let what = format!(
                    "if the job runs neither here (`cryo list`) nor on {} ({}), its image is there in {}, and {} brings it back",
                    self.host,
                    self.command("list", "-T"),
                    image.display(),
                    self.restart(image)
                );
                (Code::InDoubt, what)
            }
        };
        Failure::new(code, format!("{}; {what}", failure.message))
    }

    /// What is said when the original runs on, and nobody can say that no image was left.
    pub fn runs(&self, image: &Path) -> String {
        format!(
            "the job runs on here. If its image stays on {} in {}, remove it: a second copy would undo the work of the first",
            self.host,
            image.display()
        )
    }

    /// What has become of a move whose process apart was killed, or never began.
    pub fn judge(
        &self,
        failure: Failure,
        noted: Noted,
        original: &Original,
        image: &Path,
    ) -> Failure {
        let what = match noted.stage {
            Stage::Begun => "the job runs on here".to_owned(),
            Stage::Sent => self.runs(image),
            Stage::Ready => {
                let standing = match noted.over {
                    true => original.look(),
                    false => Standing::Unknown,
                };
                return self.doubt(failure, standing, image);
            }
            Stage::Ended => return self.doubt(failure, Standing::Ended, image),
        };
        Failure::new(Code::Failed, format!("{}; {what}", failure.message))
    }

    /// Why the other side does not take it; the job runs on here.
    pub fn failure(&self, trouble: &Trouble) -> Failure {
        let told = match trouble {
            Trouble::Told(message) => message.read::<Failed>().ok(),
            _ => None,
        };
        let Some(told) = told else {
            if matches!(trouble, Trouble::Stopped) {
                return Failure::new(Code::Failed, trouble.to_string());
            }
            return Failure::new(Code::Failed, format!("{}: {trouble}", self.host));
        };
        let message = match told.code {
            Code::Refused => format!("refused by {}", self.host),
            _ => format!("{}: {}", self.host, clean(&told.message)),
        };
        // What it says of the original here it cannot know.
        let code = match told.code {
            Code::Elsewhere | Code::InDoubt | Code::Unexpected => Code::Failed,
            code => code,
        };
        let cleaned = |refusal: Refusal| Refusal {
            process: clean(&refusal.process),
            object: clean(&refusal.object),
            reason: clean(&refusal.reason),
            remedy: clean(&refusal.remedy),
            ..refusal
        };
        Failure {
            refusals: told.refusals.into_iter().map(cleaned).collect(),
            ..Failure::new(code, message)
        }
    }

    /// What is said when it did not come to a move.
    pub fn unreached(
        &self,
        failure: Failure,
        trouble: Option<Trouble>,
        transport: Child,
    ) -> Failure {
        let ended = matches!(trouble, Some(Trouble::Ended));
        let patience = match trouble {
            Some(Trouble::Stopped) => Duration::ZERO,
            _ => LEAVE,
        };
        let status = end(transport, patience);
        let how = match (ended, status, &self.ssh) {
            (true, Some(WaitStatus::Exited(255)), Some(_)) => {
                "; ssh says why: the job runs on here".to_owned()
            }
            (true, Some(WaitStatus::Exited(127)), Some(_)) => {
                "; there is no such command: --remote-cryo PATH tells where cryo is; the job runs on here".to_owned()
            }
            (true, Some(WaitStatus::Exited(status)), _) => {
                format!(" with exit code {status}; the job runs on here")
            }
            _ => "; the job runs on here".to_owned(),
        };
        Failure {
            message: format!("{}{how}", failure.message),
            ..failure
        }
    }
}

/// Whether any of its reasons is that a file is not there, or another one: those name --relocate as a way out.
pub fn about_files(failure: &Failure) -> bool {
    let mut refusals = failure.refusals.iter();
    refusals.any(|refusal| refusal.remedy.contains("--relocate"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_go_through_two_shells() {
        let side = Side {
            host: "node8".into(),
            ssh: Some((vec!["ssh".into(), "node8".into()], "cryo".into())),
            embeds: false,
            restart_options: vec!["--relocate=/a=/b".into()],
            same_machine: Cell::new(false),
        };
        let plain = side.restart(Path::new("/var/x.cryo"));
        assert_eq!(
            plain,
            "`ssh -T node8 cryo restart --detach --relocate=/a=/b /var/x.cryo`"
        );
        let words = side.restart(Path::new("/my images/x.cryo"));
        let command = words.trim_matches('`').replace("ssh -T node8", "sh -c");
        // The second shell hears of one word.
        let command = command.replace("cryo restart", "printf %s, restart");
        let said = std::process::Command::new("sh")
            .args(["-c", &command])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&said.stdout),
            "restart,--detach,--relocate=/a=/b,/my images/x.cryo,"
        );
    }
}
