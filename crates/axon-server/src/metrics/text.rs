//! Metrics as text: Prometheus' format 0.0.4, and OpenMetrics 1.0.
//!
//! **Source:** Prometheus, "Exposition formats"; OpenMetrics 1.0.0.

use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

use axon::metrics::{Bucket, Exemplar, HistogramSnapshot};

use super::declared::{Kind, Metric};
use super::family::{Family, Label, Sample, Value};
use super::negotiate::Form;

/// About how long a line is, in bytes.
const LINE: usize = 96;

/// Writes all families; `form` is one of the two texts.
pub(super) fn write(families: &[Family<'_>], form: Form) -> String {
    let mut writer = Writer {
        text: String::with_capacity(room(families)),
        is_open: form == Form::OpenMetrics,
        labels: String::new(),
    };
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        writer.family(family);
    }
    if writer.is_open {
        writer.text.push_str("# EOF\n");
    }
    writer.text
}

/// About how long the text becomes, so that it does not grow and move while it is written.
fn room(families: &[Family<'_>]) -> usize {
    let lines = |sample: &Sample<'_>| match &sample.value {
        Value::Histogram(histogram) => histogram.classic_count() + 2,
        Value::Count(_) | Value::Number(_) => 1,
    };
    families.iter().flat_map(|family| &family.samples).map(lines).sum::<usize>() * LINE
}

struct Writer {
    text: String,
    is_open: bool,
    /// Those of the sample that is written.
    labels: String,
}

impl Writer {
    fn family(&mut self, family: &Family<'_>) {
        let metric = family.metric;
        let sample_name = metric.sample_name();
        // The older format knows no families whose samples are called otherwise.
        let name = if self.is_open { metric.name } else { &sample_name };
        let kind = match (metric.kind, self.is_open) {
            (Kind::Counter, _) | (Kind::Plain, false) => "counter",
            (Kind::Plain, true) => "unknown",
            (Kind::Gauge, _) | (Kind::Info, false) => "gauge",
            (Kind::Info, true) => "info",
            (Kind::Histogram, _) => "histogram",
        };
        let _ = writeln!(self.text, "# HELP {name} {}", metric.help);
        let _ = writeln!(self.text, "# TYPE {name} {kind}");
        if self.is_open && !metric.unit.is_empty() {
            let _ = writeln!(self.text, "# UNIT {name} {}", metric.unit);
        }
        let mut bounds = Bounds::default();
        for sample in &family.samples {
            self.take_labels(metric, &sample.labels);
            match &sample.value {
                Value::Histogram(histogram) => self.histogram(metric.name, histogram, &mut bounds),
                value => {
                    self.name(&sample_name, "");
                    self.value(value);
                    self.text.push('\n');
                }
            }
        }
    }

    fn histogram(&mut self, name: &str, histogram: &HistogramSnapshot, bounds: &mut Bounds) {
        let mut all = 0;
        for (bucket, Bucket { upper, count, exemplar }) in histogram.classic().into_iter().enumerate() {
            let Self { text, labels, .. } = self;
            text.push_str(name);
            text.push_str("_bucket{");
            text.push_str(labels);
            if !labels.is_empty() {
                text.push(',');
            }
            text.push_str("le=\"");
            text.push_str(bounds.text(bucket, upper));
            text.push_str("\"} ");
            push_count(text, count);
            all = count;
            if let (true, Some(exemplar)) = (self.is_open, exemplar) {
                self.exemplar(exemplar);
            }
            self.text.push('\n');
        }
        self.name(name, "_sum");
        push_number(&mut self.text, histogram.sum());
        self.text.push('\n');
        self.name(name, "_count");
        push_count(&mut self.text, all);
        self.text.push('\n');
    }

    /// Writes the labels of a sample aside, once for all of its lines.
    fn take_labels(&mut self, metric: &Metric, labels: &[Label]) {
        self.labels.clear();
        for (name, value) in metric.labels.iter().zip(labels) {
            if !self.labels.is_empty() {
                self.labels.push(',');
            }
            self.labels.push_str(name);
            self.labels.push_str("=\"");
            push_escaped(&mut self.labels, value.as_str());
            self.labels.push('"');
        }
    }

    /// Begins a line: a name, the labels, and the space before the value.
    fn name(&mut self, name: &str, suffix: &str) {
        let Self { text, labels, .. } = self;
        text.push_str(name);
        text.push_str(suffix);
        if !labels.is_empty() {
            text.push('{');
            text.push_str(labels);
            text.push('}');
        }
        text.push(' ');
    }

    fn value(&mut self, value: &Value<'_>) {
        match value {
            Value::Count(count) => push_count(&mut self.text, *count),
            Value::Number(number) => push_number(&mut self.text, *number),
            Value::Histogram(_) => {}
        }
    }

    fn exemplar(&mut self, exemplar: Exemplar) {
        let at = exemplar.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let _ = write!(self.text, " # {{trace_id=\"{:032x}\"}} {:?} {at:.3}", exemplar.trace, exemplar.value);
    }
}

/// The bounds of a family's buckets as they are written. They are the same for all of its samples.
#[derive(Default)]
struct Bounds(Vec<(f64, String)>);

impl Bounds {
    /// That of bucket number `bucket`, which is `upper`.
    fn text(&mut self, bucket: usize, upper: f64) -> &str {
        let is_known = self.0.get(bucket).is_some_and(|(known, _)| known.to_bits() == upper.to_bits());
        if !is_known {
            // That of another scale goes.
            self.0.truncate(bucket);
            let mut text = String::new();
            push_number(&mut text, upper);
            self.0.push((upper, text));
        }
        self.0.get(bucket).map_or("", |(_, text)| text)
    }
}

