//! Wrong input, wrong disks, wrong clients: a clear word, nothing changed, nothing lost.

use crate::support::{LOCAL, StorageBox, have, muskox, tool};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// Goal: wrong words end with the right exit code and a way out. Method: a table.
#[test]
fn wrong_words_are_answered_with_a_way_out() {
    let storage = StorageBox::new(0);
    let config = storage.text("target.toml");
    std::fs::write(&config, "control = \"c\"\nstate_dir = \"s\"\n[[listen]]\nnbd = \"0.0.0.0:10809\"\n").unwrap();
    for (words, code, text) in [
        (&["target", "--config", &config][..], 1, "target.toml:3: a TCP listener without tls"),
        (&["target", "--config", "/nowhere.toml"], 1, "hint: name a readable file"),
        (&["target"], 2, "--config"),
        (&["ctl", "--socket", "/nowhere.sock", "status"], 1, "hint: check that `muskox target` runs"),
        (&["ctl", "pool", "create", "tank"], 2, "Usage"),
        (&["ctl", "volume", "create", "tank", "web1", "10X"], 2, "write 10G"),
        (&["--version"], 0, "muskox 0."),
    ] {
        let (got, printed) = muskox(words);
        assert_eq!(got, Some(code), "{words:?}: {printed}");
        assert!(printed.contains(text), "{words:?}: {printed}");
    }
}

/// Goal: requests that cannot be are refused and change nothing. Method: a table, then the status is as before.
#[test]
fn refusals_change_nothing() {
    let storage = StorageBox::with_volume(4, 16);
    storage.wait_for_resync();
    let (d2, d3) = (storage.text("d2"), storage.text("d3"));
    std::fs::write(&d3, [0x5a; 1 << 20]).unwrap();
    tool(&["mke2fs", "-q", "-F", &d2, "64M"]);
    std::fs::File::options().write(true).open(&d2).unwrap().set_len(96 << 20).unwrap();
    let before =
        (storage.ctl(&["pool", "show", "tank"]), storage.ctl(&["volume", "list"]), std::fs::read(&d2).unwrap());
    let d0 = storage.text("d0");
    for (words, text) in [
        (&["pool", "create", "tank", &d2, &d3][..], "there is a pool 'tank' already"),
        (&["pool", "create", "other", &d2, &d2], "named twice"),
        (&["pool", "create", "other", &d2, "/nowhere"], "/nowhere"),
        (&["pool", "create", "other", &d2, &d0], "is in use"),
        (&["pool", "add", "tank", &d2], "slots are taken"),
        (&["pool", "replace", "tank", "/nowhere", &d2], "is not a member"),
        (&["pool", "replace", "tank", &d0, "/nowhere"], "/nowhere"),
        (&["pool", "replace", "tank", &d0, &d2], "ext"),
        (&["pool", "show", "nothing"], "there is no pool 'nothing'"),
        (&["volume", "create", "tank", "web1", "4M"], "already"),
        (&["volume", "create", "tank", "huge", "1T"], "free"),
        (&["volume", "create", "nothing", "web2", "4M"], "there is no pool"),
        (&["volume", "remove", "web2"], "web2"),
        (&["grant", "raise", "web2", "1", "--nobody"], "web2"),
    ] {
        let said = storage.ctl_refused(words);
        assert!(said.contains(text), "{words:?}: {said}");
    }
    let held = storage.ctl_refused(&["pool", "create", "other", &d2, &storage.text("d3")]);
    assert!(held.contains("ext") && held.contains("--wipe"), "{held}");
    let after = (storage.ctl(&["pool", "show", "tank"]), storage.ctl(&["volume", "list"]), std::fs::read(&d2).unwrap());
    assert!(before == after, "{after:?}");
    assert!(!storage.ctl(&["pool", "list"]).contains("other"));
}

/// Goal: two targets never share disks. Method: a second box whose state names the first one's disks.
#[test]
fn a_second_target_does_not_get_the_disks() {
    let mut first = StorageBox::with_volume(2, 16);
    let mut second = StorageBox::new(0);
    second.configure(&format!("disks = [\"{}\", \"{}\"]", first.text("d0"), first.text("d1")));
    second.start();
    let said = second.ctl_refused(&["pool", "start", "tank"]);
    assert!(said.contains("is in use"), "{said}");
    assert!(first.stop());
    let shown = second.ctl(&["pool", "start", "tank"]);
    assert!(shown.contains("in sync"), "{shown}");
}

/// Goal: garbage on either socket harms nobody. Method: junk, cut greetings and idle connections; a real client works on.
#[test]
fn garbage_harms_nobody() {
    if !have("nbdinfo") {
        return;
    }
    let storage = StorageBox::with_volume(2, 16);
    storage.ctl(&["grant", "raise", "web1", "1", "--owner", LOCAL]);
    let mut idle = Vec::new();
    for round in 0..20_u8 {
        for socket in ["nbd.sock", "control.sock"] {
            let mut stream = UnixStream::connect(storage.path(socket)).unwrap();
            let _ = stream.write_all(&vec![round.wrapping_mul(37) | 0x80; 1000]);
            let mut answer = Vec::new();
            let _ = stream.take(4096).read_to_end(&mut answer);
            idle.push(UnixStream::connect(storage.path("nbd.sock")).unwrap());
        }
    }
    tool(&["nbdinfo", "--size", &storage.uri("web1")]);
    let json = storage.ctl(&["--json", "status"]);
    assert!(json.contains("\"pool\": \"tank\"") && json.contains("\"state\": \"serving\""), "{json}");
}

/// Goal: a volume's life ends when asked, not while somebody uses it, and its space comes back. Method: ctl and a client.
#[test]
fn a_volume_is_removed_when_nobody_uses_it() {
    if !have("nbdsh") {
        return;
    }
    let storage = StorageBox::with_volume(2, 16);
    storage.ctl(&["grant", "raise", "web1", "1", "--owner", LOCAL]);
    let marker = storage.text("go");
    let script = format!(
        "import os, time\nopen('{marker}.in', 'w').close()\nwhile not os.path.exists('{marker}'):\n\ttime.sleep(0.01)"
    );
    let client = crate::support::nbd_script(&storage.uri("web1"), &script);
    storage.wait("a client", |storage| storage.path("go.in").exists());
    assert!(storage.ctl_refused(&["volume", "remove", "web1"]).contains("sessions"));
    std::fs::write(&marker, "").unwrap();
    crate::support::finish(client);
    storage.wait("its leaving", |storage| storage.try_ctl(&["volume", "remove", "web1"]).status.success());
    assert!(!storage.ctl(&["volume", "list"]).contains("web1"));
    storage.ctl(&["volume", "create", "tank", "web1", "16M"]);
    storage.wait_for_volume();
    assert!(storage.ctl(&["grant", "show", "web1"]).contains("owners       nobody"), "a new volume is nobody's");
}
