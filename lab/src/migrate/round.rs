//! One round: a migration, a fault in it, and what it came to.

use super::Moves;
use super::fault::{Deed, Fault, Kind, Phase};
use super::prey::Prey;
use super::table::Round;
use crate::demo::evidence::{Beacon, What};
use crate::demo::play::VM;
use crate::demo::report::{blackout_us, copies_in_migrations, two_boots_us};
use crate::demo::{http, now_us};
use crate::machine::Role;
use anyhow::Context;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often the job's stage is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// A fault that hits nobody proves nothing: the round is played again, so often.
const ATTEMPTS_MAX: usize = 8;
/// Who was hit, if the one who was to be hit was not there.
const NOBODY: &str = "nobody";
/// A job that is not where it should be by then is hit where it is.
const PHASE_MAX: Duration = Duration::from_secs(60);
/// A process that is about to be started is waited for so long.
const PREY_MAX: Duration = Duration::from_secs(5);
/// Beacons are written down after this at the latest.
const WRITTEN: Duration = Duration::from_millis(400);
/// Votes bind a witness for 10 s (docs/rfd/0007-witness.md).
const VOTES_BIND_MAX: Duration = Duration::from_secs(15);
const VOTES_LOOK: Duration = Duration::from_millis(200);

/// Whether a host is refused for a while only: it was voted dead, or its dead-man has no majority yet.
fn is_bound(refusal: &str) -> bool {
    ["was voted dead", "lets no guest start now"].iter().any(|words| refusal.contains(words))
}

impl Moves {
    /// Plays a round until its fault hits somebody, and judges every attempt.
    ///
    /// # Errors
    /// When the cluster does not come to rest, or the lab itself fails: no further round would say anything.
    pub(super) fn round(&mut self, number: usize, kind: Kind, phase: Option<Phase>) -> anyhow::Result<()> {
        for attempt in 1..=ATTEMPTS_MAX {
            let fault = Fault::draw(kind, phase, &mut self.dice);
            let mut round = Round::of(number, &fault);
            let rest = self.attempt(&mut round, &fault);
            let has_hit = kind.hit_somebody(&round.hit);
            if !has_hit && rest.is_ok() && attempt == ATTEMPTS_MAX {
                round.wrong.push(format!("the fault hit nobody, {ATTEMPTS_MAX} times"));
            }
            self.note(&format!("round {number}: {}", round.line()))?;
            if round.wrong.is_empty() {
                self.play.screen.done(&round.line());
            } else {
                self.play.screen.failed(&round.line());
            }
            let is_over = has_hit || rest.is_err() || attempt == ATTEMPTS_MAX;
            if is_over { &mut self.rounds } else { &mut self.misses }.push(round);
            if is_over {
                return rest.context("the cluster does not come to rest");
            }
        }
        Ok(())
    }

    /// A migration with a fault, and what it came to.
    fn attempt(&mut self, round: &mut Round, fault: &Fault) -> anyhow::Result<()> {
        let (source, destination) = (self.play.here, self.play.there);
        let title = format!("round {}, {} to {}: {}", round.round, source.name(), destination.name(), fault.text());
        self.play.screen.step(&title);
        self.note(&title)?;
        let revision = self.play.feed.revision();
        let (boot, errors) = (self.play.watch().boot(), self.play.watch().errors());
        round.begun_us = now_us();
        self.play.watch().take_longest_silence_us();
        let job = self.begin(destination)?;
        if let Some(stage) = fault.phase.cancelled_in() {
            self.wait_for(stage, &job)?;
            self.cancel(&job);
        }
        self.wait_for(fault.phase, &job)?;
        std::thread::sleep(fault.delay);
        round.hit = self.strike(fault, &job, (source, destination))?;
        let over = Instant::now();
        let rest = self.rest(fault);
        round.rest_ms = u64::try_from(over.elapsed().as_millis()).expect("waits are short");
        if let Err(why) = &rest {
            round.wrong.push(format!("not at rest: {why:#}"));
        }
        round.network_blackout_ms = self.play.watch().take_longest_silence_us() / 1000;
        self.read_jobs(round, &job, revision);
        round.restarted = self.play.watch().boot() != boot;
        if round.restarted && !fault.may_restart(self.was_committed(&job)) {
            round.wrong.push("the guest was started anew, and nothing that had it had died".to_owned());
        }
        let complaints = self.play.watch().errors() - errors;
        if complaints > 0 {
            round.wrong.push(format!("the guest complained {complaints} times about a disk"));
        }
        self.judge_beacons(round, fault, (source, destination))?;
        if fault.kind == Kind::Nothing && round.outcome != "done" {
            round.wrong.push("nothing befell it, and it was not done".to_owned());
        }
        rest
    }

