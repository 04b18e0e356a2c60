//! `cr_info`: what a context file holds.

use std::ffi::OsString;

use super::{USAGE, VERSION, print};
use crate::console::{Console, Form};

const HELP: &str = "\
Usage: cr_info FILE
Shows what a context file holds, as `cryo show` does, which has options for more.
";

/// Shows it.
pub fn run(words: Vec<OsString>) -> u8 {
    let [word] = words.as_slice() else {
        eprint!("{HELP}");
        return USAGE;
    };
    match word.to_str() {
        Some("--help" | "-?") => return print(HELP),
        Some("--version") => return print(&format!("cr_info: version {VERSION}\n")),
        _ => {}
    }
    let console = Console { form: Form::Text };
    match crate::command::show_image(word.into(), console) {
        Ok(status) => status,
        Err(failure) => {
            console.failure(&failure);
            failure.status
        }
    }
}
