//! `muskox vm adopt`: the store, brought back from an older backup, is made to agree with who really runs a VM.
//!
//! Everybody who could know is asked just now; from their answers one transaction follows, or a refusal that changes
//! nothing. Invariant: no epoch goes back, no guest that may write is given up, and whoever has a guest besides the owner
//! stays under suspicion. How it is noticed that the store is behind: `crate::director::behind`.

use super::object::{Vm, Wish};
use super::show::parse_vm;
use crate::director::{Desk, View, Word, is_behind};
use crate::peer::{Adopt, Ask, Reply};
use crate::registry::{Record, put};
use crate::storage::object;
use crate::store::failed;
use api::{Code, Done, Problem, Role};
use cluster::ha::Verdict;
use cluster::job::{Guest, Ownership};
use cluster::store::{Compare, Engine, Revision, StoreError, Txn};
use cluster::why::Happened;
use futures_util::future::try_join_all;
use host::runtime::now;
use std::rc::Rc;
use std::time::Duration;
use units::{Epoch, HostKey, VmName, VolumeName};
use wire::control::{self, GrantReport, Request};

/// Who is well answers in milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// What everybody who could know said just now.
struct Heard {
    vm: VmName,
    /// Of each host that ever had something of it.
    words: Vec<Word>,
    /// Hosts that do not answer, because they are dead.
    dead: Vec<HostKey>,
    /// All that hosts ever said of it, also those that are dead by now.
    ever: Vec<Word>,
    /// Of each of its volumes.
    grants: Vec<GrantReport>,
}

/// What one host came to.
enum Look {
    Has(Word),
    HasNothing,
    /// By a majority of the witnesses.
    Dead(HostKey),
}

/// What it comes to.
#[derive(Debug, PartialEq, Eq)]
struct Truth {
    owned: Ownership,
    /// A guest is there that nobody has fenced.
    lives: bool,
}

impl Heard {
    /// Hosts that cannot tell about it.
    fn unclear(&self) -> impl Iterator<Item = HostKey> {
        self.words.iter().filter(|word| word.guest == Guest::Unknown).map(|word| word.host)
    }
}

impl Desk {
    /// Makes the store agree with who runs a VM, and has hosts that cannot tell about it take over what runs there.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::Unreachable`]: a target, or a host that is not voted dead, cannot be asked;
    /// [`Code::InUse`]: a job works on it; [`Code::NotPossible`]: nothing is behind and no host unclear, or two hosts have the
    /// guest at one epoch. Nothing was changed.
    pub async fn vm_adopt(self: &Rc<Self>, name: &str, by: &str) -> Result<Done, Problem> {
        let vm = parse_vm(name)?;
        let _placing = self.placing.lock().await;
        let read = vm.clone();
        let view = self.store.ask(move |engine| View::of(engine, &read)).await?;
        view.vm(&vm)?;
        let before = view.ownership(&vm)?.clone();
        let heard = self.ask_around(&view, &before).await?;
        let unclear: Vec<HostKey> = heard.unclear().collect();
        let after = self.store.ask(move |engine| adopt(engine, &heard)).await?;
        self.have_taken_over(&vm, &unclear).await?;
        self.agreed(&vm);
        for host in &unclear {
            self.happened(&vm, Happened::TakenOver { by: by.to_owned(), host: view.name(*host) });
        }
        if after == before {
            let names: Vec<String> = unclear.iter().map(|host| format!("'{}'", view.name(*host))).collect();
            let text = format!("VM '{vm}' is taken over on {} as it is there, at {}", names.join(", "), after.epoch);
            return Ok(Done { text });
        }
        let host = after.owner.map(|owner| view.name(owner));
        self.happened(&vm, Happened::Adopted { by: by.to_owned(), host: host.clone(), epoch: after.epoch });
        let named = |host: Option<String>| host.map_or_else(|| "nobody".to_owned(), |host| format!("'{host}'"));
        let was = named(before.owner.map(|owner| view.name(owner)));
        let text = format!(
            "VM '{vm}' belongs to {} at {}; the store had said {was} at {}",
            named(host),
            after.epoch,
            before.epoch
        );
        Ok(Done { text })
    }

