//! The hosts: initiators that write, read, flush, tear their connections, start again, and do not know when they are old.
//!
//! A host learns that it lost the volume only from the target's refusal. Then it still tries: what is queued, once more
//! on the old session, by new sessions and by a new incarnation; all of it must be refused.

use super::call::{Cut, call};
use super::target::{Denied, Session, Target};
use super::{Phase, World};
use crate::checkers::{Ask, Outcome, Stamp, WriteId};
use crate::executor::Sleep;
use crate::rng::Rng;
use block::gate::Attachment;
use block::{DeviceError, Durability, IoBuf};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use units::{ByteLen, ByteOffset, Epoch, Incarnation};

/// How often a refused host tries again before it waits to be told something new.
const STALE_TRIES: u32 = 3;
/// Between two attempts to attach.
const RETRY_US: u64 = 50_000;

/// One life of an initiator: an epoch and an incarnation, with its sessions.
struct Life {
    world: Rc<World>,
    host: u8,
    epoch: Epoch,
    incarnation: Incarnation,
    rng: RefCell<Rng>,
    /// This life is over: its tasks stop at the next operation.
    over: Rc<Cut>,
    /// Refusals heard.
    refused: Cell<u32>,
    /// What a stock client has to send again.
    unanswered: RefCell<Vec<Unanswered>>,
}

/// A connection to one target.
struct Link {
    target: Rc<Target>,
    session: Session,
    torn: Rc<Cut>,
    /// The client has given it up; what it sent on its way may still arrive.
    left: Rc<Cut>,
    /// Nothing arrives before this moment: the wire of its path is cut, and nobody notices.
    stalled_us: Cell<u64>,
    /// What the gate let it in as.
    epoch: Epoch,
    incarnation: Incarnation,
}

/// A write of a stock client that was not answered on its path: sent again on the next one, as Linux does
/// (drivers/block/nbd.c, `nbd_xmit_timeout`).
#[derive(Clone, Copy)]
struct Unanswered {
    write: WriteId,
    sector: u32,
    sectors: u32,
    fua: bool,
    /// What its sectors say.
    epoch: Epoch,
    /// It was on its way once: a refusal does not mean that it never happened.
    again: bool,
}

/// The host's whole existence.
pub async fn live(world: Rc<World>, host: u8, mut rng: Rng) {
    let mut incarnation = Incarnation(0);
    let mut finished = None;
    loop {
        let epoch = match world.told.borrow().get(&host).copied() {
            Some(epoch) if finished != Some(epoch) => epoch,
            _ => Epoch(0),
        };
        if epoch == Epoch(0) {
            world.changed.wait().await;
            continue;
        }
        incarnation = Incarnation(incarnation.0 + 1);
        let life = Rc::new(Life {
            world: Rc::clone(&world),
            host,
            epoch,
            incarnation,
            rng: RefCell::new(rng.fork()),
            over: Rc::default(),
            refused: Cell::new(0),
            unanswered: RefCell::default(),
        });
        life.spend().await;
        if life.refused.get() > STALE_TRIES || world.phase.get() == Phase::Rest {
            finished = Some(epoch);
        }
        world.exec.sleep_us(rng.between(1_000, 20_000)).await;
    }
}

impl Life {
    /// Works until the host restarts, gives up, or rests.
    async fn spend(self: &Rc<Self>) {
        let sessions = if self.world.knobs.stock { 1 } else { self.rng.borrow_mut().between(1, 2) };
        let live = Rc::new(Cell::new(sessions));
        for _ in 0..sessions {
            let (life, live) = (Rc::clone(self), Rc::clone(&live));
            self.world.exec.machine().go(async move {
                life.keep_session().await;
                live.set(live.get() - 1);
            });
        }
        let span_us = self.world.knobs.restart_ms.map(|ms| self.rng.borrow_mut().between(1, 2 * ms) * 1000);
        let end_us = span_us.map(|span| self.world.exec.now_us() + span);
        let restarts = end_us.is_some() && self.world.phase.get() == Phase::Chaos;
        while live.get() > 0 {
            self.world.exec.sleep_us(5_000).await;
            if restarts && end_us.is_some_and(|end| self.world.exec.now_us() >= end) {
                self.world.did("an initiator restarts with operations in flight");
                break;
            }
        }
        self.over.cut();
    }

