//! The configuration as it is acted on: what was left out is filled in, as Triton fills it in.

use std::num::NonZeroUsize;

use serde_json::{Map, Value, json};

use super::check::data_type_name;
use super::fit::{DEFAULT_MAX_BATCH_SIZE, Fit};
use super::{Backend, InstanceKind, ModelConfiguration, TensorConfig, schema};
use crate::config::Device;
use crate::error::Result;

/// What was chosen when the model was loaded.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// The model's name.
    pub name: &'a str,
    /// The name of its file.
    pub file_name: &'a str,
    /// Where it runs.
    pub device: Device,
    /// Threads that run it.
    pub instances: usize,
    /// The most rows of a run.
    pub max_batch_rows: NonZeroUsize,
}

impl ModelConfiguration {
    /// The same configuration, complete.
    ///
    /// `max_batch_size` is what was configured. Where nothing was, and the model can batch, it is what Triton says
    /// then, or the rows that Axon runs together if those are more and no file is there; Axon then takes requests of
    /// more rows too.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`](crate::ErrorKind) when the description of the message does not know what is filled in.
    pub fn effective(&self, fit: &Fit, chosen: &Chosen<'_>) -> Result<Self> {
        let mut whole = self.clone();
        let mut fields = match &self.json {
            Value::Object(fields) => fields.clone(),
            _ => Map::new(),
        };
        let backend = self.backend();
        fields.insert("name".to_owned(), json!(chosen.name));
        fields.insert("backend".to_owned(), json!(backend.name()));
        fields.insert("platform".to_owned(), json!(backend.platform()));
        if !fields.contains_key("version_policy") {
            fields.insert("version_policy".to_owned(), json!({ "latest": { "num_versions": 1 } }));
        }
        let rows = max_batch_size(self, fit, chosen);
        fields.insert("max_batch_size".to_owned(), json!(rows));
        fields.insert("input".to_owned(), tensors(fields.get("input"), &fit.inputs));
        fields.insert("output".to_owned(), tensors(fields.get("output"), &fit.outputs));
        complete_scheduling(&mut fields, fit, rows);
        let groups = self.instance_groups(fields.get("instance_group"), chosen);
        fields.insert("instance_group".to_owned(), groups);
        let memory = json!({ "enable": true });
        let hints = fields.entry("optimization").or_insert_with(|| json!({}));
        if let Value::Object(hints) = hints {
            hints.entry("input_pinned_memory").or_insert_with(|| memory.clone());
            hints.entry("output_pinned_memory").or_insert(memory);
        }
        if backend == Backend::OnnxRuntime && self.file_name.is_none() {
            fields.insert("default_model_filename".to_owned(), json!(chosen.file_name));
        }
        whole.json = schema::with_defaults(Value::Object(fields))?;
        whole.name = Some(chosen.name.to_owned());
        whole.checked.max_batch_size = NonZeroUsize::new(rows);
        whole.checked.backend = Some(backend);
        whole.checked.inputs.clone_from(&fit.inputs);
        whole.checked.outputs.clone_from(&fit.outputs);
        Ok(whole)
    }

    fn instance_groups(&self, written: Option<&Value>, chosen: &Chosen<'_>) -> Value {
        let (kind, gpus) = match chosen.device {
            Device::Cpu => ("KIND_CPU", json!([])),
            Device::Cuda => ("KIND_GPU", json!([0])),
        };
        let name = |index: usize| format!("{}_{index}", chosen.name);
        let Some(Value::Array(written)) = written.filter(|_| !self.checked.instances.is_empty()) else {
            return json!([{ "name": name(0), "kind": kind, "gpus": gpus, "count": chosen.instances }]);
        };
        let is_lone = written.len() == 1;
        let group = |(index, (group, checked)): (usize, (&Value, &super::InstanceGroup))| {
            let mut group = group.clone();
            let is_unnamed = group.get("name").is_none_or(|name| name == "");
            if let Value::Object(fields) = &mut group {
                if is_unnamed {
                    fields.insert("name".to_owned(), json!(name(index)));
                }
                if checked.kind == InstanceKind::Auto {
                    fields.insert("kind".to_owned(), json!(kind));
                    fields.insert("gpus".to_owned(), gpus.clone());
                }
                let count = if is_lone { chosen.instances } else { checked.count.get() };
                fields.insert("count".to_owned(), json!(count));
            }
            group
        };
        written.iter().zip(&self.checked.instances).enumerate().map(group).collect()
    }
}

fn max_batch_size(configuration: &ModelConfiguration, fit: &Fit, chosen: &Chosen<'_>) -> usize {
    match fit.max_batch_size {
        Some(rows) => rows.get(),
        None if !fit.can_batch || !fit.is_completed => 0,
        None if configuration.is_given() => DEFAULT_MAX_BATCH_SIZE,
        None => chosen.max_batch_rows.get().max(DEFAULT_MAX_BATCH_SIZE),
    }
}

/// The tensors of one side: as they were written, else as they were derived from the model.
fn tensors(written: Option<&Value>, tensors: &[TensorConfig]) -> Value {
    if let Some(written @ Value::Array(each)) = written
        && !each.is_empty()
    {
        return written.clone();
    }
    let tensor = |tensor: &TensorConfig| {
        let mut value =
            json!({ "name": tensor.name, "data_type": data_type_name(tensor.datatype), "dims": tensor.dims });
        if let (Value::Object(fields), Some(shape)) = (&mut value, &tensor.reshape) {
            fields.insert("reshape".to_owned(), json!({ "shape": shape }));
        }
        value
    };
    tensors.iter().map(tensor).collect()
}

fn complete_scheduling(fields: &mut Map<String, Value>, fit: &Fit, rows: usize) {
    let has_scheduler = fields.contains_key("dynamic_batching") || fields.contains_key("sequence_batching");
    if !has_scheduler && fit.max_batch_size.is_none() && rows > 1 {
        fields.insert("dynamic_batching".to_owned(), json!({}));
    }
    if let Some(Value::Object(batching)) = fields.get_mut("dynamic_batching") {
        let sizes = batching.entry("preferred_batch_size").or_insert_with(|| json!([]));
        if sizes.as_array().is_some_and(Vec::is_empty) && rows > 0 {
            *sizes = json!([rows]);
        }
    }
    if let Some(Value::Object(batching)) = fields.get_mut("sequence_batching") {
        let idle = batching.entry("max_sequence_idle_microseconds").or_insert_with(|| json!(0));
        if *idle == json!(0) {
            *idle = json!(1_000_000);
        }
    }
}
