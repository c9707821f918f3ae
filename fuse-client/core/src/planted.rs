//! Bugs to plant, so that a test can show that the simulator finds them.
//!
//! Without the feature `planted`, which only the simulator's own test build has, [`is`] is the constant `false` and
//! nothing of this is in the program.

/// A mistake somebody could make here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// A recall is answered before what was written is at the servers.
    ReturnEarly,
    /// What was acknowledged is written again after a restart, though others may have written there since.
    KeepBeyondLease,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 2] = [Bug::ReturnEarly, Bug::KeepBeyondLease];
}

#[cfg(feature = "planted")]
mod on {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a bug in the cores of this thread, or none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    pub(crate) fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub(crate) use on::is;
#[cfg(feature = "planted")]
pub use on::plant;

/// Whether `bug` is planted: never.
#[cfg(not(feature = "planted"))]
pub(crate) const fn is(_: Bug) -> bool {
    false
}
