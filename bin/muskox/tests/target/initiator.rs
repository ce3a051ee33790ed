//! `muskox initiator` between a target and a client that plays QEMU: what the client sees of every accident.

use crate::support::{LOCAL, PATIENCE, StorageBox, finish, have, muskox, nbd_script, pattern, tool};
use crate::tls::Authority;
use crate::wire::Wire;
use std::net::TcpListener;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// An initiator for `web1` in the storage box's folder.
struct Initiator<'a> {
    storage: &'a StorageBox,
    process: Child,
}

/// A port nobody uses now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A box that serves `web1` over TCP to [`LOCAL`] at epoch 1, and the port.
fn storage() -> (StorageBox, u16) {
    let port = free_port();
    let mut storage = StorageBox::new(2);
    storage.configure(&format!("[[listen]]\nnbd = \"127.0.0.1:{port}\"\nplaintext = true\nidentity = \"{LOCAL}\"\n"));
    storage.start();
    storage.ctl(&["pool", "create", "tank", &storage.text("d0"), &storage.text("d1")]);
    storage.ctl(&["volume", "create", "tank", "web1", "32M"]);
    storage.wait_for_volume();
    storage.ctl(&["grant", "raise", "web1", "1", "--owner", LOCAL]);
    (storage, port)
}

fn configure(storage: &StorageBox, head: &str, more: &str, port: u16) {
    let text = format!(
        "control = \"i.sock\"\nstate_dir = \"istate\"\n{head}[[volume]]\nname = \"web1\"\nepoch = 1\nmode = \"rw\"\n\
         portals = [\"127.0.0.1:{port}\"]\nsocket = \"web1.sock\"\n{more}\n"
    );
    std::fs::write(storage.path("initiator.toml"), text).unwrap();
}

impl<'a> Initiator<'a> {
    fn start(storage: &'a StorageBox) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(storage.path("log")).unwrap();
        let config = storage.path("initiator.toml");
        let mut command = Command::new(env!("CARGO_BIN_EXE_muskox"));
        let process = command.args(["initiator", "--config"]).arg(config).stderr(log).spawn().unwrap();
        Self { storage, process }
    }

    fn status(&self) -> String {
        muskox(&["ctl", "--socket", &self.storage.text("i.sock"), "--json", "status"]).1
    }

    fn wait(&self, what: &str) {
        self.storage.wait(what, |_| self.status().contains(what));
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///web1?socket={}", self.storage.text("web1.sock"))
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Initiator<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn signal(process: u32, name: &str) {
    assert!(Command::new("kill").args([name, &process.to_string()]).status().unwrap().success());
}

const UP: &str = "\"state\": \"up\"";

/// Goal: a target that is killed again and again is a pause for the client. Method: a copy in and a copy out, the
/// target killed and started under each; the bytes are compared.
#[test]
fn a_killed_target_is_a_pause() {
    if !["nbdcopy"].into_iter().all(have) {
        return;
    }
    let (mut storage, port) = storage();
    configure(&storage, "", "plaintext = true", port);
    pattern(&storage.path("image"), 32);
    let config = storage.path("initiator.toml");
    let mut process =
        Command::new(env!("CARGO_BIN_EXE_muskox")).args(["initiator", "--config"]).arg(&config).spawn().unwrap();
    storage.wait("a served socket", |this| this.path("web1.sock").exists());
    let uri = format!("nbd+unix:///web1?socket={}", storage.text("web1.sock"));
    for (from, to) in [(storage.text("image"), uri.clone()), (uri, storage.text("copy"))] {
        let mut copy = Command::new("nbdcopy").args(["--flush", "--requests=4", &from, &to]).spawn().unwrap();
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(60));
            storage.kill();
            storage.start();
        }
        assert!(copy.wait().unwrap().success(), "the log:\n{}", storage.log());
    }
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(std::fs::read(storage.path("image")).unwrap() == std::fs::read(storage.path("copy")).unwrap());
}

/// DA4. Goal: large writes over a slow wire end well, on the connection they began on. Method: 32 MiB twice at 10 MB/s, the
/// largest payload there is, with a flush behind; how many connections were made.
#[test]
fn large_writes_over_a_slow_wire_are_no_dead_path() {
    if !have("qemu-io") {
        return;
    }
    let (storage, port) = storage();
    let wire = Wire::to(port);
    configure(&storage, "", "plaintext = true", wire.port);
    let initiator = Initiator::start(&storage);
    initiator.wait(UP);
    wire.throttle(10_000_000);
    let begun = Instant::now();
    let write = ["-c", "aio_write -P 1 0 32M", "-c", "aio_write -P 2 0 32M", "-c", "aio_flush", "-c", "flush"];
    tool(&[&["qemu-io", "-f", "raw"], &write[..], &[&initiator.uri()]].concat());
    assert!(begun.elapsed() > Duration::from_secs(6), "{:?} is quicker than the wire", begun.elapsed());
    wire.throttle(0);
    assert!(initiator.status().contains("\"sessions\": 1"), "{}", initiator.status());
}

