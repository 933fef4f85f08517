//! What the system tells of changes in folders; nothing on systems where it is not asked.

use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

#[cfg(target_os = "linux")]
use std::os::fd::AsFd;

/// The folders that are watched, and what they have told.
pub(crate) struct Events {
    inotify: Option<OwnedFd>,
    /// That not all folders can be watched has been said.
    is_short: bool,
}

#[cfg(target_os = "linux")]
impl Events {
    /// Begins with no folder.
    pub fn start() -> Self {
        use rustix::fs::inotify::{CreateFlags, init};
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        let inotify =
            inotify.map_err(|error| tracing::warn!("changes are found at intervals alone: {error}"));
        Self { inotify: inotify.ok(), is_short: false }
    }

    /// Watches `folders` from now on, besides those that are watched. One that is removed is watched no more.
    pub fn watch(&mut self, folders: &BTreeSet<PathBuf>) {
        use rustix::fs::inotify::{WatchFlags, add_watch};
        let Some(inotify) = &self.inotify else { return };
        // Not each write: a file that is being written is looked at again until it has settled.
        let told = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        for folder in folders {
            // One that has gone since it was listed is passed over.
            if add_watch(inotify, folder, told) != Err(rustix::io::Errno::NOSPC) {
                continue;
            }
            if !std::mem::replace(&mut self.is_short, true) {
                tracing::warn!(
                    "the system watches no more folders, so that some changes are found at intervals alone\nhint: raise fs.inotify.max_user_watches"
                );
            }
            return;
        }
    }

    /// Forgets what has been told: the look that follows sees it.
    pub fn clear(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let mut buffer = [0; 4096];
        while rustix::io::read(inotify, &mut buffer).is_ok_and(|size| size > 0) {}
    }

    /// What is readable when a change has been told.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }
}

#[cfg(not(target_os = "linux"))]
impl Events {
    /// Begins with no folder.
    pub fn start() -> Self {
        Self { inotify: None, is_short: false }
    }

    /// Does nothing here.
    pub fn watch(&mut self, folders: &BTreeSet<PathBuf>) {
        self.is_short |= !folders.is_empty();
    }

    /// Does nothing here.
    pub fn clear(&mut self) {}

    /// Nothing is told here.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Events {
    /// Whether the system tells of changes at all.
    pub fn are_told(&self) -> bool {
        self.inotify.is_some()
    }
}
