//! The times of the lease, and which sets of them are safe together.

use serde::{Deserialize, Serialize};
use units::Millis;

/// How long everything takes. Configured together, refused together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseTiming {
    /// Between two renewals.
    pub heartbeat_ms: Millis,
    /// How long a grant lets guests run, from before the renewal was sent.
    pub lease_ms: Millis,
    /// Silence after which a witness votes dead.
    pub detect_ms: Millis,
    /// Stopping all guests of a host: QMP stop, or the freezer if QEMU does not answer.
    pub stop_cost_ms: Millis,
    /// How long a vote binds its witness.
    pub vote_hold_ms: Millis,
    /// After hearing a majority again, nobody is voted dead for this long.
    pub rejoin_grace_ms: Millis,
}

/// How much faster or slower one machine's clock may run than another's, in parts per million: ten times what NTP
/// assumes (500 ppm is the most it corrects; RFC 5905, section 15, MAXFREQ), rounded.
pub const CLOCK_RATE_PPM: u64 = 1_000;

impl Default for LeaseTiming {
    fn default() -> Self {
        Self {
            heartbeat_ms: Millis(250),
            lease_ms: Millis(2_500),
            detect_ms: Millis(3_000),
            stop_cost_ms: Millis(400),
            vote_hold_ms: Millis(10_000),
            rejoin_grace_ms: Millis(30_000),
        }
    }
}

/// Why a set of times is unsafe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// Guests could still run when their host is voted dead.
    #[error(
        "detect_ms {detect} is too short: lease_ms {lease} with clocks 0.1 % apart, plus stop_cost_ms {stop}, \
         takes {needed}; use at least {}", .needed.0 + 1
    )]
    DetectTooShort {
        /// As configured.
        detect: Millis,
        /// As configured.
        lease: Millis,
        /// As configured.
        stop: Millis,
        /// What detection must exceed.
        needed: Millis,
    },
    /// One lost renewal would pause guests.
    #[error("lease_ms {lease} holds fewer than 4 heartbeats of {heartbeat}: one lost packet would pause guests")]
    LeaseTooShort {
        /// As configured.
        lease: Millis,
        /// As configured.
        heartbeat: Millis,
    },
    /// A failover could not be finished while its votes are valid.
    #[error(
        "vote_hold_ms {hold} is shorter than twice detect_ms {detect}: a failover could not end before its votes do"
    )]
    HoldTooShort {
        /// As configured.
        hold: Millis,
        /// As configured.
        detect: Millis,
    },
}

impl LeaseTiming {
    /// Whether these times are safe together.
    ///
    /// # Errors
    /// The first rule that they break; the caller shows it and refuses to start.
    pub fn check(&self) -> Result<(), TimingError> {
        let needed = self.longest_run();
        if self.detect_ms <= needed {
            let (detect, lease, stop) = (self.detect_ms, self.lease_ms, self.stop_cost_ms);
            return Err(TimingError::DetectTooShort { detect, lease, stop, needed });
        }
        if self.lease_ms.0 < 4 * self.heartbeat_ms.0 {
            return Err(TimingError::LeaseTooShort { lease: self.lease_ms, heartbeat: self.heartbeat_ms });
        }
        if self.vote_hold_ms.0 < 2 * self.detect_ms.0 {
            return Err(TimingError::HoldTooShort { hold: self.vote_hold_ms, detect: self.detect_ms });
        }
        Ok(())
    }

    /// How long after a renewal was sent its guests may still run, on anybody's clock.
    fn longest_run(&self) -> Millis {
        let drift = (self.lease_ms.0 * CLOCK_RATE_PPM).div_ceil(1_000_000);
        Millis(self.lease_ms.0 + drift + self.stop_cost_ms.0)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn unsafe_sets_are_refused_with_the_number_that_would_do() {
        let good = LeaseTiming::default();
        assert_eq!(good.check(), Ok(()));
        let text = LeaseTiming { detect_ms: Millis(2_903), ..good }.check().expect_err("2500 + 3 + 400").to_string();
        assert!(text.ends_with("use at least 2904"), "{text}");
        assert_eq!(LeaseTiming { detect_ms: Millis(2_904), ..good }.check(), Ok(()));
        assert!(matches!(
            LeaseTiming { heartbeat_ms: Millis(700), ..good }.check(),
            Err(TimingError::LeaseTooShort { .. })
        ));
        assert!(matches!(
            LeaseTiming { vote_hold_ms: Millis(5_999), ..good }.check(),
            Err(TimingError::HoldTooShort { .. })
        ));
    }

    #[test]
    fn slower_profiles_for_noisy_networks_are_safe() {
        for (lease, detect, hold) in [(5_000, 5_500, 11_000), (10_000, 11_000, 22_000)] {
            let slow = LeaseTiming {
                lease_ms: Millis(lease),
                detect_ms: Millis(detect),
                vote_hold_ms: Millis(hold),
                ..LeaseTiming::default()
            };
            assert_eq!(slow.check(), Ok(()));
        }
    }
}
