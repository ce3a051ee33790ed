//! Pools and volumes through the cluster's API: real nodes, real targets, files as disks.

use crate::support::{Machine, Machines, PATIENCE};
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

/// A storage machine's target: a process beside its node.
pub struct Target {
    config: std::path::PathBuf,
    process: Option<Child>,
}

/// A cluster of one storage machine that has two disks of 96 MiB and a target.
pub fn storage_machine(machines: &Machines) -> (Machine, Target) {
    let alpha = machines.first(&["--portals", &portal()]);
    alpha.wait("up", |alpha| alpha.listed("alpha")["portals"][0].is_string());
    for disk in ["d0", "d1", "d2"] {
        std::fs::File::create(alpha.path(disk)).unwrap().set_len(96 << 20).unwrap();
    }
    let mut target = Target::beside(&alpha);
    target.start();
    (alpha, target)
}

/// An address of the loopback of this test's own: the NBD port is the same everywhere.
fn portal() -> String {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [_, _, middle, low] = std::process::id().to_be_bytes();
    format!("127.{}.{middle}.{low}", 128 + COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Target {
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
        let config = machine.path("target.toml");
        std::fs::write(&config, text).unwrap();
        Self { config, process: None }
    }

    pub fn start(&mut self) {
        let log = std::fs::File::create(self.config.with_extension("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_muskox"));
        command.args(["target", "--config"]).arg(&self.config).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().unwrap());
        let begun = Instant::now();
        while !std::fs::read_to_string(self.config.with_extension("log")).unwrap().contains("ready") {
            assert!(begun.elapsed() < PATIENCE, "no target");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.kill();
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
/// machines, every call, the target killed and started.
#[test]
fn pools_and_volumes_come_and_go() {
    let machines = Machines::new();
    let (alpha, mut target) = storage_machine(&machines);
    let mut beta = machines.machine("beta");
    let token = alpha.token();
    let words = [&beta.join_words(&token)[..], &["--roles", "host"]].concat();
    beta.node("join", &words);
    beta.start();

    let volume = volume_of("web1", 8);
    alpha.ask_refused("POST", "/v1/volumes", &volume, "not_possible");
    let missing = alpha.ask_refused("POST", "/v1/pools", &pool_of(&alpha, &["d0", "nothing"]), "failed");
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

    target.kill();
    let silent = beta.ask("GET", "/v1/volumes", &Value::Null);
    assert_eq!(silent["volumes"][0]["state"], "unknown", "{silent}");
    assert_eq!(beta.ask("GET", "/v1/pools", &Value::Null)["pools"][0]["state"], "unknown");
    alpha.ask_refused("POST", "/v1/volumes", &volume_of("web2", 8), "failed");
    target.start();
    wait_until_served(&beta, "web1");

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
