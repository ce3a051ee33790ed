//! The session on a stream in memory, with a disk whose answers come at once, later, or not before they are called.

use super::*;
use crate::stream::REQUESTS_MAX;
use block::{BlockDevice, DeviceError, Durability, Geometry, IoData, IoFuture};
use std::cell::RefCell;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;
use units::{ByteLen, ByteOffset, Epoch};
use wire::nbd::constant::{
    CMD_BLOCK_STATUS, CMD_DISC, CMD_FLAG_FUA, CMD_FLUSH, CMD_READ, CMD_TRIM, CMD_WRITE, CMD_WRITE_ZEROES,
};
use wire::nbd::{
    BlockSizes, Context, ExportInfo, NbdError, ReplyBody, TransmissionFlags, decode_reply, encode_request,
};

pub(crate) const SIZE: usize = 80 << 20;

/// A disk in memory that writes down what it was asked.
#[derive(Default)]
pub(crate) struct Desk {
    pub(crate) bytes: RefCell<Vec<u8>>,
    log: RefCell<Vec<String>>,
    /// Operations wait for a call while this is set.
    pub(crate) held: Cell<bool>,
    pub(crate) called: Notify,
    refusal: Cell<Option<DeviceError>>,
    running: Cell<u32>,
    running_most: Cell<u32>,
}

impl Desk {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self { bytes: RefCell::new(vec![0; SIZE]), ..Self::default() })
    }
}

#[derive(Clone)]
pub(crate) struct DeskDisk(pub(crate) Rc<Desk>);

impl DeskDisk {
    fn act<T: Unpin + 'static>(&self, words: String, act: impl FnOnce(&Desk) -> T + 'static) -> IoFuture<T> {
        let desk = Rc::clone(&self.0);
        desk.log.borrow_mut().push(words);
        if let Some(refusal) = desk.refusal.get() {
            return IoFuture::ready(Err(refusal));
        }
        if !desk.held.get() {
            return IoFuture::ready(Ok(act(&desk)));
        }
        desk.running.set(desk.running.get() + 1);
        desk.running_most.set(desk.running_most.get().max(desk.running.get()));
        IoFuture::later(async move {
            while desk.held.get() {
                desk.called.notified().await;
            }
            desk.called.notify_one();
            desk.running.set(desk.running.get() - 1);
            Ok(act(&desk))
        })
    }
}

fn place(at: ByteOffset) -> usize {
    usize::try_from(at.0).unwrap()
}

impl BlockDevice for DeskDisk {
    fn geometry(&self) -> Geometry {
        let size = ByteLen(SIZE as u64);
        Geometry { size, block_bytes: 512, optimal_bytes: 4096, volatile_cache: true, discard: true }
    }
    fn read(&self, at: ByteOffset, mut into: IoBuf) -> IoFuture<IoBuf> {
        self.act(format!("read {}+{}", at.0, into.len()), move |desk| {
            let len = into.len();
            into.copy_from_slice(&desk.bytes.borrow()[place(at)..place(at) + len]);
            into
        })
    }
    fn write(&self, at: ByteOffset, from: IoData, how: Durability) -> IoFuture<()> {
        self.act(format!("write {}+{} {how:?}", at.0, from.len()), move |desk| {
            desk.bytes.borrow_mut()[place(at)..place(at) + from.len()].copy_from_slice(&from);
        })
    }
    fn flush(&self) -> IoFuture<()> {
        self.act("flush".into(), |_| ())
    }
    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        self.act(format!("discard {}+{}", at.0, len.0), |_| ())
    }
    fn write_zeroes(&self, at: ByteOffset, len: ByteLen, how: Durability, may_unmap: bool) -> IoFuture<()> {
        self.act(format!("zeroes {}+{} {how:?} {may_unmap}", at.0, len.0), |_| ())
    }
}

struct Bench {
    desk: Rc<Desk>,
    client: DuplexStream,
    leave: Option<tokio::sync::oneshot::Sender<Leave>>,
    meter: Rc<Meter>,
    over: tokio::task::JoinHandle<Ended>,
    structured: bool,
}

impl Bench {
    /// A session that runs as a task of this thread's `LocalSet`; `pipe` bytes fit between the two ends.
    fn new(structured: bool, pipe: usize) -> Self {
        let desk = Desk::new();
        let (client, server) = tokio::io::duplex(pipe);
        let flags = [
            TransmissionFlags::SEND_FLUSH,
            TransmissionFlags::SEND_FUA,
            TransmissionFlags::SEND_TRIM,
            TransmissionFlags::SEND_WRITE_ZEROES,
        ];
        let flags = flags.into_iter().fold(TransmissionFlags::HAS_FLAGS, TransmissionFlags::with);
        let size = ByteLen(SIZE as u64);
        let export = ExportInfo { size, flags, block: BlockSizes::DEFAULT, name: None, description: None };
        let allocation = Contexts::default().with(Context::BaseAllocation);
        let contexts = if structured { allocation } else { Contexts::default() };
        let negotiated = Negotiated { name: "v".into(), export, structured, contexts };
        let (leave, left) = tokio::sync::oneshot::channel();
        let left = async move {
            match left.await {
                Ok(why) => why,
                Err(_) => std::future::pending().await,
            }
        };
        let disk: Disk = Rc::new(DeskDisk(Rc::clone(&desk)));
        let session = Session::new(server, &[], &negotiated, disk, left);
        let meter = session.meter();
        Self { desk, client, leave: Some(leave), meter, over: tokio::task::spawn_local(session), structured }
    }

