//! What a job needs of a processor: instructions that it may be using, and the parts of its extended state.
//!
//! Programs choose instructions when they start, by what the processor says of itself (the CPUID instruction), and keep to that
//! choice. So an image needs all that the processor had on which the job ran, unless the job was kept to less from its beginning:
//! by variables that the C library and some widely used libraries heed. CPUID itself cannot be made to say less everywhere
//! (ARCH_SET_CPUID of arch_prctl(2) takes certain processors), so a program that asks for itself is not kept to anything.

use std::collections::BTreeSet;
use std::ffi::OsString;

use cryonaut_sys::arch::StateComponent;

use crate::Result;
use crate::freeze::Frozen;

/// The variable that tells which instructions a process was started for.
pub const VARIABLE: &str = "CRYO_ISA";

/// Processor features that change what instructions a program may use: the beginnings of their names in /proc/cpuinfo.
const INSTRUCTIONS: [&str; 42] = [
    "sse",
    "ssse",
    "pni",
    "avx",
    "aes",
    "vaes",
    "pclmulqdq",
    "vpclmulqdq",
    "gfni",
    "sha_ni",
    "amx",
    "bmi",
    "abm",
    "fma",
    "f16c",
    "movbe",
    "popcnt",
    "adx",
    "rdrand",
    "rdseed",
    "rdpid",
    "fsgsbase",
    "xsave",
    "clwb",
    "cx16",
    "lahf",
    "erms",
    "rtm",
    "hle",
    "waitpkg",
    "movdir",
    "clflushopt",
    "cldemote",
    "serialize",
    "xop",
    "tbm",
    "3dnow",
    "sha512",
    "sm3",
    "sm4",
    "cmpccxadd",
    "enqcmd",
];

/// Instructions that every node of a site is to have: the levels of the x86-64 psABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstructionSet {
    /// What every x86-64 processor has.
    Baseline,
    /// With SSE4.2: processors since about 2009.
    V2,
    /// With AVX2: since about 2013 (2015 of AMD).
    V3,
    /// With AVX-512.
    V4,
}

/// What a level adds to the one below it.
struct Level {
    set: InstructionSet,
    name: &'static str,
    /// As /proc/cpuinfo names them.
    features: &'static [&'static str],
    /// As glibc names them (`glibc.cpu.hwcaps`, The GNU C Library, 39.6 Hardware Capability Tunables).
    glibc: &'static str,
    /// As NumPy names them.
    numpy: &'static str,
    /// The kind of core that OpenBLAS takes this level for.
    core: &'static str,
    /// Bits of CPUID leaf 1 (EDX, then ECX) and leaf 7 (EBX), as OpenSSL is to see them (OPENSSL_ia32cap(3)).
    openssl: (u64, u64),
}

const LEVELS: [Level; 4] = [
    Level {
        set: InstructionSet::Baseline,
        name: "baseline",
        features: &["sse", "sse2"],
        glibc: "",
        numpy: "",
        core: "Prescott",
        openssl: (0, 0),
    },
    Level {
        set: InstructionSet::V2,
        name: "x86-64-v2",
        features: &[
            "cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3",
        ],
        glibc: "-SSSE3,-SSE4_1,-SSE4_2,-POPCNT",
        numpy: "SSSE3 SSE41 POPCNT SSE42",
        core: "Nehalem",
        // SSE3, SSSE3, CX16, SSE4.1, SSE4.2, POPCNT.
        openssl: (1 << 32 | 1 << 41 | 1 << 45 | 1 << 51 | 1 << 52 | 1 << 55, 0),
    },
    Level {
        set: InstructionSet::V3,
        name: "x86-64-v3",
        features: &[
            "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave", "xsavec",
        ],
        // Without xsave too: glibc would set aside room for its area, whose size differs between processors.
        glibc: "-XSAVE,-XSAVEC,-OSXSAVE,-AVX,-AVX2,-BMI1,-BMI2,-F16C,-FMA,-FMA4,-LZCNT,-MOVBE",
        numpy: "AVX F16C FMA3 AVX2",
        core: "Haswell",
        // FMA, MOVBE, XSAVE, OSXSAVE, AVX, F16C; BMI1, AVX2, BMI2.
        openssl: (
            1 << 44 | 1 << 54 | 1 << 58 | 1 << 59 | 1 << 60 | 1 << 61,
            1 << 3 | 1 << 5 | 1 << 8,
        ),
    },
    Level {
        set: InstructionSet::V4,
        name: "x86-64-v4",
        features: &["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"],
        glibc: "-AVX512F,-AVX512BW,-AVX512CD,-AVX512DQ,-AVX512ER,-AVX512PF,-AVX512VL",
        numpy: "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL",
        core: "SkylakeX",
        // AVX-512 F, DQ, CD, BW, VL.
        openssl: (0, 1 << 16 | 1 << 17 | 1 << 28 | 1 << 30 | 1 << 31),
    },
];

