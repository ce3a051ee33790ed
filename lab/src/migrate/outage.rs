//! Nodes die. Guests and their disks are the business of other processes, which must not notice.

use super::Moves;
use super::table::Outage;
use crate::demo::cluster::MEMBERS;
use crate::demo::now_us;
use crate::demo::play::VM;
use crate::machine::Role;
use std::path::PathBuf;
use std::time::Duration;

/// What [`Outage::nodes`] says when all are dead.
pub const EVERY: &str = "all";
/// How long every node is dead.
const DEAD: Duration = Duration::from_secs(20);
/// A single one comes back within this.
const BACK_MAX_MS: u64 = 2_000;
/// A guest that goes on writes a record every 20 ms; more than this between two would be a pause.
const GAP_MAX_US: u64 = 1_000_000;
const LOOK_AGAIN: Duration = Duration::from_millis(5);
const REST_MAX: Duration = Duration::from_secs(60);
/// Dead-men are asked this often meanwhile.
const ASK_EVERY_US: u64 = 2_000_000;

/// What must be the same before and after.
#[derive(Debug, PartialEq, Eq)]
struct Same {
    /// Each process of the data plane and what its note says.
    processes: Vec<(PathBuf, String)>,
    host: &'static str,
    owned: String,
    boot: Option<String>,
    errors: u64,
}

impl Moves {
    /// Every node is killed, and for 20 s nobody thinks; then they come back, find everything as it is, and can move it.
    ///
    /// # Errors
    /// When the cluster does not come to rest.
    pub(super) fn every_node_dies(&mut self) -> anyhow::Result<()> {
        self.outage(&MEMBERS, EVERY, DEAD)?;
        // Who took everything over can move it.
        self.play.migrate()?;
        self.play.screen.note(&format!("and it moves: {}", self.play.outcome));
        self.come_to_rest(REST_MAX)
    }

    /// One node is killed at a random moment and comes back soon.
    ///
    /// # Errors
    /// When the cluster does not come to rest.
    pub(super) fn a_node_dies(&mut self) -> anyhow::Result<()> {
        let moment = Duration::from_millis(self.dice.below(1_000));
        self.nap(moment)?;
        let role = MEMBERS[usize::try_from(self.dice.below(3)).expect("there are three")];
        let dead = Duration::from_millis(self.dice.below(BACK_MAX_MS));
        self.outage(&[role], role.name(), dead)
    }

    fn outage(&mut self, roles: &[Role], nodes: &str, dead: Duration) -> anyhow::Result<()> {
        self.play.screen.step(&format!("kill -9 of node: {nodes}, for {} ms", dead.as_millis()));
        self.note(&format!("kill -9 of node: {nodes}"))?;
        let before = self.same();
        let mut outage = Outage {
            nodes: nodes.to_owned(),
            dead_ms: u64::try_from(dead.as_millis()).expect("it is short"),
            longest_gap_ms: 0,
            longest_still_ms: 0,
            wrong: Vec::new(),
        };
        let since_us = now_us();
        for role in roles {
            self.play.cluster.kill_node(*role)?;
        }
        self.look_on(dead, since_us, &mut outage)?;
        let begun_us = now_us();
        for role in roles {
            self.play.cluster.start_node(*role)?;
        }
        let rest = self.come_to_rest(REST_MAX);
        if let Err(why) = &rest {
            outage.wrong.push(format!("not at rest: {why:#}"));
        }
        let after = self.same();
        if before != after {
            outage.wrong.push(format!("something changed: {before:?} became {after:?}"));
        }
        self.note(&outage.line())?;
        let back = format!("{}; all as it was after {} ms", outage.line(), (now_us() - begun_us) / 1000);
        if outage.wrong.is_empty() {
            self.play.screen.done(&back);
        } else {
            self.play.screen.failed(&outage.line());
        }
        self.outages.push(outage);
        rest
    }

    /// Watches the guest while nodes are dead.
    fn look_on(&mut self, dead: Duration, since_us: u64, outage: &mut Outage) -> anyhow::Result<()> {
        let until_us = since_us + u64::try_from(dead.as_micros()).expect("it is short");
        let (mut moved_us, mut asked_us) = (now_us(), since_us);
        let (mut gap_us, mut still_us) = (0, 0);
        while now_us() < until_us {
            self.play.cluster.check_lives()?;
            let now = now_us();
            gap_us = self.play.watch().acked_at_us().map_or(0, |at_us| now.saturating_sub(at_us)).max(gap_us);
            if !self.play.watch().moving().is_empty() {
                moved_us = now;
            }
            still_us = (now - moved_us).max(still_us);
            if now - asked_us > ASK_EVERY_US {
                asked_us = now;
                self.ask_dead_men(outage);
            }
            self.nap(LOOK_AGAIN)?;
        }
        (outage.longest_gap_ms, outage.longest_still_ms) = (gap_us / 1000, still_us / 1000);
        if gap_us > GAP_MAX_US {
            outage.wrong.push(format!("no record for {} ms", outage.longest_gap_ms));
        }
        if still_us > GAP_MAX_US {
            outage.wrong.push(format!("the guest stood still for {} ms", outage.longest_still_ms));
        }
        Ok(())
    }

    /// Each dead-man lives and keeps its lease.
    fn ask_dead_men(&self, outage: &mut Outage) {
        for role in MEMBERS {
            let status = self.play.cluster.deadman_status(role);
            let runs =
                status.as_ref().is_ok_and(|status| status["standing"]["running"].as_u64().is_some_and(|left| left > 0));
            if !runs {
                let said = status.map_or_else(|error| format!("{error:#}"), |status| status["standing"].to_string());
                outage.wrong.push(format!("the dead-man of {}: {said}", role.name()));
            }
        }
    }

    fn same(&self) -> Same {
        let root = |role: Role| self.play.cluster.root(role);
        let here = self.play.here;
        let mut notes = vec![self.qemu(here), self.initiator(here)];
        notes.push(root(Role::Storage).join("run/muskox/target.process"));
        notes.extend(MEMBERS.map(|role| root(role).join("run/muskox/deadman.process")));
        let read = |path: PathBuf| {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            (path, text.trim().to_owned())
        };
        let owned = self.play.feed.object(&format!("/epoch/vm/{VM}")).map(|seen| seen.value.to_string());
        Same {
            processes: notes.into_iter().map(read).collect(),
            host: here.name(),
            owned: owned.unwrap_or_default(),
            boot: self.play.watch().boot().map(|boot| boot.to_string()),
            errors: self.play.watch().errors(),
        }
    }
}
