//! Where the numbers are: one atomic each, a histogram in a fixed number of them.
//!
//! Own code and not an exporter crate's, because those keep every sample of a histogram until the next scrape: at
//! 100,000 operations a second megabytes, where the memory of the server is a number of its config. Here a sample is one
//! increment of a bucket.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{
    Counter, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use weft_wire::buckets::{BUCKETS, bound_micros, bucket_of};

/// What the last part of a counter's name says when the unit in the code is another: nanoseconds are counted.
const NANOS: &str = "_seconds_total";

#[derive(Debug, Default)]
struct Family {
    help: String,
    /// By labels as they are printed.
    series: BTreeMap<String, Series>,
}

#[derive(Debug)]
enum Series {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<GaugeCell>),
    Histogram(Arc<Buckets>),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    families: Mutex<BTreeMap<String, Family>>,
}

/// Makes a registry the process's own.
///
/// # Errors
/// There is one already.
pub(crate) fn install() -> Result<Arc<Registry>, String> {
    let registry = Arc::new(Registry::default());
    metrics::set_global_recorder(Shared(Arc::clone(&registry)))
        .map_err(|error| format!("metrics: {error}"))?;
    Ok(registry)
}

/// What the process is given.
struct Shared(Arc<Registry>);

/// Bits of a float.
#[derive(Debug, Default)]
struct GaugeCell(AtomicU64);

impl GaugeFn for GaugeCell {
    fn increment(&self, value: f64) {
        change(&self.0, |before| before + value);
    }