    fn goes_on(&self) -> bool {
        !self.over.is_cut() && self.refused.get() <= STALE_TRIES && self.world.phase.get() != Phase::Rest
    }

    /// Attaches, works, and attaches again when the connection is gone.
    async fn keep_session(self: &Rc<Self>) {
        while self.goes_on() {
            match self.attach().await {
                Some(link) => self.work(&Rc::new(link)).await,
                None => self.nap(RETRY_US).await,
            }
        }
    }

    async fn attach(self: &Rc<Self>) -> Option<Link> {
        let target = self.world.running().await;
        let far = Rc::clone(&target);
        let (host, epoch, incarnation, stock) = (self.host, self.epoch, self.incarnation, self.world.knobs.stock);
        let asked = async move {
            if stock { far.attach_stock(host).await } else { far.attach(host, epoch, incarnation).await }
        };
        match call(target.process(), &self.over, asked).await? {
            Ok(session) => {
                let Attachment { epoch, incarnation, .. } = session.attachment();
                self.world.referee.attached(host, epoch, incarnation, self.world.blind.get());
                self.world.did("an attach is admitted");
                let (torn, left, stalled_us) = (Rc::default(), Rc::default(), Cell::new(0));
                Some(Link { target, session, torn, left, stalled_us, epoch, incarnation })
            }
            Err(Denied::ForEver) => {
                self.refused.set(self.refused.get() + 1);
                self.world.did("an attach is refused for good");
                None
            }
            Err(Denied::Later) => None,
        }
    }

    /// Keeps the session busy until it is gone.
    async fn work(self: &Rc<Self>, link: &Rc<Link>) {
        let depth = self.world.knobs.depth;
        self.send_again(link).await;
        let busy = Rc::new(Cell::new(depth));
        for _ in 0..depth {
            let (life, link, busy) = (Rc::clone(self), Rc::clone(link), Rc::clone(&busy));
            self.world.exec.machine().go(async move {
                life.slot(&link).await;
                busy.set(busy.get() - 1);
            });
        }
        let stock = self.world.knobs.stock;
        let tears = self.world.knobs.tear && (stock || self.rng.borrow_mut().coin());
        let tear_us = self.world.exec.now_us() + self.rng.borrow_mut().between(1_000, 3_000_000);
        while busy.get() > 0 {
            self.nap(2_000).await;
            let torn = tears && self.world.exec.now_us() > tear_us && self.world.phase.get() == Phase::Chaos;
            if torn && stock && !self.over.is_cut() {
                return self.lose_path(link).await;
            }
            if torn {
                self.world.did("a session is torn");
            }
            if torn || self.over.is_cut() {
                break;
            }
        }
        link.torn.cut();
        link.session.close();
    }

    /// The wire of a path is cut. Its client gives it up after a while and goes on by another; what was on its way arrives when
    /// the wire is whole again.
    async fn lose_path(self: &Rc<Self>, link: &Rc<Link>) {
        const TIMEOUT_US: u64 = 2_500_000;
        self.world.did("the path of a stock client is cut");
        let healed_us = self.world.exec.now_us() + TIMEOUT_US + self.rng.borrow_mut().between(10_000, 3_000_000);
        link.stalled_us.set(healed_us);
        self.nap(TIMEOUT_US).await;
        link.left.cut();
        let (link, exec) = (Rc::clone(link), self.world.exec.clone());
        self.world.exec.machine().go(async move {
            exec.sleep_us(healed_us.saturating_sub(exec.now_us()) + 300_000).await;
            link.torn.cut();
            link.session.close();
        });
    }

    /// A new path first gets what was not answered on the one before.
    async fn send_again(self: &Rc<Self>, link: &Rc<Link>) {
        for unanswered in self.unanswered.take() {
            self.world.did("a stock client sends a write again");
            self.world.referee.write_again(unanswered.write, link.epoch, link.incarnation);
            self.send(link, Unanswered { again: true, ..unanswered }).await;
        }
    }

    async fn slot(self: &Rc<Self>, link: &Rc<Link>) {
        while self.goes_on() && !link.torn.is_cut() && !link.left.is_cut() && link.target.process().alive() {
            self.world.pending.set(self.world.pending.get() + 1);
            let answered = self.one_operation(link).await;
            self.world.pending.set(self.world.pending.get() - 1);
            if !answered {
                return;
            }
            let pause_us = self.rng.borrow_mut().below(self.world.knobs.pause_us + 1);
            self.nap(pause_us).await;
        }
    }