    /// Has hosts that cannot tell about a VM take over what runs of it there, as the store says it is. One that is not the owner
    /// ends it then, as always.
    async fn have_taken_over(self: &Rc<Self>, vm: &VmName, unclear: &[HostKey]) -> Result<(), Problem> {
        let name = vm.clone();
        let view = self.store.ask(move |engine| View::of(engine, &name)).await?;
        for host in unclear.iter().filter_map(|host| view.member(*host)) {
            let adopt = Adopt { brief: view.brief(vm)?, at: view.changed(vm), epoch: view.ownership(vm)?.epoch };
            match self.answer_of(host, Ask::Adopt(Box::new(adopt))).await? {
                Reply::Done => {}
                _ => return Err(astray(host)),
            }
            // How it is there is asked at once: until then it counts as unknown.
            if let Ok(Reply::Look(report)) = self.answer_of(host, Ask::Look).await {
                self.hosts.borrow_mut().reported(host.key, *report, now());
            }
        }
        Ok(())
    }

    async fn ask_around(&self, view: &View, owned: &Ownership) -> Result<Heard, Problem> {
        let vm = &owned.vm;
        let hosts = view.members.iter().filter(|record| record.roles.contains(&Role::Host));
        let looks = try_join_all(hosts.map(|host| self.look_for(host, vm)));
        let grants = try_join_all(owned.volumes.iter().map(|volume| self.grant_of(view, volume)));
        let (looks, grants) = tokio::join!(looks, grants);
        let (mut words, mut dead) = (Vec::new(), Vec::new());
        for look in looks? {
            match look {
                Look::Has(word) => words.push(word),
                Look::HasNothing => {}
                Look::Dead(host) => dead.push(host),
            }
        }
        let ever = self.words(vm).into_iter().chain(words.iter().copied()).collect();
        Ok(Heard { vm: vm.clone(), words, dead, ever, grants: grants? })
    }

    /// What a host says of a VM. One that does not answer may be dead: then none of its guests runs.
    async fn look_for(&self, host: &Record, vm: &VmName) -> Result<Look, Problem> {
        match self.answer_of(host, Ask::Look).await {
            Ok(Reply::Look(report)) => {
                let told = report.guests.iter().find(|tell| tell.vm == *vm);
                match (told, report.unlisted) {
                    (Some(tell), _) => Ok(Look::Has(Word::of(host.key, tell))),
                    (None, None) => Ok(Look::HasNothing),
                    (None, Some(why)) => {
                        let text = format!("'{}' cannot tell which VMs it has: {why}", host.name);
                        Err(Problem::new(Code::NotPossible, text, "nothing was changed; see to that machine first"))
                    }
                }
            }
            Ok(_) => Err(astray(host)),
            Err(silent) => match self.verdict(host.key).await {
                Ok(Verdict::Dead { .. }) => Ok(Look::Dead(host.key)),
                Ok(Verdict::NotDead { .. }) | Err(_) => Err(silent),
            },
        }
    }

    /// How far a volume's target is.
    async fn grant_of(&self, view: &View, volume: &VolumeName) -> Result<GrantReport, Problem> {
        let machine = view.target(volume)?;
        match self.answer_of(machine, Ask::Target { request: Request::GrantShow { volume: volume.clone() } }).await? {
            Reply::Target { answer: Ok(control::Reply::Grant(grant)) } => Ok(grant),
            Reply::Target { answer: Err(refusal) } => {
                let text = format!(
                    "the target of '{}' does not say at which epoch volume '{volume}' is: {}",
                    machine.name, refusal.text
                );
                Err(Problem::new(Code::Unreachable, text, refusal.hint))
            }
            _ => Err(astray(machine)),
        }
    }

