//! What has to be known before unix sockets are made again: that their names are free here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use cryonaut_image::RecordSet;

use super::make::Workshop;
use super::record::{Link, SocketFile, UnixSocket, readable};
use super::standing::Listing;
use crate::host::Host;
use crate::plan::{Action, Plan, Stage};
use crate::rebuild::Rebuild;
use crate::resource::file::socket::check;
use crate::resource::file::{Count, holders, path_of, pidfd};
use crate::resource::process::ProcessRecord;
use crate::{Error, Result};

/// Plans all unix sockets of an image: one step, since they are made through each other.
pub fn plan(records: &RecordSet, host: &Host, plan: &mut Plan) -> Result<()> {
    let sockets = records.all::<UnixSocket>()?;
    if sockets.is_empty() {
        return Ok(());
    }
    check_records(&sockets)?;
    let holders = holders(records)?;
    let mut listing = Listing::read();
    if !host.leaving.is_empty() {
        // The job itself, which gives up its names before it is restarted.
        listing.leave_out(sockets.iter().map(|socket| socket.inode));
    }
    for socket in &sockets {
        let (process, number) = holders.get(&socket.object).copied().unwrap_or_default();
        let object = match &socket.name {
            Some(name) => format!("descriptor {number}, unix socket {}", readable(name)),
            None => format!("descriptor {number}, a unix socket"),
        };
        let label = (process, "");
        check(&socket.options, label, &object, plan);
        if socket.is_bound() {
            check_name(socket, &listing, (label, &object), host, plan);
        }
        if socket.reconnect {
            let to = socket.peer_name.as_deref().unwrap_or_default();
            plan.remarks.push(format!(
                "process {process}: {object} is connected again to {}, which is outside the job",
                readable(to)
            ));
        }
    }
    let late = pidfd::late(records)?;
    let in_flight = sockets.iter().flat_map(|socket| &socket.queue);
    if in_flight
        .flat_map(|message| &message.descriptors)
        .any(|object| late.contains(object))
    {
        plan.refusals.add_for_job(
            "the queue of a unix socket",
            "the descriptor of a thread is in flight in it, and threads are born later",
            "make the checkpoint once a program has received it",
        );
    }
    let processes = records
        .all::<ProcessRecord>()?
        .iter()
        .filter(|process| process.zombie.is_none())
        .map(|process| process.pid)
        .collect();
    plan.step(Stage::Descriptors, 0, Make { sockets, processes });
    Ok(())
}

/// Checks that records fit each other.
fn check_records(sockets: &[UnixSocket]) -> Result<()> {
    let damaged =
        || Error::Failed("the image is damaged: unix sockets do not fit each other".into());
    let known: BTreeMap<u64, &UnixSocket> = sockets
        .iter()
        .map(|socket| (socket.inode, socket))
        .collect();
    if known.len() != sockets.len() {
        return Err(damaged());
    }
    for socket in sockets {
        let peer = known.get(&socket.peer);
        let fits = match socket.link() {
            Link::Connected => peer.is_some_and(|peer| {
                peer.kind == socket.kind
                    && (socket.kind == libc::SOCK_DGRAM || peer.peer == socket.inode)
            }),
            Link::Waiting => peer.is_some_and(|listener| {
                listener.link() == Link::Listening
                    && listener.kind == socket.kind
                    && listener.waiting.contains(&socket.inode)
            }),
            Link::Listening => socket.waiting.iter().all(|client| {
                known
                    .get(client)
                    .is_some_and(|client| client.link() == Link::Waiting)
            }),
            Link::Alone | Link::Gone => true,
        };
        let kind = [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET];
        let short = |name: &Option<Vec<u8>>| {
            name.as_ref()
                .is_none_or(|name| (1..=108).contains(&name.len()))
        };
        let named = short(&socket.name)
            && short(&socket.peer_name)
            && socket.queue.iter().all(|message| short(&message.from));
        if !fits || !kind.contains(&socket.kind) || !named {
            return Err(damaged());
        }
    }
    Ok(())
}

