//! The goals of speed: they are told, and `ok` does not need them.

use super::timeline::Timeline;
use super::{Goal, Report};

/// A run of several rounds is the one whose figures count.
const ROUNDS_THAT_COUNT: u32 = 3;
const MIGRATIONS_MIN: usize = 5;

/// All of them.
pub fn speed(timeline: &Timeline, report: &Report) -> Vec<Goal> {
    // One without a figure spoils the median.
    let cpu: Option<Vec<f64>> = report.migrations.iter().map(|one| one.cpu_blackout_ms).collect();
    let network: Option<Vec<f64>> = report.migrations.iter().map(|one| one.network_blackout_ms).collect();
    let mut goals = vec![
        at_most("migration: CPU blackout, median, ms", cpu.as_deref().and_then(median), 180.0),
        at_most("migration: CPU blackout, longest, ms", cpu.as_deref().and_then(longest), 350.0),
        at_most("migration: network blackout, median, ms", network.as_deref().and_then(median), 300.0),
    ];
    if timeline.rounds >= ROUNDS_THAT_COUNT {
        let count = report.migrations.len();
        let (got, ok) = (Some(whole(count as u64)), count >= MIGRATIONS_MIN);
        goals.push(Goal { name: "migrations".to_owned(), got, want: format!(">= {MIGRATIONS_MIN}"), ok });
    }
    for cause in ["poweroff", "freeze", "cut"] {
        let of_it = report.failovers.iter().filter(|one| one.cause == cause);
        let times: Option<Vec<f64>> = of_it.map(|one| one.vcpus_running_ms.map(whole)).collect();
        goals.push(at_most(
            &format!("{cause}: vCPUs run elsewhere, longest, ms"),
            times.as_deref().and_then(longest),
            6000.0,
        ));
    }
    let stale = report.failovers.iter().map(|one| whole(one.stale_applied)).reduce(|one, other| one + other);
    goals.push(at_most("stale writes applied", stale, 0.0));
    for cause in ["switch", "storage"] {
        let of_it = report.outages.iter().filter(|one| one.cause == cause);
        let times: Option<Vec<f64>> = of_it.map(|one| one.resumed_ms.map(whole)).collect();
        goals.push(at_most(
            &format!("{cause} off: the guest goes on, longest, ms"),
            times.as_deref().and_then(longest),
            5000.0,
        ));
    }
    goals
}

fn at_most(name: &str, got: Option<f64>, limit: f64) -> Goal {
    Goal { name: name.to_owned(), got, want: format!("<= {limit}"), ok: got.is_some_and(|got| got <= limit) }
}

fn longest(all: &[f64]) -> Option<f64> {
    all.iter().copied().max_by(f64::total_cmp)
}

fn median(all: &[f64]) -> Option<f64> {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    // Tenths, as everything else in a report.
    Some(((low + high) * 5.0).round() / 10.0)
}

fn whole(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
