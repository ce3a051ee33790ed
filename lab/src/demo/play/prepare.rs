//! What comes before the faults: a cluster, a pool, an image, a VM that works.

use super::super::cluster::{BRIDGE, MEMBERS};
use super::super::evidence::What;
use super::super::watch::Watch;
use super::{ANSWER_MAX, CANARY, GUEST_IP, POOL, Play, ROOT, VM};
use crate::demo::guest::config::{Config, SEED_FILE};
use crate::machine::Role;
use anyhow::Context;
use serde_json::Value;
use std::time::Duration;

const READY_MAX: Duration = Duration::from_secs(60);
/// Under TCG, with room for a page cache.
const MEMORY_MIB: u32 = 256;

impl Play {
    pub(crate) fn found(&mut self) -> anyhow::Result<()> {
        self.cluster.found()?;
        let mut list = Value::Null;
        self.wait(READY_MAX, "all three machines are up", |play| {
            list = play.cluster.get("/v1/nodes").unwrap_or_default();
            let nodes = list["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
            nodes.iter().filter(|node| node["state"] == "up" || node["state"] == "store").count() == MEMBERS.len()
        })?;
        for node in list["nodes"].as_array().into_iter().flatten() {
            let role =
                MEMBERS.into_iter().find(|role| node["name"] == role.name()).context("a stranger is a member")?;
            self.keys.insert(role.name(), node["key"].as_str().unwrap_or_default().to_owned());
        }
        let hosts = self.keys.iter().map(|(name, key)| ((*name).to_owned(), key.clone())).collect();
        let (rounds, sabotage) = (self.rounds, self.sabotage.clone());
        self.writer.event_at(self.begun_us, What::RunBegin { rounds, sabotage, vm: VM.to_owned(), hosts })?;
        Ok(())
    }

    pub(crate) fn pool(&mut self) -> anyhow::Result<()> {
        let disks = self.members.map(|number| self.cluster.disk(number).display().to_string());
        self.cluster.cli(Role::Storage, &["pool", "create", POOL, &disks[0], &disks[1], "--wipe"])?;
        self.cluster.cli(Role::Storage, &["volume", "create", CANARY, "64M", "--wait"])?;
        Ok(())
    }

    pub(crate) fn import(&mut self) -> anyhow::Result<()> {
        let image = self.image.display().to_string();
        self.cluster.cli(Role::Storage, &["image", "import", &image, ROOT])?;
        Ok(())
    }

    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        let config = Config { canary: Some(CANARY.to_owned()), ..Config::of_the_lab() };
        let spec = format!(
            "name = \"{VM}\"\nmemory = \"{MEMORY_MIB} MiB\"\nvcpus = 1\n\n[[disk]]\nvolume = \"{ROOT}\"\n\n\
             [[disk]]\nvolume = \"{CANARY}\"\nserial = \"{CANARY}\"\n\n[[nic]]\nbridge = \"{BRIDGE}\"\n\n\
             [seed]\nhostname = \"{VM}\"\nnetwork_config = \"\"\"\n{}\"\"\"\n\n[[seed.file]]\nname = \"{SEED_FILE}\"\ntext = \"\"\"\n{}\"\"\"\n",
            network_config(),
            config.text()
        );
        let file = self.cluster.root(Role::Storage).join(format!("{VM}.toml"));
        std::fs::write(&file, spec).with_context(|| format!("writing {}", file.display()))?;
        self.cluster.cli(Role::Storage, &["vm", "create", &file.display().to_string()])?;
        let consoles = [Role::Host1, Role::Host2].map(|role| (role.name().to_owned(), self.console(role)));
        self.watch = Some(Watch::start(&self.cluster.site, GUEST_IP, consoles.into(), &self.writer)?);
        let revision = self.feed.revision();
        self.cluster.cli(Role::Storage, &["vm", "start", VM, "--host", self.here.name()])?;
        let here = self.here.name();
        let mut running = None;
        self.wait(READY_MAX, "the store says that it runs", |play| {
            running = play.feed.first_after(revision, |seen| super::runs_at(seen, here));
            running.is_some()
        })?;
        let at_us = running.context("waited for above")?.at_us;
        let epoch = self.feed.object(&format!("/epoch/vm/{VM}")).and_then(|seen| seen.value["epoch"].as_u64());
        let (host, epoch) = (here.to_owned(), epoch.unwrap_or_default());
        self.writer.event_at(at_us, What::Running { host, epoch, fault: None })?;
        self.wait(ANSWER_MAX, "the guest works", |play| play.watch().acked() > 0)
    }
}

/// NoCloud's network configuration, version 2.
fn network_config() -> String {
    format!("version: 2\nethernets:\n  nic0:\n    match:\n      driver: virtio_net\n    addresses: [{GUEST_IP}/24]\n")
}
