//! Crashes, exhaustively: every small workload, the power cut after every event at the disks, and every way in which the
//! caches may have kept their writes.
//!
//! Idea: CrashMonkey and ACE (Mohan and others, OSDI 2018): few operations in all combinations find more than long random
//! ones. A [`Mirror`] of 8 MiB runs a few [`Step`]s; at each event of a member (a write received, applied or ended, a flush
//! ended) the world is frozen; from each frozen moment every subset of what is volatile is a crash state, per member on
//! its own, torn at 512 bytes as well; each state is assembled by the production code from every set of the disks that
//! were members, with what the box remembers of them; then read back and judged (I3, I12), resynced and compared (I6);
//! then the disks that were not there return one after the other, and all of it is looked at again. A start may be refused
//! unless one of those is there that were in sync, by their own durable word and by the box's memory. Some recoveries are cut as well, in
//! their middle, and recovered from again.

mod recorder;
mod snapshot;
mod state;
mod volumes;

pub use volumes::all as volumes;

use crate::checkers::{Ask, Invariant, Outcome, Referee, Stamp, Violation};
use crate::disk::{Manners, SimDisk};
use crate::executor::{Executor, Stopped};
use crate::memory::BoxMemory;
use crate::rng::Rng;
use crate::stack::{self, Thread};
use block::raid::Array;
use block::{Durability, IoBuf};
use recorder::Recorder;
use state::Moment;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;
use units::{ByteLen, ByteOffset, Epoch, Incarnation, VolumeId};

/// One step of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Eight sectors.
    Small,
    /// Eight sectors, half of them those of `Small`, at the same time as one in another chunk.
    Overlap,
    /// `Small` with FUA.
    Fua,
    /// The sectors of `Small` become zeroes.
    Zeroes,
    /// A flush.
    Flush,
    /// The second member is failed.
    Fail,
    /// The second disk is put back.
    Add,
    /// The third disk is put into the empty slot.
    Spare,
    /// Three records of a grant are stored, each longer than a sector.
    Grant,
    /// A slot more.
    Grow,
    /// A clean stop.
    Stop,
    /// Nothing for so long that bits are cleared and the array is marked clean.
    Idle,
}

/// What is crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Members at the beginning.
    pub slots: usize,
    /// Disks in the box.
    pub disks: usize,
}

/// Two members and no other disk.
pub const TWO: Mirror = Mirror { slots: 2, disks: 2 };
/// Two members, and a disk that may take the place of one.
pub const SPARE: Mirror = Mirror { slots: 2, disks: 3 };
/// Three members.
pub const THREE: Mirror = Mirror { slots: 3, disks: 3 };

const STEPS: [Step; 10] = [
    Step::Small,
    Step::Overlap,
    Step::Fua,
    Step::Zeroes,
    Step::Flush,
    Step::Fail,
    Step::Add,
    Step::Grant,
    Step::Stop,
    Step::Idle,
];
/// How long `Idle` is: md's five seconds of laziness, twice, and some.
const IDLE_US: u64 = 12_000_000;
/// The places written to: two overlapping ones in a chunk, one in another.
const SMALL: u32 = 0;
const SHIFTED: u32 = 4;
const FAR: u32 = 9000;
const SECTORS: u32 = 8;
/// Whose grant is recorded.
const VOLUME: VolumeId = VolumeId([7; 16]);

/// A crash state that broke a promise.
#[derive(Clone, Debug)]
pub struct Red {
    /// What was run.
    pub workload: String,
    /// After which event.
    pub event: usize,
    /// Which of its states.
    pub state: u64,
    /// How many states had been looked at.
    pub number: u64,
    /// Which disks were there.
    pub members: Vec<usize>,
    /// What was wrong.
    pub violation: Violation,
}

/// What a run of the harness did.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Workloads run.
    pub workloads: u64,
    /// Moments at which the power was cut.
    pub cuts: u64,
    /// States assembled and judged.
    pub states: u64,
    /// Recoveries that were cut and recovered from.
    pub second: u64,
    /// Those that were wrong.
    pub red: Vec<Red>,
}

impl fmt::Display for Red {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, event, state, members, violation, .. } = self;
        write!(f, "{workload}, cut after event {event}, state {state}, disks {members:?}: {violation}")
    }
}

