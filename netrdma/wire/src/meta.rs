//! Metadata: what a client asks of a volume, and what it answers.
//!
//! The same bytes are a request on the wire, a command in the volume's log and, decoded, the argument of `apply`:
//! there is one definition of each operation.

mod attr;
mod inline;
mod parents;
mod reply;
mod request;

pub use attr::{Attr, FileKind, SetAttr, Time, TimeSet};
pub use inline::{DataWrite, Inline, MoveStep};
pub use parents::{push_parents, take_parents};
pub use reply::{DataPlace, DirEntry, FoundName, MetaReply, StatFs, push_dir_entry};
pub use request::{
    Caller, MakeHow, MetaRequest, NO_SLOT, RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT,
    XATTR_CLEAR_SETGID, XATTR_KEEP_SETGID,
};
