//! Disks as a guest leaves them, whole and spoiled in one place at a time.

use super::*;
use crate::demo::guest::record::Boot;
use crate::demo::guest::{CANARY_GUEST_BYTES, SLOTS_AT};
use crate::demo::image::{IMAGE_BYTES, ROOT_AT};
use std::path::PathBuf;

const BOOT: Boot = Boot(0xb007);
/// More than the canary has slots, so that some were overwritten.
const MANY: u64 = SLOTS + 100;

/// Disks as a guest leaves them after `MANY` records, the last of them not acknowledged.
struct Disks {
    folder: PathBuf,
    receipts: Vec<Receipt>,
}

impl Disks {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("muskox-check-{}-{name}", std::process::id()));
        let inside = folder.join("tree/var/lib/muskox-guest");
        std::fs::create_dir_all(&inside).unwrap();
        let all: Vec<_> = (0..MANY).map(|n| Record { n, boot: BOOT }.encode()).collect();
        let bytes: Vec<u8> = all.iter().flat_map(|(bytes, _)| *bytes).collect();
        std::fs::write(inside.join("records"), bytes).unwrap();
        let root = File::create(folder.join("root")).unwrap();
        root.set_len(IMAGE_BYTES).unwrap();
        image::write_table(&root).unwrap();
        let offset = format!("offset={ROOT_AT}");
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-E", &offset, "-d"]).arg(folder.join("tree"));
        let (status, text) = run(mke2fs.arg(folder.join("root")).arg("64M")).unwrap();
        assert_eq!(status, 0, "{text}");
        let canary = File::create(folder.join("canary")).unwrap();
        canary.set_len(2 * CANARY_GUEST_BYTES).unwrap();
        canary.write_all_at(CANARY_MAGIC, 0).unwrap();
        for (n, (bytes, _)) in (0..).zip(&all) {
            canary.write_all_at(bytes, slot_at(n)).unwrap();
        }
        let receipt = |(n, (_, crc)): (u64, &(_, u32))| Receipt { at_us: n, boot: BOOT, n, crc: *crc };
        let receipts = (0..MANY - 1).zip(&all).map(receipt).collect();
        Self { folder, receipts }
    }

    fn check(&self) -> Found {
        check(&self.folder.join("root"), Some(&self.folder.join("canary")), &self.receipts, &self.folder).unwrap()
    }

    /// Where in the root disk a record is: its own bytes tell.
    fn at_of(&self, n: u64) -> u64 {
        let disk = File::open(self.folder.join("root")).unwrap();
        let record = Record { n, boot: BOOT }.encode().0;
        let mut bytes = vec![0; 1 << 20];
        for at in (ROOT_AT..IMAGE_BYTES).step_by(1 << 20) {
            disk.read_exact_at(&mut bytes, at).unwrap();
            if let Some(place) = bytes.chunks(RECORD_BYTES).position(|chunk| chunk == record) {
                return at + (place * RECORD_BYTES) as u64;
            }
        }
        panic!("record {n} is nowhere");
    }

    fn write(&self, disk: &str, bytes: &[u8], at: u64) {
        let file = std::fs::OpenOptions::new().write(true).open(self.folder.join(disk)).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Goal: disks that hold everything are fine, also with an acknowledgement that came twice, and records that came after
/// the last acknowledged one.
#[test]
fn whole_disks_are_fine() {
    let mut disks = Disks::new("whole");
    disks.receipts.push(disks.receipts[3]);
    let found = disks.check();
    assert!(found.is_fine() && !found.replayed, "{found:?}");
    assert_eq!((found.acked, found.slots), (MANY - 1, SLOTS));
    assert_eq!(found.problems, Vec::<String>::new());
    let left: Vec<_> = std::fs::read_dir(&disks.folder).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left.len(), 3, "the copy is gone: {left:?}");
}

/// Goal: each kind of damage is noticed, and as what it is. Method: a copy spoiled in one place at a time; missing,
/// torn, and a word of the explanation.
#[test]
fn damage_is_noticed() {
    let check = |name: &str, missing: u64, torn: u64, words: &str, spoil: fn(&mut Disks)| {
        let mut disks = Disks::new(name);
        spoil(&mut disks);
        let found = disks.check();
        assert_eq!((found.missing, found.torn, found.is_fine()), (missing, torn, false), "{name}: {found:?}");
        assert!(found.problems.iter().any(|problem| problem.contains(words)), "{name}: {found:?}");
    };
    check("torn", 0, 1, "record 7 of boot 000000000000b007 is not whole in the file", |disks| {
        disks.write("root", &[0xff; 100], disks.at_of(7) + 200);
    });
    check("zeroed", 1, 0, "nothing is", |disks| disks.write("root", &[0; RECORD_BYTES], disks.at_of(8)));
    check("unacknowledged", 0, 1, "never acknowledged", |disks| {
        disks.receipts.remove(9);
        disks.write("root", &[0xff; 100], disks.at_of(9) + 200);
    });
    check("another boot's", 1, 0, "of boot 0000000000000001 is", |disks| {
        disks.write("root", &Record { n: 10, boot: Boot(1) }.encode().0, disks.at_of(10));
    });
    check("behind the end", 2, 0, "nothing is", |disks| {
        let last = *disks.receipts.last().unwrap();
        disks.receipts.extend([MANY, MANY + 1].map(|n| Receipt { n, ..last }));
        // The canary's slots of the two hold records of a round before: they would be two more.
        for n in [MANY, MANY + 1] {
            disks.write("canary", &Record { n: n + SLOTS, boot: BOOT }.encode().0, slot_at(n));
        }
    });
    check("stale slot", 1, 0, "record 1025 of boot 000000000000b007 is not in the canary: record 1 ", |disks| {
        disks.write("canary", &Record { n: 1, boot: BOOT }.encode().0, slot_at(1));
    });
    check("rogue slot", 0, 1, "not whole in the canary", |disks| disks.write("canary", b"muskox-rogue", SLOTS_AT));
    check("no file system", MANY - 1, 0, "e2fsck -fn ended with 8", |disks| {
        disks.write("root", &[0; 8192], ROOT_AT);
    });
}