impl Found {
    /// For people.
    #[must_use]
    pub fn page(&self, spent_s: f64) -> String {
        let rate = self.states as f64 / spent_s.max(0.001);
        let mut page = format!(
            "{} workloads, {} cuts, {} crash states in {spent_s:.1} s ({rate:.0} a second), {} cut again, {} red",
            self.workloads,
            self.cuts,
            self.states,
            self.second,
            self.red.len()
        );
        for red in self.red.iter().take(5) {
            page.push_str(&format!("\n{red}"));
        }
        page
    }
}

/// Steps on a mirror, crashed from one of them on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What is crashed.
    pub mirror: Mirror,
    /// What is done.
    pub steps: Vec<Step>,
    /// The number of the first step that is crashed.
    pub from: usize,
}

/// All workloads of one to `ops` steps on a mirror of two; of one step on a mirror of three; and a few longer ones in
/// which members come and go.
#[must_use]
pub fn workloads(ops: usize) -> Vec<Workload> {
    use Step::{Add, Fail, Flush, Grow, Idle, Small, Spare};
    let of = |mirror, steps: &[Step], from| Workload { mirror, steps: steps.to_vec(), from };
    let mut all = vec![
        of(TWO, &[Fail, Small, Idle, Add], 0),
        of(THREE, &[Small, Fail, Small], 1),
        // The second disk returns after another one had its place, and bits were cleared.
        of(SPARE, &[Fail, Small, Spare, Idle, Flush], 3),
        of(SPARE, &[Grow, Spare, Small, Idle], 2),
    ];
    all.extend(STEPS.map(|step| of(THREE, &[step], 0)));
    for len in 1..=ops {
        let count = STEPS.len().pow(u32::try_from(len).expect("small"));
        all.extend((0..count).map(|number| of(TWO, &nth(number, len), 0)));
    }
    all
}

/// Runs workloads, or only until one breaks one of these promises.
#[must_use]
pub fn run(workloads: &[Workload], until: &[Invariant]) -> Found {
    let mut found = Found::default();
    for workload in workloads {
        one(workload, &mut found);
        if found.red.iter().any(|red| until.contains(&red.violation.invariant)) {
            break;
        }
    }
    found
}

/// The `number`th workload of this length.
fn nth(number: usize, len: usize) -> Vec<Step> {
    let digit = |place: usize| number / STEPS.len().pow(u32::try_from(place).expect("small")) % STEPS.len();
    (0..len).map(|place| STEPS[digit(place)]).collect()
}

/// Runs one workload, then crashes it everywhere. Stops at the first red state.
fn one(workload: &Workload, found: &mut Found) {
    found.workloads += 1;
    let (moments, seen) = record(workload);
    let red = |event, state, number, members, violation| {
        let Workload { mirror, steps, .. } = workload;
        let workload = format!("{} of {} disks: {steps:?}", mirror.slots, mirror.disks);
        Red { workload, event, state, number, members, violation }
    };
    if let Some(violation) = seen {
        return found.red.push(red(0, 0, found.states, Vec::new(), violation));
    }
    let mut known = BTreeSet::new();
    for (event, moment) in moments.iter().enumerate() {
        found.cuts += 1;
        for state in moment.states() {
            for (members, memory) in moment.choices() {
                let crash = moment.crash(state, members.clone(), memory);
                if !known.insert(crash.key(moment)) {
                    continue;
                }
                found.states += 1;
                let recovery = state::recover(crash, moment, Some(found.states));
                if let Some(violation) = recovery.violation {
                    return found.red.push(red(event, state, found.states, members, violation));
                }
                for (crash, moment) in recovery.cut {
                    found.second += 1;
                    let members = crash.members.clone();
                    if let Some(violation) = state::recover(crash, &moment, None).violation {
                        return found.red.push(red(event, state, found.states, members, violation));
                    }
                }
            }
        }
    }
}

