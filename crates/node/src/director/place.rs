//! Where a guest can go, and whether it may: what is in the way, host by host.
//!
//! Only hosts that have called lately are thought of. Memory that was given away but is not used yet counts as used.

use super::Desk;
use super::hosts::Hosts;
use super::view::View;
use crate::peer::HostReport;
use crate::registry::Record;
use crate::vms::spec::Spec;
use api::{Problem, Role};
use cluster::ha::{self, Candidate, Capacity, Load, NoRoom};
use cluster::job::Guest;
use cluster::lease::WITNESSES_MIN;
use cluster::migrate::{Processor, Side};
use host::runtime::now;
use std::collections::BTreeSet;
use std::time::Duration;
use units::{ByteLen, HostKey, Millis, Moment, NodeName, VmName};

/// How long a start or a move waits for a host whose dead-man lets no guest run yet.
const LEAVE_MAX: Millis = Millis(6_000);
/// Between two looks meanwhile.
const LEAVE_PAUSE: Duration = Duration::from_millis(100);

/// A host, and what is in the way of a VM there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Its name.
    pub name: NodeName,
    /// As the deciding code sees it.
    pub candidate: Candidate,
    /// Reasons against it besides memory, for people.
    pub objections: Vec<String>,
    /// Processors there, if it answers.
    pub cpus: Option<u32>,
}

impl Fit {
    /// Objects to a host that has fewer processors than the VM has virtual ones: it would run slowly there, and stall.
    pub fn want_cpus(&mut self, vcpus: u32) {
        if let Some(cpus) = self.cpus.filter(|cpus| *cpus < vcpus) {
            self.candidate.ready = false;
            let name = &self.name;
            self.objections
                .push(format!("'{name}' has {cpus} processors for the VM's {vcpus} (--overcommit starts it)"));
        }
    }
}

impl Desk {
    /// All hosts, those with the most free memory first.
    #[must_use]
    pub fn fits(&self, view: &View, spec: &Spec) -> Vec<Fit> {
        let (hosts, at) = (self.hosts.borrow(), now());
        let machines = view.members.iter().filter(|record| record.roles.contains(&Role::Host));
        let mut fits: Vec<Fit> =
            machines.map(|record| fit(view, &hosts, spec, (record.key, &record.name), at)).collect();
        for fit in &mut fits {
            if let Some(left) = self.voted_dead(fit.candidate.host) {
                fit.candidate.ready = false;
                fit.objections.push(still_bound(&fit.name, left));
            }
        }
        fits.sort_by_key(|fit| (std::cmp::Reverse(fit.candidate.free), fit.name.clone()));
        fits
    }

    /// Why a host would let no guest run that was started there now, as far as it has said lately.
    #[must_use]
    pub fn lets_none_start(&self, name: &NodeName, host: HostKey) -> Option<String> {
        lets_none_start(name, self.hosts.borrow().fresh(host, now())?)
    }

    /// Waits a moment for a host that lets guests start: this one, or any. Dead-men that have just begun, as those of a new cluster, find
    /// each other within seconds; who asked for a start need not be refused for that.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn await_leave(&self, host: Option<&NodeName>) -> Result<(), Problem> {
        let begun = now();
        while now().since(begun) < LEAVE_MAX {
            let view = self.view().await?;
            let wanted =
                |record: &&Record| record.roles.contains(&Role::Host) && host.is_none_or(|host| *host == record.name);
            let mut hosts = view.members.iter().filter(wanted).peekable();
            let withheld = |record: &Record| self.lets_none_start(&record.name, record.key).is_some();
            if hosts.peek().is_none() || !hosts.all(withheld) {
                break;
            }
            tokio::time::sleep(LEAVE_PAUSE).await;
        }
        Ok(())
    }

    /// For how long votes against a host bind the witnesses, also after it is back: until then it gets no lease, so a guest
    /// there would stand still.
    #[must_use]
    pub fn voted_dead(&self, host: HostKey) -> Option<Millis> {
        let known = self.verdicts.borrow().get(&host).copied();
        known.map(|known| known.until.since(now())).filter(|left| left.0 > 0)
    }
}

