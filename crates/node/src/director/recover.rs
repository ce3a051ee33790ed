//! What is begun without being asked for: a dead host's VMs elsewhere, a dead QEMU's VM in place, everything after a cold
//! start, a lost VM again.
//!
//! Invariant: a host that is merely silent loses nothing. A VM is taken from a host by votes; it is started again in place
//! only after its host, asked just now, said that it has none.

use super::facts::words;
use super::place::{Fit, memory};
use super::{Desk, POWER, View};
use crate::peer::{Ask, Reply, Tell};
use crate::store::failed;
use crate::vms::object::{Vm, Wish};
use api::Problem;
use cluster::ha::{self, Autostart, BACK_OFF_MS, Decision, Recovery, Verdict};
use cluster::job::{Guest, Outcome, Ownership, Record, Task};
use cluster::store::{Compare, Engine, Entry, Revision, Txn};
use cluster::why::Happened;
use futures_util::future::join_all;
use host::runtime::now;
use std::rc::Rc;
use std::time::Duration;
use units::{Epoch, HostKey, Millis, VmName};

/// Between two looks at who is silent.
const WATCH_EVERY: Duration = Duration::from_millis(100);
/// Between two looks at who should run and does not.
const TEND_EVERY: Duration = Duration::from_millis(500);
/// Between two questions about the same silence: votes bind for seconds.
const ASK_EVERY: Millis = Millis(250);
/// A host that called just now answers soon; meanwhile the other VMs wait.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// After a restart of this node hosts call within a second; until this, who was not heard is not judged.
pub const SETTLE: Millis = Millis(3_000);
/// A node that has not called for so long is spoken of: dead hosts are voted dead before.
const SILENT: Millis = Millis(10_000);
/// A VM that others wait for counts as up after it has run so long.
const BOOT: Millis = Millis(3_000);
/// After a cold start nobody waits longer than this for machines that do not come.
const COLD_MAX: Millis = Millis(180_000);
/// A recovery is never undone by time: its plan does not ask.
pub const DEADLINE: Millis = Millis(600_000);

/// Looks for dead hosts, for ever.
pub async fn watch(desk: &Rc<Desk>) {
    let mut asked = now();
    loop {
        tokio::time::sleep(WATCH_EVERY).await;
        if now().since(asked) < ASK_EVERY {
            continue;
        }
        match desk.bury_the_dead().await {
            Ok(true) => asked = now(),
            Ok(false) => {}
            Err(problem) => {
                tracing::debug!("nobody is declared dead: {problem}");
                asked = now();
            }
        }
    }
}

/// Looks for VMs that should run and do not, for ever.
pub async fn tend(desk: &Rc<Desk>) {
    loop {
        tokio::time::sleep(TEND_EVERY).await;
        if let Err(problem) = desk.tend().await {
            tracing::warn!("VMs are not looked after: {problem}; hint: {}", problem.hint);
        }
    }
}

impl Desk {
    /// Asks about every host that is silent for as long as it takes to be dead, and recovers the VMs of those that are.
    /// Whether anybody was asked about.
    ///
    /// # Errors
    /// The dead-man or the store does not answer.
    pub async fn bury_the_dead(self: &Rc<Self>) -> Result<bool, Problem> {
        let silence = self.silence().await?;
        if silence.iter().all(|(_, silent)| silent.0 == 0) {
            return Ok(false);
        }
        let detect = self.store.ask(crate::registry::settings).await?.lease.detect_ms;
        let suspects: Vec<_> =
            silence.into_iter().filter(|(host, silent)| *host != self.me && *silent >= detect).collect();
        for (host, silent) in &suspects {
            let verdict = self.verdict(*host).await?;
            if matches!(verdict, Verdict::Dead { .. }) {
                self.bury(*host, verdict, *silent).await?;
            }
        }
        Ok(!suspects.is_empty())
    }

