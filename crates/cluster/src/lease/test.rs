//! The rules one by one; the world they are made for is in `world`.

use super::*;
use units::{HostKey, Millis, Moment};

pub fn key(n: usize) -> HostKey {
    HostKey([u8::try_from(n).expect("a few machines"); 32])
}

pub fn keys(count: usize) -> Vec<HostKey> {
    (0..count).map(key).collect()
}

/// A witness past its grace, that has just heard everybody.
fn counting(now: &mut u64) -> Witness {
    let mut witness = Witness::new(key(0), &keys(3), LeaseTiming::default(), Moment(*now));
    hear(&mut witness, now, 31_000, &[1, 2]);
    witness
}

/// Time passes in heartbeats; these machines are heard.
fn hear(witness: &mut Witness, now: &mut u64, span_ms: u64, who: &[usize]) {
    for _ in 0..span_ms / 250 {
        *now += 250;
        who.iter().for_each(|n| witness.heard(key(*n), Moment(*now)));
        witness.tick(Moment(*now));
    }
}

#[test]
fn silence_is_voted_dead_after_the_detection_time_and_not_before() {
    let mut now = 0;
    let mut witness = counting(&mut now);
    hear(&mut witness, &mut now, 2_750, &[1]);
    assert_eq!(witness.vote(key(2), Moment(now)), Vote::Alive { silent_for: Millis(2_750) });
    hear(&mut witness, &mut now, 250, &[1]);
    assert_eq!(witness.vote(key(2), Moment(now)), Vote::Dead { valid_for: Millis(10_000) });
    assert_eq!(witness.vote(key(1), Moment(now)), Vote::Alive { silent_for: Millis(0) });
}

#[test]
fn a_vote_binds_its_witness() {
    let mut now = 0;
    let mut witness = counting(&mut now);
    hear(&mut witness, &mut now, 3_000, &[1]);
    assert!(matches!(witness.vote(key(2), Moment(now)), Vote::Dead { .. }));
    hear(&mut witness, &mut now, 1_000, &[1, 2]);
    assert_eq!(witness.renew(key(2), Moment(now)), Renewal::Refused(Millis(9_000)));
    hear(&mut witness, &mut now, 9_000, &[1, 2]);
    assert_eq!(witness.renew(key(2), Moment(now)), Renewal::Granted);
}

#[test]
fn who_hears_no_majority_votes_nobody_dead_and_then_waits() {
    let mut now = 0;
    let mut witness = counting(&mut now);
    hear(&mut witness, &mut now, 60_000, &[]);
    assert_eq!(witness.vote(key(2), Moment(now)), Vote::Unsure(Unsure::Alone));
    hear(&mut witness, &mut now, 29_750, &[1]);
    assert!(matches!(witness.vote(key(2), Moment(now)), Vote::Unsure(Unsure::Grace(_))));
    hear(&mut witness, &mut now, 500, &[1]);
    assert_eq!(witness.vote(key(2), Moment(now)), Vote::Dead { valid_for: Millis(10_000) });
}

#[test]
fn who_was_not_scheduled_counts_again_from_zero() {
    let mut now = 0;
    let mut witness = counting(&mut now);
    now += 14_709;
    assert_eq!(witness.vote(key(2), Moment(now)), Vote::Alive { silent_for: Millis(0) });
}

#[test]
fn a_host_runs_on_the_grants_of_a_majority() {
    let mut holder = Holder::new(key(0), &keys(3), LeaseTiming::default());
    assert_eq!(holder.tick(Moment(100)), Standing::Paused, "itself alone is no majority");
    holder.granted(key(1), Moment(100));
    assert_eq!(holder.tick(Moment(110)), Standing::Asking);
    holder.resumed();
    assert_eq!(holder.tick(Moment(120)), Standing::Running { until: Moment(2_600) });
    holder.granted(key(2), Moment(50));
    assert_eq!(holder.tick(Moment(2_599)), Standing::Running { until: Moment(2_600) });
    assert_eq!(holder.tick(Moment(2_600)), Standing::Paused);
    holder.granted(key(1), Moment(2_700));
    assert_eq!(holder.tick(Moment(2_700)), Standing::Asking, "it asks whose epoch it is before it goes on");
}

