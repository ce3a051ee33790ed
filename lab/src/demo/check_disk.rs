//! The last word: whether every record that was acknowledged is on the guest's disks, whole.
//!
//! The file of records is read out of ext4 by `debugfs`, the canary's slots are read as they are. It works on a copy: a
//! guest that was killed left a journal, which is replayed first as the guest itself would do at its next boot.

use super::evidence::Receipt;
use super::guest::record::{Damage, RECORD_BYTES, Record};
use super::guest::{CANARY_MAGIC, RECORDS_PATH, SLOTS, slot_at};
use super::image;
use crate::image::files::copy_sparse;
use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// What is wrong is told in full up to here.
const PROBLEMS_MAX: usize = 20;
/// e2fsck's exit codes (e2fsck(8)): nothing found; found and mended.
const CLEAN: i32 = 0;
const MENDED: i32 = 1;

/// What was found on the guest's disks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Acknowledged records.
    pub acked: u64,
    /// Acknowledged and not there: not in the file, or their slot of the canary holds an older one.
    pub missing: u64,
    /// Not whole, in the file up to the last acknowledged record, or in the canary where one was acknowledged.
    pub torn: u64,
    /// Slots of the canary that were looked at.
    pub slots: u64,
    /// Whether the file system had to be brought to rest first, as after a guest's sudden death.
    pub replayed: bool,
    /// Whether `e2fsck -fn` found nothing.
    pub e2fsck_clean: bool,
    /// What it said.
    pub e2fsck: String,
    /// What is wrong, the first few.
    pub problems: Vec<String>,
}

impl Found {
    /// Whether nothing is wrong.
    pub fn is_fine(&self) -> bool {
        self.missing == 0 && self.torn == 0 && self.e2fsck_clean
    }

    fn problem(&mut self, text: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text);
        }
    }
}

/// Holds the guest's disks (files or devices, raw) against what the referee heard. `scratch` is a folder with room for a
/// copy of the root disk.
///
/// # Errors
/// When a disk cannot be read, or e2fsprogs are missing.
pub fn check(root: &Path, canary: Option<&Path>, receipts: &[Receipt], scratch: &Path) -> anyhow::Result<Found> {
    anyhow::ensure!(!scratch.to_string_lossy().contains(['"', '?']), "{}: not a path for debugfs", scratch.display());
    let receipts = unique(receipts);
    let mut found = Found { acked: receipts.len() as u64, ..Found::default() };
    let (copy, file) = (scratch.join("check-root.raw"), scratch.join("check-records"));
    copy_sparse(root, &copy)?;
    examine(&mut found, &copy, &file)?;
    records(&mut found, &std::fs::read(&file).unwrap_or_default(), &receipts);
    for path in [&copy, &file] {
        // The file of records is not there if the guest never came to work.
        let _ = std::fs::remove_file(path);
    }
    if let Some(canary) = canary {
        let disk = File::open(canary).with_context(|| format!("opening the canary {}", canary.display()))?;
        slots(&mut found, &disk, &receipts)?;
    }
    Ok(found)
}

/// Boot, number and checksum say what was acknowledged; the network may have said it twice.
fn unique(receipts: &[Receipt]) -> Vec<Receipt> {
    let mut receipts = receipts.to_vec();
    receipts.sort_by_key(|receipt| (receipt.n, receipt.boot, receipt.crc, receipt.at_us));
    receipts.dedup_by_key(|receipt| (receipt.n, receipt.boot, receipt.crc));
    receipts
}

