//! Hundreds of threads pass numbers along channels and add them up: a Rust program without any crate.
//!
//! usage: many_threads THREADS ROUNDS

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::Duration;

fn mix(digest: u64, word: u64) -> u64 {
    (digest ^ word)
        .wrapping_mul(0x0100_0000_01b3)
        .rotate_left(23)
}

fn work(
    number: u64,
    rounds: u64,
    from: &Receiver<u64>,
    to: &Sender<u64>,
    total: &AtomicU64,
    gate: &(Mutex<u64>, Condvar),
    barrier: &Barrier,
) -> u64 {
    let mut digest = number;
    let mut memory = vec![0u64; 512];
    for round in 0..rounds {
        if number == 0 {
            to.send(round).expect("the next thread lives");
        }
        let got = from.recv().expect("the thread before lives");
        if number != 0 {
            to.send(got + 1).expect("the next thread lives");
        }
        for word in &mut memory {
            *word = word.wrapping_mul(6364136223846793005).wrapping_add(got | 1);
        }
        digest = mix(digest, got ^ memory[(round % 512) as usize]);
        total.fetch_add(got, Ordering::Relaxed);
        if round % 10 == number % 10 {
            std::thread::sleep(Duration::from_micros(100));
        }
        if round % 50 == 0 {
            barrier.wait();
            let (lock, changed) = gate;
            *lock.lock().expect("no thread panicked") += 1;
            changed.notify_all();
        }
    }
    digest
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|text| text.parse().expect("a number"));
    let threads: u64 = arguments.next().unwrap_or(300);
    let rounds: u64 = arguments.next().unwrap_or(1000);
    let total = Arc::new(AtomicU64::new(0));
    let gate = Arc::new((Mutex::new(0u64), Condvar::new()));
    let barrier = Arc::new(Barrier::new(threads as usize));
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..threads).map(|_| channel::<u64>()).unzip();
    let handles: Vec<_> = receivers
        .into_iter()
        .enumerate()
        .map(|(number, from)| {
            let to = senders[(number + 1) % threads as usize].clone();
            let (total, gate, barrier) = (total.clone(), gate.clone(), barrier.clone());
            std::thread::Builder::new()
                .name(format!("worker {number}"))
                .spawn(move || work(number as u64, rounds, &from, &to, &total, &gate, &barrier))
                .expect("a thread can be started")
        })
        .collect();
    let wanted = threads * rounds.div_ceil(50);
    let (lock, changed) = &*gate;
    let mut passed = lock.lock().expect("no thread panicked");
    while *passed < wanted {
        let before = *passed;
        passed = changed.wait(passed).expect("no thread panicked");
        if before / (threads * 4) != *passed / (threads * 4) {
            println!("{}", *passed / (threads * 4));
        }
    }
    drop(passed);
    let mut digest = 0;
    for handle in handles {
        digest = mix(digest, handle.join().expect("no thread panicked"));
    }
    println!("FINAL {digest:016x} {}", total.load(Ordering::Relaxed));
}
