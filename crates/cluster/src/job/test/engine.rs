//! The engine alone, with a store and nobody else.

use crate::ha::Recovery;
use crate::job::{Command, Event, HISTORY_MAX, Outcome, Ownership, Record, Run, Task, cancel};
use crate::migrate::Migration;
use crate::store::{Engine, Entry, Memory, Txn};
use units::{HostKey, Millis, Moment};

const CLOCK: &str = "boot-1";

fn key(n: u8) -> HostKey {
    HostKey([n; 32])
}

/// A store with a VM, and a recovery of it in its first controller's hands.
fn begun() -> (Memory, Run<Task>) {
    let owned = Ownership::new("web1".parse().expect("a name"), Vec::new()).expect("no volumes");
    let mut store = Memory::new();
    store.txn(&Txn { then: owned.puts(), ..Txn::default() }).expect("an empty store");
    let (plan, after) = Recovery::new(&owned, key(1), vec![key(2)], false);
    let id = "j1".parse().expect("an id");
    let who = (key(9), id, CLOCK);
    let (mut run, commands) = Run::create(who, Task::Recover(plan), (&owned, &after), Millis(60_000), Moment(5));
    let commands = answer(&mut store, &mut run, commands, 6);
    assert!(matches!(commands[..], [Command::Act(..), Command::Act(..)]), "{commands:?}");
    (store, run)
}

/// Lets the store answer until it is not asked any more.
fn answer(store: &mut Memory, run: &mut Run<Task>, mut commands: Vec<Command>, now: u64) -> Vec<Command> {
    while let [Command::Store(..) | Command::Read(..)] = &commands[..] {
        let event = match commands.remove(0) {
            Command::Store(ticket, txn) => Event::Stored(ticket, store.txn(&txn).expect("well-formed")),
            Command::Read(ticket, key) => Event::Read(ticket, store.get(&key).expect("memory")),
            Command::Act(..) => unreachable!("matched above"),
        };
        commands = run.step(event, Moment(now));
    }
    commands
}

fn stored(store: &mut Memory) -> Entry {
    store.get(&"/job/j1".parse().expect("a key")).expect("memory").expect("it was made")
}

fn saves(commands: &[Command]) -> bool {
    matches!(commands, [Command::Store(..)])
}

/// Goal: whoever was taken over lets go at its next save and asks for nothing more. Method: two runs of one job.
#[test]
fn who_was_taken_over_lets_go() {
    let (mut store, mut first) = begun();
    let taken = Run::take_over((key(8), CLOCK), &stored(&mut store), Millis(2_000), Moment(900)).expect("not ended");
    let (mut second, commands) = taken;
    let commands = answer(&mut store, &mut second, commands, 901);
    assert_eq!(commands.len(), 2, "it asks everything again");
    assert_eq!((second.record().term, second.record().spent_ms), (2, Millis(2_000)));
    let commands = first.step(Event::Tick, Moment(4_000));
    assert!(saves(&commands), "the fence takes long, which is to be seen: {commands:?}");
    let commands = answer(&mut store, &mut first, commands, 4_001);
    assert_eq!((commands.len(), first.is_over(), first.outcome()), (0, true, None));
    assert_eq!(first.step(Event::Tick, Moment(9_000)), []);
}

/// Goal: an answer that was lost is found out, whether the transaction happened or not. Method: both.
#[test]
fn a_lost_answer_is_found_out() {
    for happened in [false, true] {
        let (mut store, mut run) = begun();
        let commands = run.step(Event::Tick, Moment(4_000));
        let [Command::Store(ticket, txn)] = &commands[..] else {
            panic!("it says that it waits: {commands:?}");
        };
        if happened {
            store.txn(txn).expect("well-formed");
        }
        assert_eq!(run.step(Event::StoreLost(*ticket), Moment(4_001)), [], "a store that fails is not hurried");
        let commands = run.step(Event::Tick, Moment(4_300));
        assert!(matches!(commands[..], [Command::Read(..)]), "{commands:?}");
        let commands = answer(&mut store, &mut run, commands, 4_301);
        assert!(!run.is_over() && !commands.is_empty(), "happened: {happened}: {commands:?}");
        assert!(run.record().blocked.is_some());
        assert_eq!(Record::<Task>::read(&stored(&mut store).value).expect("ours"), *run.record());
    }
}

