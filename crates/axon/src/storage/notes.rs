//! Small texts by name: what has been found out and is cheap to find out again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::{Disk, enter, hexadecimal};

/// The longest note, in bytes.
const MAX_NOTE: u64 = 1 << 20;

/// `body` under a heading and a digest of both and of its name.
pub(crate) fn seal(heading: &str, name: &str, body: &str) -> String {
    format!("{heading}\n{}\n{body}", check(heading, name, body))
}

/// The body of what [`seal`] made with the same heading and name; `None` when a byte of it is another, or missing.
pub(crate) fn unseal<'a>(heading: &str, name: &str, text: &'a str) -> Option<&'a str> {
    let (digest, body) = text.strip_prefix(heading)?.strip_prefix('\n')?.split_once('\n')?;
    (digest == check(heading, name, body)).then_some(body)
}

fn check(heading: &str, name: &str, body: &str) -> String {
    let mut digest = Sha256::new();
    for part in [heading, name, body] {
        enter(&mut digest, part.as_bytes());
    }
    hexadecimal(&digest.finalize())
}

/// A folder of notes of one kind; without one nothing is known and nothing is noted.
#[derive(Clone)]
pub(crate) struct Notes {
    folder: Option<PathBuf>,
    /// What each begins with, which says its kind and format.
    heading: &'static str,
    /// The most that are kept; the oldest go first.
    most: usize,
    disk: Disk,
}

impl Notes {
    pub fn open(folder: Option<PathBuf>, heading: &'static str, most: usize, disk: Disk) -> Self {
        Self { folder, heading, most, disk }
    }

    /// The body of a note; `None` when there is none, or none that is whole.
    pub fn read(&self, name: &str) -> Option<String> {
        let bytes = self.disk.read(&self.folder.as_ref()?.join(name), MAX_NOTE).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        unseal(self.heading, name, &text).map(str::to_owned)
    }

    /// Writes a note, in place of the one before.
    ///
    /// # Errors
    /// When it cannot be written; what was there is there still.
    pub fn write(&self, name: &str, body: &str) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        self.disk.make_folder(folder)?;
        let text = seal(self.heading, name, body);
        let (unfinished, place) = (unfinished(folder, name), folder.join(name));
        let written = self
            .disk
            .write(&unfinished, text.as_bytes())
            .and_then(|()| self.disk.rename(&unfinished, &place));
        if written.is_err() {
            // Whatever is left of it is forgotten with the oldest notes.
            let _ = self.disk.remove_file(&unfinished);
            return written;
        }
        self.forget()
    }

    /// Removes a note.
    ///
    /// # Errors
    /// When it is there and stays.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.folder.as_ref().map_or(Ok(()), |folder| self.disk.remove_file(&folder.join(name)))
    }

    /// Removes the oldest past the most that are kept, those that were never moved into place among them.
    fn forget(&self) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let paths = self.disk.list(folder)?;
        if paths.len() <= self.most {
            return Ok(());
        }
        let age = |path: PathBuf| {
            let modified = self.disk.metadata(&path).and_then(|metadata| metadata.modified());
            (modified.unwrap_or(SystemTime::UNIX_EPOCH), path)
        };
        let mut files: Vec<_> = paths.into_iter().map(age).collect();
        files.sort();
        for (_, path) in files.iter().take(files.len().saturating_sub(self.most)) {
            self.disk.remove_file(path)?;
        }
        Ok(())
    }
}

/// A name that no other process and no other thread has.
fn unfinished(folder: &Path, name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    folder.join(format!("{name}.{}-{number}", std::process::id()))
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

    fn notes(test: &str, most: usize) -> (Folder, Notes) {
        let folder = std::env::temp_dir().join(format!("axon-notes-{test}-{}", std::process::id()));
        let notes = Notes::open(Some(folder.join("below")), "test 1", most, Disk::default());
        (Folder(folder), notes)
    }

    #[test]
    fn a_note_that_is_torn_changed_or_anothers_counts_as_none() {
        let (folder, notes) = notes("torn", 10);
        assert_eq!(notes.read("abc"), None);
        notes.write("abc", "body").unwrap();
        assert_eq!(notes.read("abc").as_deref(), Some("body"));
        let path = folder.0.join("below").join("abc");
        let whole = std::fs::read(&path).unwrap();
        for byte in 0..whole.len() {
            std::fs::write(&path, &whole[..byte]).unwrap();
            assert_eq!(notes.read("abc"), None, "cut at {byte}");
            let mut flipped = whole.clone();
            flipped[byte] ^= 1 << (byte % 8);
            std::fs::write(&path, flipped).unwrap();
            assert_eq!(notes.read("abc"), None, "flipped at {byte}");
        }
        std::fs::write(&path, seal("test 1", "abd", "body")).unwrap();
        assert_eq!(notes.read("abc"), None);
        std::fs::write(&path, seal("test 2", "abc", "body")).unwrap();
        assert_eq!(notes.read("abc"), None);
        notes.write("abc", "other").unwrap();
        assert_eq!(notes.read("abc").as_deref(), Some("other"));
        notes.remove("abc").unwrap();
        assert_eq!(notes.read("abc"), None);
    }

    #[test]
    fn the_oldest_notes_are_forgotten() {
        let (folder, notes) = notes("many", 100);
        for number in 0..10_u32 {
            notes.write(&number.to_string(), "").unwrap();
            let path = folder.0.join("below").join(number.to_string());
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number.into()))
                .unwrap();
        }
        Notes { most: 4, ..notes.clone() }.forget().unwrap();
        let kept: Vec<u32> = (0..10).filter(|number| notes.read(&number.to_string()).is_some()).collect();
        assert_eq!(kept, [6, 7, 8, 9]);
    }

    #[test]
    fn without_a_folder_nothing_is_noted() {
        let notes = Notes::open(None, "test 1", 10, Disk::default());
        notes.write("abc", "body").unwrap();
        assert_eq!(notes.read("abc"), None);
    }
}