    async fn bury(self: &Rc<Self>, host: HostKey, verdict: Verdict, silent_ms: Millis) -> Result<(), Problem> {
        let _placing = self.placing.lock().await;
        let owned_there = |view: &View| -> Vec<VmName> {
            let owned = view.owned.values().filter(|(owned, _)| owned.owner == Some(host) && owned.job.is_none());
            owned.map(|(owned, _)| owned.vm.clone()).collect()
        };
        for vm in owned_there(&*self.view().await?) {
            // Anew for each: the one before took memory.
            let view = self.view().await?;
            if self.wanted(&view, &vm) && self.may_start(&vm) {
                // One that cannot be brought back does not hold the others up.
                if let Err(problem) = self.recover_elsewhere(&view, &vm, verdict, (host, silent_ms)).await {
                    tracing::warn!("VM '{vm}' is not recovered: {problem}; hint: {}", problem.hint);
                }
            }
        }
        Ok(())
    }

    async fn recover_elsewhere(
        self: &Rc<Self>,
        view: &View,
        vm: &VmName,
        verdict: Verdict,
        (host, silent_ms): (HostKey, Millis),
    ) -> Result<(), Problem> {
        let spec = view.vm(vm)?.spec()?;
        let owned = view.ownership(vm)?;
        let candidates: Vec<_> = self.fits(view, &spec).into_iter().map(|fit| fit.candidate).collect();
        match ha::decide(owned, verdict, &candidates, (memory(&spec), POWER), now()) {
            Decision::Recover(plan, after) => {
                if let Verdict::Dead { votes, of, .. } = verdict {
                    let [votes, of] = [votes, of].map(|count| u64::try_from(count).expect("at most 32"));
                    self.happened(vm, Happened::VotedDead { host: view.name(host), votes, of, silent_ms });
                }
                self.start_as_described(vm).await?;
                self.begin(Task::Recover(*plan), (owned, &after), DEADLINE).await.map(drop)
            }
            Decision::Nothing(quiet) => {
                self.nothing_done(vm, &quiet.to_string());
                Ok(())
            }
        }
    }

    /// That nothing is done for a VM on which the store is behind is told, once.
    async fn tell_who_is_behind(self: &Rc<Self>) -> Result<(), Problem> {
        for (vm, problem) in self.all_behind().await? {
            self.nothing_done(&vm, &problem.text);
        }
        Ok(())
    }

    /// Tells once why nothing was done.
    fn nothing_done(self: &Rc<Self>, vm: &VmName, why: &str) {
        if self.quiet.borrow_mut().insert(vm.clone(), why.to_owned()).as_deref() != Some(why) {
            self.happened(vm, Happened::NothingDone { why: words(why) });
        }
    }

    /// Whether this VM should run and nobody sees to it.
    fn wanted(&self, view: &View, vm: &VmName) -> bool {
        let wished = view.vm(vm).is_ok_and(|object| object.wished() && object.spec().is_ok_and(|spec| spec.autostart));
        let free = view.ownership(vm).is_ok_and(|owned| owned.job.is_none());
        let free = free && view.check_readable(vm).is_ok();
        wished && free && self.working(vm).is_none() && !self.seems_behind(view, vm)
    }

    /// Whether its back-off is over.
    fn may_start(&self, vm: &VmName) -> bool {
        self.restarts.borrow().get(vm).and_then(ha::Restarts::next).is_none_or(|next| now() >= next)
    }

    /// One look at all VMs.
    ///
    /// # Errors
    /// The store's.
    pub async fn tend(self: &Rc<Self>) -> Result<(), Problem> {
        let view = self.view().await?;
        self.note_unreadable(&view);
        self.release_stuck(&view).await?;
        if now().since(self.began) < SETTLE {
            return Ok(());
        }
        if view.vms.keys().any(|vm| self.seems_behind(&view, vm)) {
            self.tell_who_is_behind().await?;
        }
        self.heed_power_off(&view).await?;
        let down: Vec<VmName> = view.vms.keys().filter(|vm| self.is_down(&view, vm)).cloned().collect();
        let order = self.starting_order(&view, &down);
        // Nobody waits for one that failed, and it waits for nobody but its back-off.
        let failed = order.iter().filter(|it| it.failed).map(|it| &it.vm);
        let due = ha::due(&order).into_iter().chain(failed).filter(|vm| down.contains(vm));
        // Beside each other: a host that does not answer keeps nobody else's VM down.
        let (this, view) = (self, &view);
        join_all(due.map(|vm| async move {
            if let Err(problem) = this.see_to(view, vm).await {
                tracing::warn!("VM '{vm}' is not brought back: {problem}; hint: {}", problem.hint);
            }
        }))
        .await;
        self.tell_of_silent_owners(view);
        Ok(())
    }

