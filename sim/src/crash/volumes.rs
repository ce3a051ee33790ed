//! Crashes of a volume group: the power cut at every event of a disk on which volumes are made, written and removed.
//!
//! The disk is full of what others left. After each cut the group opens; a volume that was there and is not being removed is
//! there; one that is served shows zeroes and what was written to it, never what stood there before; one whose zeroing was
//! cut is not served until it was zeroed.

use super::snapshot::Snapshot;
use super::{Found, Red};
use crate::checkers::{Invariant, Violation};
use crate::disk::{Edge, Manners, Media, Model, Queue, SECTOR, SimDisk, Sparse};
use crate::executor::{Executor, Stopped};
use crate::rng::Rng;
use block::runtime::Rt;
use block::volume::{EXTENT_LEN, Existing, GroupIds, VolumeGroup, VolumeState};
use block::{DeviceError, Disk, Durability, IoBuf, IoData};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use units::{ByteLen, ByteOffset, VolumeId, VolumeName};

/// Where extents begin, and room for five.
const LEN: ByteLen = ByteLen((1 << 20) + 5 * EXTENT_LEN.0);
const NOW: u64 = 1_767_225_600;
/// What others left on the disk.
const REMAINS: u8 = 0xaa;

/// One change, by the number of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// Make it, so many extents long, zero it, publish it.
    Make(u8, u64),
    /// Write its first sectors, with FUA.
    Write(u8),
    /// Remove it.
    Remove(u8),
}

/// What is known of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// It was published: it is served.
    There,
    /// It is being made or removed.
    Maybe,
    /// It was never made, or its removal was answered.
    Gone,
}

/// What is expected of each volume, and whether its first sectors were written for sure.
type Expected = BTreeMap<u8, (Known, bool)>;

struct Recorder {
    disk: Rc<SimDisk>,
    expected: RefCell<Expected>,
    moments: RefCell<Vec<(Snapshot, Expected)>>,
}

impl Recorder {
    fn freeze(&self) {
        let snapshot = Snapshot::of(std::slice::from_ref(&self.disk));
        self.moments.borrow_mut().push((snapshot, self.expected.borrow().clone()));
    }

    fn expect(&self, volume: u8, known: Known, written: bool) {
        self.expected.borrow_mut().insert(volume, (known, written));
        self.freeze();
    }
}

impl Edge for Recorder {
    fn received(&self, _disk: usize, _op: u64, _at: u64, _data: &IoData) {}
    fn applied(&self, _disk: usize, _op: u64, _at: u64, _data: &IoData, _before: &[u8]) {
        self.freeze();
    }
    fn ended(&self, _disk: usize, _op: u64, _write: Option<(u64, &IoData)>, _answer: Result<(), DeviceError>) {
        self.freeze();
    }
}

/// Runs the workloads, cuts each everywhere. Stops at the first red state.
#[must_use]
pub fn all() -> Found {
    use Change::{Make, Remove, Write};
    let mut found = Found::default();
    workload(&[Make(1, 1), Write(1), Make(2, 1)], &mut found);
    if found.red.is_empty() {
        // The third one gets the extents of the first, and is in two pieces.
        workload(&[Make(1, 1), Write(1), Make(2, 1), Remove(1), Make(3, 3), Write(3), Remove(2)], &mut found);
    }
    found
}

fn workload(changes: &[Change], found: &mut Found) {
    found.workloads += 1;
    for (event, (snapshot, expected)) in record(changes).into_iter().enumerate() {
        found.cuts += 1;
        for state in snapshot.states() {
            found.states += 1;
            let media = snapshot.cut(state).remove(0);
            if let Err((invariant, detail)) = recover(media, expected.clone()) {
                let violation = Violation { invariant, detail, at_us: 0 };
                let (number, members) = (found.states, vec![0]);
                let workload = format!("{changes:?}");
                return found.red.push(Red { workload, event, state, number, members, violation });
            }
        }
    }
}

fn name(volume: u8) -> VolumeName {
    format!("v{volume}").parse().expect("a good name")
}

fn id(volume: u8) -> VolumeId {
    VolumeId([volume; 16])
}

fn blank() -> Media {
    let mut content = Sparse::new(usize::try_from(LEN.0).expect("small"));
    content.write(1 << 20, &vec![REMAINS; usize::try_from(LEN.0).expect("small") - (1 << 20)]);
    Media::holding(content)
}

/// A disk with this content, opened in a process of its own.
fn insert(exec: &Executor, media: Media) -> (Rc<SimDisk>, Rt, Disk) {
    let sim = SimDisk::new(0, Model::plain(LEN), exec, Rng::new(1));
    sim.swap_media(media);
    sim.manners.set(Manners::QUICK);
    let process = exec.process();
    let disk = sim.open(&process, &Rc::<Queue>::default()).expect("nobody has it");
    (sim, Rc::new(process), disk)
}

