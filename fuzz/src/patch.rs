//! Changes to a sound disk as an input: `region, offset (u16), length (u8), bytes`, again and again.
//!
//! The region's number is the caller's; offsets are within it. What is cut off at the end is a shorter change.

/// One change.
pub struct Patch<'a> {
    /// Which region, as the caller counts.
    pub region: u8,
    /// From its start.
    pub offset: u16,
    /// What stands there from now on.
    pub bytes: &'a [u8],
}

/// More changes than this in one input only make it slow.
const PATCHES_MAX: usize = 64;

/// The changes in an input.
pub fn patches(mut data: &[u8]) -> impl Iterator<Item = Patch<'_>> {
    std::iter::from_fn(move || {
        let ([region, low, high, len], rest) = data.split_first_chunk::<4>()?;
        let (bytes, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        data = rest;
        Some(Patch { region: *region, offset: u16::from_le_bytes([*low, *high]), bytes })
    })
    .take(PATCHES_MAX)
}

/// The bytes of one change, to build seeds.
pub fn patch(region: u8, offset: u16, bytes: &[u8]) -> Vec<u8> {
    let [low, high] = offset.to_le_bytes();
    let mut input = vec![region, low, high, u8::try_from(bytes.len()).expect("a change is short")];
    input.extend_from_slice(bytes);
    input
}
