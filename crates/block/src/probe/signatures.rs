//! The table of signatures: what lies where, each line with its source.
//!
//! It names at least what libblkid names (util-linux 2.38 to 2.42): `crates/host/tests/oracle_blkid.rs` compares the
//! two. "libblkid NAME" as a source means its file `src/superblocks/NAME.c` or `src/partitions/NAME.c`.

use units::ByteLen;

/// Bytes that tell what a disk holds.
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    /// In words that finish "it holds …".
    pub what: &'static str,
    /// Too short to be told from chance, or a part of many others: named only if nothing else is found.
    pub weak: bool,
    /// Any of these bytes.
    pub magics: &'static [&'static [u8]],
    base: Base,
    /// At any of these places, or at any of `count` places that follow them, `step` bytes apart.
    places: &'static [u64],
    count: u64,
    step: u64,
}

/// What places are counted from.
#[derive(Clone, Copy, Debug)]
enum Base {
    Start,
    /// A place is so many bytes before the end, rounded down to a multiple of `unit`, and `at` bytes behind that.
    End {
        unit: u64,
        at: u64,
    },
}

impl Signature {
    /// Where its bytes would begin on a disk of this length.
    pub fn places(&self, size: ByteLen) -> impl Iterator<Item = u64> + use<> {
        let (base, count, step) = (self.base, self.count, self.step);
        let firsts = self.places.iter().filter_map(move |place| match base {
            Base::Start => Some(*place),
            Base::End { unit, at } => size.0.checked_sub(*place).map(|place| place - place % unit + at),
        });
        let all = firsts.flat_map(move |first| (0..count).map(move |index| first + index * step));
        all.filter(move |place| *place < size.0)
    }

    const fn weak(self) -> Self {
        Self { weak: true, ..self }
    }

    const fn each(self, step: u64, count: u64) -> Self {
        Self { count, step, ..self }
    }
}

const fn head(what: &'static str, places: &'static [u64], magics: &'static [&'static [u8]]) -> Signature {
    Signature { what, weak: false, magics, base: Base::Start, places, count: 1, step: 0 }
}

/// `at` bytes into the blocks of `unit` bytes that begin so many bytes (`places`) before the end.
const fn tail(
    what: &'static str,
    unit: u64,
    places: &'static [u64],
    at: u64,
    magics: &'static [&'static [u8]],
) -> Signature {
    Signature { what, weak: false, magics, base: Base::End { unit, at }, places, count: 1, step: 0 }
}

/// A sector.
const S: u64 = 512;
const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
/// Where the first page ends, by its size.
const PAGE_ENDS: &[u64] = &[4 * K - 10, 8 * K - 10, 16 * K - 10, 32 * K - 10, 64 * K - 10];

const MD_0_90: &str = "a Linux md member (metadata 0.90)";
const MD_1_0: &str = "a Linux md member (metadata 1.0)";
const MD_1_1: &str = "a Linux md member (metadata 1.1)";
const MD_1_2: &str = "a Linux md member (metadata 1.2)";
const DDF: &str = "a SNIA DDF RAID member (of a RAID controller, or of mdadm)";
const INTEL: &str = "an Intel RAID (IMSM) member";
const HIGHPOINT: &str = "a HighPoint RAID member";
const DRBD: &str = "DRBD metadata";
const GROUP: &str = "the volume group of a muskox pool, without the member's superblock";
const LUKS: &str = "a LUKS volume";
const BITLOCKER: &str = "a BitLocker volume";
const HIBERNATED: &str = "swap space with a hibernated system";
const REISER: &str = "a ReiserFS file system";
const ZFS: &str = "a ZFS member";
const FAT: &str = "a FAT file system";
const NTFS: &str = "an NTFS file system";
const UDF: &str = "a UDF file system";
const MINIX: &str = "a Minix file system";
const NILFS: &str = "a NILFS2 file system";
const HFS_PLUS: &str = "an HFS+ file system";
const CRAMFS: &str = "a cramfs file system";
const GPT: &str = "a GPT partition table";
const APPLE: &str = "an Apple partition map";