/// Why a host would let no guest run that was started there now.
fn lets_none_start(name: &NodeName, report: &HostReport) -> Option<String> {
    report.withheld.as_ref().map(|why| format!("'{name}' lets no guest start now: {why}"))
}

/// Why a host that is back gets no guest yet.
#[must_use]
pub fn still_bound(name: &NodeName, left: Millis) -> String {
    format!("'{name}' was voted dead; the votes bind for {left} more, so a guest could not run there yet")
}

fn fit(view: &View, hosts: &Hosts, spec: &Spec, (host, name): (HostKey, &NodeName), now: Moment) -> Fit {
    let draining = false;
    let Some(report) = hosts.fresh(host, now) else {
        let (ready, reaches_volumes, free) = (false, false, ByteLen(0));
        let candidate = Candidate { host, ready, reaches_volumes, free, draining };
        let objections = vec![format!("'{name}' does not answer")];
        return Fit { name: name.clone(), candidate, objections, cpus: None };
    };
    let mut objections = Vec::new();
    if spec.hosts.as_ref().is_some_and(|hosts| !hosts.contains(name)) {
        objections.push(format!("the description does not allow '{name}'"));
    }
    if report.qemu.is_none() {
        objections.push(format!("'{name}' has no QEMU"));
    }
    if let Some(missing) = &report.lacks_machine {
        objections.push(format!("the QEMU of '{name}' does not offer the machine type {missing}"));
    }
    if !report.deadman && view.members.len() >= WITNESSES_MIN {
        objections.push(format!("the dead-man of '{name}' does not answer"));
    }
    objections.extend(lets_none_start(name, report));
    let bridges = missing_bridges(spec, report).into_iter();
    objections.extend(bridges.map(|(bridge, why)| format!("'{name}' cannot give the VM its bridge '{bridge}': {why}")));
    let ready = objections.is_empty();
    let unreachable = unreachable_volumes(view, hosts, spec, now);
    let reaches_volumes = unreachable.is_empty();
    objections.extend(unreachable.into_iter().map(|volume| format!("the target of volume '{volume}' does not answer")));
    let free = ByteLen(report.free.0.saturating_sub(promised(view, hosts, &spec.name, host, now)));
    let candidate = Candidate { host, ready, reaches_volumes, free, draining };
    Fit { name: name.clone(), candidate, objections, cpus: Some(report.cpus) }
}

/// Memory of guests that are on their way to this host.
fn promised(view: &View, hosts: &Hosts, except: &VmName, host: HostKey, now: Moment) -> u64 {
    let coming = view.vms.values().filter(|(vm, _)| vm.wished() && vm.name != *except).filter(|(vm, _)| {
        let owner = view.owned.get(&vm.name).and_then(|(owned, _)| owned.owner);
        owner == Some(host) && hosts.guest(&vm.name, host, now) == Some(Guest::Absent)
    });
    coming.filter_map(|(vm, _)| vm.spec().ok()).map(|spec| memory(&spec).0).sum()
}

/// The memory that a host needs for a VM, QEMU's own share with it.
#[must_use]
pub fn memory(spec: &Spec) -> ByteLen {
    ha::cost(ByteLen::mib(u64::from(spec.memory_mib)), spec.vcpus)
}

/// Bridges of a VM that lead nowhere on a host, each with why.
fn missing_bridges(spec: &Spec, report: &HostReport) -> Vec<(String, String)> {
    let wanted: BTreeSet<&String> = spec.nics.iter().map(|nic| &nic.bridge).collect();
    let missing = wanted.into_iter().filter(|bridge| !report.bridges.contains(bridge));
    let why = |bridge: &String| {
        let known = report.bridges_out.iter().find(|(name, _)| name == bridge);
        known.map_or_else(|| "there is none".to_owned(), |(_, why)| why.clone())
    };
    missing.map(|bridge| (bridge.clone(), why(bridge))).collect()
}

