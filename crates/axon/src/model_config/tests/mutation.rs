//! Texts that were valid until something happened to them: never a panic, a hang or an internal error.

use super::*;

/// A stream of numbers. **Source:** G. Marsaglia, *Xorshift RNGs*, 2003.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 32).unwrap() % limit
    }
}

const PBTXT_SEEDS: [&str; 3] = [
    r#"name: "m" # c
backend: "onnxruntime" max_batch_size: 8
input: [ { name: "x" data_type: TYPE_FP32 dims: [ 3, -1 ] reshape { shape: [ 3, -1 ] } } ]
output { name: 'y' data_type: TYPE_STRING dims: 0x1 label_filename: "l\x61" }
version_policy: { specific < versions: [1, 2] > }
parameters { key: "a" value: { string_value: "b" "c" } }"#,
    r#"dynamic_batching { preferred_batch_size: 4 max_queue_delay_microseconds: 100 priority_levels: 2
default_priority_level: 1 default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 5 }
priority_queue_policy { key: 1 value { max_queue_size: 3 } } } instance_group { kind: KIND_CPU count: 1 gpus: [] }
optimization { graph { level: -1 } cuda { graph_spec { batch_size: 1 input { key: "x" value { dim: 3 } } } } }
model_metrics { metric_control { histogram_options { buckets: [ 1.5, 2e3f, .5 ] } } }"#,
    r#"sequence_batching { oldest { max_candidate_sequences: 4 } control_input { name: "S"
control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, -1.5 ] } }
state { input_name: "a" output_name: "b" data_type: TYPE_FP32 dims: 2
initial_state { data_type: TYPE_FP32 dims: 2 zero_data: true } } } model_warmup { inputs { key: "x" value { random_data: t } } }"#,
];

const TOML_SEED: &str = r#"name = "m"
versions = [1, 2]
max_batch_size = 8
instances = 0x2 # two
file = "net_1.onnx"
inputs.x = { datatype = "FP32", shape = [3, -1] }
[outputs.y]
datatype = "BYTES"
shape = [1]
labels = 'l'
[parameters]
a = 1.5
[sequence]
start = { input = "S", datatype = "FP32", values = [0, 1] }
"#;

/// What is spliced in: the words and signs of the three syntaxes, and what none of them knows.
const PIECES: [&str; 30] = [
    "{",
    "}",
    "[",
    "]",
    "<",
    ">",
    ":",
    ";",
    ",",
    "\"",
    "'",
    "\\",
    "#",
    "-",
    "1e999",
    "99999999999999999999",
    "0x",
    ".",
    "null",
    "true",
    "input",
    "\u{feff}",
    "\0",
    "é",
    "\n",
    "key",
    "value",
    "=",
    "\"\"\"",
    "nan",
];

fn mutate(text: &str, random: &mut Random) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for _ in 0..=random.below(2) {
        let from = random.below(characters.len() + 1);
        let to = (from + random.below(12)).min(characters.len());
        match random.below(4) {
            0 => drop(characters.drain(from..to)),
            1 => {
                let piece = PIECES[random.below(PIECES.len())];
                drop(characters.splice(from..from, piece.chars()));
            }
            2 => {
                let copy: Vec<char> = characters[from..to].to_vec();
                let at = random.below(characters.len() + 1);
                drop(characters.splice(at..at, copy));
            }
            _ => characters.truncate(from.max(characters.len() / 2)),
        }
    }
    characters.into_iter().collect()
}

/// Reads `text` in each syntax; what is accepted is acted on and printed, and what is printed is accepted again.
fn check(text: &str, seed: u64) -> usize {
    let mut accepted = 0;
    let readers =
        [ModelConfiguration::from_pbtxt, ModelConfiguration::from_toml, ModelConfiguration::from_json];
    for read in readers {
        match read(text) {
            Ok(configuration) => {
                accepted += 1;
                let json = configuration.to_json();
                // What may be left out of a text (a group's count) may not be said to be zero.
                let says_zero = json.to_string().contains("\"count\":0")
                    || json.to_string().contains("\"num_versions\":0");
                if !says_zero {
                    let again = ModelConfiguration::from_json(&json.to_string());
                    assert_eq!(again.map(|again| again.to_json()).ok(), Some(json), "seed {seed}: {text}");
                }
            }
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::Internal, "seed {seed}: {text}: {error:?}");
                assert!(error.message().contains(':'), "seed {seed}: {text}: {error}");
            }
        }
    }
    accepted
}

fn seed() -> u64 {
    let seed = std::env::var("AXON_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_260_101);
    println!("AXON_SEED={seed}");
    seed
}

#[test]
fn mutated_texts_are_read_or_refused() {
    let seed = seed();
    let mut random = Random(seed | 1);
    let json: Vec<String> = PBTXT_SEEDS.iter().map(|text| pbtxt(text).to_json().to_string()).collect();
    let seeds: Vec<&str> =
        PBTXT_SEEDS.into_iter().chain([TOML_SEED]).chain(json.iter().map(String::as_str)).collect();
    let mut accepted = 0;
    for _ in 0..3000 {
        let text = mutate(seeds[random.below(seeds.len())], &mut random);
        accepted += check(&text, seed);
    }
    // A mutation that nothing survives would test only the first words.
    assert!(accepted > 30, "only {accepted} of the texts were accepted");
}

/// A second reading, by the library that has the description; it says no places and nests without bound. `None` where it
/// wants a colon before a list, which protobuf's own reader does not before messages.
fn reference(text: &str) -> Option<Value> {
    let message = prost_reflect::DynamicMessage::parse_text_format(schema::model_config().clone(), text);
    match message {
        Ok(message) => Some(schema::with_defaults(serde_json::to_value(message).unwrap()).unwrap()),
        Err(error) if error.to_string() == "expected ':' or a message value, but found '['" => None,
        Err(error) => panic!("{text}: {error}"),
    }
}

#[test]
fn what_is_accepted_means_what_another_reader_says() {
    let seed = seed();
    let mut random = Random(seed | 1);
    let mut compared = 0;
    for _ in 0..3000 {
        let text = mutate(PBTXT_SEEDS[random.below(PBTXT_SEEDS.len())], &mut random);
        if let Ok(configuration) = ModelConfiguration::from_pbtxt(&text) {
            let Some(reference) = reference(&text) else { continue };
            assert_eq!(reference, configuration.to_json(), "seed {seed}: {text}");
            compared += 1;
        }
    }
    assert!(compared > 30, "only {compared} of the texts were accepted");
}

#[test]
fn the_seeds_are_valid() {
    for text in PBTXT_SEEDS {
        assert_eq!(reference(text), Some(pbtxt(text).to_json()), "{text}");
    }
    toml(TOML_SEED);
}
