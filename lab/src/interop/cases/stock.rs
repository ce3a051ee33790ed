//! Arrays that stock mdadm made: served and handed back, or refused by name, untouched.

use crate::interop::Guests;
use crate::interop::guest::Guest;
use crate::interop::md::{self, ARRAY};
use crate::interop::report::Verdict;
use crate::interop::storage::{POOL, Plant, Storage, first_difference, tool};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How large a disk of an array is.
const DISK_MIB: u64 = 96;
const VOLUME: &str = "/dev/p/data";
const VOLUME_MIB: u64 = 32;
/// Where muskox writes a letter, in MiB of the volume.
const WRITES_AT: u64 = 20;

/// An array that muskox serves.
struct Served {
    name: &'static str,
    disks: usize,
    /// What `mdadm --create` is told beside level, disks and name.
    create: &'static str,
    /// What is done afterwards; `$1`, `$2` … are the disks.
    then: &'static str,
}

/// All with a gap of 16 MiB, as muskox needs it for its facts.
const SERVED: [Served; 6] = [
    Served { name: "internal bitmap", disks: 2, create: "-n2 $1 $2 --bitmap=internal", then: "" },
    Served { name: "write-mostly, failfast", disks: 2, create: "-n2 --failfast $1 --write-mostly $2", then: "" },
    Served {
        name: "bitmap of 16K chunks",
        disks: 2,
        create: "-n2 $1 $2 --bitmap=internal --bitmap-chunk=16K",
        then: "",
    },
    Served { name: "one member only", disks: 1, create: "-n1 --force $1", then: "" },
    Served { name: "one member missing", disks: 1, create: "-n2 $1 missing --bitmap=internal", then: "" },
    Served {
        name: "grown from two to three",
        disks: 3,
        create: "-n2 $1 $2 --bitmap=internal",
        then: "mdadm --wait /dev/md0 || true; mdadm /dev/md0 --add $3; mdadm --grow /dev/md0 -n3; mdadm --wait /dev/md0 || true",
    },
];

/// An array that muskox does not do: in which words it has to say so, one of them at least.
struct Refused {
    name: &'static str,
    disks: usize,
    create: &'static str,
    then: &'static str,
    words: &'static [&'static str],
}

const REFUSED: [Refused; 9] = [
    Refused { name: "RAID 0", disks: 2, create: "-l0 -n2 $1 $2", then: "", words: &["level 0", "RAID 0"] },
    Refused { name: "linear", disks: 2, create: "-llinear -n2 $1 $2", then: "", words: &["linear", "level -1"] },
    Refused { name: "RAID 10", disks: 2, create: "-l10 -n2 $1 $2", then: "", words: &["level 10", "RAID 10"] },
    Refused {
        name: "RAID 5 with PPL",
        disks: 3,
        create: "-l5 -n3 --consistency-policy=ppl $1 $2 $3",
        then: "",
        words: &["PPL", "level 5", "RAID 5"],
    },
    Refused {
        name: "RAID 5 with a journal",
        disks: 4,
        create: "-l5 -n3 $1 $2 $3 --write-journal $4",
        then: "",
        words: &["journal", "level 5", "RAID 5"],
    },
    Refused { name: "metadata 0.90", disks: 2, create: "-l1 -n2 -e0.90 $1 $2", then: "", words: &["0.90"] },
    Refused { name: "metadata 1.0", disks: 2, create: "-l1 -n2 -e1.0 $1 $2", then: "", words: &["1.0"] },
    Refused { name: "metadata 1.1", disks: 2, create: "-l1 -n2 -e1.1 $1 $2", then: "", words: &["1.1"] },
    Refused {
        name: "a replacement under way",
        disks: 3,
        create: "-l1 -n2 --data-offset=16M --bitmap=internal $1 $2",
        then: "mdadm --wait /dev/md0 || true; echo 1 > /sys/block/md0/md/sync_speed_min; echo 1 > /sys/block/md0/md/sync_speed_max; \
               mdadm /dev/md0 --add $3; mdadm /dev/md0 --replace $1 --with $3; sleep 1",
        words: &["replace"],
    },
];

/// Makes an array named `p` of disks in the guest.
fn create(guest: &mut Guest, devices: &[String], create: &str, then: &str) -> anyhow::Result<()> {
    let script = format!(
        "yes | mdadm --create {ARRAY} --run --name=p --homehost=none {create} || yes | mdadm --create {ARRAY} --run {create}\n\
         {then}"
    );
    let mut words = vec!["sh", "-ec", &script, "sh"];
    words.extend(devices.iter().map(String::as_str));
    guest.done(&words).map(drop)
}

fn disks(storage: &Storage<'_>, name: &str, count: usize) -> anyhow::Result<Vec<PathBuf>> {
    (0..count)
        .map(|number| storage.disk(&format!("{}-{number}", name.replace([' ', ',', '.'], "-")), DISK_MIB))
        .collect()
}

fn plug(guest: &mut Guest, disks: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    disks.iter().map(|disk| guest.plug(disk)).collect()
}

fn start_words(disks: &[PathBuf]) -> Vec<String> {
    let paths = disks.iter().map(|disk| disk.display().to_string());
    ["pool", "start", POOL].map(str::to_owned).into_iter().chain(paths).collect()
}

fn words(all: &[String]) -> Vec<&str> {
    all.iter().map(String::as_str).collect()
}