/// Volumes whose machine has not called lately: hosts reach targets over the same networks.
fn unreachable_volumes(view: &View, hosts: &Hosts, spec: &Spec, now: Moment) -> Vec<String> {
    let unreachable = |disk: &&crate::vms::spec::Disk| {
        view.target(&disk.volume).map_or(true, |target| hosts.fresh(target.key, now).is_none())
    };
    spec.disks.iter().filter(unreachable).map(|disk| disk.volume.to_string()).collect()
}

/// Whether a VM may start on a host, so that afterwards any one host could still be lost. A cluster with one host has
/// nothing to lose: there only the memory counts.
///
/// # Errors
/// [`NoRoom`].
pub fn admitted(view: &View, hosts: &Hosts, spec: &Spec, host: HostKey, now: Moment) -> Result<(), NoRoom> {
    let loads: Vec<Load> = view
        .vms
        .values()
        .filter(|(vm, _)| vm.wished() && vm.name != spec.name)
        .filter_map(|(vm, _)| {
            let host = view.owned.get(&vm.name)?.0.owner?;
            Some(Load { vm: vm.name.clone(), memory: memory(&vm.as_started().ok()?.0), host })
        })
        .collect();
    let machines = view.members.iter().filter(|record| record.roles.contains(&Role::Host));
    let capacities: Vec<Capacity> = machines
        .filter_map(|record| {
            let report = hosts.fresh(record.key, now)?;
            let here =
                |load: &&Load| load.host == record.key && hosts.guest(&load.vm, record.key, now) != Some(Guest::Absent);
            let guests: u64 = loads.iter().filter(here).map(|load| load.memory.0).sum();
            let memory = ByteLen(report.memory.0.min(report.free.0 + guests));
            Some(Capacity { host: record.key, memory })
        })
        .collect();
    let new = Load { vm: spec.name.clone(), memory: memory(spec), host };
    match ha::admit(&capacities, &loads, &new) {
        Err(NoRoom::AfterLosing { .. }) if capacities.len() == 1 => Ok(()),
        admitted => admitted,
    }
}

/// Models that are all that there is on a host. Source: QEMU's manual, "QEMU / KVM CPU model configuration".
const ALL_THERE_IS: [&str; 2] = ["max", "host"];

/// What a guest of a VM sees of a host's processor.
fn processor(look: &HostReport, spec: &Spec) -> Option<Processor> {
    let there = look.processor.as_ref()?;
    let model = spec.cpu.as_deref().filter(|model| !ALL_THERE_IS.contains(model));
    Some(Processor {
        accelerator: look.accelerator.clone(),
        vendor: there.vendor.clone(),
        flags: there.flags.clone(),
        model_lacks: model.map(|model| there.lacking.get(model).cloned().unwrap_or_default()),
    })
}

/// The machine type or CPU model of a VM that a host's QEMU does not offer.
fn lacks(look: &HostReport, spec: &Spec) -> Option<String> {
    let machine = look.lacks_machine.as_ref().map(|name| format!("the machine type {name}"));
    let model = spec.cpu.as_ref().zip(look.processor.as_ref());
    let model = model.filter(|(model, there)| !there.lacking.contains_key(*model));
    machine.or_else(|| model.map(|(model, _)| format!("the CPU model '{model}'")))
}

/// One side of a migration, as pre-flight sees it; `look`: what it said when it was asked just now.
#[must_use]
pub fn side(view: &View, hosts: &Hosts, spec: &Spec, (fit, look): (&Fit, Option<&HostReport>), now: Moment) -> Side {
    let report = hosts.fresh(fit.candidate.host, now);
    let processor = look.and_then(|look| processor(look, spec));
    Side {
        host: fit.candidate.host,
        name: fit.name.to_string(),
        answers: report.is_some(),
        qemu: report.and_then(|report| report.qemu),
        lacks: look.and_then(|look| lacks(look, spec)),
        processor,
        free: fit.candidate.free,
        missing_bridges: report.map(|report| missing_bridges(spec, report)).unwrap_or_default(),
        unreachable_volumes: unreachable_volumes(view, hosts, spec, now),
        draining: fit.candidate.draining,
    }
}
