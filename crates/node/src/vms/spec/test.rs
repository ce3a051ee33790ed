//! Descriptions, good and bad; and that a host starts whatever is taken in here.

use super::*;
use crate::agent::{machine_of, seed_of};
use crate::peer::{Brief, BriefDisk};
use crate::vms::object::{brief_nics, brief_seed};
use cluster::store::UnknownFields;
use host::vm::{Accelerator, Folder, argv};
use std::path::Path;
use units::HostKey;

const GOOD: &str = r#"
name = "web1"
memory = "1 GiB"
vcpus = 2
order = 3
hosts = ["host1", "host2"]
shutdown_s = 5

[[disk]]
volume = "web1-root"
[[disk]]
volume = "web1-data-with-a-long-name"
serial = "data"

[[nic]]
bridge = "lan"
[[nic]]
bridge = "br0"
mac = "52:54:00:AA:bb:01"

[seed]
ssh_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1vc3RseUhhcm1sZXNzTW9zdGx5SGFybWxlc3NPISEh you@there"]
[[seed.file]]
name = "vendor-data"
text = "x"
"#;

/// Goal: a whole description is read, with what it leaves out filled in. Method: one of everything.
#[test]
fn a_description_is_read() {
    let spec = Spec::parse(GOOD).expect("it is good");
    assert_eq!((spec.memory_mib, spec.vcpus, spec.order, spec.autostart), (1024, 2, 3, true));
    assert_eq!(spec.shutdown_ms, Millis(5_000));
    assert_eq!(spec.disks[0].serial, "web1-root");
    assert_eq!(spec.nics[1].mac.as_deref(), Some("52:54:00:aa:bb:01"));
    assert_eq!(spec.hosts.as_ref().map(Vec::len), Some(2));
    assert_eq!(spec.seed.as_ref().map(|seed| seed.files.len()), Some(1));
    let small = Spec::parse("name='a'\nmemory=512\nvcpus=1\n[[disk]]\nvolume='a'\n").expect("the least");
    assert_eq!((small.memory_mib, small.shutdown_ms, small.seed), (512, Millis(60_000), None));
    for (text, mib) in [("2G", 2048), ("512M", 512), ("1.5 GiB", 1536), ("4 TiB", 4 << 20)] {
        let spec = Spec::parse(&GOOD.replacen("1 GiB", text, 1)).expect(text);
        assert_eq!(spec.memory_mib, mib, "{text}");
    }
}