    /// Where the guest was seen to run.
    fn judge_beacons(&mut self, round: &mut Round, fault: &Fault, hosts: (Role, Role)) -> anyhow::Result<()> {
        self.nap(WRITTEN)?;
        self.beacons.extend(self.console.more()?);
        round.ended_us = now_us();
        let first = self.beacons.partition_point(|beacon| beacon.at_us < round.begun_us);
        let beacons: &[Beacon] = &self.beacons[first..];
        round.wrong.extend(copies_in_migrations(beacons).into_iter().map(|copies| copies.detail));
        let overlap_us = two_boots_us(beacons, round.begun_us, round.ended_us);
        round.overlap_ms = ms(overlap_us);
        if overlap_us > fault.kind.overlap_max_us() {
            round.wrong.push(format!("two boots ran for {:.0} ms", round.overlap_ms));
        }
        if round.outcome == "done" {
            let span = round.begun_us..round.ended_us;
            round.cpu_blackout_ms = blackout_us(beacons, (hosts.0.name(), hosts.1.name()), span).map(ms);
        }
        Ok(())
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
                Err(error) if is_bound(&error.to_string()) && asked.elapsed() < VOTES_BIND_MAX => {
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

    /// Waits until the job is in a stage, or can no longer come there.
    fn wait_for(&self, phase: Phase, job: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        let comes = |job: &Value| {
            let stage = Phase::named(job["plan"]["stage"].as_str().unwrap_or_default());
            stage.is_some_and(|stage| phase.is_reached(stage)) || !job["outcome"].is_null()
        };
        while !comes(&self.job(job)) && begun.elapsed() < PHASE_MAX {
            anyhow::ensure!(!self.play.cluster.stop.is_over(), "the run is over");
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// Cancels the job; whether that was accepted: a job that has ended refuses.
    fn cancel(&self, job: &str) -> bool {
        let socket = self.play.cluster.socket(Role::Storage);
        http::call(&socket, "POST", &format!("/v1/jobs/{job}/cancel"), None).is_ok()
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
                let stage = self.stage(job);
                hit = if self.cancel(job) { stage } else { NOBODY.to_owned() };
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
            Deed::Deadman(role) => hit = self.kill(&self.deadman(role), job)?,
            Deed::DeadmanHangs(role) => {
                hit = self.stage(job);
                let deadman = Prey::noted(&self.deadman(role)).context("the dead-man does not run")?;
                anyhow::ensure!(deadman.signal(Signal::STOP), "the dead-man ended");
                self.nap(fault.lasts)?;
                // One that was killed meanwhile, because it hung, has nothing to go on with.
                deadman.signal(Signal::CONT);
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
                return Ok(NOBODY.to_owned());
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

    /// The note of a machine's dead-man.
    pub(super) fn deadman(&self, role: Role) -> PathBuf {
        self.play.cluster.root(role).join("run/muskox/deadman.process")
    }

    /// What the job came to, and how many recoveries followed.
    fn read_jobs(&self, round: &mut Round, job: &str, revision: u64) {
        let record = self.job(job);
        let outcome = &record["outcome"];
        round.outcome = outcome["end"].as_str().unwrap_or("open").to_owned();
        round.why = outcome["why"].as_str().map(str::to_owned);
        round.total_ms = record["spent_ms"].as_u64().unwrap_or_default();
        round.receipt_blackout_ms = record["plan"]["receipt"]["cpu_blackout_ms"].as_u64();
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

fn ms(us: u64) -> f64 {
    f64::from(u32::try_from(us).unwrap_or(u32::MAX)) / 1000.0
}
