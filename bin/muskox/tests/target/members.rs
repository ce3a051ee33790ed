//! Which disk belongs to a pool: what a start and `pool add` say of members that were elsewhere meanwhile.

use crate::support::{LOCAL, StorageBox, finish, nbd_script};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Runs the pool on one of its two disks while the other is away, with a word, and writes there.
fn runs_alone(storage: &mut StorageBox, disk: &str, other: &str) {
    std::fs::rename(storage.path(other), storage.path("away")).unwrap();
    let _ = std::fs::remove_dir_all(storage.path("state"));
    storage.start();
    storage.ctl(&["pool", "start", "tank", &storage.text(disk), "--degraded"]);
    storage.ctl(&["grant", "override", "web1", "--word", "a test: runs alone"]);
    storage.ctl(&["grant", "raise", "web1", "9", "--owner", LOCAL]);
    finish(nbd_script(&storage.uri("web1"), &format!("h.pwrite(b'{disk}' * 256, 0)\nh.flush()")));
    assert!(storage.stop());
    std::fs::rename(storage.path("away"), storage.path(other)).unwrap();
}

fn read(storage: &StorageBox) -> String {
    finish(nbd_script(&storage.uri("web1"), "print(h.pread(512, 0)[:2].decode())")).trim().to_owned()
}

/// Goal: OD1: two members that each ran alone are named and refused at a start, the hint leads on, and the one that is
/// not chosen is taken only by a word. Method: run each alone, lose the state folder, follow the hints.
#[test]
fn two_that_each_ran_alone_are_refused_until_somebody_chooses() {
    let mut storage = StorageBox::with_volume(2, 16);
    storage.wait_for_resync();
    assert!(storage.stop());
    runs_alone(&mut storage, "d0", "d1");
    runs_alone(&mut storage, "d1", "d0");
    std::fs::remove_dir_all(storage.path("state")).unwrap();
    storage.start();
    let (d0, d1) = (storage.text("d0"), storage.text("d1"));
    let refused = storage.ctl_refused(&["pool", "start", "tank", &d0, &d1]);
    assert!(refused.contains(&d0) && refused.contains(&d1), "{refused}");
    assert!(refused.contains("each ran without the other") && refused.contains("--degraded"), "{refused}");

    storage.ctl(&["pool", "start", "tank", &d0, "--degraded"]);
    let refused = storage.ctl_refused(&["pool", "add", "tank", &d1]);
    assert!(refused.contains("it ran without the others") && refused.contains("--wipe"), "{refused}");
    // The box has recorded the choice: from now on it is no question any more, and the other is named with its reason.
    storage.ctl(&["pool", "stop", "tank"]);
    storage.ctl(&["pool", "start", "tank", &d0, &d1]);
    let shown = storage.ctl(&["pool", "show", "tank"]);
    assert!(shown.contains(&format!("{d1}: ")) && shown.contains("it ran"), "{shown}");
    storage.ctl_refused(&["pool", "add", "tank", &d1]);
    storage.ctl(&["pool", "add", "tank", &d1, "--wipe"]);
    storage.wait_for_resync();
    storage.wait_for_volume();
    assert_eq!(read(&storage), "d0");
    assert!(storage.stop());
    let [a, b] = ["d0", "d1"].map(|disk| std::fs::read(storage.path(disk)).unwrap()[16 << 20..].to_vec());
    assert!(a == b, "the members differ");
}

/// A mirror in sync whose volume is granted, with an empty folder `shelf` in which disks are looked for.
fn with_shelf() -> StorageBox {
    let storage = StorageBox::with_volume(2, 16);
    std::fs::create_dir(storage.path("shelf")).unwrap();
    storage.configure(&format!("disks = [\"{}\"]", storage.text("shelf")));
    storage.ctl(&["grant", "raise", "web1", "1", "--owner", LOCAL]);
    storage.wait_for_resync();
    storage
}

fn move_disk(storage: &StorageBox, from: &str, to: &str) {
    std::fs::rename(storage.path(from), storage.path(to)).unwrap();
}

fn write(storage: &StorageBox, text: &str) {
    finish(nbd_script(&storage.uri("web1"), &format!("h.pwrite(b'{text}' * 256, 0)\nh.flush()")));
}

/// Both disks hold the same data.
fn equal(one: &Path, other: &Path) -> bool {
    let [one, other] = [one, other].map(|disk| std::fs::read(disk).unwrap()[16 << 20..].to_vec());
    one == other
}