/// Goal: every mistake is refused with its line and its key. Method: one change of the good description each.
#[test]
fn mistakes_are_named_with_their_line() {
    let cases = [
        ("name = \"web1\"", "name = \"Web1\"", "line 2: name:"),
        ("memory = \"1 GiB\"", "memory = \"1 GB\"", "line 3: memory:"),
        ("memory = \"1 GiB\"", "memory = \"512\"", "line 3: memory: '512' is not a whole number of MiB"),
        ("memory = \"1 GiB\"", "memory = 8", "line 3: memory: 8 is not within"),
        ("memory = \"1 GiB\"", "memory = true", "line 3: memory is a text"),
        ("vcpus = 2", "vcpus = 0", "line 4: vcpus:"),
        ("vcpus = 2", "vcpu = 2", "line 4: unknown field `vcpu`"),
        ("\"host2\"", "\"host 2\"", "line 6: hosts:"),
        ("shutdown_s = 5", "shutdown_s = 0", "line 7: shutdown_s:"),
        ("volume = \"web1-data-with-a-long-name\"", "volume = \"web1-root\"", "line 12: disk.volume:"),
        ("serial = \"data\"", "serial = \"a,b\"", "line 13: disk.serial:"),
        ("bridge = \"lan\"", "bridge = \"a/b\"", "line 16: nic.bridge:"),
        ("52:54", "53:54", "line 19: nic.mac:"),
        ("52:54:00", "52:54", "line 19: nic.mac:"),
        ("52:54:00", "52:54:+1", "line 19: nic.mac:"),
        ("AAAAC3N", "AAAA", "line 22: seed.ssh_keys:"),
        ("vendor-data", "user-data", "line 24: seed.file.name:"),
        ("vendor-data", "../etc", "line 24: seed.file.name:"),
        // A04 to A06, A01, A02: what was taken in and never started, or started and did nothing.
        ("name = \"web1\"", "name = \"web_1\"", "line 2: name, which is the guest's host name as well: 'web_1' is not"),
        ("name = \"web1\"", "name = \"a-\"", "line 2: name"),
        ("vcpus = 2", "vcpus = 255", "line 4: vcpus: 255 is not within 1 to 254"),
        ("vcpus = 2", "vcpus = 99999999999", "line 4: vcpus"),
        ("order = 3", "cpu = \"a b\"", "line 5: cpu"),
        ("[\"host1\", \"host2\"]", "[]", "line 6: hosts: no host may"),
        ("serial = \"data\"", "serial = \"-a\"", "line 13: disk.serial"),
        ("serial = \"data\"", "serial = \"cidata\"", "line 13: disk.serial: 'cidata' is the serial number of the seed"),
        ("serial = \"data\"", "serial = \"web1-root\"", "line 13: disk.serial: two disks have the serial number"),
        (
            "\"web1-root\"",
            "\"web1-data-with-a-long-one\"\n[[disk]]\nvolume = \"web1-data-with-a-long-two\"",
            "line 12: disk.serial: two",
        ),
        ("[seed]", "[seed]\nhostname = \"a_b\"", "line 22: seed.hostname"),
        ("you@there", "\\r", "line 22: seed.ssh_keys"),
        (
            "ssh_keys =",
            "user_data = \"\"\"\npackages: [nginx]\n\"\"\"\nssh_keys =",
            "line 23: seed.user_data: cloud-init does nothing",
        ),
        (
            "ssh_keys =",
            "user_data = \"#!/bin/sh\\n\\u0007\"\nssh_keys =",
            "line 22: seed.user_data: there is a control",
        ),
        (
            "ssh_keys =",
            "user_data = \"\"\"\n#!/bin/sh\n\\u0007\"\"\"\nssh_keys =",
            "line 24: seed.user_data: there is a control",
        ),
        ("ssh_keys =", "network_config = \"dhcp\"\nssh_keys =", "line 22: seed.network_config"),
        (
            "text = \"x\"",
            "text = \"x\"\n[[seed.file]]\nname = \"vendor-data\"\ntext = \"\"",
            "line 27: seed.file.name: two files",
        ),
    ];
    for (good, bad, want) in cases {
        let problem = Spec::parse(&GOOD.replacen(good, bad, 1)).expect_err(bad);
        assert!(problem.text.contains(want), "{bad}: {}", problem.text);
        assert!(problem.code == Code::BadRequest && !problem.hint.is_empty(), "{problem:?}");
    }
    let none = Spec::parse("name='a'\nmemory=512\nvcpus=1\n").expect_err("no disk");
    assert!(none.text.contains("disk: a VM has 1 to 16"), "{}", none.text);
    assert!(Spec::parse(&"#".repeat(TEXT_MAX_BYTES + 1)).is_err());
}

/// What a host would be told of it.
fn brief(spec: &Spec) -> Brief {
    let unknown_fields = UnknownFields::default;
    let disk = |disk: &Disk| BriefDisk {
        volume: disk.volume.clone(),
        serial: disk.serial.clone(),
        portals: Vec::new(),
        target: HostKey([1; 32]),
        unknown_fields: unknown_fields(),
    };
    let macs: Vec<String> = spec.nics.iter().map(|_| "52:54:00:00:00:01".to_owned()).collect();
    Brief {
        vm: spec.name.clone(),
        uuid: "4f7c9e3a-8d51-4c0e-9f00-0123456789ab".to_owned(),
        memory_mib: spec.memory_mib,
        vcpus: spec.vcpus,
        cpu: spec.cpu.clone(),
        disks: spec.disks.iter().map(disk).collect(),
        nics: brief_nics(spec, &macs),
        seed: spec.seed.as_ref().map(|seed| brief_seed(&spec.name, seed)),
        patience_ms: spec.shutdown_ms,
        unknown_fields: unknown_fields(),
    }
}

/// QEMU's arguments and the seed's disk, as the host's agent makes them.
pub(crate) fn started(spec: &Spec) -> Result<Vec<String>, String> {
    let brief = brief(spec);
    let machine = machine_of(&brief, Accelerator::Tcg, |index| format!("/run/muskox/disk{index}.sock").into());
    let folder = Folder::new(Path::new("/run/muskox/vm/web1")).map_err(|error| error.to_string())?;
    let arguments = argv(&machine, &folder).map_err(|error| error.to_string())?;
    let seed = brief.seed.as_ref().map(|seed| seed_of(&brief.uuid, seed).image().map(drop));
    seed.transpose().map_err(|error| error.to_string())?;
    Ok(arguments)
}

