//! The typed contents of a message: which field is whose.

use synapse::DataType;

/// The widest data type of a field of typed contents.
pub(super) fn type_of(contents: &str) -> &'static str {
    match contents {
        "bool_contents" => "BOOL",
        "int_contents" => "INT32",
        "int64_contents" => "INT64",
        "uint_contents" => "UINT32",
        "uint64_contents" => "UINT64",
        "fp32_contents" => "FP32",
        "fp64_contents" => "FP64",
        _ => "BYTES",
    }
}

/// The field of typed contents for a data type; none for the two that the protocol takes raw only.
pub(super) const fn contents_of(datatype: DataType) -> Option<&'static str> {
    match datatype {
        DataType::Bool => Some("bool_contents"),
        DataType::Int8 | DataType::Int16 | DataType::Int32 => Some("int_contents"),
        DataType::Int64 => Some("int64_contents"),
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => Some("uint_contents"),
        DataType::Uint64 => Some("uint64_contents"),
        DataType::Fp32 => Some("fp32_contents"),
        DataType::Fp64 => Some("fp64_contents"),
        DataType::Bytes => Some("bytes_contents"),
        DataType::Fp16 | DataType::Bf16 => None,
    }
}
