//! LVM2's label. First byte: bit 0 makes the checksum right. The rest is the head of the disk.

use crate::{Seed, seal};
use block::volume::LvmId;
use block::volume::label::{Area, Extension, Label, SCAN_BYTES, decode, encode};
use units::{ByteLen, ByteOffset};

/// A label that decodes is encoded to what decodes the same.
pub fn lvm_label(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let mut head = rest.to_vec();
    if choice & 1 == 1 {
        seal::lvm_label(&mut head);
    }
    let Ok(Some(label)) = decode(&head) else { return };
    let at = usize::try_from(label.sector).expect("one of four") * 512;
    let mut again = [0; SCAN_BYTES];
    again[at..at + 512].copy_from_slice(&encode(&label));
    assert_eq!(decode(&again), Ok(Some(label)));
}

pub fn seeds() -> Vec<Seed> {
    let area = |at, len| Area { at: ByteOffset(at), len: ByteLen(len) };
    let ours = Label {
        sector: 1,
        id: LvmId::from_bytes(&[9; 16]),
        device_size: ByteLen::mib(64),
        data_areas: vec![area(1 << 20, 0)],
        metadata_areas: vec![area(4096, (1 << 20) - 4096)],
        extension: Some(Extension { version: 2, flags: 1, boot_areas: Vec::new() }),
    };
    let old = Label { sector: 0, extension: None, ..ours.clone() };
    let two = vec![area(4096, 1 << 20), area(1 << 24, 1 << 20)];
    let boot = Some(Extension { version: 2, flags: 1, boot_areas: vec![area(1 << 21, 4096)] });
    let full = Label { metadata_areas: two, extension: boot, ..ours.clone() };
    let seed = |label: &Label| {
        let mut head = vec![0; usize::try_from(label.sector).expect("one of four") * 512];
        head.extend_from_slice(&encode(label));
        [&[1][..], &head].concat()
    };
    vec![("ours", seed(&ours)), ("without_extension", seed(&old)), ("all_areas", seed(&full))]
}
