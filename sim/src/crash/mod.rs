//! Crashes, exhaustively: every small workload, the power cut after every event at the disks, and every way in which the
//! caches may have kept their writes.
//!
//! Idea: CrashMonkey and ACE (Mohan and others, OSDI 2018): few operations in all combinations find more than long random
//! ones. A two-way mirror of 8 MiB runs one to three [`Step`]s; at each event of a member (a write received, applied or
//! ended, a flush ended) the world is frozen; from each frozen moment every subset of what is volatile is a crash state, per
//! member on its own, torn at 512 bytes as well; each state is assembled by the production code from both members, and
//! from each one alone, with what the box remembers of them; then read back and judged (I3), resynced and compared (I6). A
//! start from one alone may be refused unless both were in sync: that one may be old.

mod state;

use crate::checkers::{Ask, Frozen, Outcome, Referee, Stamp, Violation};
use crate::disk::{Edge, Manners, SimDisk};
use crate::executor::{Executor, Stopped};
use crate::memory::BoxMemory;
use crate::rng::Rng;
use crate::stack;
use block::raid::Array;
use block::runtime::Rt;
use block::{DeviceError, Durability, IoBuf, IoData};
use state::Moment;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;
use units::{ByteOffset, Epoch, Incarnation};

/// One step of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Eight sectors.
    Small,
    /// Eight sectors, half of them those of `Small`, at the same time as one in another chunk.
    Overlap,
    /// `Small` with FUA.
    Fua,
    /// A flush.
    Flush,
    /// The second member is failed.
    Fail,
    /// The second member is put back.
    Add,
    /// A clean stop.
    Stop,
    /// Nothing for so long that bits are cleared and the array is marked clean.
    Idle,
}

const STEPS: [Step; 8] =
    [Step::Small, Step::Overlap, Step::Fua, Step::Flush, Step::Fail, Step::Add, Step::Stop, Step::Idle];
/// How long `Idle` is: md's five seconds of laziness, twice, and some.
const IDLE_US: u64 = 12_000_000;
/// The places written to: two overlapping ones in a chunk, one in another.
const SMALL: u32 = 0;
const SHIFTED: u32 = 4;
const FAR: u32 = 9000;
const SECTORS: u32 = 8;

/// A crash state that broke a promise.
#[derive(Clone, Debug)]
pub struct Red {
    /// What was run.
    pub workload: Vec<Step>,
    /// After which event.
    pub event: usize,
    /// Which of its states.
    pub state: u64,
    /// Which members were there.
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
    /// Those that were wrong.
    pub red: Vec<Red>,
}

impl fmt::Display for Red {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, event, state, members, violation } = self;
        write!(f, "{workload:?}, cut after event {event}, state {state}, members {members:?}: {violation}")
    }
}

impl Found {
    /// For people.
    #[must_use]
    pub fn page(&self, spent_s: f64) -> String {
        let rate = self.states as f64 / spent_s.max(0.001);
        let mut page = format!(
            "{} workloads, {} cuts, {} crash states in {spent_s:.1} s ({rate:.0} a second), {} red",
            self.workloads,
            self.cuts,
            self.states,
            self.red.len()
        );
        for red in self.red.iter().take(5) {
            page.push_str(&format!("\n{red}"));
        }
        page
    }
}

/// All workloads of one to `ops` steps.
#[must_use]
pub fn all(ops: usize) -> Found {
    let mut found = Found::default();
    for len in 1..=ops {
        for number in 0..STEPS.len().pow(u32::try_from(len).expect("small")) {
            workload(&nth(number, len), &mut found);
        }
    }
    found
}

/// The `number`th workload of this length.
fn nth(number: usize, len: usize) -> Vec<Step> {
    let digit = |place: usize| number / STEPS.len().pow(u32::try_from(place).expect("small")) % STEPS.len();
    (0..len).map(|place| STEPS[digit(place)]).collect()
}

/// Runs one workload, then crashes it everywhere.
pub fn workload(steps: &[Step], found: &mut Found) {
    found.workloads += 1;
    let moments = record(steps);
    let mut known = BTreeSet::new();
    for (event, moment) in moments.iter().enumerate() {
        found.cuts += 1;
        for state in moment.states() {
            for (members, memory) in moment.choices() {
                let media = moment.media(state);
                let key = (state::fingerprint(&media), members.clone(), state::sum(&memory), moment.frozen.stage());
                if !known.insert(key) {
                    continue;
                }
                found.states += 1;
                let crash = state::Crash { media, members: members.clone(), memory, may_refuse: !moment.whole };
                if let Some(violation) = state::recover(crash, &moment.frozen) {
                    let workload = steps.to_vec();
                    found.red.push(Red { workload, event, state, members, violation });
                    return;
                }
            }
        }
    }
}

/// Listens at the disks and freezes the world at each event.
struct Recorder {
    referee: Rc<Referee>,
    disks: RefCell<Vec<Rc<SimDisk>>>,
    memory: Rc<BoxMemory>,
    array: RefCell<Option<Rc<Array>>>,
    moments: RefCell<Vec<Moment>>,
    on: Cell<bool>,
}