    /// A VM whose host lives and whose node does not answer is left as it is, whatever became of it: that is said.
    fn tell_of_silent_owners(self: &Rc<Self>, view: &View) {
        for vm in view.vms.keys().filter(|vm| self.wanted(view, vm)) {
            let Some(owner) = view.ownership(vm).ok().and_then(|owned| owned.owner) else { continue };
            let heard = self.hosts.borrow().heard_at(owner).unwrap_or(self.began);
            if now().since(heard) >= SILENT && view.member(owner).is_some() {
                let host = view.name(owner);
                let why = format!(
                    "the node of its host '{host}' does not answer, and the witnesses have not voted that host dead: whether the VM \
                     runs there is not known"
                );
                self.nothing_done(vm, &why);
            }
        }
    }

    /// Tells once what cannot be read.
    fn note_unreadable(&self, view: &View) {
        let before = self.unreadable.replace(view.unreadable.clone());
        for (key, why) in view.unreadable.iter().filter(|it| !before.contains(it)) {
            tracing::error!("{key} cannot be read, so its VM is left alone: {why}");
        }
    }

    /// Whether it should run and certainly does not: nobody owns it, or its owner says so.
    fn is_down(&self, view: &View, vm: &VmName) -> bool {
        let Ok(owned) = view.ownership(vm) else { return false };
        let hosts = self.hosts.borrow();
        let down = owned.owner.is_none_or(|owner| match hosts.guest(vm, owner, now()) {
            Some(Guest::Absent) => true,
            Some(_) => hosts.tell(vm, owner).is_some_and(|tell| left_behind(tell, owned.epoch)),
            None => false,
        });
        self.wanted(view, vm) && down
    }

    fn starting_order(&self, view: &View, down: &[VmName]) -> Vec<Autostart> {
        let (restarts, hosts, at) = (self.restarts.borrow(), self.hosts.borrow(), now());
        let cold = at.since(self.began) < COLD_MAX;
        let one = |vm: &Vm| {
            let owner = view.owned.get(&vm.name).and_then(|(owned, _)| owned.owner);
            let guest = owner.and_then(|owner| hosts.guest(&vm.name, owner, at));
            let history = restarts.get(&vm.name);
            // It is there, stopped, before it runs: that is not up yet.
            let starting = self.is_starting(&vm.name);
            let running_ms = match guest {
                _ if starting || down.contains(&vm.name) => None,
                Some(Guest::Absent | Guest::Incoming) => None,
                // Of a silent host nothing is known: those behind it wait for a while after a cold start.
                None if owner.is_none() || cold => None,
                _ => Some(history.and_then(ha::Restarts::running_since).map_or(BOOT, |since| at.since(since))),
            };
            let failed =
                history.is_some_and(|it| it.count() > 1) || (running_ms.is_none() && !cold && !down.contains(&vm.name));
            let order = vm.spec().map_or(0, |spec| spec.order);
            Autostart { vm: vm.name.clone(), order, settle_ms: BOOT, running_ms, failed }
        };
        let wished = view.vms.values().map(|(vm, _)| vm);
        // Nobody waits for what is left alone.
        let wished = wished.filter(|vm| view.check_readable(&vm.name).is_ok());
        wished.filter(|vm| vm.wished() && vm.spec().is_ok_and(|spec| spec.autostart)).map(one).collect()
    }

