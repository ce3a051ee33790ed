//! A gated volume in time: a disk in memory, a store that can be held, a clock moved by hand.

use super::host;
use crate::gate::record::Grant;
use crate::gate::*;
use crate::runtime::Rt;
use crate::testing::{Hand, MemDisk, poll};
use crate::wait::WaitList;
use crate::{BlockDevice, DeviceError, Durability, IoBuf, IoFuture};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use units::{ByteLen, ByteOffset, Moment, VolumeId};

/// A facts area in memory.
#[derive(Default)]
struct Facts {
    record: RefCell<Vec<Vec<u8>>>,
    held: Cell<bool>,
    released: WaitList,
    broken: Cell<bool>,
    laggards: RefCell<Vec<Moment>>,
    last_member: Cell<bool>,
}

#[derive(Clone)]
struct FactsHandle(Rc<Facts>);

impl GrantStore for FactsHandle {
    fn store(&self, _volume: VolumeId, record: &[u8]) -> IoFuture<()> {
        let (facts, record) = (Rc::clone(&self.0), record.to_vec());
        IoFuture::later(async move {
            while facts.held.get() {
                facts.released.wait().await;
            }
            if facts.broken.get() {
                return Err(DeviceError::Failed { errno: 5 });
            }
            *facts.record.borrow_mut() = vec![record];
            Ok(())
        })
    }

    fn fail_laggards(&self, older_than: Moment) -> IoFuture<Laggards> {
        self.0.laggards.borrow_mut().push(older_than);
        IoFuture::ready(Ok(if self.0.last_member.get() { Laggards::LastMember } else { Laggards::Failed }))
    }
}

struct Target {
    hand: Rc<Hand>,
    disk: Rc<MemDisk>,
    facts: Rc<Facts>,
    volume: GatedVolume,
}

fn open(hand: &Rc<Hand>, disk: &Rc<MemDisk>, facts: &Rc<Facts>) -> GatedVolume {
    let rt: Rt = hand.rt();
    let store = Rc::new(FactsHandle(Rc::clone(facts)));
    let parts = Parts { id: VolumeId([1; 16]), name: "web1".parse().unwrap(), disk: disk.disk(), store, rt };
    let found = Found { records: facts.record.borrow().clone(), complete: true };
    GatedVolume::open(parts, &found, None)
}

impl Target {
    /// A volume that was granted to `A` at epoch 1.
    fn new() -> Self {
        let (hand, disk, facts) = (Hand::new(), MemDisk::new(ByteLen(8192)), Rc::new(Facts::default()));
        let volume = open(&hand, &disk, &facts);
        hand.run(volume.raise(claim(1, 'A'))).unwrap();
        Self { hand, disk, facts, volume }
    }

    /// The target is killed and started again; the disk and its facts stay.
    fn restarted(&self) -> Self {
        let hand = Hand::new();
        let volume = open(&hand, &self.disk, &self.facts);
        Self { hand, disk: Rc::clone(&self.disk), facts: Rc::clone(&self.facts), volume }
    }

    fn session(&self, letter: char) -> Rc<Session> {
        let request = Request::Stock { host: host(letter), mode: Mode::Rw };
        self.hand.run(self.volume.attach(request)).unwrap()
    }

    fn raise(&self, epoch: u64, letter: char) -> Pin<Box<dyn Future<Output = Result<(), Declined>>>> {
        let volume = self.volume.clone();
        Box::pin(async move { volume.raise(claim(epoch, letter)).await })
    }

    fn state(&self) -> State {
        self.volume.status().state
    }

    /// Lets this much time pass, in steps, as a clock does.
    fn pass(&self, ms: u64) {
        for _ in 0..ms / 10 {
            self.hand.pass(10);
            self.hand.turn();
        }
    }
}

fn claim(epoch: u64, letter: char) -> Claim {
    Claim { epoch: Epoch(epoch), shared: false, owners: vec![(host(letter), Mode::Rw)] }
}

fn write(session: &Session, byte: u8) -> IoFuture<()> {
    session.write(ByteOffset(0), IoBuf::copy_of(&[byte; 512]).freeze(), Durability::Fua)
}

/// Goal: a raise is answered only when what was admitted before it has landed. Method: hold one write below the gate,
/// raise, look every 10 ms, release.
fn a_raise_waits_for_the_drain() {
    let it = Target::new();
    let old = it.session('A');
    it.disk.held.set(true);
    let mut held = write(&old, 1);
    assert!(!poll(&mut held));
    let mut raise = it.raise(2, 'B');
    assert!(!poll(&mut raise));
    it.hand.turn();
    let grant = Grant::decode(&it.facts.record.borrow()[0]).unwrap();
    assert_eq!(grant.epoch, Epoch(2), "stored before the drain, so that a restart comes up closed");
    assert!(old.is_revoked() && poll(&mut Box::pin(old.revoked())));
    it.pass(1490);
    assert!(!poll(&mut raise), "acknowledged while a write of the old epoch is below the gate");
    assert!(it.facts.laggards.borrow().is_empty());
    it.disk.release();
    assert!(poll(&mut held));
    assert_eq!(it.hand.run(raise), Ok(()));
    assert_eq!(it.disk.live.borrow()[0], 1);
    assert_eq!(it.state(), State::Serving);
}

