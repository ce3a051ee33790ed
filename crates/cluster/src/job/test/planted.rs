//! The checkers of this world see what they are for: each planted bug is found by a storm.

use super::{Tally, storm};
use units::sabotage::{Bug, plant};

/// Storms until one goes wrong: the seed, and what it says.
fn found(bug: Bug) -> (u64, String) {
    let _planted = plant(bug);
    let mut tally = Tally::default();
    let hit = (1..=100).find_map(|seed| storm(seed, &mut tally).err().map(|text| (seed, text)));
    hit.unwrap_or_else(|| panic!("{bug:?} was not found in 100 storms: {tally:?}"))
}

/// Goal: every planted bug is found, by the checker it is meant for. Method: one after the other.
#[test]
fn every_planted_bug_is_found() {
    let bugs = [
        (Bug::CasSkip, &["I9"][..]),
        (Bug::ContBeforeCommit, &["I9", "I2"]),
        (Bug::FenceAfterCompletion, &["I9", "I2"]),
        (Bug::TargetCleanupAlthoughWon, &["I9", "I10"]),
        (Bug::StartBeforeAck, &["I1"]),
        (Bug::StartWithoutProof, &["I2"]),
        (Bug::OldOrderObeyed, &["I9", "I2", "I10"]),
        // D3.
        (Bug::RunOnUnasked, &["I2", "I9"]),
    ];
    for (bug, expected) in bugs {
        let (seed, text) = found(bug);
        println!("{bug:?}: seed {seed}: {text}");
        assert!(expected.iter().any(|invariant| text.starts_with(invariant)), "{bug:?}: seed {seed}: {text}");
    }
}
