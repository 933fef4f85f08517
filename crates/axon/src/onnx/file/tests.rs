//! The outline, and one test for each way to harm.

use super::*;

fn parse(bytes: &[u8]) -> Result<ModelFile> {
    ModelFile::from_bytes(bytes)
}

/// A field that holds bytes.
fn message(number: u64, bytes: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 128 {
        bytes.push(u8::try_from(value & 127).unwrap() | 128);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

/// An input or output of an element type and dimensions; 0 is a dynamic one.
fn info(field: u64, element: u64, dimensions: &[u64]) -> Vec<u8> {
    let dimension = |&size: &u64| message(1, &if size == 0 { message(2, b"n") } else { number(1, size) });
    let shape: Vec<u8> = dimensions.iter().flat_map(dimension).collect();
    let tensor = [number(1, element), message(2, &shape)].concat();
    message(field, &[message(1, b"x"), message(2, &message(1, &tensor))].concat())
}

#[test]
fn the_outline_is_read() {
    let graph = [
        message(5, &[message(8, b"w"), number(2, 1), number(1, 0)].concat()),
        info(11, 1, &[0, 3]),
        info(12, 7, &[0]),
    ]
    .concat();
    let model = [number(1, 8), message(2, b"me"), message(7, &graph), message(8, &number(2, 17))].concat();
    let outline = parse(&model).unwrap();
    assert_eq!((outline.opset, outline.producer.as_str(), outline.dynamic_rows), (17, "me", false));
    let dynamic = message(7, &info(11, 1, &[0, 0]));
    assert!(parse(&dynamic).unwrap().dynamic_rows);
}

#[test]
fn an_element_type_without_a_name_is_refused() {
    let error = parse(&message(7, &info(12, 23, &[1]))).unwrap_err();
    assert_eq!(error.message(), "output `x`: element type float4e2m1 has no name in the protocol");
}

#[test]
fn what_is_not_a_model_is_refused() {
    for bytes in
        [&b""[..], b"hello world", b"PK\x03\x04", b"\x80\x04K\x01.", &[0xff; 64], &message(7, b"")[..1]]
    {
        let error = parse(bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidModel);
        assert!(error.message().starts_with("not an ONNX protobuf"), "{error}");
    }
}

/// A model of one graph.
fn graph(fields: &[Vec<u8>]) -> Vec<u8> {
    message(7, &fields.concat())
}

/// A node that runs `operator` of `domain`, with attributes.
fn node(domain: &str, operator: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let attributes: Vec<u8> = attributes.iter().flat_map(|attribute| message(5, attribute)).collect();
    [message(4, operator.as_bytes()), attributes, message(7, domain.as_bytes())].concat()
}

fn function(name: &str, calls: &[&str]) -> Vec<u8> {
    let nodes: Vec<u8> = calls.iter().flat_map(|call| message(7, &node("d", call, &[]))).collect();
    message(25, &[message(1, name.as_bytes()), nodes, message(10, b"d")].concat())
}

/// Functions of which each calls the next twice.
fn bomb(depth: usize) -> Vec<u8> {
    let mut model = graph(&[message(1, &node("d", "f0", &[]))]);
    for level in 0..depth {
        let next = format!("f{}", level + 1);
        model.extend(function(&format!("f{level}"), &[&next, &next]));
    }
    model.extend(function(&format!("f{depth}"), &["Identity"]));
    model
}

/// Field and message of what a model is refused for.
fn refusal(model: &[u8]) -> (String, String) {
    let error = parse(model).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidModel, "{error}");
    (error.field().unwrap_or_default().to_owned(), error.message().to_owned())
}

#[test]
fn b_114_a_function_bomb_is_refused_by_counting() {
    assert!(parse(&bomb(8)).unwrap().nodes > 500);
    for depth in [14, 16, 18, 24, 60, 90, 5000] {
        let model = bomb(depth);
        let (field, message) = refusal(&model);
        assert_eq!(field, "functions", "depth {depth}");
        assert!(message.contains("nodes after inlining"), "{message}");
    }
}

#[test]
fn functions_that_an_exporter_writes_are_no_bomb() {
    // 3,000 calls of a function of twenty nodes.
    let calls: Vec<u8> = (0..3000).flat_map(|_| message(1, &node("d", "f", &[]))).collect();
    let model = [message(7, &calls), function("f", &["Add"; 20])].concat();
    assert_eq!(parse(&model).unwrap().nodes, 3000 + 3000 * 20);
}

#[test]
fn b_113_a_function_that_calls_itself_is_refused() {
    let itself = [graph(&[]), function("F", &["F"])].concat();
    assert_eq!(refusal(&itself).0, "functions[`F`]");
    let mutual = [graph(&[]), function("F", &["G"]), function("G", &["H"]), function("H", &["F"])].concat();
    assert!(refusal(&mutual).1.contains("a function calls itself"));
    let twice = [graph(&[]), function("F", &[]), function("F", &["Add"])].concat();
    assert_eq!(refusal(&twice).0, "functions[`F`]");
}

#[test]
fn b_115_a_long_chain_is_fine_and_a_bad_name_is_not() {
    let chain: Vec<Vec<u8>> = (0..20_000).map(|_| message(1, &node("", "Relu", &[]))).collect();
    assert_eq!(parse(&graph(&chain)).unwrap().nodes, 20_000);
    let long = "x".repeat(1 << 20);
    for name in [&b"a\0b"[..], b"a\nb", b"\xff", long.as_bytes(), &[b'x'; 257], b""] {
        let model = graph(&[message(12, &message(1, name))]);
        assert_eq!(refusal(&model).0, "output[0].name");
    }
    let inner = graph(&[message(1, &message(1, b"a\nb"))]);
    assert_eq!(refusal(&inner).0, "node[0].input");
}

#[test]
fn more_nodes_than_any_model_has_are_refused() {
    let relu = message(1, &node("", "Relu", &[]));
    assert_eq!(refusal(&graph(&[relu.repeat(1_000_001)])).0, "graph");
}

/// An initializer `w` of these dimensions and this type, and what else.
fn initializer(dimensions: &[u64], element: u64, data: &[u8]) -> Vec<u8> {
    let sizes: Vec<u8> = dimensions.iter().flat_map(|&size| number(1, size)).collect();
    graph(&[message(5, &[sizes, number(2, element), message(8, b"w"), data.to_vec()].concat())])
}

#[test]
fn b_110_a_tensor_has_exactly_the_data_that_its_shape_takes() {
    let minus_one = u64::MAX;
    for (dimensions, element, data) in [
        (&[2, 3][..], 1, message(9, &[0; 24])),
        (&[2, 3], 1, message(4, &[0; 24])),
        (&[3], 7, message(7, &[1, 2, 200, 1])),
        (&[3], 22, message(9, &[0; 2])),
        (&[3], 22, message(5, &[0; 2])),
        (&[2], 14, message(4, &[0; 16])),
        (&[2], 8, [message(6, b"a"), message(6, b"")].concat()),
        (&[], 1, message(9, &[0; 4])),
        (&[0, 5], 1, Vec::new()),
    ] {
        assert!(parse(&initializer(dimensions, element, &data)).is_ok(), "{dimensions:?} {element}");
    }
    for (dimensions, element, data) in [
        (&[1, 1, 2, 2][..], 1, message(9, &[0; 4])),
        (&[1 << 31, 1 << 31], 1, message(9, &[0; 4])),
        (&[1 << 62, 4], 1, message(9, &[])),
        (&[1 << 40, 1 << 40, 0], 1, Vec::new()),
        (&[minus_one], 1, message(9, &[0; 4])),
        (&[1], 99, message(9, &[0; 4])),
        (&[1], 0, message(9, &[0; 4])),
        (&[2], 1, message(4, &[0; 4])),
        (&[3], 7, message(7, &[1, 2])),
        (&[1], 8, message(9, b"a")),
        (&[1 << 40], 6, Vec::new()),
        (&[1], 1, [message(9, &[0; 4]), message(3, b"")].concat()),
    ] {
        let (field, message) = refusal(&initializer(dimensions, element, &data));
        assert_eq!(field, "initializer `w`", "{message}");
    }
}

#[test]
fn b_110_tensors_inside_nodes_and_functions_are_checked_too() {
    let tensor = [number(1, 5), number(2, 1), message(9, &[0; 4])].concat();
    let constant = node("", "Constant", &[[message(1, b"value"), message(5, &tensor)].concat()]);
    assert_eq!(refusal(&graph(&[message(1, &constant)])).0, "node[0].attribute `value`");
    let inner = [message(1, b"then_branch"), message(6, &message(1, &constant))].concat();
    let outer = graph(&[message(1, &node("", "If", &[inner]))]);
    assert_eq!(refusal(&outer).0, "node[0].attribute `value`");
    let body = message(25, &[message(1, b"f"), message(7, &constant)].concat());
    assert_eq!(refusal(&[graph(&[]), body].concat()).0, "node[0].attribute `value`");
}

#[test]
fn b_111_external_data_without_a_folder_or_beside_sparse_tensors_is_refused() {
    let entry = |key: &[u8], value: &[u8]| message(13, &[message(1, key), message(2, value)].concat());
    let external = [entry(b"location", b"../canary"), number(14, 1)].concat();
    assert_eq!(refusal(&initializer(&[1], 1, &external)).0, "initializer `w`.external_data.location");
    assert_eq!(refusal(&initializer(&[1], 1, &number(14, 1))).0, "initializer `w`.external_data.location");
    let values = [number(1, 1), number(2, 1), message(8, b"s"), external].concat();
    let sparse = graph(&[message(15, &message(1, &values))]);
    assert_eq!(refusal(&sparse).0, "initializer `s`.external_data.location");
}

#[test]
fn a_sparse_tensor_that_is_huge_when_written_out_is_refused() {
    let values = [number(1, 1), number(2, 1), message(8, b"s"), message(9, &[0; 4])].concat();
    let indices = [number(1, 1), number(2, 7), message(9, &[0; 8])].concat();
    let sparse =
        |size| graph(&[message(15, &[message(1, &values), message(2, &indices), number(3, size)].concat())]);
    assert!(parse(&sparse(1000)).is_ok());
    let (field, message) = refusal(&sparse(1 << 40));
    assert_eq!(field, "initializer `s`", "{message}");
}

#[test]
fn messages_that_nest_without_end_are_refused_without_a_stack() {
    let mut inner = Vec::new();
    for _ in 0..200 {
        inner = message(1, &message(5, &message(6, &inner)));
    }
    let (field, message) = refusal(&message(7, &inner));
    assert_eq!(field, "graph");
    assert!(message.contains("at most 100 messages inside each other"), "{message}");
}

#[test]
fn what_a_reader_would_merge_unseen_is_refused() {
    assert_eq!(refusal(&[graph(&[]), graph(&[])].concat()).0, "graph");
    let tensor = [number(2, 1), number(1, 0)].concat();
    let two = [message(1, b"value"), message(5, &tensor), message(5, &tensor)].concat();
    assert_eq!(refusal(&graph(&[message(1, &node("", "Constant", &[two]))])).0, "node[0].attribute `value`");
}

#[test]
fn b_120_a_file_beyond_what_a_protocol_buffer_can_be_is_refused() {
    let error = ModelFile::parse(io::Cursor::new([]), 3 << 30, None).unwrap_err();
    assert!(error.message().contains("at most 2147483647 bytes, got 3221225472"), "{error}");
}

#[test]
fn every_cut_of_a_model_is_refused_or_read_and_never_panics() {
    let values = [number(1, 2), number(2, 1), message(8, b"w"), message(9, &[0; 8])].concat();
    let model = [
        number(1, 8),
        graph(&[message(1, &node("", "Relu", &[])), message(5, &values), info(11, 1, &[0, 3])]),
    ];
    let model = model.concat();
    assert!(parse(&model).is_ok());
    for cut in 2..model.len() {
        let (_, message) = refusal(&model[..cut]);
        assert!(message.starts_with("not an ONNX protobuf"), "{cut}: {message}");
    }
    for place in 0..model.len() {
        for bit in 0..8 {
            let mut flipped = model.clone();
            flipped[place] ^= 1 << bit;
            let _ = parse(&flipped);
        }
    }
}