    async fn ask(&mut self, command: u16, flags: u16, cookie: u64, at: u64, len: usize) {
        let len = u32::try_from(len).unwrap();
        let request = encode_request(&Request { flags, command, cookie, at: ByteOffset(at), len });
        self.client.write_all(&request).await.unwrap();
    }

    async fn write(&mut self, cookie: u64, at: u64, fill: u8, len: usize) {
        self.ask(CMD_WRITE, 0, cookie, at, len).await;
        self.client.write_all(&vec![fill; len]).await.unwrap();
    }

    /// The next reply: its cookie, what it says, the data or text behind it.
    async fn reply(&mut self, read_len: usize) -> (u64, ReplyBody, Vec<u8>) {
        let mut bytes = Vec::new();
        let head = loop {
            bytes.push(self.client.read_u8().await.unwrap());
            if let Some(head) = decode_reply(&mut &bytes[..], self.structured).unwrap() {
                break head;
            }
        };
        let len = match head.body {
            ReplyBody::OffsetData { len, .. } => len as usize,
            ReplyBody::Simple(Ok(())) => read_len,
            ReplyBody::Error { text_len, skip, .. } => usize::from(text_len) + skip as usize,
            ReplyBody::BlockStatus { extents, .. } => extents as usize * 8,
            _ => 0,
        };
        let mut data = vec![0; len];
        self.client.read_exact(&mut data).await.unwrap();
        (head.cookie, head.body, data)
    }

    async fn call(&self) {
        self.desk.held.set(false);
        self.desk.called.notify_one();
        settle().await;
    }

    fn log(&self) -> Vec<String> {
        self.desk.log.borrow_mut().drain(..).collect()
    }
}

/// Lets the session's task do all it can.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

const OK: ReplyBody = ReplyBody::Simple(Ok(()));

/// Goal: every request becomes the right call on the disk and is answered. Method: one of each, small and large.
#[test]
fn requests_become_operations() {
    run(async {
        let mut bench = Bench::new(true, 1 << 20);
        bench.write(1, 4096, 7, 4096).await;
        assert_eq!(bench.reply(0).await, (1, OK, vec![]));
        bench.write(2, 1 << 20, 8, 300_000 / 512 * 512).await;
        assert_eq!(bench.reply(0).await.0, 2);
        bench.ask(CMD_READ, 0, 3, 4096, 4096).await;
        let (cookie, body, data) = bench.reply(0).await;
        assert_eq!((cookie, data), (3, vec![7; 4096]));
        assert_eq!(body, ReplyBody::OffsetData { at: ByteOffset(4096), len: 4096 });
        bench.ask(CMD_FLUSH, 0, 4, 0, 0).await;
        bench.ask(CMD_TRIM, CMD_FLAG_FUA, 5, 0, 512).await;
        bench.ask(CMD_WRITE_ZEROES, CMD_FLAG_FUA, 6, 512, 9 << 20).await;
        bench.ask(CMD_BLOCK_STATUS, 0, 7, 0, 1 << 20).await;
        let mut cookies = Vec::new();
        for _ in 4..=7 {
            cookies.push(bench.reply(0).await.0);
        }
        cookies.sort_unstable();
        assert_eq!(cookies, [4, 5, 6, 7]);
        let mut log = bench.log();
        log[3..].sort();
        let expect = [
            "write 4096+4096 Cached",
            "write 1048576+299520 Cached",
            "read 4096+4096",
            "discard 0+512",
            "flush",
            "flush", // the one that makes the trim durable
            "zeroes 4194816+4194304 Fua true",
            "zeroes 512+4194304 Fua true",
            "zeroes 8389120+1048576 Fua true",
        ];
        assert_eq!(log, expect);
        bench.ask(CMD_DISC, 0, 0, 0, 0).await;
        assert!(matches!(bench.over.await.unwrap(), Ended::Disconnected));
        assert_eq!(bench.meter.answered.get(), 7);
    });
}

/// Goal: a client cannot have more than the limits in memory, and all it sent is answered in the end. Method: far more
/// requests than allowed at a disk that answers nothing until it is called.
#[test]
fn what_is_in_flight_is_bounded() {
    run(async {
        let mut bench = Bench::new(false, 64 << 10);
        bench.desk.held.set(true);
        for cookie in 0..300 {
            bench.ask(CMD_READ, 0, cookie, 0, 512).await;
        }
        settle().await;
        assert_eq!(bench.desk.running_most.get(), REQUESTS_MAX);
        bench.call().await;
        let mut seen = Vec::new();
        for _ in 0..300 {
            seen.push(bench.reply(512).await.0);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..300).collect::<Vec<_>>());

        bench.desk.held.set(true);
        bench.desk.running_most.set(0);
        for cookie in 0..5 {
            bench.ask(CMD_READ, 0, cookie, 0, 30 << 20).await;
        }
        settle().await;
        assert_eq!(bench.desk.running_most.get(), 2, "three of 30 MiB are over 64 MiB");
        bench.call().await;
        for _ in 0..5 {
            assert_eq!(bench.reply(30 << 20).await.2.len(), 30 << 20);
        }
    });
}

