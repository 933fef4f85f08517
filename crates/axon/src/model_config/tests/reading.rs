//! Texts into fields: the three syntaxes, and what they are not.

use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::config::Batching;

#[test]
fn the_text_format_is_read_in_all_its_spellings() {
    let configuration = pbtxt(
        r#"
        # a comment, and one at the end of a line
        name: "digits" 'er' # joined
        max_batch_size: 0x10;
        input [
          { name: "a\x62\143" data_type: TYPE_FP32, dims: [ 3, -1 ] },
          < name: 'q"' data_type: 11 dims: 010 reshape { shape: 2 shape: 4 } >
        ]
        output { name: "y", data_type: TYPE_STRING; dims: 1 }
        dynamic_batching { preferred_batch_size: [4, 8] preserve_ordering: 1 }
        parameters { key: "one" value: { string_value: "1" } }
        parameters [{ key: "two" value { string_value: "2" } }]
        version_policy: { specific { versions: [1, 3] } }
        "#,
    );
    assert_eq!(configuration.name(), Some("digitser"));
    assert_eq!(configuration.max_batch_size(), NonZeroUsize::new(16));
    assert_eq!(*configuration.versions(), VersionPolicy::Specific(vec![1, 3]));
    let names: Vec<_> = configuration.inputs().iter().map(|input| input.name.as_str()).collect();
    assert_eq!(names, ["abc", "q\""]);
    assert_eq!(configuration.inputs()[0].dims, [3, -1]);
    assert_eq!(configuration.inputs()[1].dims, [8]);
    assert_eq!(configuration.inputs()[1].reshape.as_deref(), Some(&[2, 4][..]));
    assert_eq!(configuration.outputs()[0].datatype, DataType::Bytes);
    let json = configuration.to_json();
    assert_eq!(json["dynamic_batching"]["preserve_ordering"], json!(true));
    assert_eq!(json["parameters"]["two"]["string_value"], json!("2"));
}

#[test]
fn what_the_text_format_is_not_is_told_with_its_place() {
    let check = |text: &str, expected: &str| assert_eq!(pbtxt_error(text), expected, "{text}");
    let file = "1:1: ";
    check(
        "max_bath_size: 8",
        &format!("{file}`max_bath_size`: unknown field; did you mean `max_batch_size`"),
    );
    check("\n\ninput {\n  nam: \"x\"\n}", "4:3: input[0].`nam`: unknown field; did you mean `name`");
    check(
        "frobnicate: 1",
        "1:1: `frobnicate`: unknown field; expected one of `name`, `platform`, `version_policy`, `max_batch_size`, \
         `input`, `output`, `instance_group`, `default_model_filename` and 17 more",
    );
    check("max_batch_size 8", "1:16: max_batch_size: expected `:`, got `8`");
    check(
        "max_batch_size:",
        "1:16: max_batch_size: expected an integer from -2147483648 to 2147483647, got the end of the text",
    );
    check("name: x", "1:7: name: expected a string, got `x`");
    check("input {", "1:8: input[0]: expected a field name or `}`, got the end of the text");
    check("}", "1:1: expected a field name, got `}`");
    check("input { dims: [1 2] }", "1:18: input[0].dims: expected `,` or `]`, got `2`");
    check(
        "input { dims: [1,] }",
        "1:18: input[0].dims[1]: expected an integer from -9223372036854775808 to 9223372036854775807, got `]`",
    );
    check(
        "input { data_type: TYPE_FP23 }",
        "1:20: input[0].data_type: did you mean `TYPE_FP32`; got `TYPE_FP23`",
    );
    check("name: \"a\" name: \"b\"", "1:11: name: duplicate field");
    check(
        "dynamic_batching {} sequence_batching {}",
        "1:21: sequence_batching: expected only one of `dynamic_batching`, `sequence_batching`, `ensemble_scheduling`, got `dynamic_batching` too",
    );
    check("metric_tags { key: \"a\" } metric_tags { key: \"a\" }", "1:38: metric_tags: duplicate key `a`");
    check("name: \"a\nb\"", "1:7: expected the string to end with `\"` in its line");
    check("name: \"\\q\"", "1:7: expected valid escapes in the string");
    check("name: \"\\xff\"", "1:7: expected UTF-8 in the string");
    check("[google.protobuf.Any] { }", "1:1: expected a field name, got `[`");
    check("é: 1", "1:1: expected a field or a value, got `é`");
    check("name: \"é\" \u{1b}", "1:11: expected a field or a value, got `\\u{1b}`");
}