/// Goal: silence is noticed without any help from TCP, and is a pause too. Method: stop the target's process while a
/// client writes; it is declared dead by the heartbeat, then goes on.
#[test]
fn a_silent_target_is_noticed_and_waited_for() {
    let (storage, port) = storage();
    configure(&storage, "", "plaintext = true", port);
    let initiator = Initiator::start(&storage);
    initiator.wait(UP);
    let writer = nbd_script(
        &initiator.uri(),
        "import time\nworst = 0\nfor n in range(60):\n  t = time.time()\n  h.pwrite(bytes([n]) * 4096, n * 4096)\n  \
         worst = max(worst, time.time() - t)\n  time.sleep(0.02)\nprint('worst', worst)",
    );
    let target = storage.process_id();
    std::thread::sleep(Duration::from_millis(300));
    let stopped = Instant::now();
    signal(target, "-STOP");
    initiator.wait("was silent for");
    let noticed = stopped.elapsed();
    signal(target, "-CONT");
    assert!(noticed < Duration::from_millis(2_500), "noticed after {noticed:?}");
    assert!(finish(writer).starts_with("worst"));
    initiator.wait(UP);
}

/// Goal: the status tells since when the target proves nothing any more. Method: the age while it serves, while it is
/// stopped, and after.
#[test]
fn the_status_says_when_the_target_was_heard() {
    let (storage, port) = storage();
    configure(&storage, "", "plaintext = true", port);
    let initiator = Initiator::start(&storage);
    initiator.wait(UP);
    let age = || {
        let status: serde_json::Value = serde_json::from_str(&initiator.status()).unwrap();
        status["initiator"]["volumes"][0]["heard"].as_u64().expect("it was heard")
    };
    storage.wait("a young answer", |_| age() < 600);
    let target = storage.process_id();
    signal(target, "-STOP");
    storage.wait("an old answer", |_| age() > 2_000);
    signal(target, "-CONT");
    storage.wait("a young answer again", |_| age() < 600);
}

/// Goal: a restarted initiator goes on at the same epoch with a new incarnation. Method: kill it between two clients.
#[test]
fn a_restarted_initiator_takes_a_new_incarnation() {
    let (storage, port) = storage();
    configure(&storage, "", "plaintext = true", port);
    let first = Initiator::start(&storage);
    first.wait(UP);
    finish(nbd_script(&first.uri(), "h.pwrite(b'x' * 4096, 8192)"));
    first.kill();
    let second = Initiator::start(&storage);
    second.wait(UP);
    assert!(second.status().contains("\"incarnation\": 2"), "{}", second.status());
    let read = finish(nbd_script(&second.uri(), "print(h.pread(4096, 8192) == b'x' * 4096)"));
    assert_eq!(read.trim(), "True");
    let third = muskox(&["initiator", "--config", &storage.text("initiator.toml")]);
    assert!(third.1.contains("another initiator"), "{third:?}");
}

/// Goal: a stale epoch is final, and the client hears an error at once. Method: raise to another host while attached.
#[test]
fn a_fenced_initiator_answers_errors_for_good() {
    let (storage, port) = storage();
    configure(&storage, "", "plaintext = true", port);
    let initiator = Initiator::start(&storage);
    initiator.wait(UP);
    storage.ctl(&["grant", "raise", "web1", "2", "--owner", &"cd".repeat(32)]);
    initiator.wait("\"state\": \"fenced\"");
    let script = "for n in range(2):\n  try:\n    h.pwrite(b'x' * 4096, 0)\n    print('written')\n  except nbd.Error as e:\n    print(e.errno)";
    assert_eq!(finish(nbd_script(&initiator.uri(), script)), "ESHUTDOWN\nESHUTDOWN\n");
}

/// Goal: the hold has a bound, and an answer after it is an error of the initiator's own. Method: a bound of 1.5 s and a
/// target that is gone.
#[test]
fn the_holds_bound_is_kept() {
    let (mut storage, port) = storage();
    configure(&storage, "", "plaintext = true\nhold_ms = 1500", port);
    let uri = format!("nbd+unix:///web1?socket={}", storage.text("web1.sock"));
    let config = storage.path("initiator.toml");
    let mut process =
        Command::new(env!("CARGO_BIN_EXE_muskox")).args(["initiator", "--config"]).arg(&config).spawn().unwrap();
    storage.wait("a served socket", |this| this.path("web1.sock").exists());
    storage.kill();
    let script = "import time\nt = time.time()\ntry:\n  h.pwrite(b'x' * 4096, 0)\n  print('written')\n\
                  except nbd.Error as e:\n  print(e.errno, 0.5 < time.time() - t < 10)";
    let said = finish(nbd_script(&uri, script));
    storage.start();
    let after = finish(nbd_script(&uri, "import time\ntime.sleep(2.5)\nh.pwrite(b'y' * 4096, 0)\nprint('written')"));
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!((said.as_str(), after.as_str()), ("EIO True\n", "written\n"));
}