/// include/uapi/linux/raid/md_p.h, `MD_SB_MAGIC`, little-endian.
const MD_LE: &[u8] = &[0xfc, 0x4e, 0x2b, 0xa9];
const MD_BE: &[u8] = &[0xa9, 0x2b, 0x4e, 0xfc];
/// SNIA DDF 2.0, section 5.5: `Signature` of a header, in either byte order.
const DDF_MAGICS: &[&[u8]] = &[&[0xde, 0x11, 0xde, 0x11], &[0x11, 0xde, 0x11, 0xde]];
/// ZFS on-disk specification, section 1.3: `ub_magic` is `0x00bab10c` in the byte order of the machine that wrote it.
const ZFS_MAGICS: &[&[u8]] = &[&[0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0], &[0, 0, 0, 0, 0, 0xba, 0xb1, 0x0c]];
const DRBD_MAGICS: &[&[u8]] = &[&[0x83, 0x74, 2, 0x6b], &[0x83, 0x74, 2, 0x6c], &[0x83, 0x74, 2, 0x6d]];
const ISM: &[&[u8]] = &[b"Intel Raid ISM Cfg Sig. "];
const GPT_MAGIC: &[&[u8]] = &[b"EFI PART"];
const HFS_PLUS_MAGICS: &[&[u8]] = &[b"H+\0\x04", b"HX\0\x05"];
/// libblkid ufs: UFS1, UFS2, and the variants FEA, LFN, SEC and 4GB.
const UFS_MAGICS: &[&[u8]] = &[
    &[0x54, 0x19, 0x01, 0x00],
    &[0x00, 0x01, 0x19, 0x54],
    &[0x19, 0x01, 0x54, 0x19],
    &[0x19, 0x54, 0x01, 0x19],
    &[0x12, 0x56, 0x19, 0x00],
    &[0x00, 0x19, 0x56, 0x12],
    &[0x14, 0x50, 0x09, 0x00],
    &[0x00, 0x09, 0x50, 0x14],
    &[0x95, 0x21, 0x61, 0x00],
    &[0x00, 0x61, 0x21, 0x95],
    &[0x94, 0x19, 0x23, 0x05],
    &[0x05, 0x23, 0x19, 0x94],
];

