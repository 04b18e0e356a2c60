//! Critical sections: while any thread is in one, callbacks do not begin, and so nothing is checkpointed; while callbacks run,
//! nobody enters one.

use std::cell::Cell;
use std::io::{Error, Result};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::raw;

thread_local! {
    /// How deep this thread is in critical sections.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// How many sections this thread was in when it became the one thread of a child: it leaves them as if it had entered them.
    static INHERITED: Cell<u32> = const { Cell::new(0) };
    /// Whether this thread runs a callback.
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread runs a callback.
pub fn in_callback() -> bool {
    IN_CALLBACK.get()
}

/// Runs a callback, maybe within another.
pub fn within_callback<T>(work: impl FnOnce() -> T) -> T {
    /// Also when it panics.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            IN_CALLBACK.set(self.0);
        }
    }
    let _before = Before(IN_CALLBACK.replace(true));
    work()
}

/// In a child after fork: it is in no section of its own, and runs no callback of its own. Tells whether its parent's thread ran one.
pub fn forget_in_child() -> bool {
    INHERITED.set(INHERITED.get() + DEPTH.replace(0));
    IN_CALLBACK.replace(false)
}

/// Leaves a section that this thread was in when it became the one thread of a child; nobody is inside because of it.
///
/// # Errors
/// EPERM for a thread that is in none.
pub fn leave_inherited() -> Result<()> {
    let left = INHERITED.get().checked_sub(1);
    INHERITED.set(left.ok_or_else(|| Error::from_raw_os_error(libc::EPERM))?);
    Ok(())
}

/// Sees to it that the memory of this module's thread-local variables is there: a signal handler must not be the first to ask.
pub fn touch() {
    DEPTH.with(|_| ());
    INHERITED.with(|_| ());
    IN_CALLBACK.with(|_| ());
}

/// Whether this thread is in a critical section.
pub fn in_section() -> bool {
    DEPTH.get() > 0
}

/// The gate through which threads enter critical sections.
#[derive(Debug, Default)]
pub struct Gate {
    inside: AtomicU32,
    closed: AtomicU32,
}

impl Gate {
    /// Enters; waits while callbacks run. In a callback it does nothing.
    pub fn enter(&self) {
        if in_callback() {
            return;
        }
        let depth = DEPTH.get();
        if depth == 0 {
            while !self.try_pass() {
                raw::await_change(&self.closed, 1, None);
            }
        }
        DEPTH.set(depth + 1);
    }

    /// Enters unless it would have to wait.
    pub fn try_enter(&self) -> bool {
        if in_callback() {
            return true;
        }
        let depth = DEPTH.get();
        let passed = depth > 0 || self.try_pass();
        if passed {
            DEPTH.set(depth + 1);
        }
        passed
    }

    fn try_pass(&self) -> bool {
        self.inside.fetch_add(1, Ordering::SeqCst);
        if self.closed.load(Ordering::SeqCst) == 0 {
            return true;
        }
        self.go_out();
        false
    }

    fn go_out(&self) {
        if self.inside.fetch_sub(1, Ordering::SeqCst) == 1
            && self.closed.load(Ordering::SeqCst) != 0
        {
            raw::wake_all(&self.inside);
        }
    }

    /// Leaves the section entered last.
    ///
    /// # Errors
    /// EPERM for a thread that is in none.
    pub fn leave(&self) -> Result<()> {
        if in_callback() {
            return Ok(());
        }
        match DEPTH.get() {
            0 => return leave_inherited(),
            1 => self.go_out(),
            _ => {}
        }
        DEPTH.set(DEPTH.get() - 1);
        Ok(())
    }

    /// Lets nobody in any more, and waits until all are out, or `given_up`. Tells whether all are out.
    pub fn close(&self, mut given_up: impl FnMut() -> bool) -> bool {
        const MOMENT: Duration = Duration::from_millis(500);
        self.closed.store(1, Ordering::SeqCst);
        loop {
            let inside = self.inside.load(Ordering::SeqCst);
            if inside == 0 {
                return true;
            }
            if given_up() {
                return false;
            }
            raw::await_change(&self.inside, inside, Some(MOMENT));
        }
    }

    /// Lets everybody in again.
    pub fn open(&self) {
        self.closed.store(0, Ordering::SeqCst);
        raw::wake_all(&self.closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_nest_and_keep_the_gate_open() {
        let gate = Gate::default();
        gate.enter();
        gate.enter();
        assert!(in_section());
        assert!(!gate.close(|| true), "somebody is inside");
        // One that is inside goes deeper without waiting.
        assert!(gate.try_enter());
        for _ in 0..3 {
            gate.leave().unwrap();
        }
        assert_eq!(gate.leave().unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(gate.close(|| true));
        assert!(!gate.try_enter());
        gate.open();
        assert!(gate.try_enter());
        gate.leave().unwrap();
    }

    #[test]
    fn a_child_leaves_what_its_parent_entered() {
        let (parents, childs) = (Gate::default(), Gate::default());
        parents.enter();
        parents.enter();
        assert!(!forget_in_child());
        childs.enter();
        childs.leave().unwrap();
        childs.leave().unwrap();
        childs.leave().unwrap();
        assert!(childs.leave().is_err());
        assert!(childs.close(|| true), "nobody is inside");
    }

    #[test]
    fn callbacks_pass_a_closed_gate() {
        let gate = Gate::default();
        assert!(gate.close(|| true));
        within_callback(|| {
            gate.enter();
            assert!(gate.try_enter());
            gate.leave().unwrap();
        });
        assert!(!in_section());
    }

    #[test]
    fn threads_wait_at_a_closed_gate() {
        let gate = Gate::default();
        assert!(gate.close(|| true));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                gate.enter();
                gate.leave().unwrap();
            });
            std::thread::sleep(Duration::from_millis(50));
            assert!(!waiting.is_finished());
            gate.open();
        });
        assert_eq!(gate.inside.load(Ordering::SeqCst), 0);
    }
}
