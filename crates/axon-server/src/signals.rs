//! SIGINT and SIGTERM: the first drains, the second ends the process at once.

use std::future::Future;
use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Resolves at the first SIGINT or SIGTERM. From then on the next one ends the process with 130 or 143.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn first_of_interrupt_and_terminate() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tokio::spawn(async move {
            let code = tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            };
            // Without destructors: ONNX Runtime's would run under the feet of the instances that still use it.
            signal_hook::low_level::exit(code);
        });
    })
}
