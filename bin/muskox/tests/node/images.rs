//! Images come into volumes whole or not at all, and never anything besides them.

use crate::storage::{pool_of, storage_machine, volume_of, wait_until_served};
use crate::support::{Machine, Machines};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

fn qemu_img(words: &[&str]) {
    let done = Command::new("qemu-img").args(words).output().expect("qemu-img is installed");
    assert!(done.status.success(), "qemu-img {words:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A file of almost 6 MiB that has holes, in both forms.
fn images(machine: &Machine) -> (PathBuf, PathBuf) {
    let (raw, qcow2) = (machine.path("disk.raw"), machine.path("disk.qcow2"));
    // Not whole sectors: the last one is filled up.
    let mut bytes = vec![0; (6 << 20) - 1000];
    for (index, byte) in bytes[1 << 20..3 << 20].iter_mut().enumerate() {
        *byte = u8::try_from(index * 7 % 251).expect("below 256");
    }
    bytes[(6 << 20) - 1001] = 0x5a;
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(&raw, bytes).unwrap();
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", raw.to_str().unwrap(), qcow2.to_str().unwrap()]);
    (raw, qcow2)
}

pub fn import(path: &Path, volume: &str) -> Value {
    json!({"path": path, "volume": volume})
}

/// Of a file that is no disk by its looks.
fn import_raw(path: &Path, volume: &str) -> Value {
    json!({"path": path, "volume": volume, "format": "raw"})
}

/// Begins an import and waits for its end.
pub fn imported(machine: &Machine, request: &Value) -> Value {
    let begun = machine.ask("POST", "/v1/images", request);
    let path = format!("/v1/works/{}", begun["id"].as_str().unwrap());
    machine.wait("the import's end", |machine| machine.ask("GET", &path, &Value::Null)["state"] != "running");
    machine.ask("GET", &path, &Value::Null)
}

/// Goal: both forms arrive byte for byte, over what a volume held too, and a machine without disks can import as well; a
/// volume in use, too small or of another form is refused before anything changes; no claim and no process stays.
/// Method: two machines, real targets; the content is read back by its own attach and compared with the raw file.
#[test]
fn images_arrive_whole() {
    let machines = Machines::new();
    let (alpha, _target) = storage_machine(&machines);
    let mut beta = machines.member("beta", &alpha);
    alpha.ask(
        "POST",
        "/v1/pools",
        &json!({
        "name": "tank", "node": "alpha", "members": pool_of(&alpha, &["d0", "d1"])["members"], "wipe": false}),
    );
    let (raw, qcow2) = images(&alpha);

    let done = imported(&beta, &import(&qcow2, "web1"));
    assert_eq!(done["state"], "done", "{done}\n{}", beta.log());
    assert_holds(&alpha, "web1", &raw);
    let again = alpha.ask("GET", "/v1/volumes/web1", &Value::Null);
    assert_eq!((&again["epoch"], &again["sessions"]), (&json!(2), &json!(0)), "granted to nobody, at the next epoch");

    // Over what is there: nothing of it may shine through.
    let other = alpha.path("other.raw");
    std::fs::write(&other, vec![0xee; 8 << 20]).unwrap();
    let done = imported(&alpha, &import_raw(&other, "web1"));
    assert_eq!(done["state"], "done", "{done}");
    assert_holds(&alpha, "web1", &other);
    let done = imported(&alpha, &import(&raw, "web1"));
    assert_eq!(done["state"], "done", "{done}");
    assert_holds(&alpha, "web1", &raw);

    alpha.ask("POST", "/v1/volumes", &volume_of("small", 4));
    wait_until_served(&alpha, "small");
    let small = alpha.ask_refused("POST", "/v1/images", &import(&raw, "small"), "not_possible");
    assert!(small.contains("5.9 MiB") && small.contains("4 MiB"), "{small}");
    let named = |format: &str| json!({"path": raw, "volume": "x", "format": format});
    alpha.ask_refused("POST", "/v1/images", &named("qcow2"), "bad_request");
    alpha.ask_refused("POST", "/v1/images", &json!({"path": qcow2, "volume": "x", "format": "raw"}), "bad_request");
    alpha.ask_refused("POST", "/v1/images", &import(&alpha.path("etc"), "x"), "bad_request");
    alpha.ask_refused("POST", "/v1/images", &import(&alpha.path("none"), "x"), "bad_request");
    alpha.ask_refused("GET", "/v1/works/import-99", &Value::Null, "not_found");
    alpha.ask_refused("GET", "/v1/volumes/x", &Value::Null, "not_found");
    // The machine's owner only: another member is refused at the door.
    let refused = beta.get(&alpha, "/v1/works/import-1", true).unwrap();
    assert!(refused.contains("403 Forbidden") && refused.contains("\"code\":\"forbidden\""), "{refused}");
    // An update has put another program in the place of the one that runs; and what was filled can be removed at once.
    let program = beta.path("program");
    std::fs::copy(&beta.program, &program).unwrap();
    beta.stop();
    beta.program.clone_from(&program);
    beta.start();
    std::fs::remove_file(&program).unwrap();
    let done = imported(&beta, &import(&qcow2, "web1"));
    assert_eq!(done["state"], "done", "{done}");
    beta.ask("DELETE", "/v1/volumes/web1", &Value::Null);
    for machine in [&alpha, &beta] {
        let left = std::fs::read_dir(machine.path("run/muskox/import")).unwrap().count();
        assert_eq!(left, 0, "{}", machine.name);
    }
}

/// How it ended, whether it began or not.
fn ended(machine: &Machine, (status, answer): (u16, Value)) -> String {
    if status != 200 {
        return "refused".to_owned();
    }
    let path = format!("/v1/works/{}", answer["id"].as_str().unwrap());
    machine.wait("an end", |machine| machine.ask("GET", &path, &Value::Null)["state"] != "running");
    machine.ask("GET", &path, &Value::Null)["state"].as_str().unwrap().to_owned()
}

/// Goal: an image that leads elsewhere or is torn gives an error and no byte of anything else. Method: real images with a
/// backing file, a data file and encryption bits, cut and spoiled at many places; each is refused or ends as failed.
#[test]
fn hostile_images_give_nothing_away() {
    let machines = Machines::new();
    let (alpha, _target) = storage_machine(&machines);
    alpha.ask("POST", "/v1/pools", &pool_of(&alpha, &["d0", "d1"]));
    let (_, qcow2) = images(&alpha);
    let bad = alpha.path("bad.qcow2");
    qemu_img(&["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/shadow", bad.to_str().unwrap(), "1M"]);
    let refused = alpha.ask_refused("POST", "/v1/images", &import(&bad, "evil"), "bad_request");
    assert!(refused.contains("/etc/shadow"), "{refused}");
    let (data, outside) = (alpha.path("data.qcow2"), alpha.path("outside"));
    let option = format!("data_file={}", outside.to_str().unwrap());
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &option, data.to_str().unwrap(), "1M"]);
    alpha.ask_refused("POST", "/v1/images", &import(&data, "evil"), "bad_request");

    let whole = std::fs::read(&qcow2).unwrap();
    for len in [0, 3, 4, 71, 103, 104, 512, 65_536, 131_072, 200_000] {
        std::fs::write(&bad, &whole[..len.min(whole.len() - 65_536)]).unwrap();
        let request = json!({"path": bad, "volume": "evil", "format": "qcow2"});
        let ended = ended(&alpha, alpha.api("POST", "/v1/images", &request));
        assert!(["refused", "failed"].contains(&ended.as_str()), "{len} bytes: {ended}");
        alpha.ask_refused("GET", "/v1/volumes/evil", &Value::Null, "not_found");
    }
    // Lengths, table places and features of the header (bytes 20 to 103), one after another.
    for at in (20..104).step_by(5) {
        let mut spoiled = whole.clone();
        spoiled[at] ^= 0xff;
        std::fs::write(&bad, spoiled).unwrap();
        ended(&alpha, alpha.api("POST", "/v1/images", &import(&bad, "evil")));
    }
    assert_eq!(alpha.ask("GET", "/v1/nodes", &Value::Null)["nodes"][0]["state"], "store", "it lives on");
}

