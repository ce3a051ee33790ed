//! The guard's side: a second process, which knows only what the dead-man wrote down last, and freezes the guests of a host
//! whose dead-man let the lease run out without stopping them.
//!
//! Invariant: it never lets a guest go on. Whether one may is the dead-man's to find out.

use super::{LeaseTiming, Standing, WITNESSES_MIN};
use units::sabotage::{Bug, planted};
use units::{Millis, Moment};

/// What the dead-man leaves for the guard, with every heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardOrder {
    /// How many witnesses it goes by. With fewer than three nobody is ever stopped.
    pub witnesses: usize,
    /// From then on no guest may be found running, unless there is a newer order.
    pub freeze_at: Moment,
}

impl LeaseTiming {
    /// How long after the end of the lease the dead-man has for stopping guests by itself. The rest of what a stop may cost is
    /// the guard's, which needs milliseconds.
    #[must_use]
    pub const fn guard_after(&self) -> Millis {
        Millis(self.stop_cost_ms.0 / 4 * 3)
    }
}

impl GuardOrder {
    /// What a dead-man that stands like this orders. `granted_until`: when the majority's grants end; `stopped`: it found
    /// every guest stopped, just now.
    #[must_use]
    pub fn new(
        (witnesses, standing): (usize, Standing),
        granted_until: Option<Moment>,
        stopped: bool,
        timing: &LeaseTiming,
        now: Moment,
    ) -> Self {
        let after = |until: Moment| until + timing.guard_after();
        let freeze_at = match standing {
            Standing::Running { until } => after(until),
            // While it lives it sees to it that they stay stopped.
            Standing::Paused if stopped => now + timing.lease_ms,
            // Nothing ever granted is nothing to wait for.
            Standing::Paused | Standing::Asking => granted_until.map_or(Moment(0), after),
            Standing::Unwatched => now,
        };
        Self { witnesses, freeze_at }
    }

    /// Whether guests are to be frozen. No order that can be read is one that has ended.
    #[must_use]
    pub fn is_due(order: Option<&Self>, now: Moment) -> bool {
        if planted(Bug::NoGuard) {
            return false;
        }
        order.is_none_or(|order| order.witnesses >= WITNESSES_MIN && now >= order.freeze_at)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: guests are frozen when the lease and the dead-man's own time for stopping them are over, or nothing is known; not
    /// before, not while a dead-man that lives keeps them stopped, never with fewer than three witnesses. Method: each.
    #[test]
    fn it_freezes_when_nobody_stopped_them_in_time() {
        let timing = LeaseTiming::default();
        let order = |witnesses, standing, until: Option<u64>, stopped, now| {
            GuardOrder::new((witnesses, standing), until.map(Moment), stopped, &timing, Moment(now))
        };
        let until = Standing::Running { until: Moment(5_000) };
        let due = |order: &GuardOrder, now| GuardOrder::is_due(Some(order), Moment(now));
        let running = order(3, until, Some(5_000), false, 4_000);
        assert!(!due(&running, 5_299) && due(&running, 5_300), "400 ms of stop cost, 300 of them the dead-man's");
        for standing in [Standing::Paused, Standing::Asking] {
            let held = order(3, standing, Some(5_000), false, 5_100);
            assert!(!due(&held, 5_299) && due(&held, 5_300), "{standing:?}");
            assert!(due(&order(3, standing, None, false, 5_100), 5_100), "{standing:?}: nothing was ever granted");
        }
        let stopped = order(3, Standing::Paused, Some(5_000), true, 9_000);
        assert!(!due(&stopped, 11_499) && due(&stopped, 11_500), "it has not been heard of for the length of a lease");
        assert!(!due(&order(2, Standing::Unwatched, None, false, 0), 1_000_000));
        assert!(GuardOrder::is_due(None, Moment(0)));
    }
}
