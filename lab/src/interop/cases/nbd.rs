//! The kernel's own NBD client at our target, over a network.

use crate::interop::Guests;
use crate::interop::guest::Guest;
use crate::interop::network::{BOX, GUEST};
use crate::interop::report::Verdict;
use crate::interop::storage::{PORT, Plant};
use crate::interop::words::Said;
use anyhow::Context;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

use super::mirror::pool;

const DEVICE: &str = "/dev/nbd0";
/// How large the volume is.
const MIB: u64 = 64;
/// Stamped writes of 64 KiB, and the run that they name.
const STAMPS: u64 = 600;
const RUN: &str = "21";
/// How long the network is cut, and after what the kernel gives a request up.
const CUT: Duration = Duration::from_secs(6);
const TIMEOUT: &str = "30";

fn network_up(guest: &mut Guest) -> anyhow::Result<()> {
    guest.shell(&format!("ip link set lo up; ip link set eth0 up; ip addr replace {GUEST}/24 dev eth0")).map(drop)
}

fn attach(guest: &mut Guest, more: &[&str]) -> anyhow::Result<Said> {
    let port = PORT.to_string();
    let mut words = vec!["nbd-client", BOX, &port, DEVICE, "-N", "web1"];
    words.extend(more);
    guest.run(&words)
}

fn attached(guest: &mut Guest, more: &[&str]) -> anyhow::Result<()> {
    let said = attach(guest, more)?;
    anyhow::ensure!(said.is_fine(), "nbd-client {}: {}", more.join(" "), said.words().trim());
    Ok(())
}

fn detach(guest: &mut Guest) -> anyhow::Result<()> {
    guest
        .shell(&format!(
            "nbd-client -d {DEVICE} >/dev/null 2>&1; while [ -e /sys/block/nbd0/pid ]; do sleep 0.05; done"
        ))
        .map(drop)
}

/// Sizes, flags, a file system with trims, discards, what is zeroed: with each of the client's ways to attach.
pub fn ways_to_attach(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, _) = pool(plant, "nbd", MIB)?;
    let guest = guests.get()?;
    network_up(guest)?;
    guest.done(&["dmesg", "--clear"])?;
    for (more, block) in [(&[][..], "512"), (&["-b", "4096"], "4096"), (&["-persist"], "512")] {
        let way = format!("nbd-client {}", more.join(" "));
        attached(guest, more)?;
        let size = guest.done(&["blockdev", "--getsize64", "--getss", DEVICE])?;
        let size: Vec<&str> = size.split_whitespace().collect();
        verdict.same(&size, &vec![&*(MIB << 20).to_string(), block], &format!("{way}: size and block"));
        let flags =
            guest.shell("cat /sys/block/nbd0/queue/write_cache /sys/block/nbd0/queue/fua /sys/block/nbd0/ro")?;
        verdict.same(&flags.as_str(), &"write back\n1\n0\n", &format!("{way}: cache, FUA, read-only"));
        let work = guest.shell(&format!(
            "mkfs.ext4 -q {DEVICE}; mount {DEVICE} /mnt; cp /usr/sbin/mdadm /usr/sbin/lvm /mnt/; rm /mnt/lvm; fstrim /mnt; sync\n\
             umount /mnt; fsck.ext4 -fn {DEVICE} >/dev/null 2>&1; mount -o ro {DEVICE} /mnt; cmp /mnt/mdadm /usr/sbin/mdadm; umount /mnt\n\
             blkdiscard -z {DEVICE}; head -c 8M {DEVICE} | tr -d '\\0' | wc -c; blkdiscard {DEVICE}"
        ))?;
        verdict.same(&work.trim(), &"0", &format!("{way}: bytes that are not zero after blkdiscard -z"));
        detach(guest)?;
    }
    let said = guest.done(&["dmesg"])?;
    verdict.says(&said, &[], &["I/O error", "EXT4-fs error", "timed out"], "the kernel's log");
    storage.end().map(drop)
}

/// Several connections of one client: an old request that waits in one of them could land after a newer one of another (DA1), so a
/// stock client does not get them.
pub fn several_connections(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, _) = pool(plant, "nbd-many", MIB)?;
    let guest = guests.get()?;
    network_up(guest)?;
    let said = attach(guest, &["-C", "4"])?;
    let connections = storage.json(&["status"])?["status"]["sessions"].as_array().map_or(0, Vec::len);
    verdict.expect(connections <= 1, format!("a stock client has one connection at most, not {connections}"));
    verdict.note(format!("nbd-client -C 4 ended with {} and has {connections} connections", said.status));
    detach(guest)?;
    // Nothing of that is left behind: one that is alone gets in.
    storage.until("one connection gets in", || attach(guest, &[]).is_ok_and(|said| said.is_fine()))?;
    guest.shell(&format!("dd if=/dev/zero of={DEVICE} bs=1M count=1 oflag=direct 2>/dev/null"))?;
    detach(guest)?;
    storage.end().map(drop)
}

