//! A few dead-men as real processes, each on two networks of its own: addresses of loopback.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use units::HostKey;
use wire::control::{
    Answer, Ask, CastReport, DeadmanReport, Decoder, PeerReport, Refusal, Reply, Request, StandingReport, VERSION,
    VoteReport, encode,
};

/// Nothing here takes longer, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Safe together, and five times as quick as the defaults.
pub const TIMING: &str = "[timing]\nheartbeat_ms = 50\nlease_ms = 500\nstop_cost_ms = 200\ndetect_ms = 720\n\
                          vote_hold_ms = 1440\nrejoin_grace_ms = 300\n";
pub const LEASE: Duration = Duration::from_millis(500);
pub const STOP_COST: Duration = Duration::from_millis(200);
pub const MUSKOX: &str = env!("CARGO_BIN_EXE_muskox");

/// Dead-men of one cluster.
pub struct Cluster {
    pub dir: PathBuf,
    authority: Authority,
    pub machines: Vec<Machine>,
}

/// One machine.
pub struct Machine {
    dir: PathBuf,
    pub key: String,
    pub name: String,
    pub portals: [String; 2],
    process: Option<Child>,
    guard: Option<Child>,
}

impl Cluster {
    /// A cluster of `count` machines, configured and not started.
    pub fn new(count: usize) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("muskox-deadman-{}-{n}", std::process::id()));
        let mut this = Self { dir, authority: Authority::new(), machines: Vec::new() };
        (0..count).for_each(|_| this.add());
        let all: Vec<usize> = (0..count).collect();
        (0..count).for_each(|n| this.configure(n, &all, ""));
        this
    }

    /// Starts all, and waits until guests may run everywhere.
    pub fn running(count: usize) -> Self {
        let mut this = Self::new(count);
        (0..count).for_each(|n| this.start(n));
        (0..count).for_each(|n| drop(this.wait(n, "a lease", runs)));
        this
    }

    /// One machine more.
    pub fn add(&mut self) {
        let n = self.machines.len();
        let dir = self.dir.join(format!("m{n}"));
        let key = self.authority.machine(&dir);
        std::fs::create_dir_all(dir.join("vms")).unwrap();
        let portals = [1, 2].map(|net| format!("127.0.0.{net}:{}", free_port(&format!("127.0.0.{net}:0"))));
        self.machines.push(Machine { dir, key, name: format!("host{n}"), portals, process: None, guard: None });
    }

    /// A certificate of the cluster's CA that is no witness's; its folder.
    pub fn stranger(&self) -> PathBuf {
        let dir = self.dir.join("stranger");
        self.authority.machine(&dir);
        dir
    }

    /// Writes a machine's configuration with these witnesses; `more` stands before the tables.
    pub fn configure(&self, n: usize, witnesses: &[usize], more: &str) {
        self.write(n, &format!("{more}\n{TIMING}{}", self.witnesses(witnesses)));
    }

    pub fn witnesses(&self, witnesses: &[usize]) -> String {
        let each = witnesses.iter().map(|n| {
            let Machine { key, name, portals: [one, two], .. } = &self.machines[*n];
            format!("[[witness]]\nkey = \"{key}\"\nname = \"{name}\"\nportals = [\"{one}\", \"{two}\"]\n")
        });
        each.collect()
    }

    /// Writes a machine's configuration: the head, and `rest`.
    pub fn write(&self, n: usize, rest: &str) {
        let [one, two] = &self.machines[n].portals;
        let head = format!(
            "control = \"deadman.sock\"\nlisten = [\"{one}\", \"{two}\"]\nvms = \"vms\"\n\
             tls = {{ certificate = \"host.pem\", key = \"host.key\", ca = \"ca.pem\" }}\n"
        );
        std::fs::write(self.path(n, "deadman.toml"), head + rest).unwrap();
    }

    pub fn path(&self, n: usize, name: &str) -> PathBuf {
        self.machines[n].dir.join(name)
    }

    pub fn key(&self, n: usize) -> HostKey {
        self.machines[n].key.parse().unwrap()
    }

    pub fn start(&mut self, n: usize) {
        let log = std::fs::File::options().create(true).append(true).open(self.path(n, "log")).unwrap();
        self.start_logging_to(n, log.into());
    }

    pub fn start_logging_to(&mut self, n: usize, log: Stdio) {
        let config = self.path(n, "deadman.toml");
        let child = Command::new(MUSKOX).args(["deadman", "--config"]).arg(config).stderr(log).spawn();
        self.machines[n].process = Some(child.unwrap());
    }

    /// The guard of a machine's guests.
    pub fn start_guard(&mut self, n: usize) {
        let log = std::fs::File::options().create(true).append(true).open(self.path(n, "guard.log")).unwrap();
        let mut command = Command::new(MUSKOX);
        command.args(["guard", "--record"]).arg(self.path(n, "deadman.lease")).arg("--vms").arg(self.path(n, "vms"));
        self.machines[n].guard = Some(command.stderr(log).spawn().unwrap());
        until("a guard", || self.guard_log(n).contains("guarding"));
    }

    /// As the service manager starts it.
    pub fn start_managed(&mut self, n: usize, manager: &std::path::Path) {
        let log = std::fs::File::options().create(true).append(true).open(self.path(n, "log")).unwrap();
        let mut command = Command::new(MUSKOX);
        command.args(["deadman", "--config"]).arg(self.path(n, "deadman.toml")).env("NOTIFY_SOCKET", manager);
        self.machines[n].process = Some(command.stderr(log).spawn().unwrap());
    }

    pub fn guard_log(&self, n: usize) -> String {
        std::fs::read_to_string(self.path(n, "guard.log")).unwrap_or_default()
    }

    pub fn kill(&mut self, n: usize) {
        let mut process = self.machines[n].process.take().expect("it runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub fn signal(&self, n: usize, name: &str) {
        let id = self.machines[n].process.as_ref().expect("it runs").id();
        assert!(Command::new("kill").args([name, &id.to_string()]).status().unwrap().success());
    }

    pub fn log(&self, n: usize) -> String {
        std::fs::read_to_string(self.path(n, "log")).unwrap_or_default()
    }

    /// Asks a machine's dead-man over its control socket.
    pub fn ask(&self, n: usize, request: Request) -> Result<Reply, Refusal> {
        let stream = UnixStream::connect(self.path(n, "deadman.sock")).expect("a control socket");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        exchange(stream, request)
    }

    pub fn try_status(&self, n: usize) -> Option<DeadmanReport> {
        let stream = UnixStream::connect(self.path(n, "deadman.sock")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        match exchange(stream, Request::Status) {
            Ok(Reply::Deadman(report)) => Some(report),
            other => panic!("{other:?}"),
        }
    }

    pub fn votes(&self, n: usize, host: usize) -> Vec<CastReport> {
        match self.ask(n, Request::Votes { host: self.key(host) }) {
            Ok(Reply::Votes(votes)) => votes,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until a machine's status is as wanted; that status.
    pub fn wait(&self, n: usize, what: &str, wanted: impl Fn(&DeadmanReport) -> bool) -> DeadmanReport {
        let begun = Instant::now();
        let mut last = None;
        while begun.elapsed() < PATIENCE {
            last = self.try_status(n);
            if let Some(report) = last.as_ref().filter(|report| wanted(report)) {
                return report.clone();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no {what} at {n} in time: {last:#?}; the log:\n{}", self.log(n));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for machine in &mut self.machines {
            for mut process in [machine.process.take(), machine.guard.take()].into_iter().flatten() {
                let _ = process.kill();
                let _ = process.wait();
            }
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub fn runs(report: &DeadmanReport) -> bool {
    matches!(report.standing, StandingReport::Running(_))
}

pub fn is_dead(cast: &CastReport) -> bool {
    matches!(cast.vote, Some(VoteReport::Dead(_)))
}

pub fn peer<'a>(report: &'a DeadmanReport, name: &str) -> &'a PeerReport {
    report.peers.iter().find(|peer| peer.name.to_string() == name).expect("a configured witness")
}

/// Waits until something is so.
pub fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "no {what} in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A question and its answer over any stream.
pub fn exchange<S: Read + Write>(mut stream: S, request: Request) -> Result<Reply, Refusal> {
    stream.write_all(&encode(&Ask { version: VERSION, id: 1, request }).unwrap()).unwrap();
    let (mut decoder, mut buffer) = (Decoder::default(), [0; 4096]);
    loop {
        if let Some(answer) = decoder.take_message::<Answer>().unwrap() {
            return answer.into_result();
        }
        let len = stream.read(&mut buffer).unwrap();
        assert!(len > 0, "the connection was closed before the answer");
        decoder.push(&buffer[..len]);
    }
}

/// Whether the oracle is here. A missing one fails, unless `MUSKOX_ALLOW_MISSING=1`.
pub fn have(tool: &str) -> bool {
    let found = Path::new("/usr/bin").join(tool).is_file();
    let allowed = std::env::var_os("MUSKOX_ALLOW_MISSING").is_some_and(|value| value == "1");
    assert!(found || allowed, "the oracle '{tool}' is missing: run `cargo xtask setup`, or set MUSKOX_ALLOW_MISSING=1");
    found
}

/// A port nobody uses now.
fn free_port(at: &str) -> u16 {
    TcpListener::bind(at).unwrap().local_addr().unwrap().port()
}

/// A CA.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let (mut params, key) = (CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A machine's folder; returns its identity.
    fn machine(&self, dir: &Path) -> String {
        let key = KeyPair::generate().unwrap();
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("ca.pem"), &self.pem).unwrap();
        let path = dir.join("host.key");
        std::fs::write(&path, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        self.renew(dir)
    }

    /// A new certificate for a machine's key; returns its identity.
    fn renew(&self, dir: &Path) -> String {
        let key = KeyPair::from_pem(&std::fs::read_to_string(dir.join("host.key")).unwrap()).unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(dir.join("host.pem"), certificate.pem()).unwrap();
        host::net::host_key_of(certificate.der()).unwrap().to_string()
    }
}

impl Cluster {
    /// A machine's certificate is renewed on disk.
    pub fn renew(&self, n: usize) {
        assert_eq!(self.authority.renew(&self.machines[n].dir), self.machines[n].key);
    }
}