/// Goal: a cancelled import, and one whose node was killed, leave nothing behind: no process, no claim, and the volume can
/// be filled again. Method: a large image, cancel in the middle; another, kill -9 of the node, start, look.
#[test]
fn what_does_not_finish_is_cleared_away() {
    let machines = Machines::new();
    let (mut alpha, _target) = storage_machine(&machines);
    alpha.ask("POST", "/v1/pools", &pool_of(&alpha, &["d0", "d1"]));
    let large = alpha.path("large.raw");
    std::fs::write(&large, vec![0x77; 32 << 20]).unwrap();
    alpha.ask("POST", "/v1/volumes", &volume_of("web1", 32));
    wait_until_served(&alpha, "web1");

    let begin = |alpha: &Machine| {
        let begun = alpha.ask("POST", "/v1/images", &import_raw(&large, "web1"));
        let path = format!("/v1/works/{}", begun["id"].as_str().unwrap());
        alpha.ask_refused("POST", "/v1/images", &import_raw(&large, "web1"), "in_use");
        path
    };
    let attached = |alpha: &Machine| std::fs::read_dir(alpha.path("run/muskox/import")).is_ok_and(|it| it.count() > 0);
    let path = begin(&alpha);
    alpha.wait("an attach", attached);
    alpha.ask("POST", &format!("{path}/cancel"), &Value::Null);
    alpha.wait("an end", |alpha| alpha.ask("GET", &path, &Value::Null)["state"] == "cancelled");
    assert!(!attached(&alpha));

    let path = begin(&alpha);
    alpha.wait("an attach", attached);
    alpha.kill();
    alpha.start();
    // D18: who waits for it hears what became of it, and it is listed.
    let work = alpha.ask("GET", &path, &Value::Null);
    assert!(work["state"] == "failed" && work["text"].as_str().unwrap().contains("part of the image"), "{work}");
    let works = alpha.ask("GET", "/v1/works", &Value::Null);
    assert!(works["works"].as_array().unwrap().contains(&work), "{works}");
    assert_eq!(std::fs::read_dir(alpha.path("run/muskox/works")).unwrap().count(), 0);
    alpha.wait("what was left to be cleared away", |alpha| !attached(alpha));
    let nobodys = |alpha: &Machine| alpha.api("DELETE", "/v1/volumes/web1", &Value::Null).0 == 200;
    alpha.wait("the claim to end", nobodys);
}

