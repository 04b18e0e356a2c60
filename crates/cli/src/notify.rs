//! `--notify`: the signals by which programs are told of their checkpoint, restart and continuation.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use cryonaut_launch::registry::{Notices, Notification};

/// The time that programs have to get ready if no other is given.
const GRACE: Duration = Duration::from_secs(10);

/// How programs are told of checkpoints.
#[derive(Args, Debug, Clone, Default)]
pub struct NotifyArguments {
    /// Tell programs by signals: checkpoint=SIGNAL before it, then continue=SIGNAL, or restart=SIGNAL in a restarted life, as in
    /// checkpoint=USR1,restart=USR2,continue=CONT. Only processes that catch the signal get it. One that stops itself (kill -STOP
    /// $$) after the first says that it is ready; it is woken afterwards
    #[arg(long, value_name = "WHAT=SIGNAL,…")]
    notify: Option<NoticesArgument>,
    /// How long programs may take to get ready [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = grace)]
    grace: Option<Duration>,
}

impl NotifyArguments {
    /// What was asked for, over what is known of the job.
    pub fn over(&self, known: Notification) -> Notification {
        let grace = if known.grace.is_zero() {
            GRACE
        } else {
            known.grace
        };
        Notification {
            notices: self.notify.map_or(known.notices, |given| given.0),
            grace: self.grace.unwrap_or(grace),
        }
    }
}

fn grace(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time <= Duration::from_secs(24 * 3600) => Ok(time),
        Ok(_) => Err("a day at most".into()),
        Err(error) => Err(format!("{error}; write it as 500ms, 10s or 2m")),
    }
}

/// The value of --notify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NoticesArgument(Notices);

impl FromStr for NoticesArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut notices = Notices::default();
        for part in text.split(',') {
            let (what, name) = part
                .split_once('=')
                .ok_or("it must be like checkpoint=USR1,restart=USR2,continue=CONT")?;
            let place = match what {
                "checkpoint" => &mut notices.checkpoint,
                "restart" => &mut notices.restart,
                "continue" => &mut notices.continued,
                _ => {
                    return Err(format!(
                        "{what:?} is nothing to be told of: there are checkpoint, restart and continue"
                    ));
                }
            };
            if place.replace(signal(name)?).is_some() {
                return Err(format!("{what} is given twice"));
            }
        }
        Ok(NoticesArgument(notices))
    }
}

/// Signals by their names, without SIG (signal(7)).
const NAMES: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// A signal by its name, with or without SIG, or its number; one that a program can catch, and that is no debugger's.
fn signal(text: &str) -> Result<i32, String> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    // Real-time signals as kill(1) counts them: the C library keeps the first ones for itself.
    let real_time = || {
        let of = |from: i32, sign: char, stem: &str| {
            let rest = name.strip_prefix(stem)?;
            let offset = match rest.strip_prefix(sign) {
                Some(digits) => digits.parse().ok()?,
                None if rest.is_empty() => 0,
                None => return None,
            };
            (0..=30).contains(&offset).then_some(if sign == '+' {
                from + offset
            } else {
                from - offset
            })
        };
        of(34, '+', "RTMIN").or_else(|| of(64, '-', "RTMAX"))
    };
    let known = NAMES.iter().find(|(known, _)| *known == name);
    let number = known
        .map(|(_, number)| *number)
        .or_else(|| name.parse().ok())
        .or_else(real_time);
    match number {
        Some(libc::SIGKILL | libc::SIGSTOP) => Err(format!(
            "no program can catch {text}: choose another signal"
        )),
        Some(libc::SIGTRAP) => Err("TRAP belongs to debuggers: choose another signal".into()),
        Some(number @ (1..=31 | 34..=64)) => Ok(number),
        _ => Err(format!("{text:?} is no signal: `kill -l` lists them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_read() {
        let NoticesArgument(read) = "checkpoint=USR1,restart=SIGUSR2,continue=CONT"
            .parse()
            .unwrap();
        assert_eq!(read.checkpoint, Some(libc::SIGUSR1));
        assert_eq!(read.restart, Some(libc::SIGUSR2));
        assert_eq!(read.continued, Some(libc::SIGCONT));
        let NoticesArgument(read) = "restart=rtmin+3".parse().unwrap();
        assert_eq!((read.checkpoint, read.restart), (None, Some(37)));
    }

    #[test]
    fn bad_notices_say_why() {
        let error = |text: &str| text.parse::<NoticesArgument>().unwrap_err();
        assert!(error("USR1").contains("checkpoint=USR1"));
        assert!(error("start=USR1").contains("there are checkpoint"));
        assert!(error("checkpoint=KILL").contains("catch"));
        assert!(error("checkpoint=USR9").contains("kill -l"));
        assert!(error("checkpoint=33").contains("kill -l"));
        assert!(error("checkpoint=RTMIN+31").contains("kill -l"));
        assert!(error("restart=1,restart=2").contains("twice"));
    }

    #[test]
    fn what_is_known_of_the_job_holds_unless_another_is_given() {
        let known = Notification {
            notices: Notices {
                checkpoint: Some(10),
                ..Notices::default()
            },
            grace: Duration::from_secs(3),
        };
        let silent = NotifyArguments {
            notify: None,
            grace: None,
        };
        assert_eq!(silent.over(known), known);
        assert_eq!(silent.over(Notification::default()).grace, GRACE);
        let given = NotifyArguments {
            notify: Some("restart=12".parse().unwrap()),
            grace: Some(Duration::from_secs(1)),
        };
        let over = given.over(known);
        assert_eq!(
            (over.notices.checkpoint, over.notices.restart),
            (None, Some(12))
        );
        assert_eq!(over.grace, Duration::from_secs(1));
    }
}
