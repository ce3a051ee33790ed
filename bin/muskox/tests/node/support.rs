//! Machines as folders and processes.

use host::net::{ClientTls, Expect, StrangerTls, TlsFiles, connect_tcp};
use host::vm::{Identity, Process};
use serde_json::Value;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use units::Millis;

/// Nothing here takes longer, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
const MUSKOX: &str = env!("CARGO_BIN_EXE_muskox");

/// A boot sector that writes a counter to sector 1 + n mod 1024 by the BIOS, says `W0000002a` (or `E…`) on the serial port, and
/// powers off when the power button is pressed. AT&T syntax, assembled at 0x7c00. Sources: Ralf Brown's list (int 13h, function 43h);
/// ACPI 6.5, 4.8.3 (PM1a at 0x600 on q35).
#[rustfmt::skip]
const GUEST: [u8; 155] = [
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0,       // cli; %ds, %es, %ss = 0
    0xbc, 0x00, 0x7c, 0xfb, 0x88, 0x16, 0xfe, 0x7f,             // %sp = 0x7c00; sti; keep the drive's number
    0x66, 0xc7, 0x06, 0xf0, 0x7f, 0x00, 0x00, 0x00, 0x00,       // n = 0
    0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef,                   // PM1_EN: the power button is heard
    0x66, 0xff, 0x06, 0xf0, 0x7f, 0x66, 0xa1, 0xf0, 0x7f,       // again: n += 1; %eax = n
    0x66, 0xa3, 0x00, 0x80, 0x66, 0x25, 0xff, 0x03, 0x00, 0x00, // buffer = n; %eax &= 1023
    0x66, 0x40, 0x66, 0xa3, 0x93, 0x7c,                         // packet.sector = %eax + 1
    0xbe, 0x8b, 0x7c, 0x8a, 0x16, 0xfe, 0x7f,                   // %si = packet; %dl = drive
    0xb8, 0x00, 0x43, 0xcd, 0x13,                               // int 13h, function 43h: write
    0xb0, 0x57, 0x73, 0x02, 0xb0, 0x45,                         // 'W', or 'E' if it failed
    0xe8, 0x35, 0x00, 0x66, 0x8b, 0x1e, 0xf0, 0x7f,             // put; %ebx = n
    0xb9, 0x08, 0x00, 0x66, 0xc1, 0xc3, 0x04, 0x88, 0xd8,       // eight digits
    0x24, 0x0f, 0x04, 0x30, 0x3c, 0x39, 0x76, 0x02, 0x04, 0x27,
    0xe8, 0x1a, 0x00, 0xe2, 0xeb, 0xb0, 0x0a, 0xe8, 0x13, 0x00, // a line
    0xf4, 0xba, 0x00, 0x06, 0xed, 0xf6, 0xc4, 0x01, 0x74, 0xa6, // hlt; PWRBTN_STS? else again
    0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xeb, 0x9d,       // SLP_EN
    0x52, 0xba, 0xf8, 0x03, 0xee, 0x5a, 0xc3,                   // put: COM1
    16, 0, 1, 0, 0x00, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,      // packet: one sector from 0x8000
];

/// The machines of one test.
pub struct Machines {
    dir: PathBuf,
}

/// A machine: a folder, an address, and its node's process while it runs.
pub struct Machine {
    pub name: String,
    pub root: PathBuf,
    pub address: String,
    /// What its node runs.
    pub program: PathBuf,
    process: Option<Child>,
}

