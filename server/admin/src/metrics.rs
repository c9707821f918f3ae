//! What servers tell of themselves in Prometheus' text form, read back: numbers, and what changed between two looks.

use std::collections::BTreeMap;

/// One number or histogram of one thing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Series {
    /// The metric's name; of a histogram without `_bucket`, `_sum`, `_count`.
    pub(crate) name: String,
    /// Label and value, in the order of the text; without `le`.
    pub(crate) labels: Vec<(String, String)>,
}

impl Series {
    /// The value of a label.
    pub(crate) fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(label, _)| label == name);
        found.map_or("", |(_, value)| value.as_str())
    }
}

/// How often a value was at most so large, by bound, ascending. Bounds at which nothing was added may be missing.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Histogram {
    /// (bound in the metric's unit, values up to it).
    bounds: Vec<(f64, f64)>,
}

/// One look.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Sample {
    numbers: BTreeMap<Series, f64>,
    histograms: BTreeMap<Series, Histogram>,
}

impl Sample {
    /// Adds the lines of a text; what is no line of a metric is passed over.
    pub(crate) fn add(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((head, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = match head.split_once('{') {
                Some((name, rest)) => (name, labels_of(rest.trim_end_matches('}'))),
                None => (head, Vec::new()),
            };
            self.put(name, labels, value);
        }
    }

    fn put(&mut self, name: &str, mut labels: Vec<(String, String)>, value: f64) {
        let bound = labels.iter().position(|(label, _)| label == "le");
        let (Some(place), Some(base)) = (bound, name.strip_suffix("_bucket")) else {
            let series = Series { name: name.to_owned(), labels };
            self.numbers.insert(series, value);
            return;
        };
        let (_, bound) = labels.remove(place);
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap_or(0.0) };
        let series = Series { name: base.to_owned(), labels };
        self.histograms.entry(series).or_default().bounds.push((bound, value));
    }

    /// The numbers of a metric.
    pub(crate) fn numbers(&self, name: &str) -> impl Iterator<Item = (&Series, f64)> {
        self.numbers.iter().filter(move |(s, _)| s.name == name).map(|(s, value)| (s, *value))
    }

    /// The number of a metric with these labels, in their order; 0 when it was never counted.
    pub(crate) fn number(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels = labels.iter().map(|(l, v)| ((*l).to_owned(), (*v).to_owned())).collect();
        let series = Series { name: name.to_owned(), labels };
        self.numbers.get(&series).copied().unwrap_or(0.0)
    }

    /// How far a counter came since `before`; after a restart of the server what it is now.
    pub(crate) fn since(&self, before: &Sample, name: &str, labels: &[(&str, &str)]) -> f64 {
        let (was, is) = (before.number(name, labels), self.number(name, labels));
        if is < was { is } else { is - was }
    }

    /// The histograms of a metric, each with what was added since `before`.
    pub(crate) fn histograms_since(
        &self,
        before: &Sample,
        name: &str,
    ) -> Vec<(&Series, Histogram)> {
        let of = self.histograms.iter().filter(|(series, _)| series.name == name);
        of.map(|(series, now)| match before.histograms.get(series) {
            Some(was) => (series, now.since(was)),
            None => (series, now.since(&Histogram::default())),
        })
        .collect()
    }
}

/// `a="x",b="y"`; the values of Weft's labels have no quotes in them.
fn labels_of(text: &str) -> Vec<(String, String)> {
    let pair = |part: &str| {
        let (label, value) = part.split_once('=')?;
        Some((label.to_owned(), value.trim_matches('"').to_owned()))
    };
    text.split(',').filter_map(pair).collect()
}

impl Histogram {
    /// From (bound, values up to it and above the one before), ascending.
    pub(crate) fn of_counts(counts: impl Iterator<Item = (f64, f64)>) -> Histogram {
        let mut sum = 0.0;
        let up_to = counts.map(|(bound, count)| {
            sum += count;
            (bound, sum)
        });
        Histogram { bounds: up_to.collect() }
    }

