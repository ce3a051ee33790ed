//! Mirrors made by muskox, run by the kernel, and back.

use crate::interop::Guests;
use crate::interop::md::{self, ARRAY};
use crate::interop::report::Verdict;
use crate::interop::storage::{POOL, Plant, Storage, data_of, first_difference};
use crate::interop::writer::Writer;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// LVM2's own MiB, before the first volume of a fresh pool.
pub const FIRST_VOLUME: u64 = 1 << 20;
pub const VOLUME: &str = "/dev/p/web1";

/// A pool of two disks, in sync, with the volume `web1` on it.
pub fn pool<'a>(plant: &'a Plant, name: &str, mib: u64) -> anyhow::Result<(Storage<'a>, [PathBuf; 2])> {
    let mut storage = plant.storage(name)?;
    let disks = [storage.disk("a", 224)?, storage.disk("b", 256)?];
    storage.start()?;
    storage.make_pool(&[&disks[0], &disks[1]])?;
    storage.make_volume("web1", mib)?;
    storage.healthy()?;
    Ok((storage, disks))
}

/// Everything that was acknowledged is on both members, and they are equal.
pub fn holds_everything(verdict: &mut Verdict, writer: &Writer, members: &[&Path]) -> anyhow::Result<()> {
    for member in members {
        let checked = writer.check(member, data_of(member)?.0 + FIRST_VOLUME)?;
        let name = member.file_name().unwrap_or_default().to_string_lossy();
        verdict.expect(checked.blocks > 100, format!("enough was written: {} blocks", checked.blocks));
        verdict.expect(
            checked.wrong.is_empty(),
            format!("{name} holds what was acknowledged: {}", checked.wrong.join(", ")),
        );
    }
    if let [one, other] = members {
        verdict.same(&first_difference(one, other)?, &None, "the first byte in which the members differ");
    }
    Ok(())
}

/// A1: the kernel assembles a clean mirror, reads both volumes as they are, adds one of its own by stock LVM2, and hands all of
/// it back.
pub fn clean(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, [a, b]) = pool(plant, "clean", 64)?;
    storage.make_volume("db2", 32)?;
    storage.qemu_io(
        "web1",
        &["write -P 0xa5 1M 3M", "discard 2M 1M", "write -z 3M 64k", "write -P 0x17 50M 8M", "flush"],
    )?;
    storage.qemu_io("db2", &["write -P 0x3c 0 32M", "flush"])?;
    let sums = [storage.sum("web1")?, storage.sum("db2")?];
    storage.healthy()?;
    storage.end()?;

    let guest = guests.get()?;
    let [one, other] = guest.plug_all([&a, &b])?;
    md::assembled(guest, &[&one, &other], false)?;
    verdict.same(&md::fact(guest, "degraded")?.as_str(), &"0", "members that the kernel misses");
    verdict.same(&md::mismatches(guest)?, &0, "mismatch_cnt of a clean mirror");
    verdict.says(
        &guest.done(&["mdadm", "--detail", ARRAY])?,
        &["State : clean", "Consistency Policy : bitmap"],
        &["degraded"],
        "mdadm --detail",
    );
    verdict.expect(guest.run(&["vgck"])?.is_fine(), "vgck finds nothing");
    md::activate(guest)?;
    verdict.same(&[md::sum(guest, VOLUME)?, md::sum(guest, "/dev/p/db2")?], &sums, "what the kernel reads");
    guest.shell(
        "lvcreate -qq -y -n stock -L 32M --addtag by.stock p\n\
         mkfs.ext4 -q /dev/p/stock; mount /dev/p/stock /mnt; cp -a /usr/sbin/mdadm /mnt/; umount /mnt; fsck.ext4 -fn /dev/p/stock",
    )?;
    let stock = md::sum(guest, "/dev/p/stock")?;
    md::stop(guest)?;
    verdict.expect(!guest.done(&["dmesg"])?.contains("BUG:"), "the kernel has no BUG in its log");
    guest.clear()?;

    storage.start()?;
    storage.healthy()?;
    storage.grant("stock", 1)?;
    let after = [storage.sum("web1")?, storage.sum("db2")?, storage.sum("stock")?];
    verdict.same(&after, &[sums[0].clone(), sums[1].clone(), stock], "what muskox reads afterwards");
    storage.end()?;
    verdict.same(&first_difference(&a, &b)?, &None, "the first byte in which the members differ");
    Ok(())
}