fn shows(storage: &StorageBox, words: &[&str]) {
    let shown = storage.ctl(&["pool", "show", "tank"]);
    assert!(words.iter().all(|words| shown.contains(words)), "{words:?}: {shown}");
}

/// Goal: DA5, OD2: a member that failed is added again while the target runs and the guest writes, by any of its names; one
/// that works is not. Method: fail, write, add.
#[test]
fn a_failed_disk_is_added_again_while_the_target_runs() {
    let mut storage = with_shelf();
    let [d0, d1] = ["d0", "d1"].map(|disk| storage.text(disk));
    std::os::unix::fs::symlink(&d1, storage.path("link")).unwrap();
    storage.ctl(&["pool", "fail", "tank", &d1]);
    write(&storage, "a1");
    storage.ctl(&["pool", "add", "tank", &d1]);
    storage.wait_for_resync();
    storage.ctl(&["pool", "fail", "tank", &storage.text("link")]);
    write(&storage, "b2");
    let refused = storage.ctl_refused(&["pool", "add", "tank", &d0]);
    assert!(refused.contains("works in this array"), "{refused}");
    storage.ctl(&["pool", "add", "tank", &storage.text("link")]);
    storage.wait_for_resync();
    assert!(storage.stop());
    assert!(equal(&storage.path("d0"), &storage.path("d1")));
}

/// Goal: DA8: two names of one disk are one disk: at a start, and for a new pool. Method: links to both members in the
/// folder that is searched; a restart; a pool of a disk and a link to it.
#[test]
fn two_names_of_one_disk_are_one() {
    let mut storage = with_shelf();
    storage.disk("d2", 96);
    for disk in ["d0", "d1", "d2"] {
        std::os::unix::fs::symlink(storage.path(disk), storage.path("shelf").join(disk)).unwrap();
    }
    assert!(storage.stop());
    storage.start();
    shows(&storage, &["state   healthy"]);
    let twice = storage.ctl_refused(&["pool", "create", "other", &storage.text("d2"), &storage.text("shelf/d2")]);
    assert!(twice.contains("are one disk"), "{twice}");
}

/// Goal: D6: one disk is a pool only by a word, and says what it is; what unequal disks cost is said. Method: both, and the word
/// where it is wrong.
#[test]
fn one_disk_is_no_mirror_and_unequal_ones_are_said() {
    let mut storage = StorageBox::new(2);
    storage.disk("large", 300);
    storage.start();
    let [d0, d1, large] = ["d0", "d1", "large"].map(|disk| storage.text(disk));
    let refused = storage.ctl_refused(&["pool", "create", "tank", &d0]);
    assert!(refused.contains("is no mirror") && refused.contains("--single"), "{refused}");
    let refused = storage.ctl_refused(&["pool", "create", "tank", &d0, &d1, "--single"]);
    assert!(refused.contains("2 disks are not a single one"), "{refused}");
    let made = storage.ctl(&["pool", "create", "tank", &d0, "--single"]);
    assert!(made.contains("note    1 of 1 disk, no mirror"), "{made}");
    let made = storage.ctl(&["pool", "create", "other", &d1, &large]);
    assert!(made.contains(&format!("204 MiB of {large} are not used")), "{made}");
    assert!(storage.stop());
}

/// Goal: A41, A42: a member that comes late, at another place and by another name, is found by its superblock and gets what
/// was written meanwhile, without anybody's word; until then it is named. Method: start without it, write, bring it into
/// the folder that is searched; then start again: it is found there at once.
#[test]
fn a_member_that_comes_late_is_taken_back() {
    let mut storage = with_shelf();
    assert!(storage.stop());
    move_disk(&storage, "d1", "away");
    storage.start();
    let missing = format!("{} is missing: it is looked for", storage.text("d1"));
    shows(&storage, &["state   degraded", &missing, "missing\n"]);
    storage.ctl(&["grant", "floor", "web1", "1"]);
    write(&storage, "c3");
    move_disk(&storage, "away", "shelf/renamed");
    storage.wait_for_resync();
    shows(&storage, &["shelf/renamed"]);
    assert!(storage.log().contains("it was away and is back"), "{}", storage.log());
    storage.wait_for_volume();
    assert!(storage.stop());
    assert!(equal(&storage.path("d0"), &storage.path("shelf/renamed")));
    storage.start();
    shows(&storage, &["state   healthy", "shelf/renamed"]);
}

