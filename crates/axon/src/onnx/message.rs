//! What ONNX Runtime says went wrong, as a caller may read it: without paths of this host, source lines and addresses.
//!
//! Names of nodes and tensors look much like paths (`/encoder/layer.0/MatMul`), and are what the caller needs. So a word
//! is taken for a path where it begins with a folder that this host has at its root, or ends as a file does.

use std::path::Path;

/// The longest message, in characters.
const MAX_LENGTH: usize = 400;

/// How files end that ONNX Runtime speaks of.
const FILES: [&str; 10] =
    [".onnx", ".ort", ".so", ".bin", ".data", ".weights", ".pb", ".json", ".py", ".txt"];

/// How files of source code end, before a line's number.
const SOURCES: [&str; 6] = [".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp"];

/// What a message of ONNX Runtime says.
pub(super) fn of(message: &str) -> String {
    let text = message.rsplit_once("Status Message: ").map_or(message, |(_, text)| text);
    let text = behind_signature(text).lines().next().unwrap_or_default().trim();
    let words: Vec<&str> = text.split_whitespace().filter(|word| !is_internal(word)).collect();
    let text: String =
        words.join(" ").chars().filter(|character| !character.is_control()).take(MAX_LENGTH).collect();
    if text.is_empty() { "no reason given".to_owned() } else { text }
}

/// What follows the source line and the signature of a function, which ONNX Runtime puts in front of some messages.
fn behind_signature(text: &str) -> &str {
    let line = [".cc:", ".h:"].into_iter().filter_map(|end| text.find(end)).min();
    let Some(mut rest) = line.and_then(|at| text.get(at..)) else { return text };
    loop {
        let Some(end) = rest.find('(').and_then(|start| Some(start + closing(rest.get(start..)?)?)) else {
            return text;
        };
        rest = rest.get(end + 1..).unwrap_or_default();
        // `(anonymous namespace)::Class::function(int) const`
        if !rest.starts_with("::") {
            return rest.strip_prefix(" const").unwrap_or(rest);
        }
    }
}

/// Where the parenthesis is closed that `text` begins with.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    text.char_indices().find_map(|(at, character)| {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => return None,
        }
        (depth == 0).then_some(at)
    })
}

/// Whether a word is about this host or the runtime's insides, and not about the model or its inputs.
fn is_internal(word: &str) -> bool {
    word.contains("::") || is_address(word) || pieces(word).any(is_source) || is_path(word)
}

/// The parts of a word between what cannot stand in a name.
fn pieces(word: &str) -> impl Iterator<Item = &str> {
    word.split(|character: char| "'\"`()[]{}<>,;=:".contains(character)).filter(|piece| !piece.is_empty())
}

fn is_source(piece: &str) -> bool {
    SOURCES.iter().any(|end| piece.ends_with(end))
}

/// `0x` and at least four digits.
fn is_address(word: &str) -> bool {
    let mut before = "";
    word.split("0x").enumerate().any(|(number, part)| {
        let is_begun = number > 0 && !before.ends_with(|last: char| last.is_ascii_alphanumeric());
        before = part;
        is_begun && part.bytes().take_while(u8::is_ascii_hexdigit).count() >= 4
    })
}

fn is_path(word: &str) -> bool {
    pieces(word).filter(|piece| piece.contains('/')).any(|piece| {
        let file = piece.trim_end_matches(['.', '!', '?', '/']);
        let is_file =
            FILES.iter().any(|end| file.ends_with(end)) || piece.starts_with("./") || piece.contains("../");
        is_file || begins_at_the_root(piece)
    })
}

/// Whether a text begins with a folder that is there; who asks has failed, so that the look costs nothing that counts.
fn begins_at_the_root(piece: &str) -> bool {
    let first = piece.trim_start_matches('/').split('/').next().unwrap_or_default();
    piece.starts_with('/') && !first.is_empty() && Path::new("/").join(first).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_runtimes_insides_is_repeated() {
        let check = |message, expected| assert_eq!(of(message), expected);
        check(
            "Non-zero status code returned while running Gather node. Name:'g' Status Message: indices element out of \
             data bounds, idx=7 must be within the inclusive range [-3,2]",
            "indices element out of data bounds, idx=7 must be within the inclusive range [-3,2]",
        );
        check(
            "/onnxruntime_src/onnxruntime/core/framework/x.cc:123 onnxruntime::Foo() shape mismatch at 0x7f00",
            "shape mismatch at",
        );
        check(
            "Load model from /m.onnx failed:/src/model_load_utils.h:46 void onnxruntime::(anonymous namespace)::Check(const \
             std::map<std::string, int>&, void (*)(int)) const Opset 999 is under development",
            "Opset 999 is under development",
        );
        check("/src/x.cc:12 cut off in its signature(const int", "cut off in its signature(const int");
        check("[E:onnxruntime:, x.cc:7 Run] failed", "[E:onnxruntime:, Run] failed");
        check("see core/graph/graph.h(12) for more", "see for more");
        check("", "no reason given");
    }

    #[test]
    fn paths_of_this_host_are_left_out() {
        for path in [
            "/tmp/models/m/1/model.onnx",
            "'/nowhere/m.onnx'",
            "path=/usr/lib/x",
            "(/etc/passwd)",
            "file:///tmp/x",
            "\"/proc/self/maps\",",
            "models/m/model.onnx.",
            "../secret/x",
            "./here/x",
            "/nowhere/weights.bin:",
        ] {
            assert_eq!(of(&format!("cannot read {path} today")), "cannot read today", "{path}");
        }
    }

    #[test]
    fn names_and_numbers_with_slashes_are_kept() {
        for word in [
            "'/no_such_encoder/layer.0/attention/MatMul'",
            "Name:'/no_such_decoder/Gather_1'",
            "bert/embeddings/Gather:0",
            "N/A",
            "3/4",
            "/",
            "and/or",
            "tokens/s",
            "10x20",
            "0x1",
        ] {
            assert_eq!(of(&format!("got {word} there")), format!("got {word} there"));
        }
    }
}
