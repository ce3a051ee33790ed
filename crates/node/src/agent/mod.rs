//! What a node does on its own machine, whoever decides: it obeys orders about guests, keeps the machine's processes
//! (target, dead-man, initiators, QEMUs) and says how things are.
//!
//! Invariant: a guest runs only after every volume was attached at the epoch that its order names; an order older than
//! the newest one heard is refused, also after a restart. It does *not* know the store: what should be is told to it.

mod accelerator;
#[cfg(test)]
mod accepted;
mod configuration;
mod deadman;
mod facts;
mod guard;
mod guest;
mod host_config;
mod initiator;
mod keep;
mod keepsake;
mod memory;
mod network;
mod place;
mod sequence;
mod supervise;
mod takeover;
mod target;
mod tasks;
mod unit;
mod unknown;
#[cfg(test)]
pub mod versions;

pub use deadman::{arguments as deadman_arguments, file_of as deadman_file};
pub use guard::arguments as guard_arguments;
#[cfg(test)]
pub use guest::{machine_of, seed_of};
pub use host_config::HostConfig;

use crate::identity::Identity;
use crate::peer::{self, Act, Acted, HostReport, Synced};
use crate::root::Root;
use crate::service::Node;
use accelerator::Accelerators;
use api::{Problem, Role};
use cluster::job::Guest as State;
use cluster::store::Revision;
use guest::{Guest, Shared, Voice};
use host::users::User;
use host::vm::Folder;
use keepsake::Keepsake;
use memory::Memory;
use place::Place;
use sequence::Sequences;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tasks::Tasks;
use tokio::sync::Notify;
use units::{HostKey, Millis, Moment, VmName};
use unknown::Unknown;
use wire::control::{self, DeadmanReport, Reply, Request};

/// A raise waits for what is in flight, 1.5 s at most, and for disks that are slow to note it.
const TARGET_PATIENCE: Duration = Duration::from_secs(20);
/// A status that is needed every second.
const STATUS_PATIENCE: Duration = Duration::from_secs(2);
/// How often processes and bridges are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a change is told again and again; then the next regular call tells it.
const TELL_MAX: Duration = Duration::from_secs(1);
/// Whoever waits for a process hears of its end at once; what nobody has collected by then is nobody's.
const COLLECT_EVERY: Duration = Duration::from_secs(10);
/// QEMU is asked again what it offers.
const OFFERS_AGAIN: Duration = Duration::from_secs(10);
const TELL_AGAIN: Duration = Duration::from_millis(100);

/// The machine's hands.
pub struct Agent {
    shared: Rc<Shared>,
    guests: RefCell<BTreeMap<VmName, Rc<Guest>>>,
    /// VMs that may be here and cannot be told about; never one of `guests`.
    unknown: RefCell<BTreeMap<VmName, Unknown>>,
    /// Who was not put to work yet: that needs a running loop.
    idle: RefCell<Vec<Rc<Guest>>>,
    state: RefCell<MachineState>,
    /// What the dead-man's configuration should say, once that was told.
    wanted_deadman: RefCell<Option<String>>,
    /// That changed.
    witnesses: Notify,
    /// What this machine keeps of the cluster.
    keepsake: Keepsake,
    qemu: Cell<Option<(u32, u32)>>,
}

/// What was last seen of the machine's processes and network.
#[derive(Default)]
struct MachineState {
    /// When the target was started, by its own word.
    target_since: Option<Moment>,
    target_troubles: Vec<String>,
    /// What the dead-man says.
    deadman: Option<Result<DeadmanReport, String>>,
    /// What is wrong with its bridges.
    bridges: Vec<(String, String)>,
    /// Why there may be VMs here that nobody knows of.
    unlisted: Option<String>,
    /// Files where VMs' are that are none.
    strangers: Vec<String>,
    /// What keeps a process of this machine from its work, by process.
    faults: BTreeMap<&'static str, (String, String)>,
}

