//! The planted bugs: each must be found by the checker of its invariant, within a budget of seeds
//! (docs/rfd/0005-planted-bugs.md).

use crate::checkers::Invariant;
use crate::crash;
use crate::soak;
use units::sabotage::{Bug, plant};

/// A planted bug and what must notice it.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// What is wrong.
    pub bug: Bug,
    /// Any of these counts: a bug can show at the disk's edge or in what a client reads.
    pub broken: &'static [Invariant],
    /// Seeds it may take.
    pub budget: u64,
    /// The seed that found it last: a quick hunt begins there.
    pub hint: u64,
    /// It is hunted in every crash of every small workload instead of in seeds.
    pub crashes: bool,
}

/// What became of one.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// Which.
    pub planted: Planted,
    /// Seeds that were needed.
    pub seeds: u64,
    /// The seed that found it, and what the checker said; `None`: it survived.
    pub found: Option<(u64, Invariant, String)>,
}

/// Every bug that concerns the gate or RAID 1.
pub const ALL: [Planted; 13] = [
    planted(Bug::NoGate, &[Invariant::I1], 0),
    planted(Bug::AckBeforeDrain, &[Invariant::I1], 14),
    planted(Bug::RequeueNewEpoch, &[Invariant::I1], 0),
    planted(Bug::GrantNotDurable, &[Invariant::I12, Invariant::I1], 0),
    planted(Bug::DegradedServes, &[Invariant::I12], 0),
    planted(Bug::IncarnationOvertakes, &[Invariant::B11], 15),
    planted(Bug::FlushNotPassedOn, &[Invariant::I3], 2),
    planted(Bug::FuaIgnored, &[Invariant::I3], 0),
    planted(Bug::ResyncOverwritesNewer, &[Invariant::I6, Invariant::I3], 11),
    planted(Bug::EioRetried, &[Invariant::I11], 2),
    planted(Bug::DegradedAckFirst, &[Invariant::I6], 2),
    // A crash within microseconds of one write: seeds meet it too rarely (once in some 400), the crash harness always.
    Planted { crashes: true, ..planted(Bug::BitmapAfterData, &[Invariant::I6, Invariant::I3], 408) },
    planted(Bug::PartialRecoveryTrusted, &[Invariant::I6, Invariant::I3], 20),
];

/// Seeds a bug may take: the project's goal is a median of at most 200.
const BUDGET: u64 = 300;

const fn planted(bug: Bug, broken: &'static [Invariant], hint: u64) -> Planted {
    Planted { bug, broken, budget: BUDGET, hint, crashes: false }
}

/// Plants one bug and looks for it, from seed 0 on; `quick` tries the seed that found it last first, and counts only
/// that one if it still does.
#[must_use]
pub fn hunt(planted: Planted, quick: bool) -> Hunt {
    let _planted = plant(planted.bug);
    if planted.crashes {
        return hunt_in_crashes(planted);
    }
    let first = if quick { Some(planted.hint) } else { None };
    for (count, seed) in (1..).zip(first.into_iter().chain(0..planted.budget)) {
        let Ok(report) = soak::judge(seed, false) else { continue };
        let hit = report.violations.iter().find(|violation| planted.broken.contains(&violation.invariant));
        if let Some(hit) = hit {
            return Hunt { planted, seeds: count, found: Some((seed, hit.invariant, hit.detail.clone())) };
        }
    }
    Hunt { planted, seeds: planted.budget, found: None }
}

/// Counts crash states instead of seeds.
fn hunt_in_crashes(planted: Planted) -> Hunt {
    let found = crash::all(2);
    let hit = found.red.iter().find(|red| planted.broken.contains(&red.violation.invariant));
    Hunt { planted, seeds: found.states, found: hit.map(|red| (0, red.violation.invariant, red.to_string())) }
}

/// The table of the hunts.
#[must_use]
pub fn table(hunts: &[Hunt]) -> String {
    let row = |Hunt { planted, seeds, found }: &Hunt| {
        let (invariant, seed, said) = match found {
            Some((seed, invariant, detail)) => ((*invariant).to_string(), seed.to_string(), detail.clone()),
            None => ("-".into(), "-".into(), "SURVIVED".into()),
        };
        [format!("{:?}", planted.bug), invariant, seeds.to_string(), seed, said]
    };
    let heads = ["BUG", "INVARIANT", ">SEEDS", ">SEED", "WHAT THE CHECKER SAID"];
    units::table::render(heads, &hunts.iter().map(row).collect::<Vec<_>>())
}
