//! What is told of aliases. Their labels come from what operators have declared, never from a request.

use axon::alias::{AliasReport, Destination, Dropped};

use super::declared as d;
use super::family::{Family, Label};

/// Nothing where there are no aliases.
pub(super) fn families(aliases: &[AliasReport]) -> Vec<Family<'_>> {
    if aliases.is_empty() {
        return Vec::new();
    }
    let mut requests = Family::new(&d::ALIAS_REQUESTS);
    let mut durations = Family::new(&d::ALIAS_DURATION);
    for alias in aliases {
        for (target, counts) in alias.declared.targets().iter().zip(&alias.targets) {
            let [name, model, version] = labels(alias, &target.to);
            durations.push([name.clone(), model.clone(), version.clone()], &counts.durations);
            requests.push([name.clone(), model.clone(), version.clone(), "answered".into()], counts.answered);
            requests.push([name, model, version, "unanswered".into()], counts.unanswered);
        }
    }
    let mut families = vec![requests, durations];
    families.extend(shadows(aliases));
    families
}

fn shadows(aliases: &[AliasReport]) -> Vec<Family<'_>> {
    let mut answers = Family::new(&d::SHADOW_ANSWERS);
    let mut dropped = Family::new(&d::SHADOW_DROPPED);
    let mut shadow_durations = Family::new(&d::SHADOW_DURATION);
    let mut primary_durations = Family::new(&d::SHADOW_PRIMARY_DURATION);
    let mut any = false;
    for alias in aliases {
        let Some((shadow, counts)) = alias.declared.shadow().zip(alias.shadow.as_ref()) else { continue };
        any = true;
        let [name, model, version] = labels(alias, &shadow.to);
        let with = |last: &'static str| [name.clone(), model.clone(), version.clone(), Label::from(last)];
        answers.push(with("equal"), counts.equal);
        answers.push(with("different"), counts.different);
        answers.push(with("failed"), counts.failed);
        for (cause, count) in Dropped::ALL.iter().zip(counts.dropped) {
            dropped.push(with(cause.name()), count);
        }
        let [name, model, version] = labels(alias, &shadow.to);
        shadow_durations.push([name.clone(), model.clone(), version.clone()], &counts.shadow);
        primary_durations.push([name, model, version], &counts.primary);
    }
    if any { vec![answers, dropped, shadow_durations, primary_durations] } else { Vec::new() }
}

fn labels(alias: &AliasReport, to: &Destination) -> [Label; 3] {
    let version = to.version.map_or_else(|| Label::from("newest"), |version| version.to_string().into());
    [alias.name.clone().into(), to.model.clone().into(), version]
}
