//! The `fanotify` lines of `/proc/PID/fdinfo/FD`: kernel `fanotify_show_fdinfo` in fs/notify/fdinfo.c.

use crate::scan;

/// One `fanotify` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FanotifyLine {
    /// The group itself.
    Group {
        /// `FAN_*` flags of fanotify_init(2).
        flags: u32,
        /// `O_*` flags of the descriptors that come with events.
        event_flags: u32,
    },
    /// A mark.
    Mark(FanotifyMark),
}

/// A mark of a fanotify group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FanotifyMark {
    /// What is marked.
    pub object: Marked,
    /// `FAN_MARK_*` flags that the mark keeps.
    pub flags: u32,
    /// `FAN_*` events that are reported, with `FAN_ONDIR` and `FAN_EVENT_ON_CHILD`.
    pub mask: u64,
    /// Events that are ignored.
    pub ignored: u64,
}

/// What a fanotify mark is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marked {
    /// A mount, by its id in mountinfo.
    Mount(i32),
    /// A file system: the kernel's internal device number (major << 20 | minor).
    FileSystem(u64),
    /// A file.
    Inode {
        /// Its inode number.
        inode: u64,
        /// Its file system, as above.
        device: u64,
        /// Type and bytes of its file handle, where the file system has handles.
        handle: Option<(i32, Vec<u8>)>,
    },
    /// Something that is not known here.
    Other,
}

/// Reads a line that begins with `fanotify `; none for one that cannot be understood.
pub fn parse_line(line: &[u8]) -> Option<FanotifyLine> {
    let (mut inode, mut device, mut mount, mut event_flags) = (None, None, None, None);
    let (mut handle_type, mut handle) = (None, Vec::new());
    let (mut flags, mut mark_flags, mut mask, mut ignored) = (0, 0, 0, 0);
    for word in scan::words(line).skip(1) {
        let (key, value) = scan::cut(word, b':')?;
        match key {
            b"flags" => flags = scan::hexadecimal(value)?,
            b"event-flags" => event_flags = Some(scan::hexadecimal(value)?),
            b"mnt_id" => mount = Some(scan::hexadecimal::<u32>(value)? as i32),
            b"sdev" => device = Some(scan::hexadecimal(value)?),
            b"ino" => inode = Some(scan::hexadecimal(value)?),
            b"mflags" => mark_flags = scan::hexadecimal(value)?,
            b"mask" => mask = scan::hexadecimal(value)?,
            b"ignored_mask" => ignored = scan::hexadecimal(value)?,
            b"fhandle-type" => handle_type = Some(scan::hexadecimal::<u32>(value)? as i32),
            b"f_handle" => {
                handle = value
                    .chunks(2)
                    .map(scan::hexadecimal)
                    .collect::<Option<_>>()?;
            }
            _ => {}
        }
    }
    if let Some(event_flags) = event_flags {
        return Some(FanotifyLine::Group { flags, event_flags });
    }
    let object = match (mount, inode, device) {
        (Some(mount), ..) => Marked::Mount(mount),
        (None, Some(inode), Some(device)) => Marked::Inode {
            inode,
            device,
            handle: handle_type.map(|kind| (kind, handle)),
        },
        (None, None, Some(device)) => Marked::FileSystem(device),
        _ => Marked::Other,
    };
    Some(FanotifyLine::Mark(FanotifyMark {
        object,
        flags: mark_flags,
        mask,
        ignored,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_linux_6_18_are_read() {
        let group = parse_line(b"fanotify flags:0 event-flags:8000").unwrap();
        let wanted = FanotifyLine::Group {
            flags: 0,
            event_flags: 0x8000,
        };
        assert_eq!(group, wanted);
        let mark = |line: &[u8]| match parse_line(line).unwrap() {
            FanotifyLine::Mark(mark) => mark,
            other => panic!("{other:?}"),
        };
        let inode = mark(
            b"fanotify ino:3c4a7 sdev:fe00000 mflags:0 mask:8000020 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:a7c4030000000000",
        );
        assert_eq!(
            inode.object,
            Marked::Inode {
                inode: 0x3c4a7,
                device: 0xfe0_0000,
                handle: Some((1, vec![0xa7, 0xc4, 3, 0, 0, 0, 0, 0])),
            }
        );
        assert_eq!((inode.mask, inode.ignored), (0x800_0020, 0));
        let mount = mark(b"fanotify mnt_id:1b mflags:40 mask:20 ignored_mask:2");
        assert_eq!(mount.object, Marked::Mount(27));
        assert_eq!((mount.flags, mount.ignored), (0x40, 2));
        let system = mark(b"fanotify sdev:fe00000 mflags:0 mask:20 ignored_mask:0");
        assert_eq!(system.object, Marked::FileSystem(0xfe0_0000));
        assert_eq!(
            mark(b"fanotify mnt_ns:5 mflags:0 mask:1 ignored_mask:0").object,
            Marked::Other
        );
        assert_eq!(parse_line(b"fanotify nonsense"), None);
        assert_eq!(parse_line(b"fanotify mask:x"), None);
    }
}
