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
    /// This witness voted the host dead, or may have in a life it knows nothing of; nothing is granted for this long.
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
    /// Nothing is granted to anybody before: a former life may have voted.
    grants_from: Moment,
    phase: Phase,
    /// Silence before this moment is not counted.
    counting_since: Moment,
    ticked: Moment,
    /// How often it was not scheduled in time.
    late: u64,
}

/// What a witness's process leaves to its next life, within one boot of the machine. A vote binds the machine, not the
/// process: it must be written down before it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WitnessPast {
    /// Hosts voted dead, and until when the vote binds.
    pub votes: Vec<(HostKey, Moment)>,
    /// Nothing is granted to anybody before.
    pub grants_from: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Alone,
    Grace { until: Moment },
    Counting,
}

impl Witness {
    /// A witness that just started and does not know what it voted before: it grants nothing while such a vote could
    /// still be valid. It has heard nobody.
    #[must_use]
    pub fn new(me: HostKey, witnesses: &[HostKey], timing: LeaseTiming, now: Moment) -> Self {
        let unknown = WitnessPast { votes: Vec::new(), grants_from: now + timing.vote_hold_ms };
        Self::resume(me, witnesses, timing, &unknown, now)
    }

    /// The next life of a witness: bound by the former one's votes. It has heard nobody.
    #[must_use]
    pub fn resume(me: HostKey, witnesses: &[HostKey], timing: LeaseTiming, past: &WitnessPast, now: Moment) -> Self {
        Self {
            me,
            peers: witnesses.to_vec(),
            timing,
            heard: BTreeMap::new(),
            votes: past.votes.iter().copied().collect(),
            grants_from: past.grants_from,
            phase: Phase::Alone,
            counting_since: now,
            ticked: now,
            late: 0,
        }
    }

    /// What the next life has to know.
    #[must_use]
    pub fn past(&self, now: Moment) -> WitnessPast {
        let valid = self.votes.iter().filter(|(_, until)| now < **until);
        WitnessPast { votes: valid.map(|(host, until)| (*host, *until)).collect(), grants_from: self.grants_from }
    }

    /// Other witnesses are configured; what was heard of the kept ones counts on. Two sets that differ by one machine
    /// share a member of every two majorities; where more is changed at once, everybody gets the grace first.
    pub fn set_witnesses(&mut self, witnesses: &[HostKey], now: Moment) {
        let missing = |from: &[HostKey], of: &[HostKey]| of.iter().filter(|key| !from.contains(key)).count();
        let changed = missing(witnesses, &self.peers) + missing(&self.peers, witnesses);
        self.peers = witnesses.to_vec();
        self.heard.retain(|key, _| witnesses.contains(key));
        if changed > 1 {
            self.phase = Phase::Alone;
            self.counting_since = now;
        }
    }

    /// When a machine was heard last.
    #[must_use]
    pub fn heard_at(&self, from: HostKey) -> Option<Moment> {
        self.heard.get(&from).copied()
    }

    /// Why it would vote nobody dead now; `None` while it counts.
    #[must_use]
    pub fn doubt(&self, now: Moment) -> Option<Unsure> {
        match self.phase {
            _ if self.peers.len() < WITNESSES_MIN => Some(Unsure::TooFew),
            Phase::Alone => Some(Unsure::Alone),
            Phase::Grace { until } => Some(Unsure::Grace(until.since(now))),
            Phase::Counting => None,
        }
    }

    /// How often it was not scheduled in time and discarded what it had counted.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Anything authentic from a machine: a renewal, another witness's greeting, a storage heartbeat.
    pub fn heard(&mut self, from: HostKey, now: Moment) {
        self.heard.insert(from, now);
    }

    /// A host asks for its lease.
    pub fn renew(&mut self, host: HostKey, now: Moment) -> Renewal {
        self.tick(now);
        let until = self.votes.get(&host).copied().unwrap_or_default().max(self.grants_from);
        match now < until {
            true => Renewal::Refused(until.since(now)),
            false => {
                self.votes.remove(&host);
                self.heard(host, now);
                Renewal::Granted
            }
        }
    }

    /// Somebody who would decide asks about a host.
    pub fn vote(&mut self, host: HostKey, now: Moment) -> Vote {
        self.tick(now);
        if let Some(doubt) = self.doubt(now) {
            return Vote::Unsure(doubt);
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
            self.late += 1;
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