/// Members of arrays, parts of volume groups, and what is encrypted.
const MEMBERS: &[Signature] = &[
    // Our own marks: `raid::facts`, two slots from 1 MiB on; the label of the group where `raid::layout` begins the data
    head("a muskox member without its superblock", &[M], &[b"MUSKOXF\0"]).each(512 * K, 2),
    head(GROUP, &[16 * M, 128 * M], &[b"LABELONE"]).each(S, 4),
    // mdadm's super1.c: 1.1 at the start, 1.2 at 4 KiB, 1.0 8 to 12 KiB before the end; super0.c: 0.90
    head(MD_1_1, &[0], &[MD_LE]),
    head(MD_1_2, &[4 * K], &[MD_LE]),
    tail(MD_1_0, 4 * K, &[8 * K], 0, &[MD_LE]),
    tail(MD_0_90, 64 * K, &[64 * K], 0, &[MD_LE, MD_BE]),
    // libblkid ddf_raid: the last block, or 257 sectors before the end
    tail(DDF, S, &[S, 257 * S], 0, DDF_MAGICS),
    tail(DDF, 4 * K, &[4 * K], 0, DDF_MAGICS),
    // libblkid isw_raid: the last block but one, of 512 or of 4096 bytes
    tail(INTEL, S, &[2 * S], 0, ISM),
    tail(INTEL, 4 * K, &[8 * K], 0, ISM),
    // libblkid lsi_raid, via_raid, silicon_raid, nvidia_raid, adaptec_raid, jmicron_raid
    tail("an LSI MegaRAID member", S, &[S], 0, &[b"$XIDE$"]),
    tail("a VIA RAID member", S, &[S], 0, &[&[0x55, 0xaa]]).weak(),
    tail("a Silicon Image RAID member", S, &[S], 0x60, &[&[0, 0, 0, 0x2f]]),
    tail("an NVIDIA RAID member", S, &[2 * S], 0, &[b"NVIDIA"]),
    tail("an Adaptec RAID member", S, &[S], 0, &[&[0x37, 0xfc, 0x4d, 0x1e]]),
    tail("a JMicron RAID member", S, &[S], 0, &[b"JM"]).weak(),
    // libblkid promise_raid: many distances from the end
    tail(
        "a Promise FastTrak RAID member",
        S,
        &[
            16 * S,
            63 * S,
            255 * S,
            256 * S,
            399 * S,
            591 * S,
            675 * S,
            735 * S,
            911 * S,
            951 * S,
            974 * S,
            991 * S,
            3087 * S,
        ],
        0,
        &[b"Promise Technology, Inc."],
    ),
    // libblkid highpoint_raid: 45x, and 37x in sector 9; of a disk that is in order, and of one that is not
    tail(HIGHPOINT, S, &[11 * S], 0, &[&[0xf3, 0x16, 0x78, 0x5a], &[0xfd, 0x16, 0x78, 0x5a]]),
    head(HIGHPOINT, &[9 * S + 32], &[&[0xf0, 0x16, 0x78, 0x5a], &[0xfd, 0x16, 0x78, 0x5a]]),
    // drivers/md/bcache: struct cache_sb at 4 KiB, magic at 24; libblkid bcache
    head("a bcache device", &[4 * K + 24], &[&[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca]]),
    head("a bcachefs file system", &[4 * K + 24], &[&[0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9]]),
    // libblkid bluestore
    head("a Ceph OSD (bluestore)", &[0], &[b"bluestore block device"]),
    // libblkid drbd: internal metadata in the last 4 KiB, version 8, 8.4 that was not closed, 9; drbdmanage and so on
    tail(DRBD, S, &[4 * K], 60, DRBD_MAGICS),
    tail(DRBD, 4 * K, &[4 * K], 60, DRBD_MAGICS),
    head("a DRBD Manage control volume", &[0], &[b"$DRBDmgr=q"]),
    head("a DRBD Proxy data log", &[0], &[b"DRBDdlh*"]),
    // lvm2 lib/format_text/layout.h: the label lies in any of the first four sectors; libblkid lvm for LVM1
    head("an LVM2 physical volume", &[0], &[b"LABELONE"]).each(S, 4),
    head("an LVM1 physical volume", &[0], &[b"HM\x01\0", b"HM\x02\0"]),
    // libblkid lvm: device-mapper's own headers
    head("a device-mapper snapshot", &[0], &[b"SnAp"]),
    head("a dm-verity hash tree", &[0], &[b"verity\0\0"]),
    head("a dm-integrity device", &[0], &[b"integrt\0"]),
    // LUKS1 on-disk format, section 2; LUKS2 on-disk format, section 2.2: where the second header may lie
    head(LUKS, &[0], &[b"LUKS\xba\xbe"]),
    head(
        "a LUKS2 volume (its second header)",
        &[16 * K, 32 * K, 64 * K, 128 * K, 256 * K, 512 * K, M, 2 * M, 4 * M],
        &[b"SKUL\xba\xbe"],
    ),
    // libblkid bitlocker: since Vista; BitLocker To Go by the identity at 424
    head(BITLOCKER, &[3], &[b"-FVE-FS-"]),
    head(BITLOCKER, &[424], &[&[0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a]]),
    // libblkid cs_fvault2, vmfs, ubi, vdo, stratis (two copies), opensvc_hb
    head("a FileVault 2 volume", &[88], &[b"CS\x01\0\0\0"]),
    head("a VMware VMFS extent", &[M], &[&[0x0d, 0xd0, 0x01, 0xc0]]),
    head("a UBI image", &[0], &[b"UBI#"]),
    head("a VDO volume", &[0], &[b"dmvdo001"]),
    head("a Stratis member", &[S + 4, 9 * S + 4], &[b"!Stra0tis\x86\xff\x02^\x41rh"]),
    head("an OpenSVC heartbeat disk", &[4], &[&[0x3d, 0xc1, 0x3c, 0x87, 0xc0, 0x5b, 0xe3, 0xb6]]),
];