    /// Brings a VM back that is down. Its owner is asked once more: what it said last may have been on its way for long.
    async fn see_to(self: &Rc<Self>, view: &View, vm: &VmName) -> Result<(), Problem> {
        let owned = view.ownership(vm)?;
        if let Some(owner) = owned.owner {
            let told = self.hosts.borrow().tell(vm, owner).and_then(|tell| tell.why.clone());
            if !self.is_down_at(view, owned, owner).await {
                return Ok(());
            }
            self.note_death(vm, &view.name(owner), told);
        }
        if !self.may_start(vm) {
            return Ok(());
        }
        let _placing = self.placing.lock().await;
        self.raise_up(vm, owned).await
    }

    /// Starts a VM whose ownership is still as it was: where it was if it can, else elsewhere.
    async fn raise_up(self: &Rc<Self>, vm: &VmName, owned: &Ownership) -> Result<(), Problem> {
        let view = self.view().await?;
        if !self.wanted(&view, vm) || view.ownership(vm)? != owned {
            return Ok(());
        }
        let spec = view.vm(vm)?.spec()?;
        let fits = self.fits(&view, &spec);
        let Some((to, spare)) = choose(&fits, &spec, owned.owner) else {
            let why: Vec<String> = fits.iter().flat_map(|fit| fit.objections.clone()).collect();
            self.nothing_done(vm, &format!("no host can take it: {}", why.join(", ")));
            return Ok(());
        };
        self.note_back_off(vm);
        self.start_as_described(vm).await?;
        let (plan, after) = Recovery::new(owned, to, spare, POWER);
        self.begin(Task::Recover(plan), (owned, &after), DEADLINE).await.map(drop)
    }

    /// Whether the host says now that it has no guest of this VM.
    async fn is_down_at(self: &Rc<Self>, view: &View, owned: &Ownership, host: HostKey) -> bool {
        let Some(machine) = view.member(host) else { return false };
        match tokio::time::timeout(LOOK_MAX, self.machines.ask(machine, Ask::Look)).await {
            Ok(Ok(Reply::Look(report))) => {
                // Who cannot list its guests says of nobody that it is absent.
                let absent = report.unlisted.is_none();
                let down = |it: Option<&Tell>| {
                    it.map_or(absent, |it| it.guest == Guest::Absent || left_behind(it, owned.epoch))
                };
                let says = down(report.guests.iter().find(|tell| tell.vm == owned.vm));
                let mut hosts = self.hosts.borrow_mut();
                hosts.reported(host, *report, now());
                // And has not said otherwise since.
                says && down(hosts.tell(&owned.vm, host))
            }
            Ok(_) | Err(_) => false,
        }
    }

    fn note_death(self: &Rc<Self>, vm: &VmName, host: &str, why: Option<String>) {
        let mut restarts = self.restarts.borrow_mut();
        let history = restarts.entry(vm.clone()).or_default();
        if history.next().is_none() {
            history.died(now());
            let why = why.unwrap_or_else(|| "it is not there".to_owned());
            self.happened(vm, Happened::Died { host: host.to_owned(), why: words(&why) });
        }
    }

    fn note_back_off(self: &Rc<Self>, vm: &VmName) {
        let times = self.restarts.borrow().get(vm).map_or(0, ha::Restarts::count);
        let wait_ms = BACK_OFF_MS[times.saturating_sub(1).min(BACK_OFF_MS.len() - 1)];
        if wait_ms.0 > 0 {
            let times = u64::try_from(times).expect("a count of minutes");
            self.happened(vm, Happened::BacksOff { times, wait_ms });
        }
    }

    /// A job on a VM ended: what that means for the next start.
    pub fn note_end(&self, vm: &VmName, task: &Task, outcome: &Outcome) {
        self.quiet.borrow_mut().remove(vm);
        let mut restarts = self.restarts.borrow_mut();
        let history = restarts.entry(vm.clone()).or_default();
        match (task, outcome) {
            (Task::Recover(_), Outcome::Done) => history.started(now()),
            // A start that came to nothing counts as one that died at once: the next one waits longer.
            (Task::Recover(_), _) => {
                history.started(now());
                history.died(now());
            }
            (Task::Migrate(_), Outcome::Lost { .. }) => history.died(now()),
            (Task::Migrate(_), _) => {}
        }
    }

