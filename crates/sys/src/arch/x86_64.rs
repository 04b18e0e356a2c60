//! x86-64: registers, interrupted system calls, and the code that runs lists of system calls in a tracee.

use std::arch::global_asm;

/// The general registers as PTRACE_GETREGS gives them (`struct user_regs_struct`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the processor's
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

const _: () = assert!(size_of::<Registers>() == size_of::<libc::user_regs_struct>());

/// The ELF machine number of this processor family.
pub const ELF_MACHINE: u32 = 62;
/// The code segment of 64-bit user code; a task with another one runs 32-bit code.
pub const USER_CODE_SEGMENT: u64 = 0x33;
/// Number of the system call that continues an interrupted one from its restart block.
pub const SYS_RESTART: u64 = 219;

/// The system calls that the kernel continues from its restart block: futex_wait, poll, and those that sleep.
const CONTINUED: [i64; 4] = [
    libc::SYS_poll,
    libc::SYS_nanosleep,
    libc::SYS_futex,
    libc::SYS_clock_nanosleep,
];
/// Bytes of code before a `syscall` instruction in which the number of its call is looked for.
pub const CODE_BEFORE_CALL: usize = 32;
/// The `syscall` instruction.
pub const SYSCALL: [u8; 2] = [0x0f, 0x05];

const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;
const EINTR: i64 = -(libc::EINTR as i64);

/// How the system call that a task was stopped in goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupted {
    /// It was not in a system call, or the call was complete.
    No,
    /// The kernel issues the call again with the same arguments.
    Again,
    /// The kernel goes on from its restart block, which holds the end of the waiting time.
    FromRestartBlock,
    /// It shows EINTR, although nothing but the stop interrupted it: signal(7) lists it as never restarted.
    NeverRestarted,
}

const SYS_IO_PGETEVENTS: i64 = 333;

/// System calls that show EINTR at a ptrace stop rather than being restarted (signal(7)).
const NEVER_RESTARTED: [i64; 12] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_io_getevents,
    SYS_IO_PGETEVENTS,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_accept,
    libc::SYS_recvmmsg,
];

/// The number that the last `mov` of a constant to eax or rax in this code loads, of those that can be meant.
fn loaded_number(code: &[u8]) -> Option<i64> {
    let constant = |at: usize| {
        let bytes = code.get(at..at + 4)?;
        let number = i64::from(i32::from_le_bytes(bytes.try_into().ok()?));
        CONTINUED.contains(&number).then_some(number)
    };
    (0..code.len()).rev().find_map(|at| match code[at..] {
        [0xb8, ..] => constant(at + 1),
        [0xc7, 0xc0, ..] => constant(at + 2),
        _ => None,
    })
}

impl Registers {
    /// The number of the system call that the task was in, if it was in one.
    pub fn system_call(&self) -> Option<u64> {
        ((self.orig_rax as i64) >= 0).then_some(self.orig_rax)
    }

    /// How an interrupted system call goes on.
    pub fn interrupted(&self) -> Interrupted {
        let Some(call) = self.system_call() else {
            return Interrupted::No;
        };
        match self.rax as i64 {
            ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND => Interrupted::Again,
            ERESTART_RESTARTBLOCK => Interrupted::FromRestartBlock,
            EINTR if NEVER_RESTARTED.contains(&(call as i64)) => Interrupted::NeverRestarted,
            _ => Interrupted::No,
        }
    }

    /// The place of the `syscall` instruction of a call that goes on, or is about to go on, by restart_syscall(2): its own number is
    /// in no register any more, or only in `orig_rax`.
    pub fn continued_call(&self) -> Option<u64> {
        let within =
            self.interrupted() == Interrupted::FromRestartBlock && self.orig_rax == SYS_RESTART;
        let before = self.rax == SYS_RESTART;
        if within {
            self.rip.checked_sub(2)
        } else {
            before.then_some(self.rip)
        }
    }

