//! `/proc/PID/mountinfo`: proc_pid_mountinfo(5), kernel `show_mountinfo` in fs/proc_namespace.c.

use crate::error::ParseError;
use crate::maps::Device;
use crate::scan;

/// One mount of a mount namespace. Octal escapes are undone everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Mount id, as in `mnt_id` of `fdinfo`; reused after unmounting.
    pub id: i32,
    /// Id of the parent mount; the mount's own for the top of the tree.
    pub parent: i32,
    /// Device (`st_dev`) of files on it.
    pub device: Device,
    /// Directory of the file system that is the root of this mount.
    pub root: Vec<u8>,
    /// Mount point, seen from the process's root.
    pub mount_point: Vec<u8>,
    /// Options of the mount, separated by commas.
    pub options: Vec<u8>,
    /// Propagation.
    pub optional_fields: Vec<OptionalField>,
    /// File system type, with its subtype after a dot.
    pub file_system: Vec<u8>,
    /// What is mounted; may be any text, also none.
    pub source: Vec<u8>,
    /// Options of the file system, separated by commas.
    pub super_options: Vec<u8>,
}

impl Mount {
    /// Whether `option` is among the mount's own options.
    pub fn has_option(&self, option: &str) -> bool {
        self.options
            .split(|&byte| byte == b',')
            .any(|found| found == option.as_bytes())
    }
}

/// How a mount takes part in propagation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionalField {
    /// `shared:N`: member of peer group N.
    Shared(i32),
    /// `master:N`: slave of peer group N.
    Master(i32),
    /// `propagate_from:N`: nearest dominant peer group under the process's root.
    PropagateFrom(i32),
    /// `unbindable`.
    Unbindable,
    /// A field that is not known here.
    Unknown(Vec<u8>),
}

/// Parses a `mountinfo` file.
///
/// # Errors
/// At the first line that is not a mount.
pub fn parse(text: &[u8]) -> Result<Vec<Mount>, ParseError> {
    scan::Lines::new(text)
        .map(|(number, line)| {
            parse_line(line)
                .ok_or_else(|| ParseError::new("mountinfo", number, "not a mount", line))
        })
        .collect()
}

/// Parses one line. Fields are separated by single blanks, since a source may be empty.
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = scan::decimal(fields.next()?)?;
    let parent = scan::decimal(fields.next()?)?;
    let (major, minor) = scan::cut(fields.next()?, b':')?;
    let device = Device {
        major: scan::decimal(major)?,
        minor: scan::decimal(minor)?,
    };
    let root = scan::unescape_octal(fields.next()?);
    let mount_point = scan::unescape_octal(fields.next()?);
    let options = scan::unescape_octal(fields.next()?);
    let mut optional_fields = Vec::new();
    loop {
        match fields.next()? {
            b"-" => break,
            // show_options of a few file systems leaves blanks behind the mount's options.
            b"" => {}
            field => optional_fields.push(optional_field(field)?),
        }
    }
    let file_system = scan::unescape_octal(fields.next()?);
    let source = scan::unescape_octal(fields.next()?);
    let rest: Vec<&[u8]> = fields.collect();
    let super_options = scan::unescape_octal(&rest.join(&b' '));
    Some(Mount {
        id,
        parent,
        device,
        root,
        mount_point,
        options,
        optional_fields,
        file_system,
        source,
        super_options,
    })
}

/// One optional field; `None` if a known one has no number.
fn optional_field(field: &[u8]) -> Option<OptionalField> {
    if let Some(group) = field.strip_prefix(b"shared:") {
        Some(OptionalField::Shared(scan::decimal(group)?))
    } else if let Some(group) = field.strip_prefix(b"master:") {
        Some(OptionalField::Master(scan::decimal(group)?))
    } else if let Some(group) = field.strip_prefix(b"propagate_from:") {
        Some(OptionalField::PropagateFrom(scan::decimal(group)?))
    } else if field == b"unbindable" {
        Some(OptionalField::Unbindable)
    } else {
        Some(OptionalField::Unknown(field.to_vec()))
    }
}
