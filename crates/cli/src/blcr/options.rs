//! Options as getopt_long(3) takes them: long ones may be cut short as long as they stay clear, short ones may stand together, and
//! options and operands may be mixed.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Whether an option has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// It has none.
    None,
    /// It has one, in the same word or the next one.
    Needed,
    /// It may have one, after a `=`.
    Allowed,
}

/// An option that a command knows.
#[derive(Debug)]
pub struct Known {
    /// Its name after `--`; empty if it has none.
    pub long: &'static str,
    /// Its letter after `-`.
    pub short: Option<u8>,
    /// Whether it has a value.
    pub value: Value,
}

/// An option that is known by a long name, and maybe by a letter.
pub const fn option(long: &'static str, short: &str, value: Value) -> Known {
    let short = match short.as_bytes() {
        [letter, ..] => Some(*letter),
        [] => None,
    };
    Known { long, short, value }
}

/// A command line, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Options by the long names that they have in the table (or their letter), with their values, in order.
    pub options: Vec<(String, Option<OsString>)>,
    /// What is no option.
    pub operands: Vec<OsString>,
}

/// Takes a command line apart.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse(words: Vec<OsString>, known: &[Known]) -> Result<Line, String> {
    let mut line = Line::default();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"--" => {
                line.operands.extend(words);
                break;
            }
            [b'-', b'-', long @ ..] => {
                let option = take_long(long, known, &mut words)?;
                line.options.push(option);
            }
            [b'-', letters @ ..] if !letters.is_empty() => {
                take_short(letters, known, &mut words, &mut line)?;
            }
            _ => line.operands.push(word),
        }
    }
    Ok(line)
}

fn take_long(
    word: &[u8],
    known: &[Known],
    words: &mut impl Iterator<Item = OsString>,
) -> Result<(String, Option<OsString>), String> {
    let middle = word.iter().position(|byte| *byte == b'=');
    let (name, given) = match middle {
        Some(middle) => (&word[..middle], Some(&word[middle + 1..])),
        None => (word, None),
    };
    let shown = String::from_utf8_lossy(name).into_owned();
    let exact = known.iter().find(|option| option.long.as_bytes() == name);
    let option = match exact {
        Some(option) => option,
        None => {
            let mut begun = known
                .iter()
                .filter(|option| !name.is_empty() && option.long.as_bytes().starts_with(name));
            match (begun.next(), begun.next()) {
                (Some(option), None) => option,
                (Some(_), Some(_)) => return Err(format!("option '--{shown}' is ambiguous")),
                (None, _) => return Err(format!("unrecognized option '--{shown}'")),
            }
        }
    };
    let given = given.map(|value| OsStr::from_bytes(value).to_owned());
    let value = match (option.value, given) {
        (Value::None, Some(_)) => {
            return Err(format!(
                "option '--{}' doesn't allow an argument",
                option.long
            ));
        }
        (Value::Needed, None) => Some(
            words
                .next()
                .ok_or_else(|| format!("option '--{}' requires an argument", option.long))?,
        ),
        (_, given) => given,
    };
    Ok((option.long.to_owned(), value))
}

fn take_short(
    letters: &[u8],
    known: &[Known],
    words: &mut impl Iterator<Item = OsString>,
    line: &mut Line,
) -> Result<(), String> {
    for (index, letter) in letters.iter().enumerate() {
        let shown = char::from(*letter);
        let option = known
            .iter()
            .find(|option| option.short == Some(*letter))
            .ok_or_else(|| format!("invalid option -- '{shown}'"))?;
        let value = match (option.value, &letters[index + 1..]) {
            (Value::Needed, []) => Some(
                words
                    .next()
                    .ok_or_else(|| format!("option requires an argument -- '{shown}'"))?,
            ),
            (Value::Needed, rest) => Some(OsString::from_vec(rest.to_vec())),
            _ => None,
        };
        let is_last = value.is_some();
        let name = match option.long {
            "" => shown.to_string(),
            long => long.to_owned(),
        };
        line.options.push((name, value));
        if is_last {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Known] = &[
        option("file", "f", Value::Needed),
        option("fd", "F", Value::Needed),
        option("backup", "", Value::Allowed),
        option("tree", "T", Value::None),
        option("term", "", Value::None),
        option("quiet", "q", Value::None),
    ];

    fn parsed(line: &str) -> Result<Line, String> {
        parse(line.split(' ').map(OsString::from).collect(), KNOWN)
    }

    #[test]
    fn lines_are_taken_apart() {
        let line = parsed("--tre 12 -qf image --backup=old -- -x").unwrap();
        let names: Vec<_> = line.options.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["tree", "quiet", "file", "backup"]);
        assert_eq!(line.options[2].1.as_deref(), Some(OsStr::new("image")));
        assert_eq!(line.options[3].1.as_deref(), Some(OsStr::new("old")));
        assert_eq!(line.operands, ["12", "-x"]);
        let together = parsed("-fimage --file=two").unwrap();
        assert_eq!(together.options[0].1.as_deref(), Some(OsStr::new("image")));
        assert_eq!(together.options[1].1.as_deref(), Some(OsStr::new("two")));
    }

    #[test]
    fn wrong_lines_are_told() {
        for (line, word) in [
            ("--t", "ambiguous"),
            ("--nothing", "unrecognized"),
            ("-x", "invalid"),
            ("-f", "requires"),
            ("--file", "requires"),
            ("--tree=1", "doesn't allow"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
