//! A panic in one task of each daemon. In a build with planted bugs: `cargo test -p muskox --features sabotage --test panics`.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const MUSKOX: &str = env!("CARGO_BIN_EXE_muskox");
/// Nothing here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a Rust program ends with after a panic.
const PANICKED: i32 = 101;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("muskox-panics-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Starts a daemon one of whose tasks panics.
fn daemon(words: &[&str]) -> Child {
    let mut command = Command::new(MUSKOX);
    command.args(words).env("MUSKOX_SABOTAGE", "task-panics").stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for its end, which a panic must be.
fn must_end(mut daemon: Child) {
    let begun = Instant::now();
    while daemon.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            daemon.kill().unwrap();
            panic!("it lives on without a task: {}", said(&daemon.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let done = daemon.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(PANICKED), "{}", said(&done));
    assert!(said(&done).contains("planted"), "{}", said(&done));
}

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

fn until(path: &Path) {
    let begun = Instant::now();
    while !path.exists() {
        assert!(begun.elapsed() < PATIENCE, "no {} in time", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A key with a certificate of its own CA; its identity.
fn certificate(folder: &Folder) -> String {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let (mut params, ca_key) = (CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    folder.write("ca.pem", &params.self_signed(&ca_key).unwrap().pem());
    let (issuer, key) = (Issuer::new(params, ca_key), KeyPair::generate().unwrap());
    let shown = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    folder.write("host.pem", &shown.pem());
    folder.write("host.key", &key.serialize_pem());
    std::fs::set_permissions(folder.path("host.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    host::net::host_key_of(shown.der()).unwrap().to_string()
}

/// DA11. Goal: a panic in a task of a pool's thread ends the target: an array that answers reads and never a write keeps everybody
/// from failing over. Method: the writer of the superblocks panics, which a new pool needs.
#[test]
fn a_target_ends() {
    let folder = Folder::new("target");
    for disk in ["d0", "d1"] {
        std::fs::File::create(folder.path(disk)).unwrap().set_len(96 << 20).unwrap();
    }
    folder.write(
        "target.toml",
        &format!(
            "control = \"control.sock\"\nstate_dir = \"state\"\n[[listen]]\nnbd_unix = \"nbd.sock\"\nidentity = \"{}\"\n",
            "ab".repeat(32)
        ),
    );
    let target = daemon(&["target", "--config", &folder.text("target.toml")]);
    until(&folder.path("control.sock"));
    let socket = folder.text("control.sock");
    let words = ["ctl", "--socket", &socket, "pool", "create", "tank", &folder.text("d0"), &folder.text("d1")];
    let mut asking = Command::new(MUSKOX).args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    must_end(target);
    assert!(!asking.wait().unwrap().success());
}

/// DA11. Goal: the same for an initiator. Method: the task that keeps a volume attached panics.
#[test]
fn an_initiator_ends() {
    let folder = Folder::new("initiator");
    folder.write(
        "initiator.toml",
        "control = \"control.sock\"\nstate_dir = \"state\"\n[[volume]]\nname = \"web1\"\nepoch = 1\nmode = \"rw\"\n\
         socket = \"web1.sock\"\nportals = [\"127.0.0.1:1\"]\nplaintext = true\n",
    );
    must_end(daemon(&["initiator", "--config", &folder.text("initiator.toml")]));
}

/// DA11. Goal: the same for a dead-man, and for a guard. Method: a connection to another witness panics; a guard's look at the record.
#[test]
fn a_dead_man_and_a_guard_end() {
    let folder = Folder::new("deadman");
    let key = certificate(&folder);
    std::fs::create_dir_all(folder.path("vms")).unwrap();
    let witness = |key: &str, name: &str, port: u16| {
        format!("[[witness]]\nkey = \"{key}\"\nname = \"{name}\"\nportals = [\"127.0.0.1:{port}\"]\n")
    };
    let others: String =
        [("cd", "b", 2), ("ef", "c", 3)].map(|(key, name, port)| witness(&key.repeat(32), name, port)).concat();
    folder.write(
        "deadman.toml",
        &format!(
            "control = \"deadman.sock\"\nlisten = [\"127.0.0.1:0\"]\nvms = \"vms\"\n\
             tls = {{ certificate = \"host.pem\", key = \"host.key\", ca = \"ca.pem\" }}\n{}{others}",
            witness(&key, "a", 1)
        ),
    );
    must_end(daemon(&["deadman", "--config", &folder.text("deadman.toml")]));
    must_end(daemon(&["guard", "--record", &folder.text("deadman.lease"), "--vms", &folder.text("vms")]));
}

/// DA11. Goal: the same for a node. Method: a task panics that nobody waits for: the one that gives back what a former life claimed.
#[test]
fn a_node_ends() {
    let folder = Folder::new("node");
    let root = folder.text("root");
    let port = 20_000 + std::process::id() % 10_000;
    let words = ["node", "init", "alpha", "--root", &root, "--address", &format!("127.0.0.1:{port}")];
    let made = Command::new(MUSKOX).args(words).args(["--roles", "witness"]).output().unwrap();
    assert!(made.status.success(), "{}", said(&made));
    must_end(daemon(&["node", "run", "--root", &root]));
}
