//! Checksums made right again after bytes were changed, so that a change reaches what lies behind the checksum.
//!
//! Written a second time on purpose, from the formats' documents (docs/formats): a mistake in ours would show, because
//! nothing resealed would be accepted.

/// md's superblock: the 32-bit words but its own, added in 64 bits, then both halves added.
pub fn md_superblock(bytes: &mut [u8]) {
    let Some(roles) = u32_at(bytes, 220) else { return };
    let end = 256 + 2 * (roles as usize).min((4096 - 256) / 2);
    let Some(covered) = bytes.get_mut(..end) else { return };
    covered[216..220].fill(0);
    let mut words = covered.chunks(4).map(|word| {
        let byte = |at: usize| u64::from(word.get(at).copied().unwrap_or(0));
        byte(0) | byte(1) << 8 | byte(2) << 16 | byte(3) << 24
    });
    let sum = words.by_ref().sum::<u64>();
    let folded = ((sum & 0xffff_ffff) + (sum >> 32)) & 0xffff_ffff;
    covered[216..220].copy_from_slice(&folded.to_le_bytes()[..4]);
}

/// A slot of facts: CRC-32C of all that is used, its own place as zeroes.
pub fn facts(slot: &mut [u8]) {
    let Some(used) = u32_at(slot, 16) else { return };
    let Some(covered) = slot.get_mut(..used as usize).filter(|covered| covered.len() >= 16) else { return };
    covered[12..16].fill(0);
    let sum = crc32c::crc32c(covered);
    covered[12..16].copy_from_slice(&sum.to_le_bytes());
}

/// LVM2's label: what follows its checksum in the first sector that claims to be one.
pub fn lvm_label(head: &mut [u8]) {
    if let Some(sector) = head.chunks_exact_mut(512).take(4).find(|sector| sector.starts_with(b"LABELONE")) {
        let sum = lvm(&sector[20..]);
        sector[16..20].copy_from_slice(&sum.to_le_bytes());
    }
}

/// The header of a metadata area.
pub fn lvm_header(header: &mut [u8]) {
    if let Some((sum, rest)) = header.split_first_chunk_mut::<4>() {
        *sum = lvm(&rest[..rest.len().min(508)]).to_le_bytes();
    }
}

/// LVM2's checksum: the reflected CRC-32 of polynomial 0xedb88320 from 0xf597a6cf, not inverted.
pub fn lvm(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0xf597_a6cf, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

#[cfg(test)]
mod test {
    /// Goal: what is sealed is accepted, or no target gets behind a checksum. Method: sound bytes of our encoders stay as
    /// they are; one changed and sealed is not what it was.
    #[test]
    fn sound_bytes_stay_as_they_are() {
        let check = |bytes: &[u8], seal: fn(&mut [u8])| {
            let mut sealed = bytes.to_vec();
            seal(&mut sealed);
            assert!(sealed == bytes, "the checksum is another than our encoder's");
            let mut changed = bytes.to_vec();
            changed[60] ^= 1;
            let unsealed = changed.clone();
            seal(&mut changed);
            assert!(changed != unsealed, "the checksum does not count byte 60");
        };
        for (_, seed) in crate::md_superblock::seeds() {
            let mut whole = seed[1..].to_vec();
            whole.resize(4096, 0);
            check(&whole, super::md_superblock);
        }
        check(&crate::md_facts::seeds()[0].1[3..131], super::facts);
        crate::lvm_label::seeds().iter().for_each(|(_, seed)| {
            let mut whole = seed[1..].to_vec();
            super::lvm_label(&mut whole);
            assert!(whole == seed[1..]);
        });
        let area = block::volume::label::Area { at: units::ByteOffset(4096), len: units::ByteLen::mib(1) };
        check(&block::volume::mda::encode(area, None), super::lvm_header);
    }
}
