//! One file for each step: reading, what is done with each field, fitting to a model, and mutated texts.

mod fields;
mod fitting;
mod mutation;
mod reading;

use super::*;

/// The error of a `config.pbtxt`, without the file's name.
fn pbtxt_error(text: &str) -> String {
    let error = ModelConfiguration::from_pbtxt(text).expect_err(text);
    assert_eq!(error.kind(), ErrorKind::InvalidModel, "{error}");
    let message = error.message();
    message.strip_prefix("config.pbtxt:").unwrap_or_else(|| panic!("no file: {message}")).to_owned()
}

fn pbtxt(text: &str) -> ModelConfiguration {
    ModelConfiguration::from_pbtxt(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn toml(text: &str) -> ModelConfiguration {
    ModelConfiguration::from_toml(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A folder that is removed when it is dropped.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("axon-configuration-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.0.join(name), bytes).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
