//! OD8: what an initiator says of its past.

use super::mirror::pool;
use crate::interop::Guests;
use crate::interop::network::BOX;
use crate::interop::report::Verdict;
use crate::interop::storage::{PORT, Plant};
use crate::ledger::Thing;
use crate::logs;
use anyhow::Context;
use serde_json::Value;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Killed when it is no longer needed.
struct Initiator(Child);

impl Drop for Initiator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// OD8: an initiator that is up again tells nobody of a failure as if it were so now.
pub fn past_failures(plant: &Plant, _: &mut Guests, verdict: &mut Verdict) -> anyhow::Result<()> {
    let (mut storage, _) = pool(plant, "initiator", 16)?;
    let path = |name: &str| format!("{:?}", storage.path(name).display().to_string());
    let config = format!(
        "control = {}\nstate_dir = {}\n[[volume]]\nname = \"web1\"\nepoch = 1\nmode = \"rw\"\nportals = [\"{BOX}:{PORT}\"]\n\
         plaintext = true\nsocket = {}\n",
        path("initiator.sock"),
        path("initiator.state"),
        path("disk.sock")
    );
    let file = storage.path("initiator.toml");
    std::fs::write(&file, config)?;
    let mut command = plant.network.command(&plant.program);
    let log = logs::open(&storage.path("initiator.log"))?;
    command.arg("initiator").arg("--config").arg(&file).stdin(Stdio::null()).process_group(0);
    let child = command.stdout(log.try_clone()?).stderr(log).spawn().context("starting the initiator")?;
    plant.ledger.record_child(child.id())?;
    let _initiator = Initiator(child);
    plant.ledger.record(Thing::File { path: storage.path("disk.sock") })?;
    let socket = storage.path("initiator.sock").display().to_string();
    let ask = |more: &[&str]| {
        let mut command = Command::new(&plant.program);
        crate::image::tool(command.args(["ctl", "--socket", &socket]).args(more).arg("status"))
    };
    let status = || -> Option<Value> {
        let status: Value = serde_json::from_str(&ask(&["--json"]).ok()?).ok()?;
        Some(status["initiator"]["volumes"][0].clone())
    };
    let is = |state: &str| status().is_some_and(|volume| volume["state"] == state);
    storage.until("the initiator is up", || is("up"))?;
    storage.kill()?;
    storage.until("the initiator waits", || is("waiting"))?;
    let waiting = ask(&[])?;
    verdict.says(&waiting, &["waiting"], &[], "the status while the target is away");
    storage.start()?;
    storage.until("the initiator is up again", || is("up"))?;
    let shown = ask(&[])?;
    let line = shown.lines().find(|line| line.contains("web1")).unwrap_or_default();
    let is_past = !line.contains("cannot connect") && !line.contains("refused") || line.contains("last:");
    verdict.expect(is_past, format!("up, without a failure, or with one that is called past: {line}"));
    storage.end().map(drop)
}
