//! What an operator says of an alias, as JSON over the wire or as TOML in a file.
//!
//! **Source:** `docs/aliases.md` has every key.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use crate::error::{Echo, Error, Result};
use crate::repository::check_name;

/// The most targets of an alias.
pub const MAX_TARGETS: usize = 8;

/// The largest weight of a target.
pub const MAX_WEIGHT: u32 = 1000;

/// A model, and a version of it or its newest that is ready.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Destination {
    /// The model.
    pub model: String,
    /// The version; `None` for the newest that is ready.
    pub version: Option<u64>,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Some(version) => write!(f, "{}:{version}", self.model),
            None => f.write_str(&self.model),
        }
    }
}

/// Where some of an alias's requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The model that answers.
    pub to: Destination,
    /// Its part of the requests among the weights of all targets, 1 to [`MAX_WEIGHT`].
    pub weight: u32,
}

/// Where copies of an alias's requests go.
#[derive(Clone, Debug, PartialEq)]
pub struct Shadow {
    /// The model whose answers are compared.
    pub to: Destination,
    /// The share of the requests that is copied, more than 0 and at most 1.
    pub share: f64,
}

/// An alias as it is declared; it keeps every bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    targets: Vec<Target>,
    shadow: Option<Shadow>,
}

impl Declared {
    /// An alias of `targets`, with copies to `shadow`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind) at `targets` or `shadow` for names, weights or a share out of
    /// bounds, for none or more than [`MAX_TARGETS`], and for one that comes twice.
    pub fn new(targets: Vec<Target>, shadow: Option<Shadow>) -> Result<Self> {
        if targets.is_empty() || targets.len() > MAX_TARGETS {
            return Err(Error::invalid(
                "targets",
                format_args!("expected 1 to {MAX_TARGETS}, got {}", targets.len()),
            ));
        }
        for (index, target) in targets.iter().enumerate() {
            let field = format!("targets[{index}]");
            check_destination(&field, &target.to)?;
            if !(1..=MAX_WEIGHT).contains(&target.weight) {
                let got = target.weight;
                return Err(Error::invalid(
                    format!("{field}.weight"),
                    format_args!("expected an integer from 1 to {MAX_WEIGHT}, got {got}"),
                ));
            }
            if targets.iter().take(index).any(|earlier| earlier.to == target.to) {
                return Err(Error::invalid(
                    field,
                    format_args!("{} comes twice", Echo(&target.to.to_string())),
                ));
            }
        }
        if let Some(shadow) = &shadow {
            check_shadow(shadow, &targets)?;
        }
        Ok(Self { targets, shadow })
    }

    /// An alias of one model alone.
    ///
    /// # Errors
    /// As for [`Declared::new`].
    pub fn of(model: impl Into<String>, version: Option<u64>) -> Result<Self> {
        Self::new(vec![Target { to: Destination { model: model.into(), version }, weight: 1 }], None)
    }

    /// Reads what the protocol's JSON says: an object with `targets` and perhaps `shadow`, or a text `MODEL:VERSION`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`](crate::ErrorKind) at the member that is wrong.
    pub fn from_json(value: &Value) -> Result<Self> {
        let members = match value {
            Value::String(text) => {
                return Self::new(vec![target("targets", &Value::String(text.clone()))?], None);
            }
            Value::Object(members) => members,
            other => return Err(wrong("alias", "an object or a string", other)),
        };
        known("", members, &["targets", "shadow"])?;
        let targets = match members.get("targets") {
            Some(Value::Array(targets)) => targets,
            Some(other) => return Err(wrong("targets", "an array", other)),
            None => return Err(Error::invalid("targets", "expected an array, got none")),
        };
        let targets = targets.iter().enumerate();
        let targets = targets.map(|(index, value)| target(&format!("targets[{index}]"), value));
        let shadow = match members.get("shadow") {
            None | Some(Value::Null) => None,
            Some(value) => Some(shadow(value)?),
        };
        Self::new(targets.collect::<Result<_>>()?, shadow)
    }

    /// Where the requests go.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Where copies of them go.
    #[must_use]
    pub fn shadow(&self) -> Option<&Shadow> {
        self.shadow.as_ref()
    }

    /// Every model that it leads to, with the field that says so.
    pub(super) fn destinations(&self) -> impl Iterator<Item = (String, &Destination)> {
        let targets = self.targets.iter().enumerate();
        let targets = targets.map(|(index, target)| (format!("targets[{index}]"), &target.to));
        targets.chain(self.shadow.iter().map(|shadow| ("shadow".to_owned(), &shadow.to)))
    }
}

/// Reads a file of aliases: a table or a text `MODEL:VERSION` for each.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](crate::ErrorKind) that names the alias and the field.
pub(super) fn parse_file(text: &str) -> Result<BTreeMap<String, Declared>> {
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .map_or(1, |span| 1 + text.bytes().take(span.start).filter(|&byte| byte == b'\n').count());
        let problem = error.message().replace('\n', "; ");
        Error::invalid(format!("line {line}"), format_args!("expected TOML: {problem}"))
    })?;
    let mut aliases = BTreeMap::new();
    for (name, value) in table {
        check_alias_name(&name)?;
        let value = serde_json::to_value(value).map_err(|error| Error::invalid(name.clone(), error))?;
        let declared = Declared::from_json(&value).map_err(|error| within(&name, &error))?;
        aliases.insert(name, declared);
    }
    Ok(aliases)
}

