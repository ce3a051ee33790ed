//! One round: a migration, a fault in it, and what it came to.

use super::Moves;
use super::fault::{Deed, Fault, Phase};
use super::prey::Prey;
use super::table::Round;
use crate::demo::evidence::{BEACONS, Beacon, What};
use crate::demo::play::VM;
use crate::demo::report::{copies_in_migrations, two_boots_us};
use crate::demo::{http, lines, now_us};
use crate::machine::Role;
use anyhow::Context;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often the job's stage is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// A job that is not where it should be by then is hit where it is.
const PHASE_MAX: Duration = Duration::from_secs(60);
/// A process that is about to be started is waited for so long.
const PREY_MAX: Duration = Duration::from_secs(5);
/// Beacons are written down after this at the latest.
const WRITTEN: Duration = Duration::from_millis(400);
/// Votes bind a witness for 10 s (docs/rfd/0007-witness.md).
const VOTES_BIND_MAX: Duration = Duration::from_secs(15);
const VOTES_LOOK: Duration = Duration::from_millis(200);

impl Moves {
    /// Plays a round and judges it.
    ///
    /// # Errors
    /// When the cluster does not come to rest, or the lab itself fails: no further round would say anything.
    pub(super) fn round(&mut self, number: usize, fault: &Fault) -> anyhow::Result<()> {
        let mut round = Round::of(number, fault);
        let (source, destination) = (self.play.here, self.play.there);
        self.play.screen.step(&format!(
            "round {number}, {} to {}: {}",
            source.name(),
            destination.name(),
            fault.text()
        ));
        self.note(&format!("round {number}: {}", fault.text()))?;
        let (begun_us, revision) = (now_us(), self.play.feed.revision());
        let (boot, errors) = (self.play.watch().boot(), self.play.watch().errors());
        self.play.watch().take_longest_silence_us();
        let job = self.begin(destination)?;
        self.wait_for(fault, &job)?;
        round.hit = self.strike(fault, &job, (source, destination))?;
        let over = Instant::now();
        let rest = self.rest(fault);
        round.rest_ms = u64::try_from(over.elapsed().as_millis()).expect("waits are short");
        if let Err(why) = &rest {
            round.wrong.push(format!("not at rest: {why:#}"));
        }
        round.network_blackout_ms = self.play.watch().take_longest_silence_us() / 1000;
        self.read_jobs(&mut round, &job, revision);
        round.restarted = self.play.watch().boot() != boot;
        let committed = self.was_committed(&job);
        if round.restarted && !fault.may_restart(committed) {
            round.wrong.push("the guest was started anew, and nothing that had it had died".to_owned());
        }
        let complaints = self.play.watch().errors() - errors;
        if complaints > 0 {
            round.wrong.push(format!("the guest complained {complaints} times about a disk"));
        }
        self.nap(WRITTEN)?;
        let beacons: Vec<Beacon> = lines::read(&self.play.writer.path(BEACONS))?;
        let beacons: Vec<Beacon> = beacons.into_iter().filter(|beacon| beacon.at_us >= begun_us).collect();
        round.wrong.extend(copies_in_migrations(&beacons).into_iter().map(|copies| copies.detail));
        let overlap_us = two_boots_us(&beacons, begun_us, now_us());
        round.overlap_ms = f64::from(u32::try_from(overlap_us).unwrap_or(u32::MAX)) / 1000.0;
        if overlap_us > fault.overlap_max_us() {
            round.wrong.push(format!("two boots ran for {:.0} ms", round.overlap_ms));
        }
        if fault.kind == super::fault::Kind::Nothing && round.outcome != "done" {
            round.wrong.push("nothing befell it, and it was not done".to_owned());
        }
        self.note(&format!("round {number}: {}", round.line()))?;
        let is_fine = round.wrong.is_empty();
        if is_fine {
            self.play.screen.done(&round.line());
        } else {
            self.play.screen.failed(&round.line());
        }
        self.rounds.push(round);
        rest.context("the cluster does not come to rest")
    }

    pub(super) fn note(&self, text: &str) -> anyhow::Result<()> {
        self.play.writer.event(What::Note { text: text.to_owned() }).map(drop)
    }

