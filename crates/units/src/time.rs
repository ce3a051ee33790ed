//! Time as it is handed in: a moment on one machine's steady clock, and spans between moments.
//! Moments of two machines are never compared (CLOCK_BOOTTIME of one machine only).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Add, Sub};

/// A span, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

/// A moment on this machine's steady clock, in milliseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Millis> for Moment {
    type Output = Self;
    fn add(self, span: Millis) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Add for Millis {
    type Output = Self;
    fn add(self, more: Self) -> Self {
        Self(self.0.saturating_add(more.0))
    }
}

impl Sub for Millis {
    type Output = Self;
    fn sub(self, less: Self) -> Self {
        Self(self.0.saturating_sub(less.0))
    }
}

impl From<Millis> for std::time::Duration {
    fn from(span: Millis) -> Self {
        Self::from_millis(span.0)
    }
}

/// `850 ms`, `4.2 s`, `3 min 20 s`, `2 h 5 min`.
impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        match self.0 {
            0..1000 => write!(f, "{} ms", self.0),
            1000..60_000 => write!(f, "{seconds}.{} s", self.0 % 1000 / 100),
            60_000..3_600_000 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            _ => write!(f, "{} h {} min", seconds / 3600, seconds / 60 % 60),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn spans_read_as_people_say_them() {
        let check = |ms: u64, expect: &str| assert_eq!(Millis(ms).to_string(), expect);
        check(850, "850 ms");
        check(4_250, "4.2 s");
        check(200_000, "3 min 20 s");
        check(7_500_000, "2 h 5 min");
    }

    #[test]
    fn a_moment_ahead_is_no_time_ago() {
        assert_eq!(Moment(5).since(Moment(9)), Millis(0));
    }
}
