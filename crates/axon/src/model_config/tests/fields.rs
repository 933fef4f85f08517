//! What is done with each field: used, kept with a warning, or refused.

use serde_json::json;

use super::*;
use crate::model_config::sequence::{ControlKind, FalseTrue, SequenceStrategy};

const UNSUPPORTED: &str = "Axon does not support this, and answers could differ without it";

#[test]
fn what_answers_depend_on_is_refused_by_name() {
    let check = |text: &str, field: &str| {
        let message = pbtxt_error(text);
        assert!(message.ends_with(&format!(": {field}: {UNSUPPORTED}")), "{message}");
    };
    check("ensemble_scheduling { step { model_name: \"a\" } }", "ensemble_scheduling");
    check("batch_input { kind: BATCH_ELEMENT_COUNT }", "batch_input");
    check("batch_output { }", "batch_output");
    check("model_operations { op_library_filename: \"x.so\" }", "model_operations");
    check("model_transaction_policy { decoupled: true }", "model_transaction_policy.decoupled");
    check("model_repository_agents { agents { name: \"checksum\" } }", "model_repository_agents");
    check(
        "optimization { execution_accelerators { cpu_execution_accelerator { name: \"openvino\" } } }",
        "optimization.execution_accelerators.cpu_execution_accelerator",
    );
    for field in ["is_shape_tensor", "allow_ragged_batch", "optional", "is_non_linear_format_io"] {
        check(&format!("input {{ name: \"x\" {field}: true }}"), &format!("input[0].{field}"));
    }
    check("output { is_shape_tensor: true }", "output[0].is_shape_tensor");
    check("instance_group { kind: KIND_MODEL }", "instance_group[0].kind");
    check("instance_group { passive: true }", "instance_group[0].passive");
    check("instance_group { secondary_devices { device_id: 1 } }", "instance_group[0].secondary_devices");
    check("sequence_batching { iterative_sequence: true }", "sequence_batching.iterative_sequence");
}

#[test]
fn what_answers_do_not_depend_on_is_kept_with_a_warning() {
    let check = |text: &str, field: &str| {
        let configuration = pbtxt(text);
        let expected = format!("{field}: kept, but not used by Axon; answers do not depend on it");
        assert_eq!(configuration.warnings(), [expected], "{text}");
        let kept = field.split('.').next().unwrap();
        let holder = kept.split('[').next().unwrap();
        assert_ne!(configuration.to_json()[holder], json!(null), "{text}");
    };
    check("runtime: \"libtriton_onnxruntime.so\"", "runtime");
    check("cc_model_filenames { key: \"8.0\" value: \"x\" }", "cc_model_filenames");
    check("metric_tags { key: \"a\" value: \"b\" }", "metric_tags");
    check("model_warmup { name: \"w\" batch_size: 1 }", "model_warmup");
    check("model_metrics { }", "model_metrics");
    check(
        "parameters { key: \"intra_op_thread_count\" value { string_value: \"2\" } }",
        "parameters.intra_op_thread_count",
    );
    check(
        "parameters { key: \"execute_delay_ms\" value { string_value: \"2\" } }",
        "parameters.execute_delay_ms",
    );
    check("optimization { graph { level: 1 } }", "optimization.graph");
    check("optimization { priority: PRIORITY_MAX }", "optimization.priority");
    check("optimization { cuda { graphs: true } }", "optimization.cuda");
    check("optimization { eager_batching: true }", "optimization.eager_batching");
    check(
        "optimization { gather_kernel_buffer_threshold: 1 }",
        "optimization.gather_kernel_buffer_threshold",
    );
    check("dynamic_batching { preserve_ordering: true }", "dynamic_batching.preserve_ordering");
    check("instance_group { rate_limiter { priority: 1 } }", "instance_group[0].rate_limiter");
    check("instance_group { profile: \"p\" }", "instance_group[0].profile");
    check("instance_group { host_policy: \"p\" }", "instance_group[0].host_policy");
    check("input { name: \"x\" data_type: TYPE_FP32 dims: 1 format: FORMAT_NHWC }", "input[0].format");
}