fn push_escaped(into: &mut String, text: &str) {
    if !text.contains(['\\', '"', '\n']) {
        into.push_str(text);
        return;
    }
    for character in text.chars() {
        match character {
            '\\' => into.push_str("\\\\"),
            '"' => into.push_str("\\\""),
            '\n' => into.push_str("\\n"),
            _ => into.push(character),
        }
    }
}

/// A whole number. Most of a scrape are counts, so that they go without the machinery of `format!`.
fn push_count(into: &mut String, count: u64) {
    let (mut digits, mut rest, mut start) = ([b'0'; 20], count, 20);
    for (index, digit) in digits.iter_mut().enumerate().rev() {
        // A remainder of ten fits a byte.
        *digit = b'0' + (rest % 10) as u8;
        (rest, start) = (rest / 10, index);
        if rest == 0 {
            break;
        }
    }
    into.push_str(digits.get(start..).and_then(|digits| str::from_utf8(digits).ok()).unwrap_or_default());
}

/// As both formats want it, with a point: the same bucket has the same name in both.
fn push_number(into: &mut String, number: f64) {
    if number == f64::INFINITY {
        into.push_str("+Inf");
    } else if number == f64::NEG_INFINITY {
        into.push_str("-Inf");
    } else {
        let _ = write!(into, "{number:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axon::metrics::{Code, ModelMetrics, Observed, Protocol};
    use axon::request::Timing;

    use super::super::declared::{BUILD, NV_SUCCESS, QUEUE_DURATION, QUEUE_REQUESTS, REQUESTS_RECEIVED};
    use super::*;

    fn labels() -> [Label; 2] {
        ["m\\\"\n".to_owned().into(), "1".into()]
    }

    #[test]
    fn the_two_texts_differ_as_their_formats_do() {
        let [model, version] = labels();
        let families = [
            Family::new(&REQUESTS_RECEIVED).with([model, version, "http".into()], 7_u64),
            Family::new(&QUEUE_REQUESTS).with(labels(), f64::INFINITY),
            Family::new(&BUILD).with(["0.1".into()], 1_u64),
            Family::new(&NV_SUCCESS).with(labels(), 3_u64),
            Family::new(&QUEUE_DURATION),
        ];
        let help = |metric: &Metric| metric.help;
        let escaped = r#"model="m\\\"\n",version="1""#;
        let text = write(&families, Form::Text);
        assert_eq!(
            text,
            format!(
                "# HELP axon_requests_received_total {}\n# TYPE axon_requests_received_total counter\n\
                 axon_requests_received_total{{{escaped},protocol=\"http\"}} 7\n\
                 # HELP axon_queue_requests {}\n# TYPE axon_queue_requests gauge\n\
                 axon_queue_requests{{{escaped}}} +Inf\n\
                 # HELP axon_build_info {}\n# TYPE axon_build_info gauge\naxon_build_info{{version=\"0.1\"}} 1\n\
                 # HELP nv_inference_request_success {}\n# TYPE nv_inference_request_success counter\n\
                 nv_inference_request_success{{{escaped}}} 3\n",
                help(&REQUESTS_RECEIVED),
                help(&QUEUE_REQUESTS),
                help(&BUILD),
                help(&NV_SUCCESS),
            )
        );
        let open = write(&families, Form::OpenMetrics);
        for line in [
            "# TYPE axon_requests_received counter",
            &format!("axon_requests_received_total{{{escaped},protocol=\"http\"}} 7"),
            "# TYPE axon_build info",
            "axon_build_info{version=\"0.1\"} 1",
            "# TYPE nv_inference_request_success unknown",
            "# EOF",
        ] {
            assert!(open.lines().any(|written| written == line), "{line}\n{open}");
        }
        assert!(open.ends_with("# EOF\n"));
    }

    #[test]
    fn a_count_is_written_in_full() {
        for count in [0, 7, 10, 99, 100, 12_345, u64::MAX] {
            let mut text = String::new();
            push_count(&mut text, count);
            assert_eq!(text, count.to_string());
        }
    }

    #[test]
    fn bounds_are_those_of_the_bucket_that_is_asked_for() {
        let mut bounds = Bounds::default();
        for _ in 0..2 {
            assert_eq!(
                (bounds.text(0, 0.5).to_owned(), bounds.text(1, f64::INFINITY)),
                ("0.5".to_owned(), "+Inf")
            );
        }
        // Another scale.
        assert_eq!((bounds.text(0, 2.0).to_owned(), bounds.text(1, 4.0)), ("2.0".to_owned(), "4.0"));
    }

    #[test]
    fn a_bucket_shows_a_trace_only_where_the_format_can() {
        let metrics = std::sync::Arc::new(ModelMetrics::default());
        let mut observed = Observed::begin(Some(std::sync::Arc::clone(&metrics)), Protocol::Http);
        observed.set_trace(Some(0xabc));
        observed.ran(Timing { queue: Duration::from_millis(3), ..Timing::default() });
        observed.end(Code::http(200), 0);
        let [model, version] = labels();
        let queue = metrics.snapshot().observations.queue;
        let family = || Family::new(&QUEUE_DURATION).with([model.clone(), version.clone()], &queue);
        let open = write(&[family()], Form::OpenMetrics);
        let bucket = open.lines().find(|line| line.contains("le=\"0.005\"")).unwrap();
        assert!(bucket.contains(" 1 # {trace_id=\"00000000000000000000000000000abc\"} 0.003 "), "{bucket}");
        assert!(open.contains("# UNIT axon_queue_duration_seconds seconds\n"));
        let text = write(&[family()], Form::Text);
        assert!(!text.contains("trace_id"), "{text}");
        for line in ["le=\"0.0025\"} 0", "le=\"+Inf\"} 1", "_sum{", "_count{"] {
            assert!(text.contains(line), "{line}");
        }
    }
}
