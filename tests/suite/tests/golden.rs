//! Golden images: every format version ever written stays readable and restorable, and nothing that is made of such an
//! image by damage or by malice makes a reader panic. How they were made: tests/images/README.md.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use cryonaut_engine::host::{Changed, Host};
use cryonaut_engine::resource::REGISTRY;
use cryonaut_engine::resource::memory::{AddressSpace, FileIdentity};
use cryonaut_engine::{restart, show};
use cryonaut_image::{ImageReader, ImageWriter, RawRecord, RecordSet, SeekableImage};
use cryonaut_suite::scene::describe_status;
use cryonaut_suite::{Outcome, Scene, User, failed, place, skip, test};
use rustix::fs::FlockOperation;

/// An image of format version 1.
#[derive(Debug, Clone, Copy)]
struct Golden {
    /// The name of program and image.
    name: &'static str,
    /// The user whose job it was.
    owner: u32,
    /// Where its files are.
    files: Files,
}

/// Where the files are that a golden image needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    /// Beside it, for the directory that it is about.
    Beside,
    /// In it.
    Inside,
}

/// One process, which was root's.
const ALONE: Golden = Golden {
    name: "alone",
    owner: 0,
    files: Files::Beside,
};

/// Two processes and a zombie, which were an ordinary user's.
const PAIR: Golden = Golden {
    name: "pair",
    owner: 4242,
    files: Files::Beside,
};

/// One process of an ordinary user's, with its program and a file that it has open.
const CARRIED: Golden = Golden {
    name: "carried",
    owner: 4242,
    files: Files::Inside,
};

impl Golden {
    fn file(self, extension: &str) -> PathBuf {
        let directory = place::repository().join("tests/images/v1");
        directory.join(self.name).with_extension(extension)
    }

    fn open(self) -> Outcome<SeekableImage> {
        or_fail(SeekableImage::open(File::open(self.file("cryo"))?))
    }
}

fn or_fail<T>(result: Result<T, impl std::fmt::Display>) -> Outcome<T> {
    result.or_else(|error| failed(error))
}

/// The directory that an image is about, as it was when the image was made; removed in the end.
struct Place {
    path: PathBuf,
    /// Held until the directory has gone: no other test may have it.
    _lock: File,
}

