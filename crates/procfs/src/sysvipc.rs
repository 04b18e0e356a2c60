//! `/proc/sysvipc/shm`, `sem` and `msg`: the System V objects of the reader's IPC namespace. proc(5), kernel `sysvipc_shm_proc_show`,
//! `sysvipc_sem_proc_show` and `sysvipc_msg_proc_show` in ipc/.

use crate::error::ParseError;
use crate::scan;

/// What all System V objects have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SystemVObject {
    /// Its key; 0 is `IPC_PRIVATE`.
    pub key: i32,
    /// Its id.
    pub identifier: i32,
    /// Permission bits, and for segments `SHM_DEST` (01000) and `SHM_LOCKED` (02000).
    pub mode: u32,
    /// Its owner, in the user namespace of the reader.
    pub user: u32,
    /// Its group.
    pub group: u32,
    /// Who created it.
    pub creator: u32,
    /// The group of who created it.
    pub creator_group: u32,
    /// When it was created, or its owner or mode last changed, in seconds since 1970.
    pub changed: u64,
}

/// A shared memory segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// Key, id and owners.
    pub object: SystemVObject,
    /// Its size in bytes.
    pub size: u64,
    /// The process that created it, in the pid namespace of the reader; 0 from outside of it.
    pub creating_process: i32,
    /// How many mappings there are of it.
    pub attachments: u64,
    /// Bytes of it in swap; 0 where the kernel does not tell.
    pub swap: u64,
}

/// A set of semaphores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SemaphoreSet {
    /// Key, id and owners.
    pub object: SystemVObject,
    /// How many there are in it.
    pub count: u32,
    /// When semop(2) last succeeded, in seconds since 1970; 0 for never.
    pub operated: u64,
}

/// A message queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageQueue {
    /// Key, id and owners.
    pub object: SystemVObject,
    /// Bytes in it.
    pub bytes: u64,
    /// Messages in it.
    pub messages: u64,
    /// The process that last sent one, in the pid namespace of the reader; 0 for none.
    pub sender: i32,
    /// The process that last received one; 0 for none.
    pub receiver: i32,
}

/// Parses `/proc/sysvipc/shm`: a heading, then one line for each segment.
///
/// # Errors
/// At the first line that is none.
pub fn segments(text: &[u8]) -> Result<Vec<Segment>, ParseError> {
    lines(text, "sysvipc/shm", |words| {
        let mut object = beginning(words)?;
        let size = words.number()?;
        let creating_process = words.number()?;
        words.skip(1)?;
        let attachments = words.number()?;
        owners(words, &mut object)?;
        words.skip(2)?;
        object.changed = words.number()?;
        words.skip(1)?;
        Some(Segment {
            object,
            size,
            creating_process,
            attachments,
            swap: words.number().unwrap_or(0),
        })
    })
}

/// Parses `/proc/sysvipc/sem`: a heading, then one line for each set.
///
/// # Errors
/// At the first line that is none.
pub fn semaphore_sets(text: &[u8]) -> Result<Vec<SemaphoreSet>, ParseError> {
    lines(text, "sysvipc/sem", |words| {
        let mut object = beginning(words)?;
        let count = words.number()?;
        owners(words, &mut object)?;
        let operated = words.number()?;
        object.changed = words.number()?;
        Some(SemaphoreSet {
            object,
            count,
            operated,
        })
    })
}

/// Parses `/proc/sysvipc/msg`: a heading, then one line for each queue.
///
/// # Errors
/// At the first line that is none.
pub fn message_queues(text: &[u8]) -> Result<Vec<MessageQueue>, ParseError> {
    lines(text, "sysvipc/msg", |words| {
        let mut object = beginning(words)?;
        let (bytes, messages) = (words.number()?, words.number()?);
        let (sender, receiver) = (words.number()?, words.number()?);
        owners(words, &mut object)?;
        words.skip(2)?;
        object.changed = words.number()?;
        Some(MessageQueue {
            object,
            bytes,
            messages,
            sender,
            receiver,
        })
    })
}

/// The words of one line, one after the other.
struct Words<'a, I: Iterator<Item = &'a [u8]>>(I);

impl<'a, I: Iterator<Item = &'a [u8]>> Words<'a, I> {
    fn number<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(scan::decimal(self.0.next()?)?).ok()
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        (0..count).try_for_each(|_| self.0.next().map(drop))
    }
}

fn lines<'a, T>(
    text: &'a [u8],
    file: &'static str,
    parse: impl Fn(&mut Words<'a, Box<dyn Iterator<Item = &'a [u8]> + 'a>>) -> Option<T>,
) -> Result<Vec<T>, ParseError> {
    scan::Lines::new(text)
        .skip(1)
        .map(|(number, line)| {
            let words: Box<dyn Iterator<Item = &'a [u8]> + 'a> = Box::new(scan::words(line));
            parse(&mut Words(words)).ok_or_else(|| ParseError::new(file, number, "no object", line))
        })
        .collect()
}

/// Key, id and mode.
fn beginning<'a, I: Iterator<Item = &'a [u8]>>(words: &mut Words<'a, I>) -> Option<SystemVObject> {
    let text = |word: &'a [u8]| std::str::from_utf8(word).ok();
    Some(SystemVObject {
        key: text(words.0.next()?)?.parse().ok()?,
        identifier: words.number()?,
        mode: u32::from_str_radix(text(words.0.next()?)?, 8).ok()?,
        ..SystemVObject::default()
    })
}

/// Owner and group, creator and its group.
fn owners<'a, I: Iterator<Item = &'a [u8]>>(
    words: &mut Words<'a, I>,
    object: &mut SystemVObject,
) -> Option<()> {
    object.user = words.number()?;
    object.group = words.number()?;
    object.creator = words.number()?;
    object.creator_group = words.number()?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_read() {
        let text = b"       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n\
            -559038737      32769  1600                 12288   100   101      2  1000  1000     0     5 1700000001          0 1700000000                  8192                  4096\n";
        let object = SystemVObject {
            key: -559_038_737,
            identifier: 32769,
            mode: 0o1600,
            user: 1000,
            group: 1000,
            creator: 0,
            creator_group: 5,
            changed: 1_700_000_000,
        };
        let segment = Segment {
            object,
            size: 12288,
            creating_process: 100,
            attachments: 2,
            swap: 4096,
        };
        assert_eq!(segments(text).unwrap(), [segment]);
    }

    #[test]
    fn sets_and_queues_are_read() {
        let text = b"       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n\
                     \x20        0      32769   600          3     1     2     3     4          7 1700000000\n";
        let sets = semaphore_sets(text).unwrap();
        assert_eq!((sets[0].count, sets[0].operated), (3, 7));
        assert_eq!(sets[0].object.creator_group, 4);
        let text = b"       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n\
                     \x20        9          2   644         12          2    50    51     0     0     0     0          1          2          3\n";
        let queues = message_queues(text).unwrap();
        assert_eq!((queues[0].bytes, queues[0].messages), (12, 2));
        assert_eq!((queues[0].sender, queues[0].receiver), (50, 51));
        assert_eq!(queues[0].object.changed, 3);
    }

    #[test]
    fn a_line_that_is_cut_off_is_an_error() {
        assert!(segments(b"heading\n1 2 600 5\n").is_err());
        assert!(semaphore_sets(b"").unwrap().is_empty());
    }
}
