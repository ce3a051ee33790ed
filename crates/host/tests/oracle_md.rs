//! Oracle: stock `mdadm` reads what the mirror writes, in every state, and the content lies at its data offset.
//!
//! This does not need a kernel with md: `--examine` and `--examine-bitmap` read files. The reverse, an array made by
//! `mdadm --create`, does need one; instead a superblock is laid down byte by byte from md_p.h, as mdadm 4.2 lays it
//! out, and is checked by mdadm before we read it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use block::raid::bad_blocks::BadBlocks;
use block::raid::layout::log_place;
use block::raid::superblock::{FEATURE_BAD_BLOCKS, Superblock};
use block::raid::{Array, ArrayState, AssembleOptions, CreateOptions, Member, RaidError, Start, assemble, create};
use block::{Durability, IoBuf};
use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use support::{Bench, FileDisk, Scratch, have, tool};
use units::{ArrayId, ByteLen, ByteOffset};

const ID: ArrayId =
    ArrayId([0xc0, 0xff, 0xee, 0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc]);
const ID_TEXT: &str = "c0ffee00:11223344:55667788:99aabbcc";
const NOW: u64 = 1_800_000_000;
const DISK: ByteLen = ByteLen(64 << 20);
const SMALL_GAP: u64 = 16 << 20;

fn member(path: &Path) -> Member {
    Member { disk: FileDisk::open(path), label: path.display().to_string() }
}

fn made(bench: &Rc<Bench>, paths: &[PathBuf], assume_clean: bool) -> Rc<Array> {
    let options = CreateOptions { name: "box:pool".into(), id: ID, unix_seconds: NOW, wipe: false, assume_clean };
    let members = paths.iter().map(|path| member(path)).collect();
    let mut next = 0;
    let mut random = |bytes: &mut [u8]| {
        next += 1;
        bytes.fill(next);
    };
    bench.run(create(options, members, &bench.rt(), &mut random)).unwrap()
}

fn assembled(bench: &Rc<Bench>, paths: &[PathBuf], start: Start) -> Result<Rc<Array>, RaidError> {
    let members = paths.iter().map(|path| member(path)).collect();
    bench.run(assemble(members, &bench.rt(), AssembleOptions { start, unix_seconds: NOW }))
}

fn write(bench: &Rc<Bench>, array: &Array, at: u64, bytes: &[u8]) {
    let data = IoBuf::copy_of(bytes).freeze();
    bench.run(array.disk().write(ByteOffset(at), data, Durability::Fua)).unwrap();
}

/// What mdadm says of a member, by its own words.
fn examine(path: &Path) -> HashMap<String, String> {
    fields(&tool(Command::new("mdadm").arg("--examine").arg(path)))
}

/// mdadm looks for a bitmap behind a superblock only on block devices; of a file it takes the bitmap itself.
fn examine_bitmap(path: &Path) -> HashMap<String, String> {
    let alone = path.with_extension("bitmap");
    std::fs::write(&alone, read_file(path, 8192, 128 << 10)).unwrap();
    fields(&tool(Command::new("mdadm").arg("--examine-bitmap").arg(alone)))
}

fn fields(text: &str) -> HashMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once(" : "));
    pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
}

fn assert_fields(found: &HashMap<String, String>, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        let text = found.get(*name).unwrap_or_else(|| panic!("mdadm does not print '{name}': {found:#?}"));
        assert!(text.starts_with(value), "{name}: '{text}', not '{value}'");
    }
}

fn checksum_is_correct(found: &HashMap<String, String>) {
    assert!(found["Checksum"].ends_with(" - correct"), "{}", found["Checksum"]);
}

fn read_file(path: &Path, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    std::fs::File::open(path).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}

