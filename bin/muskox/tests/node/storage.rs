//! Pools and volumes through the cluster's API: real nodes, real targets, files as disks.

use crate::support::{Machine, Machines};
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// A node is ready before that, but not by much.
const NODE_CONFIGURES_WITHIN: Duration = Duration::from_secs(2);

/// A storage machine's target: a process of its node's, or one of this test's beside a node that keeps none.
pub struct Target {
    pid: String,
    own: Option<Child>,
}

/// A cluster of one storage machine that has three disks of 96 MiB and a target.
pub fn storage_machine(machines: &Machines) -> (Machine, Target) {
    let alpha = machines.first(&["--portals", &portal()]);
    for disk in ["d0", "d1", "d2"] {
        std::fs::File::create(alpha.path(disk)).unwrap().set_len(96 << 20).unwrap();
    }
    let target = Target::of(&alpha);
    (alpha, target)
}

/// An address of the loopback of this test's own: the NBD port is the same everywhere.
fn portal() -> String {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [_, _, middle, low] = std::process::id().to_be_bytes();
    format!("127.{}.{middle}.{low}", 128 + COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Target {
    /// A node that keeps a target writes its configuration first of all.
    fn of(machine: &Machine) -> Self {
        let begun = Instant::now();
        while begun.elapsed() < NODE_CONFIGURES_WITHIN {
            if machine.path("etc/muskox/target.toml").exists() {
                let note = machine.path("run/muskox/target.process");
                let pid = || Some(std::fs::read_to_string(&note).ok()?.split_whitespace().next()?.to_owned());
                machine.wait("target", |it| pid().is_some() && it.path("run/muskox/target.sock").exists());
                return Self { pid: pid().expect("it was there a moment ago"), own: None };
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Self::beside(machine)
    }

    fn beside(machine: &Machine) -> Self {
        let portal = machine.listed(&machine.name)["portals"][0].as_str().unwrap().to_owned();
        let path = |name: &str| machine.path(name).to_str().unwrap().to_owned();
        let text = format!(
            "control = \"{}\"\nstate_dir = \"{}\"\n[[listen]]\nnbd = \"{portal}:10809\"\n\
             tls = {{ certificate = \"{}\", key = \"{}\", ca = \"{}\" }}\n",
            path("run/muskox/target.sock"),
            path("var/lib/muskox/target"),
            path("etc/muskox/node.crt"),
            path("etc/muskox/node.key"),
            path("etc/muskox/ca.crt"),
        );
        std::fs::write(machine.path("target.toml"), text).unwrap();
        let log = std::fs::File::create(machine.path("target.log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_muskox"));
        command.args(["target", "--config"]).arg(machine.path("target.toml")).stdout(Stdio::null()).stderr(log);
        let own = command.spawn().unwrap();
        machine.wait("target", |it| std::fs::read_to_string(it.path("target.log")).unwrap().contains("ready"));
        Self { pid: own.id().to_string(), own: Some(own) }
    }

    /// It hangs.
    pub fn stop(&self) {
        self.signal("-STOP");
    }

    /// It goes on.
    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.pid]).status().unwrap().success());
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(mut process) = self.own.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        } else {
            let _ = Command::new("kill").args(["-CONT", &self.pid]).status();
        }
    }
}

pub fn pool_of(machine: &Machine, disks: &[&str]) -> Value {
    let members: Vec<String> = disks.iter().map(|disk| machine.path(disk).to_str().unwrap().to_owned()).collect();
    json!({"name": "tank", "members": members, "wipe": false})
}

pub fn volume_of(name: &str, mib: u64) -> Value {
    json!({"name": name, "size": mib << 20})
}

pub fn wait_until_served(machine: &Machine, volume: &str) {
    let path = format!("/v1/volumes/{volume}");
    machine.wait("served volume", |machine| machine.ask("GET", &path, &Value::Null)["state"] == "serving");
}

