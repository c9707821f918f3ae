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
    /// Many processes that make and remove empty files at once.
    Crowd,
    /// tar, find, grep and rm on a tree of small files.
    Tree,
}

/// What a row is to reach, with one node, 4 targets on the one disk and 2 client processes (issue "Speed").
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bar {
    /// This part of the local directory's figure in the same run.
    OfLocal(f64),
    /// This much, in the row's unit.
    AtLeast(f64),
    /// No more seconds than this.
    AtMost(f64),
}

/// What a row would run at if Weft cost nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// The device: what the local directory reaches with direct I/O or an fsync.
    Device,
    /// The page cache, that is memory: what the local directory reaches in it.
    Memory,
    /// The cores of the machine, which server, mount and load share.
    Cpu,
}

/// One row.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its name in results and in `peers.toml`.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: Unit,
    pub(crate) load: Load,
    pub(crate) limit: Limit,
    pub(crate) bar: Option<Bar>,
}

const fn row(id: &'static str, title: &'static str, unit: Unit, load: Load) -> Row {
    Row { id, title, unit, load, limit: Limit::Cpu, bar: None }
}

impl Row {
    const fn bar(self, bar: Bar) -> Self {
        Self { bar: Some(bar), ..self }
    }

    const fn limit(self, limit: Limit) -> Self {
        Self { limit, ..self }
    }
}

/// Every row, in the report's order, which within a load is also the order of its steps.
pub(crate) const ROWS: &[Row] = &[
    row("seq-write", "sequential write, direct, 1 MiB x 16, new file", Unit::MibPerS, Load::Fio)
        .limit(Limit::Device)
        .bar(Bar::OfLocal(0.80)),
    row("seq-read", "sequential read, direct, 1 MiB x 16", Unit::MibPerS, Load::Fio)
        .limit(Limit::Device)
        .bar(Bar::OfLocal(0.80)),
    row("rand-read", "4 KiB random read, direct, 32 x 2 jobs", Unit::OpPerS, Load::Fio)
        .limit(Limit::Device)
        .bar(Bar::OfLocal(0.55)),
    row("rand-write", "4 KiB random write, direct, 32 x 2 jobs", Unit::OpPerS, Load::Fio)
        .limit(Limit::Device)
        .bar(Bar::OfLocal(0.55)),
    row("one-read", "4 KiB read, direct, one at a time", Unit::OpPerS, Load::Fio)
        .limit(Limit::Device)
        .bar(Bar::OfLocal(0.50)),
    row("one-write", "4 KiB write, direct, one at a time", Unit::OpPerS, Load::Fio)
        .limit(Limit::Device)
        .bar(Bar::OfLocal(0.50)),
    row("cache-write", "buffered sequential write, new file, no fsync", Unit::MibPerS, Load::Fio)
        .limit(Limit::Memory)
        .bar(Bar::OfLocal(0.60)),
    row("buf-write", "buffered sequential write with fsync, new file", Unit::MibPerS, Load::Fio)
        .limit(Limit::Device),
    row("buf-read", "buffered sequential read, cold", Unit::MibPerS, Load::Fio)
        .limit(Limit::Device)
        .bar(Bar::OfLocal(0.90)),
    row("cache-read", "buffered sequential read, again", Unit::MibPerS, Load::Fio)
        .limit(Limit::Memory)
        .bar(Bar::OfLocal(0.60)),
    row("easy-create", "create empty files, own directory", Unit::OpPerS, Load::Meta)
        .bar(Bar::AtLeast(8_000.0)),
    row("easy-stat", "stat them in another order", Unit::OpPerS, Load::Meta)
        .bar(Bar::AtLeast(60_000.0)),
    row("rename", "rename them", Unit::OpPerS, Load::Meta),
    row("easy-delete", "unlink them", Unit::OpPerS, Load::Meta).bar(Bar::AtLeast(10_000.0)),
    row("mkdir", "mkdir, own directory", Unit::OpPerS, Load::Meta),
    row("rmdir", "rmdir", Unit::OpPerS, Load::Meta),
    row("hard-create", "create and write 3,901 bytes, shared directory", Unit::OpPerS, Load::Meta)
        .bar(Bar::AtLeast(6_000.0)),
    row("readdir", "list that directory (entries)", Unit::OpPerS, Load::Meta)
        .bar(Bar::AtLeast(300_000.0)),
    row("hard-stat", "stat another process's files there", Unit::OpPerS, Load::Meta)
        .bar(Bar::AtLeast(60_000.0)),
    row("hard-read", "open and read them", Unit::OpPerS, Load::Meta),
    row("hard-delete", "unlink them", Unit::OpPerS, Load::Meta).bar(Bar::AtLeast(10_000.0)),
    row("crowd-create", "create empty files, many processes", Unit::OpPerS, Load::Crowd)
        .bar(Bar::AtLeast(15_000.0)),
    row("crowd-delete", "unlink them, many processes", Unit::OpPerS, Load::Crowd),
    row("untar", "tar -x of 2,600 small files", Unit::Seconds, Load::Tree).bar(Bar::AtMost(1.5)),
    row("find", "find with each file's size", Unit::Seconds, Load::Tree).bar(Bar::AtMost(0.3)),
    row("grep", "grep -r", Unit::Seconds, Load::Tree).bar(Bar::AtMost(0.5)),
    row("rm-rf", "rm -rf", Unit::Seconds, Load::Tree).bar(Bar::AtMost(0.5)),
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

    #[test]
    fn bars_fit_their_units() {
        for row in ROWS {
            match row.bar {
                Some(Bar::AtMost(seconds)) => assert!(row.unit.less_is_better() && seconds > 0.0),
                Some(Bar::AtLeast(rate)) => assert!(!row.unit.less_is_better() && rate > 1.0),
                Some(Bar::OfLocal(part)) => {
                    assert!(row.limit != Limit::Cpu && part > 0.0 && part < 1.0, "{}", row.id);
                }
                None => {}
            }
        }
    }
}