#[test]
fn bombs_end_with_a_place_and_soon() {
    let check = |text: &str, expected: &str| {
        let started = Instant::now();
        let message = pbtxt_error(text);
        assert!(message.contains(expected), "{message}");
        let error = ModelConfiguration::from_toml(text).unwrap_err();
        assert!(error.message().starts_with("model.toml:"), "{error}");
        let json = ModelConfiguration::from_json(text).unwrap_err();
        assert_eq!((json.kind(), json.field()), (ErrorKind::InvalidRequest, Some("parameters.config")));
        // Far above what it takes and far below what a text that is read over and over would.
        assert!(started.elapsed() < Duration::from_secs(60));
    };
    check("\u{feff}name: \"x\"", "1:1: expected a field name, got a byte order mark");
    check("name: \"x\0\"", "1:7: expected the string to end");
    check("\0", "1:1: expected a field or a value, got `\\0`");
    check(&"input {".repeat(100_000), "1:8: input[0].`input`: unknown field");
    check(&"[".repeat(1 << 20), "1:1: expected a field name, got `[`");
    check(&format!("x{} = 1", "y".repeat((1 << 20) - 5)), "1:1: `xyyy");
    check(&format!("name: \"{}", "y".repeat((1 << 20) - 7)), "1:7: expected the string to end");
    check(&"a = [1]\n".repeat(1 << 17), "1:1: `a`: unknown field");
    check(&"dims:1 ".repeat(1 << 17), "1:1: `dims`: unknown field");
    check(&" ".repeat((1 << 20) + 1), "1:1: expected at most 1048576 bytes, got 1048577");
    check(&format!("input {{ dims: [{}] }}", "1,".repeat(10_000)), "expected at most 4096 elements");
    check(&"input{}".repeat(10_000), "input: expected at most 4096 elements");
}

#[test]
fn a_long_valid_line_is_read_in_one_pass() {
    let tags: Vec<String> = (0..4096).map(|tag| format!("metric_tags{{key:\"{tag:0>100}\"}}")).collect();
    let configuration = pbtxt(&tags.join("\t"));
    assert_eq!(configuration.to_json()["metric_tags"].as_object().unwrap().len(), 4096);
    let keys: Vec<String> = (0..4096).map(|tag| format!("a{tag:0>100} = \"x\"")).collect();
    let configuration = toml(&format!("tags = {{ {} }}", keys.join(",\t")));
    assert_eq!(configuration.to_json()["metric_tags"].as_object().unwrap().len(), 4096);
}

#[test]
fn the_native_words_mean_the_same() {
    let native = toml(
        r#"
        name = "m"
        backend = "onnxruntime"
        file = "net.onnx"
        versions = [1, 3]
        max_batch_size = 8
        instances = 2
        max_queue_size = 100
        timeout_ms = 250
        preferred_batch_size = [4]
        tags = { team = "vision" }
        response_cache = true

        [inputs.b]
        datatype = "FP32"
        shape = [3, -1]
        [inputs.a]
        datatype = "BYTES"
        shape = [1]
        reshape = []

        [outputs.y]
        datatype = "INT64"
        shape = [10]
        labels = "labels.txt"

        [parameters]
        intra_op_thread_count = 1
        "#,
    );
    let triton = pbtxt(
        r#"
        name: "m" backend: "onnxruntime" default_model_filename: "net.onnx"
        version_policy { specific { versions: [1, 3] } }
        max_batch_size: 8 instance_group { count: 2 }
        dynamic_batching {
          preferred_batch_size: 4
          default_queue_policy { max_queue_size: 100 default_timeout_microseconds: 250000 allow_timeout_override: true }
        }
        metric_tags { key: "team" value: "vision" } response_cache { enable: true }
        input { name: "b" data_type: TYPE_FP32 dims: [3, -1] }
        input { name: "a" data_type: TYPE_STRING dims: 1 reshape { } }
        output { name: "y" data_type: TYPE_INT64 dims: 10 label_filename: "labels.txt" }
        parameters { key: "intra_op_thread_count" value { string_value: "1" } }
        "#,
    );
    assert_eq!(native.to_json(), triton.to_json());
    for (words, policy) in [
        ("versions = \"all\"", VersionPolicy::All),
        ("versions = \"latest\"", VersionPolicy::default()),
        ("versions = 2", VersionPolicy::Latest(NonZeroUsize::new(2).unwrap())),
        ("", VersionPolicy::default()),
    ] {
        assert_eq!(*toml(words).versions(), policy, "{words}");
    }
}

