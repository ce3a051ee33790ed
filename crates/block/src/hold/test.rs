//! The hold against a target that forgets, dies and refuses.

use super::*;
use crate::testing::{EIO, Hand, MemDisk, Shared, poll};
use std::cell::RefCell;

/// A target: one disk, sessions that die on command.
struct Target {
    disk: Shared,
    hand: Rc<Hand>,
    reachable: Cell<bool>,
    fenced: Cell<bool>,
    /// Answers to writes lie in the client's inbox for a while.
    lazy: Rc<Cell<bool>>,
    sessions: RefCell<Vec<Rc<FakeSession>>>,
}

struct FakeSession {
    disk: Shared,
    rt: Rt,
    alive: Cell<bool>,
    died: Rc<WaitList>,
    lazy: Rc<Cell<bool>>,
}

struct Way(Rc<Target>);

impl Target {
    fn new(hand: &Rc<Hand>, size: u64) -> Rc<Self> {
        Rc::new(Self {
            disk: Shared(MemDisk::new(ByteLen(size))),
            hand: Rc::clone(hand),
            reachable: Cell::new(true),
            fenced: Cell::new(false),
            lazy: Rc::default(),
            sessions: RefCell::default(),
        })
    }

    /// All sessions die; what was answered but not durable is gone if the power went too.
    fn dies(&self, power_too: bool) {
        self.reachable.set(false);
        for session in self.sessions.borrow_mut().drain(..) {
            session.close();
        }
        if power_too {
            self.disk.live.borrow_mut().clone_from(&self.disk.durable.borrow());
        }
    }

    fn block(&self, n: usize) -> u8 {
        self.disk.live.borrow()[n * 512]
    }
}

impl Connector for Way {
    fn connect(&self) -> Connecting {
        let target = Rc::clone(&self.0);
        Box::pin(async move {
            if target.fenced.get() {
                return Err(ConnectError::Fenced { held: Epoch(1), current: Epoch(2) });
            }
            if !target.reachable.get() {
                return Err(ConnectError::Later("connection refused".into()));
            }
            let session = Rc::new(FakeSession {
                disk: target.disk.clone(),
                rt: target.hand.rt(),
                alive: Cell::new(true),
                died: Rc::default(),
                lazy: Rc::clone(&target.lazy),
            });
            target.sessions.borrow_mut().push(Rc::clone(&session));
            Ok(session as Rc<dyn Session>)
        })
    }
}

impl FakeSession {
    /// The operation goes on at the target when the session dies; only its answer is lost.
    fn unless_it_dies<T: Unpin + 'static>(&self, operation: IoFuture<T>) -> IoFuture<T> {
        if !self.alive.get() {
            return IoFuture::ready(Err(DeviceError::Disconnected));
        }
        let died = self.died.wait();
        let operation = run_to_end(&self.rt, operation);
        IoFuture::later(async move {
            match select(operation, died).await {
                futures_util::future::Either::Left((answer, _)) => answer,
                futures_util::future::Either::Right(_) => Err(DeviceError::Disconnected),
            }
        })
    }
}

impl Session for FakeSession {
    fn lost(&self) -> Pin<Box<dyn Future<Output = String>>> {
        let died = self.alive.get().then(|| self.died.wait());
        Box::pin(async move {
            if let Some(died) = died {
                died.await;
            }
            "it died".to_owned()
        })
    }

    fn close(&self) {
        self.alive.set(false);
        self.died.wake_all();
    }
}

impl BlockDevice for FakeSession {
    fn geometry(&self) -> Geometry {
        BlockDevice::geometry(&self.disk)
    }
    fn read(&self, at: ByteOffset, into: IoBuf) -> IoFuture<IoBuf> {
        self.unless_it_dies(self.disk.read(at, into))
    }
    fn write(&self, at: ByteOffset, from: IoData, how: Durability) -> IoFuture<()> {
        if self.lazy.get() {
            let (done, mut seen) = (self.disk.write(at, from, how), false);
            return IoFuture::later(async move {
                std::future::poll_fn(|_| {
                    if std::mem::replace(&mut seen, true) {
                        std::task::Poll::Ready(())
                    } else {
                        std::task::Poll::Pending
                    }
                })
                .await;
                done.await
            });
        }
        self.unless_it_dies(self.disk.write(at, from, how))
    }
    fn flush(&self) -> IoFuture<()> {
        self.unless_it_dies(self.disk.flush())
    }
    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.unless_it_dies(self.disk.discard(at, len))
    }
    fn write_zeroes(&self, at: ByteOffset, len: ByteLen, how: Durability, may_unmap: bool) -> IoFuture<()> {
        self.unless_it_dies(self.disk.write_zeroes(at, len, how, may_unmap))
    }
}