    pub(super) async fn answer_of(&self, machine: &Record, ask: Ask) -> Result<Reply, Problem> {
        let silent = |why: String| {
            let text = format!("'{}' cannot be asked: {why}", machine.name);
            let hint = "nothing was changed; bring it back. A host that the witnesses have voted dead is done without";
            Problem::new(Code::Unreachable, text, hint)
        };
        match tokio::time::timeout(ANSWER_WITHIN, self.machines.ask(machine, ask)).await {
            Ok(answer) => answer.map_err(|problem| silent(problem.text)),
            Err(_) => Err(silent(format!("it has not answered within {} s", ANSWER_WITHIN.as_secs()))),
        }
    }
}

pub(super) fn astray(machine: &Record) -> Problem {
    let text = format!("'{}' answered something else", machine.name);
    Problem::new(Code::Failed, text, "run the same muskox version on all machines")
}

/// The transaction: who owns it, at which epoch its volumes are, and that a guest that is there is meant to run. The
/// counter goes first: a store that stops in between gives no old orders, and is still known to be behind by its epochs.
fn adopt(engine: &mut dyn Engine, heard: &Heard) -> Result<Ownership, Problem> {
    let view = View::of(engine, &heard.vm)?;
    let (object, owned) = (view.vm(&heard.vm)?.clone(), view.ownership(&heard.vm)?.clone());
    let changed = || Problem::new(Code::Busy, "somebody changed the same thing at the same time", "ask again");
    if !owned.volumes.iter().eq(heard.grants.iter().map(|grant| &grant.volume)) {
        return Err(changed());
    }
    if let Some(job) = &owned.job {
        let text = format!("job {job} works on VM '{}'", heard.vm);
        return Err(Problem::new(Code::InUse, text, "wait for it; see `muskox job show`"));
    }
    let own = Ownership::key(&heard.vm);
    let mut txn = Txn { compares: vec![Compare::Changed(own, view.owned[&heard.vm].1)], ..Txn::default() };
    let mut stored = owned.clone();
    for volume in &owned.volumes {
        let floor = take_floor(engine, volume, &heard.vm, &mut txn)?;
        stored.epoch = stored.epoch.max(floor);
    }
    let truth = truth(&stored, heard, |host| view.name(host))?;
    let granted = heard.grants.iter().map(|grant| (grant.volume.clone(), grant.epoch)).collect();
    let behind = stored.epoch != owned.epoch || is_behind(&view, &heard.vm, &heard.ever, &granted);
    if !behind && heard.unclear().next().is_some() {
        // The store is right; what is unclear is taken over as it says.
        return Ok(owned);
    }
    if !behind {
        let text = format!("the store is not behind on VM '{}': nobody knows more than it says", heard.vm);
        return Err(Problem::new(Code::NotPossible, text, "nothing was changed"));
    }
    let newest = heard.ever.iter().map(|word| word.at).max().unwrap_or_default();
    txn.then.extend(truth.owned.puts());
    if truth.lives && !object.wished() {
        let key = Vm::key(&heard.vm);
        txn.compares.push(Compare::Changed(key.clone(), view.vms[&heard.vm].1));
        let wished_at = newest.max(view.at);
        txn.then.push(put(&key, &Vm { wish: Wish::Running, wished_at, patience_ms: None, ..object }));
    }
    lift(engine, newest)?;
    let outcome = engine.txn(&txn).map_err(|error| failed(&error))?;
    if outcome.held { Ok(truth.owned) } else { Err(changed()) }
}

/// A volume's floor, which must be this VM's or nobody's; it must still be so.
fn take_floor(engine: &mut dyn Engine, volume: &VolumeName, vm: &VmName, txn: &mut Txn) -> Result<Epoch, Problem> {
    let floor = object::floor(engine, volume)?;
    if let Some(other) = floor.value.vm.filter(|other| other != vm) {
        let text = format!("volume '{volume}' of VM '{vm}' was given to VM '{other}' after the backup");
        return Err(Problem::new(Code::InUse, text, "a volume is one VM's: take it away from one of them first"));
    }
    txn.compares.push(floor.unchanged);
    Ok(floor.value.epoch)
}

