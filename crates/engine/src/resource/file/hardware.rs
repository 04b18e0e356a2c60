//! Devices that are refused: what each is, why it cannot come back, and what to do.
//!
//! stat(2) tells type and number; which driver a number belongs to is fixed (Documentation/admin-guide/devices.txt) or said by
//! /proc/devices. Nothing is preserved of any of them: their state is in the driver, the hardware, or another process.

use super::facts::FdFacts;

/// What a refusal says of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Device {
    /// What it is.
    pub what: &'static str,
    /// Why it is refused.
    pub reason: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

const fn device(what: &'static str, reason: &'static str, remedy: &'static str) -> Device {
    Device {
        what,
        reason,
        remedy,
    }
}

const LOG: Device = device(
    "the kernel's log",
    "where in the log it was read to is the kernel's, and means nothing after a reboot",
    "close it before the checkpoint",
);
const MEMORY: Device = device(
    "the machine's memory or ports",
    "what it shows belongs to the machine, not to the program",
    "close it before the checkpoint",
);
const INPUT: Device = device(
    "an input device",
    "what it is set to, and events not read yet, are in its driver",
    "end the graphical part of the program, or close the device, before the checkpoint",
);
const SOUND: Device = device(
    "a sound device",
    "the state of its streams is in its driver",
    "stop playing or recording before the checkpoint",
);
const CAMERA: Device = device(
    "a video device",
    "its buffers and settings are in its driver",
    "stop capturing before the checkpoint",
);
const GRAPHICS: Device = device(
    "a graphics processor",
    "memory and queues on the device are out of the kernel's reach",
    "run without the device (CUDA_VISIBLE_DEVICES= or the like), or checkpoint before the program opens it",
);
const CLOCK: Device = device(
    "a real-time clock",
    "alarms and interrupts set on it are the machine's, of which there is one",
    "use timer_create or timerfd in the program, or close it before the checkpoint",
);
const LOOP: Device = device(
    "a loop device",
    "the file that it stands for is bound to it by the machine, not by the program",
    "open the file behind it (losetup names it) instead, or close the device before the checkpoint",
);
const DISK: Device = device(
    "a disk",
    "its content changes with whatever is mounted from it",
    "close it before the checkpoint",
);
const TUNNEL: Device = device(
    "a network tunnel (tun, tap)",
    "its interface, with addresses and routes, belongs to the network and goes when it is closed",
    "close the tunnel before the checkpoint, and have the program set it up again",
);
const FILE_SYSTEM_SERVER: Device = device(
    "a file system server (FUSE)",
    "what is mounted through it, and requests under way, would lose their server",
    "unmount it (fusermount -u) before the checkpoint, and mount it again afterwards",
);
const VIRTUAL_MACHINE: Device = device(
    "virtual machines (KVM)",
    "processors and memory of a guest are in the kernel",
    "save the guest by its own program's means (such as virsh save)",
);
const NETWORK_HARDWARE: Device = device(
    "network hardware (InfiniBand, RDMA)",
    "queues and registered memory are in the device",
    "have the program use sockets or shared memory instead (such as UCX_TLS=tcp,self,sm)",
);
const WATCHDOG: Device = device(
    "a watchdog",
    "it would reset the machine while the program stands still",
    "close it before the checkpoint",
);
const VIRTUAL_INPUT: Device = device(
    "a maker of input devices",
    "the devices that were made go when it is closed",
    "close it before the checkpoint",
);
const PASSED_THROUGH: Device = device(
    "hardware handed to the program (VFIO, UIO)",
    "the hardware's state is in the hardware",
    "give it back before the checkpoint",
);
const PERFORMANCE: Device = device(
    "registers of the processor",
    "they belong to the machine, not to the program",
    "close it before the checkpoint",
);
const FAULTS: Device = device(
    "the maker of userfaultfds",
    "what was made with it could be in force",
    "close it before the checkpoint",
);

