//! A link to a real session of the target, over streams in memory, on a clock that the test owns: when is it alive?

use super::link::Link;
use crate::session::test::{Desk, DeskDisk, SIZE};
use crate::session::{Admission, Leave, Session};
use crate::stream::Wire;
use block::health::HealthTiming;
use block::hold::Session as _;
use block::runtime::{Rt, Runtime, Task};
use block::{BlockDevice, DeviceError, Disk, Durability, IoBuf};
use futures_util::future::try_join_all;
use host::net::Acknowledged;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use units::{ByteLen, ByteOffset, Epoch, Moment};
use wire::nbd::Context as Meta;
use wire::nbd::{BlockSizes, Contexts, ExportInfo, Negotiated, Ready, TransmissionFlags};

/// The test's clock.
struct Clock(Instant);

impl Runtime for Clock {
    fn now(&self) -> Moment {
        Moment(u64::try_from(self.0.elapsed().as_millis()).unwrap())
    }

    fn sleep_until(&self, when: Moment) -> Task {
        Box::pin(sleep_until(self.0 + Duration::from_millis(when.0)))
    }

    fn spawn(&self, task: Task) {
        tokio::task::spawn_local(task);
    }
}

/// A stream that takes so many bytes a second, and counts them as acknowledged.
struct Slow {
    stream: DuplexStream,
    bytes_per_ms: usize,
    left: usize,
    refill: Pin<Box<Sleep>>,
    taken: u64,
}

impl Slow {
    fn new(stream: DuplexStream, bytes_per_ms: usize) -> Self {
        Self { stream, bytes_per_ms, left: 0, refill: Box::pin(sleep(Duration::ZERO)), taken: 0 }
    }
}

impl AsyncRead for Slow {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        if self.left == 0 {
            ready!(self.refill.as_mut().poll(cx));
            self.refill.as_mut().reset(Instant::now() + Duration::from_millis(10));
            self.left = self.bytes_per_ms * 10;
        }
        let most = from.len().min(self.left);
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &from[..most]))?;
        (self.left, self.taken) = (self.left - count, self.taken + count as u64);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Wire for Slow {
    fn acknowledged(&self) -> Option<Acknowledged> {
        Some(Acknowledged { bytes: self.taken, all: true })
    }
}

/// What the gate says.
#[derive(Default)]
struct Gate(Cell<Option<DeviceError>>);

impl Admission for Gate {
    fn heard(&self) {}

    fn standing(&self) -> Result<(), DeviceError> {
        self.0.get().map_or(Ok(()), Err)
    }
}

struct Bench {
    desk: Rc<Desk>,
    gate: Rc<Gate>,
    rt: Rt,
    link: Rc<Link>,
    heard: Rc<Cell<Option<Moment>>>,
    lost: Rc<RefCell<Option<(Moment, String)>>>,
    /// A target that was not started, and reads nothing.
    frozen: Option<DuplexStream>,
}

/// How the other end is.
#[derive(Clone, Copy, PartialEq)]
enum Target {
    /// Ours.
    Muskox,
    /// One that knows no heartbeat, and does not run although its machine takes what it is sent.
    FrozenStock,
    /// Ours, not running although its machine takes what it is sent.
    FrozenMuskox,
}

impl Bench {
    fn new(target: Target, bytes_per_ms: usize) -> Self {
        let desk = Desk::new();
        let (client, server) = tokio::io::duplex(if target == Target::Muskox { 64 << 10 } else { 64 << 20 });
        let flags = [TransmissionFlags::SEND_FLUSH, TransmissionFlags::SEND_FUA];
        let flags = flags.into_iter().fold(TransmissionFlags::HAS_FLAGS, TransmissionFlags::with);
        let size = ByteLen(SIZE as u64);
        let export = ExportInfo { size, flags, block: BlockSizes::DEFAULT, name: None, description: None };
        let knows = target != Target::FrozenStock;
        let contexts = if knows { Contexts::default().with(Meta::Heartbeat) } else { Contexts::default() };
        let context = knows.then_some(Meta::Heartbeat.id());
        let negotiated = Negotiated { name: "v".into(), export: export.clone(), structured: true, contexts };
        let (gate, mut frozen) = (Rc::<Gate>::default(), None);
        if target == Target::Muskox {
            let disk: Disk = Rc::new(DeskDisk(Rc::clone(&desk)));
            let session = Session::new(server, &[], &negotiated, disk, std::future::pending::<Leave>());
            tokio::task::spawn_local(session.admitted_by(Rc::clone(&gate) as Rc<dyn Admission>));
        } else {
            frozen = Some(server);
        }
        let rt: Rt = Rc::new(Clock(Instant::now()));
        let (heard, ready) = (Rc::default(), Ready { export, structured: true, context });
        let slow = Slow::new(client, bytes_per_ms);
        let link = Link::start(&rt, slow, &[], ready, HealthTiming::default(), Rc::clone(&heard));
        let lost: Rc<RefCell<Option<(Moment, String)>>> = Rc::default();
        let (watched, noted, clock) = (link.lost(), Rc::clone(&lost), Rc::clone(&rt));
        tokio::task::spawn_local(async move {
            let reason = watched.await;
            *noted.borrow_mut() = Some((clock.now(), reason));
        });
        Self { desk, gate, rt, link, heard, lost, frozen }
    }

