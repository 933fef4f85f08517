//! A metric and its samples.

use std::sync::Arc;

use axon::metrics::HistogramSnapshot;

use super::declared::Metric;

/// The value of a label.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Label {
    Fixed(&'static str),
    Shared(Arc<str>),
}

impl Label {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Fixed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl From<&'static str> for Label {
    fn from(text: &'static str) -> Self {
        Self::Fixed(text)
    }
}

impl From<String> for Label {
    fn from(text: String) -> Self {
        Self::Shared(text.into())
    }
}

/// What was measured.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Count(u64),
    Number(f64),
    Histogram(Box<HistogramSnapshot>),
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<usize> for Value {
    fn from(count: usize) -> Self {
        Self::Count(count as u64)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<std::time::Duration> for Value {
    fn from(duration: std::time::Duration) -> Self {
        Self::Number(duration.as_secs_f64())
    }
}

impl From<HistogramSnapshot> for Value {
    fn from(histogram: HistogramSnapshot) -> Self {
        Self::Histogram(Box::new(histogram))
    }
}

/// One sample; its labels are in the order of the metric's.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub labels: Vec<Label>,
    pub value: Value,
}

/// A metric and its samples.
#[derive(Debug)]
pub(super) struct Family {
    pub metric: &'static Metric,
    pub samples: Vec<Sample>,
}

impl Family {
    pub fn new(metric: &'static Metric) -> Self {
        Self { metric, samples: Vec::new() }
    }

    /// The family of one sample without labels.
    pub fn single(metric: &'static Metric, value: impl Into<Value>) -> Self {
        Self::new(metric).with([], value)
    }

    /// The same family with another sample.
    pub fn with<const LABELS: usize>(mut self, labels: [Label; LABELS], value: impl Into<Value>) -> Self {
        self.push(labels, value);
        self
    }

    pub fn push<const LABELS: usize>(&mut self, labels: [Label; LABELS], value: impl Into<Value>) {
        debug_assert_eq!(LABELS, self.metric.labels.len(), "{}", self.metric.name);
        self.samples.push(Sample { labels: labels.into(), value: value.into() });
    }
}
