//! Replays the corpus of every target, then breaks it at random for some time: `AXON_FUZZ_SECONDS` for each target (2),
//! from `AXON_FUZZ_SEED`, which is printed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use axon_fuzz::TARGETS;

/// The longest input that mutation makes.
const MAX_LENGTH: usize = 64 << 10;

/// Bytes that mean something to one parser or another.
const TELLING: &[u8] = b"{}[]<>\"\\,:;#-+.0129eEnu/%\x00\x7f\xff";

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or_default() % limit.max(1)
    }
}

fn main() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (seed, seconds) = (number("AXON_FUZZ_SEED", 1), number("AXON_FUZZ_SECONDS", 2));
    println!("AXON_FUZZ_SEED={seed}");
    for (name, target) in TARGETS {
        let corpus = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name));
        assert!(!corpus.is_empty(), "no corpus for {name}");
        corpus.iter().for_each(|input| target(input));
        let mut random = Random(seed);
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut runs = 0_u64;
        while Instant::now() < end {
            for _ in 0..64 {
                target(&mutated(&corpus, &mut random));
                runs += 1;
            }
        }
        println!("{name}: {} of the corpus, {runs} mutations", corpus.len());
    }
}

fn read(folder: &Path) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.iter().filter_map(|file| std::fs::read(file).ok()).collect()
}

fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        match random.below(7) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = u8::try_from(random.below(256)).unwrap_or_default(),
            2 => input.truncate(at),
            3 => input.insert(at, TELLING[random.below(TELLING.len())]),
            4 if input.len() < MAX_LENGTH => input.extend_from_within(at..),
            5 if at < input.len() => drop(input.remove(at)),
            _ => {
                let other = &corpus[random.below(corpus.len())];
                input.truncate(at);
                input.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
        }
    }
    input
}
