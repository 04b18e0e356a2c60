//! Beginning a request: what the program says of it, and the command line that comes of that.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulong};
use std::time::Duration;

use cryonaut_participant::around;

use super::{Keeper, Order, Purpose, close, generation, system};
use crate::client::process;
use crate::errors::{fail, set};

/// `cr_checkpoint_args_t` in C.
#[repr(C)]
pub struct CheckpointArguments {
    version: c_int,
    scope: c_uint,
    target: libc::pid_t,
    descriptor: c_int,
    signal: c_int,
    timeout: c_uint,
    flags: c_uint,
}

/// `cr_restart_args_t` in C.
#[repr(C)]
pub struct RestartArguments {
    version: c_int,
    descriptor: c_int,
    signal: c_int,
    flags: c_uint,
    relocate: *const Relocate,
}

/// `struct cr_rstrt_relocate` in C, to its first pair.
#[repr(C)]
pub struct Relocate {
    count: c_uint,
    pairs: [[*const c_char; 2]; 0],
}

const _: () = assert!(size_of::<CheckpointArguments>() == 28);
const _: () = assert!(size_of::<RestartArguments>() == 24 && size_of::<Relocate>() == 8);

/// The version of both.
const VERSION: c_int = 1;
/// CR_DEST_CWD.
const IN_DIRECTORY: c_int = -4096;
/// CR_MAX_RSTRT_RELOC.
const MOST_RELOCATIONS: c_uint = 16;
/// The largest number of a signal.
const MOST_SIGNALS: c_int = 64;

/// CR_CHKPT_*.
mod flag {
    use std::ffi::c_uint;
    pub const PROHIBIT_SELF: c_uint = 0x1;
    pub const TRACED_ALLOW: c_uint = 0x2;
    pub const TRACED_SKIP: c_uint = 0x4;
    pub const TRACER_SKIP: c_uint = 0x8;
    pub const ASYNC_ERROR: c_uint = 0x10;
    pub const DUMP: c_uint = 0xe00;
    pub const ALL: c_uint = 0xe1f;
    /// CR_RSTRT_RESTORE_PID, and all of CR_RSTRT_*.
    pub const RESTORE_PID: c_uint = 0x2;
    pub const ALL_OF_RESTART: c_uint = 0xf;
}

/// `cri_init_checkpoint_args_t` in C.
///
/// # Safety
/// `arguments` is null or a cr_checkpoint_args_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cri_init_checkpoint_args_t(
    version: c_int,
    arguments: *mut CheckpointArguments,
) -> c_int {
    if version != VERSION || arguments.is_null() {
        return fail(libc::EINVAL);
    }
    let usual = CheckpointArguments {
        version,
        scope: c_uint::MAX,
        target: 0,
        descriptor: -1,
        signal: 0,
        timeout: 0,
        flags: 0,
    };
    // SAFETY: the caller says so.
    unsafe { arguments.write(usual) };
    0
}

/// `cri_init_restart_args_t` in C.
///
/// # Safety
/// `arguments` is null or a cr_restart_args_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cri_init_restart_args_t(
    version: c_int,
    arguments: *mut RestartArguments,
) -> c_int {
    if version != VERSION || arguments.is_null() {
        return fail(libc::EINVAL);
    }
    let usual = RestartArguments {
        version,
        descriptor: -1,
        signal: 0,
        flags: flag::RESTORE_PID,
        relocate: std::ptr::null(),
    };
    // SAFETY: the caller says so.
    unsafe { arguments.write(usual) };
    0
}

/// A copy of the program's descriptor, of which it may close its own at any time.
fn copy_of(descriptor: c_int) -> Result<c_int, c_int> {
    // SAFETY: all zeros is a stat, and it lies on this stack; the other calls take numbers.
    unsafe {
        let mut status: libc::stat = std::mem::zeroed();
        system(libc::fstat(descriptor, &raw mut status))?;
        match status.st_mode & libc::S_IFMT {
            libc::S_IFDIR => return Err(libc::EISDIR),
            libc::S_IFREG if status.st_nlink > 1 => return Err(libc::EMLINK),
            libc::S_IFBLK => return Err(libc::EINVAL),
            _ => {}
        }
        system(libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 3))
    }
}

/// Whether this process is in a scope.
fn is_in_scope(scope: c_uint, target: libc::pid_t) -> bool {
    let own = std::process::id() as libc::pid_t;
    // SAFETY: calls that only ask for numbers.
    let (group, session) = unsafe { (libc::getpgrp(), libc::getsid(0)) };
    match scope {
        0 => target == own,
        1 => target == group,
        2 => target == session,
        _ => {
            let mut next = own;
            while next > 1 && next != target {
                let stat = std::fs::read_to_string(format!("/proc/{next}/stat"));
                let stat = stat.unwrap_or_default();
                let parent = stat
                    .rsplit_once(')')
                    .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
                next = parent.unwrap_or(0);
            }
            next == target
        }
    }
}

