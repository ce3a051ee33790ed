//! One frozen moment, the states a power cut may make of it, and the judgement of one state.

use super::recorder::Recorder;
use super::snapshot::Snapshot;
use super::{FAR, SECTORS, SHIFTED, SMALL, VOLUME};
use crate::checkers::{Frozen, Invariant, Violation};
use crate::disk::{Deaf, Manners, Media, SimDisk};
use crate::executor::Executor;
use crate::memory::BoxMemory;
use crate::rng::{Rng, splitmix};
use crate::stack::{self, Thread};
use block::IoBuf;
use block::raid::facts::epoch_of;
use block::raid::superblock::{SUPERBLOCK_AT, SUPERBLOCK_BYTES, Superblock};
use block::raid::{Array, Membership};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use units::ByteOffset;

/// Of so many recoveries one is cut.
const CUT_EVERY: u64 = 5;
/// Within so many of its events.
const CUT_EVENTS: u64 = 40;

/// The world at an event.
pub struct Moment {
    disks: Snapshot,
    /// What a checker may expect after a power cut here.
    frozen: Frozen,
    /// What the box may remember of its members.
    memory: Vec<Option<Membership>>,
    /// Who is in sync and durably says so, by disk and identity; nobody as long as a slot lacks something.
    good: Vec<(usize, [u8; 16])>,
    /// Disks that are or were members.
    known: Vec<usize>,
    /// The highest epoch that was granted.
    pub granted: u64,
}

/// One crash state, and what is found of it.
pub struct Crash {
    /// The disks.
    media: Vec<Media>,
    /// Which of them are there.
    pub members: Vec<usize>,
    /// What the box remembers.
    memory: Option<Membership>,
    /// Nobody who is there is certain to hold everything.
    may_refuse: bool,
}

/// What became of a recovery.
pub struct Recovery {
    /// What was wrong.
    pub violation: Option<Violation>,
    /// Where it was cut.
    pub cut: Vec<(Crash, Moment)>,
}

type Verdict = Result<(), (Invariant, String)>;

fn was_member(disk: &SimDisk) -> bool {
    let mut bytes = [0; SUPERBLOCK_BYTES];
    disk.media().live().read(usize::try_from(SUPERBLOCK_AT.0).expect("4096"), &mut bytes);
    Superblock::decode(&bytes).is_ok()
}

impl Moment {
    /// Freezes the disks as they are.
    pub fn new(disks: &[Rc<SimDisk>], array: Option<&Array>, memory: Vec<Option<Membership>>, frozen: Frozen) -> Self {
        // A member is good alone once it is in sync and says so durably; until then a start without the others is refused.
        let in_sync = array.map(stack::in_sync).unwrap_or_default();
        let whole = array.is_some_and(|array| array.status().members.len() == in_sync.len());
        let says = in_sync.iter().all(|disk| stack::says_in_sync(&disks[*disk]));
        let identity = |disk: usize| Some((disk, stack::durable_superblock(&disks[disk])?.device));
        let good = if whole && says { in_sync.into_iter().filter_map(identity).collect() } else { Vec::new() };
        let known = disks.iter().filter(|disk| was_member(disk)).map(|disk| disk.number).collect();
        Self { disks: Snapshot::of(disks), frozen, memory, good, known, granted: 0 }
    }

    /// The numbers of its crash states.
    pub fn states(&self) -> std::ops::Range<u64> {
        self.disks.states()
    }

    /// Which disks are there at the restart, and what the box remembers: every set of those that were members, with each
    /// memory.
    pub fn choices(&self) -> Vec<(Vec<usize>, Option<Membership>)> {
        let sets = (1..1usize << self.known.len()).rev().map(|set| {
            let there = self.known.iter().enumerate().filter(|(place, _)| set >> place & 1 == 1);
            there.map(|(_, disk)| *disk).collect::<Vec<_>>()
        });
        sets.flat_map(|set| self.memory.iter().map(move |memory| (set.clone(), memory.clone()))).collect()
    }

    /// One of its states.
    pub fn crash(&self, state: u64, members: Vec<usize>, memory: Option<Membership>) -> Crash {
        let remembered = |device: &[u8; 16]| memory.as_ref().is_some_and(|memory| memory.in_sync.contains(device));
        let may_refuse = !self.good.iter().any(|(disk, device)| members.contains(disk) && remembered(device));
        Crash { media: self.disks.cut(state), members, memory, may_refuse }
    }
}

impl Crash {
    /// A number that differs where the disks, the memory, or what may be expected of them do.
    pub fn key(&self, moment: &Moment) -> u64 {
        let disks = self.media.iter().fold(0, |sum, media| splitmix(sum ^ media.live().fingerprint()));
        let there = self.members.iter().fold(1, |set: u64, disk| set << 4 | *disk as u64);
        [there, sum(&self.memory), moment.frozen.stage(), moment.granted, u64::from(self.may_refuse)]
            .into_iter()
            .fold(disks, |sum, fact| splitmix(sum ^ fact))
    }
}

/// A number that differs where the memory does.
fn sum(memory: &Option<Membership>) -> u64 {
    let Some(Membership { events, in_sync }) = memory else { return 0 };
    let devices = in_sync.iter().flatten().fold(1, |sum, byte| splitmix(sum ^ u64::from(*byte)));
    splitmix(devices ^ events)
}

/// A recovery under way.
struct Patient {
    thread: Thread,
    disks: Vec<Rc<SimDisk>>,
    there: Vec<usize>,
    memory: Rc<BoxMemory>,
    may_refuse: bool,
    granted: u64,
    frozen: Rc<RefCell<Frozen>>,
    recorder: Rc<Recorder>,
    exec: Executor,
}

