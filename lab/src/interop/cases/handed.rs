//! Recoveries that one of the two begins and the other one ends.

use super::mirror::{FIRST_VOLUME, holds_everything, pool};
use crate::interop::Guests;
use crate::interop::md::{self, ARRAY};
use crate::interop::report::Verdict;
use crate::interop::storage::{POOL, Plant, data_of, first_difference};
use crate::interop::writer::Writer;
use std::time::Duration;

const SLOWLY: &str = "echo 1000 > /sys/block/md0/md/sync_speed_max; echo 1000 > /sys/block/md0/md/sync_speed_min";

/// muskox fails b and writes; the kernel leaves b out, begins to take it back by bitmap when told, and is stopped in the middle;
/// muskox goes on.
pub fn by_bitmap(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, [a, b]) = pool(plant, "readd", 64)?;
    let mut writer = Writer::new(3);
    storage.ctl(&["pool", "fail", POOL, &b.display().to_string()])?;
    writer.write(&storage.socket(), "web1", Duration::from_secs(4))?;
    storage.end()?;
    let guest = guests.get()?;
    let [one, other] = guest.plug_all([&a, &b])?;
    md::assembled(guest, &[&one, &other], true)?;
    verdict.same(&md::fact(guest, "degraded")?.as_str(), &"1", "members that the kernel misses");
    guest.shell(&format!("mdadm --readwrite {ARRAY}; {SLOWLY}; mdadm {ARRAY} --re-add {other} 2>&1; sleep 4"))?;
    let begun = md::fact(guest, "sync_action")?;
    verdict.same(&begun.as_str(), &"recover", "what the kernel does when it is stopped");
    md::stop(guest)?;
    guest.clear()?;
    holds_everything(verdict, &writer, &[&a])?;
    storage.start()?;
    storage.healthy()?;
    storage.end()?;
    holds_everything(verdict, &writer, &[&a, &b])
}

/// The same with an empty disk in b's place: a recovery with an offset.
pub fn of_an_empty_disk(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, [a, b]) = pool(plant, "fresh", 64)?;
    let mut writer = Writer::new(4);
    writer.write(&storage.socket(), "web1", Duration::from_secs(1))?;
    storage.ctl(&["pool", "fail", POOL, &b.display().to_string()])?;
    storage.end()?;
    let c = storage.disk("c", 256)?;
    let guest = guests.get()?;
    let [one, other] = guest.plug_all([&a, &c])?;
    md::assembled(guest, &[&one], true)?;
    guest.shell(&format!("mdadm --readwrite {ARRAY}; echo 8000 > /sys/block/md0/md/sync_speed_max; mdadm {ARRAY} --add {other} 2>&1; sleep 4"))?;
    verdict.same(&md::fact(guest, "sync_action")?.as_str(), &"recover", "what the kernel does when it is stopped");
    md::stop(guest)?;
    guest.clear()?;
    // muskox knows the path of b; the disk that came stands in its place, as in a box where a disk was changed.
    std::fs::rename(&c, &b)?;
    storage.start()?;
    storage.healthy()?;
    storage.end()?;
    verdict.same(&first_difference(&a, &b)?, &None, "the first byte in which the members differ");
    for member in [&a, &b] {
        let checked = writer.check(member, data_of(member)?.0 + FIRST_VOLUME)?;
        verdict.expect(checked.wrong.is_empty() && checked.blocks > 100, format!("{checked:?}"));
    }
    Ok(())
}

/// muskox replaces b, is killed in the recovery, and the kernel ends it.
pub fn to_the_kernel(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, [a, b]) = pool(plant, "cut", 64)?;
    let mut writer = Writer::new(5);
    writer.write(&storage.socket(), "web1", Duration::from_secs(1))?;
    let c = storage.disk("c", 256)?;
    let (old, new) = (b.display().to_string(), c.display().to_string());
    storage.ctl(&["pool", "replace", POOL, &old, &new])?;
    writer.write(&storage.socket(), "web1", Duration::from_millis(300))?;
    let was = storage.pool()?["state"].clone();
    storage.kill()?;
    verdict.same(&was, &serde_json::json!("recovering"), "what muskox did when it was killed");
    let guest = guests.get()?;
    let [one, other] = guest.plug_all([&a, &c])?;
    md::assembled(guest, &[&one, &other], false)?;
    md::settle(guest)?;
    verdict.same(&md::fact(guest, "degraded")?.as_str(), &"0", "members that the kernel misses in the end");
    verdict.same(&md::mismatches(guest)?, &0, "mismatch_cnt after the kernel ended the recovery");
    md::stop(guest)?;
    guest.clear()?;
    holds_everything(verdict, &writer, &[&a, &c])?;
    storage.start()?;
    storage.healthy()?;
    storage.end().map(drop)
}
