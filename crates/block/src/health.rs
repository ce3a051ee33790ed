//! Whether a session is alive, decided from what was heard and when.
//!
//! A probe goes out every period; anything heard is life; silence for `dead_after` is death. While bytes of ours are on
//! their way, the peer's TCP that acknowledges them is life as well, for at most [`ACKNOWLEDGED_MAX`] of silence: a large
//! write over a slow wire keeps the probe behind it. TCP keepalive is no evidence. A loop that was itself not scheduled
//! knows nothing about the other side: it discards the silence it counted and asks again (corosync's lesson, "not
//! scheduled for 14709 ms"; docs/rfd/0006-initiator.md).

use units::{Millis, Moment};

/// How long a peer may be silent whose TCP still acknowledges what it is sent: a target that hangs while its kernel takes
/// more and more must not look alive for longer. The initiator's largest request, 1 MiB, passes within it at 0.3 MB/s.
pub const ACKNOWLEDGED_MAX: Millis = Millis(4000);

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
    /// When the peer's TCP was last seen to have acknowledged more.
    acknowledged_at: Moment,
    probe_at: Moment,
    expected: Moment,
}

impl Health {
    /// A session that was just opened: opening it was an answer.
    #[must_use]
    pub fn new(timing: HealthTiming, now: Moment) -> Self {
        let next = now + timing.period;
        Self { timing, heard_at: now, acknowledged_at: now, probe_at: next, expected: next }
    }

    /// Bytes came in.
    pub fn heard(&mut self, now: Moment) {
        self.heard_at = now;
    }

    /// The peer's TCP has acknowledged more since the last look, and more of ours is on its way.
    pub fn acknowledged(&mut self, now: Moment) {
        self.acknowledged_at = now;
    }

    /// When the session is dead if nothing comes any more.
    fn ends_at(&self) -> Moment {
        let HealthTiming { dead_after, .. } = self.timing;
        let most = self.heard_at + ACKNOWLEDGED_MAX.max(dead_after);
        (self.heard_at.max(self.acknowledged_at) + dead_after).min(most)
    }

    /// To be called when asked for, and whenever else it suits.
    pub fn tick(&mut self, now: Moment) -> Verdict {
        let late = now.since(self.expected);
        if late.0 > self.timing.period.0 / 2 {
            self.heard_at = now;
            self.probe_at = now;
        }
        if now >= self.ends_at() {
            return Verdict::Dead(now.since(self.heard_at));
        }
        let probe = now >= self.probe_at;
        if probe {
            self.probe_at = now + self.timing.period;
        }
        self.expected = self.probe_at.min(self.ends_at());
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

    /// DA4. Goal: a large write over a slow wire is no death, a peer that only acknowledges is one after 4 s, and so is one
    /// that stops acknowledging after 750 ms. Method: nothing is heard; its TCP acknowledges until a moment.
    #[test]
    fn acknowledged_bytes_are_life_for_a_while() {
        for (until, dead_at) in [(1_000, 1_750), (3_250, 4_000), (4_500, 5_000), (60_000, 5_000)] {
            let mut health = fresh();
            let mut now = Moment(1_250);
            let died = loop {
                if now.0 <= until {
                    health.acknowledged(now);
                }
                match health.tick(now) {
                    Verdict::Probe(next) | Verdict::Wait(next) => now = next,
                    Verdict::Dead(_) => break now,
                }
            };
            assert_eq!(died, Moment(dead_at), "acknowledged until {until}");
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
