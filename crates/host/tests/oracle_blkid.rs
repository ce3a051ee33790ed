//! Oracle: whatever util-linux's libblkid knows on a disk, muskox knows by name.
//!
//! Each kind is laid down as small as `wipefs` takes it, or by its own mkfs where Debian's base system has one; `wipefs`
//! has to see it first, so that a wrong recipe tests nothing silently. Kinds that this libblkid lacks (it is older) are
//! asked of muskox alone.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use block::probe::what_is_on;
use block::raid::{CreateOptions, Member, create};
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Bench, FileDisk, Scratch, have, tool};
use units::{ArrayId, ByteLen};

const SIZE: u64 = 64 << 20;
const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const SECTOR: u64 = 512;
const END: u64 = SIZE;

/// Bytes at a place.
type Part = (u64, Vec<u8>);

/// A content: libblkid's name for it, words of ours, what lies where.
struct Recipe {
    theirs: &'static str,
    ours: &'static str,
    parts: Vec<Part>,
}

fn of(theirs: &'static str, ours: &'static str, parts: &[(u64, &[u8])]) -> Recipe {
    Recipe { theirs, ours, parts: parts.iter().map(|(at, bytes)| (*at, bytes.to_vec())).collect() }
}

/// A sector with numbers in it.
fn sector(fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut sector = vec![0; 512];
    for (at, bytes) in fields {
        sector[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    sector
}

/// RFC 3720, appendix B.4.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

fn members() -> Vec<Recipe> {
    let md = |minor: u32, at: u64| {
        [0xa92b_4efc, 1, 0, minor]
            .map(u32::to_le_bytes)
            .concat()
            .into_iter()
            .chain([0; 128])
            .chain((at / 512).to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let stratis = [b"!Stra0tis\x86\xff\x02^\x41rh".to_vec(), vec![0; 492]].concat();
    let stratis = [crc32c(&stratis).to_le_bytes().to_vec(), stratis].concat();
    let ddf = [&[0xde, 0x11, 0xde, 0x11][..], &[0; 28], b"01.02.00"].concat();
    let manage = [&b"$DRBDmgr=q\0"[..], &[b'a'; 32], b"\n"].concat();
    let second = |at: u64| [&b"SKUL\xba\xbe\0\x02"[..], &[0; 248], &at.to_be_bytes()].concat();
    let last = END - SECTOR;
    let mut all = vec![
        of("linux_raid_member", "md member", &[(END - 64 * K, &[0xfc, 0x4e, 0x2b, 0xa9, 0, 0, 0, 0, 90, 0, 0, 0])]),
        of("linux_raid_member", "md member", &[(END - 8 * K, &md(0, END - 8 * K))]),
        of("linux_raid_member", "md member", &[(0, &md(1, 0))]),
        of("linux_raid_member", "md member", &[(4096, &md(2, 4096))]),
        of("ddf_raid_member", "DDF", &[(last, &ddf)]),
        of("ddf_raid_member", "DDF", &[(END - 257 * SECTOR, &ddf)]),
        of("isw_raid_member", "Intel RAID", &[(END - 1024, b"Intel Raid ISM Cfg Sig. 1.0.00")]),
        of("lsi_mega_raid_member", "LSI", &[(last, b"$XIDE$")]),
        of("via_raid_member", "VIA", &[(last, &[0x55, 0xaa, 1])]),
        of("silicon_medley_raid_member", "Silicon Image", &[(last + 0x60, &[0, 0, 0, 0x2f])]),
        of("nvidia_raid_member", "NVIDIA", &[(END - 1024, b"NVIDIA\0\0\x1e\0\0\0")]),
        of("hpt45x_raid_member", "HighPoint", &[(END - 11 * SECTOR, &[0xf3, 0x16, 0x78, 0x5a])]),
        of("hpt37x_raid_member", "HighPoint", &[(9 * SECTOR + 32, &[0xf0, 0x16, 0x78, 0x5a])]),
        of("adaptec_raid_member", "Adaptec", &[(last, &[0x37, 0xfc, 0x4d, 0x1e]), (last + 256, b"DPTM")]),
        of("jmicron_raid_member", "JMicron", &[(last, b"JM")]),
        of(
            "bcache",
            "bcache",
            &[(4096 + 8, &[8]), (4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81")],
        ),
        of("ceph_bluestore", "bluestore", &[(0, b"bluestore block device\n")]),
        of("drbd", "DRBD", &[(END - 4096 + 60, &[0x83, 0x74, 2, 0x6b])]),
        of("drbd", "DRBD", &[(END - 4096 + 60, &[0x83, 0x74, 2, 0x6c])]),
        of("drbd", "DRBD", &[(END - 4096 + 60, &[0x83, 0x74, 2, 0x6d])]),
        of("drbdmanage_control_volume", "DRBD Manage", &[(0, &manage)]),
        of("drbdproxy_datalog", "DRBD Proxy", &[(0, b"DRBDdlh*")]),
        of("LVM2_member", "LVM2", &[(512, b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001")]),
        of("LVM1_member", "LVM1", &[(0, b"HM\x01\0")]),
        of("DM_snapshot_cow", "device-mapper snapshot", &[(0, b"SnAp")]),
        of("DM_verity_hash", "dm-verity", &[(0, b"verity\0\0\x01\0\0\0\x01\0\0\0")]),
        of("DM_integrity", "dm-integrity", &[(0, b"integrt\0\x01")]),
        of("crypto_LUKS", "LUKS", &[(0, b"LUKS\xba\xbe\0\x01")]),
        of("crypto_LUKS", "LUKS", &[(0, b"LUKS\xba\xbe\0\x02")]),
        of("BitLocker", "BitLocker", &[(0, b"\xeb\x52\x90-FVE-FS-")]),
        of("VMFS_volume_member", "VMFS extent", &[(M, &[0x0d, 0xd0, 0x01, 0xc0])]),
        of("ubi", "UBI image", &[(0, b"UBI#\x01")]),
        of("vdo", "VDO", &[(0, b"dmvdo001")]),
        of("stratis", "Stratis", &[(512, &stratis)]),
        of("stratis", "Stratis", &[(9 * SECTOR, &stratis)]),
    ];
    let distances = [16, 63, 255, 256, 399, 591, 675, 735, 911, 951, 974, 991, 3087];
    let promise = |back: u64| {
        of("promise_fasttrack_raid_member", "Promise", &[(END - back * SECTOR, b"Promise Technology, Inc.")])
    };
    all.extend(distances.map(promise));
    all.extend((0..9).map(|turn| (16 * K) << turn).map(|at| of("crypto_LUKS", "second header", &[(at, &second(at))])));
    all
}

fn xfs(magic: &[u8]) -> Vec<u8> {
    // One allocation group of 4096 blocks of 4096 bytes, sectors of 512, inodes of 512 bytes.
    let (blocks, sizes) = (4096_u32.to_be_bytes(), [0xb4, 0xa5, 2, 0, 2, 0, 0, 8]);
    let groups = [1_u32, 4096, 1].map(u32::to_be_bytes).concat();
    sector(&[
        (0, magic),
        (4, &blocks),
        (12, &blocks),
        (80, &groups),
        (100, &sizes),
        (120, &[12, 9, 9, 3, 12, 0, 0, 25]),
    ])
}

fn ntfs() -> Vec<Part> {
    let boot = sector(&[
        (3, b"NTFS    "),
        (11, &[0, 2, 8]),
        (21, &[0xf8]),
        (0x28, &[0, 0, 1]),
        (0x30, &[4]),
        (0x38, &[8]),
        (64, &[0xf6]),
    ]);
    vec![(0, boot), (4 * 4096, b"FILE".to_vec()), (4 * 4096 + 3 * 1024, b"FILE".to_vec())]
}

fn befs() -> Vec<Part> {
    // Little-endian, blocks of 2 KiB; its root folder's inode in block 1.
    let superblock = sector(&[
        (32, b"1SFB"),
        (36, b"EGIB"),
        (40, &2048_u32.to_le_bytes()),
        (44, &[11]),
        (68, &0xdd12_1031_u32.to_le_bytes()),
        (112, &0x15b6_830e_u32.to_le_bytes()),
        (120, &[1, 0, 1, 0]),
    ]);
    vec![(512, superblock), (2048, 0x3bbe_0ad9_u32.to_le_bytes().to_vec())]
}

fn nilfs(at: u64) -> Vec<Part> {
    vec![(at + 6, vec![0x34, 0x34, 0x18, 0x01]), (at + 32, SIZE.to_le_bytes().to_vec())]
}

fn file_systems() -> Vec<Recipe> {
    let pages = (0..5).map(|turn| ((4 * K) << turn) - 10);
    let header: (u64, &[u8]) = (1024, &[1, 0, 0, 0, 100, 0, 0, 0]);
    let reiser = |at: u64, magic| {
        of("reiserfs", "ReiserFS", &[(at + 52, magic), (at + 44, &[0, 16]), (at + 12, &[0, 70, 0, 0])])
    };
    let jfs = [&b"JFS1\x01\0\0\0"[..], &[0; 8], &[0, 16, 0, 0, 12, 0, 3, 0, 0, 2, 0, 0, 9, 0, 0, 0]].concat();
    let zfs = |at: u64| -> Vec<Part> {
        (0..8).map(|turn| (at + turn * K, [0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0].to_vec())).collect()
    };
    let mut all = vec![
        of("xfs", "XFS file system", &[(0, &xfs(b"XFSB"))]),
        of("exfs", "EXFS", &[(0, &xfs(b"EXFS"))]),
        of(
            "xfs_external_log",
            "XFS log",
            &[(512, b"\xfe\xed\xba\xbe\0\0\0\x01\0\0\0\x02\0\0\x02\0"), (812, &[0, 0, 0, 1])],
        ),
        of("ext2", "ext2", &[(1080, &[0x53, 0xef])]),
        of("jbd", "ext2", &[(1080, &[0x53, 0xef]), (1024 + 96, &[8])]),
        reiser(64 * K, b"ReIsEr2Fs"),
        reiser(64 * K, b"ReIsEr3Fs"),
        reiser(8 * K, b"ReIsErFs"),
        of("reiser4", "Reiser4", &[(64 * K, b"ReIsEr4")]),
        of("jfs", "JFS", &[(32 * K, &jfs)]),
        of("iso9660", "ISO 9660", &[(32 * K, b"\x01CD001\x01")]),
        of(
            "udf",
            "UDF",
            &[(32 * K, b"\0BEA01\x01"), (34 * K, b"\0NSR02\x01"), (256 * 2048, &[2]), (256 * 2048 + 12, &[0, 1])],
        ),
        Recipe { theirs: "zfs_member", ours: "ZFS", parts: zfs(128 * K) },
        Recipe { theirs: "zfs_member", ours: "ZFS", parts: zfs(384 * K) },
        Recipe { theirs: "zfs_member", ours: "ZFS", parts: zfs(END - 384 * K) },
        Recipe { theirs: "zfs_member", ours: "ZFS", parts: zfs(END - 128 * K) },
    ];
    for end in pages {
        all.push(of("swap", "swap space", &[(end, b"SWAPSPACE2"), header]));
        all.push(of("swap", "swap space", &[(end, b"SWAP-SPACE")]));
        all.push(of("swsuspend", "hibernated", &[(end, b"S1SUSPEND")]));
    }
    all
}

fn other_file_systems() -> Vec<Recipe> {
    let fat = sector(&[
        (0, &[0xeb]),
        (11, &[0, 2, 4, 1, 0, 2, 0, 2, 0, 0, 0xf8, 64, 0]),
        (32, &[0xa0, 0x86, 1, 0]),
        (0x36, b"FAT16   "),
        (510, &[0x55, 0xaa]),
    ]);
    let minix = sector(&[(0, &[100, 0, 232, 3, 1, 0, 1, 0, 50, 0]), (16, &[0x7f, 0x13])]);
    vec![
        of("hfs", "HFS file", &[(1024, b"BD"), (1024 + 20, &[0, 0, 16])]),
        of("hfsplus", "HFS+", &[(1024, b"H+\0\x04"), (1024 + 40, &[0, 0, 16])]),
        of("ufs", "UFS", &[(8 * K + 1372, &[0x54, 0x19, 1, 0])]),
        of("ufs", "UFS", &[(64 * K + 1372, &[0x19, 1, 0x54, 0x19])]),
        of("ufs", "UFS", &[(256 * K + 1372, &[0x19, 0x54, 1, 0x19])]),
        of("hpfs", "HPFS", &[(8 * K, &[0x49, 0xe8, 0x95, 0xf9]), (8 * K + 512, &[0x49, 0x18, 0x91, 0xf9])]),
        of("sysv", "System V", &[(K - 8, &[0x20, 0x7e, 0x18, 0xfd])]),
        of("sysv", "System V", &[(19 * K - 8, &[0xfd, 0x18, 0x7e, 0x20])]),
        of("xenix", "Xenix", &[(2 * K, &[0x2b, 0x55, 0x44])]),
        Recipe { theirs: "ntfs", ours: "NTFS", parts: ntfs() },
        of("ReFS", "ReFS", &[(0, b"\0\0\0ReFS\0")]),
        of("vfat", "FAT", &[(0, &fat)]),
        of("cramfs", "cramfs", &[(0, &[0x45, 0x3d, 0xcd, 0x28])]),
        of("romfs", "romfs", &[(0, b"-rom1fs-")]),
        of("minix", "Minix", &[(1024, &minix)]),
        of("gfs", "GFS", &[(64 * K, &[1, 0x16, 0x19, 0x70]), (64 * K + 24, &[0, 0, 5, 29, 0, 0, 5, 121])]),
        of("gfs2", "GFS2", &[(64 * K, &[1, 0x16, 0x19, 0x70]), (64 * K + 24, &[0, 0, 7, 9, 0, 0, 7, 108])]),
        of("ocfs", "OCFS file", &[(8 * K, b"OracleCFS")]),
        of("ocfs2", "OCFS2", &[(2 * K, b"OCFSV2")]),
        of("oracleasm", "Oracle ASM", &[(32, b"ORCLDISK")]),
        of("vxfs", "VxFS", &[(K, &[0xf5, 0xfc, 1, 0xa5])]),
        of("squashfs", "SquashFS", &[(0, b"hsqs"), (28, &[4])]),
        of("squashfs3", "SquashFS", &[(0, b"hsqs"), (28, &[3])]),
        of("nss", "NetWare", &[(4 * K, b"SPB5")]),
        of("btrfs", "btrfs", &[(64 * K + 64, b"_BHRfS_M")]),
        of("ubifs", "UBIFS", &[(0, &[0x31, 0x18, 0x10, 0x06])]),
        of("bfs", "SCO BFS", &[(0, &[0xce, 0xfa, 0xad, 0x1b])]),
        of("VMFS", "VMFS file", &[(2 * M, &[0x5e, 0xf1, 0xab, 0x2f])]),
        Recipe { theirs: "befs", ours: "BeFS", parts: befs() },
        Recipe { theirs: "nilfs2", ours: "NILFS2", parts: nilfs(1024) },
        Recipe { theirs: "nilfs2", ours: "NILFS2", parts: nilfs(END - 4096) },
        of("exfat", "exFAT", &[(3, b"EXFAT   ")]),
        of("f2fs", "F2FS", &[(K, &[0x10, 0x20, 0xf5, 0xf2, 1])]),
        of("mpool", "mpool", &[(0, b"mpoolDev")]),
        of("apfs", "APFS", &[(24, &[1]), (32, b"NXSB\0\x10")]),
        of("zonefs", "zonefs", &[(0, b"SFOZ")]),
        of("erofs", "EROFS", &[(K, &[0xe2, 0xe1, 0xf5, 0xe0])]),
    ]
}

fn tables() -> Vec<Recipe> {
    let sgi = [&[0x0b, 0xe5, 0xa9, 0x41][..], &[0; 504], &(0x0be5_a941_u32.wrapping_neg()).to_be_bytes()].concat();
    let partition = [&[0x80, 0, 0, 0, 0x83][..], &[0; 3], &[0, 8, 0, 0, 0, 16, 0, 0]].concat();
    vec![
        of("dos", "boot sector", &[(446, &partition), (510, &[0x55, 0xaa])]),
        of("sun", "Sun disk label", &[(508, &[0xda, 0xbe, 0xda, 0xbe])]),
        of("sgi", "SGI", &[(0, &sgi)]),
        of("mac", "Apple partition map", &[(0, b"ER\x02\0"), (512, b"PM\0\0\0\0\0\x01")]),
        of("aix", "AIX", &[(0, &[0xc9, 0xc2, 0xd4, 0xc1])]),
        of("ultrix", "Ultrix", &[(16 * K - 72, &[0x57, 0x29, 3, 0, 1])]),
        // It has no magic number: refused all the same.
        of("atari", "does not know", &[(0x1c2, &[0, 0, 0x40, 0]), (0x1c6, b"\x01GEM\0\0\x08\0\0\0\x10\0")]),
    ]
}

/// What newer releases of libblkid know and Debian 12's does not.
fn newer() -> Vec<Recipe> {
    vec![
        of("bcachefs", "bcachefs", &[(4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef")]),
        of("cs_fvault2", "FileVault", &[(88, b"CS\x01\0\0\0")]),
        of("scoutfs_meta", "ScoutFS", &[(64 * K + 4, &[0x8b, 0x42, 0x3c, 0x10])]),
        of("opensvc_hb", "OpenSVC", &[(4, &[0x3d, 0xc1, 0x3c, 0x87, 0xc0, 0x5b, 0xe3, 0xb6])]),
        of("bsd", "BSD disk label", &[(512, &[0x57, 0x45, 0x56, 0x82])]),
        of("dasd", "DASD", &[(8 * K, &[0xe5, 0xd6, 0xd3, 0xf1])]),
        of("gpt", "GPT", &[(END - 512, b"EFI PART")]),
    ]
}

fn lay_down(scratch: &Scratch, parts: &[Part]) -> PathBuf {
    let path = scratch.disk("disk", ByteLen(SIZE));
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    parts.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
    path
}

fn ours(path: &Path) -> String {
    Bench::new().run(what_is_on(&FileDisk::open(path))).unwrap().unwrap_or_default()
}

/// Every kind that `wipefs` sees.
fn theirs(path: &Path) -> BTreeSet<String> {
    let printed = tool(Command::new("wipefs").args(["--no-act", "--noheadings", "--output", "TYPE"]).arg(path));
    printed.lines().map(|line| line.trim().to_owned()).collect()
}

/// A12: goal: what libblkid knows is refused by name, at the head and at the tail. Method: each kind laid down, `wipefs`
/// asked, muskox asked.
#[test]
fn whatever_libblkid_knows_is_named() {
    if !have("wipefs") {
        return;
    }
    let scratch = Scratch::new("oracle-blkid");
    for recipe in members().into_iter().chain(file_systems()).chain(other_file_systems()).chain(tables()) {
        let path = lay_down(&scratch, &recipe.parts);
        let (seen, named) = (theirs(&path), ours(&path));
        assert!(seen.contains(recipe.theirs), "the recipe of {} is none: {seen:?}", recipe.theirs);
        assert!(named.contains(recipe.ours), "{}: '{named}'", recipe.theirs);
    }
    for recipe in newer() {
        let named = ours(&lay_down(&scratch, &recipe.parts));
        assert!(named.contains(recipe.ours), "{}: '{named}'", recipe.theirs);
    }
}

/// A12: no kind is forgotten: each that this machine's libblkid can tell apart has a recipe above.
#[test]
fn every_kind_of_this_libblkid_has_a_recipe() {
    if !have("blkid") {
        return;
    }
    let tried = members().into_iter().chain(file_systems()).chain(other_file_systems()).chain(tables()).chain(newer());
    let mut tried: BTreeSet<&str> = tried.map(|recipe| recipe.theirs).collect();
    // Told apart by feature bits of one superblock, and by one flag.
    tried.extend(["ext3", "ext4", "ext4dev", "scoutfs_data"]);
    let printed = tool(Command::new("blkid").arg("-k"));
    let missing: Vec<&str> = printed.lines().map(str::trim).filter(|kind| !tried.contains(kind)).collect();
    assert!(printed.lines().count() > 70, "{printed}");
    assert!(
        missing.is_empty(),
        "libblkid knows {missing:?}: add a recipe here and a line to block's probe/signatures.rs"
    );
}

/// A12: what real tools make is named, too.
#[test]
fn what_mkfs_makes_is_named() {
    let scratch = Scratch::new("oracle-mkfs");
    let made: [(&str, &[&str], &str); 5] = [
        ("mke2fs", &["-q", "-t", "ext4"], "ext2/3/4"),
        ("mkfs.vfat", &[], "FAT file system"),
        ("mkswap", &[], "swap space"),
        ("mkfs.minix", &[], "Minix"),
        ("mkfs.bfs", &[], "SCO BFS"),
    ];
    for (mkfs, options, words) in made.into_iter().filter(|(mkfs, ..)| have(mkfs)) {
        let path = lay_down(&scratch, &[]);
        tool(Command::new(mkfs).args(options).arg(&path));
        let named = ours(&path);
        assert!(named.contains(words), "{mkfs}: '{named}'");
    }
}

/// A12: after a wipe `wipefs` finds the new member and nothing else.
#[test]
fn a_wiped_member_is_a_member_and_nothing_else() {
    if !have("wipefs") {
        return;
    }
    let (scratch, bench) = (Scratch::new("oracle-wipe"), Bench::new());
    let zfs = [0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0];
    let path = lay_down(
        &scratch,
        &[
            (64 * K + 64, b"_BHRfS_M".to_vec()),
            (4 * M, b"SKUL\xba\xbe".to_vec()),
            (END - 128 * K, zfs.to_vec()),
            (END - 4096 + 60, vec![0x83, 0x74, 2, 0x6b]),
            (END - 1024, b"Intel Raid ISM Cfg Sig. 1.0.00".to_vec()),
            (END - 512, vec![0xde, 0x11, 0xde, 0x11]),
        ],
    );
    assert!(theirs(&path).len() > 2, "{:?}", theirs(&path));
    let member = Member { disk: FileDisk::open(&path), label: "disk".into() };
    let id = ArrayId([7; 16]);
    let options = CreateOptions { name: "tank".into(), id, unix_seconds: 1, wipe: true, assume_clean: true };
    bench.run(create(options, vec![member], &bench.rt(), &mut |bytes| bytes.fill(3))).unwrap();
    assert_eq!(theirs(&path), BTreeSet::from(["linux_raid_member".to_owned()]));
}
