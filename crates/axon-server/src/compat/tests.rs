//! What Triton says, word for word.

use super::*;

fn check(reason: Reason, http: u16, grpc: u32, text: &str) {
    let error = Error::invalid("inputs", "x").because(reason);
    let told = triton(&error, Context { model: "m", id: Some("7") });
    assert_eq!((told.http, told.grpc, told.text.as_str(), told.over_http), (http, grpc, text, None));
}

/// The same, where the text over HTTP is another.
fn check_both(reason: Reason, http: u16, grpc: u32, text: &str, over_http: &str) {
    let error = Error::invalid("inputs", "x").because(reason);
    let told = triton(&error, Context { model: "m", id: Some("7") });
    assert_eq!(
        (told.http, told.grpc, told.text.as_str(), told.over_http),
        (http, grpc, text, Some(over_http))
    );
}

#[test]
fn what_triton_says_is_said_word_for_word() {
    let name = || "X".to_owned();
    check(Reason::UnknownModel(name()), 400, 3, "Request for unknown model: 'X' is not found");
    check(
        Reason::UnknownVersion(name(), 99),
        404,
        5,
        "Request for unknown model: 'X' version 99 is not found",
    );
    check(Reason::NoReadyVersion(name()), 404, 5, "Request for unknown model: 'X' has no available versions");
    check(
        Reason::MissingInputs { expected: 2, got: vec!["A".to_owned()], missing: vec!["B".to_owned()] },
        400,
        3,
        "[request id: 7] expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['A'], but missing \
         required input(s) ['B']. Please provide all required input(s).",
    );
    check(
        Reason::WrongDatatype { input: name(), got: "INT32", expected: "FP32" },
        400,
        3,
        "[request id: 7] inference input 'X' data-type is 'INT32', but model 'm' expects 'FP32'",
    );
    check(
        Reason::TooManyRows(8),
        400,
        3,
        "[request id: 7] inference request batch-size must be <= 8 for 'm'",
    );
    check(Reason::QueueFull, 503, 14, "Exceeds maximum queue size");
    check(Reason::Expired, 503, 14, "Request timeout expired");
    check(Reason::TooFewElements, 500, 13, "Failed to parse 'data' field: shape does not match true shape");
    check(Reason::RegionExists(name()), 400, 6, "shared memory region 'X' already in manager");
}

#[test]
fn what_triton_says_of_json_and_names_is_said_word_for_word() {
    let name = || "X".to_owned();
    check_both(
        Reason::NegativeDimension { input: name(), got: "[-1,16]".to_owned() },
        500,
        3,
        "All input dimensions should be specified for input 'X' for model 'm', got [-1,16]",
        "Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer",
    );
    check_both(
        Reason::LoadParameter("p".to_owned(), "int64"),
        500,
        3,
        "unrecognized load parameter 'p' with type int64.",
        "unexpected error on creating Triton parameter",
    );
    check(Reason::MalformedJson(5), 500, 13, "failed to parse the request JSON buffer: inputs: x at 5");
    check(
        Reason::TooDeep("data".to_owned()),
        400,
        3,
        "Unable to parse 'data': JSON nesting depth exceeds maximum allowed limit (100)",
    );
    let sources = |given, but: &str| {
        let only = "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', \
                    'shared_memory_region' in 'parameters'. But";
        check(Reason::DataSources(given), 400, 3, &format!("{only} {but}"));
    };
    sources(vec![], "no field is set");
    sources(vec!["data", "binary_data_size"], "both 'data' and 'binary_data_size' are set");
    check(Reason::Datatype { input: Some(name()) }, 400, 3, "invalid datatype for input X");
    check(Reason::Datatype { input: None }, 400, 3, "inputs: x");
    check(
        Reason::WrongShape { input: name(), expected: "[-1,4]".to_owned(), got: "[]".to_owned() },
        400,
        3,
        "[request id: 7] input 'X' has no shape but model requires batch dimension for 'm'",
    );
    let version = |text: &str, expected: &str| check(Reason::VersionText(text.to_owned()), 400, 3, expected);
    version(
        "x",
        "failed to get model version from specified version string 'x' (details: stol), version should be an integral \
         value > 0",
    );
    version("-2", "invalid model version specified '-2' , version should be an integral value > 0");
    check(Reason::StatisticsOf(name()), 400, 3, "requested model 'X' is not available");
    check(
        Reason::StatisticsOfVersion(name()),
        400,
        3,
        "requested model version is not available for model 'X'",
    );
    check(Reason::NoModelName, 400, 3, "Model name cannot be empty. Please enter a valid name to deploy.");
    check(Reason::IndexReady, 400, 3, "Invalid value for 'ready': expected a boolean");
    check(Reason::SequenceIdLength, 400, 3, "string correlation ID cannot be longer than 128 characters");
    check(
        Reason::HeaderLength { body: 20, got: None },
        400,
        3,
        "Unable to parse Inference-Header-Content-Length, expected an integer",
    );
}

