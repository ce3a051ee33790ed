//! What the gate costs an operation: `cargo test -p block --release gate::test::speed -- --nocapture`.

use super::host;
use crate::gate::*;
use units::Moment;

/// Goal: `admit` and `ended` stay a few branches (≤ 30 ns each in a release build; here only the order of magnitude is
/// held, as tests run in debug builds on busy machines). Method: a million pairs with 32 operations in flight.
#[test]
#[allow(clippy::disallowed_methods, reason = "a measurement looks at the clock")]
fn admission_is_cheap() {
    const PAIRS: u32 = 1_000_000;
    let mut gate = Gate::open("web1".parse().expect("a name"), &[], true, None, Moment(0));
    let claim = Claim { epoch: Epoch(1), shared: false, owners: vec![(host('A'), Mode::Rw)] };
    gate.step(Moment(0), Event::Raise(AskId(1), claim));
    gate.step(Moment(0), Event::Stored(Ok(())));
    gate.step(Moment(0), Event::Attach(SessionId(1), Request::Stock { host: host('A'), mode: Mode::Rw }));
    let admitted = gate.step(Moment(0), Event::Stored(Ok(())));
    let [Command::Admitted(_, door, _)] = admitted[..] else { panic!("admitted at once, not {admitted:?}") };
    let admit = |gate: &mut Gate| gate.admit(door, Kind::Write, Moment(1)).expect("the owner may write");
    let mut queue: std::collections::VecDeque<Ticket> = (0..32).map(|_| admit(&mut gate)).collect();
    let start = std::time::Instant::now();
    for _ in 0..PAIRS {
        queue.push_back(admit(&mut gate));
        let drained = gate.ended(queue.pop_front().expect("32 are in flight"));
        assert!(!drained);
    }
    let pair_ns = start.elapsed().as_nanos() / u128::from(PAIRS);
    println!("admit + ended: {pair_ns} ns");
    assert!(pair_ns < 5_000, "{pair_ns} ns for one operation");
}
