//! What a job will need beyond the files that it uses now, as far as that can be known:
//!
//! - of each program: the names by which it was found (its first argument, looked for in PATH), so that it can be executed again,
//!   and the dynamic loader that it asks for;
//! - the libraries that any chosen program or library needs, and the names by which libraries are asked for; /etc/ld.so.cache for
//!   machines that have none;
//! - where the C library is used: the modules of the name service that /etc/nsswitch.conf names, with that file for machines that
//!   have none;
//! - the terminal's description (TERM) and the time zone (TZ) of each environment;
//! - of each interpreter: its script, and the program that the script's first line names;
//! - of Python: the modules of its standard library, without their tests and without what was installed beside them.
//!
//! What else a program loads by name later nobody knows: --include names it.

use std::collections::{BTreeSet, VecDeque};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cryonaut_procfs::ProcessDirectory;

use super::select::{Demand, Selection};
use crate::reference;
use crate::resource::file::path_of;

/// Where the loader of glibc and that of musl look for libraries in the end.
const LIBRARIES: [&str; 6] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];
/// Where descriptions of terminals are (terminfo(5)).
const TERMINALS: [&str; 3] = ["/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo"];
/// How the names of programs begin that read a script.
const INTERPRETERS: [&str; 21] = [
    "ash", "awk", "bash", "busybox", "dash", "expect", "fish", "gawk", "guile", "ksh", "lua",
    "make", "mawk", "node", "octave", "perl", "php", "python", "ruby", "tclsh", "zsh",
];
/// Names of interpreters that are too short to be beginnings.
const SHORT: [&str; 3] = ["sh", "R", "Rscript"];
/// Directories of Python's library that programs do not import.
const NOT_IMPORTED: [&str; 9] = [
    "__pycache__",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "site-packages",
    "dist-packages",
];

/// Adds all that these rules name.
pub(super) fn apply(selection: &mut Selection<'_>, job: &[&ProcessDirectory]) {
    for directory in job {
        let Some(program) = Running::read(directory) else {
            continue;
        };
        program.names(selection);
        program.terminal_and_zone(selection);
        program.script(selection);
        program.python(selection);
    }
    name_service(selection);
    libraries(selection);
}

/// What /proc tells of a process that runs.
struct Running {
    executable: PathBuf,
    directory: PathBuf,
    arguments: Vec<Vec<u8>>,
    environment: Vec<Vec<u8>>,
}

impl Running {
    fn read(directory: &ProcessDirectory) -> Option<Self> {
        Some(Self {
            executable: path_of(&directory.link("exe").ok()?).to_owned(),
            directory: path_of(&directory.link("cwd").ok()?).to_owned(),
            arguments: directory.command_line().ok()?,
            environment: directory.environment().unwrap_or_default(),
        })
    }

    fn variable(&self, name: &str) -> Option<&[u8]> {
        let value = |entry: &'_ Vec<u8>| {
            let rest = entry.strip_prefix(name.as_bytes())?;
            rest.starts_with(b"=").then_some(name.len() + 1)
        };
        let found = self
            .environment
            .iter()
            .find(|entry| value(entry).is_some())?;
        Some(&found[name.len() + 1..]).filter(|value| !value.is_empty())
    }

    /// The paths that a word may mean, as execvp(3) looks for it.
    fn candidates(&self, word: &[u8]) -> Vec<PathBuf> {
        if word.contains(&b'/') {
            return vec![self.directory.join(path_of(word))];
        }
        let search = self.variable("PATH").unwrap_or(b"/bin:/usr/bin");
        let directories = search.split(|&byte| byte == b':');
        directories
            .map(|found| self.directory.join(path_of(found)).join(path_of(word)))
            .collect()
    }

    fn names(&self, selection: &mut Selection<'_>) {
        let executable = self.executable.as_os_str().as_bytes();
        selection.add(executable, Demand::Used);
        let Some(first) = self.arguments.first() else {
            return;
        };
        // A login shell's begins with a dash.
        let word = first.strip_prefix(b"-").unwrap_or(first);
        for path in self.candidates(word) {
            let leads = std::fs::canonicalize(selection.reach(path.as_os_str().as_bytes()));
            let same = std::fs::canonicalize(selection.reach(executable));
            if leads.is_ok_and(|leads| same.is_ok_and(|same| leads == same)) {
                selection.add(path.as_os_str().as_bytes(), Demand::Used);
                return;
            }
        }
    }

    fn terminal_and_zone(&self, selection: &mut Selection<'_>) {
        let plain =
            |name: &&[u8]| !name.starts_with(b"/") && !name.windows(2).any(|two| two == b"..");
        if let Some(name) = self.variable("TERM").filter(plain) {
            let own = self
                .variable("TERMINFO")
                .map(|path| path_of(path).to_owned());
            let home = self
                .variable("HOME")
                .map(|path| path_of(path).join(".terminfo"));
            let places = own
                .into_iter()
                .chain(home)
                .chain(TERMINALS.map(PathBuf::from));
            for place in places {
                for below in [name[..1].to_vec(), format!("{:02x}", name[0]).into_bytes()] {
                    let path = place.join(path_of(&below)).join(path_of(name));
                    selection.add(path.as_os_str().as_bytes(), Demand::Used);
                }
            }
        }
        let zone = self
            .variable("TZ")
            .map(|zone| zone.strip_prefix(b":").unwrap_or(zone));
        if let Some(zone) = zone.filter(plain) {
            let path = Path::new("/usr/share/zoneinfo").join(path_of(zone));
            selection.add(path.as_os_str().as_bytes(), Demand::Used);
        }
    }

    fn is_interpreter(&self) -> bool {
        let name = self
            .executable
            .file_name()
            .map(|name| name.to_string_lossy());
        name.is_some_and(|name| {
            SHORT.contains(&&*name) || INTERPRETERS.iter().any(|known| name.starts_with(known))
        })
    }

    fn script(&self, selection: &mut Selection<'_>) {
        if !self.is_interpreter() {
            return;
        }
        let words = self.arguments.iter().skip(1);
        let script = words
            .filter(|word| !word.starts_with(b"-"))
            .find_map(|word| {
                let path = self.directory.join(path_of(word));
                let bytes = path.as_os_str().as_bytes();
                let is_file =
                    std::fs::metadata(selection.reach(bytes)).is_ok_and(|found| found.is_file());
                is_file.then(|| bytes.to_vec())
            });
        let Some(script) = script else {
            return;
        };
        selection.add(&script, Demand::Used);
        if let Some(program) = first_line(&selection.reach(&script)) {
            selection.add(&program, Demand::Used);
        }
    }

    fn python(&self, selection: &mut Selection<'_>) {
        let name = self
            .executable
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        if !name.starts_with("python3.") {
            return;
        }
        let prefix = self.executable.parent().and_then(Path::parent);
        if let Some(prefix) = prefix {
            let library = prefix.join("lib").join(&*name);
            modules(selection, &library);
        }
    }
}

