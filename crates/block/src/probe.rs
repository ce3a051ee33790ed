//! What a disk holds, told from its first and last bytes: asked before anything is written to a disk that came in.
//!
//! Only signatures are looked for; nothing is trusted or mounted. The table is data, each line with its source.

use crate::buffer::IoBuf;
use crate::device::{DeviceError, Disk};
use units::{ByteLen, ByteOffset};

/// The head that is read: the furthest signature (btrfs) lies at 64 KiB.
const HEAD_BYTES: u64 = 128 << 10;
/// The tail: md 0.90 lies 64 to 128 KiB before the end, md 1.0 and the backup GPT nearer.
const TAIL_BYTES: u64 = 256 << 10;

/// (what, place from the start, bytes)
const SIGNATURES: &[(&str, usize, &[u8])] = &[
    // include/uapi/linux/raid/md_p.h, MD_SB_MAGIC, little-endian, version 1.2 and 1.1
    ("a Linux md member", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
    ("a Linux md member", 0, &[0xfc, 0x4e, 0x2b, 0xa9]),
    // LUKS on-disk format specification, section 2
    ("a LUKS volume", 0, b"LUKS\xba\xbe"),
    // XFS Filesystem Structure, superblocks, sb_magicnum
    ("an XFS file system", 0, b"XFSB"),
    // LVM2 lib/format_text/layout.h: the label may lie in any of the first four sectors
    ("an LVM2 physical volume", 0, b"LABELONE"),
    ("an LVM2 physical volume", 512, b"LABELONE"),
    ("an LVM2 physical volume", 1024, b"LABELONE"),
    ("an LVM2 physical volume", 1536, b"LABELONE"),
    // fs/ext4/ext4.h, s_magic at 0x38 of the superblock at 1024
    ("an ext2/3/4 file system", 1080, &[0x53, 0xef]),
    // fs/btrfs/ctree.h, BTRFS_MAGIC at 0x40 of the superblock at 64 KiB
    ("a btrfs file system", 65_600, b"_BHRfS_M"),
    // include/linux/swap.h: the last ten bytes of the first page
    ("swap space", 4086, b"SWAPSPACE2"),
    ("swap space", 4086, b"SWAP-SPACE"),
    // drivers/md/bcache: struct cache_sb at 4 KiB, magic at 24
    ("a bcache device", 4120, &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca]),
    // UEFI specification, section 5.3.2; blocks of 512 and of 4096 bytes
    ("a GPT partition table", 512, b"EFI PART"),
    ("a GPT partition table", 4096, b"EFI PART"),
    // fs/ntfs: OEM id of the boot sector; fs/exfat likewise
    ("an NTFS file system", 3, b"NTFS    "),
    ("an exFAT file system", 3, b"EXFAT   "),
    // ISO 9660, section 8.1.2, volume descriptor at sector 16
    ("an ISO 9660 image", 32_769, b"CD001"),
    // The boot sector's mark comes last: most of the above have it too
    ("a boot sector (an MBR partition table or a FAT file system)", 510, &[0x55, 0xaa]),
];

/// What `disk` seems to hold, in words that finish "it holds …"; `None` if no signature is known.
///
/// # Errors
/// The disk's, if it cannot be read.
pub async fn what_is_on(disk: &Disk) -> Result<Option<&'static str>, DeviceError> {
    let size = disk.geometry().size;
    let read = |at: u64, len: u64| {
        let len = usize::try_from(len).expect("at most 256 KiB");
        disk.read(ByteOffset(at), IoBuf::new(len))
    };
    let head = read(0, size.0.min(HEAD_BYTES)).await?;
    if let Some(found) = in_head(&head) {
        return Ok(Some(found));
    }
    let len = size.0.min(TAIL_BYTES);
    let tail = read(size.0 - len, len).await?;
    Ok(in_tail(&tail, size))
}

fn in_head(head: &[u8]) -> Option<&'static str> {
    let holds = |at: usize, bytes: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(bytes));
    let zfs = (0..head.len()).step_by(1024).any(|at| {
        // lib/libzfs, uberblocks from 128 KiB on in each label, magic 0x00bab10c; ours ends there, labels repeat it
        holds(at, &[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0])
    });
    let found = SIGNATURES.iter().find(|(_, at, bytes)| holds(*at, bytes)).map(|(what, ..)| *what);
    found.or(zfs.then_some("a ZFS member"))
}

fn in_tail(tail: &[u8], size: ByteLen) -> Option<&'static str> {
    const MD: [u8; 4] = [0xfc, 0x4e, 0x2b, 0xa9];
    let start = size.0 - tail.len() as u64;
    let holds = |at: Option<u64>, bytes: &[u8]| {
        let at = at.and_then(|at| at.checked_sub(start)).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| tail.get(at..)).is_some_and(|rest| rest.starts_with(bytes))
    };
    // md_p.h: MD_NEW_SIZE_SECTORS for 0.90; super1.c: 8 to 12 KiB from the end for 1.0
    let old = (size.0 & !0xffff).checked_sub(65_536);
    let one_zero = size.0.checked_sub(8192).map(|at| at & !0xfff);
    if holds(old, &MD) || holds(one_zero, &MD) {
        return Some("a Linux md member");
    }
    let last = |block: u64| holds(size.0.checked_sub(block), b"EFI PART");
    if last(512) || last(4096) {
        return Some("a GPT partition table");
    }
    // The uberblocks of ZFS's last two labels lie 128 KiB apart at 256 KiB from the end.
    let zfs = tail.chunks(1024).any(|chunk| chunk.starts_with(&[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0]));
    zfs.then_some("a ZFS member")
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::testing::{Hand, MemDisk};

    fn held(len: u64, at: u64, bytes: &[u8]) -> Option<&'static str> {
        let disk = MemDisk::new(ByteLen(len));
        let at = usize::try_from(at).unwrap();
        disk.live.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        Hand::new().run(what_is_on(&disk.disk())).unwrap()
    }

    #[test]
    fn every_signature_is_seen_and_emptiness_too() {
        assert_eq!(held(1 << 20, 0, &[]), None);
        assert_eq!(held(512, 0, &[]), None);
        assert_eq!(held(1 << 20, 300_000, b"just data"), None);
        for (what, at, bytes) in SIGNATURES {
            assert_eq!(held(1 << 20, *at as u64, bytes), Some(*what));
        }
        let md = [0xfc, 0x4e, 0x2b, 0xa9];
        assert_eq!(held(1 << 20, (1 << 20) - 65_536, &md), Some("a Linux md member"));
        assert_eq!(held((1 << 20) + 512, (1 << 20) - 8192, &md), Some("a Linux md member"));
        assert_eq!(held(1 << 20, (1 << 20) - 512, b"EFI PART"), Some("a GPT partition table"));
    }
}
