//! A machine's regular call: what it says is remembered, and it is told how things should be there.

use super::Desk;
use super::view::View;
use super::witnesses::{self, Sets};
use crate::peer::{Assignment, HostReport, Synced, WitnessAt};
use crate::registry::{self, Record};
use api::{NodeList, Problem};
use host::runtime::now;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use units::{HostKey, VmName};

/// Where dead-men listen: beside the nodes' 10811.
const DEADMAN_PORT: u16 = 10812;

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
        self.target_lives(from, report.target_up);
        self.paused.borrow_mut().retain(|(vm, host), _| *host != from.key || said.contains(vm));
        report.guests.iter().for_each(|tell| self.note_pause(from.key, tell));
        self.hosts.borrow_mut().reported(from.key, report, now());
        let knows = self.hosts.borrow().witnesses();
        let read = move |engine: &mut dyn cluster::store::Engine| {
            let view = View::whole(engine)?;
            let (sets, new) = witnesses::move_on(engine, &view.members, &knows)?;
            Ok((view, sets, new, registry::settings(engine)?))
        };
        let (view, sets, new, settings) = self.store.ask(read).await?;
        if new {
            // What was found by other witnesses is asked again.
            self.verdicts.borrow_mut().clear();
        }
        let mut assignments = assignments(&view, from.key, &said);
        // A store that was brought back may give a guest to somebody else than who has it: nobody ends it for that.
        assignments.retain(|it| !self.seems_behind(&view, &it.brief.vm));
        Ok(Synced { members, assignments, witnesses: told(&view, &sets), timing: settings.lease })
    }
}

/// The VMs that concern a host. One that the store does not know is left as it is: a store that was brought back from a
/// backup may have forgotten it, and destroying is for good.
fn assignments(view: &View, host: HostKey, said: &BTreeSet<VmName>) -> Vec<Assignment> {
    let concerns = |vm: &&VmName| {
        let suspect = view.owned.get(*vm).is_some_and(|(owned, _)| owned.suspects().contains(&host));
        suspect || said.contains(*vm)
    };
    let assigned = view.vms.keys().filter(concerns).filter_map(|vm| match assignment(view, host, vm) {
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
    let changed = |revision: Option<cluster::store::Revision>| revision.unwrap_or_default();
    let at = changed(view.vms.get(vm).map(|it| it.1)).max(changed(view.owned.get(vm).map(|it| it.1)));
    let brief = view.brief(vm)?;
    Ok(Assignment {
        owner: owned.owner == Some(host),
        epoch: owned.epoch,
        at,
        job: owned.job.is_some(),
        running: object.wished(),
        patience_ms: brief.patience_ms,
        brief,
    })
}

/// Everybody has a vote, as soon as all can know it.
fn told(view: &View, sets: &Sets) -> Vec<WitnessAt> {
    let newest = sets.last().map_or(&[][..], Vec::as_slice);
    let at = |record: &Record| {
        let mut ips = record.storage_ips();
        if !ips.contains(&record.address.ip()) {
            ips.push(record.address.ip());
        }
        let portals = ips.into_iter().map(|ip| SocketAddr::new(ip, DEADMAN_PORT)).collect();
        WitnessAt { key: record.key, name: record.name.clone(), portals }
    };
    view.members.iter().filter(|record| newest.contains(&record.key)).map(at).collect()
}
