//! A guest whose QEMU died starts again in place, at a new epoch each time, more and more slowly.

use units::{Millis, Moment};

/// How long to wait before the first, second … restart; the last for all after. A guest that dies at boot costs one start
/// a minute, and a log that can be read.
pub const BACK_OFF_MS: [Millis; 6] =
    [Millis(0), Millis(1_000), Millis(5_000), Millis(15_000), Millis(30_000), Millis(60_000)];

/// A guest that ran this long is healthy: the next restart is the first again.
const HEALTHY_MS: Millis = Millis(600_000);

/// The restarts of one VM on this host. Kept in memory: after a restart of `node` it begins anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    count: usize,
    started: Option<Moment>,
    died: Option<Moment>,
}

impl Restarts {
    /// It runs.
    pub fn started(&mut self, now: Moment) {
        self.started = Some(now);
        self.died = None;
    }

    /// Its QEMU ended without being asked to.
    pub fn died(&mut self, now: Moment) {
        if self.died.is_some() {
            return;
        }
        let healthy = self.started.is_some_and(|started| now.since(started) >= HEALTHY_MS);
        self.count = if healthy { 0 } else { self.count + usize::from(self.started.is_some()) };
        self.died = Some(now);
    }

    /// How often it died soon after it had been started.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Since when it runs, as far as it was seen to start.
    #[must_use]
    pub fn running_since(&self) -> Option<Moment> {
        self.started.filter(|_| self.died.is_none())
    }

    /// When it may start again; none if it did not die.
    #[must_use]
    pub fn next(&self) -> Option<Moment> {
        let last = BACK_OFF_MS.len() - 1;
        let wait = BACK_OFF_MS[self.count.saturating_sub(1).min(last)];
        self.died.map(|died| died + wait)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: each restart waits longer, a long healthy run forgets. Method: die five times at once, then after an hour.
    #[test]
    fn restarts_slow_down_and_recover() {
        let (mut restarts, mut now, mut waits) = (Restarts::default(), Moment(0), Vec::new());
        for _ in 0..8 {
            restarts.started(now);
            restarts.died(now + Millis(100));
            restarts.died(now + Millis(200));
            let next = restarts.next().expect("it died");
            waits.push(next.since(now).0 - 100);
            now = next;
        }
        assert_eq!(waits, [0, 1_000, 5_000, 15_000, 30_000, 60_000, 60_000, 60_000]);
        restarts.started(now);
        assert_eq!(restarts.next(), None);
        restarts.died(now + Millis(3_600_000));
        assert_eq!(restarts.next(), Some(now + Millis(3_600_000)));
    }
}
