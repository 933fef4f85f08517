//! Reads `model.toml`, Axon's own words for the same fields.
//!
//! **Source:** `docs/model-configuration.md` has every key. The parser of TOML bounds how deep tables nest.

use serde_json::{Map, Value, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::MAX_ELEMENTS;
use super::origin::{Origin, Problem, suggestion};
use super::parameters::{BATCHING, KEEP_ALIVE, LATENCY_TARGET, PIN, PROFILE, RESPONSE_CACHE_TTL, WEIGHT};
use crate::error::Echo;

type Result<T> = std::result::Result<T, Problem>;
type Item<'a> = Spanned<DeValue<'a>>;

const KEYS: [&str; 26] = [
    "name",
    "backend",
    "file",
    "versions",
    "max_batch_size",
    "batching",
    "latency_target_ms",
    "instances",
    "profile",
    "pin",
    "keep_alive_s",
    "weight",
    "max_queue_size",
    "timeout_ms",
    "allow_timeout_override",
    "max_queue_delay_us",
    "preferred_batch_size",
    "preserve_ordering",
    "priority_levels",
    "default_priority_level",
    "inputs",
    "outputs",
    "parameters",
    "tags",
    "response_cache",
    "sequence",
];

/// Reads the text into the fields of Triton's description. Notes in `origin` where each is, and what it is called.
pub(super) fn parse(text: &str, origin: &mut Origin) -> Result<Value> {
    if text.starts_with('\u{feff}') {
        return Err(Problem::new(0, "expected a key, got a byte order mark"));
    }
    let table = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        Problem::new(offset, format_args!("expected TOML: {}", error.message().replace('\n', "; ")))
    })?;
    let mut reader = Reader { origin, fields: Map::new() };
    reader.read(table.get_ref())?;
    Ok(Value::Object(reader.fields))
}

struct Reader<'o> {
    origin: &'o mut Origin,
    fields: Map<String, Value>,
}

fn wrong(item: &Item<'_>, key: &str, expected: &str) -> Problem {
    let got = item.get_ref().type_str();
    Problem::new(item.span().start, format_args!("{key}: expected {expected}, got a value of type {got}"))
}

fn unknown(key: &Spanned<toml::de::DeString<'_>>, holder: &str, names: &[&str]) -> Problem {
    let dot = if holder.is_empty() { "" } else { "." };
    let hint = suggestion(key.get_ref(), names.iter().copied());
    Problem::new(key.span().start, format_args!("{holder}{dot}{}: unknown key; {hint}", Echo(key.get_ref())))
}

/// `{ input = "START", datatype = "FP32", values = [0, 1] }`; the values of `id` are the ids.
fn control(kind: &str, key: &str, item: &Item<'_>) -> Result<Value> {
    let (mut input, mut datatype_name, mut values) = (None, None, json!([0, 1]));
    for (name, item) in table(key, item)? {
        let inner = format!("{key}.{}", name.get_ref().escape_debug());
        match name.get_ref().as_ref() {
            "input" => input = Some(text(&inner, item)?),
            "datatype" => datatype_name = Some((datatype(&inner, item)?, item)),
            "values" if kind != "id" => values = integers(&inner, item)?,
            _ => return Err(unknown(name, key, &["input", "datatype", "values"])),
        }
    }
    let missing = |what: &str| Problem::new(item.span().start, format_args!("{key}: expected a key {what}"));
    let input = input.ok_or_else(|| missing("input"))?;
    let (name, at) = datatype_name.ok_or_else(|| missing("datatype"))?;
    let kind_name = match kind {
        "start" => "CONTROL_SEQUENCE_START",
        "ready" => "CONTROL_SEQUENCE_READY",
        "end" => "CONTROL_SEQUENCE_END",
        _ => "CONTROL_SEQUENCE_CORRID",
    };
    let mut control = json!({ "kind": kind_name });
    match (kind, name.as_str()) {
        ("id", _) => control["data_type"] = name,
        (_, Some("TYPE_INT32")) => control["int32_false_true"] = values,
        (_, Some("TYPE_FP32")) => control["fp32_false_true"] = values,
        (_, Some("TYPE_BOOL")) => {
            let values = values.as_array().into_iter().flatten().map(|value| *value != json!(0));
            control["bool_false_true"] = values.collect();
        }
        _ => return Err(wrong(at, &format!("{key}.datatype"), "`INT32`, `FP32` or `BOOL`")),
    }
    Ok(json!({ "name": input, "control": [control] }))
}