    /// Values up to `bound`.
    fn up_to(&self, bound: f64) -> f64 {
        let below = self.bounds.iter().take_while(|(known, _)| *known <= bound);
        below.last().map_or(0.0, |(_, count)| *count)
    }

    /// How many values there are.
    pub(crate) fn count(&self) -> f64 {
        self.up_to(f64::INFINITY)
    }

    fn since(&self, before: &Histogram) -> Histogram {
        // A server that was started again counts from zero.
        let again = self.count() < before.count();
        let was = |bound| if again { 0.0 } else { before.up_to(bound) };
        let bounds = self.bounds.iter().map(|(bound, count)| (*bound, count - was(*bound)));
        Histogram { bounds: bounds.collect() }
    }

    /// Adds the values of another one.
    pub(crate) fn merge(&mut self, other: &Histogram) {
        let mut bounds: Vec<f64> =
            self.bounds.iter().chain(&other.bounds).map(|(bound, _)| *bound).collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        let sum = |bound: f64| (bound, self.up_to(bound) + other.up_to(bound));
        self.bounds = bounds.into_iter().map(sum).collect();
    }

    /// The bound that this part of the values (0 to 1) does not exceed; nothing when there are none.
    pub(crate) fn quantile(&self, part: f64) -> Option<f64> {
        let wanted = self.count() * part;
        let reached = self.bounds.iter().find(|(_, count)| *count > 0.0 && *count >= wanted);
        reached.map(|(bound, _)| *bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "# HELP x y\na_total{shard=\"0\",kind=\"read\"} 10\ng 1.5\n\
        h_bucket{shard=\"0\",le=\"0.001\"} 4\nh_bucket{shard=\"0\",le=\"+Inf\"} 5\n\
        h_sum{shard=\"0\"} 1\nh_count{shard=\"0\"} 5\n";
    const AFTER: &str = "a_total{shard=\"0\",kind=\"read\"} 30\ng 2\nnonsense\n\
        h_bucket{shard=\"0\",le=\"0.0005\"} 90\nh_bucket{shard=\"0\",le=\"0.001\"} 103\n\
        h_bucket{shard=\"0\",le=\"0.002\"} 104\nh_bucket{shard=\"0\",le=\"+Inf\"} 105\n";

    fn sample(text: &str) -> Sample {
        let mut sample = Sample::default();
        sample.add(text);
        sample
    }

    #[test]
    fn counters_and_gauges_are_read() {
        let (before, after) = (sample(BEFORE), sample(AFTER));
        let labels = [("shard", "0"), ("kind", "read")];
        assert_eq!(after.since(&before, "a_total", &labels), 20.0);
        assert_eq!(before.since(&after, "a_total", &labels), 10.0, "started again");
        assert_eq!(after.number("g", &[]), 2.0);
        assert_eq!(after.number("not_there", &[]), 0.0);
    }

    #[test]
    fn quantiles_are_of_what_was_added() {
        let (before, after) = (sample(BEFORE), sample(AFTER));
        let all = after.histograms_since(&before, "h");
        let [(series, added)] = &all[..] else { panic!("{all:?}") };
        assert_eq!(series.label("shard"), "0");
        assert_eq!(added.count(), 100.0);
        assert_eq!(added.quantile(0.5), Some(0.0005));
        assert_eq!(added.quantile(0.99), Some(0.001));
        assert_eq!(added.quantile(1.0), Some(0.002));
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn histograms_are_added_bound_by_bound() {
        let mut one = Histogram { bounds: vec![(1.0, 2.0), (f64::INFINITY, 2.0)] };
        one.merge(&Histogram { bounds: vec![(2.0, 3.0), (f64::INFINITY, 4.0)] });
        assert_eq!(one.bounds, vec![(1.0, 2.0), (2.0, 5.0), (f64::INFINITY, 6.0)]);
    }
}
