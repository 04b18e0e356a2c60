//! Records: typed, versioned messages, gathered in a set.

use std::collections::BTreeMap;

use zerocopy::{FromBytes, IntoBytes};

use crate::ImageError;
use crate::format::{MAX_KIND_NAME, MAX_KINDS, MAX_RECORD, MAX_RECORDS, RecordEntry};

/// A record's type: its name for all time, and its version.
///
/// The version rises only when an older reader would misunderstand the record. A field that an older reader may
/// ignore is added without a new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind {
    /// 1 to 64 characters of `a-z 0-9 . _ -`.
    pub name: &'static str,
    /// 1 or above; in a [`Record`] the newest version that its type decodes.
    pub version: u32,
}

/// A message that can be stored in an image.
pub trait Record: prost::Message + Default {
    /// The record's name, and the version written, which is also the newest one read.
    const KIND: Kind;
}

/// One record as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawRecord<'a> {
    /// Name of the kind.
    pub name: &'a str,
    /// Version of the kind.
    pub version: u32,
    /// The encoded message.
    pub body: &'a [u8],
}

/// A kind met in a set, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindCount {
    /// Name of the kind.
    pub name: String,
    /// Version of the kind.
    pub version: u32,
    /// Number of records of this kind and version.
    pub count: usize,
}

/// Records in the order they were pushed or read.
#[derive(Debug, Clone, Default)]
pub struct RecordSet {
    /// Entries as they stand in a records section: entry header, name, body.
    data: Vec<u8>,
    entries: Vec<Entry>,
    kinds: Vec<KindCount>,
    kind_index: BTreeMap<(String, u32), usize>,
    created_by: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Index in `kinds`.
    kind: u32,
    /// Offset in `data` of the entry header. Small types, since a hostile image can hold very many tiny records.
    start: u32,
}

impl Entry {
    fn start(self) -> usize {
        self.start as usize
    }

    fn kind(self) -> usize {
        self.kind as usize
    }
}

impl RecordSet {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn read_from(created_by: &str) -> Self {
        Self {
            created_by: Some(created_by.to_owned()),
            ..Self::default()
        }
    }

    /// Adds a record at the end.
    ///
    /// # Errors
    /// [`ImageError::Oversized`] if the record or the set gets larger than an image may hold,
    /// or has more kinds than one may have, [`ImageError::BadKind`] if the kind's name or version is not allowed.
    pub fn push<R: Record>(&mut self, record: &R) -> Result<(), ImageError> {
        self.push_raw(RawRecord {
            name: R::KIND.name,
            version: R::KIND.version,
            body: &record.encode_to_vec(),
        })
    }