#[test]
fn raise_waits_for_the_drain() {
    a_raise_waits_for_the_drain();
}

/// Goal: a write refused for its epoch never lands (rule 7). Method: refuse one while a raise waits, finish the raise,
/// write by the new owner, poll the old answer for ever.
fn a_refused_write_is_forgotten() {
    let it = Target::new();
    let old = it.session('A');
    it.facts.held.set(true);
    let mut raise = it.raise(2, 'B');
    assert!(!poll(&mut raise));
    let refused = write(&old, 1);
    it.facts.held.set(false);
    it.facts.released.wake_all();
    assert_eq!(it.hand.run(raise), Ok(()));
    let new = it.session('B');
    assert_eq!(it.hand.run(write(&new, 2)), Ok(()));
    let mut refused = Box::pin(refused);
    for _ in 0..10 {
        it.pass(10);
        if poll(&mut refused) {
            break;
        }
    }
    assert_eq!(it.disk.live.borrow()[0], 2, "a write of epoch 1 landed in epoch 2");
}

#[test]
fn refused_writes_are_forgotten() {
    a_refused_write_is_forgotten();
    let it = Target::new();
    let old = it.session('A');
    it.hand.run(it.raise(2, 'B')).unwrap();
    let fenced = DeviceError::Fenced { held: Epoch(1), current: Epoch(2) };
    assert_eq!(write(&old, 1).try_now().ok(), Some(Err(fenced)), "the refusal is there at once");
    assert_eq!(old.read(ByteOffset(0), IoBuf::new(512)).try_now().ok().map(|answer| answer.err()), Some(Some(fenced)));
    assert_eq!(old.flush().try_now().ok(), Some(Err(fenced)));
    assert_eq!(old.discard(ByteOffset(0), ByteLen(512)).try_now().ok(), Some(Err(fenced)));
    let zeroes = old.write_zeroes(ByteOffset(0), ByteLen(512), Durability::Cached, true);
    assert_eq!(zeroes.try_now().ok(), Some(Err(fenced)));
}

/// Goal: a hanging disk is failed after 1500 ms, and the last one never is. Method: hold a write, pass time, count.
#[test]
fn a_hanging_disk_is_failed_and_the_last_one_blocks() {
    let it = Target::new();
    let old = it.session('A');
    it.disk.held.set(true);
    it.facts.last_member.set(true);
    let mut held = write(&old, 1);
    assert!(!poll(&mut held));
    let mut raise = it.raise(2, 'B');
    assert!(!poll(&mut raise));
    it.pass(1490);
    assert!(it.facts.laggards.borrow().is_empty());
    it.pass(20);
    assert_eq!(it.facts.laggards.borrow().len(), 1);
    assert_eq!(it.state(), State::Blocked(Blocked::Fence));
    it.pass(5000);
    assert!(!poll(&mut raise));
    assert_eq!(it.facts.laggards.borrow().len(), 11, "asked again every 500 ms");
    let status = it.volume.status();
    assert_eq!((status.for_ms, status.oldest_ms), (units::Millis(5010), Some(units::Millis(6510))));
    let text = status.to_string();
    assert!(text.starts_with("volume web1: epoch 2, blocked(fence): operations of an older epoch hang"), "{text}");
    assert!(text.contains("closed, 1 in flight\n  the oldest operation has run for 6.5 s"), "{text}");
    it.disk.release();
    assert!(poll(&mut held));
    assert_eq!(it.hand.run(raise), Ok(()), "blocked(fence) acknowledges when the drain completes");
}

/// Goal: dropping a connection drops no admitted operation. Method: drop the future (polled or not) and the session of
/// a held write; the raise must still wait for it, and the write must land.
#[test]
fn a_dropped_session_still_drains() {
    for polled in [true, false] {
        let it = Target::new();
        let old = it.session('A');
        it.disk.held.set(true);
        let mut held = write(&old, 1);
        assert!(!polled || !poll(&mut held));
        drop(held);
        drop(old);
        let mut raise = it.raise(2, 'B');
        it.pass(100);
        assert!(!poll(&mut raise), "polled {polled}");
        it.pass(100);
        assert_eq!(it.volume.status().sessions[0].in_flight, 1);
        it.disk.release();
        assert_eq!(it.hand.run(raise), Ok(()));
        assert_eq!(it.disk.live.borrow()[0], 1);
        assert!(it.volume.status().sessions.is_empty());
    }
}

