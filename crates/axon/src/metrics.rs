//! What is counted: requests, how each ended, and how long its parts took.
//!
//! [`statistics`] counts what a load of a version has run, with Triton's meanings, and begins anew with each load.
//! [`ModelMetrics`] counts the requests of a version for as long as the server knows it, whatever way they came;
//! [`Registry`] keeps one for each version, and one for requests whose model is unknown. [`Observed`] is a request while
//! it is answered.
//!
//! Reading is never waited for: counters are atomic, and only grow. Invariants: every request that was received ends in
//! exactly one [`Outcome`] or is in flight; a snapshot never shows more ended than received; what is observed of a
//! version's answers is observed once for each answer.

mod histogram;
mod observed;
mod outcome;
mod registry;
mod requests;
mod scale;
mod slowest;
mod statistics;

pub use histogram::{Bucket, Exemplar, Histogram, HistogramSnapshot, NativeBuckets};
pub use observed::{Observed, Shared};
pub use outcome::{CODES, Code, Outcome, Protocol};
pub use registry::{Registry, Series, UNKNOWN};
pub use requests::{DEFAULT_TARGET, Ended, ModelMetrics, ModelSnapshot, Observations};
pub use scale::{DURATIONS, Scale};
pub use slowest::{KEPT, SlowRequest, Slowest, WINDOW};
pub use statistics::{BatchStatistics, DurationCounter, ModelStatistics, Phases};
