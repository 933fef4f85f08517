//! What a model file says of an input or output.

use super::reader::{Problem, fields, nested};
use super::refused;
use crate::error::Echo;

/// `OperatorSetIdProto`: `domain` 1, `version` 2; the default domain is empty or `ai.onnx`.
pub(super) fn default_opset(bytes: &[u8]) -> Option<u64> {
    let domain = nested(bytes, 1).unwrap_or_default();
    if !(domain.is_empty() || domain == b"ai.onnx") {
        return None;
    }
    fields(bytes).find(|&(number, _, _)| number == 2).map(|(_, version, _)| version)
}

/// An input or output.
pub(super) struct ValueInfo {
    pub name: Vec<u8>,
    /// `None` when it is not a tensor; ONNX Runtime's own description decides then.
    pub element: Option<u64>,
    pub dynamic_rows: bool,
}

impl ValueInfo {
    /// `ValueInfoProto`: `name` 1, `type` 2; `TypeProto`: `tensor_type` 1; `TypeProto.Tensor`: `elem_type` 1, `shape` 2;
    /// `TensorShapeProto`: `dim` 1; `Dimension`: `dim_value` 1.
    pub fn read(bytes: &[u8]) -> Self {
        let name = nested(bytes, 1).unwrap_or_default().to_vec();
        let tensor = nested(bytes, 2).and_then(|kind| nested(kind, 1));
        let Some(tensor) = tensor else { return Self { name, element: None, dynamic_rows: true } };
        let element = fields(tensor).find(|&(number, _, _)| number == 1).map(|(_, value, _)| value);
        let dynamic_rows = nested(tensor, 2).is_none_or(|shape| {
            let dimensions =
                fields(shape).filter(|&(number, _, _)| number == 1).map(|(_, _, dimension)| dimension);
            let is_fixed = |dimension| fields(dimension).any(|(number, _, _)| number == 1);
            dimensions.skip(1).any(|dimension| !is_fixed(dimension))
        });
        Self { name, element, dynamic_rows }
    }

    /// Checks that its name can be told to a client.
    pub fn check_name(&self, place: &str, most: usize) -> Result<(), Problem> {
        let name = String::from_utf8_lossy(&self.name);
        let is_told = (1..=most).contains(&self.name.len()) && !name.chars().any(char::is_control);
        if is_told && std::str::from_utf8(&self.name).is_ok() {
            return Ok(());
        }
        Err(refused(
            &format!("{place}.name"),
            format_args!("expected 1 to {most} printable bytes, got {}", Echo(&name)),
        ))
    }
}