    /// Which call that is, as far as the registers or the code that ends with its instruction tell.
    pub fn continued_number(&self, code: &[u8]) -> Option<i64> {
        let before = code.strip_suffix(&SYSCALL)?;
        let known = |number: &i64| CONTINUED.contains(number);
        Some(self.orig_rax as i64)
            .filter(known)
            .or_else(|| loaded_number(before))
    }

    /// The same as if that call, whose number this is, had been interrupted for the first time.
    pub fn interrupted_first(&self, number: i64) -> Option<Registers> {
        Some(Registers {
            rax: ERESTART_RESTARTBLOCK as u64,
            orig_rax: number as u64,
            rip: self.continued_call()? + 2,
            ..*self
        })
    }

    /// The registers with which user code issues the interrupted call again, as the kernel would set them itself.
    pub fn issued_again(&self) -> Registers {
        match self.interrupted() {
            Interrupted::No => *self,
            _ => Registers {
                rax: self.orig_rax,
                rip: self.rip - 2,
                orig_rax: u64::MAX,
                ..*self
            },
        }
    }

    /// Of a task that its tracer stopped at the entry of a system call: the registers with which it has not come to it. Set in one
    /// step, they make the kernel skip the call (there is none of number -1) and leave the result register as it is.
    pub fn before_the_call(&self) -> Registers {
        Registers {
            rax: self.orig_rax,
            rip: self.rip - 2,
            orig_rax: u64::MAX,
            ..*self
        }
    }

    /// The registers with which the kernel itself, at the moment it lets a stopped task go, issues an interrupted call again, or
    /// has it return EINTR if a signal with a handler has arrived.
    pub fn restarted_by_kernel(&self) -> Registers {
        match self.interrupted() {
            Interrupted::FromRestartBlock | Interrupted::NeverRestarted => Registers {
                rax: ERESTARTNOHAND as u64,
                ..*self
            },
            _ => *self,
        }
    }

    /// The registers with which a task whose tracer is gone continues by itself, with the kernel's restart block intact.
    pub fn continued(&self) -> Registers {
        match self.interrupted() {
            Interrupted::FromRestartBlock => Registers {
                rax: SYS_RESTART,
                rip: self.rip - 2,
                orig_rax: u64::MAX,
                ..*self
            },
            _ => self.issued_again(),
        }
    }

    /// The six arguments of the system call in progress.
    pub fn arguments(&self) -> [u64; 6] {
        [self.rdi, self.rsi, self.rdx, self.r10, self.r8, self.r9]
    }

    /// These registers, about to issue `number` with `arguments` by the `syscall` instruction at `rip`.
    pub fn about_to_call(&self, rip: u64, number: u64, arguments: [u64; 6]) -> Registers {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        Registers {
            rax: number,
            orig_rax: u64::MAX,
            rip,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..*self
        }
    }

    /// These registers, about to run `count` entries of a call list at `entries` with the code at `rip`.
    pub fn about_to_run(&self, rip: u64, entries: u64, count: u64) -> Registers {
        Registers {
            rip,
            r15: entries,
            r14: count,
            orig_rax: u64::MAX,
            ..*self
        }
    }

    /// The registers in the order of the structure.
    pub fn to_words(&self) -> [u64; 27] {
        // SAFETY: the structure is `repr(C)` and consists of exactly 27 `u64`s.
        unsafe { std::mem::transmute(*self) }
    }

    /// Registers from words in the order of the structure; missing ones are 0.
    pub fn from_words(words: &[u64]) -> Registers {
        let mut all = [0; 27];
        for (word, value) in all.iter_mut().zip(words) {
            *word = *value;
        }
        // SAFETY: the structure is `repr(C)` and consists of exactly 27 `u64`s, of which every value is valid.
        unsafe { std::mem::transmute(all) }
    }

    /// Whether the task runs 64-bit code.
    pub fn is_user_64bit(&self) -> bool {
        self.cs == USER_CODE_SEGMENT
    }
}