    fn nap(&self, span_us: u64) -> Sleep {
        self.world.exec.sleep_us(span_us)
    }

    /// The way to the target takes its time, sometimes a lot: that is the queue an old host still has.
    fn travel_us(&self) -> u64 {
        let mut rng = self.rng.borrow_mut();
        if rng.chance(200) { rng.between(1_000, 100_000) } else { rng.between(10, 200) }
    }

    /// One operation; false when the session is of no use any more.
    async fn one_operation(self: &Rc<Self>, link: &Rc<Link>) -> bool {
        let knobs = self.world.knobs;
        let dice = self.rng.borrow_mut().below(10_000);
        if dice < u64::from(knobs.reads) {
            return self.read(link).await;
        }
        if dice < u64::from(knobs.reads + knobs.flushes) {
            return self.flush(link).await;
        }
        if dice < u64::from(knobs.reads + knobs.flushes + knobs.zeroes) {
            return self.zero(link).await;
        }
        let fua = self.rng.borrow_mut().chance(knobs.fuas);
        self.write(link, fua).await
    }

    fn place(&self) -> (u32, u32) {
        let mut rng = self.rng.borrow_mut();
        let all = u64::from(self.world.knobs.sectors);
        let sectors = [1, 2, 8, 8, 8, 16][rng.index(6)].min(all);
        let sector = rng.below(all - sectors + 1);
        let whole_blocks = self.world.knobs.model.block_bytes == 4096;
        let (sector, sectors) = if whole_blocks { (sector, sectors.next_multiple_of(8)) } else { (sector, sectors) };
        let sector = if whole_blocks || rng.coin() { sector & !7 } else { sector };
        (u32::try_from(sector).expect("small"), u32::try_from(sectors).expect("small"))
    }

    async fn write(self: &Rc<Self>, link: &Rc<Link>, fua: bool) -> bool {
        let (sector, sectors) = self.place();
        let referee = &self.world.referee;
        let (host, epoch, incarnation) = (self.host, link.epoch, link.incarnation);
        let write = referee.write_begins(Ask { host, epoch, incarnation, sector, sectors, fua, zeroes: false });
        self.send(link, Unanswered { write, sector, sectors, fua, epoch, again: false }).await
    }

    /// Sends a write and waits for the answer.
    async fn send(self: &Rc<Self>, link: &Rc<Link>, asked: Unanswered) -> bool {
        let Unanswered { write, sector, sectors, fua, epoch, again } = asked;
        let mut bytes = IoBuf::new(sectors as usize * 512);
        for (sector, part) in (sector..).zip(bytes.chunks_exact_mut(512)) {
            Stamp { write, sector, epoch }.fill(part);
        }
        let how = if fua { Durability::Fua } else { Durability::Cached };
        let (disk, data) = (link.session.disk(), bytes.freeze());
        let answer = self.over_the_wire(link, async move { disk.write(at(sector), data, how).await }).await;
        if answer.is_none() && link.left.is_cut() {
            self.unanswered.borrow_mut().push(asked);
            return false;
        }
        let (outcome, ended) = match answer {
            Some(Ok(())) => (Outcome::Acked, true),
            Some(Err(DeviceError::Fenced { .. } | DeviceError::ReadOnly)) if !again => (Outcome::Refused, true),
            // The copy that was sent first may still be on its way.
            Some(Err(_)) => (Outcome::Unknown, !again),
            None => (Outcome::Unknown, false),
        };
        self.world.say(|| {
            let (host, life) = (self.host, link.incarnation);
            format!("host {host} {epoch} {life}: write {} at {sector}+{sectors} fua {fua}: {answer:?}", write.0)
        });
        self.world.referee.write_told(write, outcome, ended);
        self.judge(answer)
    }

