//! OD1, OD4: two members that each ran without the other are never joined by bitmap, whoever ran them. The kernel's half of the
//! matrix that `block::raid::test::apart` has with made superblocks.

use super::mirror::{VOLUME, letter_at, pool};
use crate::interop::Guests;
use crate::interop::md;
use crate::interop::report::Verdict;
use crate::interop::storage::{POOL, Plant, Storage, first_difference};
use std::path::{Path, PathBuf};

/// Where a writes, in MiB of the volume; and b.
const OF_A: u64 = 10;
const OF_B: u64 = 50;

/// How the two came apart.
struct Split {
    /// A name for its folder.
    name: &'static str,
    /// Whether muskox ran a alone, not the kernel.
    muskox_ran_a: bool,
    /// How often the kernel ran a and b alone: each time counts events up.
    runs: [usize; 2],
    /// Whether the box forgot who was in sync.
    state_is_lost: bool,
}

/// OD1: the kernel ran both, one after the other.
pub fn kernel_ran_both(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let split = Split { name: "split", muskox_ran_a: false, runs: [1, 1], state_is_lost: false };
    split.happens(plant, guests, verdict)
}

/// OD1: and the box's state folder is lost.
pub fn and_state_is_lost(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let split = Split { name: "split-lost", muskox_ran_a: false, runs: [1, 1], state_is_lost: true };
    split.happens(plant, guests, verdict)
}

/// OD1: a has more events than b.
pub fn a_is_above(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let split = Split { name: "split-above", muskox_ran_a: false, runs: [3, 1], state_is_lost: false };
    split.happens(plant, guests, verdict)
}

/// OD1: b has more.
pub fn a_is_below(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let split = Split { name: "split-below", muskox_ran_a: false, runs: [1, 3], state_is_lost: true };
    split.happens(plant, guests, verdict)
}

/// OD1: one rescue boot: muskox ran a, the kernel b.
pub fn muskox_ran_a(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let split = Split { name: "split-mine", muskox_ran_a: true, runs: [0, 1], state_is_lost: false };
    split.happens(plant, guests, verdict)
}

/// OD1: and the box's state folder is lost.
pub fn muskox_ran_a_and_state_is_lost(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let split = Split { name: "split-mine-lost", muskox_ran_a: true, runs: [0, 2], state_is_lost: true };
    split.happens(plant, guests, verdict)
}

impl Split {
    fn happens(&self, plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
        let (mut storage, disks) = pool(plant, self.name, 64)?;
        self.come_apart(&mut storage, &disks, guests)?;
        if self.state_is_lost {
            std::fs::remove_dir_all(storage.path("state"))?;
        }
        storage.start()?;
        let [a, b] = disks.each_ref().map(|disk| disk.display().to_string());
        let runs = storage.pool().is_ok_and(|pool| pool["state"] == "degraded");
        // It runs on the one that the box remembers, and the other one is left out and named; or not at all.
        let refused = || storage.refusal(&["pool", "start", POOL, &a, &b]);
        let words = if runs { storage.shown() } else { refused().unwrap_or_else(|| storage.shown()) };
        let named = if self.state_is_lost || !self.muskox_ran_a { [&*a, &*b] } else { [&*b, &*b] };
        verdict.says(&words, &["ran", named[0], named[1]], &["add it again", "stale"], "what the box says of the two");
        let joined = storage.pool().is_ok_and(|pool| pool["state"] == "healthy" || pool["state"] == "recovering");
        verdict.expect(!joined, "nobody joins the two by himself");
        if !runs {
            storage.ctl(&["pool", "start", POOL, &a, "--degraded"])?;
        }
        let refused = storage.refusal(&["pool", "add", POOL, &b]).unwrap_or_default();
        verdict.says(&refused, &["ran", "--wipe"], &[], "adding the other one without a word");
        storage.ctl(&["pool", "add", POOL, &b, "--wipe"])?;
        storage.healthy()?;
        storage.end()?;
        self.judge(&disks, guests, verdict)
    }

