//! STUB to be replaced
use axon::Result;
use axon::request::*;
use bytes::Bytes;
use std::time::Duration;
pub struct Decoded {
    pub inputs: Inputs,
    pub outputs: Vec<String>,
    pub timeout: Option<Duration>,
    pub id: Option<String>,
    pub format: OutputFormat,
}
pub struct OutputFormat {}
pub fn decode(_body: Bytes, _h: Option<usize>) -> Result<Decoded> {
    Err(axon::Error::internal("stub"))
}
pub fn parse_header_length(_v: &[u8], _b: usize) -> Result<usize> {
    Err(axon::Error::internal("stub"))
}
pub fn decode_raw(_body: Bytes, _i: &[axon::signature::TensorSpec]) -> Result<Decoded> {
    Err(axon::Error::internal("stub"))
}
pub struct Encoded {
    pub json: Vec<u8>,
    pub tensors: Vec<synapse::Memory>,
    pub header_length: Option<usize>,
}
pub fn encode(_r: &InferenceResponse, _id: Option<&str>, _f: &OutputFormat) -> Result<Encoded> {
    Err(axon::Error::internal("stub"))
}
pub fn decode_content(_b: Bytes, _e: &str, _l: usize) -> Result<Bytes> {
    Err(axon::Error::internal("stub"))
}
