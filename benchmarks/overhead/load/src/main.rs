//! Asks one question over and over and times the answers: over HTTP, of the engine in this process, or of ONNX
//! Runtime itself.
//!
//! Each command but `echo` prints `{"ready":true}` once it has checked an answer, then reads windows from standard
//! input and prints a report for each; see [`window`].

mod codec;
mod direct;
mod echo;
mod grpc;
mod http;
mod inprocess;
mod open;
mod question;
mod window;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Asks over HTTP/1.1: each caller keeps one connection with one request in flight
    Http {
        /// Where the server listens
        #[arg(long)]
        address: SocketAddr,
        /// The path to POST to
        #[arg(long)]
        path: String,
        /// The files that hold the bodies, which are asked one after the other
        #[arg(long, required = true)]
        body: Vec<PathBuf>,
        /// A header besides `Host` and `Content-Length`, as `Name: value`
        #[arg(long)]
        header: Vec<String>,
    },
    /// Asks over HTTP/1.1 at random moments, as many a second as a window says
    Open {
        /// Where the server listens
        #[arg(long)]
        address: SocketAddr,
        /// The path to POST to
        #[arg(long)]
        path: String,
        /// The files that hold the bodies, of which each request takes one at random
        #[arg(long, required = true)]
        body: Vec<PathBuf>,
        /// A header besides `Host` and `Content-Length`, as `Name: value`
        #[arg(long)]
        header: Vec<String>,
    },
    /// Asks `ModelInfer` over gRPC: each caller has one call in flight
    Grpc {
        /// Where the server listens
        #[arg(long)]
        address: SocketAddr,
        /// The file that holds the request's message
        #[arg(long)]
        body: PathBuf,
        /// Connections that the callers share
        #[arg(long, default_value_t = 1)]
        connections: usize,
    },
    /// A bare tonic server: reads the message of any call and answers with the message in a file
    GrpcEcho {
        /// The file that holds the answer's message
        #[arg(long)]
        answer: PathBuf,
    },
    /// Reads and writes the numbers of JSON bodies, and copies a binary tensor; prints the nanoseconds of each
    Codec,
    /// A bare hyper server: reads the body of a POST to `/N` and answers N bytes
    Echo,
    /// Asks the engine in this process
    RustInprocess(ModelArguments),
    /// Runs ONNX Runtime's session from as many threads as there are callers, with nothing around it
    RustDirect(ModelArguments),
}

#[derive(Args)]
struct ModelArguments {
    /// The model; it has one input of FP32 rows and one output
    model: PathBuf,
    /// The values of one row of the input, as little-endian FP32
    #[arg(long)]
    input: PathBuf,
    /// The values of one row of the output
    #[arg(long)]
    expected: PathBuf,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Http { address, path, body, header } => http::serve_windows(address, &path, &body, &header),
        Command::Open { address, path, body, header } => open::serve_windows(address, &path, &body, &header),
        Command::Codec => codec::measure(),
        Command::Echo => echo::serve(),
        Command::Grpc { address, body, connections } => grpc::serve_windows(address, &body, connections),
        Command::GrpcEcho { answer } => grpc::echo(&answer),
        Command::RustInprocess(ModelArguments { model, input, expected }) => {
            question::Question::read(&input, &expected)
                .and_then(|question| inprocess::serve_windows(&model, &question))
        }
        Command::RustDirect(ModelArguments { model, input, expected }) => {
            question::Question::read(&input, &expected)
                .and_then(|question| direct::serve_windows(&model, &question))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("axon-load: {error}");
            ExitCode::FAILURE
        }
    }
}
