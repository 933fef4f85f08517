//! Metrics as text: Prometheus' format 0.0.4, and OpenMetrics 1.0.
//!
//! **Source:** Prometheus, "Exposition formats"; OpenMetrics 1.0.0.

use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

use axon::metrics::{Bucket, Exemplar, HistogramSnapshot};

use super::declared::{Kind, Metric};
use super::family::{Family, Label, Sample, Value};
use super::negotiate::Form;

/// Writes all families; `form` is one of the two texts.
pub(super) fn write(families: &[Family], form: Form) -> String {
    let samples: usize = families.iter().map(|family| family.samples.len()).sum();
    let mut writer =
        Writer { text: String::with_capacity(samples * 128), is_open: form == Form::OpenMetrics };
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        writer.family(family);
    }
    if writer.is_open {
        writer.text.push_str("# EOF\n");
    }
    writer.text
}

struct Writer {
    text: String,
    is_open: bool,
}

impl Writer {
    fn family(&mut self, family: &Family) {
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
        for sample in &family.samples {
            match &sample.value {
                Value::Histogram(histogram) => self.histogram(metric, sample, histogram),
                value => {
                    self.text.push_str(&sample_name);
                    self.labels(metric, &sample.labels, None);
                    self.text.push(' ');
                    self.value(value);
                    self.text.push('\n');
                }
            }
        }
    }

    fn histogram(&mut self, metric: &Metric, sample: &Sample, histogram: &HistogramSnapshot) {
        for Bucket { upper, count, exemplar } in histogram.classic() {
            let _ = write!(self.text, "{}_bucket", metric.name);
            self.labels(metric, &sample.labels, Some(upper));
            let _ = write!(self.text, " {count}");
            if let (true, Some(exemplar)) = (self.is_open, exemplar) {
                self.exemplar(exemplar);
            }
            self.text.push('\n');
        }
        let _ = write!(self.text, "{}_sum", metric.name);
        self.labels(metric, &sample.labels, None);
        self.text.push(' ');
        self.number(histogram.sum());
        let _ = write!(self.text, "\n{}_count", metric.name);
        self.labels(metric, &sample.labels, None);
        let _ = writeln!(self.text, " {}", histogram.count());
    }

    fn labels(&mut self, metric: &Metric, labels: &[Label], upper: Option<f64>) {
        let mut separator = '{';
        for (name, value) in metric.labels.iter().zip(labels) {
            self.text.push(separator);
            self.text.push_str(name);
            self.text.push_str("=\"");
            self.escaped(value.as_str());
            self.text.push('"');
            separator = ',';
        }
        if let Some(upper) = upper {
            self.text.push(separator);
            self.text.push_str("le=\"");
            self.number(upper);
            self.text.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
    }

    fn escaped(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                _ => self.text.push(character),
            }
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Count(count) => {
                let _ = write!(self.text, "{count}");
            }
            Value::Number(number) => self.number(*number),
            Value::Histogram(_) => {}
        }
    }

    /// As both formats want it, with a point: the same bucket has the same name in both.
    fn number(&mut self, number: f64) {
        if number == f64::INFINITY {
            self.text.push_str("+Inf");
        } else if number == f64::NEG_INFINITY {
            self.text.push_str("-Inf");
        } else {
            let _ = write!(self.text, "{number:?}");
        }
    }

    fn exemplar(&mut self, exemplar: Exemplar) {
        let at = exemplar.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let _ = write!(self.text, " # {{trace_id=\"{:032x}\"}} {:?} {at:.3}", exemplar.trace, exemplar.value);
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
    fn a_bucket_shows_a_trace_only_where_the_format_can() {
        let metrics = std::sync::Arc::new(ModelMetrics::default());
        let mut observed = Observed::begin(Some(std::sync::Arc::clone(&metrics)), Protocol::Http);
        observed.set_trace(Some(0xabc));
        observed.ran(Timing { queue: Duration::from_millis(3), ..Timing::default() });
        observed.end(Code::http(200), 0);
        let [model, version] = labels();
        let family = || {
            Family::new(&QUEUE_DURATION)
                .with([model.clone(), version.clone()], metrics.snapshot().observations.queue)
        };
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
