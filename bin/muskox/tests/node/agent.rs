//! A host's agent with a real target, initiators and QEMUs, without a director: the test has the store's machine's key and
//! gives the orders itself.

use crate::support::{Machine, Machines, boot_disk};
use host::net::{ClientTls, Expect, TlsFiles, connect_tcp};
use serde_json::{Value, json};
use std::cell::Cell;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use units::{HostKey, Millis};

/// Nothing here takes longer, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const UUID: &str = "4f7c9e3a-8d51-4c0e-9f00-0123456789ab";

/// Two hosts, the first one with a pool, and the orders of a machine with the store.
pub struct World {
    orders: Cell<u64>,
    store: Machine,
    pub hosts: [Machine; 2],
    pub keys: [HostKey; 2],
    _machines: Machines,
}

impl World {
    pub fn new() -> Self {
        for tool in ["qemu-system-x86_64", "qemu-img"] {
            let found = Command::new(tool).arg("--version").stdout(Stdio::null()).status();
            assert!(found.is_ok_and(|status| status.success()), "{tool} is missing");
        }
        let machines = Machines::new();
        let mut store = machines.machine("alpha");
        store.init(&["--roles", "witness"]);
        store.start();
        let hosts = [("bravo", "storage,host"), ("charlie", "host")].map(|(name, roles)| {
            let mut host = machines.machine(name);
            let token = store.token();
            let words = [&host.join_words(&token)[..], &["--roles", roles]].concat();
            host.node("join", &words);
            host.start();
            host
        });
        let key = |host: &Machine| store.listed(&host.name)["key"].as_str().unwrap().parse().unwrap();
        let keys = [key(&hosts[0]), key(&hosts[1])];
        let mut this = Self { orders: Cell::new(0), store, hosts, keys, _machines: machines };
        let knows = |host| this.look(host)["witnesses"].as_array().is_some_and(|known| known.len() == 3);
        this.until(|| knows(0) && knows(1), "every dead-man knows every witness");
        // Nobody decides but this test.
        this.store.stop();
        this.make_volume();
        this
    }

    /// A volume `web1` with the guest on it, at epoch 1.
    fn make_volume(&self) {
        let bravo = &self.hosts[0];
        let disks = ["d0", "d1"].map(|name| {
            std::fs::File::create(bravo.path(name)).unwrap().set_len(96 << 20).unwrap();
            bravo.path(name)
        });
        self.until(|| self.look(0)["target_up"].is_u64(), "the target runs");
        self.target(&json!({"do": "pool-create", "pool": "tank", "members": disks}));
        self.target(&json!({"do": "volume-create", "pool": "tank", "volume": "web1", "size": 8 << 20}));
        let serving = || self.target(&json!({"do": "volume-list"}))["volumes"][0]["state"] == "serving";
        self.until(serving, "the volume is served");
        self.raise(1, Some(0));
        let image = bravo.path("guest.img");
        std::fs::write(&image, boot_disk()).unwrap();
        self.copy_to_volume(&image);
    }