/// Bits of CPUID leaf 1 that every x86-64 processor has, FXSR and SSE2 among them, and those that say what it is like.
const OPENSSL_BASE: u64 = 0xffff_ffff;

impl InstructionSet {
    /// The level of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        let mut levels = LEVELS.iter();
        levels
            .find(|level| level.name == name)
            .map(|level| level.set)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        LEVELS[self as usize].name
    }

    /// What a processor must have for it, as /proc/cpuinfo names it.
    pub fn features(self) -> impl Iterator<Item = &'static str> {
        let levels = LEVELS.iter().filter(move |level| level.set <= self);
        levels.flat_map(|level| level.features.iter().copied())
    }

    /// The variables that keep a program to it, given those that it would have otherwise.
    pub fn environment(
        self,
        present: impl Fn(&str) -> Option<OsString>,
    ) -> Vec<(&'static str, String)> {
        let above = || LEVELS.iter().filter(|level| level.set > self);
        let below = || LEVELS.iter().filter(|level| level.set <= self);
        let words = |words: Vec<&str>, between: &str| -> String { words.join(between) };
        let masks = words(above().map(|level| level.glibc).collect(), ",");
        let tunables = tunables(present("GLIBC_TUNABLES"), &masks);
        let (first, seventh) = below().fold((OPENSSL_BASE, 0), |(first, seventh), level| {
            (first | level.openssl.0, seventh | level.openssl.1)
        });
        let mut variables = vec![
            (VARIABLE, self.name().into()),
            ("GLIBC_TUNABLES", tunables),
            ("OPENBLAS_CORETYPE", LEVELS[self as usize].core.into()),
        ];
        let numpy = words(above().map(|level| level.numpy).collect(), " ");
        if !numpy.is_empty() {
            variables.push(("NPY_DISABLE_CPU_FEATURES", numpy));
        }
        // With a tilde: what is to be taken for missing.
        variables.push((
            "OPENSSL_ia32cap",
            format!("~{:#x}:~{:#x}", !first, !seventh),
        ));
        variables
    }
}

/// The tunables of glibc with these hardware capabilities masked as well.
fn tunables(present: Option<OsString>, masks: &str) -> String {
    const NAME: &str = "glibc.cpu.hwcaps=";
    let present = present.unwrap_or_default();
    let present = present.to_string_lossy();
    let (mut all, mut found) = (Vec::new(), false);
    for tunable in present.split(':').filter(|tunable| !tunable.is_empty()) {
        if tunable.starts_with(NAME) {
            found = true;
            all.push(format!("{tunable},{masks}"));
        } else {
            all.push(tunable.to_owned());
        }
    }
    if !found {
        all.push(format!("{NAME}{masks}"));
    }
    all.join(":")
}

/// The instructions among a processor's features.
fn instructions(features: &BTreeSet<String>) -> impl Iterator<Item = &str> {
    let known = |name: &&str| {
        INSTRUCTIONS
            .iter()
            .any(|beginning| name.starts_with(beginning))
    };
    features.iter().map(String::as_str).filter(known)
}

