//! Addresses in another process.

use std::fmt;

/// An address in another process. It cannot be dereferenced here; only system calls that name the process take it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RemotePtr(u64);

impl RemotePtr {
    /// The null address.
    pub const NULL: RemotePtr = RemotePtr(0);

    /// The address `address` of some other process.
    pub const fn new(address: u64) -> Self {
        Self(address)
    }

    /// The number itself, for arithmetic and for registers.
    pub const fn address(self) -> u64 {
        self.0
    }

    /// The address `bytes` further up; wraps like the processor does.
    pub const fn offset(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// Whether this is the null address.
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for RemotePtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for RemotePtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