/// Whether there is anybody in it.
fn exists(scope: c_uint, target: libc::pid_t) -> Result<(), c_int> {
    // SAFETY: calls with numbers; the signal 0 only asks.
    let found = unsafe {
        match scope {
            1 => libc::kill(-target, 0),
            2 => libc::getsid(target).min(0),
            _ => libc::kill(target, 0),
        }
    };
    system(found).map(drop)
}

fn check(arguments: &CheckpointArguments) -> Result<(), c_int> {
    let CheckpointArguments {
        version,
        scope,
        target,
        signal,
        flags,
        ..
    } = *arguments;
    let both = flag::TRACED_ALLOW | flag::TRACED_SKIP;
    if version != VERSION
        || scope > 3
        || target < 0
        || !(0..=MOST_SIGNALS).contains(&signal)
        || flags & !flag::ALL != 0
        || flags & both == both
    {
        return Err(libc::EINVAL);
    }
    Ok(())
}

/// Begins a checkpoint.
fn request_checkpoint(arguments: &CheckpointArguments, keeper: Keeper) -> Result<c_ulong, c_int> {
    check(arguments)?;
    let scope = arguments.scope;
    let own = std::process::id() as libc::pid_t;
    let target = match (arguments.target, scope) {
        // SAFETY: calls that only ask for numbers.
        (0, 1) => unsafe { libc::getpgrp() },
        // SAFETY: the same.
        (0, 2) => unsafe { libc::getsid(0) },
        (0, _) => own,
        (target, _) => target,
    };
    if arguments.flags & flag::ASYNC_ERROR == 0 {
        exists(scope, target)?;
    }
    let of_self = is_in_scope(scope, target);
    if of_self && arguments.flags & flag::PROHIBIT_SELF != 0 {
        return Err(libc::EDEADLK);
    }
    if of_self && around::in_callback() {
        return Err(libc::EBUSY);
    }
    if of_self {
        process().requests.await_earlier()?;
    }
    let context = match arguments.descriptor {
        IN_DIRECTORY => None,
        descriptor => Some(copy_of(descriptor)?),
    };
    let words = words_of(arguments, target, context);
    let before = around::last_request();
    let life = generation();
    let begun = process().requests.begin(Order {
        purpose: Purpose::Checkpoint,
        keeper,
        words,
        context,
        standard: around::Standard::Nowhere,
    });
    let handle = begun.inspect_err(|_| context.into_iter().for_each(close))?;
    if of_self {
        await_own(handle, before, life);
    }
    Ok(handle)
}

/// The command line.
fn words_of(
    arguments: &CheckpointArguments,
    target: libc::pid_t,
    context: Option<c_int>,
) -> Vec<String> {
    let mut words: Vec<String> = vec!["cr_checkpoint".into()];
    let scope = ["--process", "--group", "--session", "--tree"];
    words.push(scope[arguments.scope as usize & 3].into());
    words.extend(context.map(|context| format!("--fd={context}")));
    if arguments.signal != 0 {
        words.push(format!("--signal={}", arguments.signal));
    }
    if arguments.timeout != 0 {
        words.push(format!(
            "--time={}",
            arguments.timeout.min(c_int::MAX as c_uint)
        ));
    }
    for (bits, word) in [
        (flag::TRACED_ALLOW, "--ptraced-allow"),
        (flag::TRACED_SKIP, "--ptraced-skip"),
        (flag::TRACER_SKIP, "--ptracer-skip"),
        (flag::DUMP, "--save-all"),
    ] {
        if arguments.flags & bits != 0 {
            words.push(word.into());
        }
    }
    words.push(target.to_string());
    words
}

