//! Values that are one of some words, and the table of a sequence's control.

use serde_json::{Value, json};

use super::super::origin::Problem;
use super::{Item, Result, datatype, integers, table, text, unknown, wrong};

/// `{ input = "START", datatype = "FP32", values = [0, 1] }`; the values of `id` are the ids.
pub(super) fn control(kind: &str, key: &str, item: &Item<'_>) -> Result<Value> {
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

/// What becomes of a request that has waited for its timeout.
pub(super) fn timeout_action(key: &str, item: &Item<'_>) -> Result<Value> {
    match text(key, item)?.as_str() {
        Some("reject") => Ok(json!("REJECT")),
        Some("delay") => Ok(json!("DELAY")),
        _ => Err(wrong(item, key, "`reject` or `delay`")),
    }
}
