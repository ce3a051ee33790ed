//! Reads evidence, strictly: a line that does not read is an error with its place, a missing file is one too. A judge
//! who overlooks what he cannot read can be cheated.

use super::{APPLIED, BEACONS, EVENTS, GUEST_ERRORS, ORACLES, PROBE, RECORDS, REFEREE, ROGUE, STORE};
use super::{
    Answer, AppliedLine, Beacon, Event, GrantLine, GuestError, OracleRun, Receipt, RecordsCheck, RogueLine, StoreChange,
};
use anyhow::Context;
use serde::de::DeserializeOwned;
use std::path::Path;

/// A target's grant log.
#[derive(Clone, Debug)]
pub struct Grants {
    /// Whose.
    pub machine: String,
    /// In their order.
    pub lines: Vec<GrantLine>,
}

/// All of a run.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The lab's timeline, in order of time.
    pub events: Vec<Event>,
    /// What the referee received, in order of time.
    pub receipts: Vec<Receipt>,
    /// Probes that were answered, in order of time.
    pub probes: Vec<Answer>,
    /// Beacons, in order of time.
    pub beacons: Vec<Beacon>,
    /// What the guest told of refusing disks.
    pub guest_errors: Vec<GuestError>,
    /// Stamped writes at the disks: each operation and stamp once, as it ended or, if it did not, as it came.
    pub applied: Vec<AppliedLine>,
    /// What the rogue tried.
    pub rogue: Vec<RogueLine>,
    /// The store's changes.
    pub store: Vec<StoreChange>,
    /// Each target's grant log.
    pub grants: Vec<Grants>,
    /// What the check of the guest's disk found; none: it was not done.
    pub records: Option<RecordsCheck>,
    /// What the peers' tools said.
    pub oracles: Vec<OracleRun>,
}

impl Evidence {
    /// Reads a folder.
    ///
    /// # Errors
    /// What is missing or does not read, with file and line.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let (mut events, mut receipts): (Vec<Event>, Vec<Receipt>) = (lines(folder, EVENTS)?, lines(folder, REFEREE)?);
        let (mut probes, mut beacons): (Vec<Answer>, Vec<Beacon>) = (lines(folder, PROBE)?, lines(folder, BEACONS)?);
        // Events that were told later are written later.
        events.sort_by_key(|line| line.at_us);
        receipts.sort_by_key(|line| line.at_us);
        probes.sort_by_key(|line| line.at_us);
        beacons.sort_by_key(|line| line.at_us);
        let store: Vec<StoreChange> = lines(folder, STORE)?;
        anyhow::ensure!(store.is_sorted_by_key(|change| change.revision), "{STORE}: revisions go back");
        Ok(Self {
            events,
            receipts,
            probes,
            beacons,
            guest_errors: lines(folder, GUEST_ERRORS)?,
            applied: whole(lines(folder, APPLIED)?),
            rogue: lines(folder, ROGUE)?,
            store,
            grants: grants(folder)?,
            records: document(folder, RECORDS)?,
            oracles: oracles(folder)?,
        })
    }
}

/// Joins the two lines of each operation.
fn whole(lines: Vec<AppliedLine>) -> Vec<AppliedLine> {
    let mut ops: Vec<AppliedLine> = Vec::new();
    let mut open = std::collections::HashMap::new();
    for line in lines {
        let known = open.entry((line.id, line.received_us, line.disk, line.offset)).or_insert(ops.len());
        match ops.get_mut(*known) {
            Some(op) => *op = line,
            None => ops.push(line),
        }
    }
    ops
}

/// The oracles' verdicts; one whose words are not there has none.
fn oracles(folder: &Path) -> anyhow::Result<Vec<OracleRun>> {
    let runs: Vec<OracleRun> = document(folder, ORACLES)?.unwrap_or_default();
    for run in &runs {
        let text = std::fs::read_to_string(folder.join(&run.output));
        let text = text.with_context(|| format!("{ORACLES}: the words of '{}' in {}", run.command, run.output))?;
        anyhow::ensure!(!text.trim().is_empty(), "{ORACLES}: '{}' said nothing ({} is empty)", run.command, run.output);
    }
    Ok(runs)
}

fn grants(folder: &Path) -> anyhow::Result<Vec<Grants>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("looking into {}", folder.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let machine = name.strip_prefix("grants-").and_then(|rest| rest.strip_suffix(".jsonl"));
        if let Some(machine) = machine {
            found.push(Grants { machine: machine.to_owned(), lines: lines(folder, &name)? });
        }
    }
    found.sort_by(|one, other| one.machine.cmp(&other.machine));
    Ok(found)
}

fn lines<T: DeserializeOwned>(folder: &Path, name: &str) -> anyhow::Result<Vec<T>> {
    let path = folder.join(name);
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let read = |(at, line): (usize, &str)| serde_json::from_str(line).with_context(|| format!("{name}:{}", at + 1));
    text.lines().enumerate().map(read).collect()
}

fn document<T: DeserializeOwned>(folder: &Path, name: &str) -> anyhow::Result<Option<T>> {
    match std::fs::read_to_string(folder.join(name)) {
        Ok(text) => serde_json::from_str(&text).map(Some).with_context(|| format!("reading {name}")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {name}")),
    }
}
