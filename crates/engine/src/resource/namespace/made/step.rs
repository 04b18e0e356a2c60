//! The steps that make namespaces again, and lead processes into them.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cryonaut_procfs::ProcessDirectory;
use cryonaut_sys::spawn;
use cryonaut_tracee::CallList;

use super::super::survey::name_of;
use super::{IdMaps, NamespaceRecord, Nothing, visit};
use crate::error::Attempt;
use crate::plan::Action;
use crate::rebuild::Rebuild;
use crate::resource::credentials::{CredentialsRecord, become_before_user_namespace};
use crate::{Error, Result};

/// Makes a namespace, which lasts as long as `cryo` has it or a process is in it.
pub(super) struct Make {
    pub(super) namespace: NamespaceRecord,
    /// A group that exists where it is made; none where every group does.
    pub(super) group: Option<u32>,
    /// A user and a group who exist in the user namespace that it belongs to, where the job has made that.
    pub(super) user: Option<(u32, u32)>,
}

impl fmt::Display for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NamespaceRecord {
            kind,
            object,
            owner,
            ..
        } = &self.namespace;
        write!(f, "make {} namespace {object}", name_of(kind))?;
        if *owner != 0 {
            write!(f, " in user namespace {owner}")?;
        }
        match &self.namespace.names {
            Some(names) => write!(f, ", of host {}", String::from_utf8_lossy(&names.host)),
            None => Ok(()),
        }
    }
}

impl Action for Make {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let made = rebuild.short_life_of_child(0, |rebuild, maker| {
            self.become_maker(rebuild, maker)?;
            if self.namespace.owner != 0 {
                enter(rebuild, maker, self.namespace.owner)?;
            }
            let flags = self.namespace.flag().unwrap_or_default();
            let what = format!("making a {} namespace", name_of(&self.namespace.kind));
            rebuild.call(maker, &what, libc::SYS_unshare, &[flags.into()])?;
            if let Some(maps) = &self.namespace.maps {
                map_ids(rebuild, (maker, self.namespace.owner), maps)?;
            }
            if let Some(names) = &self.namespace.names {
                let mut list = CallList::new();
                let calls = names.set(&mut list);
                let outcomes = rebuild.run(maker, &list)?;
                for call in calls {
                    outcomes
                        .result(call)
                        .attempt(|| "naming a UTS namespace".into())?;
                }
            }
            let directory = ProcessDirectory::open(rebuild.built(maker)?.pid)?;
            let made = directory.open_file(&format!("ns/{}", self.namespace.kind))?;
            if let Some(network) = &self.namespace.network {
                set_up(
                    "setting up a network namespace",
                    (&directory, &made),
                    || network.set_up(),
                )?;
            }
            if let Some(mounts) = &self.namespace.mounts {
                let image = rebuild.image;
                set_up("setting up a mount namespace", (&directory, &made), || {
                    mounts.set_up(image, self.user)
                })?;
            }
            Ok(made)
        })?;
        rebuild
            .namespaces
            .insert(self.namespace.object, OwnedFd::from(made));
        Ok(())
    }
}

impl Make {
    /// The maker of a user namespace owns it. It keeps the capabilities that it has until then.
    fn become_maker(&self, rebuild: &Rebuild<'_>, maker: i32) -> Result<()> {
        const UNCHANGED: u64 = u32::MAX as u64;
        let Some(maps) = &self.namespace.maps else {
            return Ok(());
        };
        let mut list = CallList::new();
        let mut calls = Vec::new();
        if let Some(group) = self
            .group
            .filter(|group| *group != spawn::effective_group())
        {
            let ids = [UNCHANGED.into(), u64::from(group).into(), UNCHANGED.into()];
            calls.push(list.call(libc::SYS_setresgid, &ids));
        }
        if maps.owner != spawn::effective_user() {
            let bits = libc::SECBIT_NO_SETUID_FIXUP as u64;
            let keep = [libc::PR_SET_SECUREBITS.into(), bits.into()];
            calls.push(list.call(libc::SYS_prctl, &keep));
            let owner = u64::from(maps.owner);
            let ids = [UNCHANGED.into(), owner.into(), UNCHANGED.into()];
            calls.push(list.call(libc::SYS_setresuid, &ids));
        }
        if calls.is_empty() {
            return Ok(());
        }
        let outcomes = rebuild.run(maker, &list)?;
        for call in calls {
            outcomes
                .result(call)
                .attempt(|| format!("becoming user {}, who owns a user namespace", maps.owner))?;
        }
        Ok(())
    }
}

