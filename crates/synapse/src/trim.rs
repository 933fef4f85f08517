//! Memory that was freed goes back to the system.

/// Gives what the C library's allocator holds free back to the system; does nothing where it is not glibc's, which gives
/// back by itself or cannot be asked. Takes milliseconds.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: glibc's own function, which has no preconditions and locks what it touches; the declaration is that of
        // `malloc.h`.
        unsafe extern "C" {
            safe fn malloc_trim(pad: usize) -> i32;
        }
        // Whether there was anything to give back makes no difference.
        let _ = malloc_trim(0);
    }
}