/// Files that are no disk, each with what its refusal says.
fn no_disks(alpha: &Machine, raw: &Path, qcow2: &Path) -> Vec<(PathBuf, &'static str)> {
    let made = |name: &str, words: &[&str]| {
        let path = alpha.path(name);
        let words: Vec<&str> =
            words.iter().map(|word| if *word == "OUT" { path.to_str().unwrap() } else { word }).collect();
        qemu_img(&words);
        path
    };
    let from = raw.to_str().unwrap().to_owned();
    let convert =
        |name: &str, words: &[&str]| made(name, &[&["convert", "-f", "raw", "-O"], words, &[&from, "OUT"]].concat());
    let packed = |tool: &str| {
        let path = alpha.path(&format!("disk.{tool}"));
        let done = Command::new(tool).args(["-c", &from]).output().unwrap_or_else(|error| panic!("{tool}: {error}"));
        assert!(done.status.success(), "{tool}");
        std::fs::write(&path, done.stdout).unwrap();
        path
    };
    let written = |name: &str, bytes: &[u8]| {
        std::fs::write(alpha.path(name), bytes).unwrap();
        alpha.path(name)
    };
    let tar = alpha.path("disk.ova");
    assert!(
        Command::new("tar")
            .arg("cf")
            .arg(&tar)
            .arg("-C")
            .arg(alpha.path(""))
            .arg("disk.raw")
            .status()
            .unwrap()
            .success()
    );
    let mut luks = vec![0; 1 << 20];
    luks[..8].copy_from_slice(b"LUKS\xba\xbe\0\x02");
    let random: Vec<u8> = (0..1_u32 << 20).map(|index| u8::try_from(index * 13 % 247).expect("below 256")).collect();
    let mut open = std::fs::read(qcow2).unwrap();
    open[79] |= 1;
    vec![
        (packed("gzip"), "gunzip"),
        (packed("xz"), "unxz"),
        (packed("bzip2"), "bunzip2"),
        (tar, "tar archive"),
        (convert("dynamic.vhd", &["vpc", "-o", "subformat=dynamic"]), "-f vpc"),
        (convert("fixed.vhd", &["vpc", "-o", "subformat=fixed"]), "-f vpc"),
        (convert("sparse.vmdk", &["vmdk"]), "-f vmdk"),
        (convert("flat.vmdk", &["vmdk", "-o", "subformat=monolithicFlat"]), "data is in another file"),
        (convert("disk.vhdx", &["vhdx"]), "-f vhdx"),
        (convert("disk.vdi", &["vdi"]), "-f vdi"),
        (written("notes.txt", b"abc"), "is a text"),
        (written("luks.img", &luks), "--raw"),
        (written("random.img", &random), "--raw"),
        (written("open.qcow2", &open), "was not closed"),
    ]
}