    /// Does `work` at the target once it got there; `None` if the client hears nothing.
    async fn over_the_wire<T: 'static>(
        self: &Rc<Self>,
        link: &Rc<Link>,
        work: impl Future<Output = T> + 'static,
    ) -> Option<T> {
        let (exec, path, trip_us) = (self.world.exec.clone(), Rc::clone(link), self.travel_us());
        let arrives = async move {
            exec.sleep_us(trip_us).await;
            while path.stalled_us.get() > exec.now_us() {
                exec.sleep_us(path.stalled_us.get() - exec.now_us()).await;
            }
            path.session.heard();
            work.await
        };
        let answer = call(link.target.process(), &link.torn, arrives);
        // The answer of a path that was given up is not heard.
        link.left.until(answer).await.flatten()
    }

    /// A discard, after which old content or zeroes are there, or zeroes for sure.
    async fn zero(self: &Rc<Self>, link: &Rc<Link>) -> bool {
        let (sector, sectors) = self.place();
        let (host, epoch, incarnation) = (self.host, link.epoch, link.incarnation);
        let ask = Ask { host, epoch, incarnation, sector, sectors, fua: false, zeroes: true };
        let write = self.world.referee.write_begins(ask);
        let (disk, len) = (link.session.disk(), ByteLen(u64::from(sectors) * 512));
        let discard = self.rng.borrow_mut().coin();
        let work = async move {
            if discard {
                disk.discard(at(sector), len).await
            } else {
                disk.write_zeroes(at(sector), len, Durability::Cached, true).await
            }
        };
        let answer = self.over_the_wire(link, work).await;
        let (outcome, ended) = match answer {
            Some(Ok(())) if !discard => (Outcome::Acked, true),
            Some(Err(DeviceError::Fenced { .. } | DeviceError::ReadOnly)) => (Outcome::Refused, true),
            answer => (Outcome::Unknown, answer.is_some()),
        };
        self.world.referee.write_told(write, outcome, ended);
        self.judge(answer)
    }

    async fn read(self: &Rc<Self>, link: &Rc<Link>) -> bool {
        let (sector, sectors) = self.place();
        let began = self.world.referee.begins();
        let disk = link.session.disk();
        let work = async move { disk.read(at(sector), IoBuf::new(sectors as usize * 512)).await };
        let answer = self.over_the_wire(link, work).await;
        if let Some(Ok(bytes)) = &answer {
            self.world.referee.read_done(began, sector, bytes);
        }
        self.judge(answer.map(|answer| answer.map(|_| ())))
    }

    async fn flush(self: &Rc<Self>, link: &Rc<Link>) -> bool {
        let began = self.world.referee.begins();
        let disk = link.session.disk();
        let answer = self.over_the_wire(link, async move { disk.flush().await }).await;
        self.world.say(|| {
            format!("host {} {} {}: flush of tick {}: {answer:?}", self.host, self.epoch, self.incarnation, began.0)
        });
        if answer == Some(Ok(())) {
            self.world.referee.flush_done(began);
        }
        self.judge(answer)
    }

    /// Whether to go on with this session.
    fn judge(&self, answer: Option<Result<(), DeviceError>>) -> bool {
        match answer {
            Some(Ok(())) => true,
            // Standby: patience. The raise that grants it changes nothing in the session.
            Some(Err(DeviceError::ReadOnly)) => true,
            Some(Err(DeviceError::Fenced { .. })) => {
                self.world.did("an operation of an old epoch is refused");
                self.refused.set(self.refused.get() + 1);
                self.rng.borrow_mut().coin()
            }
            Some(Err(_)) => {
                self.world.did("an operation is answered with an error");
                false
            }
            None => false,
        }
    }
}

fn at(sector: u32) -> ByteOffset {
    ByteOffset(u64::from(sector) * 512)
}

/// Reads the whole volume through a session, for the last look.
pub async fn read_all(world: &World, session: &Session, target: &Target) -> Option<Result<(), DeviceError>> {
    const PIECE: u32 = 64;
    let never = Rc::new(Cut::default());
    for sector in (0..world.knobs.sectors).step_by(PIECE as usize) {
        let sectors = PIECE.min(world.knobs.sectors - sector);
        let (disk, began) = (session.disk(), world.referee.begins());
        let work = async move { disk.read(at(sector), IoBuf::new(sectors as usize * 512)).await };
        match call(target.process(), &never, work).await? {
            Ok(bytes) => world.referee.read_done(began, sector, &bytes),
            Err(error) => return Some(Err(error)),
        }
    }
    Some(Ok(()))
}