/// Refuses a name that another socket has here.
fn check_name(
    socket: &UnixSocket,
    listing: &Listing,
    (label, object): ((i32, &str), &str),
    host: &Host,
    plan: &mut Plan,
) {
    let Some(name) = &socket.name else {
        return;
    };
    let file = match &socket.file {
        Some(file) => file,
        // Made anew, it has no other sockets.
        None if socket.network != 0 => return,
        None => {
            let mut all = listing.all();
            let taken = all.find(|other| {
                other.name == *name && i32::from(other.kind) == socket.kind && other.state != 1
            });
            if let Some(other) = taken {
                let whose = super::standing::holder(other.inode);
                let whose = whose.map_or("another process".into(), |(pid, name)| {
                    format!("process {pid} ({name})")
                });
                plan.refusals.add(
                    label,
                    object,
                    format!("the abstract name {} is taken here by {whose}", readable(name)),
                    "end that process, or restart in a network namespace of its own (unshare --net)",
                );
            }
            return;
        }
    };
    check_place(file, listing, (label, object), host, plan);
}

/// Refuses a place where the socket file cannot be.
fn check_place(
    file: &SocketFile,
    listing: &Listing,
    (label, object): ((i32, &str), &str),
    host: &Host,
    plan: &mut Plan,
) {
    let Some(path) = &file.path else {
        return;
    };
    let mut refuse = |reason: String, remedy: String| {
        plan.refusals.add(label, object, reason, remedy);
    };
    let path_text = readable(path);
    let directory = path_of(path).parent().unwrap_or(Path::new("/"));
    if !directory.is_dir() {
        return refuse(
            format!("the directory {} does not exist here", directory.display()),
            "make it".into(),
        );
    }
    match std::fs::symlink_metadata(path_of(path)) {
        Ok(there) if !there.file_type().is_socket() => refuse(
            format!("{path_text} is no socket here"),
            "move that file away".into(),
        ),
        Ok(there) => {
            let mut all = listing.all();
            // What accepted sockets show is the file of the one that listens.
            let bound = all.find(|other| other.file == Some(there.ino()) && other.state != 1);
            if let Some(other) = bound {
                let whose = super::standing::holder(other.inode);
                let whose = whose.map_or("another process".into(), |(pid, name)| {
                    format!("process {pid} ({name})")
                });
                refuse(
                    format!("{whose} has a socket at {path_text}"),
                    "end that process; a second copy of a job needs a place of its own for its files".into(),
                );
            }
        }
        Err(_) => {}
    }
    if host.user != 0 && file.user != host.user {
        refuse(
            format!("the socket file {path_text} belongs to user {}", file.user),
            "restart as that user or as root".into(),
        );
    }
}

/// Makes all unix sockets.
struct Make {
    sockets: Vec<UnixSocket>,
    processes: BTreeSet<i32>,
}

impl fmt::Display for Make {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages: usize = self.sockets.iter().map(|socket| socket.queue.len()).sum();
        let waiting: usize = self.sockets.iter().map(|socket| socket.waiting.len()).sum();
        write!(f, "make {}", Count(self.sockets.len(), "unix socket"))?;
        if messages > 0 {
            write!(f, ", with {} under way", Count(messages, "message"))?;
        }
        if waiting > 0 {
            write!(f, ", with {} to be accepted", Count(waiting, "connection"))?;
        }
        Ok(())
    }
}

impl Action for Make {
    fn perform(&self, rebuild: &mut Rebuild<'_>) -> Result<()> {
        let mut workshop = Workshop::new(rebuild, &self.sockets, &self.processes)?;
        workshop.make()?;
        workshop.fill()?;
        workshop.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_do_not_fit_each_other_are_damage() {
        let socket = |inode: u64, link: Link, peer: u64| {
            let mut socket = UnixSocket {
                inode,
                peer,
                kind: libc::SOCK_STREAM,
                ..UnixSocket::default()
            };
            socket.set_link(link);
            socket
        };
        let connected = Link::Connected;
        assert!(check_records(&[socket(1, connected, 2), socket(2, connected, 1)]).is_ok());
        assert!(check_records(&[socket(1, connected, 2), socket(2, connected, 3)]).is_err());
        assert!(check_records(&[socket(1, connected, 2)]).is_err());
        assert!(check_records(&[socket(1, Link::Alone, 0), socket(1, Link::Alone, 0)]).is_err());
        assert!(check_records(&[socket(1, Link::Waiting, 1)]).is_err());
        let mut listener = socket(2, Link::Listening, 0);
        listener.waiting = vec![1];
        assert!(check_records(&[socket(1, Link::Waiting, 2), listener.clone()]).is_ok());
        assert!(check_records(&[listener]).is_err());
    }
}