impl Reader<'_> {
    /// Notes that the field at `path` is written here as `key`.
    fn note(&mut self, path: &str, key: &str, item: &Item<'_>) {
        self.origin.note_as(path, key, item.span().start);
    }

    fn read(&mut self, table: &DeTable<'_>) -> Result<()> {
        for (name, item) in table {
            let key: &str = name.get_ref();
            let batching = |field: &'static str| ("dynamic_batching", field);
            match key {
                "name" | "backend" => self.copy(key, key, item, text)?,
                "file" => self.copy("default_model_filename", key, item, text)?,
                "max_batch_size" => self.copy(key, key, item, integer)?,
                "batching" => self.known_parameter(BATCHING, key, item, text)?,
                "latency_target_ms" => self.known_parameter(LATENCY_TARGET, key, item, number)?,
                "pin" => self.known_parameter(PIN, key, item, boolean)?,
                "keep_alive_s" => self.known_parameter(KEEP_ALIVE, key, item, number)?,
                "weight" => self.known_parameter(WEIGHT, key, item, natural)?,
                "versions" => self.versions(item)?,
                "instances" => {
                    self.note("instance_group[0].count", key, item);
                    let count = integer(key, item)?;
                    self.fields.insert("instance_group".to_owned(), json!([{ "count": count }]));
                }
                "profile" => {
                    let value = text(key, item)?.as_str().unwrap_or_default().to_owned();
                    self.parameter((PROFILE, value), key, item);
                }
                "max_queue_size" => self.policy("max_queue_size", key, item, natural)?,
                "timeout_ms" => {
                    self.policy("default_timeout_microseconds", key, item, milliseconds)?;
                    if !table.contains_key("allow_timeout_override") {
                        self.policy("allow_timeout_override", key, item, |_, _| Ok(json!(true)))?;
                    }
                }
                "allow_timeout_override" => self.policy("allow_timeout_override", key, item, boolean)?,
                "max_queue_delay_us" => {
                    self.within(batching("max_queue_delay_microseconds"), key, item, natural)?;
                }
                "preferred_batch_size" => {
                    self.within(batching("preferred_batch_size"), key, item, integers)?;
                }
                "preserve_ordering" => self.within(batching("preserve_ordering"), key, item, boolean)?,
                "priority_levels" => self.within(batching("priority_levels"), key, item, natural)?,
                "default_priority_level" => {
                    self.within(batching("default_priority_level"), key, item, natural)?;
                }
                "inputs" => self.tensors("input", key, item)?,
                "outputs" => self.tensors("output", key, item)?,
                "parameters" => self.parameters(key, item)?,
                "tags" => self.copy("metric_tags", key, item, texts)?,
                "response_cache" => self.response_cache(key, item)?,
                "sequence" => self.sequence(item)?,
                _ => return Err(unknown(name, "", &KEYS)),
            }
        }
        match table.get("sequence") {
            Some(sequence) if self.fields.contains_key("dynamic_batching") => Err(Problem::new(
                sequence.span().start,
                "sequence: expected no keys of the queue beside it, as `max_queue_size`",
            )),
            _ => Ok(()),
        }
    }

    /// `true`, or a table that says more.
    fn response_cache(&mut self, key: &str, item: &Item<'_>) -> Result<()> {
        const ENABLE: (&str, &str) = ("response_cache", "enable");
        if item.get_ref().as_table().is_none() {
            return self.within(ENABLE, key, item, boolean);
        }
        self.within(ENABLE, key, item, |_, _| Ok(json!(true)))?;
        for (name, item) in table(key, item)? {
            match name.get_ref().as_ref() {
                "enable" => self.within(ENABLE, "response_cache.enable", item, boolean)?,
                "ttl_s" => {
                    self.known_parameter(RESPONSE_CACHE_TTL, "response_cache.ttl_s", item, number)?;
                }
                _ => return Err(unknown(name, key, &["enable", "ttl_s"])),
            }
        }
        Ok(())
    }

    fn copy(
        &mut self,
        field: &str,
        key: &str,
        item: &Item<'_>,
        read: impl Fn(&str, &Item<'_>) -> Result<Value>,
    ) -> Result<()> {
        self.note(field, key, item);
        let value = read(key, item)?;
        self.fields.insert(field.to_owned(), value);
        Ok(())
    }

    /// A field of a message that is itself a field.
    fn within(
        &mut self,
        (holder, field): (&'static str, &'static str),
        key: &str,
        item: &Item<'_>,
        read: impl Fn(&str, &Item<'_>) -> Result<Value>,
    ) -> Result<()> {
        self.note(&format!("{holder}.{field}"), key, item);
        let value = read(key, item)?;
        let holder = self.fields.entry(holder).or_insert_with(|| json!({}));
        if let Value::Object(fields) = holder {
            fields.insert(field.to_owned(), value);
        }
        Ok(())
    }

    /// A field of `dynamic_batching.default_queue_policy`.
    fn policy(
        &mut self,
        field: &'static str,
        key: &str,
        item: &Item<'_>,
        read: impl Fn(&str, &Item<'_>) -> Result<Value>,
    ) -> Result<()> {
        self.note(&format!("dynamic_batching.default_queue_policy.{field}"), key, item);
        let value = read(key, item)?;
        let batching = self.fields.entry("dynamic_batching").or_insert_with(|| json!({}));
        if let Value::Object(batching) = batching
            && let Value::Object(policy) = batching.entry("default_queue_policy").or_insert_with(|| json!({}))
        {
            policy.insert(field.to_owned(), value);
        }
        Ok(())
    }

    fn versions(&mut self, item: &Item<'_>) -> Result<()> {
        let (path, policy) = match item.get_ref() {
            DeValue::String(word) if word == "latest" => {
                ("version_policy.latest", json!({ "latest": { "num_versions": 1 } }))
            }
            DeValue::String(word) if word == "all" => ("version_policy.all", json!({ "all": {} })),
            DeValue::Integer(_) => {
                let count = natural("versions", item)?;
                ("version_policy.latest.num_versions", json!({ "latest": { "num_versions": count } }))
            }
            DeValue::Array(_) => {
                let versions = sizes("versions", item)?;
                ("version_policy.specific.versions", json!({ "specific": { "versions": versions } }))
            }
            _ => return Err(wrong(item, "versions", "`latest`, `all`, a number or a list")),
        };
        self.note(path, "versions", item);
        self.fields.insert("version_policy".to_owned(), policy);
        Ok(())
    }

    fn tensors(&mut self, field: &str, side: &str, item: &Item<'_>) -> Result<()> {
        let mut tensors = Vec::new();
        for (name, item) in in_order(table(side, item)?) {
            let key = format!("{side}.{}", name.get_ref().escape_debug());
            let at = format!("{field}[{}]", tensors.len());
            self.note(&at, &key, item);
            let mut tensor = json!({ "name": name.get_ref() });
            for (part, item) in table(&key, item)? {
                let inner = format!("{key}.{}", part.get_ref().escape_debug());
                let (field, value) = match part.get_ref().as_ref() {
                    "datatype" => ("data_type", datatype(&inner, item)?),
                    "shape" => ("dims", sizes(&inner, item)?),
                    "reshape" => ("reshape", json!({ "shape": sizes(&inner, item)? })),
                    "labels" if field == "output" => ("label_filename", text(&inner, item)?),
                    _ => {
                        let names = ["datatype", "shape", "reshape", "labels"];
                        let known = if field == "output" { &names[..] } else { &names[..3] };
                        return Err(unknown(part, &key, known));
                    }
                };
                self.note(&format!("{at}.{field}"), &inner, item);
                tensor[field] = value;
            }
            tensors.push(tensor);
        }
        self.fields.insert(field.to_owned(), Value::Array(tensors));
        Ok(())
    }

    fn parameters(&mut self, key: &str, item: &Item<'_>) -> Result<()> {
        self.note("parameters", key, item);
        for (name, item) in table(key, item)? {
            let inner = format!("parameters.{}", name.get_ref().escape_debug());
            let value = match item.get_ref() {
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) => number.to_string(),
                DeValue::Float(number) => number.to_string(),
                DeValue::Boolean(value) => value.to_string(),
                _ => return Err(wrong(item, &inner, "a string, a number or a boolean")),
            };
            self.parameter((name.get_ref(), value), &inner, item);
        }
        Ok(())
    }

    /// One of the parameters for which Triton's description has no field.
    fn known_parameter(
        &mut self,
        name: &str,
        key: &str,
        item: &Item<'_>,
        read: fn(&str, &Item<'_>) -> Result<Value>,
    ) -> Result<()> {
        let value = read(key, item)?;
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.parameter((name, value), key, item);
        Ok(())
    }

    /// One of the parameters, which is written as `key`.
    fn parameter(&mut self, (name, value): (&str, String), key: &str, item: &Item<'_>) {
        self.note(&format!("parameters.{}", name.escape_debug()), key, item);
        let parameters = self.fields.entry("parameters").or_insert_with(|| json!({}));
        parameters[name] = json!({ "string_value": value });
    }

    fn sequence(&mut self, item: &Item<'_>) -> Result<()> {
        const NAMES: [&str; 9] = [
            "strategy",
            "max_idle_ms",
            "max_sequences",
            "start",
            "ready",
            "end",
            "id",
            "states",
            "max_queue_delay_us",
        ];
        self.note("sequence_batching", "sequence", item);
        let mut sequence = json!({});
        let (mut strategy, mut choice) = ("direct", json!({}));
        let mut controls = Vec::new();
        for (name, item) in in_order(table("sequence", item)?) {
            let key = format!("sequence.{}", name.get_ref().escape_debug());
            match name.get_ref().as_ref() {
                "strategy" => {
                    strategy = match item.get_ref().as_str() {
                        Some("direct") => "direct",
                        Some("oldest") => "oldest",
                        _ => return Err(wrong(item, &key, "`direct` or `oldest`")),
                    };
                }
                "max_idle_ms" => {
                    self.note("sequence_batching.max_sequence_idle_microseconds", &key, item);
                    sequence["max_sequence_idle_microseconds"] = milliseconds(&key, item)?;
                }
                "max_sequences" => {
                    self.note("sequence_batching.oldest.max_candidate_sequences", &key, item);
                    choice["max_candidate_sequences"] = integer(&key, item)?;
                }
                "max_queue_delay_us" => choice["max_queue_delay_microseconds"] = natural(&key, item)?,
                kind @ ("start" | "ready" | "end" | "id") => {
                    self.note(&format!("sequence_batching.control_input[{}]", controls.len()), &key, item);
                    controls.push(control(kind, &key, item)?);
                }
                "states" => sequence["state"] = self.states(&key, item)?,
                _ => return Err(unknown(name, "sequence", &NAMES)),
            }
        }
        if strategy == "direct" && choice.get("max_candidate_sequences").is_some() {
            return Err(Problem::new(
                item.span().start,
                "sequence.max_sequences: expected strategy `oldest` with it",
            ));
        }
        sequence["control_input"] = Value::Array(controls);
        sequence[strategy] = choice;
        self.fields.insert("sequence_batching".to_owned(), sequence);
        Ok(())
    }

    /// `[sequence.states.STATE] output = "NEXT", datatype = "FP32", shape = [4]`.
    fn states(&mut self, key: &str, item: &Item<'_>) -> Result<Value> {
        let mut states = Vec::new();
        for (name, item) in in_order(table(key, item)?) {
            let key = format!("{key}.{}", name.get_ref().escape_debug());
            self.note(&format!("sequence_batching.state[{}]", states.len()), &key, item);
            let mut state = json!({ "input_name": name.get_ref() });
            for (part, item) in table(&key, item)? {
                let inner = format!("{key}.{}", part.get_ref().escape_debug());
                match part.get_ref().as_ref() {
                    "output" => state["output_name"] = text(&inner, item)?,
                    "datatype" => state["data_type"] = datatype(&inner, item)?,
                    "shape" => state["dims"] = sizes(&inner, item)?,
                    _ => return Err(unknown(part, &key, &["output", "datatype", "shape"])),
                }
            }
            states.push(state);
        }
        Ok(Value::Array(states))
    }
}

/// The entries of a table as they are written: the parser sorts them by name.
fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<(&'a Spanned<toml::de::DeString<'i>>, &'a Item<'i>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

fn table<'a, 'i>(key: &str, item: &'a Item<'i>) -> Result<&'a DeTable<'i>> {
    let table = item.get_ref().as_table().ok_or_else(|| wrong(item, key, "a table"))?;
    if table.len() > MAX_ELEMENTS {
        let problem = format_args!("{key}: expected at most {MAX_ELEMENTS} keys, got {}", table.len());
        return Err(Problem::new(item.span().start, problem));
    }
    Ok(table)
}

fn text(key: &str, item: &Item<'_>) -> Result<Value> {
    item.get_ref().as_str().map(|text| json!(text)).ok_or_else(|| wrong(item, key, "a string"))
}

fn boolean(key: &str, item: &Item<'_>) -> Result<Value> {
    item.get_ref().as_bool().map(|value| json!(value)).ok_or_else(|| wrong(item, key, "true or false"))
}

fn integer(key: &str, item: &Item<'_>) -> Result<Value> {
    within(key, item, i32::MIN.into()..=i32::MAX.into())
}

/// A number, as its digits.
fn number(key: &str, item: &Item<'_>) -> Result<Value> {
    let value = item.get_ref();
    let digits = value.as_integer().map(toml::de::DeInteger::as_str);
    let digits = digits.or_else(|| value.as_float().map(toml::de::DeFloat::as_str));
    digits.map(|digits| json!(digits)).ok_or_else(|| wrong(item, key, "a number"))
}

fn natural(key: &str, item: &Item<'_>) -> Result<Value> {
    within(key, item, 0..=u32::MAX.into())
}

fn milliseconds(key: &str, item: &Item<'_>) -> Result<Value> {
    let value = natural(key, item)?.as_u64().map(|value| value * 1000);
    Ok(json!(value))
}

fn within(key: &str, item: &Item<'_>, range: std::ops::RangeInclusive<i64>) -> Result<Value> {
    let Some(number) = item.get_ref().as_integer() else { return Err(wrong(item, key, "an integer")) };
    let value = i64::from_str_radix(number.as_str(), number.radix()).ok();
    value.filter(|value| range.contains(value)).map(|value| json!(value)).ok_or_else(|| {
        let (least, most) = range.into_inner();
        let got = Echo(number.as_str());
        let problem = format_args!("{key}: expected an integer from {least} to {most}, got {got}");
        Problem::new(item.span().start, problem)
    })
}

fn integers(key: &str, item: &Item<'_>) -> Result<Value> {
    list(key, item, integer)
}

/// Integers of 64 bits.
fn sizes(key: &str, item: &Item<'_>) -> Result<Value> {
    list(key, item, |key, item| within(key, item, i64::MIN..=i64::MAX))
}

fn list(key: &str, item: &Item<'_>, read: impl Fn(&str, &Item<'_>) -> Result<Value>) -> Result<Value> {
    let list = item.get_ref().as_array().ok_or_else(|| wrong(item, key, "a list of integers"))?;
    if list.len() > MAX_ELEMENTS {
        let problem = format_args!("{key}: expected at most {MAX_ELEMENTS} elements, got {}", list.len());
        return Err(Problem::new(item.span().start, problem));
    }
    list.iter().map(|item| read(key, item)).collect()
}

fn texts(key: &str, item: &Item<'_>) -> Result<Value> {
    let entries = table(key, item)?.iter();
    let entry = |(name, item): (&Spanned<toml::de::DeString<'_>>, &Item<'_>)| {
        Ok((name.get_ref().to_string(), text(key, item)?))
    };
    entries.map(entry).collect::<Result<Map<_, _>>>().map(Value::Object)
}

/// A data type under the protocol's name, as `FP32` or `BYTES`.
fn datatype(key: &str, item: &Item<'_>) -> Result<Value> {
    let name = item.get_ref().as_str().ok_or_else(|| wrong(item, key, "a string"))?;
    let names = synapse::DataType::ALL.map(synapse::DataType::name);
    if let Ok(datatype) = name.parse() {
        return Ok(json!(super::check::data_type_name(datatype)));
    }
    let hint = suggestion(name, names.into_iter());
    Err(Problem::new(item.span().start, format_args!("{key}: {hint}; got {}", Echo(name))))
}