/// Runs the steps on a fresh, quiet array and returns every frozen moment, and what was seen to be wrong before any crash.
fn record(workload: &Workload) -> (Vec<Moment>, Option<Violation>) {
    let Workload { mirror, steps, from } = workload.clone();
    let mut rng = Rng::new(1);
    let exec = Executor::new(rng.fork());
    let disks: Vec<_> = (0..mirror.disks).map(|number| SimDisk::new(number, stack::MODEL, &exec, rng.fork())).collect();
    disks.iter().for_each(|disk| disk.manners.set(Manners::QUICK));
    let memory = BoxMemory::new(&exec, rng.fork(), None);
    let referee = Referee::new(&exec);
    referee.watch(&disks);
    let expected = Rc::clone(&referee);
    let recorder = Recorder::new(&disks, &memory, Rc::<Referee>::clone(&referee), move || expected.freeze());
    let (listener, done) = (Rc::clone(&recorder), Rc::new(Cell::new(false)));
    let (thread, end, sleeper, judge) = (Thread::new(&exec), Rc::clone(&done), exec.clone(), Rc::clone(&referee));
    let process = thread.process.clone();
    process.go(async move {
        let members = &disks[..mirror.slots];
        let array = stack::create(&thread, members, &memory, &mut rng).await.expect("blank disks become an array");
        while !stack::is_whole(&array) {
            sleeper.sleep_us(1_000_000).await;
        }
        sleeper.sleep_us(30_000_000).await; // Long enough for the array to be marked clean.
        listener.array.replace(Some(Rc::clone(&array)));
        for (number, step) in steps.into_iter().enumerate() {
            listener.on.set(number >= from);
            listener.freeze();
            match step {
                Step::Idle => sleeper.sleep_us(IDLE_US).await,
                Step::Grant => grant(&array, &listener.granted).await,
                step => take(step, &thread, &array, &disks, &judge).await,
            }
            while number + 1 == from && stack::is_filling(&array) {
                sleeper.sleep_us(1_000).await;
            }
            listener.freeze();
        }
        while stack::is_filling(&array) {
            sleeper.sleep_us(1_000).await;
        }
        listener.on.set(false);
        end.set(true);
    });
    let stopped = exec.run(3_600_000_000, || done.get());
    assert_eq!(stopped, Stopped::Done, "a workload on good disks ends");
    let moments = recorder.finish();
    exec.shut_down();
    (moments, referee.violations().into_iter().next())
}

async fn take(step: Step, thread: &Thread, array: &Array, disks: &[Rc<SimDisk>], referee: &Referee) {
    match step {
        Step::Small => write(array, referee, SMALL, Kind::Cached).await,
        Step::Fua => write(array, referee, SMALL, Kind::Fua).await,
        Step::Zeroes => write(array, referee, SMALL, Kind::Zeroes).await,
        Step::Overlap => {
            let (near, far) = (write(array, referee, SHIFTED, Kind::Cached), write(array, referee, FAR, Kind::Cached));
            stack::both(near, far).await;
        }
        Step::Flush => {
            let began = referee.begins();
            if array.disk().flush().await.is_ok() {
                referee.flush_done(began);
            }
        }
        Step::Fail => drop(stack::fail(array, 1).await),
        Step::Add if !stack::at_work(array).contains(&1) => drop(stack::add(thread, array, &disks[1], false).await),
        Step::Spare => drop(stack::add(thread, array, &disks[2], false).await),
        Step::Grow => drop(array.grow(array.status().members.len() + 1).await),
        Step::Stop => drop(array.stop().await),
        Step::Add | Step::Grant | Step::Idle => {}
    }
}

/// Stores the next epochs.
async fn grant(array: &Array, granted: &Cell<u64>) {
    for _ in 0..3 {
        let epoch = granted.get() + 1;
        let owners = vec![u8::try_from(epoch).expect("few"); 464];
        let record = [&epoch.to_le_bytes()[..], &[0; 8], &owners].concat();
        if array.facts().store(VOLUME, &record).await.is_ok() {
            granted.set(epoch);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cached,
    Fua,
    Zeroes,
}

async fn write(array: &Array, referee: &Referee, sector: u32, kind: Kind) {
    let (host, epoch, incarnation) = (0, Epoch(1), Incarnation(1));
    let (fua, zeroes) = (kind == Kind::Fua, kind == Kind::Zeroes);
    referee.raise_asked(epoch);
    let write = referee.write_begins(Ask { host, epoch, incarnation, sector, sectors: SECTORS, fua, zeroes });
    let (at, how) = (ByteOffset(u64::from(sector) * 512), if fua { Durability::Fua } else { Durability::Cached });
    let answer = if zeroes {
        array.disk().write_zeroes(at, ByteLen(u64::from(SECTORS) * 512), how, true).await
    } else {
        let mut bytes = IoBuf::new(SECTORS as usize * 512);
        for (sector, part) in (sector..).zip(bytes.chunks_exact_mut(512)) {
            Stamp { write, sector, epoch }.fill(part);
        }
        array.disk().write(at, bytes.freeze(), how).await
    };
    let outcome = if answer.is_ok() { Outcome::Acked } else { Outcome::Unknown };
    referee.write_told(write, outcome, true);
}