#[test]
fn mdadm_agrees_after_create_write_and_stop() {
    if !have("mdadm") {
        return;
    }
    let (scratch, bench) = (Scratch::new("md-create"), Bench::new());
    let paths = [scratch.disk("a", DISK), scratch.disk("b", DISK)];
    let array = made(&bench, &paths, true);
    for (slot, path) in paths.iter().enumerate() {
        let found = examine(path);
        let role = format!("Active device {slot}");
        assert_fields(
            &found,
            &[
                ("Magic", "a92b4efc"),
                ("Version", "1.2"),
                ("Feature Map", "0x1"),
                ("Array UUID", ID_TEXT),
                ("Name", "box:pool"),
                ("Raid Level", "raid1"),
                ("Raid Devices", "2"),
                ("Avail Dev Size", "98304 sectors"),
                ("Array Size", "49152 KiB"),
                ("Data Offset", "32768 sectors"),
                ("Super Offset", "8 sectors"),
                ("State", "clean"),
                ("Internal Bitmap", "8 sectors from superblock"),
                ("Events", "1"),
                ("Device Role", &role),
                ("Array State", "AA"),
            ],
        );
        checksum_is_correct(&found);
        assert!(!found.contains_key("Recovery Offset"));
    }
    let content: Vec<u8> = (0..65_536u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    write(&bench, &array, 1 << 20, &content);
    for path in &paths {
        let found = examine(path);
        assert_fields(&found, &[("State", "active"), ("Events", "2")]);
        checksum_is_correct(&found);
        let bitmap = examine_bitmap(path);
        assert_fields(
            &bitmap,
            &[
                ("Magic", "6d746962"),
                ("Version", "4"),
                ("UUID", ID_TEXT),
                ("Events", "2"),
                ("State", "OK"),
                ("Chunksize", "64 KB"),
                ("Daemon", "5s flush period"),
                ("Sync Size", "49152"),
                ("Bitmap", "768 bits (chunks), 1 dirty"),
            ],
        );
    }
    bench.run(array.stop()).unwrap();
    for path in &paths {
        let (found, bitmap) = (examine(path), examine_bitmap(path));
        assert_fields(&found, &[("State", "clean"), ("Array State", "AA")]);
        assert_fields(&bitmap, &[("Bitmap", "768 bits (chunks), 0 dirty"), ("Events", &found["Events"])]);
        assert_eq!(read_file(path, SMALL_GAP + (1 << 20), content.len()), content, "raw content at the data offset");
    }
}

#[test]
fn mdadm_agrees_after_fail_refill_and_return() {
    if !have("mdadm") {
        return;
    }
    let (scratch, bench) = (Scratch::new("md-fail"), Bench::new());
    let paths = [scratch.disk("a", DISK), scratch.disk("b", DISK)];
    let fresh = scratch.disk("c", DISK);
    let array = made(&bench, &paths, true);
    write(&bench, &array, 0, &[1; 4096]);
    bench.run(array.fail(1)).unwrap();
    let (survivor, failed) = (examine(&paths[0]), examine(&paths[1]));
    assert_fields(&survivor, &[("Array State", "A."), ("Device Role", "Active device 0")]);
    checksum_is_correct(&survivor);
    assert!(survivor["Events"].parse::<u64>().unwrap() > failed["Events"].parse::<u64>().unwrap());

    write(&bench, &array, 4096, &[2; 4096]);
    bench.run(array.add(member(&fresh), false, [9; 16])).unwrap();
    let filling = examine(&fresh);
    checksum_is_correct(&filling);
    assert_fields(&filling, &[("Device Role", "Active device 1"), ("Device UUID", "09090909:09090909")]);
    bench.run(array.resync_ended());
    assert_eq!(array.status().members[1].label, fresh.display().to_string());
    bench.run(array.stop()).unwrap();
    for path in [&paths[0], &fresh] {
        let found = examine(path);
        checksum_is_correct(&found);
        assert_fields(&found, &[("State", "clean"), ("Array State", "AA"), ("Feature Map", "0x1")]);
        assert_fields(&examine_bitmap(path), &[("Bitmap", "768 bits (chunks), 0 dirty")]);
        assert_eq!(read_file(path, SMALL_GAP, 8192), [[1u8; 4096], [2; 4096]].concat());
    }
    let all = [paths[0].clone(), paths[1].clone(), fresh];
    let array = assembled(&bench, &all, Start::AsLeft).unwrap();
    let status = array.status();
    assert_eq!((status.state, status.outsiders.len()), (ArrayState::Clean, 1));
    assert!(status.outsiders[0].1.starts_with("stale"), "{:?}", status.outsiders);
}

#[test]
fn mdadm_sees_a_recovery_under_way() {
    if !have("mdadm") {
        return;
    }
    let (scratch, bench) = (Scratch::new("md-recover"), Bench::new());
    let (one, two) = (scratch.disk("a", DISK), scratch.disk("b", DISK));
    let array = made(&bench, std::slice::from_ref(&one), true);
    assert_fields(&examine(&one), &[("Raid Devices", "1"), ("Feature Map", "0x0"), ("State", "clean")]);
    write(&bench, &array, 0, &[7; 4096]);
    bench.run(array.grow(2)).unwrap();
    bench.run(array.add(member(&two), false, [9; 16])).unwrap();
    bench.run(array.stop()).unwrap();
    let found = examine(&two);
    checksum_is_correct(&found);
    assert_fields(
        &found,
        &[("Feature Map", "0x3"), ("Recovery Offset", ""), ("Raid Devices", "2"), ("State", "clean")],
    );
    let array = assembled(&bench, &[one.clone(), two.clone()], Start::AsLeft).unwrap();
    bench.run(array.resync_ended());
    bench.run(array.stop()).unwrap();
    for path in [&one, &two] {
        assert_fields(&examine(path), &[("Feature Map", "0x1"), ("State", "clean"), ("Array State", "AA")]);
        assert_eq!(read_file(path, SMALL_GAP, 4096), [7; 4096]);
    }
}

/// The loop device gives the content to any stock tool, where loop devices can be had.
#[test]
fn the_content_is_readable_through_a_loop_device() {
    if !have("losetup") {
        return;
    }
    let (scratch, bench) = (Scratch::new("md-loop"), Bench::new());
    let path = scratch.disk("a", DISK);
    let array = made(&bench, std::slice::from_ref(&path), true);
    write(&bench, &array, 8192, &[0x5a; 4096]);
    bench.run(array.stop()).unwrap();
    let offset = SMALL_GAP.to_string();
    let attach = Command::new("losetup").args(["--show", "-r", "-f", "-o", &offset]).arg(&path).output().unwrap();
    if !attach.status.success() {
        // No loop devices here (a container): the plain read above is the same bytes.
        eprintln!("SKIP: no loop device: {}", String::from_utf8_lossy(&attach.stderr).trim());
        assert_eq!(read_file(&path, SMALL_GAP + 8192, 4096), [0x5a; 4096]);
        return;
    }
    let device = PathBuf::from(String::from_utf8(attach.stdout).unwrap().trim());
    let found = read_file(&device, 8192, 4096);
    tool(Command::new("losetup").arg("-d").arg(&device));
    assert_eq!(found, [0x5a; 4096]);
}

/// A superblock as mdadm 4.2 lays it out for `--create --level=1 --raid-devices=2 --metadata=1.2`, made here byte by
/// byte from md_p.h and not by our encoder: data at 1 MiB, a bad block log, `resync_offset` 0, 128 roles.
fn stock_superblock(number: u32, sectors: u64) -> Vec<u8> {
    let mut bytes = vec![0u8; 4096];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &0xa92b_4efcu32.to_le_bytes());
    put(4, &1u32.to_le_bytes());
    put(16, &ID.0);
    put(32, b"box:stock");
    put(64, &NOW.to_le_bytes());
    put(72, &1u32.to_le_bytes());
    put(80, &(sectors - 2048).to_le_bytes());
    put(92, &2u32.to_le_bytes());
    put(128, &2048u64.to_le_bytes());
    put(136, &(sectors - 2048).to_le_bytes());
    put(144, &8u64.to_le_bytes());
    put(160, &number.to_le_bytes());
    put(168, &[u8::try_from(number).unwrap() + 1; 16]);
    put(186, &8u16.to_le_bytes());
    put(188, &16u32.to_le_bytes());
    put(192, &NOW.to_le_bytes());
    put(200, &17u64.to_le_bytes());
    put(220, &128u32.to_le_bytes());
    put(256, &[0xff; 256]);
    put(256, &[0, 0, 1, 0]);
    let words = bytes[..512].chunks(4).map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap())));
    let sum: u64 = words.sum();
    let folded = u32::try_from(sum & 0xffff_ffff).unwrap().wrapping_add(u32::try_from(sum >> 32).unwrap());
    bytes[216..220].copy_from_slice(&folded.to_le_bytes());
    bytes
}