/// The counter goes on from the newest order that anybody heard.
fn lift(engine: &mut dyn Engine, newest: Revision) -> Result<(), Problem> {
    let hint = "nothing was changed; `muskox doctor` names the host that said so, and it can be removed";
    engine.lift(newest).map(drop).map_err(|error| match error {
        StoreError::TooFar { .. } => Problem::new(Code::NotPossible, error.to_string(), hint),
        error => failed(&error),
    })
}

/// Who owns it, by what was heard.
///
/// A guest above the epoch that the targets granted only waits for memory: it was promised that epoch and never had it,
/// so it cannot be what runs. Of the others the highest epoch counts; without any, the owner stays who it was.
fn truth(stored: &Ownership, heard: &Heard, name: impl Fn(HostKey) -> String) -> Result<Truth, Problem> {
    let granted = heard.grants.iter().map(|grant| grant.epoch).max();
    let there = || heard.words.iter().filter(|word| word.runs());
    if let Some(unclear) = there().find(|word| word.epoch.is_none()) {
        let text = format!("'{}' has something of VM '{}' and no epoch for it", name(unclear.host), heard.vm);
        return Err(Problem::new(Code::NotPossible, text, "nothing was changed; ask again when it runs, or is gone"));
    }
    let waits =
        |word: &Word| word.guest == Guest::Incoming || granted.is_some_and(|granted| word.epoch > Some(granted));
    let highest = there().filter(|word| !waits(word)).filter_map(|word| word.epoch).max();
    let claims: Vec<HostKey> =
        there().filter(|word| !waits(word) && word.epoch == highest).map(|word| word.host).collect();
    if let [one, other, ..] = claims[..] {
        let epoch = highest.expect("a claim has an epoch");
        let text = format!("'{}' and '{}' both have VM '{}' at {epoch}", name(one), name(other), heard.vm);
        return Err(Problem::new(
            Code::NotPossible,
            text,
            "nothing was changed; end one of the two QEMUs, by its host",
        ));
    }
    let owner = claims.first().copied().or(stored.owner);
    let told = heard.words.iter().filter_map(|word| word.epoch);
    let epoch = granted.into_iter().chain(highest).fold(stored.epoch, Epoch::max);
    let reserved = heard.grants.iter().filter_map(|grant| grant.reservation.map(|reserved| reserved.epoch));
    let promised = told.chain(reserved).fold(stored.promised.max(epoch), Epoch::max);
    let others = there().map(|word| word.host).chain(heard.dead.iter().copied());
    let mut unsettled: Vec<HostKey> = others.filter(|host| Some(*host) != owner).collect();
    unsettled.sort_unstable();
    let owned = Ownership { epoch, promised, owner, unsettled, ..stored.clone() };
    Ok(Truth { owned, lives: !claims.is_empty() && highest >= granted })
}

#[cfg(test)]
mod test {
    use super::*;
    use wire::control::{ReservationReport, ServeState};

    const A: HostKey = HostKey([1; 32]);
    const B: HostKey = HostKey([2; 32]);

    fn grant(epoch: u64, reserved: Option<u64>) -> GrantReport {
        let reservation = reserved.map(|epoch| ReservationReport { epoch: Epoch(epoch), host: B });
        GrantReport {
            volume: "root".parse().unwrap(),
            epoch: Epoch(epoch),
            granted: Epoch(epoch),
            owners: Vec::new(),
            reservation,
            shared: false,
            state: ServeState::Serving,
            reason: None,
            overridden: None,
        }
    }

