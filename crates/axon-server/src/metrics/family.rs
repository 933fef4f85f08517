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
pub(super) enum Value<'a> {
    Count(u64),
    Number(f64),
    /// It is large, and stays where it was read.
    Histogram(&'a HistogramSnapshot),
}

impl From<u64> for Value<'_> {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<usize> for Value<'_> {
    fn from(count: usize) -> Self {
        Self::Count(count as u64)
    }
}

impl From<f64> for Value<'_> {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<std::time::Duration> for Value<'_> {
    fn from(duration: std::time::Duration) -> Self {
        Self::Number(duration.as_secs_f64())
    }
}

impl<'a> From<&'a HistogramSnapshot> for Value<'a> {
    fn from(histogram: &'a HistogramSnapshot) -> Self {
        Self::Histogram(histogram)
    }
}

/// One sample; its labels are in the order of the metric's.
#[derive(Clone, Debug)]
pub(super) struct Sample<'a> {
    pub labels: Vec<Label>,
    pub value: Value<'a>,
}

/// A metric and its samples.
#[derive(Debug)]
pub(super) struct Family<'a> {
    pub metric: &'static Metric,
    pub samples: Vec<Sample<'a>>,
}

impl<'a> Family<'a> {
    pub fn new(metric: &'static Metric) -> Self {
        Self { metric, samples: Vec::new() }
    }

    /// The family of one sample without labels.
    pub fn single(metric: &'static Metric, value: impl Into<Value<'a>>) -> Self {
        Self::new(metric).with([], value)
    }

    /// The same family with another sample.
    pub fn with<const LABELS: usize>(mut self, labels: [Label; LABELS], value: impl Into<Value<'a>>) -> Self {
        self.push(labels, value);
        self
    }

    pub fn push<const LABELS: usize>(&mut self, labels: [Label; LABELS], value: impl Into<Value<'a>>) {
        debug_assert_eq!(LABELS, self.metric.labels.len(), "{}", self.metric.name);
        self.samples.push(Sample { labels: labels.into(), value: value.into() });
    }
}
