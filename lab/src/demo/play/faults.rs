//! Faults after which the VM is elsewhere, or nothing at all: migration, a disk, power, a freeze, a cut.

use super::super::evidence::{Cause, What, now_us};
use super::super::rogue;
use super::{ANSWER_MAX, CANARY, POOL, Play, VM, WITNESS_AGAIN};
use crate::disks::control::{Command as DiskCommand, On};
use crate::machine::Role;
use anyhow::Context;
use serde_json::Value;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a host stands still.
const FREEZE: Duration = Duration::from_secs(30);
/// How long a host is alone.
const CUT: Duration = Duration::from_secs(20);
/// Its place on the canary: far behind the guest's slots.
const ROGUE_AT: u64 = 48 << 20;
const ROGUE_BLOCKS: u64 = 1024;
/// The rogue is at work before the fault, and goes on after it.
const ROGUE_BEFORE: Duration = Duration::from_secs(2);
const ROGUE_AFTER: Duration = Duration::from_secs(5);
/// Between two questions to the witnesses.
const WITNESS_ASK_US: u64 = 1_000_000;
/// A resync of a few gigabytes of sparse files on a busy machine.
const RESYNC_MAX: Duration = Duration::from_secs(180);
const SEEN_MAX: Duration = Duration::from_secs(30);
const BACK_MAX: Duration = Duration::from_secs(90);

impl Play {
    pub(crate) fn migrate(&mut self) -> anyhow::Result<()> {
        self.migrations += 1;
        let (migration, from, to) = (self.migrations, self.here.name().to_owned(), self.there.name().to_owned());
        let revision = self.feed.revision();
        self.writer.event(What::MigrateBegin { migration, from: from.clone(), to: to.clone() })?;
        let job = self.cluster.json(&["vm", "migrate", VM, &to])?;
        anyhow::ensure!(job["outcome"] == "done", "the migration ended '{}': {}", job["outcome"], job["why"]);
        let receipt = &job["receipt"];
        let number = |name: &str| receipt[name].as_u64().with_context(|| format!("the receipt has no {name}"));
        let (total_ms, bytes) = (number("total_ms")?, number("bytes")?);
        let blackout_ms = number("cpu_blackout_ms")?;
        let resumed = self.feed.first_after(revision, |seen| {
            seen.key == format!("/epoch/vm/{VM}") && name_is(&seen.value["owner"], self.key_of(self.there))
        });
        // It runs there from then on, at the earliest.
        let owned_us = resumed.context("the store names no new owner")?.at_us;
        self.writer.event(What::MigrateEnd { migration, total_ms, bytes, blackout_ms })?;
        self.writer.event_at(owned_us, What::Running { host: to, epoch: self.epoch()?, fault: None })?;
        self.outcome = format!("{total_ms} ms in all, of these {blackout_ms} ms without a CPU, by its receipt");
        (self.here, self.there) = (self.there, self.here);
        let acked = self.watch().acked();
        self.wait(ANSWER_MAX, "the guest works on", |play| play.watch().acked() > acked + 20)
    }

    pub(super) fn disk(&mut self) -> anyhow::Result<()> {
        let [keeps, fails] = self.members;
        let fault = self.inject(Cause::Disk, None)?;
        self.cluster.tell_disks(&DiskCommand::Eio { disk: Some(fails), on: On::All, count: None, range: None })?;
        self.pool_becomes("degraded", SEEN_MAX)?;
        let (old, new) = (self.cluster.disk(fails), self.cluster.disk(self.spare));
        let (old, new) = (old.display().to_string(), new.display().to_string());
        self.cluster.cli(Role::Storage, &["pool", "replace", POOL, &old, &new, "--wipe"])?;
        self.pool_becomes("healthy", RESYNC_MAX)?;
        self.cluster.tell_disks(&DiskCommand::Heal { disk: Some(fails) })?;
        self.writer.event(What::End { fault })?;
        (self.members, self.spare) = ([keeps, self.spare], fails);
        self.settled(fault)
    }

    /// Follows the pool until it is so, and says each change.
    fn pool_becomes(&mut self, wanted: &str, patience: Duration) -> anyhow::Result<()> {
        let mut last = String::new();
        self.wait(patience, &format!("the pool is {wanted}"), |play| {
            let Ok(pool) = play.cluster.get(&format!("/v1/pools/{POOL}")) else { return false };
            let state = pool["state"].as_str().unwrap_or_default().to_owned();
            let text = resync_text(&pool);
            play.pool_text = Some(format!("{state} {text}").trim_end().to_owned());
            if state != last {
                let _ = play.writer.event(What::Pool { state: state.clone(), text: text.clone() });
                play.screen.note(&format!("pool {POOL}: {state} {text}"));
                last.clone_from(&state);
            }
            state == wanted
        })
    }

    pub(super) fn poweroff(&mut self) -> anyhow::Result<()> {
        // In a new cluster nobody has one yet.
        self.witness_again()?;
        let (revision, host) = (self.feed.revision(), self.here);
        let fault = self.inject(Cause::Poweroff, Some(host))?;
        self.cluster.power_off(host)?;
        self.fail_over(fault, revision)?;
        self.settled(fault)
    }

    /// The host without power comes back and gets the VM.
    pub(super) fn rejoin(&mut self) -> anyhow::Result<()> {
        let fault = self.faults;
        self.writer.event(What::End { fault })?;
        self.cluster.power_on(self.there)?;
        self.member_is_up(self.there)?;
        self.witness_again()?;
        self.migrate()
    }

