//! A VM starts from its disk: elsewhere because its host died, in place because its QEMU did, or for the first time.
//!
//! ```text
//!  ══▶ fence: raise to the new epoch at every target, and make sure of everybody who might still run it
//!         │ all acknowledged, and then, at one moment, all made sure of
//!         ▼ start at the destination ── it runs ──▶ done
//!         └ it cannot ══▶ fence again, for the next host, at the next epoch ── none left ──▶ lost
//!  a target knows a newer epoch than the store ──▶ lost: `vm adopt` is an operator's
//! ```
//!
//! The owner in the store is the destination from the first transaction on: with the raise that names it, one
//! transaction and one round of acknowledgements lie between the verdict and the start.

use crate::job::{Action, Outcome, Ownership, Plan, Turn, View};
use crate::store::UnknownFields;
use serde::{Deserialize, Serialize};
use units::sabotage::{Bug, planted};
use units::{HostKey, Millis};

/// A raise drains for at most 1.5 s (the gate); longer is worth telling.
const FENCE_TOLD_MS: Millis = Millis(3_000);
/// A verdict by votes takes 3 s; whoever is still in doubt after this long is switched off, if possible.
const POWER_AFTER_MS: Millis = Millis(5_000);
/// Starting QEMU takes 1.5 s at worst by the timing model; after so long another host is tried.
const START_MAX_MS: Millis = Millis(20_000);

/// A recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// Where it is to run.
    pub to: HostKey,
    /// Where else it could.
    pub spare: Vec<HostKey>,
    /// Whether hosts can be switched off.
    pub power: bool,
    /// How many hosts were tried before this one.
    pub tried: u32,
    /// What a newer version wrote beside it.
    #[serde(flatten)]
    pub unknown_fields: UnknownFields,
}

type Step = Turn<Recovery>;

impl Recovery {
    /// The job and the ownership it begins with, for [`crate::job::Run::create`]: the next epoch, owned by `to`; whoever
    /// had it is to be made sure of. `to` may be the host that had it.
    #[must_use]
    pub fn new(owned: &Ownership, to: HostKey, spare: Vec<HostKey>, power: bool) -> (Self, Ownership) {
        let unknown_fields = UnknownFields::default();
        (Self { to, spare, power, tried: 0, unknown_fields }, next_epoch(owned, to))
    }

    /// Hosts that may still run it. Not the destination: that one destroys what it has of older epochs before it starts.
    fn doubtful(&self, view: &View<'_>) -> Vec<HostKey> {
        if planted(Bug::StartWithoutProof) {
            return Vec::new();
        }
        let suspects = view.owned.unsettled.iter().copied().filter(|host| *host != self.to);
        suspects.filter(|host| !view.facts.settled(*host, view.now)).collect()
    }

    /// The next host, at the next epoch; without one, the end.
    fn elsewhere(&self, view: &View<'_>, why: &str) -> Step {
        match self.spare.split_first() {
            Some((to, spare)) => {
                let next = Self { to: *to, spare: spare.to_vec(), tried: self.tried + 1, ..self.clone() };
                let owned = next_epoch(view.owned, *to);
                match Step::owning(next, owned) {
                    Turn::Move(step) => Turn::Move(crate::job::Move { why: Some(why.to_owned()), ..step }),
                    other => other,
                }
            }
            None => Turn::end(self.clone(), view.owned, Outcome::Lost { why: why.to_owned() }),
        }
    }
}

