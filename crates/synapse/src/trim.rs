//! glibc's allocator: what it has handed out, how it spreads it, and that what was freed goes back to the system.

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

/// The largest block that comes from a heap. **Source:** glibc's own limit of what it learns.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGEST_IN_A_HEAP: i32 = 32 << 20;

/// What a heap keeps free at its end until it is trimmed. **Source:** as above.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_AT_THE_END: i32 = 64 << 20;

/// Suits the C library's allocator to models that come and go, from now on: at most `count` heaps, which keep what was
/// freed until [`trim`]. Does nothing where it is not glibc's, or where the user has suited it himself by a variable of
/// glibc. Affects the whole process: for whoever owns it.
///
/// Each heap keeps what is free below its last block in use: with glibc's eight for each core, and a thread for each
/// load, models leave half as much again as they take. And by itself glibc gives the memory of a model back at once, so
/// that the next has a page fault for each page. **Source:** `benchmarks/residency`; mallopt(3).
pub fn settle_allocator(count: usize) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const M_TRIM_THRESHOLD: i32 = -1;
        const M_MMAP_THRESHOLD: i32 = -3;
        const M_ARENA_MAX: i32 = -8;
        // SAFETY: glibc's own function, which takes any numbers and locks what it touches; the declaration is that of
        // `malloc.h`.
        unsafe extern "C" {
            safe fn mallopt(parameter: i32, value: i32) -> i32;
        }
        let is_set = ["MALLOC_ARENA_MAX", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"]
            .into_iter()
            .any(|name| std::env::var_os(name).is_some());
        if is_set || std::env::var("GLIBC_TUNABLES").is_ok_and(|text| text.contains("glibc.malloc.")) {
            return;
        }
        let heaps = i32::try_from(count).unwrap_or(i32::MAX);
        let settings = [
            (M_ARENA_MAX, heaps),
            (M_MMAP_THRESHOLD, LARGEST_IN_A_HEAP),
            (M_TRIM_THRESHOLD, KEPT_AT_THE_END),
        ];
        for (parameter, value) in settings {
            // It fails for what it does not know, and then nothing is changed.
            let _ = mallopt(parameter, value);
        }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = count;
}

/// What the C library's allocator has handed out and not got back, to be compared with another moment's.
#[derive(Clone, Copy, Debug)]
pub struct Allocated {
    /// From its heaps, modulo 2^32.
    heaps: u32,
    /// In blocks of their own, modulo 2^32.
    blocks: u32,
    /// Free in its heaps, whether or not it was trimmed, modulo 2^32.
    free: u32,
}

impl Allocated {
    /// Now; `None` where the allocator is not glibc's. Looks through what is free, which takes microseconds to
    /// milliseconds.
    #[must_use]
    pub fn now() -> Option<Self> {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        {
            /// **Source:** glibc's `malloc.h`. `mallinfo2`, which has wider numbers, is missing before glibc 2.33.
            #[repr(C)]
            struct MallInfo {
                arena: i32,
                ordblks: i32,
                smblks: i32,
                hblks: i32,
                hblkhd: i32,
                usmblks: i32,
                fsmblks: i32,
                uordblks: i32,
                fordblks: i32,
                keepcost: i32,
            }
            // SAFETY: glibc's own function, which has no preconditions and locks what it reads; the declarations are
            // those of `malloc.h`.
            unsafe extern "C" {
                safe fn mallinfo() -> MallInfo;
            }
            let info = mallinfo();
            Some(Self {
                heaps: info.uordblks.cast_unsigned(),
                blocks: info.hblkhd.cast_unsigned(),
                free: info.fordblks.cast_unsigned(),
            })
        }
        #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
        None
    }

    /// The bytes that are free in its heaps, modulo 2^32, whether or not they were given back to the system.
    #[must_use]
    pub fn free(self) -> u32 {
        self.free
    }

    /// The bytes more than at `before`; 0 where there are fewer. Right as long as it is less than 2 GiB.
    #[must_use]
    pub fn more_than(self, before: Self) -> u64 {
        let more = |now: u32, before: u32| i64::from(now.wrapping_sub(before).cast_signed());
        let sum = more(self.heaps, before.heaps) + more(self.blocks, before.blocks);
        u64::try_from(sum).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_out_shows_also_past_the_widest_number() {
        let at = |heaps, blocks| Allocated { heaps, blocks, free: 0 };
        assert_eq!(at(10, 5).more_than(at(3, 1)), 11);
        assert_eq!(at(10, 0).more_than(at(u32::MAX, 0)), 11);
        assert_eq!(at(10, 100).more_than(at(20, 50)), 40, "between the two");
        assert_eq!(at(0, 0).more_than(at(20, 50)), 0);
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn a_block_in_use_counts() {
        let before = Allocated::now().unwrap();
        // Other tests allocate meanwhile, far less.
        let block = vec![1_u8; 64 << 20];
        let more = Allocated::now().unwrap().more_than(before);
        assert!((60 << 20..70 << 20).contains(&more), "{more} bytes, of {}", block.len());
    }
}
