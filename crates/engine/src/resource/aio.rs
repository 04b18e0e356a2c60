//! Contexts of asynchronous I/O: io_setup(2).
//!
//! A context is known by the address of its ring, an area of memory shared with the kernel (fs/aio.c, `struct aio_ring`), which
//! /proc/PID/maps shows as `/[aio]`. The ring tells what has completed and was not fetched yet; that is saved, and comes back
//! in a context of the same size at the same address and position. Requests that have not completed are waited for: the kernel
//! does not show them, so the job stands still until the rings have for a while. Not preserved: requests that take longer, and
//! polls for readiness (IOCB_CMD_POLL) that wait for something outside of the job's reach; where a thread waits for such without
//! a time limit they are noticed, and refused.

mod step;

use std::time::{Duration, Instant};

use cryonaut_image::{Kind, Record, RecordSet};
use cryonaut_sys::arch::Interrupted;
use cryonaut_tracee::CallList;

use crate::collect::Collection;
use crate::freeze::{Frozen, FrozenProcess};
use crate::host::Host;
use crate::plan::{Plan, Stage};
use crate::resource::memory::{AddressSpace, Backing};
use crate::resource::sharing::Shared;
use crate::resource::{Level, Resource, Support};
use crate::target::Target;
use crate::{Error, Refusals, Result};

/// Size in bytes of the ring's header, and of one event (`struct io_event`).
const EVENT: u64 = 32;
/// `AIO_RING_MAGIC`.
const MAGIC: u32 = 0xa10a_10a1;
/// How long no request may complete before there is taken to be none left.
const QUIET: Duration = Duration::from_millis(20);
/// How long requests are waited for. The job stands still meanwhile.
const LIMIT: Duration = Duration::from_secs(1);

/// One context.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AioContext {
    /// The process whose memory it belongs to.
    #[prost(int32, tag = "1")]
    pub process: i32,
    /// Its id: the address of its ring.
    #[prost(fixed64, tag = "2")]
    pub address: u64,
    /// Length of its ring in bytes.
    #[prost(uint64, tag = "3")]
    pub length: u64,
    /// Events that the ring has room for.
    #[prost(uint32, tag = "4")]
    pub capacity: u32,
    /// Where the next event is fetched from: an index.
    #[prost(uint32, tag = "5")]
    pub head: u32,
    /// Where the next event goes to: an index.
    #[prost(uint32, tag = "6")]
    pub tail: u32,
    /// The events between them, in order, each 32 bytes.
    #[prost(bytes = "vec", tag = "7")]
    pub events: Vec<u8>,
}

impl Record for AioContext {
    const KIND: Kind = Kind {
        name: "aio-context",
        version: 1,
    };
}

/// The resource.
pub struct AsynchronousIo;

impl Resource for AsynchronousIo {
    fn name(&self) -> &'static str {
        "asynchronous I/O"
    }

    fn kinds(&self) -> &'static [Kind] {
        const { &[AioContext::KIND] }
    }

    fn support(&self) -> &'static [Support] {
        SUPPORT
    }

    fn inspect(&self, _: &Target, _: &mut Refusals) {
        // Whether requests are under way shows only while the job stands still.
    }

    fn collect(&self, frozen: &mut Frozen, collection: &mut Collection) -> Result<()> {
        let mut refusals = Refusals::default();
        for index in 0..frozen.processes.len() {
            let process = &frozen.processes[index];
            if process.is_zombie() || !frozen.sharing.holds(Shared::Memory, process.pid) {
                continue;
            }
            let rings = rings_of(process);
            if rings.is_empty() {
                continue;
            }
            let contexts = when_quiet(process, &rings, &mut refusals)?;
            let dead = without_context(&mut frozen.processes[index], &rings)?;
            let process = &frozen.processes[index];
            let label = (process.pid, process.name());
            for address in dead {
                refusals.add(
                    (label.0, &label.1),
                    format!("the ring of an asynchronous I/O context at {address:#x}"),
                    "the context is not its own but that of the process that forked it",
                    "have the program unmap the ring, or call exec, in that process",
                );
            }
            for context in contexts {
                collection.put(&context)?;
            }
        }
        refusals.into_result()
    }

    fn plan(&self, records: &RecordSet, _host: &Host, plan: &mut Plan) -> Result<()> {
        let contexts = records.all::<AioContext>()?;
        if contexts.is_empty() {
            return Ok(());
        }
        let spaces = records.all::<AddressSpace>()?;
        let least = least_capacity();
        for context in contexts {
            check(&context, &spaces)?;
            if context.capacity < least {
                plan.refusals.add(
                    (context.process, ""),
                    format!("its asynchronous I/O context at {:#x}", context.address),
                    format!(
                        "it has room for {} events, and with the processors of this machine the kernel makes none for less than {least}",
                        context.capacity
                    ),
                    "restart on a machine with fewer processors",
                );
            }
            let process = context.process;
            plan.step(Stage::Process, process, step::MakeContext { context });
        }
        Ok(())
    }
}