#[test]
fn answers_are_kept_where_that_is_asked_for() {
    let ttl = |seconds: &str| {
        format!("parameters {{ key: \"axon_response_cache_ttl_s\" value {{ string_value: \"{seconds}\" }} }}")
    };
    let enabled = "response_cache { enable: true }";
    let kept = |ttl: Option<f64>| Some(ResponseCaching { ttl: ttl.map(Duration::from_secs_f64) });
    let check = |configuration: ModelConfiguration, expected| {
        assert_eq!(configuration.response_cache(), expected);
        assert_eq!(configuration.warnings(), [""; 0]);
    };
    check(pbtxt(""), None);
    check(pbtxt("response_cache { enable: false }"), None);
    check(pbtxt(enabled), kept(None));
    check(pbtxt(&format!("{enabled} {}", ttl("1.5"))), kept(Some(1.5)));
    check(toml("response_cache = true"), kept(None));
    check(toml("response_cache = false"), None);
    check(toml("[response_cache]"), kept(None));
    check(toml("[response_cache]\nttl_s = 60"), kept(Some(60.0)));
    check(toml("[response_cache]\nenable = false"), None);
    assert_eq!(pbtxt(&ttl("1")).warnings().len(), 1, "a time without a cache does nothing");
    for wrong in ["0", "-1", "x", "inf", "315360001"] {
        let message = pbtxt_error(&format!("{enabled} {}", ttl(wrong)));
        let expected =
            "parameters.axon_response_cache_ttl_s: expected seconds, more than 0 to 315360000, got";
        assert!(message.ends_with(&format!("{expected} `{wrong}`")), "{message}");
    }
    let stateful = format!("max_batch_size: 4 sequence_batching {{ direct {{ }} }} {enabled}");
    let message = pbtxt_error(&stateful);
    assert!(message.contains("response_cache.enable: expected false for a stateful model"), "{message}");
    let error = ModelConfiguration::from_toml("[response_cache]\nttl = 1").unwrap_err();
    let expected = "model.toml:2:1: response_cache.`ttl`: unknown key; did you mean `ttl_s`";
    assert_eq!(error.message(), expected);
}

#[test]
fn settings_that_say_nothing_new_are_silent() {
    for text in [
        "",
        "model_transaction_policy { decoupled: false } response_cache { enable: false } model_operations { }",
        "optimization { priority: PRIORITY_DEFAULT input_pinned_memory { enable: false } }",
        "dynamic_batching { } platform: \"onnxruntime_onnx\" backend: \"onnxruntime\"",
        "instance_group { kind: KIND_CPU count: 2 } instance_group { kind: KIND_AUTO }",
    ] {
        assert_eq!(pbtxt(text).warnings(), [""; 0], "{text}");
    }
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    let check = |text: &str, expected: &str| assert_eq!(pbtxt_error(text), expected, "{text}");
    check("max_batch_size: -1", "1:1: max_batch_size: expected 0 to 1048576, got -1");
    check("max_batch_size: 1048577", "1:1: max_batch_size: expected 0 to 1048576, got 1048577");
    check(
        "\nmax_batch_size: 2147483648",
        "2:17: max_batch_size: expected an integer from -2147483648 to 2147483647, got `2147483648`",
    );
    check(
        "max_batch_size: \"8\"",
        "1:17: max_batch_size: expected an integer from -2147483648 to 2147483647, got the string `8`",
    );
    let policy = |field: &str| format!("dynamic_batching {{ default_queue_policy {{ {field} }} }}");
    let at = "dynamic_batching.default_queue_policy";
    check(
        &policy("max_queue_size: -1"),
        &format!("1:59: {at}.max_queue_size: expected an integer from 0 to 4294967295, got `-1`"),
    );
    check(
        &policy("max_queue_size: 1048577"),
        &format!("1:43: {at}.max_queue_size: expected 0 to 1048576, got 1048577"),
    );
    check(
        &policy("default_timeout_microseconds: 300000001"),
        &format!("1:43: {at}.default_timeout_microseconds: expected at most 300000000, got 300000001"),
    );
    check(
        &policy("timeout_action: DELAY"),
        &format!(
            "1:43: {at}.timeout_action: expected REJECT, got DELAY; Axon does not run a request whose timeout is over"
        ),
    );
    let batching = |fields: &str| format!("max_batch_size: 4 dynamic_batching {{ {fields} }}");
    check(
        &batching("max_queue_delay_microseconds: 1000000000000000"),
        "1:38: dynamic_batching.max_queue_delay_microseconds: expected at most 60000000, got 1000000000000000",
    );
    check(
        &batching("preferred_batch_size: [2, 8]"),
        "1:64: dynamic_batching.preferred_batch_size[1]: expected at most max_batch_size 4, got 8",
    );
    check(
        &batching("preferred_batch_size: 0"),
        "1:60: dynamic_batching.preferred_batch_size[0]: expected 1 to 1048576, got 0",
    );
    check(
        &batching("priority_levels: 2"),
        "1:19: dynamic_batching.default_priority_level: expected 1 to priority_levels 2, got 0",
    );
    check(
        &batching("priority_levels: 2 default_priority_level: 3"),
        "1:57: dynamic_batching.default_priority_level: expected 1 to priority_levels 2, got 3",
    );
    check(
        &batching("priority_levels: 65537"),
        "1:38: dynamic_batching.priority_levels: expected 0 to 65536, got 65537",
    );
    check(
        &batching("priority_queue_policy { key: 1 }"),
        "1:38: dynamic_batching.priority_queue_policy: expected a level from 1 to priority_levels 0, got 1",
    );
    check("instance_group { count: 0 }", "1:18: instance_group[0].count: expected 1 to 256, got 0");
    check("instance_group { count: 10000 }", "1:18: instance_group[0].count: expected 1 to 256, got 10000");
    check(
        "instance_group { count: 200 } instance_group { count: 57 }",
        "1:48: instance_group[1].count: expected 1 to 256, got 257",
    );
    check(
        "version_policy { latest { num_versions: 0 } }",
        "1:27: version_policy.latest.num_versions: expected at least 1, got 0",
    );
    check(
        "version_policy { specific { } }",
        "1:18: version_policy.specific.versions: expected at least one version",
    );
    check(
        "version_policy { specific { versions: [1, 0] } }",
        "1:43: version_policy.specific.versions[1]: expected 1 to 9223372036854775807, got 0",
    );
}