/// File systems and swap.
const FILE_SYSTEMS: &[Signature] = &[
    // include/linux/swap.h: the last ten bytes of the first page; libblkid swap for the others, TuxOnIce's at 0
    head("swap space", PAGE_ENDS, &[b"SWAPSPACE2", b"SWAP-SPACE"]),
    head(HIBERNATED, PAGE_ENDS, &[b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"]),
    head(HIBERNATED, &[0], &[&[0xed, 0xc3, 0x02, 0xe9, 0x98, 0x56, 0xe5, 0x0c]]),
    // XFS Filesystem Structure, sb_magicnum; an external log's record header lies in any of the first 512 sectors
    head("an XFS file system", &[0], &[b"XFSB"]),
    head("an XFS log", &[0], &[&[0xfe, 0xed, 0xba, 0xbe]]).each(S, 512),
    head("an EXFS file system", &[0], &[b"EXFS"]),
    // fs/ext4/ext4.h, s_magic at 0x38 of the superblock at 1024
    head("an ext2/3/4 file system", &[1080], &[&[0x53, 0xef]]),
    // libblkid reiserfs, jfs
    head(REISER, &[8 * K + 52, 8 * K + 20, 64 * K + 52], &[b"ReIsErFs", b"ReIsEr2Fs", b"ReIsEr3Fs"]),
    head("a Reiser4 file system", &[64 * K], &[b"ReIsEr4"]),
    head("a JFS file system", &[32 * K], &[b"JFS1"]),
    // ECMA-167 2/9.1 and 3/9.1: the identifiers of volume structure descriptors, in blocks of 2048 bytes from 32 KiB on
    head(UDF, &[32 * K + 1], &[b"NSR02", b"NSR03"]).each(2 * K, 64),
    head(UDF, &[32 * K + 1], &[b"BEA01"]),
    // ISO 9660, section 8.1.2: the volume descriptor in sector 16; High Sierra has its name 8 bytes further
    head("an ISO 9660 image", &[32 * K + 1], &[b"CD001"]),
    head("a High Sierra CD image", &[32 * K + 9], &[b"CDROM"]),
    // ZFS on-disk specification, section 1.2: four labels of 256 KiB, uberblocks in the second half of each
    head(ZFS, &[128 * K, 384 * K], ZFS_MAGICS).each(K, 128),
    tail(ZFS, 256 * K, &[512 * K, 256 * K], 128 * K, ZFS_MAGICS).each(K, 128),
    // Apple TN1150: the volume header at 1 KiB, another one 1 KiB before the end; libblkid hfs
    head(HFS_PLUS, &[K], HFS_PLUS_MAGICS),
    tail(HFS_PLUS, S, &[2 * S], 0, HFS_PLUS_MAGICS),
    head("an HFS file system", &[K], &[b"BD"]).weak(),
    // libblkid ufs, hpfs, sysv, refs, cramfs, romfs, minix
    head("a UFS file system", &[1372, 8 * K + 1372, 64 * K + 1372, 256 * K + 1372], UFS_MAGICS),
    head("an HPFS file system", &[8 * K], &[&[0x49, 0xe8, 0x95, 0xf9]]),
    head(
        "a System V file system",
        &[K - 8, 10 * K - 8, 16 * K - 8, 19 * K - 8],
        &[&[0x20, 0x7e, 0x18, 0xfd], &[0xfd, 0x18, 0x7e, 0x20]],
    ),
    head("a Xenix file system", &[2 * K], &[&[0x2b, 0x55, 0x44], &[0x44, 0x55, 0x2b]]),
    head("a ReFS file system", &[0], &[b"\0\0\0ReFS\0"]),
    head(CRAMFS, &[0, S], &[&[0x45, 0x3d, 0xcd, 0x28], &[0x28, 0xcd, 0x3d, 0x45]]),
    head("a romfs file system", &[0], &[b"-rom1fs-"]),
    head(MINIX, &[K + 16], &[&[0x7f, 0x13], &[0x8f, 0x13], &[0x68, 0x24], &[0x78, 0x24]]).weak(),
    head(MINIX, &[K + 16], &[&[0x13, 0x7f], &[0x13, 0x8f], &[0x24, 0x68], &[0x24, 0x78]]).weak(),
    head(MINIX, &[K + 24], &[&[0x5a, 0x4d], &[0x4d, 0x5a]]).weak(),
    // libblkid gfs, ocfs, vxfs, squashfs, netware, scoutfs
    head("a GFS or GFS2 file system", &[64 * K], &[&[0x01, 0x16, 0x19, 0x70]]),
    head("an OCFS file system", &[8 * K], &[b"OracleCFS"]),
    head("an OCFS2 file system", &[K, 2 * K, 4 * K, 8 * K], &[b"OCFSV2"]),
    head("an Oracle ASM disk", &[32], &[b"ORCLDISK"]),
    head("a VxFS file system", &[K], &[&[0xf5, 0xfc, 0x01, 0xa5]]),
    head("a VxFS file system", &[8 * K], &[&[0xa5, 0x01, 0xfc, 0xf5]]),
    head("a SquashFS file system", &[0], &[b"hsqs", b"sqsh"]),
    head("a NetWare (NSS) file system", &[4 * K], &[b"SPB5"]),
    head("a ScoutFS file system", &[64 * K + 4], &[&[0x8b, 0x42, 0x3c, 0x10]]),
    // fs/btrfs: BTRFS_MAGIC at 0x40 of the superblock at 64 KiB, and of its copies at 64 MiB and 256 GiB
    head("a btrfs file system", &[64 * K + 64, 64 * M + 64, (256 << 30) + 64], &[b"_BHRfS_M"]),
    // fs/ubifs/ubifs-media.h; libblkid bfs, vmfs, befs, nilfs (its second superblock lies near the end)
    head("a UBIFS file system", &[0], &[&[0x31, 0x18, 0x10, 0x06]]),
    head("an SCO BFS file system", &[0], &[&[0xce, 0xfa, 0xad, 0x1b]]),
    head("a VMware VMFS file system", &[2 * M], &[&[0x5e, 0xf1, 0xab, 0x2f]]),
    head("a BeFS file system", &[32, S + 32], &[b"1SFB", b"BFS1"]),
    head(NILFS, &[K + 6], &[&[0x34, 0x34]]).weak(),
    tail(NILFS, S, &[4 * K], 6, &[&[0x34, 0x34]]).weak(),
    // libblkid f2fs (two superblocks), mpool, apfs, zonefs, erofs
    head("an F2FS file system", &[K, 5 * K], &[&[0x10, 0x20, 0xf5, 0xf2]]),
    head("an mpool device", &[0], &[b"mpoolDev"]),
    head("an APFS container", &[32], &[b"NXSB"]),
    head("a zonefs file system", &[0], &[b"SFOZ"]),
    head("an EROFS file system", &[K], &[&[0xe2, 0xe1, 0xf5, 0xe0]]),
    // The boot sector's OEM name; NTFS keeps a copy in the last sector, exFAT in sector 12
    head(NTFS, &[3], &[b"NTFS    "]),
    tail(NTFS, S, &[S], 3, &[b"NTFS    "]),
    head("an exFAT file system", &[3, 12 * S + 3], &[b"EXFAT   "]),
    // Microsoft's FAT specification, section 3, BS_FilSysType; libblkid vfat
    head(FAT, &[0x36], &[b"FAT12   ", b"FAT16   ", b"FAT     ", b"MSDOS"]),
    head(FAT, &[0x52], &[b"FAT32   ", b"MSWIN"]),
];

/// Partition tables. The boot sector's mark is the last: many of the above have it too.
const TABLES: &[Signature] = &[
    // UEFI specification, section 5.3.2: block 1 and the last block, of 512 or of 4096 bytes
    head(GPT, &[S, 4 * K], GPT_MAGIC),
    tail(GPT, S, &[S], 0, GPT_MAGIC),
    tail(GPT, 4 * K, &[4 * K], 0, GPT_MAGIC),
    // libblkid sgi, mac, bsd, aix, ultrix, dasd ("VOL1" in EBCDIC), sun
    head("an SGI disk label", &[0], &[&[0x0b, 0xe5, 0xa9, 0x41]]),
    head(APPLE, &[S], &[b"PM\0\0"]),
    head(APPLE, &[0], &[b"ER"]).weak(),
    head("a BSD disk label", &[64, 128, 512], &[&[0x57, 0x45, 0x56, 0x82]]),
    head("an AIX disk label", &[0], &[&[0xc9, 0xc2, 0xd4, 0xc1]]),
    head("an Ultrix disk label", &[16 * K - 72], &[&[0x57, 0x29, 0x03, 0, 1, 0, 0, 0]]),
    head("a DASD volume label", &[8 * K], &[&[0xe5, 0xd6, 0xd3, 0xf1]]),
    head("a Sun disk label", &[508], &[&[0xda, 0xbe]]).weak(),
    head("a boot sector (an MBR partition table or a FAT file system)", &[510], &[&[0x55, 0xaa]]).weak(),
];

/// All of them: members before file systems before tables.
pub fn all() -> impl Iterator<Item = &'static Signature> {
    MEMBERS.iter().chain(FILE_SYSTEMS).chain(TABLES)
}
