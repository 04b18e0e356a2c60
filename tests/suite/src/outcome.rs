//! How a test ends: passed, failed with a text, or skipped with a reason that is counted.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;

use crate::scene::{Scene, User};

/// Why a test did not pass.
#[derive(Debug)]
pub enum Stop {
    /// This machine or user cannot show what is tested.
    Skipped(String),
    /// What was tested is wrong; everything a reader needs.
    Failed(String),
}

/// What the body of a test gives.
pub type Outcome<T = ()> = Result<T, Stop>;

/// A failure with this text.
pub fn failed<T>(text: impl fmt::Display) -> Outcome<T> {
    Err(Stop::Failed(text.to_string()))
}

/// A skip with this reason.
pub fn skip<T>(reason: impl fmt::Display) -> Outcome<T> {
    Err(Stop::Skipped(reason.to_string()))
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(format!("the test itself failed: {error}"))
    }
}

/// Runs one test in a scene of its own as `user`.
///
/// # Panics
///
/// With the text of the failure, which is how the test harness learns of it.
pub fn test(name: &str, user: User, body: impl FnOnce(&Scene) -> Outcome) {
    let scene = match Scene::new(name, user) {
        Ok(scene) => scene,
        Err(stop) => return report(name, stop, None),
    };
    if let Err(stop) = body(&scene) {
        let account = scene.account();
        if matches!(stop, Stop::Failed(_)) {
            scene.keep_if_asked();
        }
        drop(scene);
        report(name, stop, Some(account));
    }
}

/// For each `name => body` the tests `name::root` and `name::user`; a name alone is that of its body too.
///
/// ```ignore
/// for_each_user! {
///     taken => |scene| refused(scene, "taken");
/// }
/// for_each_user!(kept, lost);
/// ```
#[macro_export]
macro_rules! for_each_user {
    ($($name:ident => $body:expr;)*) => {
        $(mod $name {
            #[allow(unused_imports)]
            use super::*;

            #[test]
            fn root() {
                $crate::test(concat!(stringify!($name), "::root"), $crate::User::Root, $body);
            }

            #[test]
            fn user() {
                $crate::test(concat!(stringify!($name), "::user"), $crate::User::Ordinary, $body);
            }
        })*
    };
    ($($name:ident),* $(,)?) => {
        $crate::for_each_user! { $($name => super::$name;)* }
    };
}

fn report(name: &str, stop: Stop, account: Option<String>) {
    match stop {
        Stop::Skipped(reason) => note_skip(name, &reason),
        Stop::Failed(text) => {
            eprintln!("{name}: {text}\n{}", account.unwrap_or_default());
            // As a panic, but without a backtrace of this crate, which would only hide the account.
            std::panic::resume_unwind(Box::new(text));
        }
    }
}

/// Prints a skip and appends it to the file named by `CRYONAUT_SKIPS`.
fn note_skip(name: &str, reason: &str) {
    let line = format!("SKIP: {name}: {}", reason.trim());
    println!("{line}");
    if let Some(path) = std::env::var_os("CRYONAUT_SKIPS") {
        // One write of one line: tests run at the same time.
        let written = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        if let Err(error) = written {
            panic!("cannot note a skip in {}: {error}", path.display());
        }
    }
}
