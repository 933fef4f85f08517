//! The options of one run, through which it can be ended from another thread.

use std::ptr;

use ort::sys;

use super::run::check;

/// The options of one run.
pub(super) struct RunOptions(*mut sys::OrtRunOptions);

// SAFETY: the options belong to no thread; ONNX Runtime documents that a run is ended by setting its flag while another
// thread runs with them.
unsafe impl Send for RunOptions {}
// SAFETY: as above; nothing but that flag is changed after they are made.
unsafe impl Sync for RunOptions {}

impl RunOptions {
    /// Options that change nothing.
    pub fn new() -> ort::Result<Self> {
        let mut options = ptr::null_mut();
        // SAFETY: `options` is ours on success.
        check(unsafe { (ort::api().CreateRunOptions)(&raw mut options) })?;
        Ok(Self(options))
    }

    /// For the call that runs; valid for as long as this value is.
    pub fn as_ptr(&self) -> *const sys::OrtRunOptions {
        self.0
    }

    /// Ends the run before its next node.
    pub fn terminate(&self) {
        // SAFETY: the options live as long as this value does. The call cannot fail: it sets a flag.
        if let Err(error) = check(unsafe { (ort::api().RunOptionsSetTerminate)(self.0) }) {
            tracing::error!("a run could not be ended: {}", error.message());
        }
    }
}

impl Drop for RunOptions {
    fn drop(&mut self) {
        // SAFETY: made for this value alone and released once, when no run uses them any more: each run holds them.
        unsafe { (ort::api().ReleaseRunOptions)(self.0) }
    }
}
