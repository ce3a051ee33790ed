//! Buffers for disks: aligned for O_DIRECT, recycled per thread, owned while the kernel has them.
//!
//! [`IoBuf`] is owned and writable; [`IoData`] is shared and read-only, so that two legs of a mirror write the same
//! bytes without a copy. A recycled buffer holds old bytes: whoever hands one out fills all of it.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use units::ByteLen;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Buffers start on this boundary: a memory page, which every O_DIRECT device accepts.
pub const ALIGN_BYTES: usize = 4096;

/// One aligned piece of memory.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; ALIGN_BYTES]);

/// An owned, aligned, writable buffer.
pub struct IoBuf {
    pages: Box<[Page]>,
    len: usize,
}

/// Shared, read-only bytes of an [`IoBuf`]; cloning and cutting copy nothing.
#[derive(Clone)]
pub struct IoData {
    whole: Arc<IoBuf>,
    start: usize,
    len: usize,
}

impl IoBuf {
    /// A buffer of `len` bytes whose content is unspecified: it may hold what an earlier user of this thread left.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let class = Class::of(len);
        let pages = class.take().unwrap_or_else(|| class.allocate());
        Self { pages, len }
    }

    /// A buffer of `len` zeroes.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let mut buf = Self::new(len);
        buf.fill(0);
        buf
    }

    /// A buffer holding a copy of `bytes`.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buf = Self::new(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }

    /// How many bytes.
    #[must_use]
    pub fn byte_len(&self) -> ByteLen {
        ByteLen::of(self)
    }

    /// Bytes of memory that a buffer of `len` bytes takes: whole pages, in powers of two.
    #[must_use]
    pub fn memory_of(len: usize) -> u64 {
        if len == 0 { 0 } else { (Class::of(len).pages * ALIGN_BYTES) as u64 }
    }

    /// Cuts the buffer to its first `len` bytes, or does nothing if it is shorter.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// From now on read-only and shared.
    #[must_use]
    pub fn freeze(self) -> IoData {
        let len = self.len;
        IoData { whole: Arc::new(self), start: 0, len }
    }
}

impl IoData {
    /// `len` zeroes.
    #[must_use]
    pub fn zeroes(len: usize) -> Self {
        IoBuf::zeroed(len).freeze()
    }

    /// How many bytes.
    #[must_use]
    pub fn byte_len(&self) -> ByteLen {
        ByteLen(self.len as u64)
    }

    /// Bytes of memory that these keep alive, shared or not.
    #[must_use]
    pub fn memory(&self) -> u64 {
        (self.whole.pages.len() * ALIGN_BYTES) as u64
    }

    /// `len` bytes from `start`, sharing the memory.
    ///
    /// # Panics
    /// If that is not within these bytes.
    #[must_use]
    pub fn slice(&self, start: usize, len: usize) -> Self {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.len), "a slice lies within its bytes");
        Self { whole: Arc::clone(&self.whole), start: self.start + start, len }
    }
}

impl Deref for IoBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.pages.as_bytes()[..self.len]
    }
}

impl DerefMut for IoBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.pages.as_mut_bytes()[..self.len]
    }
}

impl Deref for IoData {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.whole[self.start..self.start + self.len]
    }
}

impl Drop for IoBuf {
    fn drop(&mut self) {
        Class::of_pages(self.pages.len()).give(std::mem::take(&mut self.pages));
    }
}

impl fmt::Debug for IoBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoBuf({})", self.byte_len())
    }
}

impl fmt::Debug for IoData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoData({})", self.byte_len())
    }
}

/// Buffers above this are rare and go back to the allocator.
const RECYCLED_MAX_PAGES: usize = 1 << 10;
/// What one thread keeps for reuse per size: 128 requests of 4 KiB, and at least two of the largest.
const SHELF_MAX_PAGES: usize = 1 << 11;
const SHELF_MAX_BUFFERS: usize = 128;

/// A size class: 1, 2, 4 … pages.
#[derive(Clone, Copy)]
struct Class {
    pages: usize,
}

thread_local! {
    static SHELVES: RefCell<Vec<Vec<Box<[Page]>>>> = const { RefCell::new(Vec::new()) };
}

impl Class {
    fn of(len: usize) -> Self {
        Self::of_pages(len.div_ceil(ALIGN_BYTES))
    }

    fn of_pages(pages: usize) -> Self {
        Self { pages: pages.next_power_of_two() }
    }

    fn shelf(self) -> usize {
        self.pages.trailing_zeros() as usize
    }

    fn allocate(self) -> Box<[Page]> {
        <[Page]>::new_box_zeroed_with_elems(self.pages).expect("memory for one request")
    }

    fn take(self) -> Option<Box<[Page]>> {
        SHELVES.with_borrow_mut(|shelves| shelves.get_mut(self.shelf())?.pop())
    }

    fn give(self, pages: Box<[Page]>) {
        if pages.is_empty() || self.pages > RECYCLED_MAX_PAGES {
            return;
        }
        // A buffer that outlives its thread's shelves goes back to the allocator.
        let _ = SHELVES.try_with(|shelves| {
            let mut shelves = shelves.borrow_mut();
            if shelves.len() <= self.shelf() {
                shelves.resize_with(self.shelf() + 1, Vec::new);
            }
            let shelf = &mut shelves[self.shelf()];
            if shelf.len() < SHELF_MAX_BUFFERS && (shelf.len() + 1) * self.pages <= SHELF_MAX_PAGES {
                shelf.push(pages);
            }
        });
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_exactly_as_long_as_asked() {
        for len in [0, 1, 512, 4096, 4097, 262_144, 8 << 20] {
            let buf = IoBuf::zeroed(len);
            assert_eq!(buf.len(), len);
            assert_eq!(buf.as_ptr() as usize % ALIGN_BYTES, 0);
            assert!(buf.iter().all(|&byte| byte == 0));
        }
    }

    /// DA12. Goal: what a buffer is said to take is what it takes. Method: lengths at the edges of pages and powers of two.
    #[test]
    fn memory_is_counted_in_pages() {
        for (len, memory) in [(0, 0), (1, 4096), (512, 4096), (4096, 4096), (4097, 8192), (33 << 10, 64 << 10)] {
            assert_eq!(IoBuf::memory_of(len), memory, "{len}");
            assert!(len == 0 || IoBuf::new(len).freeze().memory() == memory, "{len}");
        }
    }

    #[test]
    fn a_buffer_is_recycled_and_zeroed_again_when_asked() {
        let mut first = IoBuf::new(4096);
        first.fill(7);
        let place = first.as_ptr() as usize;
        drop(first);
        let second = IoBuf::zeroed(4096);
        assert_eq!(second.as_ptr() as usize, place);
        assert!(second.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn shelves_are_bounded() {
        let many: Vec<IoBuf> = (0..1000).map(|_| IoBuf::new(4096)).collect();
        drop(many);
        let kept = SHELVES.with_borrow(|shelves| shelves[0].len());
        assert_eq!(kept, SHELF_MAX_BUFFERS);
    }

    #[test]
    fn slices_share_their_bytes() {
        let data = IoBuf::copy_of(&[1, 2, 3, 4]).freeze();
        let middle = data.slice(1, 2);
        assert_eq!(&*middle, &[2, 3]);
        assert_eq!(&*middle.slice(1, 1), &[3]);
        assert_eq!(middle.as_ptr(), data[1..].as_ptr());
    }

    #[test]
    #[should_panic(expected = "within its bytes")]
    fn a_slice_past_the_end_is_a_bug() {
        let _ = IoBuf::new(4).freeze().slice(2, 3);
    }
}