impl Agent {
    /// Hands that have found nothing yet; [`run`] lets them look.
    #[must_use]
    pub fn new(root: &Root, identity: &Identity, key: HostKey) -> Self {
        let place = Place::new(root, identity, key);
        let sequences = Sequences::new(&place);
        let (voice, accelerators, tasks) = (Voice::default(), Accelerators::default(), Tasks::default());
        let shared = Rc::new(Shared { place, voice, accelerators, tasks, sequences });
        let this = Self {
            shared,
            guests: RefCell::default(),
            keepsake: Keepsake::load(root),
            unknown: RefCell::default(),
            idle: RefCell::default(),
            state: RefCell::default(),
            wanted_deadman: RefCell::default(),
            witnesses: Notify::new(),
            qemu: Cell::new(None),
        };
        this.survey();
        this
    }

    /// Takes an order: what is quick is done, what is long is begun; how things are right now.
    #[allow(clippy::unused_async, reason = "it stands where an answer over the wire stands")]
    pub async fn act(&self, act: Act) -> Acted {
        let known = self.guests.borrow().get(&act.brief.vm).cloned();
        if let (None, Some(acted)) = (&known, self.act_on_unknown(&act)) {
            return acted;
        }
        let guest = known.unwrap_or_else(|| self.add(Memory::new(act.brief.clone())));
        self.put_to_work();
        guest.act(act)
    }

    /// What this machine is and has.
    pub async fn look(&self) -> HostReport {
        let (place, qemu) = (&self.shared.place, self.qemu().await);
        // From here on at one moment: who is not in it was not there.
        let (sequence, guests) = (self.shared.sequences.next(), self.all());
        let (memory, free) = facts::memory(&guests);
        let (bridges, bridges_out) = if place.is(Role::Host) { network::there(place) } else { Default::default() };
        let (lacks_machine, processor) = self.shared.accelerators.offered();
        let state = self.state.borrow();
        let said = state.deadman.as_ref().and_then(|said| said.as_ref().ok());
        let trouble =
            |who: &str, log: &str, text: &str| (format!("the {who} has trouble: {text}"), format!("see {log} there"));
        let log = "`journalctl -u muskox-deadman` or var/log/muskox/deadman.log";
        let of_deadman = said.into_iter().flat_map(|said| &said.troubles).map(|text| trouble("dead-man", log, text));
        let log = "var/log/muskox/target.log";
        let of_target = state.target_troubles.iter().map(|text| trouble("target", log, text));
        let troubles = of_deadman.chain(of_target);
        let complaints = facts::complaints(place).into_iter().chain(self.unreadable(&state));
        HostReport {
            sequence,
            memory,
            free,
            cpus: facts::cpus(),
            qemu,
            accelerator: self.shared.accelerators.found().map_or("tcg", host::vm::Accelerator::word).to_owned(),
            bridges,
            bridges_out,
            lacks_machine,
            processor,
            guests: guests.iter().map(|guest| guest.tell()).chain(self.tell_unknown()).collect(),
            unlisted: state.unlisted.clone(),
            target_up: state.target_since.map(|since| host::runtime::now().since(since)),
            deadman: said.is_some(),
            withheld: said.and_then(|said| deadman::withheld(said.standing)),
            witnesses: said.map(deadman::witnesses_of).unwrap_or_default(),
            complaints: complaints.collect(),
            faults: state.faults.values().cloned().chain(troubles).chain(state.bridges.clone()).collect(),
        }
    }

    /// The version of QEMU here, asked once. It is known before the first report: a machine that does not know it yet is
    /// not one without.
    async fn qemu(&self) -> Option<(u32, u32)> {
        if self.qemu.get().is_none()
            && self.shared.place.is(Role::Host)
            && let Some(qemu) = self.shared.place.qemu()
        {
            self.qemu.set(facts::qemu_version(&qemu).await);
        }
        self.qemu.get()
    }