/// Goal: A41, A37: a pool whose disks come late, or are held by another program for a while, starts when it can. Method: both
/// disks away at the start of the target; then a lock on one of them, as another program has it.
#[test]
fn a_pool_starts_when_its_disks_come() {
    let mut storage = with_shelf();
    assert!(storage.stop());
    move_disk(&storage, "d0", "away0");
    move_disk(&storage, "d1", "away1");
    storage.start();
    assert!(storage.ctl(&["pool", "list"]).contains("none of the disks that were looked at is of the pool 'tank'"));
    move_disk(&storage, "away0", "d0");
    move_disk(&storage, "away1", "shelf/d1");
    storage.wait("a start", |it| it.ctl(&["pool", "list"]).contains("healthy"));
    assert!(storage.stop());
    let held = std::fs::File::open(storage.path("d0")).unwrap();
    held.lock().unwrap();
    storage.start();
    assert!(storage.ctl(&["pool", "list"]).contains("is in use by"));
    drop(held);
    storage.wait("a start", |it| it.ctl(&["pool", "list"]).contains("healthy"));
    assert_eq!(storage.log().matches("cannot start").count(), 2, "said once each: {}", storage.log());
}

/// Goal: a member that failed at work waits for a word, also when it was away since. Method: fail it, restart without it,
/// bring it back: several looks later it is still out, and `pool add` takes it.
#[test]
fn a_failed_member_does_not_come_back_by_itself() {
    let mut storage = with_shelf();
    storage.ctl(&["pool", "fail", "tank", &storage.text("d1")]);
    assert!(storage.stop());
    move_disk(&storage, "d1", "away");
    storage.start();
    shows(&storage, &["degraded", &format!("{} is missing: it failed before it went", storage.text("d1"))]);
    move_disk(&storage, "away", "d1");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(7) {
        shows(&storage, &["state   degraded"]);
        std::thread::sleep(Duration::from_millis(200));
    }
    storage.ctl(&["pool", "add", "tank", &storage.text("d1")]);
    storage.wait_for_resync();
}

/// Goal: of a member and a copy of it neither is taken, and both are named; when one has gone the other comes back. Method: a
/// copy in the folder that is searched.
#[test]
fn of_a_member_and_its_copy_neither_is_taken() {
    let mut storage = with_shelf();
    assert!(storage.stop());
    std::fs::copy(storage.path("d1"), storage.path("shelf/copy")).unwrap();
    storage.start();
    let both = ["d1", "shelf/copy"].map(|disk| format!("{}: it says to be the same member as", storage.text(disk)));
    shows(&storage, &["state   degraded", &both[0], &both[1]]);
    std::fs::remove_file(storage.path("shelf/copy")).unwrap();
    storage.wait_for_resync();
    let shown = storage.ctl(&["pool", "show", "tank"]);
    assert!(!shown.contains("same member"), "{shown}");
}

fn zero_superblock(disk: &Path) {
    let file = std::fs::File::options().write(true).open(disk).unwrap();
    file.write_all_at(&[0; 0x3000], 0x1000).unwrap();
}

/// Goal: A14: a disk whose superblock was wiped is named, by what is left on it; with both gone it is no free disk either.
/// Method: zero sectors 8 to 31 of one, then of both, as firmware does.
#[test]
fn a_disk_that_lost_its_superblock_is_named() {
    let mut storage = with_shelf();
    assert!(storage.stop());
    zero_superblock(&storage.path("d1"));
    let lost = format!("{}: it holds ", storage.text("d1"));
    storage.start();
    storage.wait("its name", |it| it.ctl(&["pool", "show", "tank"]).contains(&lost));
    shows(&storage, &["state   degraded", "muskox", "it has no superblock of this pool any more"]);
    assert!(storage.stop());
    zero_superblock(&storage.path("d0"));
    storage.start();
    let [d0, d1] = ["d0", "d1"].map(|disk| storage.text(disk));
    let refused = storage.ctl_refused(&["pool", "start", "tank"]);
    assert!(refused.contains(&format!("{d0}: it holds ")) && refused.contains(&lost), "{refused}");
    let refused = storage.ctl_refused(&["pool", "create", "other", &d0, &d1]);
    assert!(refused.contains("muskox") && refused.contains("--wipe"), "{refused}");
}