/// Goal: answers that nobody reads hold the session's room, also when the disk answers at once. Method: a pipe that
/// is never emptied.
#[test]
fn a_client_that_does_not_read_is_not_read_either() {
    run(async {
        let mut bench = Bench::new(false, 4096);
        let request =
            |cookie| encode_request(&Request { flags: 0, command: CMD_READ, cookie, at: ByteOffset(0), len: 4096 });
        let flood = async {
            for cookie in 0..100_000 {
                bench.client.write_all(&request(cookie)).await.unwrap();
            }
        };
        let stuck = tokio::time::timeout(std::time::Duration::from_secs(5), flood).await;
        assert!(stuck.is_err(), "the flood must be stopped");
        assert!(bench.meter.in_flight.get() <= REQUESTS_MAX);
        assert!(bench.log().len() <= 2 * REQUESTS_MAX as usize);
    });
}

/// Goal: a refused write is answered with its error and words, its payload is skipped, the stream stays in step.
/// Method: past the end, unaligned, fenced by the disk, then a good one.
#[test]
fn refusals_keep_the_stream_in_step() {
    run(async {
        let mut bench = Bench::new(true, 1 << 20);
        bench.write(1, SIZE as u64, 1, 100_000 / 512 * 512).await;
        bench.write(2, 100, 1, 512).await;
        let held = DeviceError::Fenced { held: Epoch(3), current: Epoch(4) };
        bench.desk.refusal.set(Some(held));
        bench.write(3, 0, 1, 512).await;
        for (want, error, words) in [
            (1, NbdError::NoSpc, "past the end"),
            (2, NbdError::Inval, "multiple of 512"),
            (3, NbdError::Shutdown, "epoch 3 is over"),
        ] {
            let (cookie, body, text) = bench.reply(0).await;
            let ReplyBody::Error { error: got, .. } = body else { panic!("{body:?}") };
            assert_eq!((cookie, got), (want, error));
            assert!(String::from_utf8(text).unwrap().contains(words), "{want}");
        }
        bench.desk.refusal.set(None);
        bench.write(4, 0, 9, 512).await;
        assert_eq!(bench.reply(0).await.0, 4);
        assert_eq!(bench.desk.bytes.borrow()[..512], [9; 512]);
    });
}

/// Goal: a revoked client learns why before it is closed; a stopping server answers what it started and nothing more.
/// Method: revoke, write (refused), wait; stop with a held write, then let it go.
#[test]
fn leaving_answers_what_was_started() {
    run(async {
        let mut bench = Bench::new(false, 1 << 20);
        bench.leave.take().unwrap().send(Leave::Revoked).unwrap();
        bench.desk.refusal.set(Some(DeviceError::Fenced { held: Epoch(1), current: Epoch(2) }));
        settle().await;
        bench.write(1, 0, 1, 512).await;
        assert_eq!(bench.reply(0).await.1, ReplyBody::Simple(Err(NbdError::Shutdown)));
        assert!(matches!(bench.over.await.unwrap(), Ended::Revoked));

        let mut bench = Bench::new(false, 1 << 20);
        bench.desk.held.set(true);
        bench.write(1, 0, 5, 512).await;
        settle().await;
        bench.leave.take().unwrap().send(Leave::Stopping).unwrap();
        settle().await;
        bench.write(2, 512, 6, 512).await;
        bench.call().await;
        assert_eq!(bench.reply(0).await, (1, OK, vec![]));
        assert!(matches!(bench.over.await.unwrap(), Ended::Stopped));
        assert_eq!(bench.desk.bytes.borrow()[512], 0, "what came after the stop was not started");
    });
}

/// Goal: garbage ends the session and nothing else. Method: a wrong magic, a payload over the limit, a cut stream.
#[test]
fn garbage_ends_the_session() {
    run(async {
        let mut bench = Bench::new(false, 1 << 20);
        bench.client.write_all(&[0x13; 28]).await.unwrap();
        assert!(matches!(bench.over.await.unwrap(), Ended::Broken(_)));

        let mut bench = Bench::new(false, 1 << 20);
        bench.ask(CMD_WRITE, 0, 1, 0, 33 << 20).await;
        assert!(matches!(bench.over.await.unwrap(), Ended::Broken(_)));

        let mut bench = Bench::new(false, 1 << 20);
        bench.ask(CMD_WRITE, 0, 1, 0, 4096).await;
        bench.client.write_all(&[1; 100]).await.unwrap();
        drop(bench.client);
        assert!(matches!(bench.over.await.unwrap(), Ended::Closed));
        assert!(bench.desk.log.borrow().is_empty(), "half a write is no write");
    });
}