/// A07 to A10, D17, A35. Goal: what is plainly no disk is refused by name, with the way to one, before a volume is made; so is a file that
/// somebody writes to; one that changes while it is copied is not said to be there. Method: files as the real tools make them.
#[test]
fn what_is_no_disk_is_refused_by_name() {
    let machines = Machines::new();
    let (alpha, _target) = storage_machine(&machines);
    alpha.ask("POST", "/v1/pools", &pool_of(&alpha, &["d0", "d1"]));
    let (raw, qcow2) = images(&alpha);
    for (path, words) in no_disks(&alpha, &raw, &qcow2) {
        let (status, answer) = alpha.api("POST", "/v1/images", &import(&path, "web1"));
        let said = format!("{} {}", answer["detail"], answer["hint"]);
        assert!(status == 400 && answer["code"] == "bad_request", "{}: {status} {answer}", path.display());
        assert!(said.contains(words), "{}: {said}", path.display());
    }
    let writer = std::fs::OpenOptions::new().append(true).open(&raw).unwrap();
    let used = alpha.ask_refused("POST", "/v1/images", &import(&raw, "web1"), "in_use");
    assert!(used.contains(raw.to_str().unwrap()), "{used}");
    drop(writer);
    alpha.ask_refused("GET", "/v1/volumes/web1", &Value::Null, "not_found");

    let done = imported(&alpha, &import(&raw, "web1"));
    assert!(done["state"] == "done" && done["text"].as_str().unwrap().contains("no boot code"), "{done}");
    // Somebody writes to it while it is copied.
    let begun = alpha.ask("POST", "/v1/images", &import(&raw, "web1"));
    let mut bytes = std::fs::read(&raw).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&raw, &bytes).unwrap();
    let path = format!("/v1/works/{}", begun["id"].as_str().unwrap());
    alpha.wait("an end", |alpha| alpha.ask("GET", &path, &Value::Null)["state"] != "running");
    let ended = alpha.ask("GET", &path, &Value::Null);
    assert!(ended["state"] == "failed" && ended["text"].as_str().unwrap().contains("changed"), "{ended}");
}

/// Reads the volume by a grant of this test's own and compares.
fn assert_holds(machine: &Machine, volume: &str, raw: &Path) {
    let socket = machine.path("run/muskox/target.sock");
    let ctl = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muskox"));
        let done = command.args(["ctl", "--json", "--socket"]).arg(&socket).args(words).output().unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        serde_json::from_slice::<Value>(&done.stdout).unwrap()
    };
    // The members of a mirror are the same; the volume's first extent follows the group's metadata. Reading the member
    // finds the image's bytes without a client.
    ctl(&["pool", "stop", "tank"]);
    let member = std::fs::read(machine.path("d0")).unwrap();
    let wanted = std::fs::read(raw).unwrap();
    let block = &wanted[1 << 20..(1 << 20) + 4096];
    let places = member.windows(4096).step_by(512).enumerate().filter(|(_, window)| *window == block);
    // All of the volume's 8 MiB: what follows the image is zeroes, whatever was there.
    let wanted = [wanted.clone(), vec![0; (8 << 20) - wanted.len()]].concat();
    let found = places.map(|(index, _)| index * 512).any(|at| {
        let begin = at.checked_sub(1 << 20);
        begin.and_then(|begin| member.get(begin..begin + wanted.len())) == Some(&wanted[..])
    });
    assert!(found, "{volume} does not hold {}", raw.display());
    ctl(&["pool", "start", "tank"]);
    wait_until_served(machine, volume);
}
