//! The name under which an imported model is kept: all that what was written depends on.

use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::config::Device;
use crate::onnx::{ModelFile, runtime_version};
use crate::storage::{Digests, enter, hexadecimal};

/// Another when entries are written in another way.
const FORMAT: &str = "axon import 1";

/// Where Linux says what the processor can do.
const PROCESSORS: &str = "/proc/cpuinfo";

/// The name for the model at `path`.
///
/// # Errors
/// When a file of the model cannot be read.
pub(super) fn key(path: &Path, outline: &ModelFile, device: Device, digests: &Digests) -> io::Result<String> {
    let mut whole = Sha256::new();
    for text in [FORMAT, runtime_version().unwrap_or_default(), device.name(), &abilities(&processor())] {
        enter(&mut whole, text.as_bytes());
    }
    digests.enter_model(&mut whole, path, &outline.external)?;
    Ok(hexadecimal(&whole.finalize()))
}

fn processor() -> String {
    std::fs::read_to_string(PROCESSORS).unwrap_or_default()
}

/// What decides how ONNX Runtime lays out weights: the architecture, and the instructions that the processor has, as it
/// lists them. Where it lists none, the architecture alone, as nothing is moved to another machine by itself.
/// **Source:** Linux, `flags` on x86, `Features` and the part's number on ARM.
fn abilities(processor: &str) -> String {
    let wanted = ["flags", "Features", "CPU implementer", "CPU part"];
    let mut found = vec![std::env::consts::ARCH.to_owned()];
    for line in processor.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let line = format!("{}:{}", name.trim(), value.trim());
        // Each processor of the machine is listed, most of them alike.
        if wanted.contains(&name.trim()) && !found.contains(&line) {
            found.push(line);
        }
    }
    found.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_follows_what_the_processor_can_do() {
        let one = "processor : 0\nflags\t: fpu avx2\nMHz : 1\n\nprocessor : 1\nflags\t: fpu avx2\nMHz : 2\n";
        assert_eq!(abilities(one), abilities("flags : fpu avx2"));
        assert_ne!(abilities(one), abilities("flags : fpu avx2 avx512f"));
        assert_ne!(abilities("Features : fp asimd"), abilities("Features : fp asimd\nCPU part : 0xd0c"));
    }
}