struct Stage {
    hand: Rc<Hand>,
    target: Rc<Target>,
    hold: Hold,
}

fn stage(options: HoldOptions) -> Stage {
    let hand = Hand::new();
    let target = Target::new(&hand, 16 * 512);
    let hold = hand.run(Hold::open(&hand.rt(), options, Box::new(Way(Rc::clone(&target))))).expect("reachable");
    Stage { hand, target, hold }
}

impl Stage {
    fn write(&self, block: u64, letter: u8, how: Durability) -> IoFuture<()> {
        self.hold.write(ByteOffset(block * 512), IoBuf::copy_of(&[letter; 512]).freeze(), how)
    }

    fn read(&self, block: u64) -> IoFuture<IoBuf> {
        self.hold.read(ByteOffset(block * 512), IoBuf::new(512))
    }

    /// The target is back; the reconnect happens at its next attempt.
    fn returns(&self) {
        self.target.reachable.set(true);
        self.pass(3000);
    }

    fn pass(&self, ms: u64) {
        self.hand.turn();
        self.hand.pass(ms);
        self.hand.turn();
    }
}

const CACHED: Durability = Durability::Cached;

/// Goal: an outage is a pause. Method: lose the session, start operations, bring the target back.
#[test]
fn operations_wait_for_the_target_and_then_succeed() {
    let stage = stage(HoldOptions::default());
    stage.target.dies(false);
    let (mut write, mut flush) = (stage.write(1, b'a', CACHED), stage.hold.flush());
    assert!(!poll(&mut write) && !poll(&mut flush));
    stage.pass(500_000);
    assert!(!poll(&mut write) && !poll(&mut flush), "within the bound nothing is answered");
    stage.returns();
    assert_eq!(stage.hand.run(write), Ok(()));
    assert_eq!(stage.hand.run(flush), Ok(()));
    assert_eq!(stage.target.block(1), b'a');
    assert_eq!(stage.hold.status().state, HoldState::Up);
    assert_eq!(stage.hold.status().sessions, 2);
}

#[test]
fn what_the_target_answered_is_passed_on() {
    let stage = stage(HoldOptions::default());
    stage.target.disk.broken.set(true);
    assert_eq!(stage.hand.run(stage.write(1, b'a', CACHED)), Err(DeviceError::Failed { errno: EIO }));
}

/// Goal: the target's power cut loses nothing that was answered. Method: cut it between answer and flush.
#[test]
fn answered_writes_outlive_the_targets_power() {
    let stage = stage(HoldOptions::default());
    stage.hand.run(stage.write(1, b'a', CACHED)).expect("reachable");
    stage.hand.run(stage.write(2, b'b', CACHED)).expect("reachable");
    stage.hand.run(stage.hold.flush()).expect("reachable");
    stage.hand.run(stage.write(2, b'c', CACHED)).expect("reachable");
    stage.target.dies(true);
    assert_eq!((stage.target.block(1), stage.target.block(2)), (b'a', b'b'));
    stage.returns();
    assert_eq!((stage.target.block(1), stage.target.block(2)), (b'a', b'c'));
    assert_eq!(stage.hold.status().rewritten, 1, "what was flushed is not written again");
}

#[test]
fn a_newer_durable_write_is_not_undone() {
    let stage = stage(HoldOptions::default());
    stage.hand.run(stage.write(1, b'a', CACHED)).expect("reachable");
    stage.hand.run(stage.write(1, b'b', Durability::Fua)).expect("reachable");
    stage.target.dies(true);
    stage.returns();
    assert_eq!(stage.target.block(1), b'b');
}

