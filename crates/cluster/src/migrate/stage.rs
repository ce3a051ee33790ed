//! The stages of a migration and what each one does with what it hears.
//!
//! ```text
//!  prepare ─▶ copy ─▶ hand over ═════▶ commit ─▶ clear ─▶ done (runs at the destination)
//!     │         │    (e+1, nobody)  (e+2, destination)      └▶ lost: the destination died, a recovery is due
//!     └──▶ undo ┘         ▼
//!           │          retreat ══▶ give back ─▶ undone (runs at the source)
//!           ▼             │      (≥ e+3, source)
//!    undone, or lost   lost: the source died too          ═▶ changes the owner
//! ```

use super::{Limits, Receipt};
use crate::job::{Action, Guest, Outcome, Ownership, Plan, Turn, View};
use crate::store::UnknownFields;
use serde::{Deserialize, Serialize};
use units::sabotage::{Bug, planted};
use units::{Epoch, HostKey};

/// Where a migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The destination gets a standby attachment and a QEMU that waits.
    Prepare,
    /// Memory is copied while the guest runs.
    Copy,
    /// Nobody owns the VM; the rest of its memory is sent.
    HandOver,
    /// The destination owns it.
    Commit,
    /// It runs there; the source is cleaned up.
    Clear,
    /// Nothing was closed yet; everything is put back.
    Undo,
    /// The epoch is closed; the destination must be gone before the source gets a new one.
    Retreat,
    /// The source owns it again.
    GiveBack,
}

/// A migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    /// From.
    pub source: HostKey,
    /// To.
    pub destination: HostKey,
    /// Where it is.
    pub stage: Stage,
    /// The epoch that closes the source's.
    pub closing: Epoch,
    /// The one reserved for the destination.
    pub landing: Epoch,
    /// Whether hosts can be switched off.
    pub power: bool,
    /// Why it is being undone.
    pub why: Option<String>,
    /// What it cost.
    pub receipt: Receipt,
    /// What a newer version wrote beside it.
    #[serde(flatten)]
    pub unknown_fields: UnknownFields,
}

type Step = Turn<Migration>;

impl Migration {
    /// A migration of a VM that runs at its owner, and the ownership with the promised epochs: for
    /// [`crate::job::Run::create`].
    ///
    /// # Panics
    /// If nobody owns the VM, or the destination does: pre-flight refuses that.
    #[must_use]
    pub fn new(owned: &Ownership, destination: HostKey, power: bool) -> (Self, Ownership) {
        let source = owned.owner.expect("pre-flight saw an owner");
        assert!(source != destination, "pre-flight saw two hosts");
        let closing = owned.promised.max(owned.epoch).next();
        let landing = closing.next();
        let (stage, receipt) = (Stage::Prepare, Receipt::default());
        let (why, unknown_fields) = (None, UnknownFields::default());
        let plan = Self { source, destination, stage, closing, landing, power, why, receipt, unknown_fields };
        (plan, Ownership { promised: landing, ..owned.clone() })
    }

    fn at(&self, stage: Stage) -> Self {
        Self { stage, ..self.clone() }
    }

    fn failing(&self, stage: Stage, why: &str) -> Self {
        Self { stage, why: Some(why.to_owned()), ..self.clone() }
    }

    /// The same with what was measured of it so far.
    fn measured(&self, view: &View<'_>) -> Self {
        let mut next = self.clone();
        next.receipt.measured.merge(view.facts.measured());
        next
    }

    fn why(&self) -> String {
        self.why.clone().unwrap_or_else(|| "no reason was recorded".to_owned())
    }

    fn prepare(&self, view: &View<'_>) -> Step {
        if let Some(why) = self.trouble(view, view.in_stage >= Limits::PREPARE) {
            return Turn::because(self.failing(Stage::Undo, &why), why);
        }
        let (host, epoch) = (self.destination, self.landing);
        let reserve = Action::Reserve { epoch, host };
        match view.facts.guest(host) {
            _ if !view.facts.is_done(&reserve) => Turn::Do(vec![reserve]),
            Some(Guest::Incoming) => Turn::to(self.at(Stage::Copy)),
            _ => Turn::Do(with_questions(view, vec![Action::Incoming { host, epoch }], &[host])),
        }
    }