/// Goal: a wish to cancel reaches the owner through the store. Method: set it behind its back; then it is kept.
#[test]
fn a_wish_is_seen_at_the_next_save() {
    let (mut store, mut run) = begun();
    let wish = cancel::<Task>(&stored(&mut store)).expect("it has not ended");
    assert!(store.txn(&wish).expect("well-formed").held);
    let commands = run.step(Event::Tick, Moment(4_000));
    let _ = answer(&mut store, &mut run, commands, 4_001);
    assert!(run.record().cancel && !run.is_over());
}

/// Goal: an ownership that somebody else moved ends the job, which touches nothing more. Method: move it.
#[test]
fn a_moved_ownership_is_a_conflict() {
    let (mut store, mut run) = begun();
    let owned = run.record().owned.clone();
    let moved = owned.moved(units::Epoch(40), Some(key(7)), Vec::new());
    store.txn(&Txn { then: moved.puts(), ..Txn::default() }).expect("well-formed");
    let at = stored(&mut store).changed;
    let gone = crate::job::Report::Gone { host: key(1), proof: crate::job::Proof::Power };
    let commands = run.step(Event::Report(at, gone), Moment(100));
    assert!(saves(&commands), "it goes to the next host: {commands:?}");
    let commands = answer(&mut store, &mut run, commands, 101);
    // The refusal is looked into at once, or at the next tick.
    let ticked = run.step(Event::Tick, Moment(500));
    let ticked = answer(&mut store, &mut run, ticked, 501);
    assert_eq!((commands.len(), ticked.len(), run.outcome()), (0, 0, Some(&Outcome::Conflict)));
    let now = store.get(&Ownership::key(&owned.vm)).expect("memory").expect("there");
    assert_eq!(Ownership::read(&now.value).expect("ours"), moved);
}

/// Goal: a job that changes hands for ever stays small. Method: a hundred takeovers.
#[test]
fn history_is_bounded() {
    let (mut store, _) = begun();
    for n in 0..100 {
        let taken =
            Run::<Task>::take_over((key(8), CLOCK), &stored(&mut store), Millis(1), Moment(n)).expect("not ended");
        let (mut run, commands) = taken;
        let _ = answer(&mut store, &mut run, commands, n);
    }
    let record = Record::<Task>::read(&stored(&mut store).value).expect("ours");
    assert_eq!((record.history.len(), record.term), (HISTORY_MAX, 101));
    assert_eq!(record.history[0].after_ms, Millis(0));
}

/// Goal: a migration that a host refuses says in the host's words why. Method: the destination has no QEMU.
#[test]
fn a_refused_migration_says_why() {
    let new = Ownership::new("web1".parse().expect("a name"), Vec::new()).expect("no volumes");
    let owned = new.moved(units::Epoch(3), Some(key(1)), Vec::new());
    let mut store = Memory::new();
    store.txn(&Txn { then: owned.puts(), ..Txn::default() }).expect("an empty store");
    let (plan, after) = Migration::new(&owned, key(2), false);
    let who = (key(9), "j1".parse().expect("an id"), CLOCK);
    let task = Task::Migrate(plan);
    let (mut run, commands) = Run::create(who, task, (&owned, &after), Millis(60_000), Moment(5));
    let _ = answer(&mut store, &mut run, commands, 6);
    let incoming = crate::job::Action::Incoming { host: key(2), epoch: units::Epoch(5) };
    let refused = crate::job::Report::Refused(incoming, "there is no QEMU".to_owned());
    let commands = run.step(Event::Report(stored(&mut store).changed, refused), Moment(100));
    let _ = answer(&mut store, &mut run, commands, 101);
    let last = run.record().history.last().expect("it was begun");
    assert_eq!(last.why.as_deref(), Some("it was refused: there is no QEMU"));
}