// One entry of a call list, 64 bytes: number, six addresses of 64-bit argument values, result. Arguments are addresses so that
// an entry can take the result of an earlier one. Neither code touches the stack, the flags or the extended state: loops are
// made of `lea` and `jrcxz`, so that nothing but general registers needs putting back.
//
// `guest` code goes into unused bytes at the end of the tracee's vDSO. If its tracer vanishes after any single request, it runs
// to its end by itself: undoes its mapping, restores the signal mask and the registers from `frame`, and jumps back.
// `stub` code is the whole program of a process that is being rebuilt; that one dies with its tracer.
global_asm!(
    ".pushsection .rodata.cryonaut,\"a\"",
    // Global, because code that uses them may be inlined into other objects.
    ".globl cryonaut_guest_start",
    ".hidden cryonaut_guest_start",
    ".globl cryonaut_guest_boot",
    ".hidden cryonaut_guest_boot",
    ".globl cryonaut_guest_run",
    ".hidden cryonaut_guest_run",
    ".globl cryonaut_guest_stopped",
    ".hidden cryonaut_guest_stopped",
    ".globl cryonaut_guest_unmapped",
    ".hidden cryonaut_guest_unmapped",
    ".globl cryonaut_guest_frame",
    ".hidden cryonaut_guest_frame",
    ".globl cryonaut_guest_end",
    ".hidden cryonaut_guest_end",
    ".globl cryonaut_stub_start",
    ".hidden cryonaut_stub_start",
    ".globl cryonaut_stub_run",
    ".hidden cryonaut_stub_run",
    ".globl cryonaut_stub_end",
    ".hidden cryonaut_stub_end",
    ".balign 16",
    "cryonaut_guest_start:",
    "    .ascii \"CRYONAUT guest 1\"",
    "cryonaut_guest_boot:",
    "    syscall",
    "    mov rdi, rax",
    "    jmp 4f",
    "cryonaut_guest_run:",
    "2:  mov rcx, r14",
    "    jrcxz 3f",
    "    lea r14, [r14 - 1]",
    "    mov rax, [r15]",
    "    mov rdi, [r15 + 8]",
    "    mov rdi, [rdi]",
    "    mov rsi, [r15 + 16]",
    "    mov rsi, [rsi]",
    "    mov rdx, [r15 + 24]",
    "    mov rdx, [rdx]",
    "    mov r10, [r15 + 32]",
    "    mov r10, [r10]",
    "    mov r8, [r15 + 40]",
    "    mov r8, [r8]",
    "    mov r9, [r15 + 48]",
    "    mov r9, [r9]",
    "    syscall",
    "    mov [r15 + 56], rax",
    "    lea r15, [r15 + 64]",
    "    jmp 2b",
    "3:  mov rdi, [rip + cryonaut_guest_frame + 0]",
    "    mov rsi, [rip + cryonaut_guest_frame + 8]",
    "    mov rdx, [rip + cryonaut_guest_frame + 16]",
    "    mov eax, 234", // tgkill
    "    syscall",
    "cryonaut_guest_stopped:",
    "    mov rdi, [rip + cryonaut_guest_frame + 24]",
    "4:  mov rsi, [rip + cryonaut_guest_frame + 32]",
    "    mov eax, 11", // munmap
    "    syscall",
    "cryonaut_guest_unmapped:",
    "    mov eax, 14", // rt_sigprocmask
    "    mov edi, 2",  // SIG_SETMASK
    "    lea rsi, [rip + cryonaut_guest_frame + 40]",
    "    mov edx, 0",
    "    mov r10d, 8",
    "    syscall",
    "    mov rax, [rip + cryonaut_guest_frame + 48]",
    "    mov rcx, [rip + cryonaut_guest_frame + 56]",
    "    mov rdx, [rip + cryonaut_guest_frame + 64]",
    "    mov rsi, [rip + cryonaut_guest_frame + 72]",
    "    mov rdi, [rip + cryonaut_guest_frame + 80]",
    "    mov r8, [rip + cryonaut_guest_frame + 88]",
    "    mov r9, [rip + cryonaut_guest_frame + 96]",
    "    mov r10, [rip + cryonaut_guest_frame + 104]",
    "    mov r11, [rip + cryonaut_guest_frame + 112]",
    "    mov r14, [rip + cryonaut_guest_frame + 120]",
    "    mov r15, [rip + cryonaut_guest_frame + 128]",
    "    jmp [rip + cryonaut_guest_frame + 136]",
    ".balign 8",
    "cryonaut_guest_frame:",
    "    .zero 144",
    "cryonaut_guest_end:",
    ".balign 16",
    "cryonaut_stub_start:",
    "5:  mov eax, 34", // pause
    "    syscall",
    "    jmp 5b",
    "cryonaut_stub_run:",
    "6:  mov rcx, r14",
    "    jrcxz 7f",
    "    lea r14, [r14 - 1]",
    "    mov rax, [r15]",
    "    mov rdi, [r15 + 8]",
    "    mov rdi, [rdi]",
    "    mov rsi, [r15 + 16]",
    "    mov rsi, [rsi]",
    "    mov rdx, [r15 + 24]",
    "    mov rdx, [rdx]",
    "    mov r10, [r15 + 32]",
    "    mov r10, [r10]",
    "    mov r8, [r15 + 40]",
    "    mov r8, [r8]",
    "    mov r9, [r15 + 48]",
    "    mov r9, [r9]",
    "    syscall",
    "    mov [r15 + 56], rax",
    "    lea r15, [r15 + 64]",
    "    jmp 6b",
    // Should it run on, it comes back here.
    "7:  int3",
    "    jmp 7b",
    "cryonaut_stub_end:",
    ".popsection",
);