#[test]
fn tensors_are_checked() {
    let check = |fields: &str, expected: &str| {
        let message = pbtxt_error(&format!("input {{ {fields} }}"));
        assert!(message.ends_with(expected), "{message}");
    };
    check("data_type: TYPE_FP32 dims: 1", "input[0].name: expected 1 to 256 printable bytes, got ``");
    check(
        "name: \"a\\n\" data_type: TYPE_FP32 dims: 1",
        "input[0].name: expected 1 to 256 printable bytes, got `a\\n`",
    );
    check("name: \"a\" dims: 1", "input[0].data_type: expected a data type, as `TYPE_FP32`");
    check("name: \"a\" data_type: TYPE_FP32", "input[0].dims: expected at least one dimension");
    check(
        "name: \"a\" data_type: TYPE_FP32 dims: [1, 0]",
        "input[0].dims[1]: expected a size of at least 1, or -1 for any, got 0",
    );
    check(
        "name: \"a\" data_type: TYPE_FP32 dims: -2",
        "input[0].dims[0]: expected a size of at least 1, or -1 for any, got -2",
    );
    let reshape = |dims: &str, shape: &str| {
        format!("name: \"a\" data_type: TYPE_FP32 dims: [{dims}] reshape {{ shape: [{shape}] }}")
    };
    check(&reshape("6", "2, 2"), "input[0].reshape.shape: expected the elements of dims [6], got [2, 2]");
    check(
        &reshape("-1, 2", "2, -1"),
        "input[0].reshape.shape: expected the elements of dims [-1, 2], got [2, -1]",
    );
    check(
        &reshape("1", ""),
        "input[0].reshape.shape: expected at least one dimension where max_batch_size is 0",
    );
    check(
        "name: \"a\" data_type: TYPE_FP32 dims: 1 } input { name: \"a\" data_type: TYPE_FP32 dims: 1",
        "input[1].name: duplicate input `a`",
    );
    let text = format!("max_batch_size: 1 input {{ {} }}", reshape("1", ""));
    assert_eq!(pbtxt(&text).inputs()[0].reshape.as_deref(), Some(&[][..]));
    for name in ["../labels", "/labels", "a/../../labels"] {
        let text =
            format!("output {{ name: \"y\" data_type: TYPE_FP32 dims: 1 label_filename: \"{name}\" }}");
        assert!(pbtxt_error(&text).contains("output[0].label_filename: expected a path inside"), "{name}");
        assert!(
            pbtxt_error(&format!("default_model_filename: \"{name}\"")).contains("default_model_filename: ")
        );
    }
}

