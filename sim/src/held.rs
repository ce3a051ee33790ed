//! A guest's disk over `hold`, against the real gate and mirror: targets are killed, the box loses its power, sessions
//! tear, the initiator itself is killed. Its promise is stronger than a disk's: while the initiator lives, *everything*
//! that was answered is read back, flushed or not (docs/rfd/0006-initiator.md, rules 3 and 5).
//!
//! Writers own blocks of their own and await each operation, so a read has exactly one right answer; after the death
//! of an initiator the write that was under way may have happened or not, until a read has settled it. What was
//! answered but not flushed then rests on the successor's first flush: the initiator is not killed between the box's loss
//! of power and the end of writing the log again.

use crate::checkers::{Invariant, Violation};
use crate::disk::{Model, SimDisk};
use crate::executor::{Executor, Process, Stopped};
use crate::memory::BoxMemory;
use crate::rng::Rng;
use crate::stack::{self, Thread};
use crate::world::call::{Cut, call};
use crate::world::target::Grants;
use block::gate::{self, Attachment, Claim, Found, GatedVolume, Parts, Request};
use block::hold::{ConnectError, Connecting, Connector, Hold, HoldOptions, HoldState, Session};
use block::raid::Array;
use block::runtime::Rt;
use block::wait::WaitList;
use block::{BlockDevice, DeviceError, Disk, Durability, Geometry, IoBuf, IoData, IoFuture};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use units::{ByteLen, ByteOffset, Epoch, HostKey, Incarnation, Mode, VolumeId};

const HOST: HostKey = HostKey([9; 32]);
const EPOCH: Epoch = Epoch(1);
const VOLUME: VolumeId = VolumeId([7; 16]);
const WRITERS: u64 = 4;
const BLOCKS_EACH: u64 = 8;
const BLOCK_BYTES: u64 = 4096;
/// Members that take discards.
const MODEL: Model = Model { discard: true, ..stack::MODEL };
/// Longer than anything here takes.
const RUN_MAX_US: u64 = 600_000_000;

/// What one run did and found.
#[derive(Clone, Debug)]
pub struct Report {
    /// The first broken promise.
    pub violation: Option<Violation>,
    /// Everything that happened, in one number.
    pub hash: u64,
    /// What happened how often.
    pub deeds: BTreeMap<&'static str, u64>,
}

struct World {
    exec: Executor,
    disks: Vec<Rc<SimDisk>>,
    memory: Rc<BoxMemory>,
    target: RefCell<Option<Rc<Target>>>,
    changed: WaitList,
    incarnation: Cell<u64>,
    hold: RefCell<Option<(Process, Hold)>>,
    /// The cut of the session in use.
    line: RefCell<Rc<Cut>>,
    faults: Cell<bool>,
    /// How often the box lost its power.
    losses: Cell<u64>,
    busy: Cell<u64>,
    violation: RefCell<Option<Violation>>,
    deeds: RefCell<BTreeMap<&'static str, u64>>,
}

/// What a writer knows of one of its blocks.
#[derive(Clone)]
struct Block {
    /// What it may read.
    may: Vec<u8>,
    /// What a discard took away, and how often the box had lost its power then: nobody writes a discard again, so what was
    /// there may be back after the next loss, until a flush.
    back: Option<(Vec<u8>, u64)>,
}

struct Target {
    thread: Thread,
    gate: GatedVolume,
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64) -> Report {
    let mut rng = Rng::new(seed);
    let exec = Executor::new(rng.fork());
    let disks = (0..2).map(|number| SimDisk::new(number, MODEL, &exec, rng.fork())).collect();
    let world = Rc::new(World {
        exec: exec.clone(),
        disks,
        memory: BoxMemory::new(&exec, rng.fork(), None),
        target: RefCell::default(),
        changed: WaitList::default(),
        incarnation: Cell::new(0),
        hold: RefCell::default(),
        line: RefCell::default(),
        faults: Cell::new(true),
        losses: Cell::new(0),
        busy: Cell::new(WRITERS),
        violation: RefCell::default(),
        deeds: RefCell::default(),
    });
    let machine = exec.machine();
    machine.go(Rc::clone(&world).harm(rng.fork()));
    for writer in 0..WRITERS {
        machine.go(Rc::clone(&world).write(writer, rng.fork()));
    }
    let stopped = exec.run(RUN_MAX_US, || world.busy.get() == 0 || world.violation.borrow().is_some());
    if stopped != Stopped::Done {
        world.blame(Invariant::I14, format!("{} writers never ended: {stopped:?}", world.busy.get()));
    }
    let report = Report { violation: world.violation.take(), hash: exec.hash(), deeds: world.deeds.take() };
    world.hold.take();
    world.target.take();
    exec.shut_down();
    report
}

