//! What configurations say, how they are refused, and what they become beside a model.

use super::*;
use crate::signature::{Dimension, Signature, TensorSpec};

fn spec(name: &str, datatype: DataType, dims: &[i64]) -> TensorSpec {
    let dimension = |&size: &i64| usize::try_from(size).map_or(Dimension::Dynamic(None), Dimension::Fixed);
    TensorSpec { name: name.to_owned(), datatype, shape: Some(dims.iter().map(dimension).collect()) }
}

/// One input `x` FP32 `[-1, 4]`, one output `y` FP32 `[-1, 2]`.
fn signature() -> Signature {
    Signature {
        inputs: vec![spec("x", DataType::Fp32, &[-1, 4])],
        outputs: vec![spec("y", DataType::Fp32, &[-1, 2])],
    }
}

fn refused(text: &str, message: &str) {
    let error = ModelConfiguration::from_pbtxt(text).unwrap_err();
    assert!(error.message().contains(message), "{text}\n{}", error.message());
}

#[test]
fn the_text_format_is_read_in_all_its_forms() {
    let text = r#"
        # a comment
        name: "m" backend: 'onnx' 'runtime';
        max_batch_size: 0x8,
        input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
        output < name: "y" data_type: TYPE_FP32 dims: 2 label_filename: "labels.txt" >
        version_policy: { specific { versions: 1 versions: 3 } }
        instance_group [ { count: 2 kind: KIND_CPU } ]
        dynamic_batching { default_queue_policy { max_queue_size: 7 default_timeout_microseconds: 5000 } }
    "#;
    let read = ModelConfiguration::from_pbtxt(text).unwrap();
    assert_eq!((read.name(), read.backend()), (Some("m"), Backend::OnnxRuntime));
    assert_eq!(read.max_batch_size().map(NonZeroUsize::get), Some(8));
    assert_eq!(read.instances().map(NonZeroUsize::get), Some(2));
    assert_eq!(read.versions(), &VersionPolicy::Specific([1, 3].into()));
    assert_eq!(read.queue().max_queue_size.map(NonZeroUsize::get), Some(7));
    assert_eq!(read.queue().default_timeout, Some(Duration::from_millis(5)));
    assert_eq!(read.outputs()[0].labels.as_deref(), Some("labels.txt"));
}

#[test]
fn all_three_languages_say_the_same() {
    let text = ModelConfiguration::from_pbtxt(
        "max_batch_size: 8 instance_group [ { count: 2 } ] version_policy { all { } }",
    );
    let toml = ModelConfiguration::from_toml("max_batch_size = 8\ninstances = 2\nversions = \"all\"\n");
    let json = ModelConfiguration::from_json(
        r#"{"maxBatchSize": 8, "instance_group": [{"count": 2}], "version_policy": {"all": {}}}"#,
    );
    let (text, toml, json) = (text.unwrap(), toml.unwrap(), json.unwrap());
    assert_eq!(text.to_json(), toml.to_json());
    assert_eq!(text.to_json(), json.to_json());
    assert_eq!(text.versions(), &VersionPolicy::All);
}