/// Checks that an alias may have this name: what a model may have.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`](crate::ErrorKind) at `alias`.
pub(super) fn check_alias_name(name: &str) -> Result<()> {
    check_name(name).map_err(|error| renamed(&error, "model_name", "alias"))
}

/// The same error at a field of an alias that a file declares.
pub(super) fn within(name: &str, error: &Error) -> Error {
    let field = error.field().map_or_else(|| name.to_owned(), |field| format!("{name}.{field}"));
    Error::new(error.kind(), format!("{name}.{}", error.message())).with_field(field)
}

fn renamed(error: &Error, from: &str, to: &str) -> Error {
    let problem = error.message().strip_prefix(from).and_then(|rest| rest.strip_prefix(": "));
    Error::invalid(to.to_owned(), problem.unwrap_or_else(|| error.message()))
}

fn check_destination(field: &str, to: &Destination) -> Result<()> {
    check_name(&to.model).map_err(|error| renamed(&error, "model_name", &format!("{field}.model")))?;
    match to.version {
        Some(version) if version == 0 || version > i64::MAX.unsigned_abs() => Err(Error::invalid(
            format!("{field}.version"),
            format_args!("expected a positive integer of at most 2^63 - 1, got {version}"),
        )),
        _ => Ok(()),
    }
}

fn check_shadow(shadow: &Shadow, targets: &[Target]) -> Result<()> {
    check_destination("shadow", &shadow.to)?;
    if !(shadow.share > 0.0 && shadow.share <= 1.0) {
        let got = shadow.share;
        return Err(Error::invalid(
            "shadow.share",
            format_args!("expected more than 0 and at most 1, got {got}"),
        ));
    }
    if targets.iter().all(|target| target.to == shadow.to) {
        return Err(Error::invalid(
            "shadow",
            format_args!("{} answers every request already", Echo(&shadow.to.to_string())),
        ));
    }
    Ok(())
}

fn target(field: &str, value: &Value) -> Result<Target> {
    let members = match value {
        Value::String(text) => return Ok(Target { to: named(field, text)?, weight: 1 }),
        Value::Object(members) => members,
        other => return Err(wrong(field, "an object or a string", other)),
    };
    known(field, members, &["model", "version", "weight"])?;
    let to = destination(field, members)?;
    let weight = match members.get("weight") {
        None => 1,
        Some(value) => value.as_u64().and_then(|weight| u32::try_from(weight).ok()).ok_or_else(|| {
            wrong(&format!("{field}.weight"), &format!("an integer from 1 to {MAX_WEIGHT}"), value)
        })?,
    };
    Ok(Target { to, weight })
}

fn shadow(value: &Value) -> Result<Shadow> {
    let members = match value {
        Value::String(text) => return Ok(Shadow { to: named("shadow", text)?, share: 1.0 }),
        Value::Object(members) => members,
        other => return Err(wrong("shadow", "an object or a string", other)),
    };
    known("shadow", members, &["model", "version", "share"])?;
    let share = match members.get("share") {
        None => 1.0,
        Some(value) => value
            .as_f64()
            .ok_or_else(|| wrong("shadow.share", "a number more than 0 and at most 1", value))?,
    };
    Ok(Shadow { to: destination("shadow", members)?, share })
}

fn destination(field: &str, members: &Map<String, Value>) -> Result<Destination> {
    let at = |member: &str| format!("{field}.{member}");
    let model = match members.get("model") {
        Some(Value::String(model)) => model.clone(),
        Some(other) => return Err(wrong(&at("model"), "a string", other)),
        None => return Err(Error::invalid(at("model"), "expected a string, got none")),
    };
    let version = match members.get("version") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(parse_version(&at("version"), text)?),
        Some(Value::Number(number)) => Some(parse_version(&at("version"), &number.to_string())?),
        Some(other) => return Err(wrong(&at("version"), "an integer", other)),
    };
    Ok(Destination { model, version })
}

/// Reads `MODEL` or `MODEL:VERSION`.
fn named(field: &str, text: &str) -> Result<Destination> {
    let (model, version) = match text.split_once(':') {
        Some((model, version)) => (model, Some(parse_version(&format!("{field}.version"), version)?)),
        None => (text, None),
    };
    Ok(Destination { model: model.to_owned(), version })
}

fn parse_version(field: &str, text: &str) -> Result<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_plain).ok_or_else(|| {
        Error::invalid(
            field.to_owned(),
            format_args!("expected a positive integer of at most 2^63 - 1, got {}", Echo(text)),
        )
    })
}

fn known(holder: &str, members: &Map<String, Value>, names: &[&str]) -> Result<()> {
    match members.keys().find(|key| !names.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(Error::invalid(
            if holder.is_empty() { "alias".to_owned() } else { holder.to_owned() },
            format_args!("expected {}, got the member {}", names.join(", "), Echo(key)),
        )),
    }
}

