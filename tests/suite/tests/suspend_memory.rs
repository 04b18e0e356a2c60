//! What a suspension gives back, what it does not and why, and what a resume brings back.

use std::fs;
use std::time::Duration;

use cryonaut_suite::outcome::skip;
use cryonaut_suite::scene::LIMIT;
use cryonaut_suite::swap::SwapFile;
use cryonaut_suite::victim::{await_ready, checkpoint, finish};
use cryonaut_suite::{Outcome, Program, Running, Scene, failed, for_each_user, processes};

fn start(scene: &Scene, victim: &str, arguments: &[&str]) -> Outcome<Running> {
    let program = Program::victim(victim, &[])?.arguments(arguments.iter().copied());
    let job = scene.start("victim", &program)?;
    await_ready(scene, &job)?;
    Ok(job)
}

/// What stayed of a job's memory, and why, as the JSON of a suspension says.
fn stayed(json: &str) -> Outcome<Vec<(u64, String)>> {
    let list = json
        .split_once("\"stayed\":[")
        .and_then(|(_, rest)| rest.split_once(']'));
    let Some((list, _)) = list else {
        return failed(format!("nothing is said of what stayed: {json}"));
    };
    let row = |text: &str| {
        let (bytes, why) = text.split_once("\"bytes\":")?.1.split_once(",\"why\":\"")?;
        Some((bytes.parse().ok()?, why.split('"').next()?.to_owned()))
    };
    let rows: Option<Vec<_>> = list
        .split('}')
        .filter(|text| text.contains('{'))
        .map(row)
        .collect();
    match rows {
        Some(rows) => Ok(rows),
        None => failed(format!("what stayed is told in another form: {json}")),
    }
}

/// Suspends `pid`, and expects that at least so many bytes stayed for this reason, and that each reason is told once.
fn expect_stayed(scene: &Scene, pid: i32, (bytes, why): (u64, &str)) -> Outcome {
    let pid = pid.to_string();
    let told = scene
        .cryo(["suspend", "--partial", "--json", &pid])
        .run()?
        .success()?;
    let rows = stayed(&told.stdout)?;
    if !rows
        .iter()
        .any(|(held, reason)| reason == why && *held >= bytes)
    {
        return failed(format!("{why} of {bytes} is not among {rows:?}"));
    }
    // Again, for people.
    let told = scene
        .cryo(["suspend", "--partial", &pid])
        .run()?
        .success()?
        .stdout;
    let mut reasons: Vec<&str> = told
        .lines()
        .filter_map(|line| line.split_once(" stayed: "))
        .map(|(_, reason)| reason)
        .collect();
    let all = reasons.len();
    reasons.sort_unstable();
    reasons.dedup();
    if all == 0 || reasons.len() != all {
        return failed(format!("a reason is told twice, or none: {told}"));
    }
    scene.cryo(["resume", &pid]).run()?.success()?;
    Ok(())
}

fn locked(scene: &Scene) -> Outcome {
    let job = start(scene, "stays", &["locked"])?;
    expect_stayed(scene, job.pid(), (4 << 20, "locked"))?;
    finish(scene, &job, &job)
}

fn shared_outside(scene: &Scene) -> Outcome {
    let job = start(scene, "stays", &["outside"])?;
    let Some(&child) = processes::descendants(job.pid()).first() else {
        return failed("the victim has no child");
    };
    expect_stayed(scene, child, (7 << 19, "shared-outside"))?;
    finish(scene, &job, &job)
}

fn shared_inside(scene: &Scene) -> Outcome {
    let _swap = SwapFile::add(scene, 64)?;
    let job = start(scene, "stays", &["inside"])?;
    expect_stayed(scene, job.pid(), (7 << 20, "shared"))?;
    finish(scene, &job, &job)
}

/// KiB of a line of /proc/PID/status.
fn status(pid: i32, name: &str) -> Outcome<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    match line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()) {
        Some(number) => Ok(number),
        None => failed(format!("no {name} in {text}")),
    }
}

const MIB: u64 = 1024;