/// The program that a script's first line names.
fn first_line(script: &Path) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut beginning = [0; 256];
    let count = std::fs::File::open(script)
        .ok()?
        .read(&mut beginning)
        .ok()?;
    let line = beginning[..count].strip_prefix(b"#!")?;
    let line = line.split(|&byte| byte == b'\n').next()?.trim_ascii();
    let program = line.split(u8::is_ascii_whitespace).next()?;
    program.starts_with(b"/").then(|| program.to_vec())
}

/// All modules below a directory of Python's.
fn modules(selection: &mut Selection<'_>, directory: &Path) {
    let place = selection.reach(directory.as_os_str().as_bytes());
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let path = directory.join(&name);
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            if !NOT_IMPORTED.contains(&&*text) && !text.starts_with("config-") {
                modules(selection, &path);
            }
        } else if text.ends_with(".py") || text.ends_with(".so") {
            selection.add(path.as_os_str().as_bytes(), Demand::Used);
        }
    }
}

/// Modules of the name service, beside the C library.
fn name_service(selection: &mut Selection<'_>) {
    let libc = selection
        .chosen
        .keys()
        .find(|path| path.ends_with(b"/libc.so.6"));
    let Some(libc) = libc.cloned() else {
        return;
    };
    let directory = path_of(&libc).parent().unwrap_or(Path::new("/"));
    let configuration = b"/etc/nsswitch.conf";
    let text = std::fs::read(selection.reach(configuration)).unwrap_or_default();
    let mut services: BTreeSet<String> = ["files", "dns", "compat"].map(String::from).into();
    for line in String::from_utf8_lossy(&text).lines() {
        let line = line.split('#').next().unwrap_or_default();
        let wanted = ["passwd:", "group:", "hosts:"]
            .iter()
            .find_map(|name| line.trim().strip_prefix(name));
        let words = wanted.into_iter().flat_map(str::split_whitespace);
        services.extend(
            words
                .filter(|word| !word.starts_with('['))
                .map(String::from),
        );
    }
    for service in services.iter().filter(|service| !service.contains('/')) {
        let path = directory.join(format!("libnss_{service}.so.2"));
        selection.add(path.as_os_str().as_bytes(), Demand::Used);
    }
    selection.add(configuration, Demand::IfMissing);
    selection.add(b"/etc/ld.so.cache", Demand::IfMissing);
}

/// Loaders and libraries that chosen programs and libraries ask for.
fn libraries(selection: &mut Selection<'_>) {
    let mut left: VecDeque<Vec<u8>> = selection
        .chosen
        .iter()
        .filter(|(_, chosen)| chosen.metadata.is_file())
        .map(|(path, _)| path.clone())
        .collect();
    let mut places: BTreeSet<PathBuf> = left
        .iter()
        .filter(|path| {
            path.windows(4)
                .any(|part| part == b".so." || part.ends_with(b".so"))
        })
        .filter_map(|path| path_of(path).parent().map(Path::to_owned))
        .collect();
    places.extend(LIBRARIES.map(PathBuf::from));
    let mut seen: BTreeSet<Vec<u8>> = BTreeSet::new();
    while let Some(path) = left.pop_front() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let Some(asked) = reference::dynamic(&selection.reach(&path)) else {
            continue;
        };
        let own = path_of(&path).parent().unwrap_or(Path::new("/")).to_owned();
        if let Some(interpreter) = &asked.interpreter {
            left.extend(selection.add(interpreter, Demand::Used));
        }
        if let Some(name) = asked.name.as_ref().filter(|name| !name.contains(&b'/')) {
            selection.add(own.join(path_of(name)).as_os_str().as_bytes(), Demand::Used);
        }
        let search = asked
            .search
            .iter()
            .flat_map(|list| list.split(|&byte| byte == b':'));
        let search = search.map(|place| {
            let text = String::from_utf8_lossy(place);
            let own = own.to_string_lossy();
            PathBuf::from(text.replace("${ORIGIN}", &own).replace("$ORIGIN", &own))
        });
        let search: Vec<PathBuf> = search
            .chain([own.clone()])
            .chain(places.iter().cloned())
            .collect();
        for name in &asked.needed {
            let found = search.iter().find_map(|place| {
                selection.add(
                    place.join(path_of(name)).as_os_str().as_bytes(),
                    Demand::Used,
                )
            });
            left.extend(found);
        }
    }
}
