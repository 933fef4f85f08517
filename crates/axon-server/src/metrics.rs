//! What the server tells of itself, as Prometheus and OpenMetrics read it.
//!
//! `declared` is the one list of what is told, from which `docs/metrics.md` is made; `collect` and `triton` fill it from
//! the engine's counters, `aliases` with what is told of those, `process` from the system's, `gpu` from the driver's; `text` and
//! `protobuf` write it; `negotiate` chooses the form.
//! `scrape` answers.
//!
//! Invariants: a label's value is the name of a model that was loaded, or of an alias and what it leads to, or
//! from a fixed set; all counters of one version
//! come from one snapshot; one scrape is written at a time, and those that come meanwhile share the next.

mod aliases;
mod collect;
mod declared;
mod family;
mod gpu;
mod negotiate;
mod process;
mod protobuf;
mod scrape;
mod text;
mod triton;

pub use declared::{Kind, METRICS, Metric, TRITON, document};
pub(crate) use scrape::{Scrape, Scrapes, answer};
