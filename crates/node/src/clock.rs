//! The time of day, for certificates and tokens only; everything else goes by the steady clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970 by this machine's clock; zero if it stands before that.
#[must_use]
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