#[test]
fn what_triton_says_of_shared_memory_is_said_word_for_word() {
    let name = || "r".to_owned();
    check(Reason::RegionOffset(name()), 400, 3, "Invalid offset for shared memory region: 'r'");
    check(Reason::RegionRange(name()), 400, 3, "Invalid offset + byte size for shared memory region: 'r'");
    check(
        Reason::RegionAnd("classification"),
        400,
        3,
        "Output can't set both 'shared_memory_region' and 'classification'",
    );
}

#[test]
fn what_triton_says_of_bytes_and_contents_is_said_word_for_word() {
    let payload = |problem, text: &str| {
        check(Reason::Payload { input: "X".to_owned(), problem }, 400, 3, text);
    };
    payload(
        Payload::Size { expected: 12, got: 8 },
        "[request id: 7] input byte size mismatch for input 'X' for model 'm'. Expected 12, got 8",
    );
    payload(
        Payload::LengthCut(2),
        "[request id: 7] incomplete string length indicator for inference input 'X' for model 'm', expecting 4 \
         bytes but only 2 bytes available. Please make sure the string length indicator is in one buffer.",
    );
    payload(
        Payload::Elements { expected: 3, got: 4 },
        "[request id: 7] unexpected number of string elements 4 for inference input 'X' for model 'm', expecting 3",
    );
    payload(
        Payload::Elements { expected: 3, got: 2 },
        "[request id: 7] expected 3 string elements for inference input 'X' for model 'm', got 2",
    );
    payload(Payload::Missing(4), "unexpected size for input 'X', expecting 4 additional bytes for model 'm'");
    payload(
        Payload::Twice,
        "contents field must not be specified when using raw_input_contents for 'X' for model 'm'",
    );
    payload(Payload::Nothing, "unable to find data for input tensor 'X' for model 'm' in request.");
    payload(
        Payload::Contents { got: "INT32", expected: "FP32" },
        "unexpected explicit tensor data for input tensor 'X' for model 'm' of type 'INT32', expected datatype \
         'FP32'",
    );
    check(Reason::BytesLeftOver, 400, 3, "unexpected additional input data for model 'm'");
    check(
        Reason::HeaderLength { body: 20, got: Some(99) },
        400,
        3,
        "inference header size should be in range (0, 20), got: 99",
    );
    check(
        Reason::NoHeaderLength,
        400,
        3,
        "must specify valid 'Infer-Header-Content-Length' in request header and 'binary_data_size' when passing \
         inputs in binary data format",
    );
}

#[test]
fn what_triton_says_of_settings_is_said_word_for_word() {
    check(
        Reason::FileSetting("trace"),
        501,
        12,
        "trace file location can not be updated through network protocol",
    );
    check(
        Reason::FileSetting("log"),
        501,
        12,
        "log file location can not be updated through network protocol",
    );
    check(Reason::TraceUnknown("X".to_owned()), 400, 3, "Request for unknown model : X");
    check(Reason::TraceOff, 400, 3, "Expect only one trace level 'OFF' is specified");
    check(Reason::TraceValue("trace_rate", "x".to_owned()), 400, 3, "Unable to parse 'trace_rate', got: x");
    check(Reason::LogFormat("x".to_owned()), 503, 14, "invalid argument for --log_format, got: x");
    check(
        Reason::ReservedParameter,
        400,
        3,
        "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified.",
    );
}

#[test]
fn a_callers_text_is_cut_and_escaped() {
    assert_eq!(Name("a\r\n").to_string(), "a\\u{d}\\u{a}");
    assert_eq!(Name(&"x".repeat(1000)).to_string(), format!("{}…", "x".repeat(64)));
}