/// A box that serves `web1` over TLS to one client, with a configuration for it but the target's key; the port and the
/// target's key.
fn tls_storage(authority: &Authority) -> (StorageBox, u16, String) {
    let port = free_port();
    let mut storage = StorageBox::new(2);
    let server = authority.machine(&storage.path("server"), "server");
    let client = authority.machine(&storage.path("client"), "client");
    storage.configure(&format!(
        "[[listen]]\nnbd = \"127.0.0.1:{port}\"\n\
         tls = {{ certificate = \"server/server-cert.pem\", key = \"server/server-key.pem\", ca = \"server/ca-cert.pem\" }}"
    ));
    storage.start();
    storage.ctl(&["pool", "create", "tank", &storage.text("d0"), &storage.text("d1")]);
    storage.ctl(&["volume", "create", "tank", "web1", "32M"]);
    storage.wait_for_volume();
    storage.ctl(&["grant", "raise", "web1", "1", "--owner", &client]);
    (storage, port, server)
}

const TLS_HEAD: &str = "[tls]\ncertificate = \"client/client-cert.pem\"\nkey = \"client/client-key.pem\"\n\
                        ca = \"client/ca-cert.pem\"\n";

/// Goal: an initiator's next connection uses the files that are there then. Method: it starts with files of a foreign CA,
/// and cannot attach; the right ones are put in their place.
#[test]
fn renewed_files_are_used_by_the_next_connection() {
    let authority = Authority::new();
    let (storage, port, server) = tls_storage(&authority);
    std::fs::rename(storage.path("client"), storage.path("kept")).unwrap();
    Authority::new().machine(&storage.path("client"), "client");
    configure(&storage, TLS_HEAD, &format!("target = \"{server}\""), port);
    let initiator = Initiator::start(&storage);
    initiator.wait("no TLS with the peer");
    for file in ["client-cert.pem", "client-key.pem", "ca-cert.pem"] {
        std::fs::rename(storage.path("kept").join(file), storage.path("client").join(file)).unwrap();
    }
    initiator.wait(UP);
}

/// Goal: over TLS the target is who it should be. Method: the right pin is served, a wrong one never attaches.
#[test]
fn the_targets_key_is_pinned() {
    let authority = Authority::new();
    let (storage, port, server) = tls_storage(&authority);
    let client = authority.machine(&storage.path("another"), "client");
    configure(&storage, TLS_HEAD, &format!("target = \"{client}\""), port);
    let wrong = Initiator::start(&storage);
    wrong.wait("no TLS with the peer");
    assert!(!storage.path("web1.sock").exists());
    wrong.kill();
    configure(&storage, TLS_HEAD, &format!("target = \"{server}\""), port);
    let right = Initiator::start(&storage);
    right.wait(UP);
    if have("nbdinfo") {
        assert!(tool(&["nbdinfo", "--size", &right.uri()]).contains("33554432"));
    }
    let begun = Instant::now();
    finish(nbd_script(&right.uri(), "h.pwrite(b'x' * 4096, 0)\nh.flush()"));
    assert!(begun.elapsed() < PATIENCE);
}

/// The most memory a process has had, in MiB. Source: proc(5), `VmHWM`, in KiB.
fn most_memory_mib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// DA12. Goal: the bound of the un-flushed log is one on memory, whatever the guest writes. Method: 60 000 blocks of 512 bytes and no
/// flush; what the process took more than before is at most the bound of 64 MiB and what is in flight.
#[test]
fn small_writes_take_no_more_than_the_bound() {
    if !have("nbdsh") {
        return;
    }
    let (storage, port) = storage();
    configure(&storage, "", "plaintext = true", port);
    let initiator = Initiator::start(&storage);
    initiator.wait(UP);
    let before = most_memory_mib(initiator.process.id());
    let script = "block = bytearray(512)\n\
                  for n in range(60000):\n\
                  \twhile h.aio_in_flight() >= 64:\n\t\th.poll(-1)\n\
                  \th.aio_pwrite(block, n * 512, completion=lambda error: 1)\n\
                  while h.aio_in_flight() > 0:\n\th.poll(-1)\n";
    finish(nbd_script(&initiator.uri(), script));
    let more = most_memory_mib(initiator.process.id()) - before;
    println!("{more} MiB more");
    assert!(more <= 64 + 32, "{more} MiB more than before");
}

/// DA12. Goal: one host cannot take the memory of a target by sessions: each may pin 64 MiB. Method: readers of one host until one is
/// refused, and told why; one that leaves makes room.
#[test]
fn a_host_has_so_many_sessions_and_no_more() {
    if !have("nbdsh") {
        return;
    }
    let (storage, _) = storage();
    let uri = storage.uri("web1;epoch=1;incarnation=1;mode=ro");
    let script = format!(
        "all = []\nfor n in range(7):\n\tg = nbd.NBD()\n\tg.connect_uri('{uri}')\n\tall.append(g)\n\
         try:\n\tg = nbd.NBD()\n\tg.connect_uri('{uri}')\n\tprint('let in')\nexcept nbd.Error as error:\n\tprint(error)\n\
         all.pop().shutdown()\n"
    );
    let said = finish(nbd_script(&uri, &script));
    assert!(!said.contains("let in"), "{said}");
    assert!(storage.log().contains("has 8 sessions already"), "{}", storage.log());
    finish(nbd_script(&uri, "print(h.get_size())"));
}
