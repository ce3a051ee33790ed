//! Oracles: libnbd's tools and QEMU against our server's codec, our client's codec against nbdkit. Unix sockets in a directory
//! of their own; the threads and processes end with the test. What serves here is the least that can: no fencing, one
//! request at a time.
#![allow(clippy::disallowed_methods, reason = "the test, not the room, owns sockets and a thread")]
#![allow(clippy::unwrap_used, reason = "a panic is the report; allow-unwrap-in-tests sees only test functions")]
#![allow(clippy::cast_possible_truncation, reason = "the disk has 1 MiB")]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use units::{ByteLen, ByteOffset};
use wire::nbd::constant::{CMD_BLOCK_STATUS, CMD_FLAG_FUA, CMD_READ, CMD_WRITE, STATE_HOLE, STATE_ZERO};
use wire::nbd::{
    BlockSizes, ClientCommand, ClientConfig, ClientFailure, ClientHandshake, ClientTls, Context, ExportInfo, Extent,
    Follows, Limits, ListedExport, Negotiated, Operation, OptionError, Pending, Ready, Refusal, Request, ServerCommand,
    ServerHandshake, TlsPolicy, TransmissionFlags, Verdict, block_status, decode_extents, decode_reply, decode_request,
    encode_request, push_error, push_read_head, push_success,
};

const SIZE: usize = 1 << 20;

/// A directory that goes away with the test.
struct Room(PathBuf);

impl Room {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("muskox-nbd-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn disk() -> ExportInfo {
    ExportInfo {
        size: ByteLen(SIZE as u64),
        flags: TransmissionFlags(0x096d), // flush, FUA, trim, zeroes, multi-conn, fast zero
        block: BlockSizes { min: 512, preferred: 4096, max: 32 << 20 },
        name: None,
        description: Some("a disk of ours".to_owned()),
    }
}

/// A server on a thread, one connection at a time.
struct Served {
    socket: PathBuf,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u8>>,
}

impl Served {
    fn start(room: &Room) -> Self {
        let socket = room.path("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || serve(&listener, &stop)
        });
        Self { socket, stop, thread }
    }

    fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket.display())
    }

    /// Ends it; the disk's bytes.
    fn end(self) -> Vec<u8> {
        self.stop.store(true, Ordering::SeqCst);
        drop(UnixStream::connect(&self.socket));
        self.thread.join().unwrap()
    }
}

fn serve(listener: &UnixListener, stop: &AtomicBool) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    loop {
        let (mut socket, _) = listener.accept().unwrap();
        if stop.load(Ordering::SeqCst) {
            return bytes;
        }
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        if let Some((negotiated, rest)) = shake_hands(&mut socket) {
            transmit(&mut socket, &negotiated, rest, &mut bytes);
        }
    }
}

fn shake_hands(socket: &mut UnixStream) -> Option<(Negotiated, Vec<u8>)> {
    let mut machine = ServerHandshake::new(TlsPolicy::Off);
    let mut buffer = [0; 4096];
    let mut len = 0;
    loop {
        let mut input = &buffer[..len];
        while let Some(command) = machine.step(&mut input) {
            match command {
                ServerCommand::Send(bytes) => socket.write_all(&bytes).ok()?,
                ServerCommand::ListExports => machine.answer_list(Ok(&[ListedExport {
                    name: "disk".to_owned(),
                    description: "a disk of ours".to_owned(),
                }])),
                ServerCommand::OpenExport { name, .. } => {
                    machine.answer_open(if name == "disk" { Ok(disk()) } else { Err(Refusal::policy("not for you")) });
                }
                ServerCommand::Transmission(negotiated) => return Some((negotiated, input.to_vec())),
                ServerCommand::StartTls | ServerCommand::Close(_) => return None,
            }
        }
        len = socket.read(&mut buffer).ok().filter(|&len| len > 0)?;
    }
}

fn transmit(socket: &mut UnixStream, negotiated: &Negotiated, mut held: Vec<u8>, disk: &mut [u8]) {
    let limits = Limits::of(&negotiated.export, !negotiated.contexts.is_empty());
    let structured = negotiated.structured;
    loop {
        let mut input = &held[..];
        let decoded = decode_request(&mut input).expect("libnbd speaks the protocol");
        held = input.to_vec();
        let Some(request) = decoded else {
            let mut part = [0; 4096];
            match socket.read(&mut part) {
                Ok(len) if len > 0 => held.extend_from_slice(&part[..len]),
                _ => return,
            }
            continue;
        };
        let verdict = limits.check(&request);
        let mut payload = vec![0; request.payload_bytes() as usize];
        let ready = held.len().min(payload.len());
        payload[..ready].copy_from_slice(&held[..ready]);
        held.drain(..ready);
        socket.read_exact(&mut payload[ready..]).unwrap();
        let mut out = Vec::new();
        match verdict {
            Verdict::Do(operation) => carry_out(operation, &request, negotiated, disk, &payload, &mut out),
            Verdict::Refuse { error, .. } => push_error(&mut out, structured, request.cookie, error, "refused"),
            Verdict::Disconnect | Verdict::Close(_) => return,
        }
        socket.write_all(&out).unwrap();
    }
}

