//! The whole run, from its first beacon to its last: what no single round sees.

use super::fault::Kind;
use super::table::{Report, Round};
use super::{EVERY_STAGE_FROM, Moves, Options};
use crate::demo::evidence::Beacon;
use crate::demo::report::{copies_in_migrations, first_beacons, series};
use std::collections::BTreeMap;

impl Moves {
    /// What is wrong with the run as a whole.
    pub(super) fn judge_whole(&mut self, options: &Options) -> Vec<String> {
        match self.console.more() {
            Ok(more) => self.beacons.extend(more),
            Err(error) => return vec![format!("the beacons cannot be read: {error:#}")],
        }
        let rounds: Vec<&Round> = self.rounds.iter().chain(&self.misses).collect();
        let mut wrong = wrongs(&self.beacons, &rounds);
        let is_open = options.what == Kind::All && options.phase.is_none();
        if is_open && options.rounds >= EVERY_STAGE_FROM {
            let unstruck = Report::unstruck(&self.rounds);
            wrong.extend(unstruck.iter().map(|phase| format!("no fault fell in the stage {}", phase.name())));
        }
        wrong
    }
}

/// Two copies at any time, and boots that no round explains. `beacons` are in order of time.
fn wrongs(beacons: &[Beacon], rounds: &[&Round]) -> Vec<String> {
    let mut wrong: Vec<String> = copies_in_migrations(beacons).into_iter().map(|copies| copies.detail).collect();
    if beacons.is_empty() {
        wrong.push("no beacon was read: where the guest ran is not known".to_owned());
    }
    let round_at = |at_us: u64| rounds.iter().find(|round| (round.begun_us..round.ended_us).contains(&at_us));
    let first = first_beacons(beacons);
    for new in first.iter().skip(1).filter(|new| !round_at(new.at_us).is_some_and(|round| round.restarted)) {
        wrong.push(format!("boot {} began at {} in no round that restarted the guest", new.boot, new.host));
    }
    let replaced: BTreeMap<_, _> = first.iter().zip(first.iter().skip(1)).map(|(old, new)| (old.boot, new)).collect();
    let is_late = |beacon: &&Beacon| replaced.get(&beacon.boot).is_some_and(|new| beacon.at_us >= new.at_us);
    let mut late_us: BTreeMap<Option<usize>, u64> = BTreeMap::new();
    for one in series(beacons.iter().filter(is_late)) {
        *late_us.entry(round_at(one.from_us).map(|round| round.round)).or_default() += one.to_us - one.from_us;
    }
    for (number, late_us) in late_us {
        let round = rounds.iter().find(|round| Some(round.round) == number);
        let allowed_us = round.map_or(0, |round| round.fault.overlap_max_us());
        if late_us > allowed_us {
            let when = number.map_or_else(|| "outside all rounds".to_owned(), |number| format!("in round {number}"));
            wrong.push(format!("a boot moved for {} ms after it had been replaced, {when}", late_us / 1000));
        }
    }
    wrong
}

#[cfg(test)]
mod test {
    use super::super::fault::{Fault, Phase};
    use super::*;
    use crate::demo::guest::record::Boot;
    use std::time::Duration;

    fn beacons(boot: u64, host: &str, from_ms: u64, to_ms: u64) -> Vec<Beacon> {
        let one = |at_ms: u64| Beacon { at_us: at_ms * 1000, host: host.into(), boot: Boot(boot), counter: at_ms / 5 };
        (from_ms..to_ms).step_by(5).map(one).collect()
    }

    fn round(number: usize, kind: Kind, from_ms: u64, to_ms: u64, restarted: bool) -> Round {
        let fault = Fault { kind, phase: Phase::Copy, delay: Duration::ZERO, lasts: Duration::ZERO };
        let mut round = Round::of(number, &fault);
        (round.begun_us, round.ended_us, round.restarted) = (from_ms * 1000, to_ms * 1000, restarted);
        round
    }

    fn judge(mut all: Vec<Beacon>, rounds: &[Round]) -> Vec<String> {
        all.sort_by_key(|beacon| beacon.at_us);
        wrongs(&all, &rounds.iter().collect::<Vec<_>>())
    }

    /// CA10: goal: copies are seen also between rounds, where no round looks. Method: a run of two rounds; an old boot that
    /// moves again between them, within a frozen round, within another one; a boot that nothing explains; no beacons.
    #[test]
    fn the_time_between_rounds_is_judged_too() {
        let rounds =
            [round(1, Kind::SourceQemu, 1_000, 5_000, true), round(2, Kind::SourceFreeze, 8_000, 12_000, true)];
        let good = [
            beacons(0xa, "host1", 0, 1_500),
            beacons(0xb, "host2", 3_000, 8_200),
            beacons(0xb, "host2", 11_500, 11_700),
            beacons(0xc, "host1", 11_000, 20_000),
        ]
        .concat();
        assert_eq!(judge(good.clone(), &rounds), Vec::<String>::new());
        let with = |more: Vec<Beacon>| judge([good.clone(), more].concat(), &rounds).join("; ");
        assert!(with(beacons(0xa, "host1", 6_000, 6_500)).contains("500 ms after it had been replaced, outside all"));
        assert!(with(beacons(0xa, "host1", 4_000, 4_005)).contains("5 ms after it had been replaced, in round 1"));
        assert!(with(beacons(0xb, "host2", 11_700, 11_800)).contains("300 ms after it had been replaced, in round 2"));
        assert!(with(beacons(0xf, "host1", 15_000, 15_100)).contains("no round that restarted"));
        assert!(judge(Vec::new(), &rounds)[0].contains("no beacon"));
    }
}