/// The rings of a process: address and length.
fn rings_of(process: &FrozenProcess) -> Vec<(u64, u64)> {
    let areas = process.areas.iter().map(|area| &area.area);
    areas
        .filter(|area| matches!(area.name, cryonaut_procfs::AreaName::AioRing))
        .map(|area| (area.start, area.length()))
        .collect()
}

/// Reads the contexts once nothing completes any more; refuses what does not come to rest.
fn when_quiet(
    process: &FrozenProcess,
    rings: &[(u64, u64)],
    refusals: &mut Refusals,
) -> Result<Vec<AioContext>> {
    let start = Instant::now();
    let mut found = read_all(process, rings)?;
    let mut since = start;
    loop {
        let waiting = waits_for(process, &found);
        if since.elapsed() >= QUIET && waiting.is_none() {
            return Ok(found);
        }
        if start.elapsed() >= LIMIT {
            let (object, reason) = match waiting {
                Some(tid) => (
                    format!("task {tid} in io_getevents"),
                    "it waits for requests that have not completed, and such are not saved",
                ),
                None => (
                    "its asynchronous I/O".into(),
                    "requests keep completing, and those under way are not saved",
                ),
            };
            let name = process.name();
            let remedy = "checkpoint while the program has no requests under way";
            refusals.add((process.pid, &name), object, reason, remedy);
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(1));
        let now = read_all(process, rings)?;
        if now != found {
            (found, since) = (now, Instant::now());
        }
    }
}

/// A task that waits without a time limit for more events than there are.
fn waits_for(process: &FrozenProcess, contexts: &[AioContext]) -> Option<i32> {
    const SYS_IO_PGETEVENTS: i64 = 333;
    let waits = |task: &&crate::freeze::FrozenTask| {
        let registers = task.stopped.registers();
        let [address, wanted, _, _, limit, _] = registers.arguments();
        let call = registers.system_call().unwrap_or(0) as i64;
        let context = contexts.iter().find(|context| context.address == address);
        matches!(call, libc::SYS_io_getevents | SYS_IO_PGETEVENTS)
            && registers.interrupted() != Interrupted::No
            && limit == 0
            && context.is_some_and(|context| (context.events.len() as u64 / EVENT) < wanted)
    };
    let task = process.tasks.iter().find(waits)?;
    Some(task.stopped.tid())
}

fn read_all(process: &FrozenProcess, rings: &[(u64, u64)]) -> Result<Vec<AioContext>> {
    let read = |&(address, length): &(u64, u64)| {
        let mut header = [0_u8; EVENT as usize];
        process.read(address, &mut header)?;
        let (capacity, head, tail) = parse(&header, length).ok_or_else(|| {
            Error::Failed(format!(
                "process {}: its asynchronous I/O context at {address:#x} is not as the kernel makes it",
                process.pid
            ))
        })?;
        let count = (tail + capacity - head) % capacity;
        let mut events = Vec::with_capacity(count as usize * EVENT as usize);
        for (index, events_there) in pieces(head, count, capacity) {
            let from = events.len();
            events.resize(from + (u64::from(events_there) * EVENT) as usize, 0);
            process.read(place(address, index), &mut events[from..])?;
        }
        Ok(AioContext {
            process: process.inner,
            address,
            length,
            capacity,
            head,
            tail,
            events,
        })
    };
    rings.iter().map(read).collect()
}

/// Capacity, head and tail in a ring's header (`struct aio_ring`: id, capacity, head, tail, magic, two words of features, length
/// of the header). The program may have written a head beyond the end: it counts modulo the capacity.
fn parse(header: &[u8; EVENT as usize], length: u64) -> Option<(u32, u32, u32)> {
    let word = |index: usize| {
        u32::from_le_bytes(
            header[index * 4..index * 4 + 4]
                .try_into()
                .expect("four bytes"),
        )
    };
    let capacity = word(1);
    let fits = (u64::from(capacity) + 1).checked_mul(EVENT)? <= length;
    let known = word(4) == MAGIC && u64::from(word(7)) == EVENT && capacity > 1;
    (fits && known).then(|| (capacity, word(2) % capacity, word(3) % capacity))
}

/// `count` events from index `first` on, as one or two pieces: index and number.
fn pieces(first: u32, count: u32, capacity: u32) -> impl Iterator<Item = (u32, u32)> {
    let straight = count.min(capacity - first);
    [(first, straight), (0, count - straight)]
        .into_iter()
        .filter(|(_, count)| *count > 0)
}

/// The address of an event.
fn place(ring: u64, index: u32) -> u64 {
    ring + EVENT + u64::from(index) * EVENT
}

