//! The bounds of a run.

/// Processes of the metadata load.
pub(crate) const PROCESS_COUNT_MAX: u32 = 256;
/// Files each process makes in one phase.
pub(crate) const FILE_COUNT_MAX: u32 = 10_000_000;
/// Rounds of a comparison.
pub(crate) const ROUND_COUNT_MAX: u32 = 100;
/// Further directories to compare with.
pub(crate) const PEER_COUNT_MAX: usize = 8;
/// Bytes of a file of the hard load: what IO500's mdtest uses.
pub(crate) const HARD_FILE_BYTES: usize = 3_901;
/// Files of the source-tree load, the same in every run: the peers' times are for this count.
pub(crate) const TREE_FILE_COUNT: u32 = 2_600;
/// Folders these files lie in.
pub(crate) const TREE_DIR_COUNT: u32 = 130;
/// Times each process lists the shared directory; one pass is too short to time.
pub(crate) const READDIR_PASS_COUNT: u32 = 5;

const _: () = assert!(TREE_FILE_COUNT.is_multiple_of(TREE_DIR_COUNT));
