//! The play: the steps of the demo in their order. Each writes what it did and what it was told into the evidence; what
//! it came to is computed from there.
//!
//! The VM has a host it is on (`here`) and one it is not on (`there`): faults hit the first, so every round can begin on
//! either.

mod faults;
mod finish;
mod outages;
mod prepare;

use super::cluster::Cluster;
use super::evidence::{Cause, Step, What, Writer, now_us};
use super::feed::{Feed, Seen};
use super::screen::{Screen, Status};
use super::watch::Watch;
use crate::ledger::Ledger;
use crate::machine::Role;
use anyhow::Context;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The VM.
pub const VM: &str = "web1";
/// Its first volume; the guest's system and records.
pub const ROOT: &str = "web1";
/// Its second one, which the rogue writer is after.
pub const CANARY: &str = "web1-canary";
/// The pool.
pub const POOL: &str = "tank";
/// Where the guest is found.
pub const GUEST_IP: &str = "10.77.4.100";
/// A failover takes seconds; this is when something is wrong.
const FAILOVER_MAX: Duration = Duration::from_secs(60);
/// A guest boots in less than 15 s, on a machine that does nothing else.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// A host that stood still, was alone or is new votes nobody dead for 30 s after 10 s at most (docs/rfd/0007-witness.md).
const WITNESS_AGAIN: Duration = Duration::from_secs(90);

/// What a play is given.
pub struct Props {
    /// The cluster, not yet founded.
    pub cluster: Cluster,
    /// Where evidence goes.
    pub writer: Arc<Writer>,
    /// Where people look.
    pub screen: Screen,
    /// The guest's image.
    pub image: PathBuf,
    /// For what is of no use after the run.
    pub folder: PathBuf,
    /// What is put on the machine is written here.
    pub ledger: Arc<Ledger>,
    /// Decides what is random, such as the order of ports.
    pub seed: u64,
    /// How often the steps of a round are done.
    pub rounds: u32,
    /// The planted bug.
    pub sabotage: Option<String>,
    /// How often the store is looked at.
    pub feed_every: Duration,
}

/// A demo under way.
pub struct Play {
    pub(crate) cluster: Cluster,
    pub(crate) writer: Arc<Writer>,
    pub(crate) screen: Screen,
    image: PathBuf,
    seed: u64,
    rounds: u32,
    sabotage: Option<String>,
    pub(crate) feed: Feed,
    watch: Option<Watch>,
    keys: BTreeMap<&'static str, String>,
    pub(crate) here: Role,
    pub(crate) there: Role,
    faults: u32,
    migrations: u32,
    /// Disks of the pool, and the one that waits.
    members: [usize; 2],
    spare: usize,
    begun_us: u64,
    /// What the present step came to, for people.
    pub(crate) outcome: String,
    pool_text: Option<String>,
    folder: PathBuf,
    ledger: Arc<Ledger>,
}

impl Play {
    /// Begins.
    ///
    /// # Errors
    /// When the store's watcher cannot be started.
    pub fn new(props: Props) -> anyhow::Result<Self> {
        let Props { cluster, writer, screen, image, folder, ledger, seed, rounds, sabotage, feed_every } = props;
        let feed = Feed::start(cluster.socket(Role::Storage), Arc::clone(&writer), feed_every)?;
        let (here, there, keys) = (Role::Host1, Role::Host2, BTreeMap::new());
        let (watch, faults, migrations) = (None, 0, 0);
        let (members, spare, begun_us) = ([0, 1], 2, now_us());
        Ok(Self {
            cluster,
            writer,
            screen,
            image,
            seed,
            rounds,
            sabotage,
            feed,
            watch,
            keys,
            here,
            there,
            faults,
            migrations,
            members,
            spare,
            begun_us,
            outcome: String::new(),
            pool_text: None,
            folder,
            ledger,
        })
    }

    /// All of it. A step that cannot be done ends the play; what was seen until then is evidence all the same.
    ///
    /// # Errors
    /// What ended it.
    pub fn run(mut self) -> anyhow::Result<()> {
        let played = self.acts();
        self.end(played)
    }