/// Goal: no flush may succeed over data that the target forgot. Method: the flush is under way when the power goes.
#[test]
fn a_flush_that_is_repeated_covers_what_was_written_again() {
    let stage = stage(HoldOptions::default());
    stage.hand.run(stage.write(1, b'a', CACHED)).expect("reachable");
    stage.target.dies(true);
    let flush = stage.hold.flush();
    stage.returns();
    assert_eq!(stage.hand.run(flush), Ok(()));
    assert_eq!(stage.target.disk.durable.borrow()[512], b'a');
    assert_eq!(stage.hold.status().unflushed_bytes, 0);
}

#[test]
fn the_bound_ends_the_wait_and_a_return_ends_the_errors() {
    let stage = stage(HoldOptions { bound: Millis(10_000), ..HoldOptions::default() });
    stage.target.dies(false);
    let mut waiting = stage.write(1, b'a', CACHED);
    assert!(!poll(&mut waiting));
    stage.pass(9_000);
    assert!(!poll(&mut waiting));
    stage.pass(2_000);
    assert_eq!(stage.hand.run(waiting), Err(DeviceError::HoldExpired { held: Millis(10_000) }));
    assert_eq!(stage.hand.run(stage.hold.flush()), Err(DeviceError::HoldExpired { held: Millis(10_000) }));
    stage.returns();
    assert_eq!(stage.hand.run(stage.write(1, b'b', CACHED)), Ok(()));
}

#[test]
fn a_stale_epoch_is_final() {
    let stage = stage(HoldOptions::default());
    stage.target.fenced.set(true);
    stage.target.dies(false);
    let mut waiting = stage.write(1, b'a', CACHED);
    assert!(!poll(&mut waiting));
    stage.pass(3_000);
    let fenced = DeviceError::Fenced { held: Epoch(1), current: Epoch(2) };
    assert_eq!(stage.hand.run(waiting), Err(fenced));
    stage.target.fenced.set(false);
    stage.returns();
    assert_eq!(stage.hand.run(stage.write(1, b'a', CACHED)), Err(fenced));
}

/// Goal: reads never go back in time over a reconnect. Method: a write was seen but not answered when the session and
/// the power went; a later read must wait until it is written again.
#[test]
fn a_read_does_not_see_the_past_of_a_write_in_doubt() {
    let stage = stage(HoldOptions::default());
    stage.target.disk.held.set(true);
    let mut write = stage.write(1, b'a', CACHED);
    assert!(!poll(&mut write));
    stage.target.dies(true);
    assert!(!poll(&mut write), "it waits for the next session, in doubt");
    let mut read = stage.read(1);
    assert!(!poll(&mut read));
    stage.returns();
    assert!(!poll(&mut read), "the write is held at the target again");
    stage.target.disk.release();
    assert_eq!(stage.hand.run(write), Ok(()));
    assert_eq!(stage.hand.run(read).expect("reachable")[0], b'a');
}

#[test]
fn the_log_has_a_bound_and_flushes_by_itself() {
    let stage = stage(HoldOptions { log_bytes: 2048, ..HoldOptions::default() });
    for block in 0..16 {
        stage.hand.run(stage.write(block, b'x', CACHED)).expect("reachable");
        assert!(stage.hold.status().unflushed_bytes <= 2048);
        stage.hand.turn();
    }
    assert!(stage.target.disk.log.borrow().contains(&crate::testing::Seen::Flush));
}

/// OD8. Goal: a path that is back has no reason for being away. Method: lost, looked at, and back.
#[test]
fn the_reason_goes_with_the_loss() {
    let stage = stage(HoldOptions::default());
    assert_eq!(stage.hold.status().reason, "");
    stage.target.dies(false);
    stage.hand.turn();
    assert_ne!(stage.hold.status().reason, "");
    stage.returns();
    assert_eq!((stage.hold.status().state, stage.hold.status().reason), (HoldState::Up, String::new()));
}

#[test]
fn a_volume_that_came_back_smaller_is_not_served() {
    let stage = stage(HoldOptions::default());
    stage.target.dies(false);
    stage.target.disk.live.borrow_mut().truncate(512);
    stage.returns();
    assert!(matches!(stage.hold.status().state, HoldState::Waiting(_)));
    assert!(stage.hold.status().reason.contains("came back as 512 B"), "{}", stage.hold.status().reason);
}