impl Machines {
    pub fn new() -> Self {
        static COUNT: AtomicU16 = AtomicU16::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("muskox-node-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self { dir }
    }

    /// A machine that belongs to no cluster.
    pub fn machine(&self, name: &str) -> Machine {
        let root = self.dir.join(name);
        std::fs::create_dir_all(&root).unwrap();
        Machine { name: name.to_owned(), root, address: free_address(), program: MUSKOX.into(), process: None }
    }

    /// A running cluster of one.
    pub fn first(&self, more: &[&str]) -> Machine {
        let mut machine = self.machine("alpha");
        machine.init(more);
        machine.start();
        machine
    }

    /// A running member.
    pub fn member(&self, name: &str, of: &Machine) -> Machine {
        let mut machine = self.machine(name);
        machine.join(&of.token());
        machine.start();
        machine
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The first sector of a disk that boots [`GUEST`].
pub fn boot_disk() -> Vec<u8> {
    let mut bytes = GUEST.to_vec();
    bytes.resize(510, 0);
    bytes.extend([0x55, 0xaa]);
    bytes
}

/// An address of this machine's loopback that no other machine of a test has, for its target listens there too: made of
/// the process's number and a count, with ports below the kernel's own choices. Source: ip(7), ip_local_port_range
/// begins at 32768.
fn free_address() -> String {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let [_, high, middle, low] = (std::process::id().wrapping_mul(64) + u32::from(count)).to_be_bytes();
    format!("127.{high}.{middle}.{low}:{}", 20_000 + count)
}

impl Machine {
    /// `muskox node VERB … --root …`. The token, which is the first word of `join`, goes by the standard input.
    pub fn try_node(&self, verb: &str, words: &[&str]) -> Output {
        match words {
            [token, rest @ ..] if verb == "join" => self.try_join("-", token, rest),
            words => self.command(verb).args(words).output().unwrap(),
        }
    }

    /// `muskox node join TOKEN_FILE …` with this standard input.
    pub fn try_join(&self, file: &str, input: &str, words: &[&str]) -> Output {
        let mut command = self.command("join");
        let piped = command.arg(file).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = piped.spawn().unwrap();
        // One that has refused before it read is gone.
        let _ = process.stdin.take().unwrap().write_all(format!("{input}\n").as_bytes());
        process.wait_with_output().unwrap()
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(MUSKOX);
        command.args(["node", verb]).arg("--root").arg(&self.root);
        command
    }

    /// A command that must work; what it printed.
    pub fn node(&self, verb: &str, words: &[&str]) -> String {
        let done = self.try_node(verb, words);
        let (out, err) = (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap());
        assert!(done.status.success(), "{}: node {verb} {words:?}: {out}{err}\nthe log:\n{}", self.name, self.log());
        out
    }

    /// A command that must be refused with exit code 1; the problem, after a look at how people see it.
    pub fn refused(&self, verb: &str, words: &[&str]) -> Value {
        let with_json: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        let done = self.try_node(verb, &with_json);
        assert_eq!(done.status.code(), Some(1), "{}: node {verb} {words:?}: {done:?}", self.name);
        let problem: Value = serde_json::from_slice(&done.stdout).unwrap();
        let said = problem["detail"].as_str().unwrap();
        assert!(!said.is_empty() && !problem["hint"].as_str().unwrap().is_empty(), "{problem}");
        problem
    }

    pub fn init(&self, more: &[&str]) {
        let words = [&[self.name.as_str(), "--address", &self.address], more].concat();
        self.node("init", &words);
    }

    pub fn token(&self) -> String {
        self.node("token", &[]).trim().to_owned()
    }

    pub fn join_words<'a>(&'a self, token: &'a str) -> Vec<&'a str> {
        vec![token, "--name", &self.name, "--address", &self.address]
    }

    pub fn join(&self, token: &str) {
        self.node("join", &self.join_words(token));
    }

    /// A call of the API, as `curl --unix-socket` makes it: the status and what was answered.
    pub fn api(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.raw(method, path, &body);
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
        (status, serde_json::from_str(body).expect("JSON"))
    }

    /// The same with any body, and the answer as it is.
    pub fn raw(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = UnixStream::connect(self.path("run/muskox/node.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let len = body.len();
        // Who sends too much is answered before it is through.
        let _ = write!(stream, "{method} {path} HTTP/1.1\r\nHost: node\r\nContent-Length: {len}\r\n\r\n{body}");
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
        String::from_utf8(answer).unwrap()
    }

    /// A call that must work.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.api(method, path, body);
        assert_eq!(status, 200, "{}: {method} {path} {body}: {answer}\nthe log:\n{}", self.name, self.log());
        answer
    }

    /// A call that must be refused with this code; what it said.
    pub fn ask_refused(&self, method: &str, path: &str, body: &Value, code: &str) -> String {
        let (status, answer) = self.api(method, path, body);
        assert_ne!(status, 200, "{}: {method} {path} {body}: {answer}", self.name);
        assert_eq!(answer["code"], code, "{}: {method} {path} {body}: {answer}", self.name);
        assert_ne!(answer["hint"], "", "{answer}");
        answer["detail"].as_str().expect("a text").to_owned()
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start(&mut self) {
        let before = self.log().matches("is ready").count();
        self.spawn();
        self.wait("ready", |this| this.log().matches("is ready").count() > before);
    }

    fn spawn(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let started = Command::new(&self.program)
            .args(["node", "run", "--verbose", "--root"])
            .arg(&self.root)
            .stderr(log)
            .spawn();
        self.process = Some(started.unwrap());
    }

    /// A daemon that must not start; what it complained.
    pub fn start_refused(&self) -> String {
        let done = self.try_node("run", &[]);
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        String::from_utf8(done.stderr).unwrap()
    }

    /// As a power cut does it: kill -9.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// All of it at once: the node and whatever it started.
    pub fn lose_power(&mut self) {
        self.kill();
        self.outliving().iter().for_each(|process| process.end_at_once().unwrap());
        self.wait("silence", |it| it.outliving().is_empty());
    }

    /// Asks it to stop; it must end well.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        assert!(Command::new("kill").arg(process.id().to_string()).status().unwrap().success());
        assert!(process.wait().unwrap().success());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn list(&self) -> Value {
        serde_json::from_str(&self.node("list", &["--json"])).unwrap()
    }

    /// What the list says of a machine.
    pub fn listed(&self, name: &str) -> Value {
        let list = self.list();
        let found = list["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {list}")).clone()
    }

    pub fn names(&self) -> Vec<String> {
        let list = self.list();
        list["nodes"].as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap().to_owned()).collect()
    }

    pub fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(begun.elapsed() < PATIENCE, "{}: no {what} in time; the log:\n{}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn wait_until_up(&self, name: &str) {
        self.wait(&format!("{name} up"), |this| this.listed(name)["state"] == "up");
    }

    /// What stands in the machine's folders, apart from the log.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        for folder in ["etc/muskox", "var/lib/muskox"].map(|folder| self.path(folder)) {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            found.extend(
                entries.map(|entry| entry.unwrap().path()).map(|path| (path.clone(), std::fs::read(path).unwrap())),
            );
        }
        found.sort();
        found
    }

