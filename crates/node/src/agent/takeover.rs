//! What is done about VMs that are unknown here ([`super::unknown`]): they are looked for, told, taken over or ended.

use super::guest::end_processes;
use super::memory::Memory;
use super::unknown::{Unknown, hint, survey};
use super::{Agent, LOOK_EVERY, MachineState, initiator, network};
use crate::peer::{Act, Acted, Adopt, Tell};
use crate::service::Node;
use api::{Code, Problem};
use cluster::job::{Action, Guest as State};
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::rc::Rc;
use units::VmName;

/// Looks every second for VMs that may be here and are not known: a disk that could not be read may be readable again.
pub async fn look_for_unknown(node: Rc<Node>) {
    loop {
        node.agent.survey();
        node.agent.put_to_work();
        node.agent.tend_unknown().await;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Agent {
    /// Looks at this machine's files and processes for VMs that are not known.
    pub(super) fn survey(&self) {
        let known: BTreeSet<VmName> = self.guests.borrow().keys().cloned().collect();
        let survey = survey(&self.shared.place, &known);
        let mut unknown = self.unknown.borrow_mut();
        // Without a list nobody has gone.
        let listed = survey.unlisted.is_none();
        unknown.retain(|vm, it| {
            let stays = survey.unknown.contains_key(vm) || !listed;
            if !stays {
                it.let_go();
            }
            stays
        });
        for (vm, found) in survey.unknown {
            match unknown.get_mut(&vm) {
                Some(known) => known.found(found),
                None => drop(unknown.insert(vm.clone(), Unknown::new(&vm, found))),
            }
        }
        drop(unknown);
        {
            let mut state = self.state.borrow_mut();
            (state.unlisted, state.strangers) = (survey.unlisted, survey.complaints);
        }
        for memory in survey.readable {
            tracing::info!(vm = %memory.brief.vm, "what was kept of it is read");
            drop(self.add(memory));
        }
    }

    /// Keeps the initiators of VMs that are unknown, and asks at which epoch they are.
    async fn tend_unknown(&self) {
        let place = &self.shared.place;
        for (vm, unknown) in self.unknown.borrow_mut().iter_mut() {
            unknown.keep_initiator(place, &self.shared.tasks, vm);
        }
        let vms: Vec<VmName> = self.unknown.borrow().keys().cloned().collect();
        let epochs = join_all(vms.iter().map(|vm| initiator::epoch(place, vm))).await;
        for (vm, epoch) in vms.iter().zip(epochs) {
            if let Some(unknown) = self.unknown.borrow_mut().get_mut(vm) {
                unknown.attached(epoch);
            }
        }
    }

    /// How the VMs are that are unknown.
    pub(super) fn tell_unknown(&self) -> Vec<Tell> {
        let sequences = &self.shared.sequences;
        self.unknown.borrow().iter().map(|(vm, unknown)| unknown.tell(vm, sequences.next())).collect()
    }

    /// What cannot be read here, each with what to do.
    pub(super) fn unreadable(&self, state: &MachineState) -> Vec<(String, String)> {
        let unknown = self.unknown.borrow();
        let vms = unknown.iter().map(|(vm, it)| (format!("VM '{vm}' is not known here: {}", it.why()), hint(vm)));
        let unlisted = state.unlisted.iter().map(|text| {
            let hint = "see to that file system; no VM is taken to be absent here before it can be listed".to_owned();
            (text.clone(), hint)
        });
        let strangers = state.strangers.iter().map(|text| (text.clone(), "move it away".to_owned()));
        vms.chain(unlisted).chain(strangers).collect()
    }

    /// An order about a VM that is unknown is refused. But that nothing runs is said to whoever wants it ended.
    pub(super) fn act_on_unknown(&self, act: &Act) -> Option<Acted> {
        let unknown = self.unknown.borrow();
        let vm = &act.brief.vm;
        let sequence = || self.shared.sequences.next();
        let Some(it) = unknown.get(vm) else {
            let why = self.state.borrow().unlisted.clone()?;
            let text = format!("what is kept of VM '{vm}' cannot be looked for: {why}");
            let told = Unknown::new(vm, (text.clone(), false)).tell(vm, sequence());
            return Some(Acted { admitted: false, why: Some(text), told });
        };
        let told = it.tell(vm, sequence());
        if matches!(act.action, Action::Destroy { .. }) && it.nothing_runs() {
            let told = Tell { guest: State::Absent, at: act.order.at, epoch: None, ..told };
            return Some(Acted { admitted: true, why: None, told });
        }
        let why = format!("VM '{vm}' is not known here: {}; {}", it.why(), hint(vm));
        Some(Acted { admitted: false, why: Some(why), told })
    }

    /// Takes a VM over that is unknown here, as it runs. One that is known is left as it is.
    ///
    /// # Errors
    /// [`Code::Files`]: what is kept of it cannot be replaced; nothing was done.
    pub fn adopt(&self, adopt: &Adopt) -> Result<(), Problem> {
        let (place, vm) = (&self.shared.place, &adopt.brief.vm);
        let mut unknown = self.unknown.borrow_mut();
        let Some(it) = unknown.get_mut(vm) else { return Ok(()) };
        let epoch = it.epoch().unwrap_or(adopt.epoch);
        let memory = Memory::adopted(adopt.brief.clone(), adopt.at, epoch);
        Memory::set_aside(place, vm)?;
        memory.save(place)?;
        it.let_go();
        unknown.remove(vm);
        drop(unknown);
        tracing::info!(%vm, "it is taken over as it is, by a person's word");
        drop(self.add(memory));
        self.put_to_work();
        Ok(())
    }

    /// Ends whatever runs of a VM that is unknown here, and forgets what is kept of it. Nothing is ended but what is certainly
    /// its: by pid, start time and boot.
    ///
    /// # Errors
    /// [`Code::NotPossible`]: it is known here, or something of it cannot be ended; then it stays unknown.
    pub async fn forget_unknown(&self, vm: &VmName) -> Result<(), Problem> {
        let refused = |text: String, hint: &str| Problem::new(Code::NotPossible, text, hint);
        if self.guests.borrow().contains_key(vm) {
            let text = format!("VM '{vm}' is known on '{}'", self.shared.place.name);
            return Err(refused(text, "stop it with `muskox vm stop`, or remove it with `muskox vm remove`"));
        }
        match self.unknown.borrow_mut().get_mut(vm) {
            Some(unknown) => unknown.set_ending(true),
            // Somebody asked twice.
            None => return Ok(()),
        }
        let place = &self.shared.place;
        let ended = async {
            end_processes(place, vm).await?;
            network::unplug_all(place, vm)?;
            Memory::remove(place, vm).map_err(|problem| problem.to_string())
        };
        let ended: Result<(), String> = ended.await;
        let stays = |why: String| {
            let text = format!("VM '{vm}' cannot be forgotten on '{}': {why}", place.name);
            refused(text, "nothing is taken to be gone; see what runs there, and ask again")
        };
        if let Err(why) = ended {
            self.unknown.borrow_mut().get_mut(vm).into_iter().for_each(|unknown| unknown.set_ending(false));
            return Err(stays(why));
        }
        self.unknown.borrow_mut().remove(vm);
        tracing::info!(%vm, "what ran of it is ended, and what was kept of it forgotten, by a person's word");
        Ok(())
    }
}