/// Replays the journal, has the file system checked, takes the records out.
fn examine(found: &mut Found, copy: &Path, records: &Path) -> anyhow::Result<()> {
    let root = image::at_root(copy)?;
    let (status, text) = run(Command::new("e2fsck").args(["-y", "-E", "journal_only"]).arg(&root))?;
    found.replayed = status == MENDED || text.contains("recovering journal");
    let (status, text) = run(Command::new("e2fsck").arg("-fn").arg(&root))?;
    found.e2fsck_clean = status == CLEAN;
    if !found.e2fsck_clean {
        found.problem(format!("e2fsck -fn ended with {status}"));
    }
    found.e2fsck = text;
    let dump = format!("dump {RECORDS_PATH} \"{}\"", records.display());
    let (_, text) = run(Command::new("debugfs").args(["-R", &dump]).arg(&root))?;
    if !records.exists() {
        found.problem(format!("no {RECORDS_PATH}: {}", text.trim()));
    }
    Ok(())
}

/// The file: record n stands at byte n * 512.
fn records(found: &mut Found, bytes: &[u8], receipts: &[Receipt]) {
    let (places, _) = bytes.as_chunks::<RECORD_BYTES>();
    let mut checked = 0;
    for receipt in receipts {
        // What was written and never acknowledged is in between; it has to be whole too.
        for n in checked..receipt.n.min(places.len() as u64) {
            if Record::decode(&places[index(n)]).is_err() {
                found.torn += 1;
                found.problem(format!("record {n}, never acknowledged but followed by others, is not whole"));
            }
        }
        checked = checked.max(receipt.n.saturating_add(1));
        let there = places.get(index(receipt.n)).map_or(Err(Damage::Blank), Record::decode);
        compare(found, receipt, there, "the file of records", |there| there.n == receipt.n);
    }
}

/// The canary: a slot holds its latest record; that may be later than the last one acknowledged.
fn slots(found: &mut Found, disk: &File, receipts: &[Receipt]) -> anyhow::Result<()> {
    let mut head = [0; CANARY_MAGIC.len()];
    disk.read_exact_at(&mut head, 0).context("reading the canary")?;
    if head != *CANARY_MAGIC && !receipts.is_empty() {
        found.problem("the canary has lost its mark".into());
    }
    // Receipts are in the order of their numbers, so the last of a slot stays.
    let latest: BTreeMap<u64, &Receipt> = receipts.iter().map(|receipt| (receipt.n % SLOTS, receipt)).collect();
    for (slot, receipt) in latest {
        let mut bytes = [0; RECORD_BYTES];
        disk.read_exact_at(&mut bytes, slot_at(slot)).context("reading the canary")?;
        found.slots += 1;
        let is_slots = |there: &Record| there.n % SLOTS == slot;
        match Record::decode(&bytes) {
            Ok((there, _)) if is_slots(&there) && there.n > receipt.n => {}
            there => compare(found, receipt, there, "the canary", is_slots),
        }
    }
    Ok(())
}

fn compare(
    found: &mut Found,
    receipt: &Receipt,
    there: Result<(Record, u32), Damage>,
    place: &str,
    belongs: impl Fn(&Record) -> bool,
) {
    let name = format!("record {} of boot {}", receipt.n, receipt.boot);
    match there {
        Ok((there, crc)) if there.n == receipt.n && there.boot == receipt.boot && crc == receipt.crc => {}
        Ok((there, _)) => {
            found.missing += 1;
            let strange = if belongs(&there) { "" } else { ", which does not belong there" };
            found.problem(format!("{name} is not in {place}: record {} of boot {} is{strange}", there.n, there.boot));
        }
        Err(Damage::Blank) => {
            found.missing += 1;
            found.problem(format!("{name} is not in {place}: nothing is"));
        }
        Err(Damage::Torn) => {
            found.torn += 1;
            found.problem(format!("{name} is not whole in {place}"));
        }
    }
}

/// A number that is too large for an index is behind every end.
fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn run(command: &mut Command) -> anyhow::Result<(i32, String)> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.env("LC_ALL", "C").stdin(Stdio::null()).output();
    let done = done.with_context(|| format!("running {name}: `cargo xtask setup` installs it"))?;
    let text = [done.stdout, done.stderr].concat();
    Ok((done.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned()))
}

#[cfg(test)]
mod test;