fn carry_out(
    operation: Operation,
    request: &Request,
    agreed: &Negotiated,
    disk: &mut [u8],
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    let range = |at: ByteOffset, len: u32| at.0 as usize..at.0 as usize + len as usize;
    match operation {
        Operation::Read { at, len } => {
            push_read_head(out, agreed.structured, request.cookie, at, len);
            out.extend_from_slice(&disk[range(at, len)]);
            return;
        }
        Operation::BlockStatus { at, len, .. } => {
            let zero = disk[range(at, len)].iter().all(|&byte| byte == 0);
            let state = if zero { STATE_HOLE | STATE_ZERO } else { 0 };
            return block_status(out, request.cookie, agreed.contexts, &[Extent { len, state }]);
        }
        Operation::Write { at, len, .. } => disk[range(at, len)].copy_from_slice(payload),
        Operation::WriteZeroes { at, len, .. } => disk[range(at, len)].fill(0),
        Operation::Trim { .. } | Operation::Flush => {}
    }
    push_success(out, request.cookie);
}

fn run(program: &str, arguments: &[&str]) -> std::process::Output {
    let output = Command::new(program).args(arguments).output();
    output.unwrap_or_else(|error| panic!("{program} is an oracle of this test and must be installed: {error}"))
}

/// `nbdinfo` reads our description as we meant it; a refusal reaches its user with our words.
#[test]
fn libnbd_reads_what_our_server_says() {
    let room = Room::new("info");
    let server = Served::start(&room);
    let info = run("nbdinfo", &["--json", &server.uri("disk")]);
    let text = String::from_utf8_lossy(&info.stdout).into_owned();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text} {info:?}"));
    assert_eq!(json["protocol"], "newstyle-fixed");
    assert_eq!(json["structured"], true);
    let expect = serde_json::json!({
        "export-size": SIZE, "description": "a disk of ours", "contexts": ["base:allocation", "x-muskox:heartbeat"],
        "is_read_only": false, "can_cache": false, "can_df": true, "can_fast_zero": true, "can_flush": true,
        "can_fua": true, "can_multi_conn": true, "can_trim": true, "can_zero": true,
        "block_size_minimum": 512, "block_size_preferred": 4096, "block_size_maximum": 32 << 20,
    });
    for (key, value) in expect.as_object().unwrap() {
        assert_eq!(&json["exports"][0][key], value, "{key} in {text}");
    }
    // libnbd shows a server's words only when debugging; QEMU always does.
    let refused = run("qemu-img", &["info", &server.uri("other")]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not for you"), "{refused:?}");
    let list = run("nbdinfo", &["--list", "--json", &server.uri("")]);
    assert!(String::from_utf8_lossy(&list.stdout).contains("\"export-name\": \"disk\""), "{list:?}");
    let map = run("nbdinfo", &["--map", &server.uri("disk")]);
    let words = String::from_utf8_lossy(&map.stdout).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(words, "0 1048576 3 hole,zero", "{map:?}");
    server.end();
}

/// `nbdcopy` writes a file through our server and reads the same back, with chunks and without.
#[test]
fn libnbd_copies_through_our_server() {
    let room = Room::new("copy");
    let server = Served::start(&room);
    let (from, to) = (room.path("from"), room.path("to"));
    let bytes: Vec<u8> = (0..SIZE).map(|i| if i < SIZE / 2 { (i * 7 / 5 % 251) as u8 } else { 0 }).collect();
    std::fs::write(&from, &bytes).unwrap();
    let copy = |from: &str, to: &str| {
        let output = run("nbdcopy", &["--connections=1", "--flush", from, to]);
        assert!(output.status.success(), "{output:?}");
    };
    copy(from.to_str().unwrap(), &server.uri("disk"));
    copy(&server.uri("disk"), to.to_str().unwrap());
    assert!(std::fs::read(&to).unwrap() == bytes, "what was read is what was written");
    assert!(server.end() == bytes, "what stands on the disk is what was written");
}

/// nbdkit on a socket; ended when dropped.
struct Kit(Child);

