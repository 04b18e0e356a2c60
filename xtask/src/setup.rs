//! Installing what the tests need. Does nothing, and quickly, where everything is there.

use std::fs;

use crate::kernel;
use crate::steps::{self, Result, cargo, program, succeeds};

/// Debian packages: compilers for the victims, and the real programs that are tested.
const PACKAGES: &[&str] = &[
    "gcc",
    "g++",
    "gfortran",
    "libc6-dev",
    // The static binary (cargo xtask dist) has zstd in it, which is C.
    "musl-tools",
    "bash",
    "gawk",
    "gzip",
    "util-linux",
    // Sandboxes: namespaces of the job's own.
    "bubblewrap",
    // Connections to outside the job: interfaces, and the firewall.
    "iproute2",
    "nftables",
    "procps",
    "strace",
    "tmux",
    // Sessions on terminals.
    "dash",
    "zsh",
    "fish",
    "vim",
    "less",
    "screen",
    "expect",
    "python3",
    "python3-numpy",
    "python3-pip",
    "python3-setuptools",
    "python3-scipy",
    // Its own threads: the two BLAS threads of the numpy test.
    "libopenblas0-pthread",
    "r-base-core",
    "lammps",
    // Two MPI libraries, beside each other.
    "openmpi-bin",
    "libopenmpi-dev",
    "mpich",
    "libmpich-dev",
    "python3-mpi4py",
    "openjdk-17-jdk-headless",
    "nodejs",
    "perl",
    "ruby",
    "octave",
    "golang-go",
    "sqlite3",
    // Servers and their clients; what gives initdb a name for a user that has none.
    "postgresql",
    "libnss-wrapper",
    "redis-server",
    "nginx",
    "curl",
    "make",
    "tar",
    "xz-utils",
    "valgrind",
    // A browser, in which the pages of `cryo show --html` are looked at, and letters for it.
    "chromium",
    "fonts-dejavu-core",
    // Another machine: one that is reached by ssh.
    "openssh-client",
    "openssh-server",
    // Another machine, for another kernel.
    "qemu-system-x86",
    "busybox-static",
];

/// Cargo's tools, at the versions that are known to work here.
const TOOLS: &[(&str, &str)] = &[
    ("cargo-nextest", "0.9.143"),
    ("cargo-deny", "0.20.2"),
    ("cargo-fuzz", "0.13.2"),
];

/// Installs what is missing.
pub fn run() -> Result {
    install_packages()?;
    if succeeds(program("apt-get").arg("--version")) {
        kernel::fetch();
    }
    for (tool, version) in TOOLS {
        install_tool(tool, version)?;
    }
    Ok(())
}

fn install_packages() -> Result {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .copied()
        .filter(|name| !has_package(name))
        .collect();
    if missing.is_empty() {
        println!("all packages are installed");
        return Ok(());
    }
    let names = missing.join(" ");
    if !succeeds(program("apt-get").arg("--version")) {
        println!("this is no Debian; install by hand what corresponds to: {names}");
        return Ok(());
    }
    if !is_root() {
        return Err(format!(
            "run this as root, or: sudo apt-get install {names}"
        ));
    }
    steps::run(program("apt-get").args(["update", "-qq"]))?;
    steps::run(
        program("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

fn has_package(name: &str) -> bool {
    let query = program("dpkg-query")
        .args(["-W", "-f", "${Status}", name])
        .output();
    query.is_ok_and(|output| output.stdout == b"install ok installed")
}

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    // Real, effective, saved, file system.
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
    effective == Some("0")
}

/// A tool of any version will do; a missing one is installed at the known version.
fn install_tool(tool: &str, version: &str) -> Result {
    let subcommand = tool.trim_start_matches("cargo-");
    if succeeds(cargo().args([subcommand, "--version"])) {
        println!("{tool} is installed");
        return Ok(());
    }
    steps::run(cargo().args(["install", tool, "--locked", "--version", version]))
}