#[test]
fn what_the_native_file_does_not_know_is_told_with_its_place() {
    let check = |text: &str, expected: &str| {
        let error = ModelConfiguration::from_toml(text).expect_err(text);
        assert_eq!(error.message(), format!("model.toml:{expected}"), "{text}");
    };
    check("max_bath_size = 8", "1:1: `max_bath_size`: unknown key; did you mean `max_batch_size`");
    check("[inputs.x]\nshpae = [1]", "2:1: inputs.x.`shpae`: unknown key; did you mean `shape`");
    check(
        "[inputs.x]\nlabels = \"l\"",
        "2:1: inputs.x.`labels`: unknown key; expected one of `datatype`, `shape`, `reshape`",
    );
    check("max_batch_size = \"8\"", "1:18: max_batch_size: expected an integer, got a value of type string");
    check("max_batch_size = -1", "1:18: max_batch_size: expected 0 to 1048576, got -1");
    check(
        "max_batch_size = 2147483648",
        "1:18: max_batch_size: expected an integer from -2147483648 to 2147483647, got `2147483648`",
    );
    check("max_queue_size = -1", "1:18: max_queue_size: expected an integer from 0 to 4294967295, got `-1`");
    check("timeout_ms = 300001", "1:14: timeout_ms: expected at most 300000000, got 300001000");
    check("instances = 0", "1:13: instances: expected 1 to 256, got 0");
    check("instances = 10000", "1:13: instances: expected 1 to 256, got 10000");
    check("profile = \"fast\"", "1:11: profile: expected `throughput` or `latency`, got `fast`");
    check("profile = 1", "1:11: profile: expected a string, got a value of type integer");
    check(
        "[inputs.x]\nshape = [3]\ndatatype = \"FP23\"",
        "3:12: inputs.x.datatype: did you mean `FP32`; got `FP23`",
    );
    check(
        "[inputs.x]\nshape = [0]\ndatatype = \"FP32\"",
        "2:9: input[0].dims[0]: expected a size of at least 1, or -1 for any, got 0",
    );
    check("name = \"a\"\nname = \"b\"", "2:1: expected TOML: duplicate key");
    check(
        "versions = \"newest\"",
        "1:12: versions: expected `latest`, `all`, a number or a list, got a value of type string",
    );
    check(
        "max_queue_size = 1\nsequence = {}",
        "2:12: sequence: expected no keys of the queue beside it, as `max_queue_size`",
    );
}

#[test]
fn json_is_read_under_both_spellings_of_a_name() {
    let snake = r#"{ "max_batch_size": 8, "input": [ { "name": "x", "data_type": "TYPE_FP32", "dims": [3] } ],
        "dynamic_batching": { "max_queue_delay_microseconds": "100" }, "version_policy": { "all": {} },
        "parameters": { "a": { "string_value": "1" } }, "platform": null }"#;
    let camel = r#"{ "maxBatchSize": 8, "input": [ { "name": "x", "dataType": "TYPE_FP32", "dims": ["3"] } ],
        "dynamicBatching": { "maxQueueDelayMicroseconds": 100 }, "versionPolicy": { "all": {} },
        "parameters": { "a": { "stringValue": "1" } } }"#;
    let (snake, camel) =
        (ModelConfiguration::from_json(snake).unwrap(), ModelConfiguration::from_json(camel).unwrap());
    assert_eq!(snake.to_json(), camel.to_json());
    assert_eq!(snake.max_batch_size(), NonZeroUsize::new(8));
}

#[test]
fn what_the_server_says_can_be_said_to_it() {
    let text = r#"max_batch_size: 8 input { name: "x" data_type: TYPE_FP32 dims: 3 } metric_tags { key: "a" value: "b" }
        optimization { graph { level: -1 } } dynamic_batching { priority_levels: 2 default_priority_level: 1
        priority_queue_policy { key: 1 value { max_queue_size: 3 } } }"#;
    let json = pbtxt(text).to_json();
    assert_eq!(ModelConfiguration::from_json(&json.to_string()).unwrap().to_json(), json);
}