/// A7: arrays of stock mdadm with volumes of stock LVM2: served as they are, written to, and sound in the kernel afterwards.
pub fn served(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    for kind in &SERVED {
        let mut storage = plant.storage("stock")?;
        let disks = disks(&storage, kind.name, kind.disks)?;
        let guest = guests.get()?;
        let devices = plug(guest, &disks)?;
        create(guest, &devices, &format!("-l1 --data-offset=16M {}", kind.create), kind.then)?;
        md::settle(guest)?;
        guest.shell(&format!(
            "pvcreate -qq {ARRAY}; vgcreate -qq p {ARRAY}; lvcreate -qq -y -n data -L {VOLUME_MIB}M p; vgmknodes >/dev/null\n\
             seq 1 9999999 | head -c {VOLUME_MIB}M | dd of={VOLUME} bs=1M iflag=fullblock oflag=direct 2>/dev/null"
        ))?;
        let sum = md::sum(guest, VOLUME)?;
        md::stop(guest)?;
        guest.clear()?;

        storage.start()?;
        storage.ctl(&words(&start_words(&disks)))?;
        storage.ctl(&["grant", "floor", "data", "1"])?;
        storage.grant("data", 2)?;
        verdict.same(&storage.sum("data")?, &sum, &format!("{}: what muskox reads", kind.name));
        storage.qemu_io("data", &[&format!("write -P 0x6d {WRITES_AT}M 1M"), "flush"])?;
        storage.end()?;

        let devices = plug(guest, &disks)?;
        md::assembled(guest, &words(&devices), true)?;
        if kind.disks > 1 {
            verdict.same(&md::mismatches(guest)?, &0, &format!("{}: mismatch_cnt afterwards", kind.name));
            verdict.same(&first_difference(&disks[0], &disks[1])?, &None, &format!("{}: first difference", kind.name));
        }
        md::activate(guest)?;
        let letters =
            guest.shell(&format!("dd if={VOLUME} bs=1M skip={WRITES_AT} count=1 2>/dev/null | tr -d m | wc -c"))?;
        verdict.same(&letters.trim(), &"0", &format!("{}: what muskox wrote", kind.name));
        md::stop(guest)?;
        guest.clear()?;
    }
    Ok(())
}

/// The SHA-256 of every disk.
fn sums(disks: &[PathBuf]) -> anyhow::Result<String> {
    tool(Command::new("sha256sum").args(disks))
}

/// OD3: what muskox does not do is said, with the disk, and nothing is changed.
pub fn refused(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let mut storage = plant.storage("refused")?;
    storage.start()?;
    for kind in &REFUSED {
        let disks = disks(&storage, kind.name, kind.disks)?;
        let guest = guests.get()?;
        let devices = plug(guest, &disks)?;
        create(guest, &devices, kind.create, kind.then)?;
        md::stop(guest)?;
        guest.clear()?;
        let before = sums(&disks)?;
        let said = storage.refusal(&words(&start_words(&disks)));
        let said = said.unwrap_or_else(|| format!("it starts: {}", storage.shown()));
        let named = kind.words.iter().any(|word| said.contains(word));
        verdict.expect(named, format!("{}: named by one of {:?}: {said}", kind.name, kind.words));
        let a_disk = disks.iter().any(|disk| said.contains(&disk.display().to_string()));
        verdict.says(&said, &[], &["no member of the pool", "--degraded", "it starts"], kind.name);
        verdict.expect(a_disk, format!("{}: a disk is named: {said}", kind.name));
        verdict.same(&sums(&disks)?, &before, &format!("{}: the disks' bytes", kind.name));
        let _ = storage.ctl(&["pool", "stop", POOL]);
        storage.end()?;
        std::fs::remove_dir_all(storage.path("state"))?;
        storage.start()?;
    }
    storage.end().map(drop)
}

/// OD5: mdadm's own gap at this size leaves no room for grants: one refusal at the start, and nothing later.
pub fn without_room(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let mut storage = plant.storage("no-room")?;
    let disks = disks(&storage, "small-gap", 2)?;
    let guest = guests.get()?;
    let devices = plug(guest, &disks)?;
    create(guest, &devices, "-l1 -n2 --data-offset=1M --bitmap=internal $1 $2", "")?;
    md::settle(guest)?;
    guest
        .shell(&format!("pvcreate -qq {ARRAY}; vgcreate -qq p {ARRAY}; lvcreate -qq -y -n data -L {VOLUME_MIB}M p"))?;
    md::stop(guest)?;
    guest.clear()?;
    storage.start()?;
    let said =
        storage.refusal(&words(&start_words(&disks))).unwrap_or_else(|| format!("it starts: {}", storage.shown()));
    verdict.says(&said, &["room"], &["it starts"], "pool start");
    verdict.expect(said.contains("copy") || said.contains("new pool"), format!("it says what to do: {said}"));
    let made = storage.refusal(&["volume", "create", POOL, "more", "4M"]);
    verdict.expect(made.is_some(), "no volume is made on it");
    storage.end().map(drop)
}

/// OD6: a spare of a stock array is called a spare.
pub fn with_a_spare(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let mut storage = plant.storage("spare")?;
    let disks = disks(&storage, "spare", 3)?;
    let guest = guests.get()?;
    let devices = plug(guest, &disks)?;
    create(
        guest,
        &devices,
        "-l1 -n2 --data-offset=16M --bitmap=internal $1 $2 -x1 $3",
        "mdadm --wait /dev/md0 || true",
    )?;
    md::settle(guest)?;
    guest.shell(&format!("pvcreate -qq {ARRAY}; vgcreate -qq p {ARRAY}"))?;
    md::stop(guest)?;
    guest.clear()?;
    storage.start()?;
    storage.ctl(&words(&start_words(&disks)))?;
    storage.healthy()?;
    let shown = storage.shown();
    let spare = Path::new(&disks[2]).display().to_string();
    verdict.says(&shown, &[&spare, "spare"], &["stale", "it stopped at"], "pool show");
    storage.end().map(drop)
}