#[test]
fn backends_are_known_by_name_and_platform() {
    let check = |text: &str, expected: Backend| assert_eq!(pbtxt(text).backend(), expected, "{text}");
    check("", Backend::OnnxRuntime);
    check("platform: \"onnxruntime_onnx\"", Backend::OnnxRuntime);
    check("backend: \"onnxruntime\"", Backend::OnnxRuntime);
    check("backend: \"identity\"", Backend::Identity);
    assert_eq!(
        pbtxt_error("backend: \"tensorrt\""),
        "1:1: backend: expected one of `onnxruntime`, `identity`; got `tensorrt`"
    );
    assert_eq!(
        pbtxt_error("platform: \"onnxruntime_onx\""),
        "1:1: platform: did you mean `onnxruntime_onnx`; got `onnxruntime_onx`"
    );
    assert_eq!(
        pbtxt_error("backend: \"identity\" platform: \"onnxruntime_onnx\""),
        "1:21: platform: expected `identity` or nothing, as the backend is `identity`"
    );
}

#[test]
fn instances_must_fit_the_device() {
    let check = |text: &str, device: Device, expected: Option<&str>| {
        let error = pbtxt(text).check_device(device).err().map(|error| error.message().to_owned());
        assert_eq!(error.as_deref(), expected, "{text}");
    };
    check("instance_group { kind: KIND_CPU }", Device::Cpu, None);
    check("instance_group { kind: KIND_AUTO }", Device::Cuda, None);
    check("instance_group { kind: KIND_GPU gpus: 0 }", Device::Cuda, None);
    check(
        "instance_group { kind: KIND_GPU }",
        Device::Cpu,
        Some(
            "config.pbtxt:1:18: instance_group[0].kind: expected KIND_CPU or KIND_AUTO, got KIND_GPU; this server runs models on the CPU",
        ),
    );
    check(
        "instance_group { kind: KIND_CPU }",
        Device::Cuda,
        Some(
            "config.pbtxt:1:18: instance_group[0].kind: expected KIND_GPU or KIND_AUTO, got KIND_CPU; this server runs models on a GPU",
        ),
    );
    check(
        "instance_group { gpus: [0, 1] }",
        Device::Cuda,
        Some("config.pbtxt:1:18: instance_group[0].gpus: expected only GPU 0, got [0, 1]"),
    );
    let tensorrt =
        "optimization { execution_accelerators { gpu_execution_accelerator { name: \"tensorrt\" } } }";
    let at = "config.pbtxt:1:41: optimization.execution_accelerators.gpu_execution_accelerator";
    let expected = format!("{at}: `tensorrt` is not available on this server");
    check(tensorrt, Device::Cpu, Some(&expected));
    check(tensorrt, Device::Cuda, Some(&expected));
}

#[test]
fn a_queue_waits_as_its_policy_says() {
    let ms = Duration::from_millis;
    let check = |text: &str, asked: Option<u64>, expected: u64| {
        let text = format!("dynamic_batching {{ default_queue_policy {{ {text} }} }}");
        assert_eq!(pbtxt(&text).queue().timeout(asked.map(ms), ms(500)), ms(expected), "{text} {asked:?}");
    };
    check("", None, 500);
    check("", Some(900), 900);
    check("default_timeout_microseconds: 200000", None, 200);
    check("default_timeout_microseconds: 200000", Some(100), 200);
    check("default_timeout_microseconds: 200000 allow_timeout_override: true", Some(100), 100);
    check("default_timeout_microseconds: 200000 allow_timeout_override: true", Some(900), 200);
}

#[test]
fn the_test_backend_has_a_delay() {
    let check = |value: &str, expected: Option<u64>| {
        let text = format!(
            "backend: \"identity\" parameters {{ key: \"execute_delay_ms\" value {{ string_value: \"{value}\" }} }}"
        );
        let delay = ModelConfiguration::from_pbtxt(&text).map(|configuration| configuration.execute_delay());
        assert_eq!(delay.ok(), expected.map(Duration::from_millis), "{value}");
    };
    check("50", Some(50));
    check("0", Some(0));
    check("60000", Some(60_000));
    for value in ["", "60001", "-1", "1.5", "fast"] {
        check(value, None);
    }
}