#[test]
fn what_is_wrong_in_json_names_the_parameter_and_the_place() {
    let check = |text: &str, expected: &str| {
        let error = ModelConfiguration::from_json(text).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert_eq!(error.field(), Some("parameters.config"));
        assert_eq!(error.message(), format!("parameters.config: {expected}"), "{text}");
    };
    check("{\n \"max_bath_size\": 8}", "2:2: `max_bath_size`: unknown field; did you mean `max_batch_size`");
    check("not json", "1:2: expected JSON: expected ident");
    check("", "1:1: expected JSON: EOF while parsing a value");
    check("[]", "1:1: expected `{`, got `[`");
    check("\"text\"", "1:1: expected `{`, got the string `text`");
    check(
        "{\"max_batch_size\": \"8\"}",
        "1:20: max_batch_size: expected an integer from -2147483648 to 2147483647, got the string `8`",
    );
    check("{\"max_batch_size\": -1}", "1:2: max_batch_size: expected 0 to 1048576, got -1");
    check(
        "{\"max_batch_size\": 2147483648}",
        "1:20: max_batch_size: expected an integer from -2147483648 to 2147483647, got `2147483648`",
    );
    check("{\"max_batch_size\": 1, \"maxBatchSize\": 2}", "1:23: max_batch_size: duplicate field");
    check("{\"input\": {}}", "1:11: input: expected `[`, got `{`");
    check(
        "{\"ensembleScheduling\": {}}",
        "1:2: ensemble_scheduling: Axon does not support this, and answers could differ without it",
    );
    let large = format!("{{\"name\": \"{}\"}}", "x".repeat(10 << 20));
    check(&large, "1:1: expected at most 1048576 bytes, got 10485772");
}

#[test]
fn defaults_are_printed_as_triton_prints_them() {
    let json = pbtxt("instance_group { } input { name: \"x\" data_type: TYPE_FP32 dims: 1 }").to_json();
    assert_eq!(
        json,
        json!({
            "name": "", "platform": "", "backend": "", "runtime": "", "max_batch_size": 0,
            "input": [{
                "name": "x", "data_type": "TYPE_FP32", "format": "FORMAT_NONE", "dims": [1], "is_shape_tensor": false,
                "allow_ragged_batch": false, "optional": false, "is_non_linear_format_io": false,
            }],
            "output": [], "batch_input": [], "batch_output": [],
            "instance_group": [{
                "name": "", "kind": "KIND_AUTO", "count": 0, "gpus": [], "secondary_devices": [], "profile": [],
                "passive": false, "host_policy": "",
            }],
            "default_model_filename": "", "cc_model_filenames": {}, "metric_tags": {}, "parameters": {},
            "model_warmup": [],
        })
    );
}

#[test]
fn a_folder_has_one_configuration_or_none() {
    let folder = Folder::new("folder");
    let read = || ModelConfiguration::read(&folder.0);
    assert!(read().unwrap().is_none());
    folder.write(PBTXT, b"max_batch_size: 3");
    assert_eq!(read().unwrap().unwrap().max_batch_size(), NonZeroUsize::new(3));
    folder.write(TOML, b"max_batch_size = 3");
    assert_eq!(read().unwrap_err().message(), "expected one of config.pbtxt and model.toml, got both");
    std::fs::remove_file(folder.0.join(PBTXT)).unwrap();
    assert!(read().unwrap().unwrap().is_given());
    folder.write(TOML, b"name = \"x\" # \xff");
    assert_eq!(read().unwrap_err().message(), "model.toml:1:14: expected UTF-8");
    folder.write(TOML, &vec![b' '; (1 << 20) + 1]);
    assert_eq!(read().unwrap_err().message(), "model.toml:1:1: expected at most 1048576 bytes, got 1048577");
    std::fs::remove_file(folder.0.join(TOML)).unwrap();
    std::fs::create_dir(folder.0.join(TOML)).unwrap();
    assert_eq!(read().unwrap_err().message(), "model.toml: expected a regular file");
    #[cfg(unix)]
    {
        std::fs::remove_dir(folder.0.join(TOML)).unwrap();
        std::os::unix::fs::symlink(TOML, folder.0.join(TOML)).unwrap();
        assert!(read().unwrap_err().message().starts_with("model.toml: cannot be read"));
    }
}

#[test]
fn labels_are_lines_of_a_file_in_the_folder() {
    let folder = Folder::new("labels");
    folder.write("labels.txt", "null\r\neins\nzwei ß\n".as_bytes());
    assert_eq!(read_labels(&folder.0, "labels.txt").unwrap(), ["null", "eins", "zwei ß"]);
    let check = |name: &str, expected: &str| {
        let error = read_labels(&folder.0, name).unwrap_err();
        assert!(error.message().contains(expected), "{error}");
    };
    check("missing.txt", "expected a file in the model's folder, got `missing.txt`");
    for name in ["../labels.txt", "/etc/passwd", "a/../../b", "", "."] {
        check(name, "expected a path inside the model's folder, without `..`");
    }
    std::fs::create_dir(folder.0.join("sub")).unwrap();
    check("sub", "expected a regular file");
    folder.write("bytes", b"\xff\n");
    check("bytes", "expected UTF-8");
    let large = File::create(folder.0.join("large")).unwrap();
    large.set_len((64 << 20) + 1).unwrap();
    check("large", "expected at most 67108864 bytes of labels");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/etc/passwd", folder.0.join("out")).unwrap();
        check("out", "not a link out of it");
        std::os::unix::fs::symlink("loop", folder.0.join("loop")).unwrap();
        check("loop", "expected a file in the model's folder");
    }
}

