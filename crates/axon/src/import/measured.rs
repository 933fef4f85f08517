//! What was found out when a model was loaded, so that its next load need not run it to find out again.
//!
//! Whether rows may share a batch, how long runs take and how the cores are best divided follow from the model, the
//! machine and the settings. All of them name what is remembered: the model's key, and a question that holds the
//! settings.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::probe::Findings;
use crate::storage::Notes;

/// How long it counts: what else the machine does may have changed since.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// The most questions that are remembered of a model; the oldest goes first.
const MAX_QUESTIONS: usize = 8;

/// What was found out of a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Remembered {
    /// What the probe found, without its sample.
    pub findings: Findings,
    /// How it is run.
    pub plan: Plan,
}

#[derive(Default, Serialize, Deserialize)]
struct Answers(BTreeMap<String, Answer>);

#[derive(Serialize, Deserialize)]
struct Answer {
    /// Seconds since 1970.
    at: u64,
    remembered: Remembered,
}

fn read(notes: &Notes, key: &str) -> Answers {
    notes.read(key).and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The answer to `question`; `None` when there is none that still counts.
pub(super) fn recall(notes: &Notes, key: &str, question: &str) -> Option<Remembered> {
    let mut answers = read(notes, key);
    let answer = answers.0.remove(question)?;
    let now = now();
    // One from the future was noted by a clock that was wrong.
    let counts = answer.at <= now && now - answer.at <= LONGEST.as_secs();
    counts.then_some(answer.remembered)
}

/// The threads of a run in the newest answer.
pub(super) fn threads(notes: &Notes, key: &str) -> Option<usize> {
    let newest = read(notes, key).0.into_values().max_by_key(|answer| answer.at)?;
    Some(newest.remembered.plan.threads).filter(|&threads| threads > 0)
}

/// Notes an answer. That it cannot is no error: the next load finds out again.
pub(super) fn remember(notes: &Notes, key: &str, question: &str, remembered: Remembered) {
    let mut answers = read(notes, key);
    answers.0.insert(question.to_owned(), Answer { at: now(), remembered });
    while answers.0.len() > MAX_QUESTIONS {
        let oldest =
            answers.0.iter().min_by_key(|(_, answer)| answer.at).map(|(question, _)| question.clone());
        answers.0.remove(&oldest.unwrap_or_default());
    }
    let written = serde_json::to_string(&answers).map_err(std::io::Error::other);
    if let Err(error) = written.and_then(|text| notes.write(key, &text)) {
        tracing::debug!(key, "cannot remember what was measured of a model: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::probe::{Batchable, CurvePoint};
    use crate::storage::Disk;

    #[test]
    fn what_was_measured_is_remembered_by_question_and_for_some_days() {
        let folder = std::env::temp_dir().join(format!("axon-measured-{}", std::process::id()));
        let notes = Notes::open(Some(folder.clone()), "test", 100, Disk::default());
        let curve = vec![CurvePoint { rows: 1, duration: Duration::from_micros(1234) }];
        let findings = Findings {
            curve,
            deterministic: Some(true),
            ..Findings::untried(Batchable::Yes { bitwise: false })
        };
        let plan = Plan::waiting(NonZeroUsize::new(3), NonZeroUsize::MIN);
        let remembered = Remembered { findings, plan: plan.clone() };
        assert!(recall(&notes, "key", "question").is_none());
        for number in 0..=MAX_QUESTIONS {
            remember(&notes, "key", &format!("{number}"), remembered.clone());
        }
        assert_eq!(read(&notes, "key").0.len(), MAX_QUESTIONS);
        remember(&notes, "key", "question", remembered);
        let recalled = recall(&notes, "key", "question").unwrap();
        assert_eq!(recalled.plan, plan);
        assert_eq!(recalled.findings.batchable, Batchable::Yes { bitwise: false });
        assert_eq!(recalled.findings.single(), Some(Duration::from_micros(1234)));
        assert!(recall(&notes, "other", "question").is_none());
        for at in [0, u64::MAX] {
            let mut answers = read(&notes, "key");
            answers.0.get_mut("question").unwrap().at = at;
            notes.write("key", &serde_json::to_string(&answers).unwrap()).unwrap();
            assert!(recall(&notes, "key", "question").is_none(), "{at}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