#[test]
fn an_array_laid_out_by_stock_mdadm_is_served_and_stays_its_own() {
    if !have("mdadm") {
        return;
    }
    let (scratch, bench) = (Scratch::new("md-stock"), Bench::new());
    let paths = [scratch.disk("a", DISK), scratch.disk("b", DISK)];
    for (number, path) in (0u32..).zip(&paths) {
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&stock_superblock(number, DISK.0 / 512), 4096).unwrap();
        file.write_all_at(&[u8::try_from(number).unwrap() + 1; 4096], 1 << 20).unwrap();
        checksum_is_correct(&examine(path));
    }
    let array = assembled(&bench, &paths, Start::AsLeft).unwrap();
    assert!(!array.facts().complete(), "stock members carry no facts");
    let refused = bench.run(array.facts().store(units::VolumeId([1; 16]), &1u64.to_le_bytes()));
    assert!(matches!(refused, Err(RaidError::NoFactsRoom(_))));
    bench.run(array.resync_ended());
    write(&bench, &array, 8192, &[5; 4096]);
    bench.run(array.stop()).unwrap();
    for path in &paths {
        let found = examine(path);
        checksum_is_correct(&found);
        assert_fields(
            &found,
            &[
                ("State", "clean"),
                ("Name", "box:stock"),
                ("Data Offset", "2048 sectors"),
                ("Bad Block Log", "512 entries available at offset 16 sectors"),
                ("Array State", "AA"),
            ],
        );
        assert_eq!(read_file(path, 1 << 20, 4096), [1; 4096], "the first member was the source");
        assert_eq!(read_file(path, (1 << 20) + 8192, 4096), [5; 4096]);
    }
}