impl World {
    fn did(&self, what: &'static str) {
        *self.deeds.borrow_mut().entry(what).or_default() += 1;
    }

    fn blame(&self, invariant: Invariant, detail: String) {
        let at_us = self.exec.now_us();
        self.violation.borrow_mut().get_or_insert(Violation { invariant, detail, at_us });
    }

    /// Starts target and initiator, then does harm to one of them at a time, a fixed number of times.
    async fn harm(self: Rc<Self>, mut rng: Rng) {
        let thread = Thread::new(&self.exec);
        let array = stack::create(&thread, &self.disks, &self.memory, &mut rng).await;
        self.serve(thread, array.expect("blank disks become an array")).await;
        self.start_initiator().await;
        for _ in 0..12 {
            self.exec.sleep_us(rng.between(1_000, 120_000)).await;
            match rng.below(4) {
                0 => self.restart_target(&mut rng, false).await,
                1 => self.restart_target(&mut rng, true).await,
                2 => {
                    self.did("a session is torn");
                    self.line.borrow().cut();
                }
                _ => {
                    // Until the log is written again it is all there is of what the power took: two faults in one.
                    self.path_is_up().await;
                    self.did("the initiator is killed");
                    self.line.borrow().cut();
                    let (process, _hold) = self.hold.take().expect("it runs");
                    process.kill();
                    self.exec.sleep_us(rng.below(50_000)).await;
                    self.start_initiator().await;
                }
            }
        }
        self.faults.set(false);
        self.changed.wake_all();
    }

    async fn path_is_up(&self) {
        let hold = self.hold.borrow().as_ref().map(|(_, hold)| hold.clone()).expect("it runs");
        while hold.status().state != HoldState::Up {
            hold.changed().await;
        }
    }

    async fn restart_target(self: &Rc<Self>, rng: &mut Rng, power: bool) {
        self.target.take().expect("it runs").thread.process.kill();
        if power {
            self.did("the box loses its power");
            self.losses.set(self.losses.get() + 1);
            self.disks.iter().for_each(|disk| disk.power_cut(rng.coin()));
            self.memory.power_cut();
        } else {
            self.did("the target is killed");
        }
        self.exec.sleep_us(rng.below(300_000)).await;
        for disk in &self.disks {
            disk.quiet().await;
        }
        let thread = Thread::new(&self.exec);
        let array = stack::assemble(&thread, &self.disks, &self.memory).await;
        self.serve(thread, array.expect("both members are there")).await;
    }

    async fn serve(self: &Rc<Self>, thread: Thread, array: Rc<Array>) {
        let facts = array.facts();
        let records = facts.load().remove(&VOLUME).into_iter().collect();
        let parts = Parts {
            id: VOLUME,
            name: "held".parse().expect("a good name"),
            disk: array.disk(),
            store: Rc::new(Grants(Rc::clone(&array))),
            rt: Rc::clone(&thread.rt),
        };
        let gate = GatedVolume::open(parts, &Found { records, complete: facts.complete() }, Some(Epoch(0)));
        let claim = Claim { epoch: EPOCH, shared: false, owners: vec![(HOST, Mode::Rw)] };
        let raised = gate.clone();
        call(&thread.process, &Rc::default(), async move { raised.raise(claim).await }).await;
        *self.target.borrow_mut() = Some(Rc::new(Target { thread, gate }));
        self.changed.wake_all();
    }

