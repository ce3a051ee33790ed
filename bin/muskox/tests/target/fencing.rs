//! Who may write, across raises, kills and missing members.

use crate::support::{LOCAL, StorageBox, finish, have, nbd_script, pattern, tool, try_tool};

const OTHER: &str = "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd";

/// Goal: nobody gets in without a grant, and is told why. Method: no grant; another's grant; read-only; an old epoch.
#[test]
fn who_is_not_granted_stays_out() {
    if !["qemu-img", "nbdinfo"].into_iter().all(have) {
        return;
    }
    let storage = StorageBox::with_volume(2, 16);
    let refused = |export: &str, words: &str| {
        let (worked, printed) = try_tool(&["qemu-img", "info", &storage.uri(export)]);
        assert!(!worked && printed.contains(words), "{export}: {printed}");
    };
    refused("web1", "no volume 'web1' here that is granted");
    storage.ctl(&["grant", "raise", "web1", "5", "--owner", OTHER]);
    refused("web1", "no volume 'web1' here that is granted");
    assert!(tool(&["qemu-nbd", "--list", "-k", &storage.text("nbd.sock")]).contains("exports available: 0"));
    storage.ctl(&["grant", "raise", "web1", "6", "--owner", &format!("{LOCAL}:ro")]);
    assert!(tool(&["nbdinfo", "--json", &storage.uri("web1")]).contains("\"is_read_only\": true"));
    refused("web1;epoch=5;incarnation=1;mode=rw", "replaced this one for good");
    refused("web1;epoch=6;incarnation=1;mode=rw", "read-only");
    refused("web2", "no volume 'web2' here that is granted");
    refused("Web1", "is not a name");
    let lower = storage.ctl_refused(&["grant", "raise", "web1", "5", "--owner", LOCAL]);
    assert!(lower.contains("epoch 6") && lower.contains("hint:"), "{lower}");
}

/// DA14. Goal: a host without a grant learns neither which volumes there are nor their epochs. Method: it asks for one that is another's
/// and for one that is not there, as a stock client and with an epoch to come; the answers are the same but for the name.
#[test]
fn a_stranger_learns_no_names() {
    if !have("nbdinfo") {
        return;
    }
    let storage = StorageBox::with_volume(2, 16);
    storage.ctl(&["grant", "raise", "web1", "5", "--owner", OTHER]);
    for what in ["", ";epoch=5;incarnation=1;mode=rw", ";epoch=6;incarnation=1;mode=ro"] {
        let answers = ["web1", "web9"].map(|name| {
            let (worked, printed) = try_tool(&["nbdinfo", &storage.uri(&format!("{name}{what}"))]);
            assert!(!worked, "{printed}");
            printed.replace(name, "NAME")
        });
        assert_eq!(answers[0], answers[1], "{what}");
    }
    assert!(
        storage.log().contains("is not granted to") && storage.log().contains("no volume 'web9'"),
        "{}",
        storage.log()
    );
}

