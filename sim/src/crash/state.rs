//! One frozen moment, the states a power cut may make of it, and the judgement of one state.

use super::{FAR, SECTORS, SHIFTED, SMALL};
use crate::checkers::{Frozen, Invariant, Violation};
use crate::disk::{Fate, Manners, Media, SimDisk};
use crate::executor::Executor;
use crate::memory::BoxMemory;
use crate::rng::{Rng, splitmix};
use crate::stack;
use block::raid::Membership;
use block::runtime::Rt;
use block::{IoBuf, IoData};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use units::ByteOffset;

/// Up to so many volatile writes every subset is tried; above, each alone and a sample.
const ALL_SUBSETS_MAX: usize = 6;
/// How many states of a moment with more volatile writes.
const SAMPLE: u64 = 64;

/// The world at an event.
pub struct Moment {
    media: Vec<Media>,
    /// Volatile writes: disk and number within it.
    volatile: Vec<(usize, u64)>,
    /// What a checker may expect after a power cut here.
    pub frozen: Frozen,
    /// What the box may remember of its members.
    memory: Vec<Option<Membership>>,
    /// Both members are in sync: either starts alone.
    pub whole: bool,
}

/// One crash state, and what is found of it.
pub struct Crash {
    /// The disks.
    pub media: Vec<Media>,
    /// Which of them are there.
    pub members: Vec<usize>,
    /// What the box remembers.
    pub memory: Option<Membership>,
    /// A start with fewer than all may be refused.
    pub may_refuse: bool,
}

impl Moment {
    /// Freezes the disks as they are. What is in flight may be kept like what is in a cache.
    pub fn new(disks: &[Rc<SimDisk>], memory: Vec<Option<Membership>>, frozen: Frozen, whole: bool) -> Self {
        let mut media: Vec<Media> = disks.iter().map(|disk| disk.media().clone()).collect();
        for (disk, media) in disks.iter().zip(&mut media) {
            let mut caught: Vec<(usize, IoData)> = Vec::new();
            disk.each_in_flight(|_, at, data, applied| {
                if !applied {
                    caught.push((at, data.clone()));
                }
            });
            caught.iter().for_each(|(at, data)| media.write(*at, data, false));
        }
        let of = |(disk, media): (usize, &Media)| media.volatile().into_iter().map(move |write| (disk, write));
        let volatile = media.iter().enumerate().flat_map(of).collect();
        Self { media, volatile, frozen, memory, whole }
    }

    /// The numbers of its crash states.
    pub fn states(&self) -> impl Iterator<Item = u64> + use<> {
        let count = self.volatile.len();
        // Every subset whole, and every subset once more with what is kept torn.
        let all = if count <= ALL_SUBSETS_MAX { 2 << count } else { SAMPLE };
        0..all
    }

    /// Which members are there at the restart, and what the box remembers: both and each one alone, with each memory.
    pub fn choices(&self) -> Vec<(Vec<usize>, Option<Membership>)> {
        let memories = self.memory.iter();
        memories.flat_map(|memory| [vec![0, 1], vec![0], vec![1]].map(|members| (members, memory.clone()))).collect()
    }

    /// The disks in one of the states.
    pub fn media(&self, state: u64) -> Vec<Media> {
        let count = self.volatile.len();
        let sampled = count > ALL_SUBSETS_MAX;
        let bits = match (sampled, state) {
            (false, _) => state >> 1,
            (true, 0) => 0,
            (true, 1) => u64::MAX,
            (true, _) => splitmix(state),
        };
        let torn = state & 1 == 1 && (!sampled || state > 1);
        let mut media = self.media.clone();
        for (disk, media) in media.iter_mut().enumerate() {
            let fate = |write: u64| {
                let place = self.volatile.iter().position(|volatile| *volatile == (disk, write)).expect("listed above");
                match bits >> (place % 64) & 1 == 1 {
                    true if torn => Fate::Torn,
                    true => Fate::Kept,
                    false => Fate::Lost,
                }
            };
            media.cut(&mut Rng::new(state), fate);
        }
        media
    }
}