/// Goal: over any mix of losses, what was answered last is what is read. Method: seeded random writes, flushes,
/// kills and power cuts, some while writes are held at the target; a block-wise model of the answers.
#[test]
fn random_losses_lose_nothing() {
    for seed in 1..=300_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let stage = stage(HoldOptions { log_bytes: 4096, ..HoldOptions::default() });
        let mut model = [0_u8; 16];
        for step in 0..60 {
            let (block, letter) = (next(16), 1 + u8::try_from(next(250)).expect("below 251"));
            match next(8) {
                0..=3 => {
                    let how = if next(4) == 0 { Durability::Fua } else { CACHED };
                    stage.hand.run(stage.write(block, letter, how)).expect("reachable");
                    model[usize::try_from(block).expect("small")] = letter;
                }
                4 => stage.hand.run(stage.hold.flush()).expect("reachable"),
                5 => {
                    stage.target.disk.held.set(true);
                    let mut write = stage.write(block, letter, CACHED);
                    assert!(!poll(&mut write));
                    stage.target.dies(next(2) == 0);
                    stage.target.disk.release();
                    stage.returns();
                    stage.hand.run(write).expect("reachable again");
                    model[usize::try_from(block).expect("small")] = letter;
                }
                6 => {
                    stage.target.dies(true);
                    stage.returns();
                }
                _ => {
                    let got = stage.hand.run(stage.read(block)).expect("reachable")[0];
                    assert_eq!(got, model[usize::try_from(block).expect("small")], "seed {seed} step {step}");
                }
            }
        }
        for (block, letter) in (0..).zip(model) {
            assert_eq!(stage.target.block(block), letter, "seed {seed} block {block}");
        }
    }
}

/// Goal: a restarted initiator's guest loses nothing although the first one's log is gone. Method: a write is answered,
/// the process ends, its successor opens, then the target loses its power.
#[test]
fn a_successor_makes_the_predecessors_writes_durable_first() {
    let stage = stage(HoldOptions::default());
    stage.hand.run(stage.write(1, b'a', CACHED)).expect("reachable");
    assert_eq!(stage.target.disk.durable.borrow()[512], 0);
    let rt = stage.hand.rt();
    let opened = Hold::open(&rt, HoldOptions::default(), Box::new(Way(Rc::clone(&stage.target))));
    stage.hand.run(opened).expect("reachable");
    assert_eq!(stage.target.disk.durable.borrow()[512], b'a');
}

/// Goal: an answer counts only for the session it came on. Method: the target answers a write, the answer lies in the
/// inbox while the target loses its power and comes back; only then it is seen, and a flush follows.
#[test]
fn an_answer_that_is_seen_after_the_next_session_began_is_not_believed() {
    let stage = stage(HoldOptions::default());
    stage.target.lazy.set(true);
    let mut write = stage.write(3, b'a', Durability::Cached);
    assert!(!poll(&mut write));
    assert_eq!(stage.target.block(3), b'a', "it was done, and answered");
    stage.target.lazy.set(false);
    stage.target.dies(true);
    stage.pass(100);
    stage.returns();
    assert_eq!(stage.hold.status().state, HoldState::Up);
    stage.hand.run(write).unwrap();
    stage.hand.run(stage.hold.flush()).unwrap();
    assert_eq!(stage.target.disk.durable.borrow()[3 * 512], b'a');
}

/// Goal: the log is bounded whatever is written, zeroes too. Method: a guest that never flushes zeroes every other block.
#[test]
fn zeroes_fill_the_log_as_well() {
    let hand = Hand::new();
    let target = Target::new(&hand, 4096 * 512);
    let options = HoldOptions { log_bytes: 64 << 10, ..HoldOptions::default() };
    let hold = hand.run(Hold::open(&hand.rt(), options, Box::new(Way(target)))).expect("reachable");
    for block in 0..2048 {
        hand.run(hold.write_zeroes(ByteOffset(block * 1024), ByteLen(512), Durability::Cached, true)).unwrap();
        let entries = hold.0.log.borrow().len();
        assert!(entries <= 1024, "{entries} ranges after {block} blocks");
        hand.turn();
    }
}