fn record(changes: &[Change]) -> Vec<(Snapshot, Expected)> {
    let exec = Executor::new(Rng::new(1));
    let (sim, rt, disk) = insert(&exec, blank());
    let recorder =
        Rc::new(Recorder { disk: Rc::clone(&sim), expected: RefCell::default(), moments: RefCell::default() });
    let (listener, done, changes) = (Rc::clone(&recorder), Rc::new(Cell::new(false)), changes.to_vec());
    let end = Rc::clone(&done);
    exec.machine().go(async move {
        let ids = GroupIds { group: [1; 16], physical: [2; 16] };
        let pool = "pool".parse().expect("a good name");
        let group = VolumeGroup::create(&rt, &disk, &pool, ids, Existing::Refuse, NOW).await;
        let mut group = group.expect("the head is empty");
        listener.disk.listen(Rc::<Recorder>::clone(&listener));
        for change in changes {
            take(change, &mut group, &listener).await;
        }
        end.set(true);
    });
    assert_eq!(exec.run(60_000_000, || done.get()), Stopped::Done, "a good disk");
    sim.deafen();
    exec.shut_down();
    recorder.moments.take()
}

async fn take(change: Change, group: &mut VolumeGroup, recorder: &Recorder) {
    let good = "a good disk, and room";
    match change {
        Change::Make(volume, extents) => {
            recorder.expect(volume, Known::Maybe, false);
            let size = ByteLen(extents * EXTENT_LEN.0);
            group.create_volume(&name(volume), id(volume), size, NOW).await.expect(good);
            let zeroed = group.zeroing(id(volume)).expect(good).run(|_| ()).await.expect(good);
            group.publish(zeroed, NOW).await.expect(good);
            recorder.expect(volume, Known::There, false);
        }
        Change::Write(volume) => {
            let disk = group.volume(id(volume)).expect("it is served");
            let data = IoBuf::copy_of(&[volume; 8 * SECTOR]).freeze();
            disk.write(ByteOffset(0), data, Durability::Fua).await.expect(good);
            recorder.expect(volume, Known::There, true);
        }
        Change::Remove(volume) => {
            recorder.expect(volume, Known::Maybe, false);
            group.remove_volume(id(volume), NOW).await.expect(good);
            recorder.expect(volume, Known::Gone, false);
        }
    }
}

type Verdict = Result<(), (Invariant, String)>;

fn recover(media: Media, expected: Expected) -> Verdict {
    let exec = Executor::new(Rng::new(2));
    let (_sim, rt, disk) = insert(&exec, media);
    let verdict = Rc::new(RefCell::new(None));
    let told = Rc::clone(&verdict);
    exec.machine().go(async move {
        let answer = examine(&rt, &disk, &expected).await;
        told.borrow_mut().replace(answer);
    });
    exec.run(60_000_000, || verdict.borrow().is_some());
    exec.shut_down();
    verdict.take().unwrap_or_else(|| Err((Invariant::I14, "it does not come to an end".to_owned())))
}

async fn examine(rt: &Rt, disk: &Disk, expected: &Expected) -> Verdict {
    let lost = |detail: String| (Invariant::I3, detail);
    let opened = VolumeGroup::open(rt, disk).await;
    let mut group = opened.map_err(|error| lost(format!("the group is not opened: {error}")))?;
    for (&volume, &(known, written)) in expected {
        let found = group.find(name(volume).as_str());
        match (known, found.map(|found| found.state)) {
            (Known::Gone, None) | (Known::Maybe, None) => continue,
            (Known::There, Some(VolumeState::Ready)) | (Known::Maybe, Some(VolumeState::Ready)) => {}
            (Known::Maybe, Some(VolumeState::Zeroing)) => {
                if group.volume(id(volume)).is_ok() {
                    return Err(lost(format!("volume {volume} is served and was not zeroed")));
                }
                let zeroing = group.zeroing(id(volume)).map_err(|error| lost(error.to_string()))?;
                let zeroed = zeroing.run(|_| ()).await.map_err(|error| lost(error.to_string()))?;
                group.publish(zeroed, NOW).await.map_err(|error| lost(error.to_string()))?;
            }
            (known, state) => return Err(lost(format!("volume {volume} is {known:?}, the group says {state:?}"))),
        }
        check_content(&mut group, volume, written).await.map_err(lost)?;
    }
    Ok(())
}

/// Looks at the first sectors, and at one block of each half mebibyte.
async fn check_content(group: &mut VolumeGroup, volume: u8, written: bool) -> Result<(), String> {
    let disk = group.volume(id(volume)).map_err(|error| format!("volume {volume}: {error}"))?;
    for at in (0..disk.geometry().size.0).step_by(512 << 10) {
        let bytes = disk.read(ByteOffset(at), IoBuf::new(8 * SECTOR)).await.map_err(|error| error.to_string())?;
        let own = at == 0;
        let good = |byte: &u8| *byte == if written && own { volume } else { 0 } || !written && own && *byte == volume;
        if let Some(byte) = bytes.iter().find(|byte| !good(byte)) {
            return Err(format!("volume {volume} shows {byte:#x} at {at}"));
        }
    }
    Ok(())
}
