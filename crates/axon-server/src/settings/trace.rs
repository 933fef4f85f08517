//! The trace settings: of the server, and of each model that has its own.
//!
//! **Source:** Triton's extension "trace". Where spans go is the operator's to say, so `trace_file` and `trace_mode` are
//! only read. `log_frequency` is kept and changes nothing: it is about files.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use axon::error::Echo;
use axon::reason::Reason;
use axon::{Error, ErrorKind, Result};

use super::file_setting;
use crate::trace::{Level, Policies, Policy, Rate};

/// The values of one trace setting; one for most.
pub type Values = Vec<String>;

/// Trace settings by key. A change to none takes what holds for the whole server.
pub type TraceUpdate = BTreeMap<String, Option<Values>>;

/// The keys and their values at the start, where nothing is traced.
const KEYS: [(&str, &str); 6] = [
    ("trace_file", ""),
    ("trace_level", "OFF"),
    ("trace_rate", "1000"),
    ("trace_count", "-1"),
    ("log_frequency", "0"),
    ("trace_mode", "triton"),
];

/// The longest value of a setting, in bytes.
const MAX_VALUE: usize = 256;

type Own = BTreeMap<&'static str, Values>;

/// What was set, and what acts on it.
pub(super) struct Trace {
    /// The ratio at the start, and who decides about requests; `None` where nothing is traced.
    tracing: Option<(f64, Arc<Policies>)>,
    server: Own,
    models: BTreeMap<String, Own>,
    /// How many more are traced, by model; the empty name is the server's. It is there where `trace_count` is set.
    left: HashMap<String, Arc<AtomicI64>>,
}

impl Trace {
    pub fn new(tracing: Option<(f64, Arc<Policies>)>) -> Self {
        Self { tracing, server: Own::new(), models: BTreeMap::new(), left: HashMap::new() }
    }

    /// All settings of the server, or of a model. `trace_count` is what is left of it.
    pub fn read(&self, model: Option<&str>) -> BTreeMap<&'static str, Values> {
        let mut settings: Own = KEYS.iter().map(|&(key, value)| (key, vec![value.to_owned()])).collect();
        if let Some((ratio, _)) = self.tracing {
            let rate = if ratio > 0.0 { (1.0 / ratio).round() } else { 0.0 };
            settings.insert("trace_level", vec!["TIMESTAMPS".to_owned()]);
            settings.insert("trace_rate", vec![rate.to_string()]);
            settings.insert("trace_mode", vec!["opentelemetry".to_owned()]);
        }
        let own = model.and_then(|model| self.models.get(model));
        for (key, values) in self.server.iter().chain(own.into_iter().flatten()) {
            settings.insert(key, values.clone());
        }
        if let Some(left) = self.left(model.unwrap_or_default()) {
            settings.insert("trace_count", vec![left.load(Relaxed).to_string()]);
        }
        settings
    }

    /// What a model's count is taken from.
    fn left(&self, model: &str) -> Option<&Arc<AtomicI64>> {
        self.left.get(model).or_else(|| self.left.get(""))
    }

    /// Changes settings; all of them or, on an error, none. The caller knows that the model exists.
    pub fn change(&mut self, model: Option<&str>, update: TraceUpdate) -> Result<()> {
        let mut checked = Vec::with_capacity(update.len());
        for (key, values) in update {
            checked.push((check(&key, values.as_deref())?, values));
        }
        if checked.is_empty() {
            return Ok(());
        }
        let settings = match model {
            Some(model) => self.models.entry(model.to_owned()).or_default(),
            None => &mut self.server,
        };
        for (key, values) in checked {
            if key == "trace_count" {
                let count = values.as_ref().and_then(|values| values.first()?.parse().ok());
                let place = model.unwrap_or_default();
                match count {
                    Some(count) => self.left.insert(place.to_owned(), Arc::new(AtomicI64::new(count))),
                    None => self.left.remove(place),
                };
            }
            match values {
                Some(values) => settings.insert(key, values),
                None => settings.remove(key),
            };
        }
        self.act();
        Ok(())
    }

    /// Puts in force what was set.
    fn act(&self) {
        let Some((ratio, policies)) = &self.tracing else {
            if self.read(None).get("trace_level").is_some_and(|level| level != &["OFF"]) {
                tracing::warn!(
                    "trace_level is set, and nothing is traced: the server was started without --otlp-endpoint"
                );
            }
            return;
        };
        // A count that was not set has no end, and may be shared by all.
        let endless = Arc::new(AtomicI64::new(-1));
        let policy = |model: &str| {
            let own = self.models.get(model);
            let set = |key: &str| own.and_then(|own| own.get(key)).or_else(|| self.server.get(key));
            let level = match set("trace_level") {
                Some(levels) if levels == &["OFF"] => Level::Off,
                Some(levels) if levels.iter().any(|level| level == "TENSORS") => Level::Tensors,
                _ => Level::Timestamps,
            };
            let rate = set("trace_rate").and_then(|rate| rate.first()?.parse().ok());
            let rate = rate
                .map_or_else(|| Rate::ratio(*ratio), |rate| Rate::Every { rate, seen: AtomicU64::new(0) });
            Policy { level, rate, left: Arc::clone(self.left(model).unwrap_or(&endless)) }
        };
        let models = self.models.keys().map(|model| (model.clone(), policy(model))).collect();
        policies.replace(policy(""), models);
    }
}

