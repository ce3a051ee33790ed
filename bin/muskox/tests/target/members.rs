//! Which disk belongs to a pool: what a start and `pool add` say of members that were elsewhere meanwhile.

use crate::support::{LOCAL, StorageBox, finish, nbd_script};

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
