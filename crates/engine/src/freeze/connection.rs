//! Connections within a job that is about to be killed.

use std::os::fd::AsFd;

use cryonaut_sys::{pidfd, socket};

use super::FrozenProcess;

/// Has connections, by process as we see it and descriptor, end at once when they are closed (SO_LINGER), so that nothing of them
/// stands in the way of a restart. Where that fails the remains keep their addresses for a minute at worst.
pub fn cut(connections: &[(i32, i32)], processes: &[FrozenProcess]) {
    let at_once = [1_i32.to_ne_bytes(), 0_i32.to_ne_bytes()].concat();
    for (pid, number) in connections {
        let mut processes = processes.iter();
        let process = processes.find(|process| process.pid == *pid);
        if let Some(process) = process.and_then(|process| process.pidfd.as_ref())
            && let Ok(socket) = pidfd::get_descriptor(process.as_fd(), *number)
        {
            let _ = socket::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &at_once);
        }
    }
}