/// Goal: a dead-man that is killed and started again in a loop gives no guest more time, and takes none away. Method: a
/// new life every 100 ms from what the former one left.
#[test]
fn a_life_after_another_gains_no_time() {
    let timing = LeaseTiming::default();
    let mut holder = Holder::new(key(0), &keys(3), timing);
    holder.granted(key(1), Moment(1_000));
    holder.tick(Moment(1_000));
    holder.resumed();
    for now in (1_100..3_500).step_by(100).map(Moment) {
        holder = Holder::resume(key(0), &keys(3), timing, &holder.past(), now);
        assert_eq!(holder.tick(now), Standing::Running { until: Moment(3_500) });
    }
    let past = holder.past();
    for now in [3_500, 4_000] {
        assert_eq!(Holder::resume(key(0), &keys(3), timing, &past, Moment(now)).tick(Moment(now)), Standing::Paused);
    }
    let mut late = Holder::resume(key(0), &keys(3), timing, &past, Moment(4_000));
    late.granted(key(2), Moment(4_000));
    assert_eq!(late.tick(Moment(4_000)), Standing::Asking, "a lease that ran out in between is asked for first");
    let ahead = HolderPast { granted: vec![(key(1), Moment(9_000)), (key(2), Moment(9_000))], paused: false };
    let mut foreign = Holder::resume(key(0), &keys(3), timing, &ahead, Moment(10));
    assert_eq!(foreign.tick(Moment(10)), Standing::Paused, "moments ahead are another clock's");
}

/// Goal: a vote binds the machine, not the process. Method: a witness votes, ends, and starts again: with its past, and
/// without.
#[test]
fn a_vote_outlives_its_process() {
    let mut now = 0;
    let mut witness = counting(&mut now);
    hear(&mut witness, &mut now, 3_000, &[1]);
    assert!(matches!(witness.vote(key(2), Moment(now)), Vote::Dead { .. }));
    let (timing, past) = (LeaseTiming::default(), witness.past(Moment(now)));
    let mut knowing = Witness::resume(key(0), &keys(3), timing, &past, Moment(now));
    let mut forgetful = Witness::new(key(0), &keys(3), timing, Moment(now));
    assert_eq!(knowing.renew(key(1), Moment(now + 9_999)), Renewal::Granted);
    assert_eq!(forgetful.renew(key(1), Moment(now + 9_999)), Renewal::Refused(Millis(1)));
    for witness in [&mut knowing, &mut forgetful] {
        assert_eq!(witness.renew(key(2), Moment(now + 9_999)), Renewal::Refused(Millis(1)));
        assert_eq!(witness.renew(key(2), Moment(now + 10_000)), Renewal::Granted);
    }
    let again = Witness::new(key(0), &keys(3), timing, Moment(now)).past(Moment(now));
    let mut again = Witness::resume(key(0), &keys(3), timing, &again, Moment(now + 5_000));
    assert_eq!(
        again.renew(key(1), Moment(now + 5_000)),
        Renewal::Refused(Millis(5_000)),
        "what it cannot know stays so"
    );
}

/// Goal: a changed configuration keeps what is known, and a change by more than one machine is waited out. Method: one
/// witness more, then two others.
#[test]
fn other_witnesses_keep_the_evidence() {
    let mut now = 0;
    let mut witness = counting(&mut now);
    witness.set_witnesses(&keys(4), Moment(now));
    hear(&mut witness, &mut now, 3_000, &[1, 3]);
    assert!(matches!(witness.vote(key(2), Moment(now)), Vote::Dead { .. }));
    witness.set_witnesses(&[key(0), key(1), key(2), key(5)], Moment(now));
    assert_eq!(witness.vote(key(2), Moment(now)), Vote::Unsure(Unsure::Alone));
    let mut holder = Holder::new(key(0), &keys(3), LeaseTiming::default());
    holder.granted(key(1), Moment(100));
    holder.set_witnesses(&keys(4));
    assert_eq!(holder.tick(Moment(100)), Standing::Paused, "two of four are no majority");
    holder.set_witnesses(&keys(3));
    assert_eq!(holder.tick(Moment(100)), Standing::Asking);
    assert_eq!(holder.granted_at(key(1)), Some(Moment(100)));
}

#[test]
fn two_witnesses_pause_nothing_and_declare_nobody_dead() {
    let mut holder = Holder::new(key(0), &keys(2), LeaseTiming::default());
    assert_eq!(holder.tick(Moment(1_000_000)), Standing::Unwatched);
    let mut witness = Witness::new(key(0), &keys(2), LeaseTiming::default(), Moment(0));
    assert_eq!(witness.vote(key(1), Moment(100)), Vote::Unsure(Unsure::TooFew));
}