    fn copy(&self, view: &View<'_>) -> Step {
        if let Some(why) = self.trouble(view, false) {
            return Turn::because(self.failing(Stage::Undo, &why), why);
        }
        let (host, destination) = (self.source, self.destination);
        if view.facts.guest(host) == Some(Guest::PreSwitchover) {
            let unsettled = vec![host, destination];
            let mut next = self.at(Stage::HandOver);
            next.receipt.copy_ms = Some(view.in_stage);
            return Turn::owning(next, view.owned.moved(self.closing, None, unsettled));
        }
        let mut actions = vec![Action::Migrate { host, destination }, Action::Watch { host: destination }];
        actions.push(Action::Watch { host });
        Turn::Do(with_questions(view, actions, &[host, destination]))
    }

    /// Why a migration that closed nothing yet cannot go on.
    fn trouble(&self, view: &View<'_>, stage_is_late: bool) -> Option<String> {
        let facts = view.facts;
        let why = match () {
            () if view.cancel => "it was cancelled",
            () if view.late => "its deadline passed while the memory was being copied",
            () if stage_is_late => "the destination was not ready in time",
            // It says more than that the other end is gone.
            () if facts.refused().is_some() => return facts.refused().map(|why| format!("it was refused: {why}")),
            () if facts.settled(self.destination, view.now) => "the destination's QEMU ended",
            () if facts.settled(self.source, view.now) => "the source's QEMU ended",
            () if facts.guest(self.source) == Some(Guest::Stopped) => "the guest was stopped at the source",
            () => return None,
        };
        Some(why.to_owned())
    }

    fn hand_over(&self, view: &View<'_>) -> Step {
        let facts = view.facts;
        let (source, destination) = (facts.guest(self.source), facts.guest(self.destination));
        let left = source == Some(Guest::PostMigrate) || facts.settled(self.source, view.now);
        if let Some(why) = self.failure(view, source) {
            return Turn::because(self.failing(Stage::Retreat, why), why);
        }
        let close = Action::Raise { epoch: self.closing, owner: None };
        let early = planted(Bug::FenceAfterCompletion) && source != Some(Guest::PostMigrate);
        if !facts.is_done(&close) && !early {
            // The source counts how long nobody speaks to it.
            let actions = vec![close, Action::Watch { host: self.source }];
            return fence(view, actions, &[self.source, self.destination]);
        }
        let arrived = destination == Some(Guest::Loaded) || destination == Some(Guest::Running);
        if planted(Bug::ContBeforeCommit) && destination == Some(Guest::Loaded) {
            return Turn::Do(vec![Action::Cont { host: self.destination, epoch: self.landing }]);
        }
        if left && arrived {
            let mut next = self.at(Stage::Commit);
            next.receipt.hand_over_ms = Some(view.in_stage);
            let owned = view.owned.moved(self.landing, Some(self.destination), vec![self.source]);
            return Turn::owning(next, owned);
        }
        let actions = vec![Action::Continue { host: self.source }, Action::Watch { host: self.destination }];
        let mut actions = with_questions(view, actions, &[self.source, self.destination]);
        if self.power && arrived && source.is_none() && view.in_stage >= Limits::POWER {
            actions.push(Action::PowerOff { host: self.source });
        }
        Turn::Do(actions)
    }

