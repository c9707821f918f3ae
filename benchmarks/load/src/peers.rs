//! Other systems' figures, from `peers.toml`, and how ours stand against them.

use crate::error::{Error, Result};
use crate::rows::{ROWS, Unit};
use crate::stats::Spread;
use serde::{Deserialize, Serialize};

const PEERS_TOML: &str = include_str!("../peers.toml");

/// The data file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peers {
    /// Where the figures come from.
    pub(crate) source: String,
    /// When they were taken.
    pub(crate) date: String,
    /// On what.
    pub(crate) machine: String,
    pub(crate) names: Names,
    figure: Vec<Figure>,
}

/// What to call each system.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Names {
    pub(crate) orangefs: String,
    pub(crate) glusterfs: String,
    pub(crate) moosefs: String,
}

/// One row's figures, in the row's unit.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Figure {
    row: String,
    unit: String,
    /// The plain local file system next to which the others were measured.
    pub(crate) local: Option<f64>,
    pub(crate) orangefs: f64,
    pub(crate) glusterfs: f64,
    pub(crate) moosefs: f64,
    /// Where their load differs from ours.
    pub(crate) note: Option<String>,
}

impl Peers {
    /// The figures this program was built with.
    pub(crate) fn built_in() -> Result<Self> {
        Self::parse(PEERS_TOML)
    }

    fn parse(text: &str) -> Result<Self> {
        let peers: Self =
            toml::from_str(text).map_err(|e| Error::usage("parse peers.toml", e.to_string()))?;
        for figure in &peers.figure {
            let known = ROWS.iter().any(|r| r.id == figure.row && r.unit.name() == figure.unit);
            let values = [figure.orangefs, figure.glusterfs, figure.moosefs];
            if !known || values.iter().chain(&figure.local).any(|v| !v.is_finite() || *v <= 0.0) {
                return Err(Error::usage("peers.toml", format!("bad figure {figure:?}")));
            }
        }
        Ok(peers)
    }

    /// Each of the other systems with its figure at a row.
    pub(crate) fn named(&self, figure: &Figure) -> [(&str, f64); 3] {
        let names = &self.names;
        [
            (names.orangefs.as_str(), figure.orangefs),
            (&names.glusterfs, figure.glusterfs),
            (&names.moosefs, figure.moosefs),
        ]
    }

    /// The best of the other systems at a row, and what to call it.
    pub(crate) fn best(&self, figure: &Figure, unit: Unit) -> (&str, f64) {
        let mut all = self.named(figure);
        all.sort_by(|a, b| a.1.total_cmp(&b.1));
        if unit.less_is_better() { all[0] } else { all[2] }
    }

    pub(crate) fn figure(&self, row_id: &str) -> Option<&Figure> {
        self.figure.iter().find(|figure| figure.row == row_id)
    }
}

/// `ahead 3.2x`, `behind 4.0x`; with `, within the rounds' spread` when the rounds do not settle it.
pub(crate) fn standing(ours: &Spread, theirs: f64, unit: Unit) -> String {
    let gain = if unit.less_is_better() { theirs / ours.median } else { ours.median / theirs };
    let word = if gain >= 1.0 { "ahead" } else { "behind" };
    let factor = if gain >= 1.0 { gain } else { 1.0 / gain };
    let doubt = if ours.holds(theirs) { ", within the rounds' spread" } else { "" };
    let digits = if factor < 2.0 { 2 } else { 1 };
    format!("{word} {factor:.digits$}x{doubt}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(min: f64, median: f64, max: f64) -> Spread {
        Spread { median, min, max }
    }

    #[test]
    fn built_in_file_is_good() {
        let peers = Peers::built_in().expect("peers.toml parses");
        let figure = peers.figure("seq-write").expect("a row of FACTS.md");
        assert_eq!((figure.orangefs, figure.local), (248.0, Some(2512.0)));
        assert!(peers.figure("mkdir").is_none());
        assert_eq!(peers.best(figure, Unit::MibPerS), ("MooseFS 3.0", 777.0));
        let untar = peers.figure("untar").expect("a row of FACTS.md");
        assert_eq!(peers.best(untar, Unit::Seconds), ("MooseFS 3.0", 6.0));
    }

    #[test]
    fn wrong_unit_or_row_is_refused() {
        let wrong = PEERS_TOML.replacen("unit = \"MiB/s\"", "unit = \"op/s\"", 1);
        assert!(Peers::parse(&wrong).is_err());
        let wrong = PEERS_TOML.replacen("row = \"seq-write\"", "row = \"seq-wirte\"", 1);
        assert!(Peers::parse(&wrong).is_err());
        let wrong = PEERS_TOML.replacen("orangefs = 248", "orangefs = 0", 1);
        assert!(Peers::parse(&wrong).is_err());
    }

    #[test]
    fn who_is_ahead() {
        let ours = spread(400.0, 500.0, 600.0);
        assert_eq!(standing(&ours, 250.0, Unit::MibPerS), "ahead 2.0x");
        assert_eq!(standing(&ours, 1000.0, Unit::OpPerS), "behind 2.0x");
        assert_eq!(standing(&ours, 1000.0, Unit::Seconds), "ahead 2.0x");
        assert_eq!(standing(&ours, 250.0, Unit::Seconds), "behind 2.0x");
        assert_eq!(standing(&ours, 450.0, Unit::MibPerS), "ahead 1.11x, within the rounds' spread");
    }
}
