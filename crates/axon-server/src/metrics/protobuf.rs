//! Metrics as protobuf, with both forms of each histogram.
//!
//! **Source:** Prometheus, "Exposition formats", protobuf; "Native histograms", section "Exposition format".

use std::time::UNIX_EPOCH;

use axon::metrics::{Bucket, Exemplar, HistogramSnapshot, NativeBuckets};
use prost::Message;

use super::declared::{Kind, Metric};
use super::family::{Family, Sample, Value};
use crate::proto::metrics as proto;

/// The number of the field of the samples, which are written here: one at a time, and not held all at once.
const METRIC: u32 = 4;

/// Writes all families, each with its length in front.
pub(super) fn write(families: &[Family<'_>]) -> Vec<u8> {
    let (mut bytes, mut one) = (Vec::new(), Vec::new());
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        one.clear();
        // A vector grows as it has to, so that there is always room.
        let _ = head(family.metric).encode(&mut one);
        for sample in &family.samples {
            prost::encoding::message::encode(METRIC, &sample_message(family.metric, sample), &mut one);
        }
        prost::encoding::encode_varint(one.len() as u64, &mut bytes);
        bytes.extend_from_slice(&one);
    }
    bytes
}

/// A family without its samples.
fn head(metric: &Metric) -> proto::MetricFamily {
    let kind = match metric.kind {
        Kind::Counter | Kind::Plain => proto::MetricType::Counter,
        Kind::Gauge | Kind::Info => proto::MetricType::Gauge,
        Kind::Histogram => proto::MetricType::Histogram,
    };
    proto::MetricFamily {
        name: metric.sample_name(),
        help: metric.help.to_owned(),
        r#type: kind.into(),
        metric: Vec::new(),
        unit: metric.unit.to_owned(),
    }
}

fn sample_message(metric: &Metric, sample: &Sample<'_>) -> proto::Metric {
    let labels = metric.labels.iter().zip(&sample.labels);
    let label = labels.map(|(name, value)| label(name, value.as_str())).collect();
    let value = match &sample.value {
        Value::Histogram(snapshot) => {
            return proto::Metric { label, histogram: Some(histogram(snapshot)), ..proto::Metric::default() };
        }
        Value::Count(count) => *count as f64,
        Value::Number(number) => *number,
    };
    match metric.kind {
        Kind::Counter | Kind::Plain => {
            proto::Metric { label, counter: Some(proto::Counter { value }), ..proto::Metric::default() }
        }
        _ => proto::Metric { label, gauge: Some(proto::Gauge { value }), ..proto::Metric::default() },
    }
}

fn label(name: &str, value: &str) -> proto::LabelPair {
    proto::LabelPair { name: name.to_owned(), value: value.to_owned() }
}

fn histogram(snapshot: &HistogramSnapshot) -> proto::Histogram {
    let classic = snapshot.classic();
    let NativeBuckets { schema, zero_threshold, zero_count, buckets } = snapshot.native();
    let (positive_span, positive_delta) = spans(&buckets);
    let exemplars = classic.iter().filter_map(|bucket| bucket.exemplar).map(exemplar).collect();
    let bucket = |bucket: &Bucket| proto::Bucket {
        cumulative_count: bucket.count,
        upper_bound: bucket.upper,
        exemplar: bucket.exemplar.map(exemplar),
    };
    proto::Histogram {
        sample_count: snapshot.count(),
        sample_sum: snapshot.sum(),
        bucket: classic.iter().map(bucket).collect(),
        schema: schema.into(),
        zero_threshold,
        zero_count,
        positive_span,
        positive_delta,
        exemplars,
    }
}

