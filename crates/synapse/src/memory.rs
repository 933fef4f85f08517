//! Bytes that tensors live in: owned and aligned, or borrowed from whoever keeps them alive.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;

/// Alignment in bytes of memory that Axon allocates: a cache line and the widest vector register.
pub const ALIGNMENT: usize = 64;

/// Bytes that one owner may still write; [`MemoryMut::freeze`] makes them shareable.
pub struct MemoryMut {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: `MemoryMut` owns its allocation alone, like a `Box<[u8]>`.
unsafe impl Send for MemoryMut {}
// SAFETY: as above; `&MemoryMut` gives only `&[u8]`.
unsafe impl Sync for MemoryMut {}

impl MemoryMut {
    /// `length` zero bytes at an address that is a multiple of [`ALIGNMENT`].
    #[must_use]
    pub fn zeroed(length: usize) -> Self {
        if length == 0 {
            return Self { start: NonNull::<Aligned>::dangling().cast(), length };
        }
        let layout = Self::layout(length);
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, length }
    }

    /// A copy of `parts`, one behind the other. Each byte is written once: large tensors are not zeroed first.
    fn of_parts(parts: &[&[u8]]) -> Self {
        let length = parts.iter().fold(0_usize, |sum, part| {
            sum.checked_add(part.len()).expect("parts that are all in memory fit the address space")
        });
        if length == 0 {
            return Self::zeroed(0);
        }
        let layout = Self::layout(length);
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        let mut written = 0;
        for part in parts {
            // SAFETY: the parts' lengths add up to `length`, so that each is copied behind the one before and inside the
            // allocation, which is new and overlaps none of them. When the last is written, every byte is initialised.
            unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), start.as_ptr().add(written), part.len()) };
            written += part.len();
        }
        Self { start, length }
    }

    fn layout(length: usize) -> Layout {
        Layout::from_size_align(length, ALIGNMENT)
            .expect("no slice is longer than isize::MAX less one cache line")
    }

    /// The same bytes, no longer writable and cheap to clone.
    #[must_use]
    pub fn freeze(self) -> Memory {
        Memory { start: self.start, length: self.length, owner: Some(Arc::new(self)), is_lent: false }
    }
}

#[repr(align(64))]
struct Aligned;

impl Drop for MemoryMut {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: `zeroed` or `of_parts` allocated it with this very layout, and nobody else frees it.
            unsafe { dealloc(self.start.as_ptr(), Self::layout(self.length)) }
        }
    }
}

impl Deref for MemoryMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `length` initialised bytes that this value owns.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for MemoryMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl fmt::Debug for MemoryMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryMut({} bytes)", self.length)
    }
}

/// Read-only bytes, shared by reference count; a clone or a slice copies nothing.
#[derive(Clone)]
pub struct Memory {
    start: NonNull<u8>,
    length: usize,
    /// Keeps the bytes alive; `None` only for no bytes.
    owner: Option<Arc<dyn Any + Send + Sync>>,
    is_lent: bool,
}

// SAFETY: the bytes are never written while a `Memory` exists, and the owner is `Send + Sync`.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// The bytes of `owner`, which lives as long as they are used. Copies nothing.
    pub fn from_owner<T: AsRef<[u8]> + Send + Sync + 'static>(owner: T) -> Self {
        let owner = Arc::new(owner);
        let bytes: &[u8] = (*owner).as_ref();
        let (start, length) = (NonNull::from(bytes).cast(), bytes.len());
        Self { start, length, owner: Some(owner), is_lent: false }
    }

    /// `length` bytes at `start`, which stay as they are until `owner` is dropped. Copies nothing.
    ///
    /// # Safety
    /// `start` must be valid for reads of `length` initialised bytes, which nobody writes, until `owner` is dropped.
    pub unsafe fn from_raw(start: *const u8, length: usize, owner: Arc<dyn Any + Send + Sync>) -> Self {
        match NonNull::new(start.cast_mut()) {
            Some(start) if length > 0 => Self { start, length, owner: Some(owner), is_lent: true },
            _ => Self::default(),
        }
    }

    /// An aligned copy of `bytes`.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        Self::concat(&[bytes])
    }

    /// An aligned copy of `parts`, one behind the other.
    #[must_use]
    pub fn concat(parts: &[&[u8]]) -> Self {
        MemoryMut::of_parts(parts).freeze()
    }

    /// A part of the bytes, sharing them.
    ///
    /// # Panics
    /// When the range is not inside the bytes, as slicing does.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        let part = &self[range];
        let start = NonNull::from(part).cast();
        Self { start, length: part.len(), owner: self.owner.clone(), is_lent: self.is_lent }
    }

    /// True when the bytes are another's, who promised not to write them ([`Memory::from_raw`]).
    #[must_use]
    pub fn is_lent(&self) -> bool {
        self.is_lent
    }

    /// True when the first byte's address is a multiple of `alignment`.
    #[must_use]
    pub fn is_aligned_to(&self, alignment: usize) -> bool {
        self.start.as_ptr().addr().is_multiple_of(alignment)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { start: NonNull::<Aligned>::dangling().cast(), length: 0, owner: None, is_lent: false }
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: every constructor is given `length` readable bytes that `owner` keeps alive and unchanged.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Memory {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from_owner(bytes)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes)", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_axon_allocates_is_aligned_and_zero() {
        for length in [0, 1, 63, 64, 4097] {
            let memory = MemoryMut::zeroed(length).freeze();
            assert!(memory.is_aligned_to(ALIGNMENT));
            assert_eq!(memory.len(), length);
            assert!(memory.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn parts_are_copied_one_behind_the_other() {
        let (empty, short, long) =
            (Vec::new(), vec![1_u8; 3], (0..=255_u8).cycle().take(70_001).collect::<Vec<_>>());
        for parts in [vec![], vec![&empty], vec![&short], vec![&short, &empty, &long, &short]] {
            let parts: Vec<&[u8]> = parts.into_iter().map(Vec::as_slice).collect();
            let memory = Memory::concat(&parts);
            assert_eq!(&*memory, parts.concat());
            assert!(memory.is_aligned_to(ALIGNMENT));
        }
    }

    struct Owned(Vec<u8>, #[expect(dead_code, reason = "counts references")] Arc<()>);

    impl AsRef<[u8]> for Owned {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    #[test]
    fn a_slice_keeps_its_owner_alive() {
        let owner = Arc::new(());
        let memory = Memory::from_owner(Owned(vec![1, 2, 3, 4], owner.clone()));
        let slice = memory.slice(1..3);
        drop(memory);
        assert_eq!(&*slice, &[2, 3]);
        assert_eq!(Arc::strong_count(&owner), 2);
        drop(slice);
        assert_eq!(Arc::strong_count(&owner), 1);
    }
}