    pub(super) fn freeze(&mut self) -> anyhow::Result<()> {
        let (revision, host) = (self.feed.revision(), self.here);
        // Outside the frozen cgroup, in the frozen host's namespace: with its key and its address.
        let keys = self.credentials(host)?;
        let plan = self.rogue(host, &keys, self.faults + 1)?;
        let mut rogue = rogue::Rogue::start(&plan, &self.ledger, &self.writer)?;
        self.wait(SEEN_MAX, "the rogue is in", |_| rogue.tally().applied.load(Ordering::Relaxed) > 0)?;
        self.nap(ROGUE_BEFORE)?;
        let fault = self.inject(Cause::Freeze, Some(host))?;
        let begun = now_us();
        self.cluster.site.machine(host).freeze()?;
        self.fail_over(fault, revision)?;
        let gone = Duration::from_micros(now_us() - begun);
        self.nap(FREEZE.saturating_sub(gone))?;
        self.cluster.site.machine(host).thaw()?;
        self.writer.event(What::End { fault })?;
        self.old_guest_is_gone(host)?;
        self.nap(ROGUE_AFTER)?;
        rogue.check_lives()?;
        let tally = rogue.end()?;
        let refused = tally.refused.load(Ordering::Relaxed);
        self.note(&format!("the rogue was refused {refused} times"))?;
        let owner = self.credentials(self.here)?;
        rogue::erase(&self.rogue(self.here, &owner, fault)?, &self.ledger)?;
        self.member_is_up(host)?;
        self.settled(fault)?;
        self.witness_again()
    }

    pub(super) fn cut(&mut self) -> anyhow::Result<()> {
        let (revision, host) = (self.feed.revision(), self.here);
        let fault = self.inject(Cause::Cut, Some(host))?;
        let begun = now_us();
        self.cluster.cut(host)?;
        self.fail_over(fault, revision)?;
        let gone = Duration::from_micros(now_us() - begun);
        self.nap(CUT.saturating_sub(gone))?;
        self.cluster.put_back(host)?;
        self.writer.event(What::End { fault })?;
        self.old_guest_is_gone(host)?;
        self.member_is_up(host)?;
        self.settled(fault)?;
        self.witness_again()
    }

    fn credentials(&self, host: Role) -> anyhow::Result<rogue::Credentials> {
        let of = |name: &str| self.cluster.root(host).join("etc/muskox").join(name);
        let folder = self.folder.join(format!("rogue-{}", host.name()));
        rogue::Credentials::gather(&folder, &of("node.crt"), &of("node.key"), &of("ca.crt"))
    }

    /// A rogue that pretends to be the host's initiator, as it is attached now.
    fn rogue<'a>(&self, host: Role, keys: &'a rogue::Credentials, fault: u32) -> anyhow::Result<rogue::Plan<'a>> {
        let (key, status) = (self.key_of(host), self.cluster.target_status()?);
        let sessions = status["sessions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let own = sessions.iter().find(|it| it["host"] == key && it["volume"] == CANARY);
        let incarnation = own.and_then(|it| it["incarnation"].as_u64()).context("the host has no session")?;
        Ok(rogue::Plan {
            namespace: Some(self.cluster.site.machine(host).namespace()),
            portals: self.cluster.storage_portals(),
            keys: Some(keys),
            volume: CANARY.to_owned(),
            epoch: self.epoch()?,
            incarnation,
            fault,
            offset: ROGUE_AT,
            blocks: ROGUE_BLOCKS,
        })
    }

    pub(crate) fn epoch(&self) -> anyhow::Result<u64> {
        let owned = self.feed.object(&format!("/epoch/vm/{VM}")).context("the VM has no owner in the store")?;
        owned.value["epoch"].as_u64().context("its ownership has no epoch")
    }

    /// The VM's QEMU that was left behind is destroyed.
    fn old_guest_is_gone(&mut self, host: Role) -> anyhow::Result<()> {
        let process = self.cluster.root(host).join(format!("run/muskox/vm/{VM}/process"));
        self.wait(BACK_MAX, "the old guest is destroyed", |_| !process.exists())?;
        self.note(&format!("the old guest at {} is destroyed", host.name()))
    }

    pub(crate) fn member_is_up(&mut self, role: Role) -> anyhow::Result<()> {
        self.wait(BACK_MAX, &format!("{} is up again", role.name()), |play| {
            let list = play.cluster.get("/v1/nodes").unwrap_or_default();
            let nodes = list["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
            let own = nodes.iter().find(|node| node["name"] == role.name());
            own.is_some_and(|node| node["heard_ms"].as_u64().is_some_and(|ago| ago < 2_500) || node["state"] == "store")
        })
    }

    /// Whoever was away votes again after the grace period.
    pub(super) fn witness_again(&mut self) -> anyhow::Result<()> {
        self.screen.note("everybody has a vote again in half a minute");
        let mut asked = now_us();
        self.wait(WITNESS_AGAIN, "every witness counts", |play| {
            if now_us() - asked < WITNESS_ASK_US {
                return false;
            }
            asked = now_us();
            let counts = |role| play.cluster.deadman_status(role).is_ok_and(|it| it["doubt"].is_null());
            super::super::cluster::MEMBERS.into_iter().all(counts)
        })
    }
}

fn name_is(value: &Value, key: &str) -> bool {
    value.as_str() == Some(key)
}

fn resync_text(pool: &Value) -> String {
    let number = |name: &str| pool["resync"][name].as_u64();
    match (number("done"), number("total"), number("left_ms")) {
        (Some(done), Some(total), Some(left)) if total > 0 => {
            format!("resync {} %, {} s left", done * 100 / total, left.div_ceil(1000))
        }
        (Some(done), Some(total), None) if total > 0 => format!("resync {} %", done * 100 / total),
        _ => String::new(),
    }
}