/// Goal: a crash between storing and acknowledging loses nothing (rule 2). Method: restart while the drain holds the
/// ack back; the old owner must stay out and the same raise be acknowledged.
fn a_restart_keeps_the_grant() {
    let it = Target::new();
    let old = it.session('A');
    it.disk.held.set(true);
    let mut held = write(&old, 1);
    assert!(!poll(&mut held));
    let mut raise = it.raise(2, 'B');
    assert!(!poll(&mut raise));
    it.hand.turn();
    it.disk.held.set(false);
    let after = it.restarted();
    assert_eq!(after.volume.status().epoch, Epoch(2));
    let exact = Attachment { host: host('A'), epoch: Epoch(1), incarnation: Incarnation(1), mode: Mode::Rw };
    let refused = after.hand.run(after.volume.attach(Request::Exact(exact))).err().map(|refusal| refusal.why);
    assert_eq!(refused, Some(Refused::OldEpoch { held: Epoch(1), current: Epoch(2) }));
    assert_eq!(after.hand.run(after.raise(2, 'B')), Ok(()));
    assert_eq!(after.hand.run(after.raise(1, 'A')), Err(Declined::Lower { asked: Epoch(1), current: Epoch(2) }));
}

#[test]
fn restart_keeps_the_grant() {
    a_restart_keeps_the_grant();
}

/// Goal: no ack without a durable grant. Method: break the store, raise, mend it, raise again.
#[test]
fn a_broken_store_blocks_until_raised_again() {
    let it = Target::new();
    let old = it.session('A');
    it.facts.broken.set(true);
    assert_eq!(it.hand.run(it.raise(2, 'B')), Err(Declined::StoreFailed { asked: Epoch(2) }));
    assert_eq!(it.state(), State::Blocked(Blocked::Store));
    assert!(write(&old, 1).try_now().is_ok_and(|answer| answer.is_err()), "closed to the old epoch all the same");
    it.facts.broken.set(false);
    assert_eq!(it.hand.run(it.raise(2, 'B')), Ok(()));
    assert_eq!(it.hand.run(write(&it.session('B'), 2)), Ok(()));
}

/// Goal: giving up an attach leaves nothing behind, before or after it was let in. Method: drop the future at both.
#[test]
fn an_attach_given_up_leaves_nothing() {
    let it = Target::new();
    it.facts.held.set(true);
    let request = Request::Stock { host: host('A'), mode: Mode::Rw };
    let mut waits = Box::pin(it.volume.attach(request));
    assert!(!poll(&mut waits));
    assert_eq!(it.volume.status().waiting, 1);
    drop(waits);
    assert_eq!(it.volume.status().waiting, 0);
    let mut waits = Box::pin(it.volume.attach(request));
    assert!(!poll(&mut waits));
    it.facts.held.set(false);
    it.facts.released.wake_all();
    it.hand.turn();
    assert_eq!(it.volume.status().sessions.len(), 1, "let in, not yet told");
    drop(waits);
    assert!(it.volume.status().sessions.is_empty());
}

/// Goal: a volume that nobody holds any more lets go of its disk at once, so that it can be removed right after it was
/// fenced. Method: a raise, its deadline still far away; the volume is dropped and the disk's holders are counted.
#[test]
fn a_dropped_volume_lets_go_of_its_disk_at_once() {
    let target = Target::new();
    let held = Rc::strong_count(&target.disk);
    drop(target.volume);
    target.hand.turn();
    assert!(Rc::strong_count(&target.disk) < held, "its deadline keeps the disk");
}

/// Goal: what the disk answers at once stays an answer at once. Method: all five operations on a disk in memory.
#[test]
fn ready_answers_stay_ready() {
    let it = Target::new();
    let session = it.session('A');
    assert_eq!(session.attachment().incarnation, Incarnation(1));
    assert_eq!(write(&session, 7).try_now().ok(), Some(Ok(())));
    let bytes = session.read(ByteOffset(0), IoBuf::new(512)).try_now().ok().unwrap().unwrap();
    assert_eq!(bytes[0], 7);
    assert_eq!(session.flush().try_now().ok(), Some(Ok(())));
    assert_eq!(session.disk().discard(ByteOffset(0), ByteLen(512)).try_now().ok(), Some(Ok(())));
    let zeroes = session.write_zeroes(ByteOffset(0), ByteLen(512), Durability::Cached, false);
    assert_eq!(zeroes.try_now().ok(), Some(Ok(())));
    assert_eq!(session.geometry(), it.disk.disk().geometry());
}

/// Goal: the tests above see the bugs they are for. Method: plant each and expect the panic.
#[cfg(feature = "sabotage")]
mod planted_bugs {
    use units::sabotage::{Bug, plant};

    #[test]
    #[should_panic(expected = "acknowledged while a write of the old epoch is below the gate")]
    fn ack_before_drain_is_found() {
        let _bug = plant(Bug::AckBeforeDrain);
        super::a_raise_waits_for_the_drain();
    }

    #[test]
    #[should_panic(expected = "a write of epoch 1 landed in epoch 2")]
    fn requeue_new_epoch_is_found() {
        let _bug = plant(Bug::RequeueNewEpoch);
        super::a_refused_write_is_forgotten();
    }

    #[test]
    #[should_panic(expected = "left: Epoch(0)")]
    fn grant_not_durable_is_found() {
        let _bug = plant(Bug::GrantNotDurable);
        super::a_restart_keeps_the_grant();
    }
}
