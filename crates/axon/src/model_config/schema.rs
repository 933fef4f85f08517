//! The description of Triton's `ModelConfig`, compiled into the program.

use std::sync::LazyLock;

use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions,
};
use serde_json::Value;

use crate::error::{Error, Result};

static MODEL_CONFIG: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(&include_bytes!(concat!(env!("OUT_DIR"), "/model_config.binpb"))[..]);
    pool.ok()
        .and_then(|pool| pool.get_message_by_name("inference.ModelConfig"))
        .expect("the build wrote the description of `inference.ModelConfig`")
});

/// The message `inference.ModelConfig`.
pub(super) fn model_config() -> &'static MessageDescriptor {
    &MODEL_CONFIG
}

/// The same configuration as protobuf's JSON has it when defaults are printed: fields under their own names, 64-bit
/// integers as numbers, enums by name.
pub(super) fn with_defaults(sparse: Value) -> Result<Value> {
    let options = DeserializeOptions::new();
    let message = DynamicMessage::deserialize_with_options(model_config().clone(), sparse, &options)
        .map_err(Error::internal)?;
    let options = SerializeOptions::new()
        .skip_default_fields(false)
        .use_proto_field_name(true)
        .stringify_64_bit_integers(false);
    message.serialize_with_options(serde_json::value::Serializer, &options).map_err(Error::internal)
}
