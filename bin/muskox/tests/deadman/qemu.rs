//! A fake machine in a dead-man's folder: a process that is named as QEMU's, a monitor, an initiator's control socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use units::{ByteLen, Epoch, Incarnation, Millis};
use wire::control::{Answer, Ask, Decoder, HeldReport, HeldState, InitiatorReport, Reply, encode};

/// A fake machine; its process ends with it.
pub struct Fake {
    pub folder: PathBuf,
    process: Child,
    pub monitor: Arc<Monitor>,
    initiator: Volume,
}

/// What a fake initiator says of its volume: its state, and how long ago its target was heard.
pub type Volume = Arc<Mutex<(HeldState, Option<u64>)>>;

/// What the fake monitor knows.
#[derive(Default)]
pub struct Monitor {
    pub running: AtomicBool,
    /// It listens and says nothing.
    pub silent: AtomicBool,
    /// When the guest was stopped last.
    pub stopped: Mutex<Option<Instant>>,
    pub conts: Mutex<u32>,
}

impl Fake {
    /// A machine that runs.
    pub fn new(vms: &Path, name: &str) -> Self {
        let folder = vms.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let pid_file = folder.join("qemu.pid");
        // It ends by itself when its standard input does: with the test.
        let mut command = Command::new("sh");
        command.args(["-c", "while read line; do :; done", "qemu", "-pidfile"]).arg(&pid_file);
        let process = command.stdin(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(process.id()).unwrap();
        let identity = host::vm::Identity::of(pid).unwrap().expect("it was just started");
        std::fs::write(folder.join("process"), identity.to_string()).unwrap();
        let monitor = Arc::new(Monitor { running: true.into(), ..Monitor::default() });
        let initiator = serve_initiator_in(&folder);
        let (listener, shown) = (UnixListener::bind(folder.join("deadman.sock")).unwrap(), Arc::clone(&monitor));
        std::thread::spawn(move || listener.incoming().for_each(|stream| serve_monitor(stream.unwrap(), &shown)));
        Self { folder, process, monitor, initiator }
    }

    /// What its initiator says of its volume from now on.
    pub fn volume(&self, state: HeldState, heard: Option<u64>) {
        *self.initiator.lock().unwrap() = (state, heard);
    }

    pub fn runs(&self) -> bool {
        self.monitor.running.load(Ordering::SeqCst)
    }

    /// Somebody else lets it run or stops it.
    pub fn run(&self, runs: bool) {
        self.monitor.running.store(runs, Ordering::SeqCst);
    }

    pub fn conts(&self) -> u32 {
        *self.monitor.conts.lock().unwrap()
    }

    pub fn is_marked(&self) -> bool {
        self.folder.join("paused-by-deadman").exists()
    }

    /// The letter of its process's state (`proc_pid_stat(5)`).
    pub fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        stat[stat.rfind(')').unwrap() + 2..].chars().next().unwrap()
    }

    /// Somebody else sends it a signal.
    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.process.id().to_string()]).status().unwrap().success());
    }

    pub fn process_id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn serve_monitor(stream: UnixStream, monitor: &Monitor) {
    if monitor.silent.load(Ordering::SeqCst) {
        // It keeps the visitor waiting until that goes.
        let _ = BufReader::new(stream).read_line(&mut String::new());
        return;
    }
    let mut out = stream.try_clone().unwrap();
    let greeting =
        r#"{"QMP":{"version":{"qemu":{"micro":0,"minor":2,"major":7},"package":""},"capabilities":["oob"]}}"#;
    let mut say = |text: &str| writeln!(out, "{text}\r").is_ok();
    if !say(greeting) {
        return;
    }
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let asked: serde_json::Value = serde_json::from_str(&line).unwrap();
        let answer = match asked["execute"].as_str().unwrap() {
            "qmp_capabilities" => serde_json::json!({}),
            "query-status" => {
                let running = monitor.running.load(Ordering::SeqCst);
                serde_json::json!({"running": running, "status": if running { "running" } else { "paused" }})
            }
            "stop" => {
                monitor.running.store(false, Ordering::SeqCst);
                *monitor.stopped.lock().unwrap() = Some(Instant::now());
                serde_json::json!({})
            }
            "cont" => {
                monitor.running.store(true, Ordering::SeqCst);
                *monitor.conts.lock().unwrap() += 1;
                serde_json::json!({})
            }
            other => panic!("a dead-man does not say {other}"),
        };
        if !say(&serde_json::json!({"return": answer, "id": asked["id"]}).to_string()) {
            return;
        }
    }
}

/// A fake initiator in a machine's folder.
pub fn serve_initiator_in(folder: &Path) -> Volume {
    let volume = Volume::new(Mutex::new((HeldState::Up, None)));
    let (listener, shown) = (UnixListener::bind(folder.join("initiator.sock")).unwrap(), Arc::clone(&volume));
    std::thread::spawn(move || listener.incoming().for_each(|stream| serve_initiator(stream.unwrap(), &shown)));
    volume
}

fn serve_initiator(mut stream: UnixStream, shown: &Mutex<(HeldState, Option<u64>)>) {
    use std::io::Read;
    let (mut decoder, mut buffer) = (Decoder::default(), [0; 4096]);
    let ask = loop {
        if let Some(ask) = decoder.take_message::<Ask>().unwrap() {
            break ask;
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(len) => decoder.push(&buffer[..len]),
        }
    };
    let (state, heard) = *shown.lock().unwrap();
    let volume = HeldReport {
        volume: "web1".parse().unwrap(),
        state,
        waiting: None,
        heard: heard.map(Millis),
        epoch: Epoch(1),
        incarnation: Incarnation(1),
        sessions: 1,
        unflushed: ByteLen(0),
        rewritten: 0,
        reason: None,
        paths: Vec::new(),
    };
    let report = InitiatorReport { version: "test".into(), up: Millis(0), volumes: vec![volume] };
    let _ = stream.write_all(&encode(&Answer::new(ask.id, Ok(Reply::Initiator(report)))).unwrap());
}