impl Kit {
    fn start(socket: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new("nbdkit");
        command.args(["--foreground", "--exit-with-parent", "--unix"]).arg(socket).args(arguments);
        let child = command.stdin(Stdio::null()).spawn().expect("nbdkit is an oracle of this test: install it");
        for _ in 0..500 {
            if UnixStream::connect(socket).is_ok() {
                return Self(child);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(Self(child));
        panic!("nbdkit did not listen within 5 s");
    }
}

impl Drop for Kit {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Our client on a socket, one request at a time.
struct Attached {
    socket: UnixStream,
    ready: Ready,
    cookie: u64,
}

impl Attached {
    fn new(path: &Path, export: &str, tls: ClientTls) -> Result<Self, ClientFailure> {
        let mut socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut machine = ClientHandshake::new(ClientConfig {
            export: export.to_owned(),
            tls,
            context: Some(Context::BaseAllocation),
        });
        let mut byte = [0];
        loop {
            socket.read_exact(&mut byte).unwrap();
            let mut input = &byte[..];
            while let Some(command) = machine.step(&mut input) {
                match command {
                    ClientCommand::Send(bytes) => socket.write_all(&bytes).unwrap(),
                    ClientCommand::StartTls => panic!("no TLS here"),
                    ClientCommand::Ready(ready) => return Ok(Self { socket, ready, cookie: 0 }),
                    ClientCommand::Failed(why) => return Err(why),
                }
            }
        }
    }

    fn ask(&mut self, command: u16, flags: u16, at: u64, len: u32, payload: &[u8]) -> (Vec<u8>, Vec<Extent>) {
        self.cookie += 1;
        let request = Request { flags, command, cookie: self.cookie, at: ByteOffset(at), len };
        self.socket.write_all(&encode_request(&request)).unwrap();
        self.socket.write_all(payload).unwrap();
        let mut pending = Pending::new(request, &self.ready);
        let (mut data, mut extents) = (vec![0xee; len as usize], Vec::new());
        loop {
            let mut held = Vec::new();
            let head = loop {
                let mut byte = [0];
                self.socket.read_exact(&mut byte).unwrap();
                held.extend_from_slice(&byte);
                if let Some(head) = decode_reply(&mut &held[..], self.ready.structured).unwrap() {
                    break head;
                }
            };
            assert_eq!(head.cookie, request.cookie);
            let progress = pending.accept(&head).unwrap();
            match progress.follows {
                Follows::Nothing => {}
                Follows::Data { into, len } => {
                    self.socket.read_exact(&mut data[into as usize..(into + len) as usize]).unwrap();
                }
                Follows::Zeroes { into, len } => data[into as usize..(into + len) as usize].fill(0),
                Follows::Extents { count } => {
                    let mut bytes = vec![0; count as usize * 8];
                    self.socket.read_exact(&mut bytes).unwrap();
                    extents = decode_extents(&bytes, &request).unwrap();
                }
                Follows::Text { .. } => panic!("nothing of this fails"),
            }
            if let Some(end) = progress.finished {
                end.unwrap();
                return (data, extents);
            }
        }
    }
}

/// Our client writes, reads and asks for the allocation at nbdkit, which answers in chunks.
#[test]
fn our_client_uses_nbdkit() {
    let room = Room::new("kit");
    let socket = room.path("socket");
    let _kit = Kit::start(&socket, &["memory", "1M"]);
    let mut attached = Attached::new(&socket, "", ClientTls::Off).unwrap();
    assert_eq!(attached.ready.export.size, ByteLen(SIZE as u64));
    assert!(attached.ready.structured && attached.ready.context.is_some(), "{:?}", attached.ready);
    let bytes: Vec<u8> = (0..65536_u32).map(|i| (i % 251) as u8).collect();
    attached.ask(CMD_WRITE, CMD_FLAG_FUA, 32768, 65536, &bytes);
    assert!(attached.ask(CMD_READ, 0, 32768, 65536, &[]).0 == bytes);
    let (_, extents) = attached.ask(CMD_BLOCK_STATUS, 0, 0, 1 << 20, &[]);
    let hole = STATE_HOLE | STATE_ZERO;
    let states: Vec<u32> = extents.iter().map(|extent| extent.state).collect();
    assert_eq!(states, [hole, 0, hole], "{extents:?}");
    // TLS where nbdkit has none is an error here, with its kind.
    let refused = Attached::new(&socket, "", ClientTls::Required).err();
    assert!(
        matches!(&refused, Some(ClientFailure::TlsRefused(r)) if r.kind == OptionError::Unsup
        || r.kind == OptionError::Policy),
        "{refused:?}"
    );
}