impl Place {
    fn set_up(golden: Golden, executable: &FileIdentity) -> Outcome<Self> {
        let path = PathBuf::from(format!("/tmp/cryonaut-golden-v1-{}", golden.name));
        let lock = File::create(place::cache()?.join(format!("golden-{}.lock", golden.name)))?;
        or_fail(rustix::fs::flock(&lock, FlockOperation::LockExclusive))?;
        // What a test that was killed has left, if it is nobody else's.
        if fs::symlink_metadata(&path)
            .is_ok_and(|status| status.is_dir() && status.uid() == golden.owner)
        {
            fs::remove_dir_all(&path)?;
        }
        if let Err(error) = fs::DirBuilder::new().mode(0o700).create(&path) {
            return failed(format!("cannot create {}: {error}", path.display()));
        }
        let place = Self { path, _lock: lock };
        fs::write(place.path.join("out"), "READY\n")?;
        fs::write(place.path.join("go"), "")?;
        let own = Some(golden.owner);
        for name in ["out", "go", ""] {
            chown(place.path.join(name), own, own)?;
        }
        if golden.files == Files::Beside {
            let program = place.path.join(golden.name);
            fs::copy(golden.file(""), &program)?;
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
            let modified = Duration::from_nanos(executable.modified.unsigned_abs());
            File::options()
                .write(true)
                .open(&program)?
                .set_modified(UNIX_EPOCH + modified)?;
            chown(program, own, own)?;
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed is removed by the next test.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A skip where this processor cannot restore any job of the machine that the image was made on.
fn skip_on_another_machine(image: &SeekableImage) -> Outcome {
    const MACHINE: [&str; 2] = ["processor features", "processor state"];
    let host = or_fail(Host::look(false, Changed::Allow))?;
    let plan = or_fail(restart::plan(image, &or_fail(image.records())?, &host))?;
    for refusal in plan.refusals.list() {
        if MACHINE.contains(&refusal.object.as_str()) {
            return skip(format!("the golden image is of another machine: {refusal}"));
        }
    }
    Ok(())
}

/// Restores the job, which looks at all of its state and says OK.
fn restored(scene: &Scene, golden: Golden) -> Outcome {
    if scene.user_id() != golden.owner {
        return skip(format!("the golden image is of user {}", golden.owner));
    }
    // rustix::process::nice(0) tells the present value.
    if golden.owner != 0 && or_fail(rustix::process::nice(0))? > 0 {
        return skip(
            "the golden image has nice 0, which an ordinary user at a higher one may not set",
        );
    }
    let image = golden.open()?;
    let spaces: Vec<AddressSpace> = or_fail(or_fail(image.records())?.all())?;
    let Some(executable) = spaces.first().and_then(|space| space.executable.clone()) else {
        return failed("the golden image has no executable");
    };
    let place = Place::set_up(golden, &executable)?;
    skip_on_another_machine(&image)?;
    let copy = scene.file("image");
    scene.write(&copy, fs::read(golden.file("cryo"))?)?;
    // That a machine allows less than the one of the image is none of the format's matter.
    let job = scene
        .cryo(["restart", "--pids", "namespace", "--clamp-limits"])
        .arguments([&copy])
        .start("restart")?;
    let status = scene.wait(&job)?;
    let output = fs::read_to_string(place.path.join("out"))?;
    if status.success() && output == "READY\nOK\n" {
        return Ok(());
    }
    failed(format!(
        "{}: {}, its output is {output:?}",
        golden.name,
        describe_status(status)
    ))
}

/// What any machine can tell of an image: it is whole, holds what it held, and every record of it is understood.
fn read(scene: &Scene, golden: Golden) -> Outcome {
    let copy = scene.file("image");
    scene.write(&copy, fs::read(golden.file("cryo"))?)?;
    scene.cryo(["verify"]).arguments([&copy]).run()?.success()?;
    let shown = scene
        .cryo(["show", "--json"])
        .arguments([&copy])
        .run()?
        .success()?;
    if shown.stdout != fs::read_to_string(golden.file("json"))? {
        return failed(format!(
            "cryo show --json differs from {}; if that is meant, write it anew and say so in the change log:\n{}",
            golden.file("json").display(),
            shown.stdout
        ));
    }
    let image = golden.open()?;
    let records = or_fail(image.records())?;
    let host = or_fail(Host::look(false, Changed::Allow))?;
    // Planning decodes all there is.
    or_fail(restart::plan(&image, &records, &host))?;
    let known: Vec<_> = REGISTRY
        .iter()
        .flat_map(|resource| resource.kinds().iter().copied())
        .collect();
    match records.unknown(&known).as_slice() {
        [] => Ok(()),
        unknown => failed(format!("records that are not known: {unknown:?}")),
    }
}

#[test]
fn version_1_alone_is_read() {
    test("version_1_alone_is_read", User::Ordinary, |scene| {
        read(scene, ALONE)
    });
}

#[test]
fn version_1_pair_is_read() {
    test("version_1_pair_is_read", User::Ordinary, |scene| {
        read(scene, PAIR)
    });
}

#[test]
fn version_1_alone_is_restored() {
    test("version_1_alone_is_restored", User::Root, |scene| {
        restored(scene, ALONE)
    });
}

#[test]
fn version_1_pair_is_restored() {
    test("version_1_pair_is_restored", User::Ordinary, |scene| {
        restored(scene, PAIR)
    });
}

#[test]
fn version_1_carried_is_read() {
    test("version_1_carried_is_read", User::Ordinary, |scene| {
        read(scene, CARRIED)
    });
}

#[test]
fn version_1_carried_is_restored() {
    test("version_1_carried_is_restored", User::Ordinary, |scene| {
        restored(scene, CARRIED)
    });
}

/// Watches for panics; one watch at a time.
struct Watch {
    _alone: MutexGuard<'static, ()>,
}

static WATCHES: Mutex<()> = Mutex::new(());
static PANICS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

impl Watch {
    fn begin() -> Self {
        let alone = WATCHES.lock().unwrap_or_else(|error| error.into_inner());
        PANICS.lock().expect("no panic holds it").clear();
        std::panic::set_hook(Box::new(|panic| {
            PANICS
                .lock()
                .expect("no panic holds it")
                .insert(panic.to_string());
        }));
        Self { _alone: alone }
    }

    /// Does it; none if it panicked.
    fn over<T>(&self, body: impl FnOnce() -> T) -> Option<T> {
        catch_unwind(AssertUnwindSafe(body)).ok()
    }

    /// The places that panicked, each once.
    fn end(self) -> Vec<String> {
        drop(std::panic::take_hook());
        let panics = std::mem::take(&mut *PANICS.lock().expect("no panic holds it"));
        panics.into_iter().collect()
    }
}

fn in_memory(bytes: &[u8]) -> File {
    let memory = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = File::from(memory.expect("memory files exist since Linux 3.17"));
    file.write_all(bytes).expect("there is memory");
    file
}

/// Whether both readers take all of these bytes for an image.
fn is_whole(bytes: &[u8]) -> bool {
    let streamed = cryonaut_image::verify(bytes).is_ok();
    let Ok(image) = SeekableImage::open(in_memory(bytes)) else {
        return streamed;
    };
    // Damage that lies in no record leaves an image that can be shown, but not one that is whole.
    let _ = show::describe(&image);
    streamed || image.verify().is_ok()
}

/// Truncation and flipped bits all over an image: an error, and no panic.
#[test]
fn damage_is_an_error() {
    let whole = fs::read(ALONE.file("cryo")).expect("the golden image is there");
    let watch = Watch::begin();
    let mut accepted = Vec::new();
    for length in (0..whole.len()).step_by(512) {
        if watch.over(|| is_whole(&whole[..length])) == Some(true) {
            accepted.push(format!("cut to {length} bytes"));
        }
    }
    for (round, byte) in (0..whole.len()).step_by(64).enumerate() {
        let mut changed = whole.clone();
        changed[byte] ^= 1 << (round % 8);
        if watch.over(|| is_whole(&changed)) == Some(true) {
            accepted.push(format!("a bit flipped in byte {byte}"));
        }
    }
    let panics = watch.end();
    assert!(panics.is_empty(), "{}", panics.join("\n"));
    assert!(accepted.is_empty(), "taken for whole: {accepted:?}");
    assert!(is_whole(&whole));
}

/// A field of a Protocol Buffers message.
#[derive(Debug, Clone)]
struct Field {
    number: u64,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(Vec<u8>),
    Fixed32([u8; 4]),
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// The fields of a message, if these bytes can be one.
fn fields(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = take_varint(&mut bytes)?;
        let content = match key & 7 {
            0 => Content::Varint(take_varint(&mut bytes)?),
            1 => Content::Fixed64(bytes.split_off(..8)?.try_into().ok()?),
            2 => {
                let length = usize::try_from(take_varint(&mut bytes)?).ok()?;
                Content::Bytes(bytes.split_off(..length)?.to_vec())
            }
            5 => Content::Fixed32(bytes.split_off(..4)?.try_into().ok()?),
            _ => return None,
        };
        let number = key >> 3;
        if !(1..64).contains(&number) {
            return None;
        }
        fields.push(Field { number, content });
    }
    Some(fields)
}

fn message(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        let (kind, content) = match &field.content {
            Content::Varint(value) => {
                let mut content = Vec::new();
                put_varint(*value, &mut content);
                (0, content)
            }
            Content::Fixed64(content) => (1, content.to_vec()),
            Content::Fixed32(content) => (5, content.to_vec()),
            Content::Bytes(inner) => {
                let mut content = Vec::new();
                put_varint(inner.len() as u64, &mut content);
                content.extend_from_slice(inner);
                (2, content)
            }
        };
        put_varint(field.number << 3 | kind, &mut bytes);
        bytes.extend_from_slice(&content);
    }
    bytes
}

/// What numbers a hostile image would say: signs, limits, and one more than what arithmetic holds.
const NUMBERS: [u64; 9] = [
    0,
    1,
    0x7fff_ffff,
    0xffff_ffff_8000_0000,
    1 << 31,
    u32::MAX as u64,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// A few of the many ways in which one field can be another one.
fn others(content: &Content, depth: u32) -> Vec<Content> {
    match content {
        Content::Varint(_) => NUMBERS.map(Content::Varint).to_vec(),
        Content::Fixed64(_) => NUMBERS
            .map(|number| Content::Fixed64(number.to_le_bytes()))
            .to_vec(),
        Content::Fixed32(_) => NUMBERS
            .map(|number| Content::Fixed32((number as u32).to_le_bytes()))
            .to_vec(),
        Content::Bytes(bytes) => {
            let mut others = vec![
                Vec::new(),
                vec![0xff; 7],
                vec![0; 64],
                bytes[..bytes.len() / 2].to_vec(),
                bytes[..bytes.len().saturating_sub(1)].to_vec(),
                bytes.repeat(2),
                vec![b'/'; 5000],
            ];
            // Packed numbers, each huge.
            others.push(vec![0xff; bytes.len()]);
            if depth < 3 {
                others.extend(mutants(bytes, depth + 1));
            }
            others.into_iter().map(Content::Bytes).collect()
        }
    }
}

/// Messages like this one, each with one field gone, doubled or different.
fn mutants(bytes: &[u8], depth: u32) -> Vec<Vec<u8>> {
    // Long lists say nothing new after their first entries.
    const ENTRIES: usize = 40;
    let Some(fields) = fields(bytes) else {
        return Vec::new();
    };
    let mut mutants = Vec::new();
    for place in 0..fields.len().min(ENTRIES) {
        let mut changed = fields.clone();
        let field = changed.remove(place);
        mutants.push(message(&changed));
        changed.extend([field.clone(), field.clone()]);
        mutants.push(message(&changed));
        for other in others(&field.content, depth) {
            let mut changed = fields.clone();
            changed[place].content = other;
            mutants.push(message(&changed));
        }
    }
    mutants
}

/// The records with one of them replaced, or left out, or there twice.
fn with(records: &RecordSet, place: usize, bodies: &[&[u8]]) -> RecordSet {
    let mut changed = RecordSet::new();
    for (other, record) in records.iter().enumerate() {
        let bodies = if other == place {
            bodies
        } else {
            &[record.body][..]
        };
        for body in bodies {
            let record = RawRecord { body, ..record };
            changed.push_raw(record).expect("a record of usual size");
        }
    }
    changed
}

/// An image of these records alone, with every checksum right.
fn sealed(like: &SeekableImage, records: &RecordSet) -> SeekableImage {
    let sink = in_memory(&[]);
    let mut writer = ImageWriter::begin(sink, like.preamble()).expect("an image in memory");
    writer.records(records).expect("records of usual size");
    let (file, _) = writer.finish().expect("an image in memory");
    SeekableImage::open(file).expect("an image that was just written")
}

/// Shows an image and plans its restart.
fn examine(image: &SeekableImage, hosts: &[Host]) {
    let _ = show::describe(image);
    let records = image.records().expect("records that were just written");
    for host in hosts {
        if let Ok(plan) = restart::plan(image, &records, host)
            && let Ok(steps) = plan.ordered()
        {
            steps.iter().for_each(|step| drop(step.to_string()));
        }
    }
}

/// Records that are sealed as they should be, but say what no `cryo` would have written: errors or refusals, no panic.
fn hostile_records(golden: Golden) {
    let image = golden.open().expect("the golden image is whole");
    let records = image.records().expect("the golden image is whole");
    // In namespaces of its own and beside other processes; files as they are and as they were.
    let hosts = [(false, Changed::Allow), (true, Changed::Refuse)]
        .map(|(shares, changed)| Host::look(shares, changed).expect("/proc is there"));
    let watch = Watch::begin();
    let mut rounds = 0;
    let mut slowest = (Duration::ZERO, "");
    for (place, record) in records.iter().enumerate() {
        let mut variants = vec![with(&records, place, &[])];
        variants.push(with(&records, place, &[record.body, record.body]));
        for body in mutants(record.body, 0) {
            variants.push(with(&records, place, &[&body]));
        }
        for variant in variants {
            let start = std::time::Instant::now();
            watch.over(|| examine(&sealed(&image, &variant), &hosts));
            slowest = slowest.max((start.elapsed(), record.name));
            rounds += 1;
        }
    }
    let panics = watch.end();
    println!("{rounds} hostile images, the slowest {slowest:?}");
    assert!(panics.is_empty(), "{}", panics.join("\n"));
    assert!(
        slowest.0 < Duration::from_secs(10),
        "a hostile record holds up a restart: {slowest:?}"
    );
}

#[test]
fn hostile_records_of_one_process() {
    hostile_records(ALONE);
}

#[test]
fn hostile_records_of_two_processes() {
    hostile_records(PAIR);
}

/// A golden image is streamed as well as any.
#[test]
fn version_1_is_streamed() {
    for golden in [ALONE, PAIR] {
        let file = File::open(golden.file("cryo")).expect("the golden image is there");
        let mut reader = ImageReader::open(file).expect("a whole image");
        let records = reader.records().expect("whole records");
        assert!(!records.is_empty());
        let summary = reader.verify_rest().expect("a whole image");
        let path: &Path = &golden.file("cryo");
        assert_eq!(
            summary.bytes,
            fs::metadata(path).expect("it is there").len()
        );
    }
}