    /// A user for a tool that reads a stranger's file; `None`: it runs as we do, who are not root.
    ///
    /// # Errors
    /// There is none, for people.
    pub fn user(&self, name: &str) -> Result<Option<User>, String> {
        self.shared.place.user(name, None)
    }

    /// Asks this machine's target.
    ///
    /// # Errors
    /// What it refuses; that there is none.
    pub async fn target(&self, request: control::Request) -> Result<control::Reply, control::Refusal> {
        let place = &self.shared.place;
        if !place.is(Role::Storage) {
            let text = format!("'{}' has no target: storage is not among its roles", place.name);
            return Err(control::Refusal::new(control::Code::Invalid, text, "ask a storage machine"));
        }
        crate::control::ask("target", &target::control(place), request, TARGET_PATIENCE).await
    }

    /// How everything here should be.
    pub fn synced(&self, synced: Synced) {
        self.keep(&synced.keep);
        let wanted = Some(deadman::wanted(&self.shared.place, &synced));
        if self.wanted_deadman.replace(wanted.clone()) != wanted {
            self.witnesses.notify_one();
        }
        self.forget(&synced.unknown, synced.at);
        for assignment in synced.assignments {
            let known = self.guests.borrow().get(&assignment.vm).cloned();
            if let Some(guest) = known {
                guest.assigned(&assignment);
            }
        }
    }

    /// Forgets the VMs that the store has not known for long, of which there is nothing here. One that is made anew under the
    /// same name begins anew here too.
    fn forget(&self, unknown: &[VmName], at: Revision) {
        let unknown: BTreeSet<&VmName> = unknown.iter().collect();
        for guest in self.all().into_iter().filter(|guest| guest.is_unknown(unknown.contains(guest.name()))) {
            if !guest.is_nothing_since(at) {
                continue;
            }
            let vm = guest.name();
            if let Err(problem) = Memory::remove(&self.shared.place, vm) {
                tracing::error!("VM '{vm}' is deleted and cannot be forgotten: {problem}; hint: {}", problem.hint);
                continue;
            }
            self.guests.borrow_mut().remove(vm);
            guest.end();
            tracing::info!("VM '{vm}' is deleted: nothing of it is kept here any more");
        }
    }

    /// Takes note of what keeps a process of this machine from its work, or that nothing does any more.
    pub(crate) fn fault(&self, process: &'static str, problem: Option<&Problem>) {
        let faults = &mut self.state.borrow_mut().faults;
        let Some(problem) = problem else {
            faults.remove(process);
            return;
        };
        let fault = (problem.text.clone(), problem.hint.clone());
        if faults.insert(process, fault.clone()) != Some(fault) {
            tracing::error!("{problem}; hint: {}", problem.hint);
        }
    }

    fn all(&self) -> Vec<Rc<Guest>> {
        self.guests.borrow().values().cloned().collect()
    }

    fn add(&self, memory: Memory) -> Rc<Guest> {
        let vm = memory.brief.vm.clone();
        // Until it is found out: what may be there is not said to be absent.
        let alive = Folder::new(&self.shared.place.machine(&vm)).ok().map(|folder| host::vm::Vm::process_in(&folder));
        let state = if matches!(alive, Some(Ok(None)) | None) { State::Absent } else { State::Stopped };
        let guest = Guest::new(&self.shared, memory, state);
        self.guests.borrow_mut().insert(vm, Rc::clone(&guest));
        self.idle.borrow_mut().push(Rc::clone(&guest));
        guest
    }

    fn put_to_work(&self) {
        for guest in std::mem::take(&mut *self.idle.borrow_mut()) {
            let task = self.shared.tasks.spawn(Rc::clone(&guest).work());
            guest.begun(task);
        }
    }
}