    async fn start_initiator(self: &Rc<Self>) {
        let process = self.exec.process();
        let (world, rt) = (Rc::clone(self), Rc::new(process.clone()) as Rt);
        let never = Rc::default();
        let opened = call(&process, &never, async move {
            let options = HoldOptions { log_bytes: 64 << 10, ..HoldOptions::default() };
            loop {
                match Hold::open(&rt, options, Box::new(Way(Rc::clone(&world)))).await {
                    Ok(hold) => return hold,
                    Err(ConnectError::Later(_)) => world.exec.sleep_us(20_000).await,
                    Err(fenced) => panic!("nobody raised: {fenced:?}"),
                }
            }
        });
        let hold = opened.await.expect("nobody kills it meanwhile");
        *self.hold.borrow_mut() = Some((process, hold));
        self.changed.wake_all();
    }

    /// A writer: random operations on its own blocks while there are faults, then everything is read once more.
    async fn write(self: Rc<Self>, writer: u64, mut rng: Rng) {
        // Everything ever written: a discard may bring back what was there before the last write, which was not flushed.
        let mut ever: Vec<Vec<u8>> = vec![vec![0]; usize::try_from(BLOCKS_EACH).expect("few")];
        let blank = Block { may: vec![0], back: None };
        let mut blocks: Vec<Block> = vec![blank; usize::try_from(BLOCKS_EACH).expect("few")];
        while self.faults.get() && self.violation.borrow().is_none() {
            let block = rng.below(BLOCKS_EACH);
            let slot = &mut blocks[usize::try_from(block).expect("few")];
            let at = ByteOffset((writer * BLOCKS_EACH + block) * BLOCK_BYTES);
            match rng.below(8) {
                0..=3 => {
                    let letter = 1 + u8::try_from(rng.below(250)).expect("below 251");
                    slot.may.push(letter);
                    ever[usize::try_from(block).expect("few")].push(letter);
                    let how = if rng.below(4) == 0 { Durability::Fua } else { Durability::Cached };
                    if self.ask(move |disk| disk.write(at, filled(letter), how)).await {
                        *slot = Block { may: vec![letter], back: None };
                    }
                }
                4 => {
                    let before = (ever[usize::try_from(block).expect("few")].clone(), self.losses.get());
                    slot.may.push(0);
                    let len = ByteLen(BLOCK_BYTES);
                    if rng.coin() {
                        // What stands there afterwards is old or zeroes: whoever reads it settles that.
                        self.ask(move |disk| disk.discard(at, len)).await;
                        slot.back = Some(before);
                        self.check(at, slot).await;
                    } else if self.ask(move |disk| disk.write_zeroes(at, len, Durability::Cached, true)).await {
                        *slot = Block { may: vec![0], back: None };
                    }
                }
                5 => {
                    if self.ask(|disk| disk.flush()).await {
                        // What the power took before the flush is not brought back by it.
                        let (kept, now) = (|block: &Block| block.back.clone(), self.losses.get());
                        blocks
                            .iter_mut()
                            .for_each(|block| block.back = kept(block).filter(|(_, losses)| *losses != now));
                    }
                }
                _ => self.check(at, slot).await,
            }
        }
        for block in 0..BLOCKS_EACH {
            let at = ByteOffset((writer * BLOCKS_EACH + block) * BLOCK_BYTES);
            self.check(at, &mut blocks[usize::try_from(block).expect("few")]).await;
        }
        self.busy.set(self.busy.get() - 1);
    }

    /// Reads a block. A write that was never answered may have happened in part, sector by sector.
    async fn check(self: &Rc<Self>, at: ByteOffset, block: &mut Block) {
        let seen: Rc<RefCell<Vec<u8>>> = Rc::default();
        let far = Rc::clone(&seen);
        let answered = self.ask(move |disk| {
            let (read, far) = (disk.read(at, IoBuf::new(4096)), Rc::clone(&far));
            IoFuture::later(async move {
                *far.borrow_mut() = read.await?.to_vec();
                Ok(())
            })
        });
        if !answered.await {
            return;
        }
        let bytes = seen.take();
        let lost = block.back.as_ref().filter(|(_, losses)| *losses != self.losses.get());
        let may_hold: Vec<u8> = block.may.iter().chain(lost.into_iter().flat_map(|(old, _)| old)).copied().collect();
        for sector in bytes.chunks_exact(512) {
            if !may_hold.contains(&sector[0]) || sector.iter().any(|byte| *byte != sector[0]) {
                self.blame(Invariant::I3, format!("{at} reads {}, may be one of {may_hold:?}", sector[0]));
            }
        }
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            block.may = vec![bytes[0]];
        }
    }

    /// An operation through the initiator that runs now. `false`: it was killed before the answer.
    async fn ask(self: &Rc<Self>, operation: impl Fn(&Hold) -> IoFuture<()> + 'static) -> bool {
        let (process, hold) = loop {
            if let Some((process, hold)) = &*self.hold.borrow() {
                break (process.clone(), hold.clone());
            }
            self.changed.wait().await;
        };
        match call(&process, &Rc::default(), async move { operation(&hold).await }).await {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                self.blame(Invariant::B25, format!("the guest was told '{error}' although the bound is far away"));
                false
            }
            None => false,
        }
    }
}