    /// Ends what watches, after `played`.
    ///
    /// # Errors
    /// What `played` came to, or evidence that could not be written.
    pub(crate) fn end(mut self, played: anyhow::Result<()>) -> anyhow::Result<()> {
        if played.is_err() {
            self.keep_what_is_known();
        }
        let Self { feed, watch, .. } = self;
        let watched = watch.map_or(Ok(()), Watch::end);
        played.and(feed.end()).and(watched)
    }

    fn acts(&mut self) -> anyhow::Result<()> {
        self.step(Step::Cluster, 1, Self::found)?;
        self.step(Step::Pool, 1, Self::pool)?;
        self.step(Step::Import, 1, Self::import)?;
        self.step(Step::Start, 1, Self::start)?;
        if self.sabotage.is_some() {
            // What the four bugs spoil shows here; the rest of a round would only take its time.
            self.step(Step::Migrate, 1, Self::migrate)?;
            self.step(Step::Freeze, 1, Self::freeze)?;
            self.step(Step::Cut, 1, Self::cut)?;
            return self.step(Step::Check, 1, Self::check);
        }
        for round in 1..=self.rounds {
            self.step(Step::Migrate, round, Self::migrate)?;
            self.step(Step::Disk, round, Self::disk)?;
            self.step(Step::Poweroff, round, Self::poweroff)?;
            self.step(Step::Rejoin, round, Self::rejoin)?;
            self.step(Step::Freeze, round, Self::freeze)?;
            self.step(Step::Cut, round, Self::cut)?;
            self.step(Step::Switch, round, Self::switch)?;
            self.step(Step::Storage, round, Self::storage)?;
        }
        self.step(Step::Check, 1, Self::check)
    }

