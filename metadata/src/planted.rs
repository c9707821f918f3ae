//! Bugs to plant, so that a test can show that the simulator finds them.
//!
//! Without the feature `planted`, which only the simulator's own test build has, [`is`] is the constant `false` and
//! nothing of this is in the program.

/// A mistake somebody could make here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Changes are applied and answered before their batch is on the log.
    AckBeforeLog,
    /// The log begins anew before the checkpoint is committed.
    CutLogEarly,
    /// A rename leaves one of its rows out.
    HalfRename,
    /// A change that comes again is done again.
    ForgetReplays,
    /// Works that a crash left over are not taken up.
    DropWorks,
    /// A change is refused though the log write that failed may have left it there.
    RefuseUnsure,
    /// Damage in the midst of the log is taken for its end.
    EndAtDamage,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 7] = [
        Bug::AckBeforeLog,
        Bug::CutLogEarly,
        Bug::HalfRename,
        Bug::ForgetReplays,
        Bug::DropWorks,
        Bug::RefuseUnsure,
        Bug::EndAtDamage,
    ];
}

#[cfg(feature = "planted")]
mod on {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a bug in the volumes of this thread, or none.
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
