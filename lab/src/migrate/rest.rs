//! When everything is as it should be again.

use super::Moves;
use super::fault::{Deed, Fault};
use super::prey::Prey;
use crate::demo::cluster::MEMBERS;
use crate::demo::play::VM;
use crate::machine::Role;
use std::time::{Duration, Instant};

/// A round is to be at rest so soon after its fault.
const REST_MAX: Duration = Duration::from_secs(60);
/// A QEMU that dies again and again is restarted more and more slowly: this is the longest wait
/// (docs/rfd/0009-migration.md).
const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// New receipts that prove work.
const WORKS: u64 = 20;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Moves {
    /// Waits until everything is at rest, and takes note of where the guest is.
    ///
    /// # Errors
    /// What is not as it should be.
    pub(super) fn rest(&mut self, fault: &Fault) -> anyhow::Result<()> {
        let kills_guests = matches!(fault.kind.deed(Role::Host1, Role::Host2), Deed::Qemu(_));
        self.come_to_rest(if kills_guests { REST_MAX + BACK_OFF_MAX } else { REST_MAX })
    }

    /// The same, within a time.
    pub(super) fn come_to_rest(&mut self, patience: Duration) -> anyhow::Result<()> {
        let (begun, acked) = (Instant::now(), self.play.watch().acked());
        loop {
            self.play.cluster.check_lives()?;
            match self.unrest(acked) {
                Ok(host) => {
                    (self.play.here, self.play.there) = (host, Self::other(host));
                    return Ok(());
                }
                Err(why) => anyhow::ensure!(begun.elapsed() < patience, "after {} s {why}", patience.as_secs()),
            }
            self.nap(LOOK_AGAIN)?;
        }
    }

    /// Where the guest runs; else what is not as it should be.
    fn unrest(&self, acked: u64) -> Result<Role, String> {
        let asked = |path: &str| self.play.cluster.get(path).map_err(|error| format!("{error:#}"));
        let vm = asked(&format!("/v1/vms/{VM}"))?;
        let text = |name: &str| vm["vm"][name].as_str().unwrap_or("nobody").to_owned();
        if !vm["vm"]["job"].is_null() {
            return Err(format!("job {} works on it", text("job")));
        }
        let host = [Role::Host1, Role::Host2].into_iter().find(|role| role.name() == text("host"));
        let Some(host) = host else { return Err(format!("its host is {}", text("host"))) };
        if text("state") != "running" {
            return Err(format!("it is {} at {}", text("state"), host.name()));
        }
        let owned = self.play.feed.object(&format!("/epoch/vm/{VM}")).ok_or("the store does not know it")?;
        if owned.value["owner"] != self.play.key_of(host) {
            return Err(format!("the store names {} as its owner, the API {}", owned.value["owner"], host.name()));
        }
        let other = Self::other(host);
        if Prey::noted(&self.qemu(other)).is_some() {
            return Err(format!("{} has a QEMU of it too", other.name()));
        }
        match &self.play.watch().moving()[..] {
            [one] if one.host == host.name() => {}
            moving => {
                let seen: Vec<String> = moving.iter().map(|it| format!("{} at {}", it.boot, it.host)).collect();
                return Err(format!("beacons come from [{}], and it is at {}", seen.join(", "), host.name()));
            }
        }
        let new = self.play.watch().acked() - acked;
        if new < WORKS {
            return Err(format!("it wrote {new} records"));
        }
        self.members_are_up(&asked("/v1/nodes")?)?;
        Ok(host)
    }

    fn members_are_up(&self, list: &serde_json::Value) -> Result<(), String> {
        let nodes = list["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
        for role in MEMBERS {
            let own = nodes.iter().find(|node| node["name"] == role.name());
            let is_up = own.is_some_and(|node| {
                node["state"] == "store" || node["heard_ms"].as_u64().is_some_and(|ago| ago < 2_500)
            });
            if !is_up {
                return Err(format!("{} has not called", role.name()));
            }
        }
        Ok(())
    }
}