/// Goal: DA6: mdadm reads our bad block log, and we read what stands there. Method: a member is given a log by the encoder;
/// mdadm names the sectors, and the array starts with it.
#[test]
fn mdadm_reads_our_bad_block_log() {
    if !have("mdadm") {
        return;
    }
    let (scratch, bench) = (Scratch::new("md-bad"), Bench::new());
    let paths = [scratch.disk("a", DISK), scratch.disk("b", DISK)];
    bench.run(made(&bench, &paths, true).stop()).unwrap();
    let sector: [u8; 4096] = read_file(&paths[1], 4096, 4096).try_into().unwrap();
    let mut superblock = Superblock::decode(&sector).unwrap();
    superblock.features |= FEATURE_BAD_BLOCKS;
    (superblock.bad_block_offset, superblock.bad_block_sectors) = (2032, 8);
    let mut bad = BadBlocks::default();
    bad.insert(SMALL_GAP + (1 << 20)..SMALL_GAP + (1 << 20) + 8192);
    let log = bad.encode(&log_place(&superblock).unwrap()).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&paths[1]).unwrap();
    file.write_all_at(&log, 1_044_480).unwrap();
    file.write_all_at(&superblock.encode(), 4096).unwrap();

    let text = tool(Command::new("mdadm").arg("--examine-badblocks").arg(&paths[1]));
    assert!(text.contains(&format!("{} for 16 sectors", (SMALL_GAP + (1 << 20)) / 512)), "{text}");
    assert_fields(
        &examine(&paths[1]),
        &[("Feature Map", "0x9"), ("Bad Block Log", "512 entries available at offset 2032")],
    );
    let array = assembled(&bench, &paths, Start::AsLeft).unwrap();
    assert_eq!(array.status().members[1].bad, [(ByteOffset(1 << 20), ByteLen(8192))]);
    write(&bench, &array, 1 << 20, &[1; 8192]);
    bench.run(array.stop()).unwrap();
    assert_fields(&examine(&paths[1]), &[("Feature Map", "0x1")]);
}