/// Goal: a pool and a volume are made, seen from every machine, and removed; what cannot be is refused in words that help,
/// and changes nothing; asking again for what is there is success; a silent target hides only its own. Method: two
/// machines, every call, the target stopped and going on.
#[test]
fn pools_and_volumes_come_and_go() {
    let machines = Machines::new();
    let (alpha, target) = storage_machine(&machines);
    let mut beta = machines.machine("beta");
    let token = alpha.token();
    let words = [&beta.join_words(&token)[..], &["--roles", "host"]].concat();
    beta.node("join", &words);
    beta.start();

    let volume = volume_of("web1", 8);
    alpha.ask_refused("POST", "/v1/volumes", &volume, "not_possible");
    let missing = alpha.ask_refused("POST", "/v1/pools", &pool_of(&alpha, &["d0", "nothing"]), "bad_request");
    assert!(missing.contains("nothing"), "{missing}");
    assert_eq!(alpha.ask("GET", "/v1/pools", &Value::Null)["pools"], json!([]), "a refusal leaves nothing");

    let pool = pool_of(&alpha, &["d0", "d1"]);
    let made = beta.ask("POST", "/v1/pools", &pool);
    assert_eq!((&made["node"], &made["members"][1]["slot"]), (&json!("alpha"), &json!(1)), "{made}");
    beta.ask("POST", "/v1/pools", &pool);
    beta.ask_refused("POST", "/v1/pools", &pool_of(&alpha, &["d0", "d2"]), "exists");
    let other = json!({"name": "other", "members": pool["members"], "wipe": false});
    alpha.ask_refused("POST", "/v1/pools", &other, "in_use");
    let wrong = json!({"name": "other", "node": "beta", "members": pool["members"], "wipe": false});
    assert!(alpha.ask_refused("POST", "/v1/pools", &wrong, "not_possible").contains("host"));

    let full = alpha.ask_refused("POST", "/v1/volumes", &volume_of("big", 1000), "no_room");
    assert!(full.contains("1000 MiB") && full.contains("tank"), "{full}");
    let made = beta.ask("POST", "/v1/volumes", &volume);
    assert_eq!((&made["state"], &made["vm"], &made["size"]), (&json!("zeroing"), &Value::Null, &json!(8 << 20)));
    wait_until_served(&beta, "web1");
    beta.ask("POST", "/v1/volumes", &volume);
    beta.ask_refused("POST", "/v1/volumes", &volume_of("web1", 16), "exists");
    alpha.ask_refused("GET", "/v1/volumes/web2", &Value::Null, "not_found");

    target.stop();
    let silent = beta.ask("GET", "/v1/volumes", &Value::Null);
    assert_eq!(silent["volumes"][0]["state"], "unknown", "{silent}");
    assert_eq!(beta.ask("GET", "/v1/pools", &Value::Null)["pools"][0]["state"], "unknown");
    alpha.ask_refused("POST", "/v1/volumes", &volume_of("web2", 8), "unreachable");
    target.go_on();
    wait_until_served(&beta, "web1");

    // Somebody made a volume at the target, behind the cluster's back: it is nobody's new one.
    let socket = alpha.path("run/muskox/target.sock");
    let mut ctl = Command::new(env!("CARGO_BIN_EXE_muskox"));
    ctl.args(["ctl", "--socket"]).arg(&socket).args(["volume", "create", "tank", "stray", "8M"]);
    assert!(ctl.output().unwrap().status.success());
    alpha.ask_refused("POST", "/v1/volumes", &volume_of("stray", 8), "exists");
    alpha.ask_refused("GET", "/v1/volumes/stray", &Value::Null, "not_found");
    let doctor = beta.ask("GET", "/v1/doctor", &Value::Null).to_string();
    assert!(doctor.contains("volume stray"), "{doctor}");

    let replaced = json!({"old": alpha.path("d1"), "new": alpha.path("d2"), "wipe": false});
    beta.ask("POST", "/v1/pools/tank/replace", &replaced);
    let healthy = |beta: &Machine| beta.ask("GET", "/v1/pools/tank", &Value::Null)["state"] == "healthy";
    beta.wait("a resync's end", healthy);
    assert_eq!(beta.ask("POST", "/v1/pools/tank/stop", &Value::Null)["state"], "stopped");
    assert_eq!(beta.ask("GET", "/v1/volumes/web1", &Value::Null)["state"], "down");
    beta.ask_refused("DELETE", "/v1/volumes/web1", &Value::Null, "not_found");
    let started = beta.ask("POST", "/v1/pools/tank/start", &json!({"members": [], "degraded": false}));
    assert_eq!(started["state"], "healthy", "{started}");
    wait_until_served(&beta, "web1");
    beta.ask("DELETE", "/v1/volumes/web1", &Value::Null);
    beta.ask_refused("DELETE", "/v1/volumes/web1", &Value::Null, "not_found");
    assert_eq!(beta.ask("GET", "/v1/volumes", &Value::Null)["volumes"], json!([]));
}

/// Goal: D6, DA5, A41: through the cluster, too, one disk is a pool only by a word, a disk that failed is named with the way back, and
/// is taken back; one that works is not. Method: each once, the failing at the target.
#[test]
fn a_disk_that_failed_is_taken_back() {
    let machines = Machines::new();
    let (alpha, _target) = storage_machine(&machines);
    let alone = alpha.ask_refused("POST", "/v1/pools", &pool_of(&alpha, &["d0"]), "bad_request");
    assert!(alone.contains("no mirror"), "{alone}");
    alpha.ask("POST", "/v1/pools", &pool_of(&alpha, &["d0", "d1"]));
    let healthy = |alpha: &Machine| {
        let pool = alpha.ask("GET", "/v1/pools/tank", &Value::Null);
        pool["state"] == "healthy" && pool["resync"].is_null()
    };
    alpha.wait("a resync's end", healthy);
    let d1 = alpha.path("d1");
    let mut ctl = Command::new(env!("CARGO_BIN_EXE_muskox"));
    ctl.args(["ctl", "--socket"]).arg(alpha.path("run/muskox/target.sock")).args(["pool", "fail", "tank"]).arg(&d1);
    assert!(ctl.output().unwrap().status.success());
    let degraded = alpha.ask("GET", "/v1/doctor", &Value::Null).to_string();
    assert!(degraded.contains(d1.to_str().unwrap()) && degraded.contains("muskox pool add"), "{degraded}");
    let working = json!({"disk": alpha.path("d0"), "wipe": false});
    let refused = alpha.ask_refused("POST", "/v1/pools/tank/add", &working, "exists");
    assert!(refused.contains("works in this array"), "{refused}");
    alpha.ask("POST", "/v1/pools/tank/add", &json!({"disk": d1, "wipe": false}));
    alpha.wait("a resync's end", healthy);
}