/// What an image of this job needs of a processor, as /proc/cpuinfo names it, with spaces between: all that this one has, or what
/// every process of the job was kept to.
///
/// # Errors
/// When /proc cannot be read.
pub fn needed(frozen: &Frozen) -> Result<String> {
    let features = &crate::host::processor()?.flags;
    let mut highest = Some(InstructionSet::Baseline);
    for process in frozen.alive() {
        // What a program has overwritten, or nobody may read, says nothing.
        let variables = process.directory.read("environ").unwrap_or_default();
        highest = highest.zip(kept_to(&variables)).map(|(a, b)| a.max(b));
    }
    let names: Vec<&str> = match highest {
        None => instructions(features).collect(),
        Some(level) => level
            .features()
            .filter(|name| features.contains(*name))
            .collect(),
    };
    Ok(names.join(" "))
}

/// What a process with these variables was kept to.
fn kept_to(variables: &[u8]) -> Option<InstructionSet> {
    let mut variables = variables.split(|&byte| byte == 0);
    let value = variables.find_map(|variable| {
        variable
            .strip_prefix(VARIABLE.as_bytes())?
            .strip_prefix(b"=")
    })?;
    InstructionSet::by_name(std::str::from_utf8(value).ok()?)
}

/// Where the parts begin that not every processor has, in bytes: after the registers of x87 and SSE, and the header.
const PARTS: usize = 576;
/// Where the header is: first the parts that are not in their first state, one bit each.
const HEADER: usize = 512;

/// An xsave area of another processor as this one has it. `from` is where the other one has its parts, `to` where this one does, in
/// an area of `size` bytes.
///
/// # Errors
/// The names of the parts in use that this processor lacks.
pub fn translate(
    state: &[u8],
    (from, to): (&[StateComponent], &[StateComponent]),
    size: usize,
) -> std::result::Result<Vec<u8>, Vec<String>> {
    let mut area = vec![0; size.max(PARTS)];
    let common = state.len().min(PARTS);
    area[..common].copy_from_slice(&state[..common]);
    let header = state.get(HEADER..HEADER + 8).unwrap_or(&[0; 8]);
    let used = header
        .iter()
        .rev()
        .fold(0_u64, |bits, &byte| bits << 8 | u64::from(byte));
    let mut missing = Vec::new();
    for part in (2..64).filter(|part| used & 1 << part != 0) {
        let find = |parts: &[StateComponent]| parts.iter().find(|at| at.number == part).copied();
        let moved = find(from).zip(find(to)).and_then(|(from, to)| {
            let content = state
                .get(from.offset as usize..)?
                .get(..from.size as usize)?;
            let place = area
                .get_mut(to.offset as usize..)?
                .get_mut(..to.size as usize)?;
            (place.len() == content.len()).then(|| place.copy_from_slice(content))
        });
        if moved.is_none() {
            missing.push(part_name(part));
        }
    }
    if missing.is_empty() {
        Ok(area)
    } else {
        Err(missing)
    }
}

/// What lies in a part of the xsave area.
fn part_name(number: u32) -> String {
    match number {
        2 => "the upper halves of AVX registers".into(),
        3 | 4 => "MPX bounds".into(),
        5 => "AVX-512 masks".into(),
        6 | 7 => "AVX-512 registers".into(),
        9 => "protection keys".into(),
        17 | 18 => "AMX tiles".into(),
        19 => "APX registers".into(),
        number => format!("part {number} of the xsave area"),
    }
}

/// Parts of an xsave area as records have them: number, offset, size, and so on.
pub fn to_words(parts: &[StateComponent]) -> Vec<u32> {
    parts
        .iter()
        .flat_map(|part| [part.number, part.offset, part.size])
        .collect()
}