fn wrong(field: &str, expected: &str, got: &Value) -> Error {
    let got = match got {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "a boolean".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => Echo(text).to_string(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    Error::invalid(field.to_owned(), format_args!("expected {expected}, got {got}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_alias_may_say() {
        let check = |value: Value, targets: &[(&str, u32)], shadow: Option<(&str, f64)>| {
            let declared = Declared::from_json(&value).unwrap();
            let told: Vec<_> =
                declared.targets().iter().map(|target| (target.to.to_string(), target.weight)).collect();
            let expected: Vec<_> = targets.iter().map(|(to, weight)| ((*to).to_owned(), *weight)).collect();
            assert_eq!(told, expected, "{value}");
            let told = declared.shadow().map(|shadow| (shadow.to.to_string(), shadow.share));
            assert_eq!(told, shadow.map(|(to, share)| (to.to_owned(), share)), "{value}");
        };
        check(json!("m:3"), &[("m:3", 1)], None);
        check(json!("m"), &[("m", 1)], None);
        check(
            json!({ "targets": [{ "model": "m", "version": "3", "weight": 95 }, { "model": "m", "version": 4, "weight": 5 }] }),
            &[("m:3", 95), ("m:4", 5)],
            None,
        );
        check(
            json!({ "targets": ["a", { "model": "b" }], "shadow": "c:2" }),
            &[("a", 1), ("b", 1)],
            Some(("c:2", 1.0)),
        );
        check(
            json!({ "targets": ["a"], "shadow": { "model": "b", "share": 0.25 } }),
            &[("a", 1)],
            Some(("b", 0.25)),
        );
        // A canary that is watched too.
        check(
            json!({ "targets": ["a:1", "a:2"], "shadow": "a:2" }),
            &[("a:1", 1), ("a:2", 1)],
            Some(("a:2", 1.0)),
        );
        check(json!({ "targets": ["a"], "shadow": null }), &[("a", 1)], None);
    }

    #[test]
    fn what_an_alias_may_not_say_is_refused_with_its_field() {
        let check = |value: Value, field: &str, part: &str| {
            let error = Declared::from_json(&value).unwrap_err();
            assert_eq!(error.field(), Some(field), "{value}: {error}");
            assert!(error.message().contains(part), "{value}: {error}");
        };
        let one = |target: Value| json!({ "targets": [target] });
        check(json!(3), "alias", "expected an object or a string, got 3");
        check(json!({}), "targets", "expected an array, got none");
        check(json!({ "targets": [] }), "targets", "expected 1 to 8, got 0");
        check(json!({ "targets": vec!["m"; 9] }), "targets", "got 9");
        check(json!({ "targets": ["m"], "share": 1 }), "alias", "got the member `share`");
        check(one(json!({ "version": 1 })), "targets[0].model", "got none");
        check(one(json!({ "model": "../m" })), "targets[0].model", "got `../m`");
        check(one(json!({ "model": "m", "wait": 1 })), "targets[0]", "got the member `wait`");
        for version in [
            json!("x"),
            json!("01"),
            json!(0),
            json!(-1),
            json!(1.5),
            json!("9223372036854775808"),
            json!(true),
        ] {
            check(one(json!({ "model": "m", "version": version })), "targets[0].version", "expected");
        }
        for weight in [json!(0), json!(-1), json!(1001), json!(0.5), json!("5"), json!(u64::MAX)] {
            check(one(json!({ "model": "m", "weight": weight })), "targets[0].weight", "1 to 1000");
        }
        check(json!({ "targets": ["m:1", "m:1"] }), "targets[1]", "`m:1` comes twice");
        for share in [json!(0), json!(-0.1), json!(1.01), json!("1")] {
            check(
                json!({ "targets": ["m"], "shadow": { "model": "n", "share": share } }),
                "shadow.share",
                "at most 1",
            );
        }
        check(json!({ "targets": ["m"], "shadow": "m" }), "shadow", "answers every request already");
        check(json!({ "targets": ["m:"], }), "targets[0].version", "expected a positive integer");
    }

    #[test]
    fn a_file_has_tables_and_texts() {
        let text = "live = \"digits\"\n\n[prod]\ntargets = [{ model = \"digits\", version = 3, weight = 95 }, \
                    { model = \"digits\", version = \"4\", weight = 5 }]\nshadow = { model = \"digits\", version = 4, share = 0.1 }\n";
        let aliases = parse_file(text).unwrap();
        assert_eq!(aliases.keys().collect::<Vec<_>>(), ["live", "prod"]);
        assert_eq!(aliases["prod"].targets().len(), 2);
        assert_eq!(aliases["live"], Declared::of("digits", None).unwrap());
        let check = |text: &str, field: &str| {
            let error = parse_file(text).unwrap_err();
            assert_eq!(error.field(), Some(field), "{text}: {error}");
        };
        check("a = 1", "a.alias");
        check("a = \"b\"\nb = ", "line 2");
        check("\"../a\" = \"b\"", "alias");
        check("[a]\ntargets = [{ model = \"m\", weight = 0 }]", "a.targets[0].weight");
    }
}
