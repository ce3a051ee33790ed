//! What a disk holds, told from its signatures.
//!
//! First byte: the disk's size and block. Then changes to zeroes: region 0 to 3 are the head, 64 KiB on, and the last
//! 128 and 64 KiB.

use crate::patch::{patch, patches};
use crate::world::{Hand, Image, Sparse};
use crate::Seed;
use block::probe::what_is_on;
use units::ByteLen;

const SIZES: [u64; 8] = [0, 512, 4096, 8192, 65_536, 131_072 + 512, 1 << 20, (1 << 20) + 4096];

/// Any disk is looked at without an error, and one of zeroes holds nothing.
pub fn probe(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let size = SIZES[usize::from(choice & 7)];
    let (block_bytes, size) = if choice & 8 == 0 { (512, size) } else { (4096, size & !4095) };
    let (mut image, mut touched) = (Image::default(), false);
    for change in patches(rest) {
        let start = match change.region & 3 {
            0 => 0,
            1 => 65_536,
            2 => size.saturating_sub(131_072),
            _ => size.saturating_sub(65_536),
        };
        let at = start + u64::from(change.offset);
        let len = change.bytes.len().min(usize::try_from(size.saturating_sub(at)).expect("small"));
        image.write(at, &change.bytes[..len]);
        touched |= change.bytes[..len].iter().any(|&byte| byte != 0);
    }
    let disk = Sparse::new(ByteLen(size), block_bytes, image);
    let found = Hand::new().run(what_is_on(&disk.disk())).expect("the disk works");
    assert!(touched || found.is_none(), "zeroes are {found:?}");
}

pub fn seeds() -> Vec<Seed> {
    let seed = |choice: u8, change: Vec<u8>| [&[choice][..], &change].concat();
    vec![
        ("empty", vec![6]),
        ("md", seed(6, patch(0, 4096, &[0xfc, 0x4e, 0x2b, 0xa9]))),
        ("md_old", seed(6, patch(3, 0, &[0xfc, 0x4e, 0x2b, 0xa9]))),
        ("lvm", seed(7, patch(0, 512, b"LABELONE"))),
        ("btrfs", seed(14, patch(1, 64, b"_BHRfS_M"))),
        ("gpt_backup", seed(6, patch(3, 65_024, b"EFI PART"))),
        ("zfs", seed(6, patch(2, 0, &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0]))),
        ("one_sector", seed(1, patch(0, 510, &[0x55, 0xaa]))),
    ]
}
