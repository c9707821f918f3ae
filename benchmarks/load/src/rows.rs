//! The rows of the report: what is measured, in which unit, by which load.

/// A figure's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// 2^20 bytes a second.
    MibPerS,
    /// Operations (files, entries) a second.
    OpPerS,
    /// Seconds for the whole load: less is better.
    Seconds,
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::MibPerS => "MiB/s",
            Self::OpPerS => "op/s",
            Self::Seconds => "s",
        }
    }

    pub(crate) fn less_is_better(self) -> bool {
        self == Self::Seconds
    }
}

/// The program that makes a row's load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Load {
    /// fio, one job of `benchmarks/recipes` for each row.
    Fio,
    /// The mdtest-like load of worker processes.
    Meta,
    /// tar, find, grep and rm on a tree of small files.
    Tree,
}

/// One row.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its name in results and in `peers.toml`.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: Unit,
    pub(crate) load: Load,
}

const fn row(id: &'static str, title: &'static str, unit: Unit, load: Load) -> Row {
    Row { id, title, unit, load }
}

/// Every row, in the report's order, which within a load is also the order of its steps.
pub(crate) const ROWS: &[Row] = &[
    row("seq-write", "sequential write, direct, 1 MiB x 16, new file", Unit::MibPerS, Load::Fio),
    row("seq-read", "sequential read, direct, 1 MiB x 16", Unit::MibPerS, Load::Fio),
    row("rand-read", "4 KiB random read, direct, 32 x 2 jobs", Unit::OpPerS, Load::Fio),
    row("rand-write", "4 KiB random write, direct, 32 x 2 jobs", Unit::OpPerS, Load::Fio),
    row("one-read", "4 KiB read, direct, one at a time", Unit::OpPerS, Load::Fio),
    row("one-write", "4 KiB write, direct, one at a time", Unit::OpPerS, Load::Fio),
    row("buf-write", "buffered sequential write with fsync, new file", Unit::MibPerS, Load::Fio),
    row("buf-read", "buffered sequential read, cold", Unit::MibPerS, Load::Fio),
    row("easy-create", "create empty files, own directory", Unit::OpPerS, Load::Meta),
    row("easy-stat", "stat them in another order", Unit::OpPerS, Load::Meta),
    row("rename", "rename them", Unit::OpPerS, Load::Meta),
    row("easy-delete", "unlink them", Unit::OpPerS, Load::Meta),
    row("mkdir", "mkdir, own directory", Unit::OpPerS, Load::Meta),
    row("rmdir", "rmdir", Unit::OpPerS, Load::Meta),
    row("hard-create", "create and write 3,901 bytes, shared directory", Unit::OpPerS, Load::Meta),
    row("readdir", "list that directory (entries)", Unit::OpPerS, Load::Meta),
    row("hard-stat", "stat another process's files there", Unit::OpPerS, Load::Meta),
    row("hard-read", "open and read them", Unit::OpPerS, Load::Meta),
    row("hard-delete", "unlink them", Unit::OpPerS, Load::Meta),
    row("untar", "tar -x of 2,600 small files", Unit::Seconds, Load::Tree),
    row("find", "find with each file's size", Unit::Seconds, Load::Tree),
    row("grep", "grep -r", Unit::Seconds, Load::Tree),
    row("rm-rf", "rm -rf", Unit::Seconds, Load::Tree),
];

/// The rows of one load.
pub(crate) fn of_load(load: Load) -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(move |row| row.load == load)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique() {
        let ids: BTreeSet<_> = ROWS.iter().map(|row| row.id).collect();
        assert_eq!(ids.len(), ROWS.len());
    }
}