    fn decrement(&self, value: f64) {
        change(&self.0, |before| before - value);
    }

    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

fn change(cell: &AtomicU64, of: impl Fn(f64) -> f64) {
    let mut before = cell.load(Ordering::Relaxed);
    loop {
        let next = of(f64::from_bits(before)).to_bits();
        match cell.compare_exchange_weak(before, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return,
            Err(other) => before = other,
        }
    }
}

#[derive(Debug)]
struct Buckets {
    counts: [AtomicU64; BUCKETS + 1],
    /// Bits of a float, in seconds.
    sum: AtomicU64,
}

impl HistogramFn for Buckets {
    fn record(&self, seconds: f64) {
        self.counts[bucket_of(seconds * 1e6)].fetch_add(1, Ordering::Relaxed);
        change(&self.sum, |before| before + seconds);
    }
}

impl Registry {
    /// What is wanted of one family, made when it is not there. A name is used for one kind only.
    fn series<T>(&self, key: &Key, make: impl Fn() -> Series, take: impl Fn(&Series) -> T) -> T {
        let mut families = self.lock();
        let family = families.entry(key.name().to_owned()).or_default();
        let labels: Vec<String> =
            key.labels().map(|label| format!("{}=\"{}\"", label.key(), label.value())).collect();
        take(family.series.entry(labels.join(",")).or_insert_with(make))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Family>> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describe(&self, name: &KeyName, help: &str) {
        let mut families = self.lock();
        families.entry(name.as_str().to_owned()).or_default().help = help.to_owned();
    }

    /// Everything in Prometheus' text form.
    pub(crate) fn render(&self) -> String {
        self.text(|_| true, true)
    }

    /// What is of one shard. Buckets that nothing fell into are left out.
    pub(crate) fn render_shard(&self, shard: &str) -> String {
        let first = format!("shard=\"{shard}\"");
        self.text(|labels| labels.split(',').next() == Some(first.as_str()), false)
    }

    fn text(&self, is_wanted: impl Fn(&str) -> bool, whole: bool) -> String {
        let mut out = String::new();
        for (name, family) in self.lock().iter() {
            let mut wanted =
                family.series.iter().filter(|(labels, _)| is_wanted(labels)).peekable();
            let Some((_, first)) = wanted.peek() else { continue };
            if whole {
                let kind = match first {
                    Series::Counter(_) => "counter",
                    Series::Gauge(_) => "gauge",
                    Series::Histogram(_) => "histogram",
                };
                line(&mut out, format_args!("# HELP {name} {}", family.help));
                line(&mut out, format_args!("# TYPE {name} {kind}"));
            }
            for (labels, series) in wanted {
                push(&mut out, name, labels, series, whole);
            }
        }
        out
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("a string takes everything");
}

fn push(out: &mut String, name: &str, labels: &str, series: &Series, whole: bool) {
    match series {
        // Seconds are counted in nanoseconds: a counter holds whole numbers.
        Series::Counter(cell) if name.ends_with(NANOS) => {
            let nanos = cell.load(Ordering::Relaxed);
            let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
            line(out, format_args!("{name}{{{labels}}} {seconds}.{rest:09}"));
        }
        Series::Counter(cell) => {
            line(out, format_args!("{name}{{{labels}}} {}", cell.load(Ordering::Relaxed)));
        }
        Series::Gauge(cell) => {
            let value = f64::from_bits(cell.0.load(Ordering::Relaxed));
            line(out, format_args!("{name}{{{labels}}} {value}"));
        }
        Series::Histogram(buckets) => push_histogram(out, name, labels, buckets, whole),
    }
}

fn push_histogram(out: &mut String, name: &str, labels: &str, buckets: &Buckets, whole: bool) {
    let counts: Vec<u64> =
        buckets.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    let mut total = 0;
    for (bucket, count) in counts[..BUCKETS].iter().enumerate() {
        total += count;
        if whole || *count > 0 {
            let bound = bound_micros(bucket) / 1e6;
            line(out, format_args!("{name}_bucket{{{labels},le=\"{bound}\"}} {total}"));
        }
    }
    total += counts[BUCKETS];
    let sum = f64::from_bits(buckets.sum.load(Ordering::Relaxed));
    line(out, format_args!("{name}_bucket{{{labels},le=\"+Inf\"}} {total}"));
    line(out, format_args!("{name}_sum{{{labels}}} {sum}"));
    line(out, format_args!("{name}_count{{{labels}}} {total}"));
}

impl Recorder for Shared {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, help: SharedString) {
        self.0.describe(&key, &help);
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, help: SharedString) {
        self.0.describe(&key, &help);
    }

    fn describe_histogram(&self, key: KeyName, _: Option<Unit>, help: SharedString) {
        self.0.describe(&key, &help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let take = |series: &Series| match series {
            Series::Counter(cell) => Counter::from_arc(Arc::clone(cell)),
            _ => Counter::noop(),
        };
        self.0.series(key, || Series::Counter(Arc::default()), take)
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let take = |series: &Series| match series {
            Series::Gauge(cell) => Gauge::from_arc(Arc::clone(cell)),
            _ => Gauge::noop(),
        };
        self.0.series(key, || Series::Gauge(Arc::default()), take)
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        let make = || {
            let counts = std::array::from_fn(|_| AtomicU64::new(0));
            Series::Histogram(Arc::new(Buckets { counts, sum: AtomicU64::new(0) }))
        };
        let take = |series: &Series| match series {
            Series::Histogram(buckets) => Histogram::from_arc(Arc::clone(buckets)),
            _ => Histogram::noop(),
        };
        self.0.series(key, make, take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(run: impl FnOnce()) -> Arc<Registry> {
        let registry = Arc::new(Registry::default());
        metrics::with_local_recorder(&Shared(Arc::clone(&registry)), run);
        registry
    }

    #[test]
    fn text_is_as_prometheus_reads_it() {
        let registry = with(|| {
            metrics::describe_counter!("a_total", Unit::Count, "What a is");
            metrics::counter!("a_total", "shard" => "0", "kind" => "x").increment(3);
            metrics::counter!("busy_seconds_total", "shard" => "0").increment(1_500_000_000);
            metrics::gauge!("g", "shard" => "1").set(2.5);
            let histogram = metrics::histogram!("h_seconds", "shard" => "0");
            [1e-6, 3e-6, 100.0].into_iter().for_each(|seconds| histogram.record(seconds));
        });
        let text = registry.render();
        for line in [
            "# HELP a_total What a is",
            "# TYPE a_total counter",
            "a_total{shard=\"0\",kind=\"x\"} 3",
            "busy_seconds_total{shard=\"0\"} 1.500000000",
            "# TYPE g gauge",
            "g{shard=\"1\"} 2.5",
            "# TYPE h_seconds histogram",
            "h_seconds_bucket{shard=\"0\",le=\"0.000001\"} 1",
            "h_seconds_bucket{shard=\"0\",le=\"0.000003\"} 2",
            "h_seconds_bucket{shard=\"0\",le=\"+Inf\"} 3",
            "h_seconds_count{shard=\"0\"} 3",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
        }
        let shard = registry.render_shard("1");
        assert_eq!(shard, "g{shard=\"1\"} 2.5\n");
        assert_eq!(registry.render_shard("0").matches("h_seconds_bucket").count(), 3);
    }

    #[test]
    fn the_same_name_and_labels_are_one_number() {
        let registry = with(|| {
            for _ in 0..2 {
                metrics::counter!("a_total", "shard" => "0").increment(1);
            }
        });
        assert!(registry.render().contains("a_total{shard=\"0\"} 2\n"));
    }
}