#[test]
fn an_owner_says_in_either_file_whether_requests_share_a_run() {
    let parameter = |value: &str| {
        format!("parameters {{ key: \"axon_batching\" value {{ string_value: \"{value}\" }} }}")
    };
    for batching in [Batching::Auto, Batching::Off, Batching::Always] {
        let native = toml(&format!("batching = \"{batching}\"\n[parameters]\nother = 1\n"));
        let triton = pbtxt(&parameter(batching.name()));
        assert_eq!((native.batching(), triton.batching()), (Some(batching), Some(batching)));
        assert!(triton.warnings().is_empty(), "{:?}", triton.warnings());
    }
    assert_eq!(pbtxt("").batching(), None);
    let error = pbtxt_error(&parameter("yes"));
    let expected = "parameters.axon_batching: expected `auto`, `off` or `always`, got `yes`";
    assert!(error.contains(expected), "{error}");
    let error = ModelConfiguration::from_toml("batching = \"yes\"").unwrap_err();
    assert!(error.message().contains("batching: expected `auto`, `off` or `always`"), "{error}");
}

#[test]
fn the_latency_target_is_read_from_both_files() {
    let ms = |milliseconds| Some(Duration::from_micros(milliseconds));
    assert_eq!(toml("latency_target_ms = 2.5").latency_target(), ms(2500));
    assert_eq!(toml("latency_target_ms = 10").latency_target(), ms(10_000));
    let parameter = |value: &str| {
        format!("parameters {{ key: \"latency_target_ms\" value {{ string_value: \"{value}\" }} }}")
    };
    assert_eq!(pbtxt(&parameter("10")).latency_target(), ms(10_000));
    for wrong in ["0", "-1", "nan", "300001", "x"] {
        let error = pbtxt_error(&parameter(wrong));
        let expected = format!(
            "parameters.latency_target_ms: expected milliseconds, more than 0 to 300000, got `{wrong}`"
        );
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn the_profile_is_read_from_both_files() {
    let profile = |configuration: ModelConfiguration| configuration.profile();
    assert_eq!(profile(toml("max_batch_size = 1")), None);
    let native = toml("profile = \"latency\"\n[parameters]\nother = 1");
    let parameters =
        json!({ "axon_profile": { "string_value": "latency" }, "other": { "string_value": "1" } });
    assert_eq!(native.to_json()["parameters"], parameters);
    assert_eq!(profile(native), Some(Profile::Latency));
    let triton = r#"parameters { key: "axon_profile" value { string_value: "throughput" } }"#;
    let triton = pbtxt(triton);
    assert_eq!((triton.profile(), triton.warnings().len()), (Some(Profile::Throughput), 0));
}

#[test]
fn the_weight_is_read_from_both_files() {
    let weight = |configuration: &ModelConfiguration| configuration.weight().map(std::num::NonZeroU32::get);
    assert_eq!(weight(&toml("weight = 3")), Some(3));
    assert_eq!(weight(&toml("")), None);
    let parameter =
        |value: &str| format!("parameters {{ key: \"axon_weight\" value {{ string_value: \"{value}\" }} }}");
    assert_eq!(weight(&pbtxt(&parameter("1000"))), Some(1000));
    for wrong in ["0", "-1", "1001", "1.5", "x"] {
        let error = pbtxt_error(&parameter(wrong));
        let expected = format!("parameters.axon_weight: expected an integer from 1 to 1000, got `{wrong}`");
        assert!(error.contains(&expected), "{error}");
    }
    for (wrong, expected) in [
        ("1001", "weight: expected an integer from 1 to 1000"),
        ("-1", "weight: expected an integer from 0"),
        ("1.5", "weight: expected an integer"),
    ] {
        let error = ModelConfiguration::from_toml(&format!("weight = {wrong}")).unwrap_err();
        assert!(error.message().contains(expected), "{error}");
    }
}