/// fio writes and verifies while the network is cut for less than the client's patience: no error, nothing wrong.
pub fn fio_through_a_cut(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, [a, b]) = pool(plant, "nbd-fio", MIB)?;
    let network = guests.network();
    let guest = guests.get()?;
    network_up(guest)?;
    guest.done(&["dmesg", "--clear"])?;
    attached(guest, &["-timeout", TIMEOUT])?;
    let filename = format!("--filename={DEVICE}");
    let words = [
        "fio",
        "--name=v",
        &filename,
        "--rw=randwrite",
        "--bsrange=4k-128k",
        "--bs_unaligned=0",
        "--size=48m",
        "--rate=,3m,",
        "--iodepth=16",
        "--ioengine=libaio",
        "--direct=1",
        "--verify=crc32c",
        "--do_verify=1",
        "--verify_fatal=1",
        "--output-format=json",
    ];
    let said = std::thread::scope(|scope| {
        let working = scope.spawn(|| guest.run_for(180, &words));
        let cut = storage.nap(Duration::from_secs(4)).and_then(|()| network.cut());
        let cut = cut.and_then(|()| storage.nap(CUT));
        // Whatever came in between, the guest is not left alone.
        cut.and(network.put_back())?;
        working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let start = said.out.find('{').unwrap_or(0);
    let report: Value = serde_json::from_str(&said.out[start..])
        .with_context(|| format!("fio printed no JSON (status {}): {}", said.status, said.err))?;
    let job = &report["jobs"][0];
    verdict.same(&said.status, &0, "fio's status");
    verdict.same(&job["error"], &Value::from(0), "fio's error");
    let longest_ms = job["write"]["lat_ns"]["max"].as_u64().unwrap_or(0) / 1_000_000;
    verdict.expect(longest_ms > 4_000, format!("the cut was felt: the longest write took {longest_ms} ms"));
    let (written, read) = (job["write"]["io_bytes"].as_u64(), job["read"]["io_bytes"].as_u64());
    verdict.expect(
        written > Some(40 << 20) && read > Some(40 << 20),
        format!("written {written:?}, verified {read:?} bytes"),
    );
    verdict.says(&guest.done(&["dmesg"])?, &[], &["I/O error"], "the kernel's log");
    detach(guest)?;
    storage.end()?;
    verdict.same(
        &crate::interop::storage::first_difference(&a, &b)?,
        &None,
        "the first byte in which the members differ",
    );
    verdict.note(format!("longest write {longest_ms} ms"));
    Ok(())
}

/// `kill -9` of the target under stamped writes, again and again; the client, which does not reconnect by itself, attaches anew. What
/// was acknowledged is there.
pub fn kills(plant: &Plant, guests: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, disks) = pool(plant, "nbd-kills", MIB)?;
    let guest = guests.get()?;
    network_up(guest)?;
    let mut acked = 0;
    let mut errors = 0;
    for _ in 0..3 {
        attached(guest, &[])?;
        let (first, last) = (acked.to_string(), STAMPS.to_string());
        let said = std::thread::scope(|scope| {
            let words = ["muskox-oracle", "stamp", DEVICE, RUN, &first, &last];
            let (guest, storage) = (&mut *guest, &mut storage);
            let working = scope.spawn(move || guest.run(&words));
            storage.nap(Duration::from_millis(600))?;
            storage.kill()?;
            working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        errors += u32::from(!said.is_fine());
        acked = said.number("acked").context("the writer said no number")?;
        detach(guest)?;
        storage.start()?;
    }
    verdict.expect(errors > 0, "at least one kill hit the writer");
    attached(guest, &[])?;
    guest.done(&["muskox-oracle", "stamp", DEVICE, RUN, &acked.to_string(), &STAMPS.to_string()])?;
    let checked = guest.run(&["muskox-oracle", "check", DEVICE, RUN, &STAMPS.to_string()])?;
    verdict.same(&checked.number("wrong"), &Some(0), "blocks that do not hold what was acknowledged");
    verdict.note(format!("{STAMPS} writes, {errors} kills hit them; acknowledged before the last attach: {acked}"));
    detach(guest)?;
    storage.healthy()?;
    storage.end()?;
    let [a, b] = disks.each_ref().map(PathBuf::as_path);
    verdict.same(
        &crate::interop::storage::first_difference(a, b)?,
        &None,
        "the first byte in which the members differ",
    );
    Ok(())
}
