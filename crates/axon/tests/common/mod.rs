//! What the tests of repository control share: a repository in a temporary folder, and models made on the spot.
#![allow(clippy::unwrap_used, reason = "a test fails here")]
#![allow(dead_code, reason = "each test file uses some of it")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axon::Tensor;
use axon::config::{ControlMode, ServerConfig};
use axon::server::InferenceServer;

/// Far longer than anything here takes: a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A repository, removed when dropped.
pub struct Repository {
    pub root: PathBuf,
}

impl Repository {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("axon-control-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        Self { root }
    }

    /// Puts `bytes` where version `version` of `model` is read from.
    pub fn write(&self, model: &str, version: u64, bytes: &[u8]) -> &Self {
        let folder = self.root.join(model).join(version.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        // The newest version alone is served where nothing is said.
        std::fs::write(self.root.join(model).join("config.pbtxt"), "version_policy { all { } }\n").unwrap();
        // Moved into place: who reads meanwhile reads the one or the other.
        std::fs::write(folder.join("new"), bytes).unwrap();
        std::fs::rename(folder.join("new"), folder.join("model.onnx")).unwrap();
        self
    }

    pub fn remove(&self, model: &str, version: u64) {
        let folder = self.root.join(model);
        std::fs::remove_dir_all(folder.join(version.to_string())).unwrap();
        if std::fs::read_dir(&folder).unwrap().count() == 1 {
            // Only the configuration is left.
            std::fs::remove_dir_all(folder).unwrap();
        }
    }

    /// A server in explicit mode that has loaded `models`.
    pub fn serve(&self, models: &[&str]) -> InferenceServer {
        InferenceServer::load_blocking(&self.root, explicit(models)).unwrap()
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.root).unwrap();
    }
}

pub fn explicit(models: &[&str]) -> ServerConfig {
    let load_models = models.iter().map(ToString::to_string).collect();
    ServerConfig { control: ControlMode::Explicit, load_models, ..ServerConfig::default() }
}

/// The index as one line for each entry: `name version state reason`.
pub fn index(server: &InferenceServer) -> Vec<String> {
    let line = |entry: axon::repository::IndexEntry| {
        let version = entry.version.map_or_else(|| "-".to_owned(), |version| version.to_string());
        format!("{} {version} {} {}", entry.name, entry.state, entry.reason.unwrap_or_default())
            .trim_end()
            .to_owned()
    };
    server.index(false).into_iter().map(line).collect()
}

/// Waits until `condition` holds.
pub fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn digits() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/digits/digits.onnx");
    std::fs::read(path).unwrap()
}

/// Row `number` of made-up ink for the digits classifier: every row differs.
pub fn image(number: usize) -> Tensor {
    let pixels = (0..64).map(|pixel| ((pixel * 7 + number * 31) % 17) as f32);
    Tensor::from_vec(&[1, 64], pixels.collect()).unwrap()
}

/// One row of two numbers.
pub fn row(number: f32) -> Tensor {
    Tensor::from_vec(&[1, 2], vec![number; 2]).unwrap()
}

/// A model that adds `addend` to rows of two numbers. **Source:** onnx.proto3, field numbers.
pub fn adder(addend: f32) -> Vec<u8> {
    let text = |number, text: &str| field(number, text.as_bytes());
    let tensor_of = |dimensions: &[u8]| {
        let tensor = [varint(1, 1), field(2, dimensions)].concat();
        field(2, &field(1, &tensor))
    };
    let rows = [field(1, &text(2, "rows")), field(1, &varint(1, 2))].concat();
    let info = |name| [text(1, name), tensor_of(&rows)].concat();
    let initializer =
        [varint(1, 1), varint(2, 1), text(8, "addend"), field(9, &addend.to_le_bytes())].concat();
    let node = [text(1, "x"), text(1, "addend"), text(2, "y"), text(4, "Add")].concat();
    let graph = [
        field(1, &node),
        text(2, "adder"),
        field(5, &initializer),
        field(11, &info("x")),
        field(12, &info("y")),
    ];
    [varint(1, 8), field(7, &graph.concat()), field(8, &[text(1, ""), varint(2, 17)].concat())].concat()
}

fn varint(number: u8, value: u8) -> Vec<u8> {
    assert!(value < 128);
    vec![number << 3, value]
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let [low, high] = [bytes.len() % 128 + 128, bytes.len() / 128].map(|part| u8::try_from(part).unwrap());
    let mut field = vec![(number << 3) | 2, low, high];
    field.extend(bytes);
    field
}