/// Character devices with numbers of their own: major, first and last minor.
const CHARACTER: &[(u32, u32, u32, Device)] = &[
    (1, 11, 11, LOG),
    (1, 1, 2, MEMORY),
    (1, 4, 4, MEMORY),
    (10, 126, 126, FAULTS),
    (10, 130, 130, WATCHDOG),
    (10, 135, 135, CLOCK),
    (10, 196, 196, PASSED_THROUGH),
    (10, 200, 200, TUNNEL),
    (10, 203, 203, FILE_SYSTEM_SERVER),
    (10, 223, 223, VIRTUAL_INPUT),
    (10, 228, 228, CLOCK),
    (10, 229, 229, FILE_SYSTEM_SERVER),
    (10, 232, 232, VIRTUAL_MACHINE),
    (10, 237, 237, LOOP),
    (10, 238, 241, VIRTUAL_MACHINE),
    (13, 0, u32::MAX, INPUT),
    (14, 0, u32::MAX, SOUND),
    (29, 0, u32::MAX, GRAPHICS),
    (81, 0, u32::MAX, CAMERA),
    (116, 0, u32::MAX, SOUND),
    (195, 0, u32::MAX, GRAPHICS),
    (202, 0, u32::MAX, PERFORMANCE),
    (203, 0, u32::MAX, PERFORMANCE),
    (226, 0, u32::MAX, GRAPHICS),
    (231, 0, u32::MAX, NETWORK_HARDWARE),
];

/// Drivers that get a number when they are loaded: the beginnings of their names in /proc/devices.
const BY_DRIVER: &[(&str, Device)] = &[
    ("rtc", CLOCK),
    ("nvidia", GRAPHICS),
    ("kfd", GRAPHICS),
    ("accel", GRAPHICS),
    ("infiniband", NETWORK_HARDWARE),
    ("vfio", PASSED_THROUGH),
    ("uio", PASSED_THROUGH),
    ("watchdog", WATCHDOG),
    ("hidraw", INPUT),
    ("media", CAMERA),
    ("cec", CAMERA),
];

/// What is known of a device that a descriptor is of; none where it is no device or nobody knows it here.
pub(super) fn known(facts: &FdFacts) -> Option<Device> {
    match facts.file_type() {
        libc::S_IFCHR => character(facts.node).or_else(|| {
            let drivers = std::fs::read_to_string("/proc/devices").ok()?;
            by_driver(&drivers, facts.node.0)
        }),
        libc::S_IFBLK if facts.node.0 == 7 => Some(LOOP),
        libc::S_IFBLK => Some(DISK),
        _ => None,
    }
}

fn character((major, minor): (u32, u32)) -> Option<Device> {
    CHARACTER
        .iter()
        .find(|(of, first, last, _)| *of == major && (*first..=*last).contains(&minor))
        .map(|(.., device)| *device)
}

/// Looks a major number up in the character devices of /proc/devices.
fn by_driver(drivers: &str, major: u32) -> Option<Device> {
    let mut lines = drivers
        .lines()
        .take_while(|line| !line.starts_with("Block"));
    let name = lines.find_map(|line| {
        let (number, name) = line.trim().split_once(' ')?;
        (number.parse() == Ok(major)).then_some(name)
    })?;
    BY_DRIVER
        .iter()
        .find(|(beginning, _)| name.starts_with(beginning))
        .map(|(_, device)| *device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_drivers_tell_what_a_device_is() {
        assert_eq!(character((10, 232)), Some(VIRTUAL_MACHINE));
        assert_eq!(character((10, 200)), Some(TUNNEL));
        assert_eq!(character((1, 11)), Some(LOG));
        assert_eq!(character((1, 3)), None);
        let drivers =
            "Character devices:\n  1 mem\n195 nvidia\n252 rtc\n\nBlock devices:\n253 rtc\n";
        assert_eq!(by_driver(drivers, 252), Some(CLOCK));
        assert_eq!(by_driver(drivers, 253), None);
        assert_eq!(by_driver(drivers, 1), None);
    }
}