    /// A guest that switched itself off is wished to be off.
    async fn heed_power_off(self: &Rc<Self>, view: &View) -> Result<(), Problem> {
        for (vm, _) in view.vms.values().filter(|(vm, _)| vm.wished()) {
            let Ok(owned) = view.ownership(&vm.name) else { continue };
            let free = owned.job.is_none() && !self.seems_behind(view, &vm.name);
            let Some(owner) = owned.owner.filter(|_| free) else { continue };
            // What was switched off before it was last asked to run has been heeded already.
            let off = |tell: &Tell| tell.powered_off && tell.guest == Guest::Absent && tell.at > vm.wished_at;
            let off = self.hosts.borrow().tell(&vm.name, owner).is_some_and(off);
            if off && self.wish(&vm.name, Wish::Stopped, None).await? {
                let by = "the guest itself".to_owned();
                self.happened(&vm.name, Happened::Wished { by, running: false });
            }
        }
        Ok(())
    }

    /// A VM whose job ended in a conflict, or is no more, is free again; a job that nobody has in hand is taken over.
    async fn release_stuck(self: &Rc<Self>, view: &View) -> Result<(), Problem> {
        let readable = |owned: &Ownership| view.check_readable(&owned.vm).is_ok();
        for (owned, _) in view.owned.values().filter(|(owned, _)| owned.job.is_some() && readable(owned)) {
            if self.working(&owned.vm).is_none() {
                let stuck = owned.clone();
                if let Some(entry) = self.store.ask(move |engine| release(engine, &stuck)).await? {
                    super::runs::take_over(self, &entry);
                }
            }
        }
        Ok(())
    }
}

/// A guest that stands at an epoch that is over, with no job that brings it back: its disk refuses it, and its memory may be
/// older than the disk. It is never let go on; a start at the next epoch ends it first.
fn left_behind(tell: &Tell, epoch: Epoch) -> bool {
    let stands = matches!(tell.guest, Guest::Stopped | Guest::PostMigrate | Guest::Loaded);
    stands && tell.epoch.is_some_and(|its| its < epoch)
}

/// Where it was, if it fits there; else where the most room is. And the others, in that order.
fn choose(fits: &[Fit], spec: &crate::vms::spec::Spec, owner: Option<HostKey>) -> Option<(HostKey, Vec<HostKey>)> {
    let mut fit: Vec<HostKey> =
        fits.iter().map(|fit| &fit.candidate).filter(|it| it.fits(memory(spec))).map(|it| it.host).collect();
    fit.sort_by_key(|host| Some(*host) != owner);
    let (to, spare) = fit.split_first()?;
    Some((*to, spare.to_vec()))
}

/// Takes a job's name off a VM if that job has ended or is not there; the job, if it goes on.
fn release(engine: &mut dyn Engine, owned: &Ownership) -> Result<Option<Entry>, Problem> {
    let Some(job) = &owned.job else { return Ok(None) };
    let key = Record::<Task>::key(job);
    let entry = engine.get(&key).map_err(|error| failed(&error))?;
    let goes_on = entry.as_ref().is_some_and(|entry| {
        // One that cannot be read is a newer muskox's: left alone.
        Record::<Task>::read(&entry.value).map_or(true, |record| record.outcome.is_none())
    });
    if goes_on {
        return Ok(entry);
    }
    let mut txn = Txn { compares: owned.compares(), then: owned.released().puts(), otherwise: Vec::new() };
    txn.compares.push(Compare::Changed(key, entry.map_or(Revision(0), |entry| entry.changed)));
    let held = engine.txn(&txn).map_err(|error| failed(&error))?.held;
    tracing::warn!("VM '{}' was still held by job {job}, which is over; released: {held}", owned.vm);
    Ok(None)
}