    /// The disk answers again.
    async fn call(&self) {
        self.desk.held.set(false);
        self.desk.called.notify_one();
        tokio::task::yield_now().await;
    }

    fn write(&self, at: u64, mark: u8, len: usize) -> block::IoFuture<()> {
        self.link.write(ByteOffset(at), IoBuf::copy_of(&vec![mark; len]).freeze(), Durability::Cached)
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

const FAST: usize = 1 << 20;

/// DA4. Goal: a disk that answers nothing for seconds is no dead path, however much waits for it. Method: a flush that is
/// held for 3 s, and behind it more requests and more bytes than the target takes at once; then all of it is answered.
#[test]
fn a_slow_flush_is_no_dead_path() {
    run(async {
        let bench = Bench::new(Target::Muskox, FAST);
        bench.desk.held.set(true);
        let flush = bench.link.flush();
        let reads: Vec<_> = (0..300).map(|n| bench.link.read(ByteOffset(n * 4096), IoBuf::new(4096))).collect();
        let writes: Vec<_> = (0..5).map(|n| bench.write(n << 24, 7, 16 << 20)).collect();
        for _ in 0..12 {
            sleep(Duration::from_millis(250)).await;
            assert_eq!(*bench.lost.borrow(), None);
            let age = bench.heard.get().map(|heard| bench.rt.now().since(heard).0);
            assert!(age.is_none_or(|age| age <= 500), "the gate was last asked {age:?} ms ago");
        }
        assert!(bench.heard.get().is_some());
        bench.call().await;
        flush.await.unwrap();
        try_join_all(reads).await.unwrap();
        try_join_all(writes).await.unwrap();
        assert_eq!(bench.desk.bytes.borrow()[..SIZE], vec![7; SIZE]);
        assert_eq!(*bench.lost.borrow(), None);
    });
}

/// DA4. Goal: large writes over a slow wire end well. Method: 32 MiB twice at 10 MB/s; 4 MiB at 0.5 MB/s, where not even a
/// piece of a write passes within the time that a silent path is given.
#[test]
fn large_writes_over_a_slow_wire_end_well() {
    run(async {
        for (bytes_per_ms, len) in [(10_000, 32 << 20), (500, 4 << 20)] {
            let bench = Bench::new(Target::Muskox, bytes_per_ms);
            let begun = Instant::now();
            let (first, second) = (bench.write(0, 1, len), bench.write(len as u64, 2, len));
            first.await.unwrap();
            second.await.unwrap();
            let at_least = Duration::from_millis((2 * len / bytes_per_ms) as u64);
            assert!(begun.elapsed() >= at_least, "{:?} is quicker than the wire", begun.elapsed());
            assert_eq!(*bench.lost.borrow(), None, "{bytes_per_ms} bytes a ms");
            assert_eq!(bench.desk.bytes.borrow()[len - 1..=len], [1, 2]);
        }
    });
}

/// DA4. Goal: a target that hangs is noticed in 0.75 s, although its machine acknowledges the probes; one that may have to
/// read its media for a probe is given 4 s; a machine that takes more and more does not prolong either beyond that.
/// Method: a peer that takes everything and answers nothing, with and without a heartbeat, idle and with a long write.
#[test]
fn a_target_that_hangs_is_noticed() {
    run(async {
        for (target, busy, at_least, at_most) in [
            (Target::FrozenMuskox, false, 750, 1_000),
            (Target::FrozenStock, false, 4_000, 4_250),
            (Target::FrozenMuskox, true, 4_000, 4_250),
        ] {
            let bench = Bench::new(target, if busy { 5_000 } else { FAST });
            let write = busy.then(|| bench.write(0, 1, 40 << 20));
            sleep(Duration::from_secs(6)).await;
            let (when, why) = bench.lost.borrow().clone().expect("it is noticed");
            assert!((at_least..=at_most).contains(&when.0), "{why}, after {when:?}");
            assert!(why.contains("was silent for"), "{why}");
            if let Some(write) = write {
                assert_eq!(write.await, Err(DeviceError::Disconnected));
            }
            assert!(bench.frozen.is_some());
        }
    });
}

/// Goal: the heartbeat asks the gate: an epoch that is over ends the link although nobody reads or writes, and only what
/// the gate confirmed counts as heard. Method: the gate refuses after a second.
#[test]
fn the_heartbeat_asks_the_gate() {
    run(async {
        let bench = Bench::new(Target::Muskox, FAST);
        sleep(Duration::from_secs(1)).await;
        bench.gate.0.set(Some(DeviceError::Fenced { held: Epoch(1), current: Epoch(2) }));
        let refused_from = bench.rt.now();
        sleep(Duration::from_secs(1)).await;
        let (when, why) = bench.lost.borrow().clone().expect("it has ended");
        assert!(when.since(refused_from).0 <= 250 && why.contains("ends this attachment"), "{why}");
        assert!(bench.heard.get().is_some_and(|heard| heard <= refused_from));
    });
}