/// Buckets in a row as spans, and how their counts differ. Without buckets there is one span of none: what has neither is
/// read as a classic histogram.
fn spans(buckets: &[(i32, u64)]) -> (Vec<proto::BucketSpan>, Vec<i64>) {
    let mut spans: Vec<proto::BucketSpan> = Vec::new();
    let mut deltas = Vec::with_capacity(buckets.len());
    let (mut next, mut before) = (0, 0);
    for &(index, count) in buckets {
        match spans.last_mut() {
            Some(span) if index == next => span.length += 1,
            _ => spans.push(proto::BucketSpan { offset: index - next, length: 1 }),
        }
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        deltas.push(count - before);
        (next, before) = (index + 1, count);
    }
    if spans.is_empty() {
        spans.push(proto::BucketSpan::default());
    }
    (spans, deltas)
}

fn exemplar(exemplar: Exemplar) -> proto::Exemplar {
    let at = exemplar.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    proto::Exemplar {
        label: vec![label("trace_id", &format!("{:032x}", exemplar.trace))],
        value: exemplar.value,
        timestamp: Some(proto::Timestamp {
            seconds: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(at.subsec_nanos()).unwrap_or_default(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use axon::metrics::{Code, ModelMetrics, Observed, Protocol};
    use axon::request::Timing;

    use super::super::declared::{QUEUE_DURATION, RESPONSE_SIZE};
    use super::*;

    #[test]
    fn buckets_in_a_row_are_one_span() {
        let check = |buckets: &[(i32, u64)], expected: &[(i32, u32)], deltas: &[i64]| {
            let (spans, got) = spans(buckets);
            let spans: Vec<_> = spans.iter().map(|span| (span.offset, span.length)).collect();
            assert_eq!((spans.as_slice(), got.as_slice()), (expected, deltas));
        };
        check(&[], &[(0, 0)], &[]);
        check(&[(-3, 5)], &[(-3, 1)], &[5]);
        check(&[(-3, 5), (-2, 7), (4, 1)], &[(-3, 2), (5, 1)], &[5, 2, -6]);
        check(&[(0, 1), (2, 1)], &[(0, 1), (1, 1)], &[1, 0]);
    }

    #[test]
    fn a_message_reads_back_with_both_forms() {
        let metrics = std::sync::Arc::new(ModelMetrics::default());
        for queue in [0, 1_000, 5_000_000, 5_000_001, 70_000_000_000] {
            let mut observed = Observed::begin(Some(std::sync::Arc::clone(&metrics)), Protocol::Http);
            observed.set_trace(Some(1));
            observed.ran(Timing { queue: std::time::Duration::from_nanos(queue), ..Timing::default() });
            observed.end(Code::http(200), 10);
        }
        let observations = metrics.snapshot().observations;
        let labels = || ["m".to_owned().into(), "1".into()];
        let bytes = write(&[
            Family::new(&QUEUE_DURATION).with(labels(), &observations.queue),
            Family::new(&RESPONSE_SIZE).with(labels(), &observations.response_bytes),
        ]);
        let mut rest = bytes.as_slice();
        let family = proto::MetricFamily::decode_length_delimited(&mut rest).unwrap();
        assert_eq!((family.name.as_str(), family.unit.as_str()), ("axon_queue_duration_seconds", "seconds"));
        let histogram = family.metric[0].histogram.clone().unwrap();
        assert_eq!((histogram.sample_count, histogram.zero_count, histogram.schema), (5, 1, 3));
        assert_eq!(histogram.bucket.last().unwrap().cumulative_count, 5);
        // Counts are running sums of deltas, and all of them with the zeros are the samples.
        let counts = histogram.positive_delta.iter().scan(0, |count, delta| {
            *count += delta;
            Some(*count)
        });
        assert_eq!(counts.sum::<i64>() + 1, 5);
        let buckets: u32 = histogram.positive_span.iter().map(|span| span.length).sum();
        assert_eq!(buckets as usize, histogram.positive_delta.len());
        assert_eq!(histogram.exemplars.len(), 4, "one for each classic bucket that has one");
        let family = proto::MetricFamily::decode_length_delimited(&mut rest).unwrap();
        assert_eq!(family.metric[0].histogram.as_ref().unwrap().positive_delta, [5]);
        assert!(rest.is_empty());
    }
}
