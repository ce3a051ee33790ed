//! The dead-man's side: may this host's guests run?
//!
//! ```text
//!  running ── a majority's grants are older than the lease ──▶ paused
//!     ▲                                                          │ a majority grants again
//!     └── resumed(): the targets say that the epochs are ours ── asking
//! ```

use super::{LeaseTiming, WITNESSES_MIN, majority};
use std::collections::BTreeMap;
use units::sabotage::{Bug, planted};
use units::{HostKey, Moment};

/// Where a host's guests stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// They may run until this moment.
    Running {
        /// Look again by then.
        until: Moment,
    },
    /// They must be stopped.
    Paused,
    /// A majority grants again: ask the targets whose epoch it is, then call [`Holder::resumed`].
    Asking,
    /// Too few witnesses to be declared dead by: nothing is paused.
    Unwatched,
}

/// One host's lease.
#[derive(Clone, Debug)]
pub struct Holder {
    me: HostKey,
    timing: LeaseTiming,
    /// Per witness, when the newest renewal that it granted was sent.
    granted: BTreeMap<HostKey, Option<Moment>>,
    paused: bool,
}

/// What a holder's process leaves to its next life, within one boot of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HolderPast {
    /// Per witness, when the newest renewal that it granted was sent.
    pub granted: Vec<(HostKey, Moment)>,
    /// Whether the guests were stopped, or not yet let go on.
    pub paused: bool,
}

impl Holder {
    /// A host that has not been granted anything yet and runs no guest: guests start after the first `Running`.
    #[must_use]
    pub fn new(me: HostKey, witnesses: &[HostKey], timing: LeaseTiming) -> Self {
        let granted = witnesses.iter().map(|witness| (*witness, None)).collect();
        Self { me, timing, granted, paused: true }
    }

    /// The next life of a holder: exactly what the former one would say now. A grant counts from the same moment in
    /// both, so however often the process ends and starts again, no guest gains a millisecond.
    #[must_use]
    pub fn resume(me: HostKey, witnesses: &[HostKey], timing: LeaseTiming, past: &HolderPast, now: Moment) -> Self {
        let mut holder = Self::new(me, witnesses, timing);
        // A moment that lies ahead is none of this clock's.
        let sound = past.granted.iter().filter(|(_, sent)| *sent <= now);
        sound.for_each(|(by, sent)| holder.granted(*by, *sent));
        holder.paused = past.paused || holder.granted_until().is_none_or(|until| until <= now);
        holder
    }

    /// What the next life has to know.
    #[must_use]
    pub fn past(&self) -> HolderPast {
        let granted = self.granted.iter().filter_map(|(by, sent)| Some((*by, (*sent)?)));
        HolderPast { granted: granted.collect(), paused: self.paused }
    }

    /// Other witnesses are configured; what the kept ones granted counts on.
    pub fn set_witnesses(&mut self, witnesses: &[HostKey]) {
        self.granted.retain(|key, _| witnesses.contains(key));
        for key in witnesses {
            self.granted.entry(*key).or_default();
        }
    }

    /// When the newest renewal that `by` granted was sent.
    #[must_use]
    pub fn granted_at(&self, by: HostKey) -> Option<Moment> {
        self.granted.get(&by).copied().flatten()
    }

    /// A witness granted the renewal that was sent at `sent`.
    pub fn granted(&mut self, by: HostKey, sent: Moment) {
        if let Some(newest) = self.granted.get_mut(&by) {
            *newest = (*newest).max(Some(sent));
        }
    }

    /// What holds now. One's own witness grants by itself: it is this process.
    pub fn tick(&mut self, now: Moment) -> Standing {
        if self.granted.len() < WITNESSES_MIN {
            self.paused = false;
            return Standing::Unwatched;
        }
        self.granted(self.me, now);
        let until = self.granted_until();
        match (until.filter(|until| now < *until), self.paused) {
            (Some(until), false) => Standing::Running { until },
            (Some(_), true) => Standing::Asking,
            (None, _) if planted(Bug::NoDeadman) => Standing::Running { until: now + self.timing.lease_ms },
            (None, _) => {
                self.paused = true;
                Standing::Paused
            }
        }
    }

    /// The targets said that this host still owns its volumes (or its guests were destroyed). If the lease ran out in
    /// the meantime, the next tick pauses again.
    pub fn resumed(&mut self) {
        self.paused = false;
    }

    /// How many witnesses there are.
    #[must_use]
    pub fn witnesses(&self) -> usize {
        self.granted.len()
    }

    /// The moment at which the majority's oldest grant ends.
    #[must_use]
    pub fn granted_until(&self) -> Option<Moment> {
        let mut newest: Vec<Moment> = self.granted.values().copied().flatten().collect();
        newest.sort_unstable_by(|a, b| b.cmp(a));
        newest.get(majority(self.granted.len()) - 1).map(|sent| *sent + self.timing.lease_ms)
    }
}
