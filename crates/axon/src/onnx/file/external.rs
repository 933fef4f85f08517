//! Data of tensors that lies in files beside the model.
//!
//! **Source:** onnx.proto3, `TensorProto.external_data`; robustness.md T20: links, pipes, devices and paths that lead out
//! of the model's folder have all been used to read other files.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use crate::error::Echo;

/// The longest path, in bytes. **Source:** Linux `PATH_MAX`.
const MAX_PATH: usize = 4096;

/// Where a tensor's data lies, as the file says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct External {
    pub location: Option<String>,
    pub offset: Option<String>,
    pub length: Option<String>,
}

/// What is wrong: the key of `external_data`, and the problem.
pub(super) type Wrong = (&'static str, String);

impl External {
    /// An entry of `external_data`; keys that say nothing of where the data lies are passed over.
    pub fn enter(&mut self, key: &[u8], value: &[u8]) {
        let value = String::from_utf8_lossy(value).into_owned();
        match key {
            b"location" => self.location = Some(value),
            b"offset" => self.offset = Some(value),
            b"length" => self.length = Some(value),
            _ => {}
        }
    }

    /// The file below `folder` that holds the data, of which there must be `bytes`.
    pub fn check(&self, folder: Option<&Path>, bytes: u64) -> Result<PathBuf, Wrong> {
        let location = self.location.as_deref().unwrap_or_default();
        let relative = confined(location).map_err(|problem| ("location", problem))?;
        let Some(folder) = folder else {
            return Err(("location", "a model without a folder has no files beside it".to_owned()));
        };
        let size = regular(folder, &relative)
            .map_err(|problem| ("location", format!("{problem}, got {}", Echo(location))))?
            .len();
        let offset = number("offset", self.offset.as_deref())?.unwrap_or(0);
        let length = number("length", self.length.as_deref())?.unwrap_or(bytes);
        if length != bytes {
            return Err((
                "length",
                format!("expected {bytes} bytes, as its shape and type take, got {length}"),
            ));
        }
        match offset.checked_add(length) {
            Some(end) if end <= size => Ok(folder.join(relative)),
            _ => Err((
                "offset",
                format!(
                    "expected {length} bytes from {offset} on inside the file {} of {size} bytes, got fewer",
                    Echo(location)
                ),
            )),
        }
    }
}

fn number(key: &'static str, text: Option<&str>) -> Result<Option<u64>, Wrong> {
    let Some(text) = text else { return Ok(None) };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u64>().ok().filter(|number| digits && i64::try_from(*number).is_ok()) {
        Some(number) => Ok(Some(number)),
        None => Err((key, format!("expected a number from 0 to 2^63-1, got {}", Echo(text)))),
    }
}

/// A path of names alone: it leads nowhere but down.
fn confined(location: &str) -> Result<PathBuf, String> {
    let expected = |what: &str| Err(format!("expected {what}, got {}", Echo(location)));
    if location.is_empty() || location.len() > MAX_PATH {
        return expected("a path of 1 to 4096 bytes");
    }
    if location.chars().any(char::is_control) || location.contains(char::REPLACEMENT_CHARACTER) {
        return expected("a path of printable characters");
    }
    let mut path = PathBuf::new();
    for component in Path::new(location).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return expected("a relative path without `..` that stays in the model's folder");
            }
        }
    }
    if path.as_os_str().is_empty() || location.ends_with('/') {
        expected("the path of a file")
    } else {
        Ok(path)
    }
}

/// A regular file below `folder` that is reached through no link and has no other name.
fn regular(folder: &Path, relative: &Path) -> Result<Metadata, String> {
    let mut path = folder.to_owned();
    let mut names = relative.components().peekable();
    while let Some(name) = names.next() {
        path.push(name);
        let metadata = std::fs::symlink_metadata(&path)
            .map_err(|error| format!("expected a file in the model's folder ({})", error.kind()))?;
        if metadata.is_symlink() {
            return Err("expected a file that is reached through no symbolic link".to_owned());
        }
        if names.peek().is_some() {
            continue;
        }
        if !metadata.is_file() {
            return Err("expected a regular file".to_owned());
        }
        // The other name may lie anywhere, so that this is a link out of the folder like any other.
        if metadata.nlink() > 1 {
            return Err("expected a file with one name, without hard links".to_owned());
        }
        return Ok(metadata);
    }
    Err("expected the path of a file".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn at(location: &str, offset: Option<&str>, length: Option<&str>) -> External {
        let text = |text: &str| text.to_owned();
        External { location: Some(text(location)), offset: offset.map(text), length: length.map(text) }
    }

    #[test]
    fn only_whole_regular_files_below_the_folder_are_read() {
        let root = std::env::temp_dir().join(format!("axon-external-{}", std::process::id()));
        let folder = Folder(root.clone());
        let model = root.join("model");
        std::fs::create_dir_all(model.join("sub")).unwrap();
        std::fs::write(root.join("canary"), [7; 64]).unwrap();
        for name in ["w", "linked", "sub/w"] {
            std::fs::write(model.join(name), [1; 64]).unwrap();
        }
        std::fs::hard_link(model.join("linked"), root.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("../canary", model.join("link")).unwrap();
        std::os::unix::fs::symlink("..", model.join("up")).unwrap();
        let check = |external: &External| external.check(Some(&model), 64);
        for location in ["w", "./w", "sub/w"] {
            assert!(check(&at(location, None, None)).is_ok(), "{location}");
        }
        assert!(at("w", Some("32"), Some("32")).check(Some(&model), 32).is_ok());
        for location in [
            "",
            ".",
            "sub",
            "sub/",
            "../canary",
            "sub/../../canary",
            "/etc/passwd",
            "link",
            "up/canary",
            "linked",
            "missing",
            "w\0",
            "*/_ORT_MEM_ADDR_/*",
            "w\n",
        ] {
            assert_eq!(check(&at(location, None, None)).unwrap_err().0, "location", "{location}");
        }
        for offset in
            ["-4", "9223372036854775807", "18446744073709551615", "9223372036854775808", "1", "x", "", "+0"]
        {
            assert_eq!(check(&at("w", Some(offset), None)).unwrap_err().0, "offset", "{offset}");
        }
        for length in ["63", "65", "-1"] {
            assert_eq!(check(&at("w", None, Some(length))).unwrap_err().0, "length", "{length}");
        }
        assert_eq!(External::default().check(Some(&model), 64).unwrap_err().0, "location");
        assert_eq!(at("w", None, None).check(None, 64).unwrap_err().0, "location");
        drop(folder);
    }
}
