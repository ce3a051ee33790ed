//! Volume groups that stock LVM2 has changed: what muskox serves, what it names and leaves alone, and what LVM2 says afterwards.

use super::mirror::{VOLUME, pool};
use crate::interop::Guests;
use crate::interop::md::{self, ARRAY};
use crate::interop::report::Verdict;
use crate::interop::storage::{POOL, Plant, Storage, tool};
use serde_json::Value;
use std::process::Command;

/// A volume as `volume list` has it.
fn listed(storage: &Storage<'_>, name: &str) -> anyhow::Result<Value> {
    let list = storage.json(&["volume", "list"])?;
    let all = list["volumes"].as_array().cloned().unwrap_or_default();
    Ok(all.into_iter().find(|volume| volume["volume"] == name).unwrap_or(Value::Null))
}

/// A8: what stock LVM2 makes beside our volumes: plain ones are served, others are named with their reason and refused; afterwards
/// the group is sound, tags and contents are as they were.
pub fn changed_by_stock(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, [a, b]) = pool(plant, "lvm", 32)?;
    storage.qemu_io("web1", &["write -P 0x51 1M 8M", "flush"])?;
    storage.end()?;
    let guest = guests.get()?;
    let [one, other] = guest.plug_all([&a, &b])?;
    md::assembled(guest, &[&one, &other], false)?;
    md::activate(guest)?;
    guest.shell(
        "vgchange -qq --addtag vg.tag p; lvcreate -qq -y -n plain -L 16M --addtag lv.tag p; vgmknodes >/dev/null\n\
         seq 1 9999999 | head -c 16M | dd of=/dev/p/plain bs=1M iflag=fullblock oflag=direct 2>/dev/null\n\
         lvcreate -qq -y --type thin-pool -n pool0 -L 16M p 2>/dev/null; lvcreate -qq -y --type thin -n thin -V 32M --thinpool p/pool0\n\
         lvcreate -qq -y --type striped -n skipped -L 4M -ky p",
    )?;
    let sums = [md::sum(guest, VOLUME)?, md::sum(guest, "/dev/p/plain")?];
    md::stop(guest)?;
    guest.clear()?;

    storage.start()?;
    storage.grant("plain", 1)?;
    verdict.same(&[storage.sum("web1")?, storage.sum("plain")?], &sums, "what muskox reads");
    for name in ["thin", "pool0"] {
        let volume = listed(&storage, name)?;
        let reason = volume["reason"].as_str().unwrap_or_default().to_owned();
        verdict.expect(
            volume["state"] == "offline" && reason.contains("thin"),
            format!("{name} is offline, with its kind: {volume}"),
        );
        verdict.expect(storage.refusal(&["volume", "remove", name]).is_some(), format!("{name} is not removed"));
        let refused = storage.refusal(&["grant", "raise", name, "1", "--nobody"]);
        verdict.expect(refused.is_some(), format!("{name} is not granted"));
    }
    storage.make_volume("ours", 8)?;
    storage.make_volume("gone", 8)?;
    storage.ctl(&["volume", "remove", "gone"])?;
    storage.healthy()?;
    storage.end()?;

    let [one, other] = guest.plug_all([&a, &b])?;
    md::assembled(guest, &[&one, &other], false)?;
    let checked = guest.run(&["vgck", "p"])?;
    verdict.expect(checked.is_fine(), format!("vgck: {}", checked.words()));
    md::activate(guest)?;
    verdict.same(
        &[md::sum(guest, VOLUME)?, md::sum(guest, "/dev/p/plain")?],
        &sums,
        "what the kernel reads afterwards",
    );
    let tags = guest.done(&["lvs", "--noheadings", "-o", "lv_name,lv_tags,vg_tags", "p"])?;
    verdict.says(&tags, &["ours", "lv.tag", "vg.tag", "thin", "skipped"], &["gone"], "lvs");
    verdict.same(&md::mismatches(guest)?, &0, "mismatch_cnt");
    md::stop(guest)
}

