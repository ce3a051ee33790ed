//! The witness's side: grant renewals, count silence, vote.
//!
//! ```text
//!  alone ── hears a majority ──▶ grace (30 s) ──▶ counting
//!    ▲───────── hears no majority ──┴────────────────┘      not scheduled: silence starts again from zero
//! ```

use super::{LeaseTiming, WITNESSES_MIN, majority};
use std::collections::BTreeMap;
use units::{HostKey, Millis, Moment};

/// The answer to a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Granted.
    Granted,
    /// This witness voted the host dead; nothing is granted for this long.
    Refused(Millis),
}

/// The answer to "is it dead?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    /// Silent for the detection time; nothing is granted to it for `valid_for`.
    Dead {
        /// To be counted from before the question was sent.
        valid_for: Millis,
    },
    /// Heard this long ago.
    Alive {
        /// How long.
        silent_for: Millis,
    },
    /// This witness knows nothing.
    Unsure(Unsure),
}

/// Why a witness knows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsure {
    /// It hears no majority of witnesses.
    Alone,
    /// It heard none until recently and gives everybody this much more time.
    Grace(Millis),
    /// Fewer than three witnesses are configured.
    TooFew,
}

/// One witness.
#[derive(Clone, Debug)]
pub struct Witness {
    me: HostKey,
    peers: Vec<HostKey>,
    timing: LeaseTiming,
    heard: BTreeMap<HostKey, Moment>,
    votes: BTreeMap<HostKey, Moment>,
    phase: Phase,
    /// Silence before this moment is not counted.
    counting_since: Moment,
    ticked: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Alone,
    Grace { until: Moment },
    Counting,
}

impl Witness {
    /// A witness that just started: it has heard nobody.
    #[must_use]
    pub fn new(me: HostKey, witnesses: &[HostKey], timing: LeaseTiming, now: Moment) -> Self {
        Self {
            me,
            peers: witnesses.to_vec(),
            timing,
            heard: BTreeMap::new(),
            votes: BTreeMap::new(),
            phase: Phase::Alone,
            counting_since: now,
            ticked: now,
        }
    }

    /// Anything authentic from a machine: a renewal, another witness's greeting, a storage heartbeat.
    pub fn heard(&mut self, from: HostKey, now: Moment) {
        self.heard.insert(from, now);
    }

    /// A host asks for its lease.
    pub fn renew(&mut self, host: HostKey, now: Moment) -> Renewal {
        self.tick(now);
        match self.votes.get(&host) {
            Some(until) if now < *until => Renewal::Refused(until.since(now)),
            _ => {
                self.votes.remove(&host);
                self.heard(host, now);
                Renewal::Granted
            }
        }
    }

    /// Somebody who would decide asks about a host.
    pub fn vote(&mut self, host: HostKey, now: Moment) -> Vote {
        self.tick(now);
        if self.peers.len() < WITNESSES_MIN {
            return Vote::Unsure(Unsure::TooFew);
        }
        match self.phase {
            Phase::Alone => return Vote::Unsure(Unsure::Alone),
            Phase::Grace { until } => return Vote::Unsure(Unsure::Grace(until.since(now))),
            Phase::Counting => {}
        }
        let last = self.heard.get(&host).map_or(self.counting_since, |heard| (*heard).max(self.counting_since));
        let silent_for = now.since(last);
        if silent_for < self.timing.detect_ms || host == self.me {
            return Vote::Alive { silent_for };
        }
        self.votes.insert(host, now + self.timing.vote_hold_ms);
        Vote::Dead { valid_for: self.timing.vote_hold_ms }
    }

    /// To be called at least every heartbeat; a late call discards the silence counted so far.
    pub fn tick(&mut self, now: Moment) {
        let late = now.since(self.ticked);
        self.ticked = now;
        if late.0 > self.timing.heartbeat_ms.0 + self.timing.heartbeat_ms.0 / 2 {
            self.counting_since = now;
            return;
        }
        self.phase = match (self.hears_majority(now), self.phase) {
            (false, _) => Phase::Alone,
            (true, Phase::Alone) => Phase::Grace { until: now + self.timing.rejoin_grace_ms },
            (true, Phase::Grace { until }) if now >= until => Phase::Counting,
            (true, phase) => phase,
        };
        if self.phase == Phase::Alone {
            self.counting_since = now;
        }
    }

    fn hears_majority(&self, now: Moment) -> bool {
        let young = |peer: &&HostKey| {
            **peer == self.me || self.heard.get(peer).is_some_and(|heard| now.since(*heard) < self.timing.detect_ms)
        };
        self.peers.iter().filter(young).count() >= majority(self.peers.len())
    }
}