/// The parts of an xsave area that a record has.
pub fn from_words(words: &[u32]) -> Vec<StateComponent> {
    let part = |part: &[u32]| StateComponent {
        number: part[0],
        offset: part[1],
        size: part[2],
    };
    words.chunks_exact(3).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(set: InstructionSet, name: &str) -> String {
        let variables = set.environment(|_| None);
        let mut found = variables.iter().filter(|(other, _)| *other == name);
        found.next().expect("it is set").1.clone()
    }

    #[test]
    fn levels_mask_what_is_above_them() {
        let tunables = value(InstructionSet::V2, "GLIBC_TUNABLES");
        assert!(
            tunables.contains("-AVX2") && !tunables.contains("SSE4_2"),
            "{tunables}"
        );
        let tunables = value(InstructionSet::V3, "GLIBC_TUNABLES");
        assert!(
            tunables.contains("-AVX512F") && !tunables.contains("-AVX2"),
            "{tunables}"
        );
        assert_eq!(value(InstructionSet::Baseline, VARIABLE), "baseline");
        for level in &LEVELS {
            assert_eq!(LEVELS[level.set as usize].name, level.name);
            assert_eq!(InstructionSet::by_name(level.set.name()), Some(level.set));
        }
    }

    #[test]
    fn tunables_of_the_user_stay() {
        let present = Some("glibc.malloc.check=3:glibc.cpu.hwcaps=-ERMS".into());
        assert_eq!(
            tunables(present, "-AVX"),
            "glibc.malloc.check=3:glibc.cpu.hwcaps=-ERMS,-AVX"
        );
        assert_eq!(tunables(None, "-AVX"), "glibc.cpu.hwcaps=-AVX");
    }

    #[test]
    fn a_process_tells_what_it_is_kept_to() {
        assert_eq!(
            kept_to(b"A=1\0CRYO_ISA=x86-64-v3\0B="),
            Some(InstructionSet::V3)
        );
        assert_eq!(kept_to(b"CRYO_ISA=x86-64-v9\0"), None);
        assert_eq!(kept_to(b"NOT_CRYO_ISA=baseline\0"), None);
    }

    const AVX: StateComponent = StateComponent {
        number: 2,
        offset: 576,
        size: 256,
    };
    const KEYS: StateComponent = StateComponent {
        number: 9,
        offset: 2688,
        size: 8,
    };
    const KEYS_ELSEWHERE: StateComponent = StateComponent {
        offset: 832,
        ..KEYS
    };

    fn state(used: u8, size: usize) -> Vec<u8> {
        let mut state: Vec<u8> = (0..size).map(|at| at as u8).collect();
        state[512..576].fill(0);
        state[512] = used;
        state
    }

    #[test]
    fn parts_go_where_this_processor_has_them() {
        let mut old = state(0b111, 2696);
        old[513] = 2;
        let new = translate(&old, (&[AVX, KEYS], &[AVX, KEYS_ELSEWHERE]), 840).unwrap();
        assert_eq!(new.len(), 840);
        assert_eq!(new[..832], old[..832]);
        assert_eq!(new[832..], old[2688..]);
        assert_eq!(from_words(&to_words(&[AVX, KEYS])), [AVX, KEYS]);
    }

    #[test]
    fn parts_in_use_are_needed_and_others_are_not() {
        let wide = StateComponent {
            number: 6,
            offset: 1152,
            size: 512,
        };
        let idle = translate(&state(0b111, 2696), (&[AVX, wide], &[AVX]), 832).unwrap();
        assert_eq!(idle.len(), 832);
        let missing = translate(&state(0b100_0111, 2696), (&[AVX, wide], &[AVX]), 832);
        assert_eq!(missing, Err(vec!["AVX-512 registers".to_owned()]));
        // What a damaged image says.
        let far = StateComponent {
            number: 2,
            offset: u32::MAX,
            size: u32::MAX,
        };
        assert!(translate(&state(0b111, 576), (&[far], &[AVX]), 832).is_err());
    }
}