    fn come_apart(&self, storage: &mut Storage<'_>, disks: &[PathBuf; 2], guests: &mut Guests) -> anyhow::Result<()> {
        let [a, b] = disks;
        if self.muskox_ran_a {
            storage.ctl(&["pool", "fail", POOL, &b.display().to_string()])?;
            storage.qemu_io("web1", &[&format!("write -P 0x61 {OF_A}M 1M"), "flush"])?;
        }
        storage.end()?;
        let guest = guests.get()?;
        for (disk, count, mib, letter) in [(a, self.runs[0], OF_A, 'a'), (b, self.runs[1], OF_B, 'b')] {
            for _ in 0..count {
                let device = guest.plug(disk)?;
                md::run_alone(guest, &device, VOLUME, mib, letter)?;
                guest.clear()?;
            }
        }
        Ok(())
    }

    /// What there is in the end: a's content on both, nothing of b's, and the kernel finds them equal.
    fn judge(&self, disks: &[PathBuf; 2], guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
        let [a, b] = disks.each_ref().map(PathBuf::as_path);
        verdict.same(&first_difference(a, b)?, &None, "the first byte in which the members differ");
        let letters = |disk: &Path| anyhow::Ok([letter_at(disk, OF_A)?, letter_at(disk, OF_B)?]);
        verdict.same(&letters(a)?, &['a', '\0'], "what a holds");
        verdict.same(&letters(b)?, &['a', '\0'], "what b holds");
        let guest = guests.get()?;
        let [one, other] = guest.plug_all([a, b])?;
        md::assembled(guest, &[&one, &other], false)?;
        verdict.same(&md::mismatches(guest)?, &0, "mismatch_cnt in the kernel");
        md::stop(guest)
    }
}

/// OD1: what stock mdadm does with such a pair: it warns at assembly, but its explicit `--re-add` joins them by bitmap. That is the
/// hole that muskox does not have; afterwards nothing in the superblocks tells, and only a check does.
pub fn stock_re_add(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let split = Split { name: "split-stock", muskox_ran_a: false, runs: [1, 1], state_is_lost: false };
    let (mut storage, disks) = pool(plant, split.name, 64)?;
    split.come_apart(&mut storage, &disks, guests)?;
    let guest = guests.get()?;
    let [one, other] = guest.plug_all([&disks[0], &disks[1]])?;
    let said = md::assemble(guest, &[&one, &other], true)?;
    verdict.says(&said.words(), &["as failed"], &[], "stock mdadm at assembly");
    verdict.same(&md::fact(guest, "degraded")?.as_str(), &"1", "members that the kernel misses");
    let inside = guest.shell("cat /proc/mdstat")?;
    let outside = if inside.contains(one.trim_start_matches("/dev/")) { &other } else { &one };
    guest.shell(&format!("mdadm --readwrite /dev/md0; mdadm /dev/md0 --re-add {outside} 2>&1"))?;
    let mismatches = md::mismatches(guest)?;
    md::stop(guest)?;
    guest.clear()?;
    verdict.note(format!("stock --re-add joined them, {mismatches} sectors differ"));
    verdict
        .expect(mismatches > 0, "stock --re-add leaves members that differ (if not, md has changed: say so in md.md)");
    storage.start()?;
    let differ = first_difference(&disks[0], &disks[1])?;
    verdict.expect(differ.is_some(), "the members differ");
    storage.end().map(drop)
}

/// OD4: the kernel ran b alone and wrote; only a comes back, then b too: b is newer, and nobody is told to add it again.
pub fn the_newer_one_comes_late(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, [a, b]) = pool(plant, "late", 64)?;
    storage.end()?;
    let guest = guests.get()?;
    for _ in 0..2 {
        let device = guest.plug(&b)?;
        md::run_alone(guest, &device, VOLUME, OF_B, 'b')?;
        guest.clear()?;
    }
    let away = storage.path("away");
    std::fs::rename(&b, &away)?;
    storage.start()?;
    verdict.note(format!("with a alone: {}", storage.pool()?["state"]));
    std::fs::rename(&away, &b)?;
    storage.ctl(&["pool", "stop", POOL])?;
    let words = [a.display().to_string(), b.display().to_string()];
    let words = storage.refusal(&["pool", "start", POOL, &words[0], &words[1]]).unwrap_or_else(|| storage.shown());
    verdict.says(&words, &["newer", "ran elsewhere"], &["stale", "add it again"], "what the box says of b");
    let refused = storage.refusal(&["pool", "add", POOL, &b.display().to_string()]).unwrap_or_default();
    verdict.says(&refused, &["ran", "--wipe"], &["stale"], "adding b");
    verdict.same(&letter_at(&b, OF_B)?, &'b', "what b holds in the end");
    storage.end().map(drop)
}