/// OD9: a read-only volume is offered read-only, and a snapshot has LVM2's own name.
pub fn read_only_and_snapshot(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, [a, b]) = pool(plant, "lvm-ro", 16)?;
    storage.end()?;
    let guest = guests.get()?;
    let [one, other] = guest.plug_all([&a, &b])?;
    md::assembled(guest, &[&one, &other], false)?;
    md::activate(guest)?;
    guest.shell(
        "lvcreate -qq -y -n fixed -L 8M p; lvchange -qq -pr p/fixed; lvcreate -qq -y -n origin -L 8M p\n\
         lvcreate -qq -y -s -n snap -L 4M p/origin",
    )?;
    md::stop(guest)?;
    guest.clear()?;
    storage.start()?;
    storage.grant("fixed", 1)?;
    let info = tool(Command::new("nbdinfo").arg("--json").arg(storage.uri("fixed")))?;
    let info: Value = serde_json::from_str(&info)?;
    verdict.same(
        &info["exports"][0]["is_read_only"],
        &Value::Bool(true),
        "nbdinfo's is_read_only of a read-only volume",
    );
    verdict.expect(storage.qemu_io("fixed", &["write -P 1 0 4k"]).is_err(), "it is not written to");
    let snapshot = listed(&storage, "snap")?;
    verdict.expect(snapshot["state"] == "offline", format!("the snapshot is listed by its name: {snapshot}"));
    verdict.expect(listed(&storage, "snapshot0")?.is_null(), "and not by that of LVM2's inner volume");
    verdict.says(&snapshot["reason"].to_string(), &["snapshot"], &[], "its reason");
    storage.end().map(drop)
}

/// A8: a second physical volume in the group: refused with what to use instead, and nothing is changed.
pub fn two_physical_volumes(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, [a, b]) = pool(plant, "lvm-two", 16)?;
    storage.end()?;
    let second = storage.disk("second", 64)?;
    let guest = guests.get()?;
    let [one, other, more] = guest.plug_all([&a, &b, &second])?;
    md::assembled(guest, &[&one, &other], false)?;
    guest.shell(&format!("pvcreate -qq {more}; vgextend -qq p {more}"))?;
    md::stop(guest)?;
    guest.clear()?;
    storage.start()?;
    let shown = storage.shown();
    verdict.says(&shown, &["2 physical volumes", "lvm"], &[], "pool show");
    verdict.expect(storage.refusal(&["volume", "create", POOL, "more", "4M"]).is_some(), "no volume is made");
    verdict.expect(storage.refusal(&["volume", "remove", "web1"]).is_some(), "no volume is removed");
    storage.end()?;
    let [one, other, _] = guest.plug_all([&a, &b, &second])?;
    md::assembled(guest, &[&one, &other], false)?;
    verdict.expect(guest.run(&["vgck", "p"])?.is_fine(), "vgck finds nothing");
    md::stop(guest)
}

/// Disks that stock tools made hold something: a new pool takes none of them without a word.
pub fn created_over(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let mut storage = plant.storage("over")?;
    let made = [("pv", "pvcreate -qq $1"), ("ext4", "mkfs.ext4 -q $1"), ("swap", "mkswap -q $1")];
    let empty = storage.disk("empty", 64)?;
    let mut disks = Vec::new();
    let guest = guests.get()?;
    for (name, script) in made {
        let disk = storage.disk(name, 64)?;
        let device = guest.plug(&disk)?;
        guest.done(&["sh", "-ec", script, "sh", &device])?;
        disks.push(disk);
    }
    let md10 = storage.disk("md10", 64)?;
    let device = guest.plug(&md10)?;
    guest.done(&[
        "sh",
        "-ec",
        &format!("yes | mdadm --create {ARRAY} --run -l1 -n2 -e1.0 $1 missing"),
        "sh",
        &device,
    ])?;
    md::stop(guest)?;
    disks.push(md10);
    guest.clear()?;
    storage.start()?;
    for disk in &disks {
        let before = tool(Command::new("sha256sum").arg(disk))?;
        let (path, empty) = (disk.display().to_string(), empty.display().to_string());
        let said = storage.refusal(&["pool", "create", "q", &path, &empty]).unwrap_or_default();
        verdict.says(&said, &[&path, "--wipe"], &[], "pool create");
        verdict.same(&tool(Command::new("sha256sum").arg(disk))?, &before, "the disk's bytes");
    }
    storage.end().map(drop)
}