    /// Why a hand-over cannot be finished.
    fn failure(&self, view: &View<'_>, source: Option<Guest>) -> Option<&'static str> {
        match source {
            // It resumed by itself: the destination's memory is the past from here on.
            Some(Guest::Running | Guest::Stopped | Guest::Copying) => Some("the source gave up the switch-over"),
            _ if view.facts.settled(self.destination, view.now) => Some("the destination's QEMU ended"),
            _ if view.cancel => Some("it was cancelled"),
            _ if view.in_stage >= Limits::HAND_OVER => Some("the hand-over took too long"),
            _ => None,
        }
    }

    /// Only forward from here.
    fn commit(&self, view: &View<'_>) -> Step {
        let (host, epoch) = (self.destination, self.landing);
        let grant = Action::Raise { epoch, owner: Some(host) };
        if view.facts.settled(host, view.now) {
            let why = "the destination died after it had become the owner".to_owned();
            let suspects = view.owned.with_unsettled(vec![self.source]);
            return Turn::end(self.clone(), &suspects, Outcome::Lost { why });
        }
        if !view.facts.is_done(&grant) {
            return fence(view, vec![grant], &[host]);
        }
        if view.facts.runs_at(host, epoch) {
            let mut next = self.at(Stage::Clear);
            next.receipt.resume_ms = Some(view.in_stage);
            next.receipt.measured.merge(view.facts.measured());
            return Turn::to(next);
        }
        if view.in_stage >= Limits::RESUME {
            return Turn::because(self.at(Stage::Clear), "the destination was not heard to run; it is the owner");
        }
        Turn::Do(with_questions(view, vec![Action::Cont { host, epoch }], &[host]))
    }

    fn clear(&self, view: &View<'_>) -> Step {
        let next = self.measured(view);
        if view.facts.settled(self.source, view.now) {
            return Turn::end(next, &view.owned.with_unsettled(Vec::new()), Outcome::Done);
        }
        if view.in_stage >= Limits::CLEAN {
            // It stays on the list: its host destroys it when it reads who the owner is.
            return Turn::end(next, view.owned, Outcome::Done);
        }
        let mut actions = with_questions(view, vec![Action::Destroy { host: self.source }], &[self.source]);
        if planted(Bug::TargetCleanupAlthoughWon) && view.in_stage >= Limits::ASK {
            actions.push(Action::Destroy { host: self.destination });
        }
        Turn::Do(actions)
    }

    /// The source never lost its epoch.
    fn undo(&self, view: &View<'_>) -> Step {
        let facts = view.facts;
        if facts.settled(self.source, view.now) {
            let why = format!("{}; the source's QEMU is gone", self.why());
            let suspects = view.owned.with_unsettled(vec![self.destination]);
            return Turn::end(self.clone(), &suspects, Outcome::Lost { why });
        }
        let (runs, cleared) = (facts.runs_at(self.source, view.owned.epoch), facts.settled(self.destination, view.now));
        if (runs && cleared) || view.in_stage >= Limits::CLEAN {
            let unsettled = if cleared { Vec::new() } else { vec![self.destination] };
            return Turn::end(
                self.measured(view),
                &view.owned.with_unsettled(unsettled),
                Outcome::Undone { why: self.why() },
            );
        }
        let actions = vec![Action::Cancel { host: self.source }, Action::Destroy { host: self.destination }];
        Turn::Do(with_questions(view, actions, &[self.source, self.destination]))
    }

    fn retreat(&self, view: &View<'_>) -> Step {
        let facts = view.facts;
        if facts.settled(self.source, view.now) {
            let why = format!("{}; the source is gone too", self.why());
            return Turn::end(self.clone(), view.owned, Outcome::Lost { why });
        }
        if facts.settled(self.destination, view.now) {
            let back = view.owned.promised.next();
            let owned = view.owned.moved(back, Some(self.source), Vec::new());
            return Turn::owning(self.at(Stage::GiveBack), owned);
        }
        let hosts = [self.source, self.destination];
        let actions = vec![Action::Destroy { host: self.destination }, Action::Watch { host: self.source }];
        let mut actions = with_questions(view, actions, &hosts);
        if view.in_stage < Limits::POWER {
            return Turn::Do(actions);
        }
        if self.power {
            actions.push(Action::PowerOff { host: self.destination });
        }
        Turn::Blocked("the destination can neither be reached nor proven dead", actions)
    }

    fn give_back(&self, view: &View<'_>) -> Step {
        let (host, epoch) = (self.source, view.owned.epoch);
        let grant = Action::Raise { epoch, owner: Some(host) };
        if view.facts.settled(host, view.now) {
            let why = format!("{}; the source is gone too", self.why());
            return Turn::end(self.clone(), view.owned, Outcome::Lost { why });
        }
        if !view.facts.is_done(&grant) {
            return fence(view, vec![grant, Action::Watch { host }], &[host]);
        }
        if view.facts.runs_at(host, epoch) || view.in_stage >= Limits::RESUME {
            return Turn::end(self.measured(view), view.owned, Outcome::Undone { why: self.why() });
        }
        Turn::Do(with_questions(view, vec![Action::Return { host, epoch }], &[host]))
    }
}

impl Plan for Migration {
    fn kind(&self) -> &'static str {
        "migrate"
    }

