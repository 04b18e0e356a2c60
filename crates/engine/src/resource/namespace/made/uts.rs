//! What a UTS namespace has: the names of host and domain (uts_namespaces(7)).

use std::io;

use cryonaut_tracee::CallList;

use super::damaged;
use crate::Result;

/// The names that a UTS namespace has.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HostNames {
    /// Name of the host (sethostname(2)).
    #[prost(bytes = "vec", tag = "1")]
    pub host: Vec<u8>,
    /// Name of the NIS domain (setdomainname(2)).
    #[prost(bytes = "vec", tag = "2")]
    pub domain: Vec<u8>,
}

/// The greatest length of either, in bytes: `__NEW_UTS_LEN` (include/uapi/linux/utsname.h).
const LONGEST: usize = 64;

/// Reads the names that the calling process sees.
///
/// # Errors
/// Those of reading a file.
pub(super) fn look() -> io::Result<HostNames> {
    let read = |name: &str| {
        let mut text = std::fs::read(format!("/proc/sys/kernel/{name}"))?;
        text.pop_if(|last| *last == b'\n');
        Ok::<_, io::Error>(text)
    };
    Ok(HostNames {
        host: read("hostname")?,
        domain: read("domainname")?,
    })
}

impl HostNames {
    pub(super) fn check(&self) -> Result<()> {
        match [&self.host, &self.domain]
            .iter()
            .any(|name| name.len() > LONGEST)
        {
            true => Err(damaged("the name of a host")),
            false => Ok(()),
        }
    }

    /// Has a process that has just made its UTS namespace give it these names.
    pub(super) fn set(&self, list: &mut CallList) -> [cryonaut_tracee::CallId; 2] {
        let mut set = |number: i64, name: &[u8]| {
            let length = name.len() as u64;
            let name = list.bytes(name);
            list.call(number, &[name.into(), length.into()])
        };
        [
            set(libc::SYS_sethostname, &self.host),
            set(libc::SYS_setdomainname, &self.domain),
        ]
    }
}