    /// Asks for the migration; the job's id. Votes against the destination, of the round before, may still bind.
    fn begin(&self, destination: Role) -> anyhow::Result<String> {
        let socket = self.play.cluster.socket(Role::Storage);
        let wish = json!({ "host": destination.name() });
        let asked = Instant::now();
        loop {
            match http::call(&socket, "POST", &format!("/v1/vms/{VM}/migrate"), Some(&wish)) {
                Ok(begun) => return Ok(begun["job"].as_str().context("no job was begun")?.to_owned()),
                Err(error) if error.to_string().contains("was voted dead") && asked.elapsed() < VOTES_BIND_MAX => {
                    self.nap(VOTES_LOOK)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The job as the store said it last.
    fn job(&self, job: &str) -> Value {
        self.play.feed.object(&format!("/job/{job}")).map_or(Value::Null, |seen| seen.value)
    }

    /// Waits for the fault's moment, or for the job's end if that comes first.
    fn wait_for(&self, fault: &Fault, job: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        let comes = |job: &Value| {
            let stage = job["plan"]["stage"].as_str().unwrap_or_default();
            // A job on its way back never comes to the phase.
            let is_there = !stage.is_empty() && Phase::named(stage).is_none_or(|stage| stage >= fault.phase);
            is_there || !job["outcome"].is_null()
        };
        while !comes(&self.job(job)) && begun.elapsed() < PHASE_MAX {
            anyhow::ensure!(!self.play.cluster.stop.is_over(), "the run is over");
            std::thread::sleep(LOOK_AGAIN);
        }
        if !fault.delay.is_zero() {
            std::thread::sleep(fault.delay);
        }
        Ok(())
    }

    /// Where the job is.
    fn stage(&self, job: &str) -> String {
        let job = self.job(job);
        let stage = job["plan"]["stage"].as_str().unwrap_or("unseen");
        if job["outcome"].is_null() { stage.to_owned() } else { "after".to_owned() }
    }

    /// The fault, from its begin to its end; the stage that it hit.
    fn strike(&mut self, fault: &Fault, job: &str, hosts: (Role, Role)) -> anyhow::Result<String> {
        let hit;
        match fault.kind.deed(hosts.0, hosts.1) {
            Deed::Nothing => hit = self.stage(job),
            Deed::Cancel => {
                let socket = self.play.cluster.socket(Role::Storage);
                hit = self.stage(job);
                // It is refused when it has ended.
                let _ = http::call(&socket, "POST", &format!("/v1/jobs/{job}/cancel"), None);
            }
            Deed::Qemu(role) => hit = self.kill(&self.qemu(role), job)?,
            Deed::Initiator(role) => hit = self.kill(&self.initiator(role), job)?,
            Deed::Node(role) => {
                hit = self.stage(job);
                self.play.cluster.kill_node(role)?;
                self.nap(fault.lasts)?;
                self.play.cluster.start_node(role)?;
            }
            Deed::Cut(role, networks) => {
                hit = self.stage(job);
                let site = &self.play.cluster.site;
                site.switch.cut(&site.machine(role).ports(networks))?;
                self.nap(fault.lasts)?;
                site.switch.put_back(&site.machine(role).ports(networks))?;
            }
            Deed::Freeze(role) => {
                hit = self.stage(job);
                let machine = self.play.cluster.site.machine(role);
                machine.freeze()?;
                self.nap(fault.lasts)?;
                machine.thaw()?;
            }
        }
        self.note(&format!("the fault hit {hit}, and is over"))?;
        Ok(hit)
    }

    /// Kills who the note names, as soon as there is one; the stage then.
    fn kill(&self, note: &std::path::Path, job: &str) -> anyhow::Result<String> {
        let begun = Instant::now();
        loop {
            let stage = self.stage(job);
            if Prey::noted(note).is_some_and(|prey| prey.kill()) {
                return Ok(stage);
            }
            if stage == "after" || begun.elapsed() > PREY_MAX {
                return Ok("nobody".to_owned());
            }
            anyhow::ensure!(!self.play.cluster.stop.is_over(), "the run is over");
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// The note of the VM's QEMU at a host.
    pub(super) fn qemu(&self, role: Role) -> PathBuf {
        self.play.cluster.root(role).join(format!("run/muskox/vm/{VM}/process"))
    }

    /// The note of its initiator.
    pub(super) fn initiator(&self, role: Role) -> PathBuf {
        self.play.cluster.root(role).join(format!("var/lib/muskox/vm/{VM}/initiator.process"))
    }

    /// What the job came to, and how many recoveries followed.
    fn read_jobs(&self, round: &mut Round, job: &str, revision: u64) {
        let record = self.job(job);
        let outcome = &record["outcome"];
        round.outcome = outcome["end"].as_str().unwrap_or("open").to_owned();
        round.why = outcome["why"].as_str().map(str::to_owned);
        round.total_ms = record["spent_ms"].as_u64().unwrap_or_default();
        round.cpu_blackout_ms = record["plan"]["receipt"]["cpu_blackout_ms"].as_u64();
        if matches!(&*round.outcome, "open" | "conflict") {
            round.wrong.push(format!("the job ended '{}'", round.outcome));
        }
        let recoveries = self
            .play
            .feed
            .all_after(revision, |seen| seen.key.starts_with("/job/") && seen.value["plan"]["kind"] == "recover");
        let mut keys: Vec<&str> = recoveries.iter().map(|seen| seen.key.as_str()).collect();
        keys.sort_unstable();
        keys.dedup();
        round.recoveries = keys.len();
    }

    /// Whether the destination had become the owner.
    fn was_committed(&self, job: &str) -> bool {
        let history = self.job(job)["history"].as_array().cloned().unwrap_or_default();
        history.iter().any(|note| note["stage"] == "commit")
    }
}
