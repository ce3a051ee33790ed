//! A machine's regular call: what it says is remembered, and it is told how things should be there.

use super::Desk;
use super::view::View;
use super::witnesses;
use crate::past::ToKeep;
use crate::peer::{Assignment, HostReport, Synced, WitnessAt};
use crate::registry::{self, Record};
use crate::store::failed;
use api::{NodeList, Problem};
use cluster::job::{self, PREFIX, Task};
use cluster::lease::Voter;
use cluster::store::{Engine, Revision};
use host::runtime::now;
use std::collections::BTreeSet;
use std::rc::Rc;
use units::{HostKey, VmName};

impl Desk {
    /// Answers a machine's regular call.
    ///
    /// # Errors
    /// The store's.
    pub async fn synced(
        self: &Rc<Self>,
        from: &Record,
        report: HostReport,
        members: NodeList,
    ) -> Result<Synced, Problem> {
        let said: BTreeSet<VmName> = report.guests.iter().map(|tell| tell.vm.clone()).collect();
        let heard: Vec<(VmName, Revision)> = report.guests.iter().map(|tell| (tell.vm.clone(), tell.at)).collect();
        self.target_lives(from, report.target_up);
        self.paused.borrow_mut().retain(|(vm, host), _| *host != from.key || said.contains(vm));
        self.held.borrow_mut().retain(|(vm, host, _), _| *host != from.key || said.contains(vm));
        let news = self.hosts.borrow_mut().reported(from.key, report, now());
        for tell in &news {
            self.note_pause(from.key, tell);
            self.note_held(from.key, tell);
        }
        let knows = self.hosts.borrow().witnesses();
        let views = self.views.clone();
        let read = move |engine: &mut dyn Engine| {
            let view = views.whole(engine)?;
            let (sets, new) = witnesses::move_on(engine, &view.members, &knows)?;
            let unknown = unknown(engine, &view, heard)?;
            Ok((view, sets, new, registry::settings(engine)?, unknown))
        };
        let (view, sets, new, settings, mut unknown) = self.store.ask(read).await?;
        if new {
            // What was found by other witnesses is asked again.
            self.verdicts.borrow_mut().clear();
        }
        let mut assignments = assignments(&view, from.key, &said);
        // A store that was brought back may give a guest to somebody else than who has it: nobody ends it for that.
        assignments.retain(|it| !self.seems_behind(&view, &it.vm));
        unknown.retain(|vm| self.working(vm).is_none());
        let (witnesses, timing) = (told(&view.members, sets.last().map_or(&[][..], Vec::as_slice)), settings.lease);
        let keep = ToKeep::default();
        Ok(Synced { members, assignments, witnesses, timing, at: view.at, unknown, keep })
    }
}

/// The VMs that concern a host. One that the store does not know is left as it is: a store that was brought back from a
/// backup may have forgotten it, and destroying is for good. So is one that cannot be read.
fn assignments(view: &View, host: HostKey, said: &BTreeSet<VmName>) -> Vec<Assignment> {
    let concerns = |vm: &&VmName| {
        let suspect = view.owned.get(*vm).is_some_and(|(owned, _)| owned.suspects().contains(&host));
        suspect || said.contains(*vm)
    };
    let readable = |vm: &&VmName| view.check_readable(vm).is_ok();
    let assigned =
        view.vms.keys().filter(concerns).filter(readable).filter_map(|vm| match assignment(view, host, vm) {
            Ok(assignment) => Some(assignment),
            Err(problem) => {
                tracing::warn!("VM '{vm}' cannot be told of: {problem}; hint: {}", problem.hint);
                None
            }
        });
    assigned.collect()
}

fn assignment(view: &View, host: HostKey, vm: &VmName) -> Result<Assignment, Problem> {
    let (object, owned) = (view.vm(vm)?, view.ownership(vm)?);
    Ok(Assignment {
        vm: vm.clone(),
        owner: owned.owner == Some(host),
        epoch: owned.epoch,
        at: view.changed(vm),
        job: owned.job.is_some(),
        running: object.wished(),
        patience_ms: object.patience_ms.unwrap_or(object.as_started()?.0.shutdown_ms),
    })
}

/// Of what a host has heard of, the VMs that are deleted: the store has nothing of them, and has seen every revision that
/// the host heard of them.
fn unknown(engine: &mut dyn Engine, view: &View, heard: Vec<(VmName, Revision)>) -> Result<Vec<VmName>, Problem> {
    let unread = view.unreadable_vms();
    let there = |vm: &VmName| view.vms.contains_key(vm) || view.owned.contains_key(vm) || unread.contains(vm);
    let gone = heard.into_iter().filter(|(vm, at)| *at <= view.at && !there(vm));
    let mut gone: BTreeSet<VmName> = gone.map(|(vm, _)| vm).collect();
    if gone.is_empty() {
        return Ok(Vec::new());
    }
    for entry in engine.range(PREFIX).map_err(|error| failed(&error))?.entries {
        match job::Record::<Task>::read(&entry.value) {
            Ok(record) if record.outcome.is_some() => {}
            Ok(record) => drop(gone.remove(&record.owned.vm)),
            // It may be of any of them.
            Err(_) => return Ok(Vec::new()),
        }
    }
    Ok(gone.into_iter().collect())
}

/// Everybody has a vote, as soon as all can know it.
pub fn told(members: &[Record], newest: &[HostKey]) -> Vec<WitnessAt> {
    let at = |record: &Record| {
        let Voter { key, name, portals } = record.voter();
        WitnessAt { key, name, portals }
    };
    members.iter().filter(|record| newest.contains(&record.key)).map(at).collect()
}