    /// Writes an image to the volume as any client would: by an initiator.
    fn copy_to_volume(&self, image: &std::path::Path) {
        let bravo = &self.hosts[0];
        let tls = |name: &str| bravo.path("etc/muskox").join(name).display().to_string();
        let config = format!(
            "control = \"hand.sock\"\nstate_dir = \"hand\"\n[tls]\ncertificate = \"{}\"\nkey = \"{}\"\nca = \"{}\"\n\
             [[volume]]\nname = \"web1\"\nepoch = 1\nmode = \"rw\"\nportals = [\"{}\"]\ntarget = \"{}\"\nsocket = \"hand-web1.sock\"\n",
            tls("node.crt"),
            tls("node.key"),
            tls("ca.crt"),
            self.portal(),
            self.keys[0]
        );
        std::fs::write(bravo.path("hand.toml"), config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_muskox"));
        let mut initiator = command.args(["initiator", "--config"]).arg(bravo.path("hand.toml")).spawn().unwrap();
        let socket = bravo.path("hand-web1.sock");
        self.until(|| socket.exists(), "the initiator serves");
        let url = format!("nbd+unix:///web1?socket={}", socket.display());
        let copied =
            Command::new("qemu-img").args(["convert", "-n", "-f", "raw", "-O", "raw"]).arg(image).arg(url).status();
        assert!(copied.unwrap().success());
        initiator.kill().unwrap();
        initiator.wait().unwrap();
    }

    fn portal(&self) -> String {
        format!("{}:10809", self.ip(0))
    }

    fn ip(&self, host: usize) -> String {
        self.hosts[host].address.rsplit_once(':').unwrap().0.to_owned()
    }

    /// Says something to a host's agent as the machine with the store does.
    fn say(&self, host: usize, ask: &Value) -> Value {
        let (to, tls) = (&self.hosts[host], |name: &str| self.store.path("etc/muskox").join(name));
        let files = TlsFiles { certificate: tls("node.crt"), key: tls("node.key"), ca: tls("ca.crt") };
        let (limit, body) = (Millis(25_000), ask.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let reply = runtime.block_on(async {
            let plain = connect_tcp(to.address.parse().unwrap(), limit).await.unwrap();
            let tls = ClientTls::load(&files).unwrap();
            let mut transport = tls.connect(plain, &Expect::Key(self.keys[host]), limit).await.unwrap();
            let head = format!(
                "POST /peer/v1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            transport.write_all((head + &body).as_bytes()).await.unwrap();
            transport.flush().await.unwrap();
            let mut reply = String::new();
            transport.read_to_string(&mut reply).await.unwrap();
            reply
        });
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{ask}: {reply}\n{}", to.log());
        let reply: Value = serde_json::from_str(body).unwrap();
        assert_ne!(reply["reply"], "problem", "{ask}: {reply}");
        reply
    }

    /// What the target answers; it must not refuse.
    pub fn target(&self, request: &Value) -> Value {
        let reply = self.say(0, &json!({"ask": "target", "request": request}));
        assert!(reply["answer"]["Err"].is_null(), "{request}: {reply}");
        reply["answer"]["Ok"].clone()
    }

    pub fn raise(&self, epoch: u64, owner: Option<usize>) {
        let owners: Vec<Value> = owner.iter().map(|host| json!({"host": self.keys[*host], "mode": "rw"})).collect();
        self.target(&json!({"do": "raise", "volume": "web1", "epoch": epoch, "owners": owners}));
    }

    fn look(&self, host: usize) -> Value {
        self.say(host, &json!({"ask": "look"}))
    }

    /// How the guest is on a host, as its agent says.
    pub fn told(&self, host: usize) -> Value {
        self.look(host)["guests"][0].clone()
    }

    fn brief(&self) -> Value {
        json!({
            "vm": "web1", "uuid": UUID, "memory_mib": 32, "vcpus": 1, "cpu": null,
            "disks": [{"volume": "web1", "serial": "web1", "portals": [self.portal()], "target": self.keys[0]}],
            "nics": [], "seed": {"hostname": "web1", "ssh_keys": [], "user_data": null, "network_config": null, "files": []},
            "patience_ms": 5000
        })
    }

    /// Gives an order of this revision; with what the destination of a move said when it waited.
    fn order_at(&self, at: u64, host: usize, action: &Value, waiting: Option<&Value>) -> Value {
        let other = 1 - host;
        let (name, ip) = (&self.hosts[other].name, self.ip(other));
        let mut other = json!({"key": self.keys[other], "name": name, "ip": ip, "port": null});
        if let Some(waiting) = waiting {
            (other["port"], other["move_key"]) = (waiting["port"].clone(), waiting["move_key"].clone());
        }
        let order = json!({"vm": "web1", "job": "j1", "at": at});
        let mut action = action.clone();
        action["host"] = json!(self.keys[host]);
        self.say(host, &json!({"ask": "act", "order": order, "action": action, "brief": self.brief(), "other": other}))
    }

    /// Gives the newest order.
    pub fn order(&self, host: usize, action: &Value, waiting: Option<&Value>) -> Value {
        self.orders.set(self.orders.get() + 1);
        let acted = self.order_at(self.orders.get(), host, action, waiting);
        assert_eq!(acted["admitted"], true, "{acted}");
        acted
    }

    /// Waits until the agent says that the guest is so; what it said.
    pub fn is(&self, host: usize, state: &str) -> Value {
        let last = std::cell::RefCell::new(Value::Null);
        let so = || {
            *last.borrow_mut() = self.told(host);
            let told = last.borrow();
            assert!(told["refused"].is_null(), "{told}\n{}", self.hosts[host].log());
            told["guest"] == state
        };
        self.until(so, &format!("{} says {state}", self.hosts[host].name));
        last.into_inner()
    }

    pub fn until(&self, done: impl Fn() -> bool, what: &str) {
        let begun = Instant::now();
        while !done() {
            let logs = self.hosts.each_ref().map(Machine::log).join("\n--\n");
            let said = [0, 1].map(|host| std::fs::read_to_string(self.console(host)).unwrap_or_default());
            let said = said.each_ref().map(|said| said.get(said.len().saturating_sub(200)..).unwrap_or_default());
            assert!(begun.elapsed() < PATIENCE, "not in time: {what}\n{said:?}\n{logs}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The guest's control group on a host, and how it is frozen.
    fn group(&self, host: usize) -> (PathBuf, &'static str, &'static str) {
        let noted = std::fs::read_to_string(self.hosts[host].path("var/lib/muskox/vm/web1/cgroup")).unwrap();
        let group = PathBuf::from(noted.trim());
        let kinds = [("cgroup.freeze", "1"), ("freezer.state", "FROZEN")];
        let (file, word) = kinds.into_iter().find(|(file, _)| group.join(file).exists()).expect("it can freeze");
        (group, file, word)
    }

    fn console(&self, host: usize) -> PathBuf {
        self.hosts[host].path("run/muskox/vm/web1/console.log")
    }

    /// The process of its QEMU.
    fn qemu(&self, host: usize) -> i32 {
        let noted = std::fs::read_to_string(self.hosts[host].path("run/muskox/vm/web1/process")).unwrap();
        noted.split(' ').next().unwrap().parse().unwrap()
    }

    /// CA3: no key of a host is in its QEMU, whatever the guest went through.
    fn holds_no_key(&self, host: usize) {
        crate::memory::holds_no_key_of(&self.hosts[host], self.qemu(host), UUID);
    }

    /// CA3: QEMU is not root, and its folder is its user's alone.
    fn has_a_user(&self, host: usize) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.qemu(host))).unwrap();
        let users = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        let user: u32 = users.split_whitespace().next().unwrap().parse().unwrap();
        assert!(users.split_whitespace().all(|it| it == user.to_string()), "{users}");
        if rustix::process::geteuid().is_root() {
            assert!((2_100_000_000..2_100_010_000).contains(&user), "{users}");
        }
        let folder = std::fs::metadata(self.hosts[host].path("run/muskox/vm/web1")).unwrap();
        assert_eq!((folder.uid(), folder.mode() & 0o777), (user, 0o700));
    }

    /// CA3: the key of a move is gone when the move is over, at both ends.
    fn no_move_key(&self) {
        let gone = |host: &Machine| !host.path("run/muskox/tls/web1").exists();
        self.until(|| self.hosts.iter().all(gone), "no key of a move is left");
        let told = [0, 1].map(|host| self.look(host)["guests"].to_string());
        assert!(told.iter().all(|told| !told.contains("move_key")), "{told:?}");
    }

    /// The last number that the guest says it wrote here; it met no error.
    fn wrote(&self, host: usize) -> u32 {
        let said = String::from_utf8_lossy(&std::fs::read(self.console(host)).unwrap_or_default()).replace('\r', "");
        let mut numbers = said.lines().filter_map(|line| {
            assert!(!line.starts_with("E0"), "the guest met an error: {line}");
            u32::from_str_radix(line.strip_prefix('W').filter(|digits| digits.len() == 8)?, 16).ok()
        });
        numbers.next_back().unwrap_or_default()
    }

    pub fn writes_on(&self, host: usize) {
        let before = self.wrote(host);
        self.until(|| self.wrote(host) > before + 5, "the guest writes");
    }
}

/// Goal: a guest is started, outlives its host's node, moves, is taken over at a new epoch, and ends when told to; orders of
/// the past are refused, also after a restart. Method: the orders of a job given by hand, a guest that counts.
#[test]
fn a_host_obeys() {
    let mut world = World::new();
    // A start: the epoch is granted, then ordered.
    world.raise(2, Some(0));
    let begun = Instant::now();
    world.order(0, &json!({"do": "start", "epoch": 2}), None);
    let told = world.is(0, "running");
    println!("start: {} ms from order to running", begun.elapsed().as_millis());
    assert_eq!((&told["epoch"], &told["powered_off"]), (&json!(2), &json!(false)));
    world.writes_on(0);
    world.has_a_user(0);
    assert!(world.hosts[0].path("run/muskox/vm/web1/seed.img").exists());

    trimmed(&world);
    outlived(&mut world);
    migrated(&world);
    taken_back(&mut world);
    switched_off(&world);
    withheld(&mut world);
}

/// CA14: a console's log that has grown long is trimmed while the guest runs, and goes on. Its length is set by hand, as if
/// the guest had said zeroes.
fn trimmed(world: &World) {
    let (log, limit) = (world.console(0), 4 << 20);
    std::fs::File::options().write(true).open(&log).unwrap().set_len(limit).unwrap();
    world.until(|| std::fs::metadata(&log).is_ok_and(|facts| facts.len() < limit), "the log is trimmed");
    world.writes_on(0);
    let old = std::fs::metadata(log.with_extension("log.old")).unwrap();
    assert_eq!(old.len(), limit, "what was there is kept once");
}

/// The node dies and is started anew: QEMU, initiator and target are the same processes, and what was ordered is known.
fn outlived(world: &mut World) {
    let before: Vec<i32> = world.hosts[0].outliving().iter().map(|process| process.identity().pid).collect();
    assert_eq!(before.len(), 5, "target, dead-man, guard, QEMU, initiator");
    world.hosts[0].kill();
    world.writes_on(0);
    world.hosts[0].start();
    world.is(0, "running");
    let after: Vec<i32> = world.hosts[0].outliving().iter().map(|process| process.identity().pid).collect();
    assert_eq!(before, after);
    let late = world.order_at(0, 0, &json!({"do": "destroy"}), None);
    assert_eq!((&late["admitted"], &late["told"]["guest"]), (&json!(false), &json!("running")), "{late}");
    // The same order again is harmless.
    world.order(0, &json!({"do": "start", "epoch": 2}), None);
    world.is(0, "running");
    // A dead initiator is started anew; the guest waits for it.
    let note = world.hosts[0].path("var/lib/muskox/vm/web1/initiator.process");
    let old = std::fs::read_to_string(&note).unwrap();
    let pid = old.split(' ').next().unwrap();
    assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
    world.until(|| std::fs::read_to_string(&note).unwrap() != old, "another initiator");
    world.writes_on(0);
}

/// From bravo to charlie, as a migration's job has it.
fn migrated(world: &World) {
    world.target(&json!({"do": "reserve", "volume": "web1", "epoch": 4, "host": world.keys[1]}));
    let begun = Instant::now();
    world.order(1, &json!({"do": "incoming", "epoch": 4}), None);
    let waiting = world.is(1, "incoming");
    assert!((10_820..10_900).contains(&waiting["port"].as_u64().unwrap()), "{waiting}");
    println!("incoming: {} ms from order to waiting", begun.elapsed().as_millis());
    let begun = Instant::now();
    world.order(0, &json!({"do": "migrate", "destination": world.keys[1]}), Some(&waiting));
    let stands = world.is(0, "pre-switchover");
    let stopped = Instant::now() - Duration::from_millis(stands["stopped_ago_ms"].as_u64().unwrap());
    world.raise(3, None);
    world.order(0, &json!({"do": "continue"}), None);
    world.is(1, "loaded");
    let sent = world.is(0, "post-migrate");
    assert!(
        sent["measured"]["bytes"].as_u64().unwrap() > 0 && sent["measured"]["rounds"].as_u64().unwrap() > 0,
        "{sent}"
    );
    world.raise(4, Some(1));
    world.order(1, &json!({"do": "cont", "epoch": 4}), None);
    let runs = world.is(1, "running");
    let resumed = Instant::now() - Duration::from_millis(runs["resumed_ago_ms"].as_u64().unwrap());
    println!(
        "migrate: {} ms in all, blackout {} ms, {}",
        begun.elapsed().as_millis(),
        resumed.duration_since(stopped).as_millis(),
        sent["measured"]
    );
    let last = world.wrote(0);
    world.holds_no_key(0);
    world.order(0, &json!({"do": "destroy"}), None);
    world.is(0, "absent");
    world.until(|| world.wrote(1) > last, "the guest goes on where it was");
    world.holds_no_key(1);
    world.no_move_key();
    assert_eq!(world.hosts[0].outliving().len(), 3, "only target, dead-man and guard are left");
}

/// Back to bravo, given up twice: before the epoch was closed and after.
fn taken_back(world: &mut World) {
    let towards = |world: &World, epoch: u64| {
        world.target(&json!({"do": "reserve", "volume": "web1", "epoch": epoch, "host": world.keys[0]}));
        world.order(0, &json!({"do": "incoming", "epoch": epoch}), None);
        let waiting = world.is(0, "incoming");
        world.order(1, &json!({"do": "migrate", "destination": world.keys[0]}), Some(&waiting));
        world.is(1, "pre-switchover");
    };
    towards(world, 6);
    // Both nodes die meanwhile.
    world.hosts.iter_mut().for_each(|host| (host.kill(), host.start()).1);
    world.order(1, &json!({"do": "cancel"}), None);
    world.is(1, "running");
    world.order(0, &json!({"do": "destroy"}), None);
    world.is(0, "absent");
    world.writes_on(1);
    world.no_move_key();

    towards(world, 8);
    world.raise(7, None);
    world.order(1, &json!({"do": "continue"}), None);
    world.is(1, "post-migrate");
    world.order(0, &json!({"do": "destroy"}), None);
    world.is(0, "absent");
    world.raise(9, Some(1));
    let begun = Instant::now();
    world.order(1, &json!({"do": "return", "epoch": 9}), None);
    let back = world.is(1, "running");
    println!("return: {} ms from order to running", begun.elapsed().as_millis());
    assert_eq!(back["epoch"], 9);
    world.writes_on(1);

    // The other end hangs in the middle of the switch.
    towards(world, 11);
    world.raise(10, None);
    let (group, file, word) = world.group(0);
    std::fs::write(group.join(file), word).unwrap();
    world.order(1, &json!({"do": "continue"}), None);
    world.until(|| world.told(1)["guest"] != "pre-switchover", "it sends the rest");
    world.raise(12, Some(1));
    let begun = Instant::now();
    world.order(1, &json!({"do": "return", "epoch": 12}), None);
    world.until(|| world.told(1)["epoch"] == 12 && world.told(1)["guest"] == "running", "it is taken back");
    println!("return from a hang: {} ms from order to running", begun.elapsed().as_millis());
    world.order(0, &json!({"do": "destroy"}), None);
    world.is(0, "absent");
    world.writes_on(1);
}

/// A failover to bravo, a QEMU that dies, and a guest that switches itself off.
fn switched_off(world: &World) {
    world.raise(13, Some(0));
    world.order(1, &json!({"do": "destroy"}), None);
    let begun = Instant::now();
    world.order(0, &json!({"do": "start", "epoch": 13}), None);
    world.is(0, "running");
    println!("failover: {} ms from order to running", begun.elapsed().as_millis());
    world.is(1, "absent");
    frozen(world);
    let killed = std::fs::read_to_string(world.hosts[0].path("run/muskox/vm/web1/process")).unwrap();
    assert!(Command::new("kill").args(["-9", killed.split(' ').next().unwrap()]).status().unwrap().success());
    let gone = world.is(0, "absent");
    let why = gone["why"].as_str().unwrap();
    assert!(why.contains("QEMU") && gone["powered_off"] == false, "{gone}");

    world.raise(15, Some(0));
    let _ = std::fs::remove_file(world.console(0));
    world.order(0, &json!({"do": "start", "epoch": 15}), None);
    world.is(0, "running");
    world.writes_on(0);
    let monitor = world.hosts[0].path("run/muskox/vm/web1/oob.sock");
    press_power_button(&monitor);
    let off = world.is(0, "absent");
    assert_eq!(off["powered_off"], true, "{off}");
    world.until(|| world.hosts[0].outliving().len() == 3, "only target, dead-man and guard are left");
    world.until(|| !world.hosts[0].path("var/lib/muskox/vm/web1/cgroup").exists(), "its control group is removed");
}

/// What the dead-man froze is ended all the same by a start at a newer epoch. Both kinds of control groups are known.
fn frozen(world: &World) {
    let (group, file, word) = world.group(0);
    let members = std::fs::read_to_string(group.join("cgroup.procs")).unwrap();
    assert_eq!(members.lines().count(), 2, "QEMU and the initiator: {members}");
    std::fs::write(group.join(file), word).unwrap();
    world.raise(14, Some(0));
    world.order(0, &json!({"do": "start", "epoch": 14}), None);
    world.until(|| world.told(0)["epoch"] == 14 && world.told(0)["guest"] == "running", "it runs anew");
    let now = std::fs::read_to_string(group.join("cgroup.procs")).unwrap();
    assert!(members.lines().all(|old| !now.lines().any(|new| new == old)), "{members}{now}");
}

/// Where witnesses could vote the host dead, a guest is let run by the dead-man's leave only. A dead-man that hears no
/// majority gives none; one that nobody watches does.
fn withheld(world: &mut World) {
    let configure = |world: &World, witnesses: usize| {
        let (bravo, ip) = (&world.hosts[0], world.ip(0));
        let tls = |name: &str| bravo.path("etc/muskox").join(name).display().to_string();
        let mut text = format!(
            "control = \"{}\"\nlisten = [\"{ip}:10812\"]\nvms = \"{}\"\n[tls]\ncertificate = \"{}\"\nkey = \"{}\"\n\
             ca = \"{}\"\n[timing]\n",
            bravo.path("run/muskox/deadman.sock").display(),
            bravo.path("run/muskox/vm").display(),
            tls("node.crt"),
            tls("node.key"),
            tls("ca.crt")
        );
        for index in 0..witnesses {
            // Nobody listens at the others' ports.
            let (key, port) = if index == 0 {
                (world.keys[0], 10_812)
            } else {
                (HostKey([9; 32].map(|b| b + u8::try_from(index).unwrap())), 10_800 + index)
            };
            text += &format!("[[witness]]\nkey = \"{key}\"\nname = \"w{index}\"\nportals = [\"{ip}:{port}\"]\n");
        }
        std::fs::write(bravo.path("etc/muskox/deadman.toml"), text).unwrap();
    };
    world.hosts[0].stop();
    configure(world, 3);
    world.hosts[0].start();
    world.until(|| world.look(0)["deadman"] == true, "the dead-man answers");
    world.raise(16, Some(0));
    world.order(0, &json!({"do": "start", "epoch": 16}), None);
    world.until(|| world.told(0)["paused"] == true, "the leave is withheld");
    // Its QEMU may be there already; its vCPUs do not run.
    let guest = world.told(0)["guest"].clone();
    assert!(guest == "absent" || guest == "stopped", "{guest}");

    configure(world, 1);
    let deadman = std::fs::read_to_string(world.hosts[0].path("run/muskox/deadman.process")).unwrap();
    assert!(Command::new("kill").arg(deadman.split(' ').next().unwrap()).status().unwrap().success());
    let told = world.is(0, "running");
    assert_eq!(told["paused"], false, "{told}");
}

fn press_power_button(monitor: &std::path::Path) {
    use std::io::{BufRead, BufReader, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(monitor).unwrap();
    stream.write_all(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"system_powerdown\"}").unwrap();
    let lines = BufReader::new(stream).lines();
    let answered = lines.map_while(Result::ok).filter(|line| line.contains("\"return\"")).take(2).count();
    assert_eq!(answered, 2);
}
