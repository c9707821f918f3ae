//! What a person is told when something a node keeps cannot be opened: what, why with all causes, and what to do next.
//!
//! Nothing here advises to format: whoever reads it may have the only copy of his data before him.

use std::error::Error;

/// One line of a failure: what failed, the error with every cause below it, what to do next.
pub(crate) fn sentence(what: &str, error: &dyn Error, next: &str) -> String {
    let mut text = format!("{what}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    if !next.is_empty() {
        text.push_str("; next: ");
        text.push_str(next);
    }
    text
}

/// What to do about a target, its device and its index.
pub(crate) fn target(kind: weft_store::Kind) -> &'static str {
    use weft_store::Kind;
    match kind {
        Kind::Foreign => "is the path in `targets` right? `weft target show` tells what is there",
        Kind::Overwritten => {
            "stop what writes there; `weft target show` tells what it is; restore the target and \
             its index from one backup"
        }
        Kind::Version => "start the weft version that wrote it, or a newer one",
        Kind::Damaged => {
            "keep target and index as they are (`weft target check` tells what is damaged); restore \
             both from one backup"
        }
        Kind::Missing => {
            "put the index back, or restore it and the target from one backup; no other index \
             can find the target's data"
        }
        Kind::Mismatch => {
            "`weft target show` tells which target it is; restore target and index of one time"
        }
        Kind::TooSmall => {
            "`weft target show` tells its length; was it cut? Give it its length back and what \
             was there, or restore it and its index from one backup"
        }
        Kind::Busy => "stop the other weft-server or `weft` command",
        Kind::Device | Kind::Index => "does the disk work? See `dmesg`",
        Kind::Invalid => "",
    }
}

/// What to do about the metadata volume, its database and its log.
pub(crate) fn volume(kind: weft_metadata::Kind) -> &'static str {
    use weft_metadata::Kind;
    match kind {
        Kind::Damaged | Kind::LogDamaged | Kind::LogNewer | Kind::LogShort => {
            "keep the folder as it is; restore database and log from one backup, look at the \
             outcome with `weft fs check`"
        }
        Kind::Database | Kind::LogIo => "does the disk work? Is it full? See `df` and `dmesg`",
        Kind::WrongCluster => "is `state_dir` right? Start it with its own cluster's config",
        Kind::NotFound => "is `state_dir` right? If there was a volume, restore it from a backup",
        Kind::Version => "start the weft version that wrote it, or a newer one",
        Kind::Exists | Kind::Invalid => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Above(std::io::Error);

    impl std::fmt::Display for Above {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("above")
        }
    }

    impl Error for Above {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn every_cause_is_told() {
        let error = Above(std::io::Error::other("below"));
        assert_eq!(sentence("/dev/x", &error, "look"), "/dev/x: above: below; next: look");
        assert_eq!(sentence("/dev/x", &error, ""), "/dev/x: above: below");
    }
}