unsafe extern "C" {
    static cryonaut_guest_start: u8;
    static cryonaut_guest_boot: u8;
    static cryonaut_guest_run: u8;
    static cryonaut_guest_stopped: u8;
    static cryonaut_guest_unmapped: u8;
    static cryonaut_guest_frame: u8;
    static cryonaut_guest_end: u8;
    static cryonaut_stub_start: u8;
    static cryonaut_stub_run: u8;
    static cryonaut_stub_end: u8;
}

fn blob(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: both are labels of the same constant block above, `end` after `start`.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// The code of a guest: what runs call lists in a live tracee.
pub fn guest_code() -> &'static [u8] {
    blob(
        &raw const cryonaut_guest_start,
        &raw const cryonaut_guest_end,
    )
}

/// What [`guest_code`] begins with, in every version: so that what a killed tracer left behind is known as such.
pub const GUEST_MAGIC: &[u8; 15] = b"CRYONAUT guest ";

/// Offset of the entry that makes a single system call.
pub fn guest_boot() -> u64 {
    (&raw const cryonaut_guest_boot) as u64 - (&raw const cryonaut_guest_start) as u64
}

/// Offset of the entry that runs a call list.
pub fn guest_run() -> u64 {
    (&raw const cryonaut_guest_run) as u64 - (&raw const cryonaut_guest_start) as u64
}

/// Offset of the instruction after the call that ends a list with a signal to itself.
pub fn guest_stopped() -> u64 {
    (&raw const cryonaut_guest_stopped) as u64 - (&raw const cryonaut_guest_start) as u64
}

/// Offset of the instruction after the call that unmaps the list's memory.
pub fn guest_unmapped() -> u64 {
    (&raw const cryonaut_guest_unmapped) as u64 - (&raw const cryonaut_guest_start) as u64
}

/// Offset of the frame that [`GuestFrame::to_bytes`] fills.
pub fn guest_frame() -> u64 {
    (&raw const cryonaut_guest_frame) as u64 - (&raw const cryonaut_guest_start) as u64
}

/// What a guest needs to find its way back alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct GuestFrame {
    /// Process id as the task itself sees it.
    pub process: i32,
    /// Task id as the task itself sees it.
    pub task: i32,
    /// The signal that ends a list.
    pub signal: i32,
    /// The mapping to undo: address and length in bytes.
    pub region: (u64, u64),
    /// The signal mask to restore.
    pub mask: u64,
    /// The registers to restore.
    pub registers: Registers,
}