#[test]
fn sequences_are_read_whole_and_the_native_words_mean_the_same() {
    let triton = pbtxt(
        r#"
        sequence_batching {
          max_sequence_idle_microseconds: 5000000
          oldest { max_candidate_sequences: 4 }
          control_input { name: "START" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 1] } }
          control_input { name: "END" control { kind: CONTROL_SEQUENCE_END bool_false_true: [false, true] } }
          control_input { name: "READY" control { kind: CONTROL_SEQUENCE_READY int32_false_true: [0, 7] } }
          control_input { name: "ID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }
          state { input_name: "S" output_name: "S2" data_type: TYPE_FP32 dims: [-1, 2] }
        }"#,
    );
    let native = toml(
        r#"
        [sequence]
        strategy = "oldest"
        max_idle_ms = 5000
        max_sequences = 4
        start = { input = "START", datatype = "FP32" }
        end = { input = "END", datatype = "BOOL" }
        ready = { input = "READY", datatype = "INT32", values = [0, 7] }
        id = { input = "ID", datatype = "UINT64" }
        [sequence.states.S]
        output = "S2"
        datatype = "FP32"
        shape = [-1, 2]
        "#,
    );
    assert_eq!(native.to_json(), triton.to_json());
    let sequence = triton.sequence().unwrap();
    assert_eq!(sequence.max_idle, Duration::from_secs(5));
    assert!(matches!(sequence.strategy, SequenceStrategy::Oldest { max_candidate_sequences: 4, .. }));
    let kinds: Vec<_> = sequence.controls.iter().map(|control| (control.kind, control.values)).collect();
    assert_eq!(
        kinds,
        [
            (ControlKind::Start, Some(FalseTrue::Fp32(0.0, 1.0))),
            (ControlKind::End, Some(FalseTrue::Bool(false, true))),
            (ControlKind::Ready, Some(FalseTrue::Int32(0, 7))),
            (ControlKind::CorrelationId, None),
        ]
    );
    assert_eq!(
        (&sequence.states[0].dims[..], &sequence.states[0].initial_dims[..]),
        (&[-1, 2][..], &[1, 2][..])
    );
    let direct = pbtxt("sequence_batching { direct { minimum_slot_utilization: 0.5 } }");
    let direct = direct.sequence().unwrap();
    assert_eq!(direct.max_idle, Duration::from_secs(1));
    assert!(matches!(direct.strategy, SequenceStrategy::Direct { minimum_slot_utilization: 0.5, .. }));
}

#[test]
fn sequences_that_make_no_sense_are_refused_by_name() {
    let check = |fields: &str, expected: &str| {
        let message = pbtxt_error(&format!("sequence_batching {{ {fields} }}"));
        assert!(message.ends_with(expected), "{message}");
    };
    let control = |fields: &str| format!("control_input {{ name: \"C\" {fields} }}");
    check(&control(""), "control_input[0]: expected one control, got 0");
    check(
        &control("control { kind: CONTROL_SEQUENCE_END }"),
        "control[0]: expected two values in one of int32_false_true, fp32_false_true, bool_false_true",
    );
    check(
        &control("control { int32_false_true: [0, 1] fp32_false_true: [0, 1] }"),
        "control[0]: expected two values in one of int32_false_true, fp32_false_true, bool_false_true",
    );
    check(
        &control("control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32 }"),
        "expected TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 or TYPE_STRING for a correlation id",
    );
    let start = "control { int32_false_true: [0, 1] }";
    check(&format!("{0} {0}", control(start)), "control_input[1]: another control input is of this kind");
    let end = "control_input { name: \"C\" control { kind: CONTROL_SEQUENCE_END int32_false_true: [0, 1] } }";
    check(&format!("{} {end}", control(start)), "sequence_batching: input `C` is named twice");
    check("oldest { max_candidate_sequences: -1 }", "max_candidate_sequences: expected 0 to 65536, got -1");
    check(
        "direct { minimum_slot_utilization: 2 }",
        "minimum_slot_utilization: expected a share from 0 to 1, got 2",
    );
    check(
        "direct { minimum_slot_utilization: inf }",
        "minimum_slot_utilization: expected a number, got `inf`",
    );
    check("max_sequence_idle_microseconds: 86400000001", "expected at most 86400000000, got 86400000001");
    let state = |fields: &str| {
        format!("state {{ input_name: \"S\" output_name: \"T\" data_type: TYPE_FP32 dims: 2 {fields} }}")
    };
    check(&state("use_growable_memory: true"), &format!("use_growable_memory: {UNSUPPORTED}"));
    check(
        &state("initial_state { data_type: TYPE_FP32 dims: 2 data_file: \"x\" }"),
        &format!("data_file: {UNSUPPORTED}"),
    );
    check(
        &state("initial_state { data_type: TYPE_FP32 dims: 2 }"),
        "initial_state[0]: expected zero_data: true",
    );
    check(
        &state("initial_state { data_type: TYPE_FP32 dims: 3 zero_data: true }"),
        "dims: expected dims that fit [2], got [3]",
    );
}