/// Has a process of ours set up a namespace, whose maker is the process of `directory`.
fn set_up(
    what: &str,
    (directory, made): (&ProcessDirectory, &File),
    set_up: impl FnOnce() -> io::Result<()>,
) -> Result<()> {
    let around = directory.open_file("ns/user")?;
    let ours = ProcessDirectory::open(spawn::own_pid())?;
    let way = if ours.namespace("user")? == directory.namespace("user")? {
        vec![made]
    } else {
        vec![&around, made]
    };
    visit::visit(&way, || set_up().map(|()| Nothing {}))
        .map(drop)
        .map_err(|error| Error::Failed(format!("{what}: {error}")))
}

/// Has a process of the user namespace around (0 for the job's first) map the ids of the one that `maker` has made.
fn map_ids(rebuild: &mut Rebuild<'_>, (maker, around): (i32, u64), maps: &IdMaps) -> Result<()> {
    rebuild.short_life_of_child(0, |rebuild, writer| {
        if around != 0 {
            enter(rebuild, writer, around)?;
        }
        let mut files = Vec::new();
        // The kernel lets an ordinary user map a group only after giving up setgroups(2).
        if maps.setgroups_denied {
            files.push(("setgroups", "deny".to_owned()));
        }
        for (name, map) in [("uid_map", &maps.users), ("gid_map", &maps.groups)] {
            if !map.is_empty() {
                files.push((name, IdMaps::text(map)));
            }
        }
        for (name, text) in files {
            let path = format!("/proc/{maker}/{name}");
            let mut list = CallList::new();
            let calls = list.write_file(path.as_bytes(), text.as_bytes());
            let outcomes = rebuild.run(writer, &list)?;
            for call in calls {
                outcomes
                    .result(call)
                    .attempt(|| format!("writing {name} of a user namespace"))?;
            }
        }
        Ok(())
    })
}

/// Has a process enter a namespace.
pub(super) fn enter(rebuild: &Rebuild<'_>, process: i32, object: u64) -> Result<()> {
    let number = give(rebuild, process, object)?;
    enter_given(rebuild, process, (object, number))
}

/// Leads a process into the network namespace where the job is started, which is ours. That takes capabilities there.
pub(super) fn leave_network(rebuild: &Rebuild<'_>, process: i32) -> Result<()> {
    let ours = ProcessDirectory::open(spawn::own_pid())?.open_file("ns/net")?;
    let number = rebuild.give_spare(process, ours.as_fd())?;
    enter_given(rebuild, process, (0, number))
}

/// Gives a process the descriptor of a namespace for a moment.
fn give(rebuild: &Rebuild<'_>, process: i32, object: u64) -> Result<i32> {
    let namespace = rebuild.namespaces.get(&object);
    let namespace =
        namespace.ok_or_else(|| Error::Failed(format!("namespace {object} is not there yet")))?;
    rebuild.give_spare(process, namespace.as_fd())
}

fn enter_given(rebuild: &Rebuild<'_>, process: i32, (object, number): (u64, i32)) -> Result<()> {
    let mut list = CallList::new();
    let enter = list.call(libc::SYS_setns, &[number.into(), 0.into()]);
    list.call(libc::SYS_close, &[number.into()]);
    rebuild
        .run(process, &list)?
        .result(enter)
        .attempt(|| format!("process {process}: entering namespace {object}"))
        .map(drop)
}

/// Leads a process into its namespaces.
pub(super) struct Enter {
    pub(super) process: i32,
    /// By their numbers; a user namespace is the last.
    pub(super) namespaces: Vec<u64>,
    /// Who it is to be before it enters a user namespace, in which not all ids may have a name.
    pub(super) identity: Option<CredentialsRecord>,
}

impl fmt::Display for Enter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "enter namespaces {:?}", self.namespaces)?;
        match &self.identity {
            Some(record) => write!(f, " as user {}", record.users.first().copied().unwrap_or(0)),
            None => Ok(()),
        }
    }
}

impl Action for Enter {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let (last, others) = match self.identity {
            Some(_) => match self.namespaces.split_last() {
                Some((last, others)) => (Some(*last), others),
                None => (None, &[][..]),
            },
            None => (None, self.namespaces.as_slice()),
        };
        for object in others {
            enter(rebuild, self.process, *object)?;
        }
        if let (Some(user), Some(record)) = (last, &self.identity) {
            // As long as it is one of ours.
            let number = give(rebuild, self.process, user)?;
            become_before_user_namespace(rebuild, record)?;
            enter_given(rebuild, self.process, (user, number))?;
            rebuild.note_own_user_namespace(self.process);
        }
        Ok(())
    }
}