    fn step(
        &mut self,
        step: Step,
        round: u32,
        work: impl FnOnce(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.writer.event(What::Phase { step, round })?;
        let of = if step.is_repeated() && self.rounds > 1 {
            format!(" ({round} of {})", self.rounds)
        } else {
            String::new()
        };
        self.screen.step(&format!("{}{of}", step.title()));
        self.outcome.clear();
        match work(self) {
            Ok(()) => {
                self.writer.event(What::Done { step, round })?;
                self.screen.done(&self.outcome);
                Ok(())
            }
            Err(error) => {
                let text = format!("{error:#}");
                self.writer.event(What::Failed { step, round, text: text.clone() })?;
                self.screen.failed(&text);
                Err(error)
            }
        }
    }

    /// A line for people and for the evidence.
    fn note(&self, text: &str) -> anyhow::Result<()> {
        self.writer.event(What::Note { text: text.to_owned() })?;
        self.screen.note(text);
        Ok(())
    }

    pub(crate) fn watch(&self) -> &Watch {
        self.watch.as_ref().expect("the guest is watched from its start on")
    }

    /// Waits, and keeps the live line alive meanwhile.
    pub(crate) fn wait(
        &mut self,
        patience: Duration,
        what: &str,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> anyhow::Result<()> {
        let (begun, stop) = (now_us(), self.cluster.stop.clone());
        loop {
            if done(self) {
                return Ok(());
            }
            stop.nap(Duration::from_millis(10))?;
            self.cluster.check_lives()?;
            let waited = Duration::from_micros(now_us() - begun);
            anyhow::ensure!(waited < patience, "{what}: not within {} s", patience.as_secs());
            self.live();
        }
    }

    pub(crate) fn nap(&mut self, time: Duration) -> anyhow::Result<()> {
        let until = now_us() + u64::try_from(time.as_micros()).expect("naps are short");
        self.wait(time + Duration::from_secs(5), "the time passes", |_| now_us() >= until)
    }

    fn live(&self) {
        let Some(watch) = &self.watch else { return };
        let owned = self.feed.object(&format!("/epoch/vm/{VM}"));
        let epoch = owned.as_ref().and_then(|seen| seen.value["epoch"].as_u64());
        let owner = owned.and_then(|seen| self.name_of(seen.value["owner"].as_str()?));
        self.screen.status(Status {
            records_per_s: Some(watch.acked_a_second()),
            acked: watch.acked(),
            host: owner.map(str::to_owned),
            epoch,
            pool: self.pool_text.clone(),
            probe_ms: watch.silent_ms(),
        });
    }

    pub(crate) fn name_of(&self, key: &str) -> Option<&'static str> {
        self.keys.iter().find(|(_, of)| of.as_str() == key).map(|(name, _)| *name)
    }

    pub(crate) fn key_of(&self, role: Role) -> &str {
        self.keys.get(role.name()).map_or("", String::as_str)
    }

    /// A fault begins now; its number and the moment.
    fn inject(&mut self, cause: Cause, host: Option<Role>) -> anyhow::Result<u32> {
        self.faults += 1;
        let host = host.map(|role| role.name().to_owned());
        let what = What::Inject { fault: self.faults, cause, host, revision: self.feed.revision() };
        self.writer.event(what)?;
        Ok(self.faults)
    }

    fn settled(&mut self, fault: u32) -> anyhow::Result<()> {
        let revision = self.feed.revision();
        self.writer.event(What::Settled { fault, revision })?;
        Ok(())
    }

    fn console(&self, role: Role) -> PathBuf {
        self.cluster.root(role).join(format!("run/muskox/vm/{VM}/console.log"))
    }

    /// Waits for the failover of a fault away from `here`, writes down when each part of it was seen, and takes note of
    /// where the VM is now.
    fn fail_over(&mut self, fault: u32, revision: u64) -> anyhow::Result<()> {
        let (old, new) = (self.here, self.there);
        let (to, from) = (self.key_of(new).to_owned(), self.key_of(old).to_owned());
        let boot = self.watch().boot();
        let mut verdict = None;
        self.wait(FAILOVER_MAX, "the verdict on the host is recorded", |play| {
            verdict = play.feed.first_after(revision, is_recovery);
            verdict.is_some()
        })?;
        let verdict = verdict.context("waited for above")?;
        self.writer.event_at(verdict.at_us, What::Verdict { fault })?;
        let mut running = None;
        self.wait(FAILOVER_MAX, "the VM runs elsewhere", |play| {
            running = play.feed.first_after(revision, |seen| runs_at(seen, new.name()));
            running.is_some()
        })?;
        let running = running.context("waited for above")?;
        let owned = self.feed.object(&format!("/epoch/vm/{VM}")).context("the VM has no owner in the store")?;
        anyhow::ensure!(
            owned.value["owner"] == to.as_str() && to != from,
            "the VM's owner is {}",
            owned.value["owner"]
        );
        let epoch = owned.value["epoch"].as_u64().unwrap_or_default();
        self.fenced(fault, epoch)?;
        let host = new.name().to_owned();
        self.writer.event_at(running.at_us, What::Running { host, epoch, fault: Some(fault) })?;
        self.note(&format!("{} has it at epoch {epoch}; the guest boots", new.name()))?;
        self.wait(ANSWER_MAX, "the guest works again", |play| play.watch().boot() != boot)?;
        (self.here, self.there) = (new, old);
        Ok(())
    }

    /// When each target acknowledged, by its own log.
    fn fenced(&self, fault: u32, epoch: u64) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(self.target_state().join("grants.jsonl")).unwrap_or_default();
        for line in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let is_grant = line["kind"].as_str().is_none_or(|kind| kind == "grant" || kind == "raise");
            if is_grant && line["epoch"].as_u64() == Some(epoch) {
                let at_us = line["mono_us"].as_u64().context("the grant log has no mono_us")?;
                let volume = line["volume"].as_str().unwrap_or_default().to_owned();
                let machine = Role::Storage.name().to_owned();
                self.writer.event_at(at_us, What::Fenced { fault, machine, volume, epoch })?;
            }
        }
        Ok(())
    }

    fn target_state(&self) -> PathBuf {
        self.cluster.root(Role::Storage).join("var/lib/muskox/target")
    }

    /// After a failure: logs and documents that help to understand it.
    pub(crate) fn keep_what_is_known(&mut self) {
        let _ = self.keep_documents();
    }
}

/// A recovery was begun.
fn is_recovery(seen: &Seen) -> bool {
    seen.key.starts_with("/job/") && seen.value["plan"]["kind"] == "recover"
}

/// The VM was seen to run there.
fn runs_at(seen: &Seen, host: &str) -> bool {
    let facts = seen.value["facts"].as_array();
    let last = facts.and_then(|facts| facts.last());
    seen.key == format!("/fact/{VM}") && last.is_some_and(|fact| fact["kind"] == "started" && fact["host"] == host)
}