    fn stage(&self) -> &'static str {
        match self.stage {
            Stage::Prepare => "prepare",
            Stage::Copy => "copy",
            Stage::HandOver => "hand over",
            Stage::Commit => "commit",
            Stage::Clear => "clear",
            Stage::Undo => "undo",
            Stage::Retreat => "retreat",
            Stage::GiveBack => "give back",
        }
    }

    fn turn(&self, view: &View<'_>) -> Step {
        match self.stage {
            Stage::Prepare => self.prepare(view),
            Stage::Copy => self.copy(view),
            Stage::HandOver => self.hand_over(view),
            Stage::Commit => self.commit(view),
            Stage::Clear => self.clear(view),
            Stage::Undo => self.undo(view),
            Stage::Retreat => self.retreat(view),
            Stage::GiveBack => self.give_back(view),
        }
    }
}

/// A raise that takes long is visible; it is never given up, only overtaken by a higher one.
fn fence(view: &View<'_>, actions: Vec<Action>, hosts: &[HostKey]) -> Step {
    let actions = with_questions(view, actions, hosts);
    if view.in_stage >= Limits::FENCE_TOLD {
        Turn::Blocked("fence: not every target has acknowledged the new epoch", actions)
    } else {
        Turn::Do(actions)
    }
}

/// Hosts that have not answered for a while are asked about at the witnesses.
fn with_questions(view: &View<'_>, mut actions: Vec<Action>, hosts: &[HostKey]) -> Vec<Action> {
    if view.in_stage >= Limits::ASK {
        actions.extend(hosts.iter().map(|host| Action::Ask { host: *host }));
    }
    actions
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::job::{Facts, Report};
    use units::{Millis, Moment};

    /// Goal: a stage that waits for a guest to run waits for it at that stage's epoch: a source that resumed by itself at the
    /// epoch that was closed is still asked to return. Method: each such stage, with the right epoch and with the one before.
    #[test]
    fn a_guest_of_an_older_epoch_ends_no_stage() {
        let (source, destination) = (HostKey([1; 32]), HostKey([2; 32]));
        let first = Ownership::new("web1".parse().expect("a name"), Vec::new()).expect("no volumes");
        let first = first.moved(Epoch(5), Some(source), Vec::new());
        let (plan, promised) = Migration::new(&first, destination, false);
        let cases = [
            (Stage::Undo, source, promised.clone()),
            (Stage::Commit, destination, promised.moved(Epoch(7), Some(destination), vec![source])),
            (Stage::GiveBack, source, promised.moved(Epoch(8), Some(source), Vec::new())),
        ];
        for (stage, host, owned) in cases {
            let moves = |epoch| {
                let mut facts = Facts::default();
                facts.hear(Report::Done(Action::Raise { epoch: owned.epoch, owner: Some(host) }));
                facts.hear(Report::Guest { host: destination, guest: Guest::Absent, epoch: None });
                facts.hear(Report::Guest { host, guest: Guest::Running, epoch });
                let (in_stage, now) = (Millis(0), Moment(0));
                let view = View { owned: &owned, facts: &facts, cancel: false, late: false, in_stage, now };
                matches!(plan.at(stage).turn(&view), Turn::Move(_))
            };
            assert!(moves(Some(owned.epoch)), "{stage:?}");
            assert!(!moves(Some(Epoch(owned.epoch.0 - 1))) && !moves(None), "{stage:?}");
        }
    }
}