impl GuestFrame {
    /// The frame as the code reads it.
    pub fn to_bytes(&self) -> [u8; 144] {
        let r = &self.registers;
        let words = [
            self.process as u64,
            self.task as u64,
            self.signal as u64,
            self.region.0,
            self.region.1,
            self.mask,
            r.rax,
            r.rcx,
            r.rdx,
            r.rsi,
            r.rdi,
            r.r8,
            r.r9,
            r.r10,
            r.r11,
            r.r14,
            r.r15,
            r.rip,
        ];
        let mut bytes = [0; 144];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// The code of a stub: a program that only waits for its tracer, and runs call lists for it.
pub fn stub_code() -> &'static [u8] {
    blob(&raw const cryonaut_stub_start, &raw const cryonaut_stub_end)
}

/// Offset of the entry that runs a call list in a stub.
pub fn stub_run() -> u64 {
    (&raw const cryonaut_stub_run) as u64 - (&raw const cryonaut_stub_start) as u64
}

/// Offset of a `syscall` instruction in a stub.
pub fn stub_call() -> u64 {
    // After the five bytes of `mov eax, 34`.
    5
}

/// A complete ELF executable that maps [`stub_code`] at `base` and `data` bytes of zeroed writable memory one page after it.
pub fn stub_executable(base: u64, data: u64) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    let mut file = Vec::new();
    file.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend_from_slice(&2_u16.to_le_bytes()); // executable
    file.extend_from_slice(&(ELF_MACHINE as u16).to_le_bytes());
    file.extend_from_slice(&1_u32.to_le_bytes());
    for word in [base + HEADERS, 64, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&0_u32.to_le_bytes());
    for half in [64_u16, 56, 2, 0, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    let length = HEADERS + stub_code().len() as u64;
    let mut segment = |flags: u32, words: [u64; 6]| {
        file.extend_from_slice(&1_u32.to_le_bytes());
        file.extend_from_slice(&flags.to_le_bytes());
        for word in words {
            file.extend_from_slice(&word.to_le_bytes());
        }
    };
    segment(5, [0, base, base, length, length, 4096]);
    segment(6, [0, base + 4096, base + 4096, 0, data, 4096]);
    file.extend_from_slice(stub_code());
    file
}

/// Offset of [`stub_code`] from the base of a [`stub_executable`].
pub const STUB_CODE_OFFSET: u64 = 64 + 2 * 56;

/// Bytes of this processor's xsave area for all features that the system has enabled; `None` without xsave.
pub fn extended_state_size() -> Option<usize> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return None;
    }
    Some(__cpuid_count(13, 0).ebx as usize)
}

/// A part of the xsave area beyond the first 576 bytes, which every processor has alike (Intel SDM volume 1, 13.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateComponent {
    /// Its number: the bit in XCR0.
    pub number: u32,
    /// Where it begins in the standard format, in bytes.
    pub offset: u32,
    /// Its length in bytes.
    pub size: u32,
}

/// The parts of this processor's xsave area that the system has enabled. Processors differ in where they lie.
pub fn extended_state_layout() -> Vec<StateComponent> {
    use std::arch::x86_64::__cpuid_count;
    if extended_state_size().is_none() {
        return Vec::new();
    }
    let (low, high): (u32, u32);
    // SAFETY: reading XCR0 is permitted where the system has enabled xsave, as was just seen; nothing else is touched.
    unsafe {
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    let enabled = u64::from(high) << 32 | u64::from(low);
    (2..63)
        .filter(|number| enabled & 1 << number != 0)
        .map(|number| {
            let leaf = __cpuid_count(13, number);
            StateComponent {
                number,
                offset: leaf.ebx,
                size: leaf.eax,
            }
        })
        .collect()
}

/// Whether this processor can have the CPUID instruction fault for a task (arch_prctl(2), ARCH_SET_CPUID). Changes nothing.
pub fn may_disable_identification() -> bool {
    const ARCH_SET_CPUID: libc::c_long = 0x1012;
    // SAFETY: no pointers are passed; the instruction is enabled, as it is.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_CPUID, 1_u64) == 0 }
}

/// The first address that no program can have: the kernel leaves out the last page (TASK_SIZE_MAX, arch/x86/include/asm/page_64.h).
pub const USER_END: u64 = (1 << 47) - 4096;

/// Instructions that go on at `address`. They use the register r11, which no function's caller minds at its beginning.
pub fn jump_to(address: u64) -> [u8; 13] {
    let mut code = [0x49, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x41, 0xff, 0xe3];
    code[2..10].copy_from_slice(&address.to_le_bytes());
    code
}

/// What does the work of a function of the vDSO where a kernel does not have that function (vdso(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VdsoCall {
    /// A system call with the same arguments and results.
    System(u32),
    /// getrandom(2), which knows nothing of the function's state, nor tells the form of it (-ENOSYS).
    Random,
    /// Nothing does: -ENOSYS.
    None,
}

