//! Whether a session is alive, decided from what was heard and when.
//!
//! A probe goes out every period; anything heard is life; silence for `dead_after` is death. TCP keepalive is no
//! evidence. A loop that was itself not scheduled knows nothing about the other side: it discards the silence it
//! counted and asks again (corosync's lesson, "not scheduled for 14709 ms"; docs/rfd/0006-initiator.md).

use units::{Millis, Moment};

/// How often to ask and how long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthTiming {
    /// Between two probes.
    pub period: Millis,
    /// Silence after which the session is dead.
    pub dead_after: Millis,
}

impl Default for HealthTiming {
    /// 250 ms and 750 ms: three probes unanswered. The hold's bound and the gate's drain are far above.
    fn default() -> Self {
        Self { period: Millis(250), dead_after: Millis(750) }
    }
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send a probe, then ask again at the moment.
    Probe(Moment),
    /// Ask again at the moment.
    Wait(Moment),
    /// The session is dead after this long a silence.
    Dead(Millis),
}

/// One session's health.
#[derive(Clone, Debug)]
pub struct Health {
    timing: HealthTiming,
    heard_at: Moment,
    probe_at: Moment,
    expected: Moment,
}

impl Health {
    /// A session that was just opened: opening it was an answer.
    #[must_use]
    pub fn new(timing: HealthTiming, now: Moment) -> Self {
        Self { timing, heard_at: now, probe_at: now + timing.period, expected: now + timing.period }
    }

    /// Bytes came in.
    pub fn heard(&mut self, now: Moment) {
        self.heard_at = now;
    }

    /// To be called when asked for, and whenever else it suits.
    pub fn tick(&mut self, now: Moment) -> Verdict {
        let late = now.since(self.expected);
        if late.0 > self.timing.period.0 / 2 {
            self.heard_at = now;
            self.probe_at = now;
        }
        let silent = now.since(self.heard_at);
        if silent >= self.timing.dead_after {
            return Verdict::Dead(silent);
        }
        let probe = now >= self.probe_at;
        if probe {
            self.probe_at = now + self.timing.period;
        }
        self.expected = self.probe_at.min(self.heard_at + self.timing.dead_after);
        if probe { Verdict::Probe(self.expected) } else { Verdict::Wait(self.expected) }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn fresh() -> Health {
        Health::new(HealthTiming::default(), Moment(1000))
    }

    /// Goal: silence is noticed at 750 ms, after three probes. Method: tick exactly when asked for, hear nothing.
    #[test]
    fn three_unanswered_probes_are_death() {
        let mut health = fresh();
        let mut seen = Vec::new();
        let mut now = Moment(1250);
        loop {
            match health.tick(now) {
                Verdict::Probe(next) => {
                    seen.push(now.0);
                    now = next;
                }
                Verdict::Wait(next) => now = next,
                Verdict::Dead(silent) => {
                    assert_eq!(silent, Millis(750));
                    break;
                }
            }
        }
        assert_eq!(seen, [1250, 1500]);
        assert_eq!(now, Moment(1750));
    }

    #[test]
    fn anything_heard_is_life() {
        let mut health = fresh();
        let mut now = Moment(1250);
        for _ in 0..100 {
            health.heard(now);
            match health.tick(now) {
                Verdict::Probe(next) | Verdict::Wait(next) => now = next,
                Verdict::Dead(silent) => panic!("dead after {silent} although it answered"),
            }
        }
    }

    /// Goal: a process that was stopped blames nobody. Method: come back 14.7 s late; a probe first, death only after
    /// a fresh 750 ms of silence.
    #[test]
    fn own_pause_is_no_evidence() {
        let mut health = fresh();
        assert_eq!(health.tick(Moment(1250)), Verdict::Probe(Moment(1500)));
        assert_eq!(health.tick(Moment(15_959)), Verdict::Probe(Moment(16_209)));
        assert_eq!(health.tick(Moment(16_209)), Verdict::Probe(Moment(16_459)));
        assert_eq!(health.tick(Moment(16_459)), Verdict::Probe(Moment(16_709)));
        assert_eq!(health.tick(Moment(16_709)), Verdict::Dead(Millis(750)));
    }
}
