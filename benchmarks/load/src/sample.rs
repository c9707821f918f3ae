//! One measured figure, and what collects them while a load runs.

use crate::cpu::{CpuUse, Daemons, Machine};
use crate::error::{Error, Result};
use serde::Serialize;

/// A figure of one round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Sample {
    /// In the row's unit.
    pub(crate) value: f64,
    /// What was done: bytes for a row in MiB/s, operations or files otherwise.
    pub(crate) amount: u64,
    pub(crate) seconds: f64,
    /// 99th percentile of completion latency, where the load measures it.
    pub(crate) p99_us: Option<f64>,
    /// CPU of Weft's processes, on the mount, where they run.
    pub(crate) cpu: Option<CpuUse>,
    /// Part of all cores' time that was not idle, in 0..=1, of every process of the machine.
    pub(crate) busy: Option<f64>,
}

impl Sample {
    /// `amount` things in `seconds`, as a rate. Nothing done or no time passed is an error, not a figure.
    pub(crate) fn rate(amount: u64, seconds: f64) -> Result<Self> {
        Self::new(amount as f64 / seconds, amount, seconds)
    }

    /// The time that `amount` things took.
    pub(crate) fn time(amount: u64, seconds: f64) -> Result<Self> {
        Self::new(seconds, amount, seconds)
    }

    pub(crate) fn new(value: f64, amount: u64, seconds: f64) -> Result<Self> {
        if amount == 0 || !(seconds > 0.0 && value > 0.0 && value.is_finite()) {
            let found = format!("{amount} done in {seconds} s gives {value}");
            return Err(Error::wrong("measure", found));
        }
        Ok(Self { value, amount, seconds, p99_us: None, cpu: None, busy: None })
    }
}

/// Collects the samples of one load in one directory.
#[derive(Debug)]
pub(crate) struct Recorder<'a> {
    /// Whose CPU to add; none for directories that are not Weft's.
    daemons: Option<&'a Daemons>,
    pub(crate) samples: Vec<(&'static str, Sample)>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(daemons: Option<&'a Daemons>) -> Self {
        Self { daemons, samples: Vec::new() }
    }

    /// Measures one row.
    pub(crate) fn row(
        &mut self,
        row_id: &'static str,
        measure: impl FnOnce() -> Result<Sample>,
    ) -> Result<()> {
        let before = self.daemons.map(Daemons::read);
        let machine = Machine::read();
        let mut sample = measure()?;
        sample.busy = machine.busy_until(&Machine::read());
        if let (Some(daemons), Some(before)) = (self.daemons, before) {
            sample.cpu = daemons.used(&before, &daemons.read());
        }
        self.samples.push((row_id, sample));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_times() {
        assert_eq!(Sample::rate(10, 2.0).expect("a rate").value, 5.0);
        assert_eq!(Sample::time(10, 2.0).expect("a time").value, 2.0);
        assert!(Sample::rate(0, 2.0).is_err());
        assert!(Sample::rate(10, 0.0).is_err());
        assert!(Sample::time(10, f64::NAN).is_err());
    }
}