/// Spoils 32 KiB of a member within the volume, in a chunk that must be marked: a resync has to repair them.
fn spoil(member: &Path) -> anyhow::Result<()> {
    let at = data_of(member)?.0 + FIRST_VOLUME + (80 << 10);
    let file = File::options().write(true).open(member)?;
    file.write_all_at(&[0xee; 32 << 10], at)?;
    Ok(file.sync_all()?)
}

/// A2: `kill -9` of the target in mid-writes; the kernel resyncs by our bitmap; nothing acknowledged is lost on either member.
/// So that there is something to repair, a part of a chunk that must be marked is spoilt.
pub fn killed(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, [a, b]) = pool(plant, "killed", 64)?;
    let mut writer = Writer::new(1);
    for round in 1..=2 {
        let socket = storage.socket();
        let written = std::thread::scope(|scope| {
            let writing = scope.spawn(|| writer.write(&socket, "web1", Duration::from_secs(30)));
            storage.nap(Duration::from_millis(1500))?;
            storage.kill()?;
            writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        written?;
        spoil(&b)?;
        let guest = guests.get()?;
        let [one, other] = guest.plug_all([&a, &b])?;
        md::assembled(guest, &[&one, &other], false)?;
        verdict.expect(
            guest.done(&["dmesg"])?.contains("not clean -- starting background reconstruction"),
            "the kernel resyncs",
        );
        verdict.same(&md::mismatches(guest)?, &0, "mismatch_cnt after the kernel's resync");
        md::stop(guest)?;
        guest.clear()?;
        guest.done(&["dmesg", "--clear"])?;
        holds_everything(verdict, &writer, &[&a, &b])?;
        storage.start()?;
        storage.healthy()?;
        verdict.note(format!("round {round}: {} blocks acknowledged", writer.blocks()));
    }
    storage.end()?;
    Ok(())
}

/// A3: the kernel runs a alone and writes; b, which nobody ran, is stale and comes back by bitmap.
pub fn degraded(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, [a, b]) = pool(plant, "degraded", 64)?;
    let mut writer = Writer::new(2);
    writer.write(&storage.socket(), "web1", Duration::from_secs(1))?;
    storage.end()?;
    let guest = guests.get()?;
    let one = guest.plug(&a)?;
    md::run_alone(guest, &one, VOLUME, 50, 'k')?;
    guest.clear()?;
    storage.start()?;
    let shown = storage.shown();
    verdict.says(&shown, &["degraded", "stale", "add"], &["ran"], "pool show");
    storage.ctl(&["pool", "add", POOL, &b.display().to_string()])?;
    let took = storage.healthy()?;
    storage.until("the volume is served", || {
        storage.json(&["volume", "list"]).is_ok_and(|list| list["volumes"][0]["state"] == "serving")
    })?;
    storage.end()?;
    verdict.same(&first_difference(&a, &b)?, &None, "the first byte in which the members differ");
    verdict.same(&letter_at(&b, 50)?, &'k', "what the kernel wrote is on b too");
    verdict.note(format!("in sync {} ms after it was added", took.as_millis()));
    Ok(())
}

/// The letter at a MiB of the volume, on a member.
pub fn letter_at(member: &Path, mib: u64) -> anyhow::Result<char> {
    let mut byte = [0];
    File::open(member)?.read_exact_at(&mut byte, data_of(member)?.0 + FIRST_VOLUME + (mib << 20))?;
    Ok(char::from(byte[0]))
}

/// A5: the guest crashes while it writes; muskox resyncs by the kernel's bitmap, also a part that was spoilt.
pub fn crashed(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, [a, b]) = pool(plant, "crashed", 64)?;
    storage.end()?;
    let guest = guests.get()?;
    let [one, other] = guest.plug_all([&a, &b])?;
    md::assembled(guest, &[&one, &other], false)?;
    md::activate(guest)?;
    let crash = format!(
        "head -c 8M /dev/zero | tr '\\0' Q > /run/q\n\
         (while :; do dd if=/run/q of={VOLUME} bs=64k oflag=direct 2>/dev/null; done) &\n\
         sleep 3; echo b > /proc/sysrq-trigger; sleep 60"
    );
    let said = guest.run_for(30, &["sh", "-c", &crash]);
    verdict.expect(said.is_err(), "the guest has crashed");
    spoil(&b)?;
    storage.start()?;
    storage.healthy()?;
    storage.end()?;
    verdict.same(&first_difference(&a, &b)?, &None, "the first byte in which the members differ");
    verdict.same(&letter_at(&b, 0)?, &'Q', "what the kernel wrote");
    Ok(())
}