/// B-96, B-100, B-102, B-103
#[test]
fn what_is_wrong_is_named_with_its_place() {
    refused("max_bath_size: 8", "config.pbtxt:1:1: `max_bath_size`");
    refused("max_bath_size: 8", "did you mean `max_batch_size`");
    refused("\n  max_batch_size: -1", "config.pbtxt:2:");
    refused("max_batch_size: 2147483648", "max_batch_size");
    refused("max_batch_size: \"8\"", "max_batch_size");
    refused("max_batch_size: 1 max_batch_size: 2", "duplicate");
    refused("instance_group [ { count: 10000 } ]", "instance_group[0].count");
    refused("dynamic_batching { default_queue_policy { max_queue_size: -1 } }", "max_queue_size");
    refused("dynamic_batching { max_queue_delay_microseconds: 1000000000000000 }", "max_queue_delay");
    refused("input [ { name: \"x\" data_type: TYPE_FP33 dims: 4 } ]", "did you mean `TYPE_FP32`");
    refused("input [ { name: \"x\" data_type: TYPE_FP32 dims: 0 } ]", "input[0].dims");
    refused("\u{feff}max_batch_size: 1", "1:1");
    refused("name: \"a\0b\"", "config.pbtxt:1:");
    refused("input {", "config.pbtxt:1:");
    refused(&"x { ".repeat(100_000), "config.pbtxt:1:");
    let error = ModelConfiguration::from_json(r#"{"max_bath_size": 8}"#).unwrap_err();
    assert_eq!(error.field(), Some("parameters.config"));
    assert!(error.message().contains("did you mean `max_batch_size`"), "{error}");
    for wrong in ["", "[]", "5", "{", r#"{"max_batch_size": "8x"}"#, r#"{"name": 5}"#] {
        let error = ModelConfiguration::from_json(wrong).unwrap_err();
        assert_eq!(error.field(), Some("parameters.config"), "{wrong}");
    }
    for wrong in ["max_bath_size = 8", "a = 1\na = 2", "\tx", "instances = 0", "versions = \"newest\""] {
        let error = ModelConfiguration::from_toml(wrong).unwrap_err();
        assert!(error.message().starts_with("model.toml:"), "{wrong}: {error}");
    }
    let long = "x".repeat(MAX_CONFIGURATION + 1);
    assert!(ModelConfiguration::from_pbtxt(&long).is_err() && ModelConfiguration::from_toml(&long).is_err());
}

#[test]
fn what_could_change_answers_and_is_not_done_is_refused() {
    for (text, field) in [
        ("ensemble_scheduling { step [ { model_name: \"a\" } ] }", "ensemble_scheduling"),
        ("model_transaction_policy { decoupled: true }", "model_transaction_policy"),
        ("model_operations { op_library_filename: \"x.so\" }", "model_operations"),
        (
            "input [ { name: \"x\" data_type: TYPE_FP32 dims: 4 allow_ragged_batch: true } ]",
            "allow_ragged_batch",
        ),
        (
            "batch_input [ { kind: BATCH_ELEMENT_COUNT target_name: \"x\" data_type: TYPE_FP32 source_input: \"x\" } ]",
            "batch_input",
        ),
        ("backend: \"pytorch\"", "backend"),
    ] {
        refused(text, field);
    }
    let error = ModelConfiguration::from_pbtxt("instance_group [ { kind: KIND_GPU } ]")
        .and_then(|read| read.check_device(Device::Cpu))
        .unwrap_err();
    assert!(error.message().contains("instance_group[0]"), "{error}");
}

#[test]
fn what_cannot_change_answers_is_a_warning_that_names_it() {
    let text = "dynamic_batching { preferred_batch_size: [ 2 ] max_queue_delay_microseconds: 100 } max_batch_size: 4 \
                optimization { graph { level: 1 } } model_warmup [ { name: \"w\" batch_size: 1 } ]";
    let read = ModelConfiguration::from_pbtxt(text).unwrap();
    let warnings = read.warnings().join("\n");
    for field in ["preferred_batch_size", "max_queue_delay_microseconds", "optimization", "model_warmup"] {
        assert!(warnings.contains(field), "{field}: {warnings}");
    }
    assert_eq!(read.to_json()["dynamic_batching"]["preferred_batch_size"], json!([2]));
}

/// B-101
#[test]
fn a_configuration_that_is_not_the_models_is_refused() {
    let check = |text: &str, words: &str| {
        let error = ModelConfiguration::from_pbtxt(text).and_then(|read| read.fit(&signature())).unwrap_err();
        assert!(error.message().contains(words), "{text}\n{error}");
    };
    let output = "output [ { name: \"y\" data_type: TYPE_FP32 dims: 2 } ]";
    let input = |datatype: &str, name: &str, dims: &str| {
        format!(
            "max_batch_size: 8 input [ {{ name: \"{name}\" data_type: {datatype} dims: [ {dims} ] }} ] {output}"
        )
    };
    check(&input("TYPE_INT32", "x", "4"), "input[0].data_type");
    check(&input("TYPE_FP32", "z", "4"), "input[0].name");
    check(&input("TYPE_FP32", "x", "3"), "input[0].dims");
    check(&input("TYPE_FP32", "x", "-1, 4"), "input[0].dims");
    assert!(ModelConfiguration::from_pbtxt(&input("TYPE_FP32", "x", "4")).unwrap().fit(&signature()).is_ok());
    let fixed = Signature { inputs: vec![spec("x", DataType::Fp32, &[1, 4])], ..signature() };
    let error = ModelConfiguration::from_pbtxt("max_batch_size: 8").unwrap().fit(&fixed).unwrap_err();
    assert!(error.message().contains("max_batch_size"), "{error}");
}

#[test]
fn what_is_left_out_is_filled_in_from_the_model() {
    let given = ModelConfiguration::from_pbtxt("max_batch_size: 8").unwrap();
    let fit = given.fit(&signature()).unwrap();
    let chosen = Chosen {
        name: "m",
        file_name: "model.onnx",
        device: Device::Cpu,
        instances: 1,
        max_batch_rows: NonZeroUsize::new(8).unwrap(),
    };
    let json = given.effective(&fit, &chosen).unwrap().to_json();
    assert_eq!(json["name"], "m");
    assert_eq!(json["platform"], "onnxruntime_onnx");
    assert_eq!(json["backend"], "onnxruntime");
    assert_eq!(json["max_batch_size"], 8);
    assert_eq!(json["version_policy"], json!({ "latest": { "num_versions": 1 } }));
    assert_eq!(json["input"][0]["name"], "x");
    assert_eq!(json["input"][0]["data_type"], "TYPE_FP32");
    assert_eq!(json["input"][0]["dims"], json!([4]));
    assert_eq!(json["output"][0]["dims"], json!([2]));
    assert_eq!(json["default_model_filename"], "model.onnx");
    assert_eq!(json["instance_group"][0]["kind"], "KIND_CPU");
    // Defaults are printed, empty lists and maps too.
    assert_eq!(json["parameters"], json!({}));
    assert_eq!(json["model_warmup"], json!([]));
}

/// Every change of one byte, cut or doubling of a valid text is read or refused, never worse.
#[test]
fn a_mangled_text_is_read_or_refused() {
    let seed: u64 = std::env::var("AXON_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed);
    println!("AXON_FUZZ_SEED={seed}");
    let mut state = seed;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below.max(1)
    };
    let valid = r#"name: "m" max_batch_size: 8 input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] } ]
        sequence_batching { oldest { max_candidate_sequences: 4 } control_input [ { name: "s" control [
        { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] } ] } parameters { key: "k" value { string_value: "v" } }"#;
    for _ in 0..20_000 {
        let mut bytes = valid.as_bytes().to_vec();
        for _ in 0..=next(3) {
            let at = next(bytes.len());
            match next(4) {
                0 => bytes[at] = u8::try_from(next(128)).unwrap(),
                1 => bytes.truncate(at),
                2 => bytes.insert(at, b"{}[]<>:,;\"'\\#-0x"[next(16)]),
                _ => bytes.extend_from_within(at..),
            }
            if bytes.is_empty() {
                break;
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Err(error) = ModelConfiguration::from_pbtxt(&text) {
            assert!(error.message().starts_with("config.pbtxt"), "{text}\n{error}");
        }
        let _ = ModelConfiguration::from_json(&text);
        let _ = ModelConfiguration::from_toml(&text);
    }
}