impl Plan for Recovery {
    fn kind(&self) -> &'static str {
        "recover"
    }

    fn stage(&self) -> &'static str {
        "fence and start"
    }

    fn turn(&self, view: &View<'_>) -> Step {
        let facts = view.facts;
        if facts.gone(self.to, view.now) {
            return self.elsewhere(view, "the destination died");
        }
        if let Some(why) = facts.refused_raise() {
            // The store is older than what runs: with newer and newer epochs somebody healthy would be fenced in the end.
            return Turn::end(
                self.clone(),
                view.owned,
                Outcome::Lost { why: format!("a target refused the epoch: {why}") },
            );
        }
        if let Some(why) = facts.refused_start(self.to) {
            return self.elsewhere(view, why);
        }
        let (host, epoch) = (self.to, view.owned.epoch);
        let raise = Action::Raise { epoch, owner: Some(host) };
        let fenced = facts.is_done(&raise);
        if fenced && facts.runs_at(host, epoch) {
            return Turn::end(self.clone(), &view.owned.with_unsettled(Vec::new()), Outcome::Done);
        }
        let doubtful = self.doubtful(view);
        let proven = doubtful.is_empty();
        if (fenced || planted(Bug::StartBeforeAck)) && proven {
            if view.in_stage >= START_MAX_MS && !self.spare.is_empty() {
                return self.elsewhere(view, "the destination did not start it in time");
            }
            let mut actions = vec![Action::Start { host, epoch }, Action::Ask { host }];
            if !fenced {
                // Only with the planted bug.
                actions.push(raise);
            }
            return Turn::Do(actions);
        }
        let mut actions = vec![raise, Action::Ask { host }];
        for host in &doubtful {
            actions.extend([Action::Destroy { host: *host }, Action::Ask { host: *host }]);
            if self.power && view.in_stage >= POWER_AFTER_MS {
                actions.push(Action::PowerOff { host: *host });
            }
        }
        match () {
            () if !fenced && view.in_stage >= FENCE_TOLD_MS => {
                Turn::Blocked("fence: not every target has acknowledged the new epoch", actions)
            }
            () if fenced && view.in_stage >= POWER_AFTER_MS => {
                Turn::Blocked("a host that may still run it can neither be reached nor proven dead", actions)
            }
            () => Turn::Do(actions),
        }
    }
}

fn next_epoch(owned: &Ownership, to: HostKey) -> Ownership {
    let epoch = owned.promised.max(owned.epoch).next();
    let unsettled = owned.suspects().into_iter().filter(|host| *host != to).collect();
    owned.moved(epoch, Some(to), unsettled)
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::job::{Facts, Guest, Report};
    use units::{Epoch, Moment};

    /// Goal: a start is over when the guest runs at the recovery's own epoch, and at no other: a host that answers "it runs"
    /// before it has destroyed what it had of an older epoch ends nothing. Method: each answer to a fenced start in place.
    #[test]
    fn a_guest_of_an_older_epoch_ends_no_start() {
        let host = HostKey([1; 32]);
        let owned = Ownership::new("web1".parse().expect("a name"), Vec::new()).expect("no volumes");
        let owned = owned.moved(Epoch(5), Some(host), Vec::new());
        let (plan, owned) = Recovery::new(&owned, host, Vec::new(), false);
        assert_eq!(owned.epoch, Epoch(6));
        let turn = |epoch| {
            let mut facts = Facts::default();
            facts.hear(Report::Done(Action::Raise { epoch: Epoch(6), owner: Some(host) }));
            facts.hear(Report::Guest { host, guest: Guest::Running, epoch });
            let (in_stage, now) = (Millis(0), Moment(0));
            plan.turn(&View { owned: &owned, facts: &facts, cancel: false, late: false, in_stage, now })
        };
        for other in [None, Some(Epoch(5)), Some(Epoch(7))] {
            assert!(
                matches!(turn(other), Turn::Do(actions) if actions.contains(&Action::Start { host, epoch: Epoch(6) }))
            );
        }
        assert!(matches!(turn(Some(Epoch(6))), Turn::Move(step) if step.outcome == Some(Outcome::Done)));
    }

    /// Goal: a target that knows a newer epoch ends a recovery; what only the destination refuses goes on elsewhere. Method:
    /// both refusals, with a spare.
    #[test]
    fn a_refused_epoch_is_not_tried_higher() {
        let [host, spare] = [1, 2].map(|n| HostKey([n; 32]));
        let owned = Ownership::new("web1".parse().expect("a name"), Vec::new()).expect("no volumes");
        let (plan, owned) = Recovery::new(&owned, host, vec![spare], false);
        let turn = |action| {
            let mut facts = Facts::default();
            facts.hear(Report::Refused(action, "no".to_owned()));
            let (in_stage, now) = (Millis(0), Moment(0));
            match plan.turn(&View { owned: &owned, facts: &facts, cancel: false, late: false, in_stage, now }) {
                Turn::Move(step) => (step.owned.map(|owned| owned.epoch), step.outcome.is_some()),
                _ => panic!("it goes on as if nothing were refused"),
            }
        };
        let epoch = owned.epoch;
        assert_eq!(turn(Action::Raise { epoch, owner: Some(host) }), (Some(epoch), true));
        assert_eq!(turn(Action::Start { host, epoch }), (Some(epoch.next()), false));
    }
}
