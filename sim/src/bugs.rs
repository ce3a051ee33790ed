//! The planted bugs: each must be found by the checker of its invariant, within a budget of seeds
//! (docs/rfd/0005-planted-bugs.md).

use crate::checkers::{Invariant, Violation};
use crate::crash;
use crate::held;
use crate::soak;
use units::sabotage::{Bug, plant};

/// Where a bug is hunted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// In the world of hosts, gate and mirror, seed after seed.
    World,
    /// In every crash of every small workload: what needs a crash within microseconds of one write.
    Crashes,
    /// In the world of a guest over `hold`.
    Held,
    /// In every crash of a volume group.
    Volumes,
}

/// A planted bug and what must notice it.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// What is wrong.
    pub bug: Bug,
    /// Any of these counts: a bug can show at the disk's edge or in what a client reads.
    pub broken: &'static [Invariant],
    /// Where it is looked for.
    pub ground: Ground,
    /// The seed, or the number of the workload, that found it last: a quick hunt begins there.
    pub hint: u64,
}

/// What became of one.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// Which.
    pub planted: Planted,
    /// Seeds, or crash states, that were needed.
    pub seeds: u64,
    /// The seed (or the number of the crash state) that found it, and what the checker said; `None`: it survived.
    pub found: Option<(u64, Invariant, String)>,
}

/// Every bug that concerns what is simulated.
pub const ALL: [Planted; 27] = [
    world(Bug::NoGate, &[Invariant::I1], 0),
    world(Bug::AckBeforeDrain, &[Invariant::I1], 0),
    world(Bug::RequeueNewEpoch, &[Invariant::I1], 0),
    world(Bug::GrantNotDurable, &[Invariant::I12, Invariant::I1], 7),
    world(Bug::DegradedServes, &[Invariant::I12], 8),
    world(Bug::IncarnationOvertakes, &[Invariant::B11], 75),
    world(Bug::StockOvertakes, &[Invariant::B11, Invariant::I3, Invariant::I6], 30),
    world(Bug::SiblingNotDrained, &[Invariant::B11], 75),
    world(Bug::FirstLegEndsTicket, &[Invariant::I1], 26),
    world(Bug::FlushNotPassedOn, &[Invariant::I3], 17),
    world(Bug::FuaIgnored, &[Invariant::I3], 9),
    world(Bug::ResyncOverwritesNewer, &[Invariant::I6, Invariant::I3], 8),
    world(Bug::EioRetried, &[Invariant::I11], 1),
    world(Bug::MetadataEioIgnored, &[Invariant::I11], 39),
    world(Bug::DegradedAckFirst, &[Invariant::I6], 1),
    world(Bug::PartialRecoveryTrusted, &[Invariant::I6, Invariant::I3], 2),
    world(Bug::SuperblockFirst, &[Invariant::Order], 1),
    crashes(Bug::BitmapAfterData, &[Invariant::I6, Invariant::I3], 0),
    crashes(Bug::BitClearedBeforeFlush, &[Invariant::I6, Invariant::I3], 3),
    crashes(Bug::WitnessFirst, &[Invariant::I14], 2),
    crashes(Bug::ResyncFromTarget, &[Invariant::I6, Invariant::I3], 1),
    crashes(Bug::ReaddBySlot, &[Invariant::I6, Invariant::I3], 2),
    crashes(Bug::FactsOverNewest, &[Invariant::I12], 94),
    hunted(Ground::Volumes, Bug::LvmHeaderFirst, &[Invariant::I3], 0),
    hunted(Ground::Volumes, Bug::ZeroedTooEarly, &[Invariant::I3], 0),
    hunted(Ground::Held, Bug::LogNotRewritten, &[Invariant::I3], 1),
    hunted(Ground::Held, Bug::LogKeptOverDiscard, &[Invariant::I3], 31),
];

/// Seeds a bug may take: the project's goal is a median of at most 200.
const BUDGET: u64 = 300;

const fn hunted(ground: Ground, bug: Bug, broken: &'static [Invariant], hint: u64) -> Planted {
    Planted { bug, broken, ground, hint }
}

const fn world(bug: Bug, broken: &'static [Invariant], hint: u64) -> Planted {
    hunted(Ground::World, bug, broken, hint)
}

const fn crashes(bug: Bug, broken: &'static [Invariant], hint: u64) -> Planted {
    hunted(Ground::Crashes, bug, broken, hint)
}

/// Plants one bug and looks for it, from seed 0 on; `quick` tries the seed that found it last first, and counts only
/// that one if it still does.
#[must_use]
pub fn hunt(planted: Planted, quick: bool) -> Hunt {
    let _planted = plant(planted.bug);
    let judge: fn(u64) -> Vec<Violation> = match planted.ground {
        Ground::World => |seed| soak::judge(seed, false).map(|report| report.violations).unwrap_or_default(),
        Ground::Held => |seed| held::run(seed).violation.into_iter().collect(),
        Ground::Crashes => return hunt_in_crashes(planted, in_workloads(planted, quick)),
        Ground::Volumes => return hunt_in_crashes(planted, crash::volumes()),
    };
    let first = if quick { Some(planted.hint) } else { None };
    for (count, seed) in (1..).zip(first.into_iter().chain(0..BUDGET)) {
        let hit = judge(seed).into_iter().find(|violation| planted.broken.contains(&violation.invariant));
        if let Some(hit) = hit {
            return Hunt { planted, seeds: count, found: Some((seed, hit.invariant, hit.detail)) };
        }
    }
    Hunt { planted, seeds: BUDGET, found: None }
}

fn in_workloads(planted: Planted, quick: bool) -> crash::Found {
    let mut workloads = crash::workloads(2);
    if quick {
        let hint = usize::try_from(planted.hint).expect("a number of a workload");
        workloads.swap(0, hint);
    }
    crash::run(&workloads, planted.broken)
}

/// Counts crash states instead of seeds.
fn hunt_in_crashes(planted: Planted, found: crash::Found) -> Hunt {
    let hit = found.red.into_iter().find(|red| planted.broken.contains(&red.violation.invariant));
    let found = hit.map(|red| (red.number, red.violation.invariant, red.to_string()));
    let seeds = found.as_ref().map_or(0, |(number, ..)| *number);
    Hunt { planted, seeds, found }
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