/// The machine's loops, for ever.
pub async fn run(node: Rc<Node>) {
    let place = &node.agent.shared.place;
    if let Err(error) = place.make_folders() {
        tracing::error!("the folders for VMs cannot be made: {error}");
    }
    // They end with this future: nothing is done for a node that stops.
    let mut tasks = tokio::task::JoinSet::new();
    node.agent.put_to_work();
    tasks.spawn_local(keep::target(Rc::clone(&node)));
    tasks.spawn_local(keep::deadman(Rc::clone(&node)));
    tasks.spawn_local(keep::guard(Rc::clone(&node)));
    tasks.spawn_local(look_around(Rc::clone(&node)));
    tasks.spawn_local(takeover::look_for_unknown(Rc::clone(&node)));
    tasks.spawn_local(tell(Rc::clone(&node)));
    tasks.spawn_local(collect_strays());
    if place.is(Role::Host) {
        tasks.spawn_local(probe(Rc::clone(&node)));
    }
    let panicked = node.agent.shared.tasks.panicked();
    let loops = async {
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                return error.into_panic();
            }
        }
        std::future::pending().await
    };
    let panic = tokio::select! {
        panic = loops => panic,
        panic = panicked => panic,
    };
    // The node ends with it: half an agent would look like a whole one.
    std::panic::resume_unwind(panic);
}

/// Looks at processes and bridges every second.
async fn look_around(node: Rc<Node>) {
    let place = &node.agent.shared.place;
    loop {
        let status = match place.is(Role::Storage) {
            true => crate::control::ask("target", &target::control(place), Request::Status, STATUS_PATIENCE).await.ok(),
            false => None,
        };
        let since = |up: Millis| Moment(host::runtime::now().0.saturating_sub(up.0));
        let (target_since, target_troubles) = match status {
            Some(Reply::Status(report)) => (Some(since(report.up)), report.troubles),
            _ => (None, Vec::new()),
        };
        let deadman = Some(deadman::status(place).await);
        let bridges = if place.is(Role::Host) { network::keep_bridges(place) } else { Vec::new() };
        if place.is(Role::Host) && guard::has_record(place) {
            node.agent.fault("guard", guard::fault(place).as_ref());
        }
        {
            let mut state = node.agent.state.borrow_mut();
            for (text, hint) in bridges.iter().filter(|it| !state.bridges.contains(it)) {
                tracing::warn!("{text}; hint: {hint}");
            }
            (state.target_since, state.target_troubles) = (target_since, target_troubles);
            (state.deadman, state.bridges) = (deadman, bridges);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Sees to it that processes which were started and let go leave no zombies.
async fn collect_strays() {
    let mut strays = host::vm::Strays::default();
    loop {
        tokio::time::sleep(COLLECT_EVERY).await;
        if let Err(error) = strays.collect() {
            tracing::debug!("dead processes stay: {error}");
        }
    }
}

/// Finds out what runs guests here.
async fn probe(node: Rc<Node>) {
    let place = &node.agent.shared.place;
    if place.qemu().is_none() {
        return;
    }
    match node.agent.shared.accelerators.get(place).await {
        Ok(found) => tracing::info!("guests run by {}", found.word()),
        Err(error) => tracing::warn!("what runs guests is not known: {error}"),
    }
    // Until it is known, no guest moves to or from here.
    while let Err(error) = node.agent.shared.accelerators.ask_offers(place).await {
        tracing::warn!("which processor guests see here is not known: {error}; it is asked again");
        tokio::time::sleep(OFFERS_AGAIN).await;
    }
}

/// Tells the machine with the store of every change at once.
async fn tell(node: Rc<Node>) {
    loop {
        for vm in node.agent.shared.voice.heard().await {
            let node = Rc::clone(&node);
            node.agent.shared.tasks.clone().spawn(async move {
                let begun = Instant::now();
                while begun.elapsed() < TELL_MAX {
                    // As it is by now, not as it was when it changed.
                    let Some(guest) = node.agent.guests.borrow().get(&vm).cloned() else { return };
                    if peer::tell(&node, guest.tell()).await.is_ok() {
                        return;
                    }
                    tokio::time::sleep(TELL_AGAIN).await;
                }
            });
        }
    }
}
