//! Bytes of which most are zero: pages that exist once written, shared between snapshots until they differ.

use std::collections::BTreeMap;
use std::rc::Rc;

const PAGE: usize = 4096;

/// A disk's worth of bytes. Cloning shares all pages.
#[derive(Clone)]
pub struct Sparse {
    len: usize,
    pages: BTreeMap<usize, Rc<[u8; PAGE]>>,
}

impl Sparse {
    /// `len` zeroes.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self { len, pages: BTreeMap::new() }
    }

    /// How many bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.len
    }

    /// Copies what stands at `at` into `into`.
    pub fn read(&self, at: usize, into: &mut [u8]) {
        assert!(at + into.len() <= self.len, "a read lies within the disk");
        let mut done = 0;
        while done < into.len() {
            let (page, from) = ((at + done) / PAGE, (at + done) % PAGE);
            let part = (PAGE - from).min(into.len() - done);
            match self.pages.get(&page) {
                Some(bytes) => into[done..done + part].copy_from_slice(&bytes[from..from + part]),
                None => into[done..done + part].fill(0),
            }
            done += part;
        }
    }

    /// What stands at `at`.
    #[must_use]
    pub fn get(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read(at, &mut bytes);
        bytes
    }

    /// Puts `bytes` at `at`.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len, "a write lies within the disk");
        let mut done = 0;
        while done < bytes.len() {
            let (page, into) = ((at + done) / PAGE, (at + done) % PAGE);
            let part = (PAGE - into).min(bytes.len() - done);
            let piece = &bytes[done..done + part];
            if self.pages.contains_key(&page) || piece.iter().any(|&byte| byte != 0) {
                let page = self.pages.entry(page).or_insert_with(|| Rc::new([0; PAGE]));
                Rc::make_mut(page)[into..into + part].copy_from_slice(piece);
            }
            done += part;
        }
    }

    /// The first place from `at` on, within `len`, where a whole 512-byte sector differs from `other`'s; looks only at
    /// pages that are not shared.
    pub fn differing_sectors<'a>(&'a self, other: &'a Self, at: usize, len: usize) -> impl Iterator<Item = usize> + 'a {
        const SECTOR: usize = 512;
        (at / PAGE..(at + len).div_ceil(PAGE)).filter(|page| !self.same_page(other, *page)).flat_map(move |page| {
            (page * PAGE..(page + 1) * PAGE)
                .step_by(SECTOR)
                .filter(move |place| (at..at + len).contains(place))
                .filter(move |&place| self.get(place, SECTOR) != other.get(place, SECTOR))
        })
    }

    /// A number that differs where the content differs.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut sum = self.len as u64;
        for (&page, bytes) in self.pages.iter().filter(|(_, bytes)| bytes.iter().any(|&byte| byte != 0)) {
            let words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
            sum = words
                .fold(sum ^ page as u64, |sum, word| (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23));
        }
        sum
    }

    fn same_page(&self, other: &Self, page: usize) -> bool {
        match (self.pages.get(&page), other.pages.get(&page)) {
            (None, None) => true,
            (Some(left), Some(right)) => Rc::ptr_eq(left, right) || left == right,
            _ => false,
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: a snapshot stays as it was, across page borders. Method: write over a border, clone, write again.
    #[test]
    fn snapshots_share_until_they_differ() {
        let mut disk = Sparse::new(4 * PAGE);
        disk.write(PAGE - 2, &[1, 2, 3, 4]);
        let old = disk.clone();
        disk.write(PAGE, &[9]);
        assert_eq!(old.get(PAGE - 3, 6), [0, 1, 2, 3, 4, 0]);
        assert_eq!(disk.get(PAGE - 3, 6), [0, 1, 2, 9, 4, 0]);
        assert_eq!(disk.differing_sectors(&old, 0, 4 * PAGE).collect::<Vec<_>>(), [PAGE]);
    }
}
