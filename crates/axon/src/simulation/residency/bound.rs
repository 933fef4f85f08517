//! What no rule can beat, even one that knows the future.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Workload;

/// The least time that loads can take together when every request is answered by a loaded model, on a device of `budget`
/// bytes. What is reached may be above it, also by the best that there is.
///
/// **Source:** D. Berger, N. Beckmann and M. Harchol-Balter, *Practical Bounds on Optimal Caching with Variable Object
/// Sizes*, 2018: to keep a model from one request to its next takes its bytes for so many requests, and saves a load. All
/// of that together has the budget for all requests, which is spent on what saves most for each byte and request.
#[must_use]
pub fn least_loading(workload: &Workload, budget: u64) -> Duration {
    let mut last = BTreeMap::new();
    let mut kept = Vec::new();
    let mut whole = 0.0;
    for (index, request) in workload.requests.iter().enumerate() {
        let Some(model) = workload.models.get(request.model).filter(|model| model.bytes <= budget) else {
            continue;
        };
        let saved = model.reload.as_secs_f64();
        whole += saved;
        if let Some(before) = last.insert(request.model, index) {
            let taken = model.bytes as f64 * (index - before) as f64;
            kept.push((saved / taken, saved, taken));
        }
    }
    kept.sort_by(|one, other| other.0.total_cmp(&one.0));
    let mut left = budget as f64 * workload.requests.len() as f64;
    for (_, saved, taken) in kept {
        let share = (left / taken).clamp(0.0, 1.0);
        whole -= saved * share;
        left -= taken * share;
    }
    Duration::from_secs_f64(whole.max(0.0))
}
