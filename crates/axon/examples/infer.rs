//! Asks a model that takes one FP32 input: `cargo run --release --example infer -- MODEL.onnx 64`.

#![allow(clippy::print_stdout, reason = "an example shows what it got")]

use std::error::Error;

use axon::Tensor;
use axon::server::InferenceServer;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: infer MODEL.onnx WIDTH")?;
    let width: usize = arguments.next().ok_or("usage: infer MODEL.onnx WIDTH")?.parse()?;
    let input_tensor = Tensor::from_vec(&[1, width], vec![0.0_f32; width])?;

    let server = InferenceServer::load(path).await?;
    let outputs = server.infer(&input_tensor).await?;

    for output in &outputs.outputs {
        println!("{} {} {}", output.name, output.tensor.datatype(), output.tensor.shape());
    }
    server.close();
    Ok(())
}
