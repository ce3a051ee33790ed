//! The time of day, for certificates, tokens and people; everything else goes by the steady clock.

use std::time::{SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;

/// Seconds since 1970 by this machine's clock; zero if it stands before that.
#[must_use]
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Milliseconds since 1970 as a date and a time of day, in UTC. Source: RFC 3339 §5.6. Beyond the year 9999, which that form does not
/// have, it is the last moment before.
#[must_use]
pub fn rfc3339(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1_000).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let Some(at) = seconds else { return "9999-12-31T23:59:59.999Z".to_owned() };
    let (date, hour, minute, second) = (at.date(), at.hour(), at.minute(), at.second());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: D19: a moment is written as other programs read it. Method: moments whose dates are known (`date -u -d @SECONDS`).
    #[test]
    fn moments_are_rfc_3339() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_007), "2000-02-29T00:00:00.007Z");
        assert_eq!(rfc3339(1_767_225_599_999), "2025-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