/// A04 to A06, D1. Goal: what is taken in here a host can start. Method: each key of the good description gets values of all kinds; those
/// that are taken in become QEMU's arguments and a seed, by the code of the host's agent.
#[test]
fn whatever_is_taken_in_can_be_started() {
    let long = "x".repeat(63);
    let names = ["web1", "web_1", "1234", "a-", "a.b", "a..b", "no", "0", &long];
    let words =
        ["a", "-a", "a,b", "a b", "x.y", "a_b", "cidata", "host,migratable=on", "nonsense", "\\t", "\u{f6}", "", &long];
    let keys = ["j\u{f6}rg@b\u{fc}ro", "\\r", "a\\tb", "\\n", "\\u0000"];
    let texts = ["", "#cloud-config\\n", "#!/bin/sh\\r\\n", "\\ufeff#!x", "\\u0000", "version: 2\\r\\n", " #!", "x: y"];
    let numbers = ["0", "1", "2", "16", "254", "255", "256", "4194304", "4294967296", "-1"];
    let many = |count: usize, one: &str| vec![one; count].join(", ");
    let key =
        GOOD.lines().find_map(|line| line.strip_prefix("ssh_keys = [")).expect("it has one").trim_end_matches(']');
    let mut tries: Vec<(&str, String)> = Vec::new();
    tries.extend(names.iter().map(|name| ("\"web1\"", format!("\"{name}\""))));
    tries.extend(names.iter().map(|name| ("[seed]", format!("[seed]\nhostname = \"{name}\""))));
    tries.extend(words.iter().map(|word| ("order = 3", format!("cpu = \"{word}\""))));
    tries.extend(words.iter().map(|word| ("serial = \"data\"", format!("serial = \"{word}\""))));
    tries.extend(words.iter().map(|word| ("\"vendor-data\"", format!("\"{word}\""))));
    tries.extend(names.iter().map(|name| ("\"vendor-data\"", format!("\"{name}\""))));
    tries.extend(keys.iter().map(|key| ("you@there", (*key).to_owned())));
    tries.extend(texts.iter().map(|text| ("[seed]", format!("[seed]\nuser_data = \"{text}\""))));
    tries.extend(texts.iter().map(|text| ("[seed]", format!("[seed]\nnetwork_config = \"{text}\""))));
    tries.extend(numbers.iter().map(|number| ("vcpus = 2", format!("vcpus = {number}"))));
    tries.extend(numbers.iter().map(|number| ("\"1 GiB\"", (*number).to_owned())));
    tries.extend([64, 65].map(|count| (key, many(count, key))));
    let (mut taken, mut refused) = (0, 0);
    for (from, to) in &tries {
        let text = GOOD.replacen(from, to, 1);
        match Spec::parse(&text) {
            Err(_) => refused += 1,
            Ok(spec) => {
                taken += 1;
                started(&spec).unwrap_or_else(|error| panic!("{to}: taken in, and never started: {error}"));
                assert_eq!(Spec::stored(&text), Ok(spec), "{to}");
            }
        }
    }
    assert!(taken > 30 && refused > 30, "{taken} taken in, {refused} refused");
}

/// Goal: a description that an earlier version took in is read as it was, whatever is asked of new ones. Method: what is refused now.
#[test]
fn what_was_taken_in_before_is_read_on() {
    for (from, to) in [
        ("vcpus = 2", "vcpus = 255"),
        ("AAAAC3N", "AAAA"),
        ("[seed]", "[seed]\nhostname = \"a_b\"\nuser_data = \"packages: [nginx]\""),
        ("\"web1-root\"", "\"web1-data-with-a-long-one\"\n[[disk]]\nvolume = \"web1-data-with-a-long-two\""),
    ] {
        let text = GOOD.replacen(from, to, 1);
        assert!(Spec::parse(&text).is_err() && Spec::stored(&text).is_ok(), "{to}");
    }
}

/// The descriptions that a page of ours shows.
fn shown(page: &str) -> Vec<String> {
    let blocks = page.split("```toml\n").skip(1).filter_map(|rest| rest.split_once("```"));
    blocks.map(|(block, _)| block.to_owned()).filter(|block| block.contains("[[disk]]")).collect()
}

/// D1, A01. Goal: every description in README and in the manuals is taken in and can be started, as printed. Method: all pages.
#[test]
fn what_our_pages_show_starts() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut pages = vec![top.join("README.md")];
    pages.extend(std::fs::read_dir(top.join("docs/runbooks")).unwrap().map(|entry| entry.unwrap().path()));
    let mut count = 0;
    for page in pages {
        for text in shown(&std::fs::read_to_string(&page).unwrap()) {
            let spec = Spec::parse(&text).unwrap_or_else(|problem| panic!("{}: {problem:?}\n{text}", page.display()));
            started(&spec).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
            count += 1;
        }
    }
    assert!(count >= 2, "README and vm.md have one each: {count}");
}
