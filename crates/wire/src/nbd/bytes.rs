//! Big-endian integers out of and into slices, and bytes gathered from input that is split anyhow.

/// Cuts the first `N` bytes off, if there are as many.
pub(super) fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = from.split_first_chunk::<N>()?;
    *from = rest;
    Some(*head)
}

/// Cuts a `u16` off.
pub(super) fn take_u16(from: &mut &[u8]) -> Option<u16> {
    take(from).map(u16::from_be_bytes)
}

/// Cuts a `u32` off.
pub(super) fn take_u32(from: &mut &[u8]) -> Option<u32> {
    take(from).map(u32::from_be_bytes)
}

/// Cuts a `u64` off.
pub(super) fn take_u64(from: &mut &[u8]) -> Option<u64> {
    take(from).map(u64::from_be_bytes)
}

/// Cuts `len` bytes off, if there are as many.
pub(super) fn take_slice<'a>(from: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (head, rest) = from.split_at_checked(len)?;
    *from = rest;
    Some(head)
}

/// The length of a slice that a caller has bounded, as the wire counts.
pub(super) fn len_u32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("strings and payloads of ours are bounded far below 4 GiB")
}

/// Fills an array front to back.
pub(super) struct Fill<'a>(pub &'a mut [u8]);

impl Fill<'_> {
    /// Puts `bytes` next.
    pub(super) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        let (head, rest) = std::mem::take(&mut self.0).split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        self.0 = rest;
        self
    }

    /// Says that nothing is missing.
    pub(super) fn full(&self) {
        debug_assert!(self.0.is_empty(), "{} bytes of a header were not filled in", self.0.len());
    }
}

/// Gathers a known number of bytes; memory follows what arrived, not what was announced.
#[derive(Debug, Default)]
pub(super) struct Gather(Vec<u8>);

impl Gather {
    /// Takes from `input` until `want` bytes are held; all of them once there are as many.
    pub(super) fn fill(&mut self, input: &mut &[u8], want: usize) -> Option<Vec<u8>> {
        debug_assert!(self.0.len() <= want);
        let part = (want - self.0.len()).min(input.len());
        self.0.extend_from_slice(take_slice(input, part).expect("cut to what is there"));
        (self.0.len() == want).then(|| std::mem::take(&mut self.0))
    }

    /// How many bytes are held.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