/// What a resume brings back of 8 MiB that were in use and 24 that were not, while the job touches neither.
fn prefetched(scene: &Scene, what: &str) -> Outcome {
    let _swap = SwapFile::add(scene, 128)?;
    let job = start(scene, "warm", &["8", "24"])?;
    let pid = job.pid();
    let named = pid.to_string();
    scene.cryo(["suspend", &named]).run()?.success()?;
    scene.write(&scene.work("cool"), "")?;
    let (out, left) = (status(pid, "VmSwap")?, status(pid, "VmRSS")?);
    if out < 31 * MIB || left > 6 * MIB {
        return failed(format!("{out} KiB in swap, {left} in memory"));
    }
    scene
        .cryo(["resume", "--prefetch", what, &named])
        .run()?
        .success()?;
    match what {
        // It is there when the job runs, not later.
        "all" => {
            let (out, held) = (status(pid, "VmSwap")?, status(pid, "VmRSS")?);
            if out > MIB || held < 32 * MIB {
                return failed(format!("{out} KiB in swap, {held} in memory"));
            }
        }
        "hot" => {
            scene.wait_for("what was in use", LIMIT, || {
                let held = status(pid, "VmRSS").unwrap_or(0);
                (held >= left + 7 * MIB).then_some(())
            })?;
            let out = status(pid, "VmSwap")?;
            if out < 20 * MIB {
                return failed(format!("what was not in use came too: {out} KiB in swap"));
            }
        }
        _ => {
            std::thread::sleep(Duration::from_millis(500));
            let out = status(pid, "VmSwap")?;
            if out < 30 * MIB {
                return failed(format!(
                    "it came without being asked for: {out} KiB in swap"
                ));
            }
        }
    }
    finish(scene, &job, &job)
}

/// KiB of a mapped file that lie in memory, as the process maps it.
fn mapped(pid: i32, file: &str) -> Outcome<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let mut lines = text.lines().skip_while(|line| !line.ends_with(file));
    let resident = lines.find_map(|line| line.strip_prefix("Rss:"));
    match resident.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()) {
        Some(number) => Ok(number),
        None => failed(format!("{file} is not mapped: {text}")),
    }
}

/// Pages of files go without any swap: changed ones, which are written first, and others.
fn pages_of_files(scene: &Scene) -> Outcome {
    let job = start(scene, "file_pages", &[])?;
    let kind = std::process::Command::new("stat")
        .args(["-f", "-c", "%T"])
        .arg(scene.work(""))
        .output()?;
    let kind = String::from_utf8_lossy(&kind.stdout).trim().to_owned();
    if kind == "tmpfs" {
        return skip("the directory of temporary files lies in memory");
    }
    let held = || -> Outcome<(u64, u64)> {
        Ok((mapped(job.pid(), "/changed")?, mapped(job.pid(), "/read")?))
    };
    let before = held()?;
    if before != (8 * MIB, 8 * MIB) {
        return failed(format!("{before:?} KiB of the files are mapped"));
    }
    let pid = job.pid().to_string();
    scene
        .cryo(["suspend", "--partial", &pid])
        .run()?
        .success()?;
    let after = held()?;
    if after.0 > MIB / 4 || after.1 > MIB / 4 {
        return failed(format!("{after:?} KiB of the files on {kind} stay"));
    }
    scene.cryo(["resume", &pid]).run()?.success()?;
    finish(scene, &job, &job)
}

/// What the list of jobs says that the only job in it holds in memory, in KiB.
fn listed_memory(scene: &Scene) -> Outcome<u64> {
    let listed = scene.cryo(["list", "--json"]).run()?.success()?.stdout;
    let number = listed
        .split_once("\"bytes_in_memory\":")
        .and_then(|(_, rest)| {
            rest.split(|letter: char| !letter.is_ascii_digit())
                .next()?
                .parse::<u64>()
                .ok()
        });
    match number {
        Some(bytes) => Ok(bytes / 1024),
        None => failed(format!("nothing is said of memory: {listed}")),
    }
}

/// What was read for an image of a suspended job goes out again.
fn saved_while_suspended(scene: &Scene) -> Outcome {
    let _swap = SwapFile::add(scene, 128)?;
    let job = start(scene, "holder", &["24"])?;
    let pid = job.pid().to_string();
    scene.cryo(["suspend", &pid]).run()?.success()?;
    let before = listed_memory(scene)?;
    let image = scene.file("image");
    checkpoint(scene, &pid, &image, "--leave-running")?;
    let after = listed_memory(scene)?;
    if before > 6 * MIB || after > before + 3 * MIB {
        return failed(format!("{before} KiB in memory before, {after} after"));
    }
    if fs::metadata(&image)?.len() < 40 << 20 {
        return failed("its memory is not in the image");
    }
    scene.cryo(["resume", &pid]).run()?.success()?;
    finish(scene, &job, &job)
}

for_each_user! {
    prefetch_all => |scene| prefetched(scene, "all");
    prefetch_hot => |scene| prefetched(scene, "hot");
    prefetch_none => |scene| prefetched(scene, "none");
    files => pages_of_files;
    saved => saved_while_suspended;
    stays_locked => locked;
    stays_outside => shared_outside;
    stays_inside => shared_inside;
}