/// Goal: what was answered stands in the audit log, and nothing else does. Method: a raise, a promise, a floor told twice
/// and a raise that is refused; a kill right behind the answer.
#[test]
fn grants_are_written_down_before_they_are_answered() {
    let mut storage = StorageBox::with_volume(2, 16);
    storage.ctl(&["grant", "raise", "web1", "1", "--owner", LOCAL]);
    storage.ctl(&["grant", "reserve", "web1", "3", OTHER]);
    storage.ctl(&["grant", "floor", "web1", "4"]);
    storage.ctl(&["grant", "floor", "web1", "4"]);
    storage.ctl_refused(&["grant", "raise", "web1", "2", "--owner", OTHER]);
    storage.ctl(&["grant", "raise", "web1", "5", "--owner", &format!("{OTHER}:ro"), "--owner", LOCAL]);
    storage.kill();
    let text = std::fs::read_to_string(storage.path("state/grants.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = lines.iter().map(|line| (line["kind"].as_str().unwrap(), line["epoch"].as_u64())).collect();
    let expect = [("grant", Some(1)), ("reservation", Some(3)), ("floor", Some(4)), ("grant", Some(5))];
    assert_eq!(kinds, expect, "{text}");
    assert!(lines.windows(2).all(|two| two[0]["mono_us"].as_u64() < two[1]["mono_us"].as_u64()), "{text}");
    assert!(lines[3]["asked_mono_us"].as_u64() < lines[3]["mono_us"].as_u64(), "{text}");
    assert_eq!(lines[3]["owners"][0]["host"], OTHER, "{text}");
    assert_eq!((&lines[3]["owners"][0]["mode"], &lines[3]["owners"][1]["mode"]), (&"ro".into(), &"rw".into()));
}

/// Goal: after a raise is acknowledged nothing of the older epoch lands. Method: a writer counts up in one block; raise;
/// read what is there; wait; nothing changed, and the writer got ESHUTDOWN.
#[test]
fn a_raise_fences_a_writer_in_full_swing() {
    if !have("nbdsh") {
        return;
    }
    let storage = StorageBox::with_volume(2, 16);
    storage.ctl(&["grant", "raise", "web1", "1", "--owner", LOCAL]);
    let swinging = storage.text("swinging");
    let writer = nbd_script(
        &storage.uri("web1"),
        &format!(
            "n = 0\n\
             try:\n\
             \twhile True:\n\
             \t\tn += 1\n\
             \t\th.pwrite(n.to_bytes(8, 'big') * 512, n % 8 * 4096)\n\
             \t\tif n == 50:\n\
             \t\t\topen('{swinging}', 'w').close()\n\
             except nbd.Error as error:\n\
             \tprint(n, error.errno)"
        ),
    );
    storage.wait("a writer", |storage| storage.path("swinging").exists());
    storage.ctl(&["grant", "raise", "web1", "2", "--owner", LOCAL]);
    let look = || {
        finish(nbd_script(&storage.uri("web1"), "import hashlib\nprint(hashlib.sha256(h.pread(32768, 0)).hexdigest())"))
    };
    let at_the_ack = look();
    let said = finish(writer);
    let (count, errno) = said.trim().split_once(' ').unwrap();
    assert_eq!(errno, "ESHUTDOWN");
    assert!(count.parse::<u64>().unwrap() > 50, "{count}");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(look(), at_the_ack);
}

/// Goal: a reservation lets its host read ahead of time and write only after the raise. Method: exact names.
#[test]
fn a_standby_reads_and_writes_after_its_raise() {
    if !have("nbdsh") {
        return;
    }
    let storage = StorageBox::with_volume(2, 16);
    storage.ctl(&["grant", "raise", "web1", "1", "--owner", OTHER]);
    storage.ctl(&["grant", "reserve", "web1", "3", LOCAL]);
    let marker = storage.text("raised");
    let standby = nbd_script(
        &storage.uri("web1;epoch=3;incarnation=1;mode=rw"),
        &format!(
            "import os, time\n\
             h.pread(4096, 0)\n\
             try:\n\
             \th.pwrite(bytes(4096), 0)\n\
             \tassert False\n\
             except nbd.Error as error:\n\
             \tassert error.errno == 'EPERM', error\n\
             open('{marker}.asked', 'w').close()\n\
             while not os.path.exists('{marker}'):\n\
             \ttime.sleep(0.01)\n\
             h.pwrite(b'y' * 4096, 0, nbd.CMD_FLAG_FUA)\n\
             assert h.pread(4096, 0) == b'y' * 4096"
        ),
    );
    storage.wait("a standby", |storage| storage.path("raised.asked").exists());
    storage.ctl(&["grant", "raise", "web1", "2", "--nobody"]);
    storage.ctl(&["grant", "raise", "web1", "3", "--owner", LOCAL]);
    std::fs::write(&marker, "").unwrap();
    finish(standby);
}

/// Goal: kill -9 loses nothing that was flushed and no grant. Method: write, flush, go on writing, kill, start, compare;
/// the old epoch stays out.
#[test]
fn killed_it_comes_back_with_all_it_acknowledged() {
    if !have("qemu-img") {
        return;
    }
    let mut storage = StorageBox::with_volume(2, 32);
    storage.ctl(&["grant", "raise", "web1", "7", "--owner", LOCAL]);
    let (uri, image) = (storage.uri("web1"), storage.text("image"));
    pattern(&storage.path("image"), 16);
    tool(&["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", &image, &uri]);
    let mut writer = nbd_script(&uri, "while True:\n\th.pwrite(b'z' * 65536, 16777216)");
    std::thread::sleep(std::time::Duration::from_millis(300));
    storage.kill();
    writer.wait().unwrap();
    storage.start();
    let grant = storage.ctl(&["grant", "show", "web1"]);
    assert!(grant.contains("epoch        7") && grant.contains(LOCAL), "{grant}");
    let back = storage.text("back");
    tool(&["qemu-img", "convert", "-f", "raw", "-O", "raw", &uri, &back]);
    assert!(std::fs::read(&back).unwrap()[..16 << 20] == std::fs::read(&image).unwrap());
    let (worked, printed) = try_tool(&["qemu-img", "info", &storage.uri("web1;epoch=6;incarnation=9;mode=rw")]);
    assert!(!worked && printed.contains("replaced this one for good"), "{printed}");
    storage.wait_for_resync();
}

/// Goal: with a member missing and no floor nobody is served, with one it is; an override does it too, by a word.
/// Method: take a disk away while the target is down.
#[test]
fn a_missing_member_needs_a_floor() {
    if !["qemu-img", "nbdinfo"].into_iter().all(have) {
        return;
    }
    let mut storage = StorageBox::with_volume(2, 16);
    storage.ctl(&["grant", "raise", "web1", "4", "--owner", LOCAL]);
    storage.wait_for_resync();
    storage.kill();
    std::fs::rename(storage.path("d1"), storage.path("elsewhere")).unwrap();
    storage.start();
    let (worked, printed) = try_tool(&["qemu-img", "info", &storage.uri("web1")]);
    assert!(!worked && printed.contains("blocked(floor)"), "{printed}");
    assert!(storage.ctl(&["pool", "show", "tank"]).contains("degraded"));
    storage.ctl(&["grant", "floor", "web1", "4"]);
    tool(&["nbdinfo", "--size", &storage.uri("web1")]);

    storage.kill();
    storage.start();
    let empty = storage.ctl_refused(&["grant", "override", "web1", "--word", " "]);
    assert!(empty.contains("word"), "{empty}");
    storage.ctl(&["grant", "override", "web1", "--word", "ann: d1 burnt down"]);
    tool(&["nbdinfo", "--size", &storage.uri("web1")]);
    assert!(storage.ctl(&["grant", "show", "web1"]).contains("ann: d1 burnt down"));

    // The disk comes back at another path, and is found there when it is looked for.
    storage.stop();
    storage.configure(&format!("disks = [\"{}\"]", storage.text("elsewhere")));
    storage.start();
    let shown = storage.ctl(&["pool", "show", "tank"]);
    assert!(shown.contains("elsewhere"), "{shown}");
    storage.ctl(&["pool", "add", "tank", &storage.text("elsewhere")]);
    storage.wait_for_resync();
    storage.wait("a serving gate", |storage| storage.ctl(&["grant", "show", "web1"]).contains("state        serving"));
}

/// Goal: a member that missed writes is never served alone, floor or not. Method: fail one member, write, stop; then only
/// that old member is there. An operator's word is the only way.
#[test]
fn an_old_member_alone_is_not_started() {
    let mut storage = StorageBox::with_volume(2, 16);
    storage.ctl(&["grant", "raise", "web1", "4", "--owner", LOCAL]);
    storage.wait_for_resync();
    storage.ctl(&["pool", "fail", "tank", &storage.text("d1")]);
    finish(nbd_script(&storage.uri("web1"), "h.pwrite(b'new!' * 1024, 0)\nh.flush()"));
    assert!(storage.stop());
    std::fs::rename(storage.path("d0"), storage.path("away")).unwrap();
    storage.start();
    let listed = storage.ctl(&["pool", "list"]);
    assert!(listed.contains("failed"), "{listed}");
    let refused = storage.ctl_refused(&["pool", "start", "tank"]);
    assert!(refused.contains("--degraded"), "{refused}");
    std::fs::rename(storage.path("away"), storage.path("d0")).unwrap();
    storage.ctl(&["pool", "start", "tank"]);
    storage.ctl(&["grant", "floor", "web1", "4"]);
    let read = finish(nbd_script(&storage.uri("web1"), "print(h.pread(512, 0)[:4] == b'new!')"));
    assert_eq!(read.trim(), "True");
    assert!(storage.stop());

    std::fs::remove_file(storage.path("d0")).unwrap();
    storage.start();
    storage.ctl(&["pool", "start", "tank", "--degraded"]);
    assert!(storage.ctl(&["pool", "show", "tank"]).contains("degraded"));
}

/// Goal: a fence that waits for the box's own memory says so, and is acknowledged when that works again. Method: a folder
/// where the members' file is to be made; a member is failed, a raise asked for; the folder goes.
#[test]
fn a_box_that_cannot_record_its_members_says_so() {
    let storage = StorageBox::with_volume(2, 16);
    storage.wait_for_resync();
    storage.ctl(&["grant", "raise", "web1", "1", "--owner", LOCAL]);
    let files = std::fs::read_dir(storage.path("state")).unwrap().map(|entry| entry.unwrap().file_name());
    let members = files.map(|name| name.into_string().unwrap()).find(|name| name.starts_with("members-")).unwrap();
    let in_the_way = storage.path("state").join(format!("{members}.new"));
    std::fs::create_dir(&in_the_way).unwrap();
    std::thread::scope(|scope| {
        let failing = scope.spawn(|| storage.ctl(&["pool", "fail", "tank", &storage.text("d1")]));
        storage.wait("a reason", |it| it.ctl(&["pool", "show", "tank"]).contains("cannot be recorded on this box"));
        let raising = scope.spawn(|| storage.ctl(&["grant", "raise", "web1", "2", "--owner", OTHER]));
        storage.wait("a blocked raise", |it| it.ctl(&["grant", "show", "web1"]).contains("blocked(store)"));
        let shown = storage.ctl(&["grant", "show", "web1"]);
        assert!(shown.contains("the target's state folder") && shown.contains("errno 21"), "{shown}");
        assert!(storage.ctl(&["volume", "list"]).contains("cannot be recorded"), "the volume's reason");
        assert!(!failing.is_finished() && !raising.is_finished(), "answered, but not recorded");
        std::fs::remove_dir(&in_the_way).unwrap();
        failing.join().unwrap();
        raising.join().unwrap();
    });
    let shown = storage.ctl(&["grant", "show", "web1"]);
    assert!(shown.contains("serving") && !shown.contains("recorded"), "{shown}");
    assert!(!storage.ctl(&["pool", "show", "tank"]).contains("recorded"));
}