impl VdsoCall {
    /// The one of the function of this name, without `__vdso_`.
    pub fn by_name(name: &str) -> Option<Self> {
        let number = match name {
            "clock_gettime" => libc::SYS_clock_gettime,
            "clock_getres" => libc::SYS_clock_getres,
            "gettimeofday" => libc::SYS_gettimeofday,
            "time" => libc::SYS_time,
            "getcpu" => libc::SYS_getcpu,
            "getrandom" => return Some(Self::Random),
            _ => return None,
        };
        Some(Self::System(number as u32))
    }

    /// The instructions of a function that does it.
    pub fn code(self) -> Vec<u8> {
        let call = |number: u32| {
            let mut code = vec![0xb8]; // mov eax, number
            code.extend(number.to_le_bytes());
            code.extend([0x0f, 0x05, 0xc3]); // syscall; ret
            code
        };
        let missing = [0x48, 0xc7, 0xc0, 0xda, 0xff, 0xff, 0xff, 0xc3]; // mov rax, -ENOSYS; ret
        match self {
            Self::System(number) => call(number),
            Self::Random => {
                let call = call(libc::SYS_getrandom as u32);
                // The length of the state is -1 where its form is asked for: cmp r8, -1; je behind the call.
                let mut code = vec![0x49, 0x83, 0xf8, 0xff, 0x74, call.len() as u8];
                code.extend(call);
                code.extend(missing);
                code
            }
            Self::None => missing.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continued_call_is_known_by_the_code_before_it() {
        let registers = Registers {
            rax: ERESTART_RESTARTBLOCK as u64,
            orig_rax: SYS_RESTART,
            rip: 0x1009,
            ..Registers::default()
        };
        assert_eq!(registers.continued_call(), Some(0x1007));
        // mov $0xe6, %eax; xor %edi, %edi; syscall
        let code = [0xb8, 0xe6, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];
        let number = registers.continued_number(&code);
        assert_eq!(number, Some(libc::SYS_clock_nanosleep));
        let first = registers
            .interrupted_first(libc::SYS_clock_nanosleep)
            .unwrap();
        assert_eq!(first.system_call(), Some(230));
        assert_eq!(first.interrupted(), Interrupted::FromRestartBlock);
        assert_eq!((first.rip, first.continued_call()), (0x1009, None));
        // mov %rdi, %rax; syscall
        assert_eq!(
            registers.continued_number(&[0x48, 0x89, 0xf8, 0x0f, 0x05]),
            None
        );
        // No call at all.
        assert_eq!(
            registers.continued_number(&[0xb8, 0xe6, 0, 0, 0, 0x90, 0x90]),
            None
        );
    }

    #[test]
    fn a_call_about_to_be_continued_is_known_by_its_number() {
        let registers = Registers {
            rax: SYS_RESTART,
            orig_rax: libc::SYS_poll as u64,
            rip: 0x1007,
            ..Registers::default()
        };
        assert_eq!(registers.continued_number(&SYSCALL), Some(libc::SYS_poll));
        let first = registers.interrupted_first(libc::SYS_poll).unwrap();
        assert_eq!((first.rip, first.orig_rax), (0x1009, 7));
        // A call that happened to return 219.
        let read = Registers {
            orig_rax: 0,
            ..registers
        };
        assert_eq!(read.continued_number(&[0x48, 0x89]), None);
    }
}