fn check(key: &str, values: Option<&[String]>) -> Result<&'static str> {
    let Some(&(known, _)) = KEYS.iter().find(|(known, _)| *known == key) else {
        let keys = axon::error::echo_names(KEYS.iter().map(|(key, _)| *key));
        return Err(Error::invalid("settings", format_args!("expected one of {keys}, got {}", Echo(key))));
    };
    let Some(values) = values else { return Ok(known) };
    let wrong = |expected: &str| {
        let got = axon::error::echo_names(values.iter().map(String::as_str));
        let reason = match (known, values) {
            ("trace_level", values) if values.iter().any(|level| level == "OFF") => Reason::TraceOff,
            _ => Reason::TraceValue(known, values.first().cloned().unwrap_or_default()),
        };
        Err(Error::invalid(known, format_args!("expected {expected}, got {got}")).because(reason))
    };
    if values.iter().map(String::len).sum::<usize>() > MAX_VALUE {
        return wrong("at most 256 bytes");
    }
    let one = match values {
        [one] => one.as_str(),
        _ => "",
    };
    match known {
        "trace_file" => Err(file_setting("trace_file", "trace")),
        "trace_mode" => Err(Error::at(
            ErrorKind::Unimplemented,
            "trace_mode",
            "cannot be changed over the network: expected it on the server, got an update",
        )),
        "trace_level" => {
            let known_level = |level: &String| matches!(level.as_str(), "TIMESTAMPS" | "TENSORS");
            let valid = one == "OFF" || (!values.is_empty() && values.iter().all(known_level));
            if valid { Ok(known) } else { wrong("`OFF` alone, or `TIMESTAMPS` and `TENSORS`") }
        }
        "trace_rate" if one.parse::<u32>().is_ok_and(|rate| rate > 0) => Ok(known),
        "trace_rate" => wrong("a whole number of at least 1"),
        "trace_count" if one.parse::<i64>().is_ok_and(|count| count >= -1) => Ok(known),
        "trace_count" => wrong("a whole number of at least -1"),
        _ if one.parse::<u32>().is_ok() => Ok(known),
        _ => wrong("a whole number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(key: &str, values: &[&str]) -> TraceUpdate {
        let values = values.iter().map(ToString::to_string).collect();
        BTreeMap::from([(key.to_owned(), Some(values))])
    }

    fn of(settings: &Trace, model: Option<&str>, key: &str) -> String {
        settings.read(model)[key].join(",")
    }

    #[test]
    fn a_models_trace_settings_are_its_own_or_else_the_servers() {
        let mut settings = Trace::new(None);
        settings.change(None, update("trace_rate", &["5"])).unwrap();
        settings.change(Some("m"), update("trace_count", &["7"])).unwrap();
        assert_eq!(of(&settings, None, "trace_rate"), "5");
        assert_eq!(of(&settings, Some("m"), "trace_rate"), "5");
        assert_eq!(of(&settings, None, "trace_count"), "-1");
        assert_eq!(of(&settings, Some("m"), "trace_count"), "7");
        settings.change(Some("m"), BTreeMap::from([("trace_count".to_owned(), None)])).unwrap();
        assert_eq!(of(&settings, Some("m"), "trace_count"), "-1");
    }

    #[test]
    fn a_wrong_trace_setting_changes_nothing() {
        let mut settings = Trace::new(None);
        let before = settings.read(None);
        let mut check = |key: &str, values: &[&str], field: &str| {
            let mut changes = update(key, values);
            changes.insert("log_frequency".to_owned(), Some(vec!["9".to_owned()]));
            let error = settings.change(None, changes).unwrap_err();
            assert_eq!(error.field(), Some(field), "{key} {values:?}");
            assert_eq!(settings.read(None), before);
        };
        check("trace_rate", &["x"], "trace_rate");
        check("trace_rate", &["0"], "trace_rate");
        check("trace_count", &["-2"], "trace_count");
        check("trace_level", &["OFF", "TENSORS"], "trace_level");
        check("trace_level", &[], "trace_level");
        check("trace_file", &["/tmp/x"], "trace_file");
        check("trace_colour", &["red"], "settings");
    }

    #[test]
    fn what_is_set_decides_which_requests_are_traced() {
        let server =
            Policy { level: Level::Timestamps, rate: Rate::ratio(1.0), left: Arc::new(AtomicI64::new(-1)) };
        let policies = Arc::new(Policies::new(server));
        let mut settings = Trace::new(Some((0.25, Arc::clone(&policies))));
        assert_eq!(of(&settings, None, "trace_level"), "TIMESTAMPS");
        assert_eq!(of(&settings, None, "trace_rate"), "4");
        assert_eq!(of(&settings, None, "trace_mode"), "opentelemetry");
        settings.change(Some("m"), update("trace_level", &["OFF"])).unwrap();
        assert_eq!((policies.of("m").level, policies.of("n").level), (Level::Off, Level::Timestamps));
        settings.change(None, update("trace_level", &["TIMESTAMPS", "TENSORS"])).unwrap();
        assert_eq!((policies.of("m").level, policies.of("n").level), (Level::Off, Level::Tensors));
        settings.change(None, update("trace_rate", &["2"])).unwrap();
        settings.change(None, update("trace_count", &["3"])).unwrap();
        let sampled = (0..10).filter(|_| policies.of("n").samples(None, 0)).count();
        assert_eq!(sampled, 3);
        assert_eq!(of(&settings, Some("m"), "trace_count"), "0");
        // Another change leaves what is left as it is; a count of its own is not the server's.
        settings.change(Some("m"), update("trace_level", &["TIMESTAMPS"])).unwrap();
        assert_eq!(of(&settings, None, "trace_count"), "0");
        settings.change(Some("m"), update("trace_count", &["1"])).unwrap();
        assert!(policies.of("m").samples(None, 0));
        assert_eq!(of(&settings, Some("m"), "trace_count"), "0");
        settings.change(None, BTreeMap::from([("trace_count".to_owned(), None)])).unwrap();
        assert_eq!(of(&settings, None, "trace_count"), "-1");
    }
}
