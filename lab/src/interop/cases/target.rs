//! Findings about the target itself that the kernel's oracle brought up: taking disks back, stopping, what is said.

use super::mirror::pool;
use crate::interop::Guests;
use crate::interop::report::Verdict;
use crate::interop::storage::{POOL, Plant};
use crate::interop::writer::Writer;
use std::time::Duration;

/// Whoever stops in time needs less.
const STOP_MAX: Duration = Duration::from_millis(2_500);

/// OD2: a disk that was failed can be added again while the pool runs, and gets what was written meanwhile.
pub fn added_again(plant: &Plant, _: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, [a, b]) = pool(plant, "failadd", 64)?;
    let path = b.display().to_string();
    let mut writer = Writer::new(11);
    for round in 1..=3 {
        storage.ctl(&["pool", "fail", POOL, &path])?;
        writer.write(&storage.socket(), "web1", Duration::from_millis(300))?;
        let mut last = None;
        let added = storage.until("the disk is added", || {
            last = storage.refusal(&["pool", "add", POOL, &path]);
            last.is_none()
        });
        let refused = last.unwrap_or_default();
        verdict.expect(added.is_ok(), format!("round {round}: it is added again within a minute: {refused}"));
        added?;
        let took = storage.healthy()?;
        verdict.note(format!("round {round}: in sync after {} ms", took.as_millis()));
    }
    storage.end()?;
    super::mirror::holds_everything(verdict, &writer, &[&a, &b])
}

/// OD7: stopping soon after a resync or after writes takes no grace of 3 s, and nothing is said of operations that still run.
pub fn stops_soon(plant: &Plant, _: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, [_, b]) = pool(plant, "stops", 64)?;
    let mut longest = storage.end()?;
    let mut writer = Writer::new(12);
    for after_ms in [0, 300, 1500] {
        storage.start()?;
        writer.write(&storage.socket(), "web1", Duration::from_millis(300))?;
        storage.nap(Duration::from_millis(after_ms))?;
        longest = longest.max(storage.end()?);
    }
    storage.start()?;
    storage.ctl(&["pool", "fail", POOL, &b.display().to_string()])?;
    writer.write(&storage.socket(), "web1", Duration::from_millis(300))?;
    longest = longest.max(storage.end()?);
    verdict.expect(
        longest < STOP_MAX,
        format!("a stop takes less than {} ms: {} ms", STOP_MAX.as_millis(), longest.as_millis()),
    );
    verdict.says(&storage.log(), &["ready"], &["operations were still running"], "the target's log");
    verdict.note(format!("longest stop {} ms", longest.as_millis()));
    Ok(())
}

/// OD10: SIGTERM at any moment of a resync and just after it: nothing is called an error.
pub fn stops_without_an_error(plant: &Plant, _: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, [_, b]) = pool(plant, "sigterm", 64)?;
    let path = b.display().to_string();
    let mut writer = Writer::new(13);
    for round in 0..6 {
        storage.ctl(&["pool", "fail", POOL, &path])?;
        writer.write(&storage.socket(), "web1", Duration::from_millis(150))?;
        storage.ctl(&["pool", "stop", POOL])?;
        storage.ctl(&["pool", "start", POOL])?;
        storage.ctl(&["pool", "add", POOL, &path])?;
        match round {
            0 => storage.nap(Duration::from_millis(20))?,
            1 => storage.nap(Duration::from_millis(120))?,
            // At the very moment at which it ends.
            _ => drop(storage.healthy()?),
        }
        storage.end()?;
        storage.start()?;
        storage.healthy()?;
    }
    storage.end()?;
    let errors: Vec<String> =
        storage.log().lines().filter(|line| line.contains(" ERROR ")).map(str::to_owned).collect();
    verdict.expect(errors.is_empty(), format!("no ERROR at SIGTERM: {}", errors.join("; ")));
    Ok(())
}