fn filled(letter: u8) -> IoData {
    IoBuf::copy_of(&[letter; 4096]).freeze()
}

/// The way from the initiator to the target that runs now.
struct Way(Rc<World>);

impl Connector for Way {
    fn connect(&self) -> Connecting {
        let world = Rc::clone(&self.0);
        Box::pin(async move {
            let target = world.target.borrow().clone();
            let Some(target) = target else { return Err(ConnectError::Later("connection refused".to_owned())) };
            world.incarnation.set(world.incarnation.get() + 1);
            let incarnation = Incarnation(world.incarnation.get());
            let attachment = Attachment { host: HOST, epoch: EPOCH, incarnation, mode: Mode::Rw };
            let (gate, cut) = (target.gate.clone(), Rc::new(Cut::default()));
            let attached =
                call(&target.thread.process, &cut, async move { gate.attach(Request::Exact(attachment)).await });
            match attached.await {
                Some(Ok(session)) => {
                    world.line.replace(Rc::clone(&cut));
                    let (disk, geometry) = (session.disk(), session.geometry());
                    let link = Link { process: target.thread.process.clone(), cut, disk, geometry, _session: session };
                    Ok(Rc::new(link) as Rc<dyn Session>)
                }
                Some(Err(refusal)) => Err(ConnectError::Later(refusal.to_string())),
                None => Err(ConnectError::Later("the target died".to_owned())),
            }
        })
    }
}

/// A session over a line that may be cut: what was asked for goes on at the target, the answer is lost.
struct Link {
    process: Process,
    cut: Rc<Cut>,
    disk: Disk,
    geometry: Geometry,
    _session: Rc<gate::Session>,
}

impl Link {
    fn send<T: Unpin + 'static>(&self, operation: impl FnOnce(&Disk) -> IoFuture<T> + 'static) -> IoFuture<T> {
        let (process, cut, disk) = (self.process.clone(), Rc::clone(&self.cut), Rc::clone(&self.disk));
        IoFuture::later(async move {
            if cut.is_cut() || !process.alive() {
                return Err(DeviceError::Disconnected);
            }
            match call(&process, &cut, async move { operation(&disk).await }).await {
                None | Some(Err(DeviceError::Closed)) => {
                    cut.cut();
                    Err(DeviceError::Disconnected)
                }
                Some(answer) => answer,
            }
        })
    }
}

impl Session for Link {
    fn lost(&self) -> Pin<Box<dyn Future<Output = String>>> {
        let (process, cut) = (self.process.clone(), Rc::clone(&self.cut));
        Box::pin(async move {
            let _ = call::<()>(&process, &cut, std::future::pending()).await;
            "the line was cut".to_owned()
        })
    }

    fn close(&self) {
        self.cut.cut();
    }
}

impl BlockDevice for Link {
    fn geometry(&self) -> Geometry {
        self.geometry
    }
    fn read(&self, at: ByteOffset, into: IoBuf) -> IoFuture<IoBuf> {
        self.send(move |disk| disk.read(at, into))
    }
    fn write(&self, at: ByteOffset, from: IoData, how: Durability) -> IoFuture<()> {
        self.send(move |disk| disk.write(at, from, how))
    }
    fn flush(&self) -> IoFuture<()> {
        self.send(|disk| disk.flush())
    }
    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.send(move |disk| disk.discard(at, len))
    }
    fn write_zeroes(&self, at: ByteOffset, len: ByteLen, how: Durability, may_unmap: bool) -> IoFuture<()> {
        self.send(move |disk| disk.write_zeroes(at, len, how, may_unmap))
    }
}