    fn word(host: HostKey, guest: Guest, epoch: Option<u64>) -> Word {
        Word { host, guest, epoch: epoch.map(Epoch), at: Revision(9), nothing_runs: false }
    }

    fn found(words: Vec<Word>, grants: Vec<GrantReport>) -> Result<Truth, Problem> {
        let volumes = grants.iter().map(|grant| grant.volume.clone()).collect();
        let stored = Ownership::new("web1".parse().unwrap(), volumes).unwrap().moved(Epoch(5), Some(A), vec![B]);
        let heard = Heard { vm: stored.vm.clone(), words, dead: Vec::new(), ever: Vec::new(), grants };
        truth(&stored, &heard, |host| host.0[0].to_string())
    }

    /// Goal: who runs the guest owns it, whatever a migration that the store forgot was at; who only waits for memory
    /// does not, and stays a suspect; no epoch goes back. Method: the store says host A, epoch 5, suspect B; a table.
    #[test]
    fn whoever_may_write_owns_it() {
        use Guest::{Absent, Copying, Incoming, Loaded, PostMigrate, Running};
        let ask = |words, granted, reserved| {
            let truth = found(words, vec![grant(granted, reserved)]).unwrap();
            let owned = truth.owned;
            (owned.owner, owned.epoch.0, owned.promised.0, owned.unsettled, truth.lives)
        };
        let (a, b) = (|guest, epoch| word(A, guest, epoch), |guest, epoch| word(B, guest, epoch));
        assert_eq!(ask(vec![a(Absent, None), b(Running, Some(7))], 7, None), (Some(B), 7, 7, vec![], true));
        assert_eq!(ask(vec![a(Running, Some(5)), b(Running, Some(7))], 7, None), (Some(B), 7, 7, vec![A], true));
        assert_eq!(
            ask(vec![a(Copying, Some(5)), b(Incoming, Some(7))], 5, Some(7)),
            (Some(A), 5, 7, vec![B], true),
            "it is being moved: the source has it"
        );
        assert_eq!(
            ask(vec![a(PostMigrate, Some(5)), b(Loaded, Some(7))], 6, Some(7)),
            (Some(A), 6, 7, vec![B], false),
            "handed over to nobody yet: it starts anew, above everything that was promised"
        );
        assert_eq!(ask(vec![a(PostMigrate, Some(5)), b(Loaded, Some(7))], 7, None), (Some(B), 7, 7, vec![A], true));
        assert_eq!(ask(vec![a(Absent, None)], 7, Some(9)), (Some(A), 7, 9, vec![], false), "nobody has it");
        assert_eq!(ask(vec![], 3, None), (Some(A), 5, 5, vec![], false), "an older target lowers nothing");
    }

    /// Goal: what is not clear is refused with names. Method: two hosts at one epoch, a guest without one; and a VM without
    /// volumes, where the hosts' word alone counts.
    #[test]
    fn what_is_not_clear_is_refused() {
        let two = vec![word(A, Guest::Running, Some(7)), word(B, Guest::Stopped, Some(7))];
        let refused = found(two, vec![grant(7, None)]).unwrap_err();
        assert!(refused.text.contains("'1' and '2' both have VM 'web1' at epoch 7"), "{refused:?}");
        let refused = found(vec![word(B, Guest::Stopped, None)], vec![grant(7, None)]).unwrap_err();
        assert!(refused.text.contains("'2' has something of VM 'web1' and no epoch"), "{refused:?}");
        let truth = found(vec![word(B, Guest::Running, Some(7))], Vec::new()).unwrap();
        assert_eq!((truth.owned.owner, truth.owned.epoch), (Some(B), Epoch(7)));
        let moving = vec![word(A, Guest::Copying, Some(5)), word(B, Guest::Incoming, Some(7))];
        let owned = found(moving, Vec::new()).unwrap().owned;
        assert_eq!((owned.owner, owned.epoch, owned.promised), (Some(A), Epoch(5), Epoch(7)));
    }
}