    /// A raw GET at `to`'s TLS door: as this member, or as a stranger who knows the CA.
    pub fn get(&self, to: &Self, path: &str, as_member: bool) -> Result<String, String> {
        let tls = |name: &str| self.path("etc/muskox").join(name);
        let files = TlsFiles { certificate: tls("node.crt"), key: tls("node.key"), ca: tls("ca.crt") };
        let list = to.list();
        let cluster = list["cluster"].as_str().unwrap().parse().unwrap();
        let key = to.listed(&to.name)["key"].as_str().unwrap().parse().unwrap();
        let limit = Millis(5_000);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let plain = connect_tcp(to.address.parse().unwrap(), limit).await.unwrap();
            let mut transport = if as_member {
                let tls = ClientTls::load(&files).unwrap();
                tls.connect(plain, &Expect::Key(key), limit).await.map_err(|error| error.to_string())?
            } else {
                StrangerTls::new(cluster).connect(plain, limit).await.map_err(|error| error.to_string())?
            };
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
            transport.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
            transport.flush().await.map_err(|error| error.to_string())?;
            let mut reply = String::new();
            transport.read_to_string(&mut reply).await.map_err(|error| error.to_string())?;
            Ok(reply)
        })
    }
}

/// Connects `count` strangers to `to`, who say nothing, and then has `work` done; how many were sent away at once.
pub fn with_dawdlers(to: &Machine, count: usize, work: impl FnOnce()) -> usize {
    let (limit, cluster) = (Millis(5_000), to.list()["cluster"].as_str().unwrap().parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut dawdlers = Vec::new();
    runtime.block_on(async {
        for _ in 0..count {
            let plain = connect_tcp(to.address.parse().unwrap(), limit).await.unwrap();
            dawdlers.push(StrangerTls::new(cluster).connect(plain, limit).await.unwrap());
        }
    });
    work();
    runtime.block_on(async {
        let mut away = 0;
        for mut dawdler in dawdlers {
            let read = tokio::time::timeout(Duration::from_millis(100), dawdler.read(&mut [0; 1])).await;
            away += usize::from(read.is_ok());
        }
        away
    })
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        // What the node started outlives it; who it is stands in its notes.
        for process in self.outliving().into_iter().chain(self.unnoted()) {
            let _ = process.end_at_once();
        }
    }
}

impl Machine {
    /// What a node that was killed right after it had started it left without a note: it is known by the paths of its command line.
    fn unnoted(&self) -> Vec<Process> {
        let folder = self.path("").into_os_string().into_vec();
        let pids =
            std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let is_ours = |pid: &i32| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).any(|word| word.starts_with(&folder))
        };
        let found = pids.filter(is_ours).filter_map(|pid| Identity::of(pid).ok()?);
        found.filter_map(|identity| Process::find(&identity).ok()?).collect()
    }

    /// What the node started and noted, and still lives.
    pub fn outliving(&self) -> Vec<Process> {
        let own = ["target", "guard", "deadman"].map(|name| self.path(&format!("run/muskox/{name}.process")));
        let mut notes = own.to_vec();
        for (folder, name) in [("run/muskox/vm", "process"), ("var/lib/muskox/vm", "initiator.process")] {
            let folders = std::fs::read_dir(self.path(folder)).into_iter().flatten();
            notes.extend(folders.map(|entry| entry.unwrap().path().join(name)));
        }
        let noted = notes.iter().filter_map(|note| Identity::parse(&std::fs::read_to_string(note).ok()?));
        noted.filter_map(|identity| Process::find(&identity).unwrap()).collect()
    }
}

pub fn mode_of(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