/// Assembles the state by the production code and judges it. With a number, some recoveries are cut as well.
pub fn recover(crash: Crash, moment: &Moment, number: Option<u64>) -> Recovery {
    let Crash { media, members, memory, may_refuse } = crash;
    let mut rng = Rng::new(2);
    let exec = Executor::new(rng.fork());
    let disk = |(number, media): (usize, Media)| {
        let disk = SimDisk::new(number, stack::MODEL, &exec, rng.fork());
        disk.swap_media(media);
        disk.manners.set(Manners::QUICK);
        disk
    };
    let disks: Vec<Rc<SimDisk>> = media.into_iter().enumerate().map(disk).collect();
    let frozen = Rc::new(RefCell::new(moment.frozen.after_power_cut()));
    let memory = BoxMemory::new(&exec, Rng::new(3), memory);
    let expected = Rc::clone(&frozen);
    let recorder = Recorder::new(&disks, &memory, Rc::new(Deaf), move || expected.borrow().clone());
    recorder.on.set(number.is_some_and(|number| number.is_multiple_of(CUT_EVERY)));
    recorder.every.set(1 + splitmix(number.unwrap_or(0)) % CUT_EVENTS);
    recorder.most.set(1);
    recorder.granted.set(moment.granted);
    let patient = Patient {
        thread: Thread::new(&exec),
        may_refuse,
        there: members,
        granted: moment.granted,
        disks,
        memory,
        frozen,
        recorder: Rc::clone(&recorder),
        exec: exec.clone(),
    };
    let verdict = Rc::new(RefCell::new(Err((Invariant::I14, "it does not come to an end".to_owned()))));
    let (told, end) = (Rc::clone(&verdict), Rc::new(Cell::new(false)));
    let (flag, process) = (Rc::clone(&end), patient.thread.process.clone());
    process.go(async move {
        *told.borrow_mut() = patient.examine().await;
        flag.set(true);
    });
    exec.run(600_000_000, || end.get());
    let cut = recorder.finish().into_iter().map(|moment| second(moment, number.unwrap_or(0))).collect();
    exec.shut_down();
    let found = verdict.borrow().clone().err();
    let violation = found.map(|(invariant, detail)| Violation { invariant, detail, at_us: exec.now_us() });
    Recovery { violation, cut }
}

/// The power goes in the middle of a recovery: one of the states.
fn second(moment: Moment, number: u64) -> (Crash, Moment) {
    let dice = splitmix(number ^ moment.states().end);
    let choices = moment.choices();
    let (members, memory) = choices[usize::try_from(dice % choices.len() as u64).expect("few")].clone();
    let state = splitmix(dice) % moment.states().end;
    (moment.crash(state, members, memory), moment)
}

impl Patient {
    async fn examine(self) -> Verdict {
        let there: Vec<_> = self.there.iter().map(|&disk| Rc::clone(&self.disks[disk])).collect();
        let array = match stack::assemble(&self.thread, &there, &self.memory).await {
            Ok(array) => array,
            Err(_) if self.may_refuse => return Ok(()),
            Err(error) => return Err((Invariant::I14, format!("it is not assembled: {error}"))),
        };
        self.recorder.array.replace(Some(Rc::clone(&array)));
        self.check_grant(&array)?;
        self.check_reads(&array).await?;
        self.until_full(&array).await;
        // What a finished resync left.
        self.check_reads(&array).await?;
        self.check_equal(&array)?;
        for disk in &self.disks {
            let returns = was_member(disk) && !stack::at_work(&array).contains(&disk.number);
            if returns && stack::add(&self.thread, &array, disk, false).await.is_ok() {
                self.until_full(&array).await;
                self.check_reads(&array).await?;
                self.check_equal(&array)?;
            }
        }
        Ok(())
    }

    async fn until_full(&self, array: &Array) {
        while stack::is_filling(array) {
            self.exec.sleep_us(10_000).await;
        }
    }

    /// Where not every member's facts could be read, the gate waits for the store: nothing is claimed.
    fn check_grant(&self, array: &Array) -> Verdict {
        let facts = array.facts();
        let held = facts.load().get(&VOLUME).and_then(|record| epoch_of(record)).unwrap_or(0);
        if facts.complete() && held < self.granted {
            let detail = format!("epoch {} was granted, the facts say {held}", self.granted);
            return Err((Invariant::I12, detail));
        }
        Ok(())
    }

    async fn check_reads(&self, array: &Array) -> Verdict {
        for sector in [SMALL, SHIFTED, FAR] {
            let began = self.frozen.borrow_mut().begins();
            let buffer = IoBuf::new(SECTORS as usize * 512);
            let read = array.disk().read(ByteOffset(u64::from(sector) * 512), buffer).await;
            let bytes = read.map_err(|error| (Invariant::I3, format!("a read fails: {error}")))?;
            self.frozen.borrow_mut().read(began, sector, &bytes).map_err(|detail| (Invariant::I3, detail))?;
        }
        Ok(())
    }

    fn check_equal(&self, array: &Array) -> Verdict {
        let in_sync = stack::in_sync(array);
        let mut contents = in_sync.iter().map(|&disk| self.disks[disk].media().live().clone());
        let start = usize::try_from(stack::DATA_OFFSET).expect("fits memory");
        let Some(first) = contents.next() else { return Ok(()) };
        for other in contents {
            if let Some(place) = first.differing_sectors(&other, start, first.size() - start).next() {
                let sector = (place - start) / 512;
                return Err((Invariant::I6, format!("disks {in_sync:?} are in sync and differ at sector {sector}")));
            }
        }
        Ok(())
    }
}
