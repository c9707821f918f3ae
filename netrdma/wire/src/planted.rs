//! What the cores have in common of bugs to plant.

/// Makes a core's module of bugs to plant, so that a test can show that the simulator finds them: `Bug` and its
/// variants, `plant`, and `is`.
///
/// Without the feature `planted` of the crate that calls this, which only the simulator's own test build has, `is` is the
/// constant `false` and nothing of this is in the program.
#[macro_export]
macro_rules! bugs_to_plant {
    ($($(#[$doc:meta])+ $bug:ident,)+) => {
        /// A mistake somebody could make here.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Bug {
            $($(#[$doc])+ $bug,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Bug] = &[$(Bug::$bug),+];
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
    };
}