impl Recorder {
    fn freeze(&self) {
        if !self.on.get() {
            return;
        }
        // A member is good alone once it is in sync and says so durably; until then a start without the other is refused.
        let in_sync = self.array.borrow().as_ref().is_some_and(|array| stack::in_sync(array).len() == 2);
        let whole = in_sync && self.disks.borrow().iter().all(|disk| stack::says_in_sync(disk));
        let frozen: Frozen = self.referee.freeze();
        self.moments.borrow_mut().push(Moment::new(&self.disks.borrow(), self.memory.crash_states(), frozen, whole));
    }
}

impl Edge for Recorder {
    fn received(&self, disk: usize, op: u64, at: u64, data: &IoData) {
        self.referee.received(disk, op, at, data);
    }

    fn applied(&self, disk: usize, op: u64, at: u64, data: &IoData, before: &[u8]) {
        self.referee.applied(disk, op, at, data, before);
        self.freeze();
    }

    fn ended(&self, disk: usize, op: u64, data: Option<&IoData>, answer: Result<(), DeviceError>) {
        self.referee.ended(disk, op, data, answer);
        self.freeze();
    }
}

/// Runs the steps on a fresh, quiet array and returns every frozen moment.
fn record(steps: &[Step]) -> Vec<Moment> {
    let mut rng = Rng::new(1);
    let exec = Executor::new(rng.fork());
    let disks: Vec<_> = (0..2).map(|number| SimDisk::new(number, stack::DISK_LEN, &exec, rng.fork())).collect();
    let manners = Manners { fast_us: 10, slow_us: 40, slower: 1, ..Manners::default() };
    disks.iter().for_each(|disk| disk.manners.set(manners));
    let memory = BoxMemory::new(&exec, rng.fork(), None);
    let recorder = Rc::new(Recorder {
        memory: Rc::clone(&memory),
        referee: Referee::new(&exec),
        disks: RefCell::new(disks.clone()),
        array: RefCell::new(None),
        moments: RefCell::default(),
        on: Cell::new(false),
    });
    disks.iter().for_each(|disk| disk.listen(Rc::<Recorder>::clone(&recorder)));
    let hears = Rc::downgrade(&recorder);
    memory.listen(Some(Rc::new(move || hears.upgrade().into_iter().for_each(|recorder| recorder.freeze()))));
    let (steps, listener, done) = (steps.to_vec(), Rc::clone(&recorder), Rc::new(Cell::new(false)));
    let (process, end, sleeper) = (exec.process(), Rc::clone(&done), exec.clone());
    let rt: Rt = Rc::new(process.clone());
    process.go(async move {
        let array = stack::create(&rt, &disks, &memory, &mut rng).await.expect("blank disks become an array");
        while !stack::is_whole(&array) {
            sleeper.sleep_us(1_000_000).await;
        }
        sleeper.sleep_us(30_000_000).await; // Long enough for the array to be marked clean.
        *listener.array.borrow_mut() = Some(Rc::clone(&array));
        listener.on.set(true);
        listener.freeze();
        for step in steps {
            match step {
                Step::Idle => sleeper.sleep_us(IDLE_US).await,
                step => take(step, &array, &disks, &listener.referee).await,
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
    recorder.array.take();
    recorder.disks.take();
    let moments = recorder.moments.take();
    exec.shut_down();
    moments
}

async fn take(step: Step, array: &Array, disks: &[Rc<SimDisk>], referee: &Referee) {
    match step {
        Step::Small => write(array, referee, SMALL, false).await,
        Step::Fua => write(array, referee, SMALL, true).await,
        Step::Overlap => {
            let (near, far) = (write(array, referee, SHIFTED, false), write(array, referee, FAR, false));
            stack::both(near, far).await;
        }
        Step::Flush => {
            let began = referee.begins();
            if array.disk().flush().await.is_ok() {
                referee.flush_done(began);
            }
        }
        Step::Fail => {
            let _ = stack::fail(array, 1).await;
        }
        Step::Add => {
            if !stack::at_work(array).contains(&1) {
                let _ = stack::add(array, &disks[1], false).await;
            }
        }
        Step::Stop => {
            let _ = array.stop().await;
        }
        Step::Idle => {}
    }
}

async fn write(array: &Array, referee: &Referee, sector: u32, fua: bool) {
    let (host, epoch, incarnation) = (0, Epoch(1), Incarnation(1));
    referee.raise_asked(epoch);
    let write = referee.write_begins(Ask { host, epoch, incarnation, sector, sectors: SECTORS, fua });
    let mut bytes = IoBuf::new(SECTORS as usize * 512);
    for (sector, part) in (sector..).zip(bytes.chunks_exact_mut(512)) {
        Stamp { write, sector, epoch }.fill(part);
    }
    let how = if fua { Durability::Fua } else { Durability::Cached };
    let answer = array.disk().write(ByteOffset(u64::from(sector) * 512), bytes.freeze(), how).await;
    let outcome = if answer.is_ok() { Outcome::Acked } else { Outcome::Unknown };
    referee.write_told(write, outcome, true);
}
