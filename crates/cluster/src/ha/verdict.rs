//! Votes of several witnesses made into one verdict, which ends.

use crate::lease::{CLOCK_RATE_PPM, Vote, WITNESSES_MIN, majority};
use units::{HostKey, Moment};

/// What one witness answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which witness.
    pub by: HostKey,
    /// When it was asked, on the asker's clock, before the question was sent.
    pub asked: Moment,
    /// Its vote.
    pub vote: Vote,
}

/// What the votes come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A majority says dead, and all of these votes hold until then.
    Dead {
        /// On the asker's clock.
        until: Moment,
        /// Valid votes for dead.
        votes: usize,
        /// Who has a vote.
        of: usize,
    },
    /// So many of so many say dead: not enough.
    NotDead {
        /// Valid votes for dead.
        dead: usize,
        /// How many it takes.
        needed: usize,
    },
}

/// The verdict of `answers` of all `witnesses` that are configured. An answer of somebody who is none, or the second one
/// of the same witness, does not count twice.
#[must_use]
pub fn verdict(answers: &[Answer], witnesses: &[HostKey], now: Moment) -> Verdict {
    let needed = majority(witnesses.len());
    let ends = |witness: &HostKey| {
        let valid = answers.iter().filter(|answer| answer.by == *witness).filter_map(|answer| match answer.vote {
            // The witness's clock may be the faster one: the vote is taken for a little shorter than it said.
            Vote::Dead { valid_for } => {
                let shorter = (valid_for.0 * 2 * CLOCK_RATE_PPM).div_ceil(1_000_000);
                Some(answer.asked + units::Millis(valid_for.0 - shorter))
            }
            Vote::Alive { .. } | Vote::Unsure(_) => None,
        });
        valid.max().filter(|until| now < *until)
    };
    let mut ends: Vec<Moment> = witnesses.iter().filter_map(ends).collect();
    ends.sort_unstable_by(|a, b| b.cmp(a));
    match ends.get(needed - 1) {
        Some(until) if witnesses.len() >= WITNESSES_MIN => {
            Verdict::Dead { until: *until, votes: ends.len(), of: witnesses.len() }
        }
        _ => Verdict::NotDead { dead: ends.len(), needed },
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::lease::Unsure;
    use units::Millis;

    fn key(n: u8) -> HostKey {
        HostKey([n; 32])
    }

    fn dead(by: u8, asked: u64) -> Answer {
        Answer { by: key(by), asked: Moment(asked), vote: Vote::Dead { valid_for: Millis(10_000) } }
    }

    /// Goal: only a majority of distinct, configured witnesses whose votes all still hold says dead, until the first
    /// of the votes it needs ends. Method: cases.
    #[test]
    fn a_verdict_takes_a_majority_of_valid_votes() {
        let three = [key(1), key(2), key(3)];
        let not = |dead| Verdict::NotDead { dead, needed: 2 };
        assert_eq!(verdict(&[dead(1, 0)], &three, Moment(5)), not(1));
        assert_eq!(verdict(&[dead(1, 0), dead(1, 3)], &three, Moment(5)), not(1), "one witness, two answers");
        assert_eq!(verdict(&[dead(1, 0), dead(9, 0)], &three, Moment(5)), not(1), "a stranger");
        let unsure = Answer { vote: Vote::Unsure(Unsure::Alone), ..dead(2, 0) };
        assert_eq!(verdict(&[dead(1, 0), unsure], &three, Moment(5)), not(1));
        let both = [dead(1, 0), dead(2, 700)];
        assert_eq!(verdict(&both, &three, Moment(800)), Verdict::Dead { until: Moment(9_980), votes: 2, of: 3 });
        let all = [dead(1, 0), dead(2, 700), dead(3, 700)];
        assert_eq!(verdict(&all, &three, Moment(800)), Verdict::Dead { until: Moment(10_680), votes: 3, of: 3 });
        assert_eq!(verdict(&both, &three, Moment(9_980)), not(1), "the older vote is over");
        assert!(matches!(verdict(&both, &three[..2], Moment(800)), Verdict::NotDead { .. }), "two cannot outvote");
    }
}