/// Waits, after a request for a checkpoint of oneself, until it was made or has failed; in a critical section until it waits for
/// that.
fn await_own(handle: c_ulong, before: u32, life: u64) {
    const PAUSE: Duration = Duration::from_millis(1);
    loop {
        let is_asked = around::last_request() != before;
        let is_done = match around::in_section() {
            true => is_asked,
            false => is_asked && around::last_outcome().is_some() && !around::is_asked(),
        };
        let is_over = process()
            .requests
            .find(Purpose::Checkpoint, handle, |request| Ok(request.is_over()));
        if is_done || generation() != life || is_over != Ok(false) {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    if !around::in_section() {
        around::await_quiet();
    }
}

/// `cr_request_checkpoint` in C.
///
/// # Safety
/// The pointers are null or lead to what cr_initialize_checkpoint_args_t has filled in, and to a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cr_request_checkpoint(
    arguments: *mut CheckpointArguments,
    handle: *mut c_ulong,
) -> c_int {
    if handle.is_null() {
        return fail(libc::EINVAL);
    }
    // SAFETY: the caller says so.
    let arguments = unsafe { arguments.as_ref() };
    let begun = arguments
        .ok_or(libc::EINVAL)
        .and_then(|arguments| request_checkpoint(arguments, Keeper::Program));
    match begun {
        Ok(begun) => {
            // SAFETY: the caller says so; it was looked at above.
            unsafe { handle.write(begun) };
            0
        }
        Err(error) => fail(error),
    }
}

fn request_restart(arguments: &RestartArguments) -> Result<c_ulong, c_int> {
    let RestartArguments {
        version,
        descriptor,
        signal,
        flags,
        relocate,
    } = *arguments;
    if version != VERSION
        || !(0..=MOST_SIGNALS).contains(&signal)
        || flags & !flag::ALL_OF_RESTART != 0
    {
        return Err(libc::EINVAL);
    }
    let mut words: Vec<String> = vec!["cr_restart".into()];
    if signal != 0 {
        words.push(format!("--signal={signal}"));
    }
    if flags & flag::RESTORE_PID == 0 {
        words.push("--no-restore-pid".into());
    }
    // SAFETY: the program says that it is such a structure, with as many pairs of texts as it says.
    let pairs = unsafe {
        relocate.as_ref().map_or(&[][..], |relocate| {
            let first = (&raw const *relocate)
                .byte_add(8)
                .cast::<[*const c_char; 2]>();
            std::slice::from_raw_parts(first, relocate.count as usize)
        })
    };
    if pairs.len() > MOST_RELOCATIONS as usize {
        return Err(libc::EINVAL);
    }
    for pair in pairs {
        if pair.iter().any(|path| path.is_null()) {
            return Err(libc::EINVAL);
        }
        // SAFETY: the program says that they are texts; null they are not.
        let [old, new] = pair.map(|path| unsafe { CStr::from_ptr(path) });
        let quoted = |path: &CStr| {
            let path = path.to_str().map_err(|_| libc::EINVAL)?;
            Ok::<_, c_int>(path.replace('\\', "\\\\").replace('=', "\\="))
        };
        words.push(format!("--relocate={}={}", quoted(old)?, quoted(new)?));
    }
    let context = copy_of(descriptor)?;
    words.push(format!("--fd={context}"));
    let begun = process().requests.begin(Order {
        purpose: Purpose::Restart,
        keeper: Keeper::Program,
        words,
        context: Some(context),
        standard: around::Standard::Own,
    });
    begun.inspect_err(|_| close(context))
}

/// `cr_request_restart` in C.
///
/// # Safety
/// The pointers are null or lead to what cr_initialize_restart_args_t has filled in, and to a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cr_request_restart(
    arguments: *mut RestartArguments,
    handle: *mut c_ulong,
) -> c_int {
    if handle.is_null() {
        return fail(libc::EINVAL);
    }
    // SAFETY: the caller says so.
    let arguments = unsafe { arguments.as_ref() };
    match arguments.ok_or(libc::EINVAL).and_then(request_restart) {
        Ok(begun) => {
            // SAFETY: the caller says so; it was looked at above.
            unsafe { handle.write(begun) };
            0
        }
        Err(error) => fail(error),
    }
}

/// A checkpoint of this process alone, of which nobody hears any more.
fn request_of_old(descriptor: c_int) {
    let arguments = CheckpointArguments {
        version: VERSION,
        scope: 0,
        target: 0,
        descriptor,
        signal: 0,
        timeout: 0,
        flags: 0,
    };
    if let Err(error) = request_checkpoint(&arguments, Keeper::Nobody) {
        set(error);
        // As it always did.
        std::process::abort();
    }
}

/// `cr_request` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cr_request() {
    request_of_old(IN_DIRECTORY);
}

/// `cr_request_fd` in C.
#[unsafe(no_mangle)]
pub extern "C" fn cr_request_fd(descriptor: c_int) {
    request_of_old(descriptor);
}

/// `cr_request_file` in C.
///
/// # Safety
/// `name` ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cr_request_file(name: *const c_char) {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
    // SAFETY: the caller says so.
    let opened = unsafe { libc::open(name, flags, 0o600) };
    if opened < 0 {
        std::process::abort();
    }
    let generation_before = generation();
    request_of_old(opened);
    // The copy that the request has is another; in a restarted life the number is closed.
    if generation() == generation_before {
        close(opened);
    }
}