/// A number that differs where the content differs.
pub fn fingerprint(media: &[Media]) -> u64 {
    media.iter().fold(0, |sum, media| splitmix(sum ^ media.live().fingerprint()))
}

/// A number that differs where the memory does.
pub fn sum(memory: &Option<Membership>) -> u64 {
    let Some(Membership { events, in_sync }) = memory else { return 0 };
    let devices = in_sync.iter().flatten().fold(1, |sum, byte| splitmix(sum ^ u64::from(*byte)));
    splitmix(devices ^ events)
}

/// Assembles the state by the production code and judges it.
pub fn recover(crash: Crash, frozen: &Frozen) -> Option<Violation> {
    let Crash { media, members, memory, may_refuse } = crash;
    let mut rng = Rng::new(2);
    let exec = Executor::new(rng.fork());
    let manners = Manners { fast_us: 10, slow_us: 40, slower: 1, ..Manners::default() };
    let disks: Vec<Rc<SimDisk>> = (0..media.len())
        .zip(media)
        .map(|(number, media)| {
            let disk = SimDisk::new(number, stack::DISK_LEN, &exec, rng.fork());
            disk.swap_media(media);
            disk.manners.set(manners);
            disk
        })
        .collect();
    let there: Vec<_> = members.iter().map(|&member| Rc::clone(&disks[member])).collect();
    let verdict = Rc::new(RefCell::new(Some("it does not come to an end".to_owned())));
    let (told, end) = (Rc::clone(&verdict), Rc::new(Cell::new(false)));
    let (process, sleeper, frozen) = (exec.process(), exec.clone(), frozen.after_power_cut());
    let rt: Rt = Rc::new(process.clone());
    let flag = Rc::clone(&end);
    let memory = BoxMemory::new(&exec, rng.fork(), memory);
    let may_refuse = may_refuse && members.len() < disks.len();
    process.go(async move {
        *told.borrow_mut() = examine(&rt, &there, &memory, may_refuse, &sleeper, frozen).await.err();
        flag.set(true);
    });
    exec.run(600_000_000, || end.get());
    exec.shut_down();
    let found = verdict.borrow_mut().take();
    let detail = found?;
    let invariant = if detail.starts_with("members") { Invariant::I6 } else { Invariant::I3 };
    Some(Violation { invariant, detail, at_us: exec.now_us() })
}

async fn examine(
    rt: &Rt,
    there: &[Rc<SimDisk>],
    memory: &Rc<BoxMemory>,
    may_refuse: bool,
    sleeper: &Executor,
    mut frozen: Frozen,
) -> Result<(), String> {
    let array = match stack::assemble(rt, there, memory).await {
        Ok(array) => array,
        Err(_) if may_refuse => return Ok(()),
        Err(error) => return Err(format!("it is not assembled: {error}")),
    };
    let places = [SMALL, SHIFTED, FAR];
    for round in 0..2 {
        for sector in places {
            let began = frozen.begins();
            let buffer = IoBuf::new(SECTORS as usize * 512);
            let read = array.disk().read(ByteOffset(u64::from(sector) * 512), buffer).await;
            let bytes = read.map_err(|error| format!("a read fails: {error}"))?;
            frozen.read(began, sector, &bytes)?;
        }
        // The second round reads what a finished resync left.
        while round == 0 && stack::is_filling(&array) {
            sleeper.sleep_us(10_000).await;
        }
    }
    let in_sync: Vec<_> = there.iter().filter(|disk| stack::in_sync(&array).contains(&disk.number)).collect();
    let start = usize::try_from(stack::DATA_OFFSET).expect("fits memory");
    if let [first, second, ..] = in_sync[..] {
        let (first, second) = (first.media().live().clone(), second.media().live().clone());
        let len = first.size() - start;
        if let Some(place) = first.differing_sectors(&second, start, len).next() {
            return Err(format!("members in sync differ at sector {}", (place - start) / 512));
        }
    }
    Ok(())
}
