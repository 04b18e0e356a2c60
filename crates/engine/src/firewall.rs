//! The firewall of this machine, as far as it keeps connections alive while their job is nowhere but on a disk: nftables, through
//! its command nft(8).
//!
//! A segment for a connection that no socket has is answered by the kernel with a reset, which would end the connection for its
//! peer. So a table of its own drops whatever belongs to the job's connections, both ways; the peer takes that for a bad line, and
//! sends again, until its patience ends (for Linux about a quarter of an hour: tcp_retries2). The table bears a number that the
//! image knows; the restart removes it.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::error::Attempt;
use crate::{Error, Result};

/// Where the command is, beside what PATH says: ordinary users often do not have these in it.
const PLACES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// The ends of a connection: its own and that of its peer.
pub type Ends = ((IpAddr, u16), (IpAddr, u16));

/// A table of the firewall, which may exist or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    name: String,
}

impl Table {
    /// One with a name that no other has.
    ///
    /// # Errors
    /// When the kernel gives no random number.
    pub fn fresh() -> Result<Self> {
        let number = std::fs::read_to_string("/proc/sys/kernel/random/uuid")
            .attempt(|| "naming a table of the firewall".into())?;
        Ok(Self {
            name: format!("cryonaut-{}", number.trim()),
        })
    }

    /// The one that an image names; none where it names nothing that could be one.
    pub fn named(name: &str) -> Option<Self> {
        let number = name.strip_prefix("cryonaut-")?;
        let fits = number.len() <= 64
            && number
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        fits.then(|| Self { name: name.into() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Has it drop all segments of these connections.
    ///
    /// # Errors
    /// When there is no nft, or it reports an error.
    pub fn hold(&self, connections: &[Ends]) -> Result<()> {
        let what = || "having the firewall hold connections (nft)".to_owned();
        let mut started = command()?
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .attempt(what)?;
        let rules = self.rules(connections);
        let given = started
            .stdin
            .take()
            .map_or(Ok(()), |mut input| input.write_all(rules.as_bytes()));
        let ended = started.wait_with_output().attempt(what)?;
        if !ended.status.success() {
            let said = String::from_utf8_lossy(&ended.stderr);
            let said = said.lines().next().unwrap_or("it ended with an error");
            return Err(Error::Failed(format!("{}: {said}", what())));
        }
        given.attempt(what)
    }

    /// Removes it; one that is not there is no error.
    ///
    /// # Errors
    /// When it is there and stays.
    pub fn remove(&self) -> Result<()> {
        let Ok(mut command) = command() else {
            return Ok(());
        };
        let ended = command
            .args(["delete", "table", "inet", &self.name])
            .stdin(Stdio::null())
            .output()
            .attempt(|| "removing a table of the firewall (nft)".into())?;
        let said = String::from_utf8_lossy(&ended.stderr);
        if ended.status.success() || said.contains("No such file or directory") {
            return Ok(());
        }
        Err(Error::Failed(format!(
            "the table {} of the firewall stays, and holds the job's connections: {}; remove it by `nft delete table inet {}`",
            self.name,
            said.lines().next().unwrap_or("nft ended with an error"),
            self.name
        )))
    }

    /// What nft(8) is told.
    fn rules(&self, connections: &[Ends]) -> String {
        let mut rules = format!("table inet {} {{\n", self.name);
        for (set, family, kind) in [("four", "ip", "ipv4_addr"), ("six", "ip6", "ipv6_addr")] {
            let of_family = connections
                .iter()
                .filter(|((own, _), _)| own.is_ipv4() == (family == "ip"));
            let elements: Vec<String> = of_family
                .map(|((own, port), (peer, theirs))| format!("{own} . {port} . {peer} . {theirs}"))
                .collect();
            if elements.is_empty() {
                continue;
            }
            let elements = elements.join(", ");
            rules += &format!(
                "set {set} {{ type {kind} . inet_service . {kind} . inet_service; elements = {{ {elements} }}; }}\n\
                 chain {set}-in {{ type filter hook input priority -300; policy accept;\n\
                 {family} daddr . tcp dport . {family} saddr . tcp sport @{set} drop; }}\n\
                 chain {set}-out {{ type filter hook output priority -300; policy accept;\n\
                 {family} saddr . tcp sport . {family} daddr . tcp dport @{set} drop; }}\n"
            );
        }
        rules + "}\n"
    }
}

/// Whether there is a firewall that can be told.
pub fn is_there() -> bool {
    command().is_ok()
}

fn command() -> Result<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).chain(PLACES.map(PathBuf::from));
    let found = places.find_map(|place| {
        let program = place.join("nft");
        program.is_file().then_some(program)
    });
    let said_plainly = |program: PathBuf| {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        command
    };
    found
        .map(said_plainly)
        .ok_or_else(|| Error::Failed("there is no command nft (package nftables)".into()))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn only_names_of_its_own_are_taken() {
        let table = Table::fresh().unwrap();
        assert_eq!(Table::named(table.name()), Some(table));
        for name in ["", "filter", "cryonaut-x; flush ruleset", "cryonaut-ä"] {
            assert_eq!(Table::named(name), None, "{name}");
        }
    }

    #[test]
    fn rules_name_both_ways() {
        let table = Table::named("cryonaut-5").unwrap();
        let four = (Ipv4Addr::LOCALHOST.into(), 80);
        let six = (Ipv6Addr::LOCALHOST.into(), 81);
        let rules = table.rules(&[(four, (Ipv4Addr::LOCALHOST.into(), 9)), (six, six)]);
        assert!(rules.contains("elements = { 127.0.0.1 . 80 . 127.0.0.1 . 9 };"));
        assert!(rules.contains("elements = { ::1 . 81 . ::1 . 81 };"));
        assert_eq!(rules.matches(" drop;").count(), 4);
        assert!(!table.rules(&[(four, four)]).contains("ip6"));
    }

    #[test]
    fn a_table_comes_and_goes() {
        let table = Table::fresh().unwrap();
        if !is_there() {
            println!("skipped: no nft");
            return;
        }
        let four = (Ipv4Addr::LOCALHOST.into(), 1);
        let six = (Ipv6Addr::LOCALHOST.into(), 1);
        if let Err(error) = table.hold(&[(four, four), (six, six)]) {
            println!("skipped: {error}");
            assert!(error.to_string().contains("permitted"));
            return;
        }
        table.remove().unwrap();
        table.remove().unwrap();
    }
}
