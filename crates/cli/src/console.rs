//! What is printed, and where.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde_json::json;

use crate::exit::{Code, Failure};

/// The form of what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// JSON objects.
    Json,
}

/// Prints results, remarks and failures.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    /// In which form.
    pub form: Form,
}

impl Console {
    /// Prints the result of a command to standard output. A reader that has had enough (`| head`) is no failure.
    pub fn result(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let text = match self.form {
            Form::Text => harmless(&text()),
            Form::Json => json_line(value)?,
        };
        write_whole(io::stdout().lock(), &text)
    }

    /// Prints a document as it is.
    pub fn document(&self, text: &str) -> Result<(), Failure> {
        write_whole(io::stdout().lock(), text)
    }

    /// As [`Console::result`], of a text that is coloured: names in it have been made harmless ([`clean`]) before.
    pub fn coloured_result(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let text = match self.form {
            Form::Text => text(),
            Form::Json => json_line(value)?,
        };
        write_whole(io::stdout().lock(), &text)
    }

    /// Prints the result of a command whose standard output carries something else: to standard error, in text only if
    /// that is a terminal.
    pub fn result_beside(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.form {
            Form::Json => write_whole(io::stderr().lock(), &json_line(value)?),
            Form::Text if io::stderr().is_terminal() => {
                write_whole(io::stderr().lock(), &harmless(&text()))
            }
            Form::Text => Ok(()),
        }
    }

    /// Something worth knowing that changes nothing.
    pub fn remark(&self, text: &str) {
        let line = match self.form {
            Form::Json => json!({ "remark": text }).to_string(),
            Form::Text if io::stderr().is_terminal() => format!("cryo: {text}"),
            Form::Text => return,
        };
        to_standard_error(&line);
    }

    /// Something that went wrong without ending the command.
    pub fn warning(&self, text: &str) {
        to_standard_error(&match self.form {
            Form::Json => json!({ "warning": text }).to_string(),
            Form::Text => format!("cryo: {text}"),
        });
    }

    /// Why the command failed.
    pub fn failure(&self, failure: &Failure) {
        to_standard_error(&match self.form {
            Form::Json => {
                let mut error = json!({
                    "code": failure.code,
                    "exit": failure.status,
                    "message": failure.message,
                });
                if failure.code == Code::Refused {
                    error["refusals"] = json!(failure.refusals);
                }
                json!({ "error": error }).to_string()
            }
            Form::Text => text_of(failure),
        });
    }
}

fn text_of(failure: &Failure) -> String {
    match failure.refusals.as_slice() {
        [] => format!("cryo: {}", failure.message),
        [one] => format!("cryo: {}: {one}", failure.message),
        several => {
            let mut text = format!("cryo: {}; {} reasons:", failure.message, several.len());
            for refusal in several {
                text.push_str(&format!("\n  {refusal}"));
            }
            text
        }
    }
}

fn json_line(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(value);
    text.map_err(|error| {
        Failure::new(
            Code::Unexpected,
            format!("cannot print the result: {error}"),
        )
    })
}

fn write_whole(mut stream: impl Write, text: &str) -> Result<(), Failure> {
    let line_end = if text.is_empty() || text.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let written = stream
        .write_all(text.as_bytes())
        .and_then(|()| stream.write_all(line_end.as_bytes()))
        .and_then(|()| stream.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::system(
            "write the result to standard output",
        )(error)),
        _ => Ok(()),
    }
}

/// Names in images and of processes may hold anything; a terminal is not to obey them.
fn harmless(text: &str) -> String {
    let clean = |letter: char| {
        if letter.is_control() && !matches!(letter, '\n' | '\t') {
            '?'
        } else {
            letter
        }
    };
    text.chars().map(clean).collect()
}

/// A name as it can stand in a line: whatever would end the line, move the cursor, or turn the direction of writing is replaced.
pub fn clean(text: &str) -> String {
    let clean = |letter: char| match letter.is_control() || turns_writing(letter) {
        true => '?',
        false => letter,
    };
    text.chars().map(clean).collect()
}

/// Whether a character changes the direction of those around it (Unicode Annex 9): a name could look like another one.
pub fn turns_writing(letter: char) -> bool {
    matches!(letter, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn to_standard_error(line: &str) {
    let line = harmless(line);
    // A job's terminal may be in raw mode, where a line feed alone stays in its column.
    let line = match io::stderr().is_terminal() {
        true => line.replace('\n', "\r\n") + "\r\n",
        false => format!("{line}\n"),
    };
    // Where even this cannot be written nobody listens.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}
