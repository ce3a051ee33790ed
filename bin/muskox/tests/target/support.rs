//! A target as a real process with real files as disks, and the peers' tools as clients.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The identity of clients on the Unix socket.
pub const LOCAL: &str = "abababababababababababababababababababababababababababababababab";
/// Nothing here takes longer, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
const MUSKOX: &str = env!("CARGO_BIN_EXE_muskox");

/// A storage box: a folder with its disks, its configuration and its process.
pub struct StorageBox {
    pub dir: PathBuf,
    process: Option<Child>,
}

impl StorageBox {
    /// A box with sparse disks `d0`, `d1`, … of 96 MiB and a Unix listener; not started.
    pub fn new(disks: usize) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("muskox-target-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let this = Self { dir, process: None };
        for disk in 0..disks {
            this.disk(&format!("d{disk}"), 96);
        }
        this.configure("");
        this
    }

    pub fn disk(&self, name: &str, mib: u64) {
        std::fs::File::create(self.path(name)).unwrap().set_len(mib << 20).unwrap();
    }

    /// Writes the configuration: the Unix listener and `more`.
    pub fn configure(&self, more: &str) {
        let text = format!(
            "control = \"control.sock\"\nstate_dir = \"state\"\n{more}\n\
             [[listen]]\nnbd_unix = \"nbd.sock\"\nidentity = \"{LOCAL}\"\n"
        );
        std::fs::write(self.path("target.toml"), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Starts the target and waits until it is ready.
    pub fn start(&mut self) {
        self.start_by(Command::new(MUSKOX));
    }

    /// The same in a network that has a loopback and nothing else; needs root.
    pub fn start_in_own_network(&mut self) {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\"", MUSKOX]);
        self.start_by(command);
    }

    fn start_by(&mut self, mut command: Command) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let before = self.log().matches("ready").count();
        let child = command.args(["target", "--config"]).arg(self.path("target.toml")).stderr(log).spawn();
        self.process = Some(child.unwrap());
        self.wait("ready", |this| this.log().matches("ready").count() > before);
    }

    /// A pool `tank` of `d0` and `d1`, a served volume `web1` of `mib`.
    pub fn with_volume(disks: usize, mib: u64) -> Self {
        let mut this = Self::new(disks);
        this.start();
        this.ctl(&["pool", "create", "tank", &this.text("d0"), &this.text("d1")]);
        this.ctl(&["volume", "create", "tank", "web1", &format!("{mib}M")]);
        this.wait_for_volume();
        this
    }

    pub fn wait_for_volume(&self) {
        self.wait("a served volume", |this| this.ctl(&["volume", "list"]).contains("serving"));
    }

    /// Waits until no member is being filled.
    pub fn wait_for_resync(&self) {
        self.wait("a resync's end", |this| {
            let shown = this.ctl(&["pool", "show", "tank"]);
            shown.contains("state   healthy") && !shown.contains("resync")
        });
    }

    pub fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(begun.elapsed() < PATIENCE, "no {what} in time; the log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A control command that must work; what it printed.
    pub fn ctl(&self, words: &[&str]) -> String {
        let done = self.try_ctl(words);
        let (out, err) = texts(&done);
        assert!(done.status.success(), "ctl {words:?}: {out}{err}\nthe log:\n{}", self.log());
        out
    }

    /// A control command that must be refused with exit code 1; what it complained.
    pub fn ctl_refused(&self, words: &[&str]) -> String {
        let done = self.try_ctl(words);
        let (out, err) = texts(&done);
        assert_eq!(done.status.code(), Some(1), "ctl {words:?}: {out}{err}");
        err
    }

    pub fn try_ctl(&self, words: &[&str]) -> Output {
        Command::new(MUSKOX).arg("ctl").arg("--socket").arg(self.path("control.sock")).args(words).output().unwrap()
    }

    /// Where a client finds an export on the Unix socket.
    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.text("nbd.sock"))
    }

    pub fn process_id(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Asks the target to stop; whether it ended well.
    pub fn stop(&mut self) -> bool {
        let mut process = self.process.take().expect("it runs");
        let told = Command::new("kill").arg(process.id().to_string()).status().unwrap();
        assert!(told.success());
        let well = process.wait().unwrap().success();
        // OD7: nothing sleeps on beside a pool that has stopped.
        assert!(!self.log().contains("operations were still running"), "{}", self.log());
        well
    }
}

impl Drop for StorageBox {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub fn texts(done: &Output) -> (String, String) {
    (String::from_utf8_lossy(&done.stdout).into_owned(), String::from_utf8_lossy(&done.stderr).into_owned())
}

/// Runs `muskox` itself; its exit code and both streams.
pub fn muskox(words: &[&str]) -> (Option<i32>, String) {
    let done = Command::new(MUSKOX).args(words).output().unwrap();
    let (out, err) = texts(&done);
    (done.status.code(), out + &err)
}

/// Whether the oracle is here. A missing one fails, unless `MUSKOX_ALLOW_MISSING=1`.
pub fn have(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs = std::env::split_paths(&path).chain(["/sbin", "/usr/sbin"].map(PathBuf::from));
    let found = dirs.any(|dir| dir.join(tool).is_file());
    let allowed = std::env::var_os("MUSKOX_ALLOW_MISSING").is_some_and(|value| value == "1");
    assert!(found || allowed, "the oracle '{tool}' is missing: run `cargo xtask setup`, or set MUSKOX_ALLOW_MISSING=1");
    found
}

/// A tool that must work; what it printed to both streams.
pub fn tool(words: &[&str]) -> String {
    let (worked, printed) = try_tool(words);
    assert!(worked, "{words:?}: {printed}");
    printed
}

/// A tool that may fail: whether it worked, and what it printed to both streams.
pub fn try_tool(words: &[&str]) -> (bool, String) {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(words[0]);
    // Debian's python3-libnbd belongs to Debian's python.
    command.args(&words[1..]).env("PATH", format!("/usr/bin:{path}:/sbin:/usr/sbin")).env("LC_ALL", "C");
    let done = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{words:?}: {error}"));
    let (out, err) = texts(&done);
    (done.status.success(), out + &err)
}

/// A libnbd script in the background, with `h` connected to `uri`.
pub fn nbd_script(uri: &str, script: &str) -> Child {
    let text = format!(
        "import nbd, sys\nh = nbd.NBD()\nh.add_meta_context('base:allocation')\nh.connect_uri(sys.argv[1])\n{script}"
    );
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", &text, uri]).stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    command.spawn().expect("python3 with libnbd: run `cargo xtask setup`")
}

/// Waits for a script that must work; what it printed.
pub fn finish(mut script: Child) -> String {
    let begun = Instant::now();
    while script.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            script.kill().unwrap();
            panic!("a script hangs");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let (mut out, mut err) = (String::new(), String::new());
    script.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    script.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(script.wait().unwrap().success(), "{out}{err}");
    out
}

/// Bytes that look like nothing, the same every time.
pub fn pattern(path: &Path, mib: usize) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..mib << 17).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    std::fs::write(path, words.collect::<Vec<u8>>()).unwrap();
}