    /// Adds an encoded record at the end.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_raw(&mut self, record: RawRecord<'_>) -> Result<(), ImageError> {
        let RawRecord {
            name,
            version,
            body,
        } = record;
        if !is_kind(name, version) {
            return Err(ImageError::BadKind {
                name: name.to_owned(),
                version,
            });
        }
        let start = self.data.len();
        let body_start = start + size_of::<RecordEntry>() + name.len();
        check_size(
            &format!("a \"{name}\" record"),
            body.len() as u64,
            MAX_RECORD as u64,
        )?;
        check_total((body_start + body.len()) as u64)?;
        let kind = self.kind_of(name, version)?;
        let head = RecordEntry {
            name_length: fit(name.len()).into(),
            version: version.into(),
            body_length: fit(body.len()).into(),
        };
        self.data.extend_from_slice(head.as_bytes());
        self.data.extend_from_slice(name.as_bytes());
        self.data.extend_from_slice(body);
        self.kinds[kind].count += 1;
        self.entries.push(Entry {
            kind: fit(kind),
            start: fit(start),
        });
        Ok(())
    }

    fn kind_of(&mut self, name: &str, version: u32) -> Result<usize, ImageError> {
        // Records of one kind mostly come one after the other.
        if let Some(last) = self.entries.last()
            && self.kinds[last.kind()].name == name
            && self.kinds[last.kind()].version == version
        {
            return Ok(last.kind());
        }
        let key = (name.to_owned(), version);
        if let Some(kind) = self.kind_index.get(&key) {
            return Ok(*kind);
        }
        let kind = self.kinds.len();
        check_size(
            "the table of kinds, in entries,",
            kind as u64 + 1,
            MAX_KINDS,
        )?;
        self.kinds.push(KindCount {
            name: key.0.clone(),
            version,
            count: 0,
        });
        self.kind_index.insert(key, kind);
        Ok(kind)
    }

    /// Adds all records of another set at the end.
    ///
    /// # Errors
    /// [`ImageError::Oversized`] if the set gets larger than an image may hold.
    pub fn append(&mut self, other: &Self) -> Result<(), ImageError> {
        other.iter().try_for_each(|record| self.push_raw(record))
    }

    /// All records of one kind, in their order.
    ///
    /// # Errors
    /// [`ImageError::NewerKind`] if one of them has a newer version than `R`,
    /// [`ImageError::BadRecord`] if one cannot be decoded.
    pub fn all<R: Record>(&self) -> Result<Vec<R>, ImageError> {
        self.of_name(R::KIND.name)
            .map(|record| {
                if record.version > R::KIND.version {
                    return Err(ImageError::NewerKind {
                        kind: record.name.to_owned(),
                        found: record.version,
                        supported: R::KIND.version,
                        created_by: self.created_by(),
                    });
                }
                R::decode(record.body).map_err(|source| ImageError::BadRecord {
                    kind: R::KIND.name,
                    created_by: self.created_by(),
                    source,
                })
            })
            .collect()
    }

    /// The only record of a kind.
    ///
    /// # Errors
    /// As [`all`](Self::all), and [`ImageError::MissingRecord`], [`ImageError::RepeatedRecord`].
    pub fn one<R: Record>(&self) -> Result<R, ImageError> {
        self.optional()?.ok_or_else(|| ImageError::MissingRecord {
            kind: R::KIND.name,
            created_by: self.created_by(),
        })
    }

    /// The only record of a kind, or `None` if there is none.
    ///
    /// # Errors
    /// As [`all`](Self::all), and [`ImageError::RepeatedRecord`].
    pub fn optional<R: Record>(&self) -> Result<Option<R>, ImageError> {
        let mut all = self.all::<R>()?;
        if all.len() > 1 {
            return Err(ImageError::RepeatedRecord {
                kind: R::KIND.name,
                count: all.len(),
                created_by: self.created_by(),
            });
        }
        Ok(all.pop())
    }

    /// The kinds in the set with their counts, in the order they were first met.
    #[must_use]
    pub fn kinds(&self) -> &[KindCount] {
        &self.kinds
    }

    /// The kinds in the set that are not among `known`, or of a newer version than known there.
    ///
    /// A restart must refuse an image with such kinds: they stand for state it would silently drop.
    #[must_use]
    pub fn unknown(&self, known: &[Kind]) -> Vec<KindCount> {
        let is_known = |met: &KindCount| {
            known
                .iter()
                .any(|kind| kind.name == met.name && kind.version >= met.version)
        };
        self.kinds
            .iter()
            .filter(|met| !is_known(met))
            .cloned()
            .collect()
    }

    /// All records as stored, in their order.
    pub fn iter(&self) -> impl Iterator<Item = RawRecord<'_>> {
        (0..self.entries.len()).map(|at| self.raw(at))
    }

    fn of_name(&self, name: &'static str) -> impl Iterator<Item = RawRecord<'_>> {
        let matching = move |at: &usize| self.kinds[self.entries[*at].kind()].name == name;
        (0..self.entries.len())
            .filter(matching)
            .map(|at| self.raw(at))
    }

    fn raw(&self, at: usize) -> RawRecord<'_> {
        let entry = self.entries[at];
        let kind = &self.kinds[entry.kind()];
        let body = entry.start() + size_of::<RecordEntry>() + kind.name.len();
        RawRecord {
            name: &kind.name,
            version: kind.version,
            body: &self.data[body..self.start_of(at + 1)],
        }
    }

    /// Where an entry begins in `data`, or where the data ends.
    fn start_of(&self, at: usize) -> usize {
        self.entries
            .get(at)
            .map_or(self.data.len(), |entry| entry.start())
    }

    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn created_by(&self) -> String {
        self.created_by
            .clone()
            .unwrap_or_else(|| "this program".to_owned())
    }

    /// The set cut into section bodies of about `target` bytes, each with its number of records.
    pub(crate) fn section_bodies(&self, target: usize) -> impl Iterator<Item = (&[u8], u64)> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = next;
            let start = self.entries.get(first)?.start();
            let fits = |at: &usize| self.start_of(at + 1) - start <= target;
            // One record at least, however large.
            next += 1;
            next += (next..self.entries.len()).take_while(fits).count();
            Some((
                &self.data[start..self.start_of(next)],
                (next - first) as u64,
            ))
        })
    }

    /// Adds the records of a section body that lies at `offset` of the image.
    pub(crate) fn read_body(
        &mut self,
        body: &[u8],
        count: u64,
        offset: u64,
    ) -> Result<(), ImageError> {
        let mut rest = body;
        let mut met = 0;
        while !rest.is_empty() {
            let at = offset + (body.len() - rest.len()) as u64;
            let outside = || ImageError::damaged(at, "a record reaches beyond its section");
            let (head, after) = RecordEntry::read_from_prefix(rest).map_err(|_| outside())?;
            let (name, after) = split(after, head.name_length.get()).ok_or_else(outside)?;
            let (record, after) = split(after, head.body_length.get()).ok_or_else(outside)?;
            let version = head.version.get();
            let name = std::str::from_utf8(name)
                .ok()
                .filter(|name| is_kind(name, version))
                .ok_or_else(|| {
                    ImageError::damaged(at, "a record's kind has no valid name or version")
                })?;
            self.push_raw(RawRecord {
                name,
                version,
                body: record,
            })?;
            met += 1;
            rest = after;
        }
        if met == count {
            Ok(())
        } else {
            Err(ImageError::damaged(
                offset,
                "the number of records in a section is wrong",
            ))
        }
    }
}

fn split(bytes: &[u8], length: u32) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(usize::try_from(length).ok()?)
}

fn fit(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn is_kind(name: &str, version: u32) -> bool {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    (1..=MAX_KIND_NAME).contains(&name.len()) && name.bytes().all(allowed) && version > 0
}

/// Refuses records that in all are larger than an image may hold.
pub(crate) fn check_total(size: u64) -> Result<(), ImageError> {
    check_size("the set of all records", size, MAX_RECORDS)
}

fn check_size(what: &str, size: u64, limit: u64) -> Result<(), ImageError> {
    if size <= limit {
        return Ok(());
    }
    Err(ImageError::Oversized {
        what: what.to_owned(),
        size,
        limit,
    })
}