/// Rings that the kernel does not know as contexts of this process: fork has copied them. Asked by fetching no event.
fn without_context(process: &mut FrozenProcess, rings: &[(u64, u64)]) -> Result<Vec<u64>> {
    let mut dead = Vec::new();
    for chunk in rings.chunks(200) {
        let mut list = CallList::new();
        let zero = list.space(16);
        let calls: Vec<_> = chunk
            .iter()
            .map(|&(address, _)| {
                let arguments = [address.into(), 0.into(), 0.into(), 0.into(), zero.into()];
                (address, list.call(libc::SYS_io_getevents, &arguments))
            })
            .collect();
        let outcomes = process.run(0, &list)?;
        let failed = calls
            .into_iter()
            .filter(|(_, call)| outcomes.result(*call).is_err());
        dead.extend(failed.map(|(address, _)| address));
    }
    Ok(dead)
}

/// Refuses records that no process can have had.
fn check(context: &AioContext, spaces: &[AddressSpace]) -> Result<()> {
    let area = spaces
        .iter()
        .filter(|space| space.process == context.process)
        .flat_map(|space| &space.areas)
        .find(|area| area.start == context.address && area.backing() == Backing::AioRing);
    let count = |capacity: u32| (context.tail + capacity - context.head) % capacity;
    let possible = area.is_some_and(|area| area.length() == context.length)
        && context.capacity > 1
        && context.capacity < 1 << 24
        && (u64::from(context.capacity) + 1) * EVENT <= context.length
        && context.head < context.capacity
        && context.tail < context.capacity
        && u64::from(count(context.capacity)) * EVENT == context.events.len() as u64;
    if possible {
        Ok(())
    } else {
        Err(Error::Failed(format!(
            "the image is damaged: process {} has an impossible context of asynchronous I/O",
            context.process
        )))
    }
}

/// The capacity of the smallest ring here: twice four events for each processor that there may be, and two (`ioctx_alloc`), and
/// whatever else fits in its last page.
fn least_capacity() -> u32 {
    let possible = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let last = possible
        .trim()
        .rsplit([',', '-'])
        .next()
        .and_then(|last| last.parse::<u64>().ok());
    capacity_for(8 * (last.unwrap_or(0) + 1))
}

/// The capacity of a ring that is asked to hold so many events.
fn capacity_for(events: u64) -> u32 {
    let length = ((events + 3) * EVENT).next_multiple_of(cryonaut_sys::PAGE_SIZE);
    u32::try_from(length / EVENT - 1).unwrap_or(u32::MAX)
}

const SUPPORT: &[Support] = &[
    Support {
        what: "Contexts of asynchronous I/O (io_setup, libaio), events that were not fetched yet",
        level: Level::Partly,
        how: "at the same address and position; requests under way are waited for until none completes for 20 ms. Requests that \
              take longer, and polls (IOCB_CMD_POLL) that wait on, are not shown by the kernel: the job waits for them in vain. They \
              are refused where a thread waits for them without a time limit",
    },
    Support {
        what: "Asynchronous I/O that does not come to rest within a second; rings that fork has copied",
        level: Level::Refused,
        how: "checkpoint while no requests are under way; have the child call exec",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::memory::AreaRecord;

    fn context() -> AioContext {
        AioContext {
            process: 7,
            address: 0x7f00_0000_0000,
            length: 8192,
            capacity: 255,
            head: 254,
            tail: 1,
            events: vec![1; 64],
        }
    }

    fn space(length: u64) -> AddressSpace {
        AddressSpace {
            process: 7,
            areas: vec![AreaRecord {
                start: 0x7f00_0000_0000,
                end: 0x7f00_0000_0000 + length,
                backing: Backing::AioRing as i32,
                ..AreaRecord::default()
            }],
            ..AddressSpace::default()
        }
    }

    #[test]
    fn record_round_trip() {
        let mut set = RecordSet::new();
        set.push(&context()).unwrap();
        assert_eq!(set.all::<AioContext>().unwrap(), [context()]);
        assert!(check(&context(), &[space(8192)]).is_ok());
        assert!(check(&context(), &[space(4096)]).is_err());
        let damaged = [
            AioContext {
                capacity: 256,
                ..context()
            },
            AioContext {
                tail: 255,
                ..context()
            },
            AioContext {
                events: Vec::new(),
                ..context()
            },
        ];
        for damaged in damaged {
            assert!(check(&damaged, &[space(8192)]).is_err());
        }
    }

    #[test]
    fn headers_are_checked() {
        let mut header = [0; 32];
        for (index, word) in [0_u32, 127, 130, 5, MAGIC, 1, 0, 32].iter().enumerate() {
            header[index * 4..index * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        assert_eq!(parse(&header, 4096), Some((127, 3, 5)));
        assert_eq!(parse(&header, 4064), None);
        header[16] = 0;
        assert_eq!(parse(&header, 4096), None);
    }

    #[test]
    fn rings_wrap() {
        assert_eq!(pieces(3, 2, 127).collect::<Vec<_>>(), [(3, 2)]);
        assert_eq!(pieces(126, 3, 127).collect::<Vec<_>>(), [(126, 1), (0, 2)]);
        assert_eq!(pieces(0, 0, 127).count(), 0);
        assert_eq!((capacity_for(16), capacity_for(128)), (127, 255));
        assert!(least_capacity() >= 127);
    }
}
