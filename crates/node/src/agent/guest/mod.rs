//! One VM on this host: its orders, its QEMU, its initiator, and what is told of it.
//!
//! ```text
//!  act ─▶ memory (durable) ─▶ wanted ─▶ work: start, incoming, migrate, return, stop …      one at a time,
//!                                         │                                                 the newest wins
//!                    Vm ─ events, polls ─▶ watch ─▶ state ─▶ voice ─▶ tell
//! ```
//! Invariant: what works on the VM is one task; what is told is what QEMU's events said, never what was hoped for.

mod alone;
mod life;
mod migrate;
mod start;
mod stop;
mod tls;
mod watch;

#[cfg(test)]
pub use start::{machine_of, seed_of};
pub use stop::end_processes;

use super::accelerator::Accelerators;
use super::memory::Memory;
use super::place::Place;
use super::sequence::Sequences;
use super::tasks::Tasks;
use crate::peer::{Act, Acted, Assignment, Brief, DiskTell, Other, Tell};
use crate::secret::Secret;
use alone::Direction;
use cluster::job::{Action, Guest as State, Order};
use cluster::migrate::Measured;
use cluster::store::Revision;
use host::runtime::now;
use host::users::User;
use host::vm::{Cgroup, Vm};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use units::{ByteLen, Epoch, HostKey, Millis, Moment, VmName};

/// A deleted VM is forgotten after so many answers of the store in a row, one a second. What was heard of it is kept for longer
/// than an order can be on its way (the other end cuts a connection off after 30 s), so that none of the past is obeyed.
const UNKNOWN_MIN: u32 = 60;

/// Which VMs have changed and were not told of yet.
#[derive(Default)]
pub struct Voice {
    changed: RefCell<BTreeSet<VmName>>,
    woken: Notify,
}

impl Voice {
    fn changed(&self, vm: &VmName) {
        self.changed.borrow_mut().insert(vm.clone());
        self.woken.notify_one();
    }

    /// The VMs that changed since the last time; waits until there are some.
    pub async fn heard(&self) -> BTreeSet<VmName> {
        loop {
            let changed = std::mem::take(&mut *self.changed.borrow_mut());
            if !changed.is_empty() {
                return changed;
            }
            self.woken.notified().await;
        }
    }
}

/// What all guests of a host share.
pub struct Shared {
    /// The machine.
    pub place: Place,
    /// Who is told.
    pub voice: Voice,
    /// What runs guests' instructions here.
    pub accelerators: Accelerators,
    /// What goes on beside each other.
    pub tasks: Tasks,
    /// The order of what is told.
    pub sequences: Sequences,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wish {
    /// As a job says.
    Act(Action, Option<Other>),
    /// As the store says, without a job: press the power button.
    ShutDown(Millis),
    /// Nobody directs its move: give that up.
    RunOn,
}

/// One VM on this host.
pub struct Guest {
    name: VmName,
    shared: Rc<Shared>,
    facts: RefCell<Facts>,
    wanted: RefCell<Option<Wish>>,
    /// Which wish stands in `wanted`: a newer one has a higher number.
    wish_number: Cell<u64>,
    woken: Notify,
    /// It was found out what lives of it from before.
    adopted: Cell<bool>,
    /// How often in a row the store said that it does not know it.
    unknown: Cell<u32>,
    working: RefCell<Option<AbortHandle>>,
}

/// What is known of it.
struct Facts {
    memory: Memory,
    state: State,
    epoch: Option<Epoch>,
    refused: Option<(Action, String)>,
    measured: Measured,
    stopped: Option<Moment>,
    resumed: Option<Moment>,
    port: Option<u16>,
    /// What whoever sends it memory has to have.
    move_key: Option<Secret>,
    /// How often its QEMU was given a move's key.
    moves: u64,
    /// Which of these keys it may still have.
    secured: Option<u64>,
    /// Where it is being moved to.
    peer: Option<SocketAddr>,
    /// Who directs its move.
    direction: Direction,
    /// How often in a row its monitor did not answer.
    hangs: u32,
    paused: bool,
    disks: Vec<DiskTell>,
    why: Option<String>,
    vm: Option<Rc<Vm>>,
    /// Who its QEMU runs as, if we started it; of one from before its folder says.
    user: Option<User>,
    cgroup: Option<Cgroup>,
    watching: Option<AbortHandle>,
    keeping: Option<AbortHandle>,
}

impl Guest {
    /// A VM, as it is remembered; [`Guest::work`] finds out what of it lives.
    #[must_use]
    pub fn new(shared: &Rc<Shared>, memory: Memory, state: State) -> Rc<Self> {
        let facts = Facts {
            epoch: None,
            state,
            refused: None,
            measured: Measured::default(),
            stopped: None,
            resumed: None,
            port: None,
            move_key: None,
            moves: 0,
            // What a QEMU from before has, is not known.
            secured: Some(0),
            peer: None,
            direction: Direction::default(),
            hangs: 0,
            paused: false,
            disks: Vec::new(),
            why: None,
            vm: None,
            user: None,
            cgroup: None,
            watching: None,
            keeping: None,
            memory,
        };
        Rc::new(Self {
            name: facts.memory.brief.vm.clone(),
            shared: Rc::clone(shared),
            facts: RefCell::new(facts),
            wanted: RefCell::default(),
            wish_number: Cell::new(0),
            woken: Notify::new(),
            adopted: Cell::new(false),
            unknown: Cell::new(0),
            working: RefCell::default(),
        })
    }

    /// Takes an order: kept durably, then begun; how the guest is right now.
    pub fn act(&self, act: Act) -> Acted {
        let admitted = self.admit(&act);
        if let Ok(true) = admitted {
            self.facts.borrow_mut().direction.spoken();
            // Watching is what is done anyway: it must not end what goes on.
            if !matches!(act.action, Action::Watch { .. }) {
                self.wish(Wish::Act(act.action.clone(), act.other));
            }
        }
        let (admitted, why) = match admitted {
            Ok(admitted) => (admitted, None),
            Err(why) => (false, Some(why)),
        };
        Acted { admitted, why, told: self.tell() }
    }

    /// What the store says while no job works on it.
    pub fn assigned(&self, assignment: &Assignment) {
        let newest = self.facts.borrow().memory.orders.newest();
        if self.wanted.borrow().is_some() {
            return;
        }
        let Some(wish) = wish_for(assignment, newest, self.state(), self.epoch(), self.shared.place.key) else {
            return;
        };
        let job = "assignment".parse().expect("a word of letters is an id");
        let order = Order { vm: self.name.clone(), job, at: assignment.at };
        let kept = self.remember(|memory| {
            let _ = memory.orders.admit(&order);
        });
        match kept {
            Ok(()) => self.wish(wish),
            Err(error) => tracing::error!(vm = %self.name, "{error}"),
        }
    }

    /// How it is.
    #[must_use]
    pub fn tell(&self) -> Tell {
        let facts = self.facts.borrow();
        let ago = |moment: Option<Moment>| moment.map(|moment| now().since(moment));
        Tell {
            vm: self.name.clone(),
            sequence: self.shared.sequences.next(),
            at: facts.memory.orders.newest(),
            guest: facts.state,
            epoch: facts.epoch,
            refused: facts.refused.clone(),
            measured: facts.measured,
            stopped_ago_ms: ago(facts.stopped),
            resumed_ago_ms: ago(facts.resumed),
            port: facts.port,
            move_key: facts.move_key.clone(),
            powered_off: facts.memory.powered_off && facts.state == State::Absent,
            paused: facts.paused,
            disks: if facts.state == State::Absent { Vec::new() } else { facts.disks.clone() },
            why: facts.why.clone(),
            nothing_runs: false,
        }
    }

    /// The memory that it may take in all, if there is a QEMU, and which process that is.
    #[must_use]
    pub fn cost(&self) -> Option<(ByteLen, Option<i32>)> {
        let facts = self.facts.borrow();
        let pid = facts.vm.as_ref().map(|vm| vm.process().identity().pid);
        let Brief { memory_mib, vcpus, .. } = facts.memory.brief;
        let cost = cluster::ha::cost(ByteLen::mib(u64::from(memory_mib)), vcpus);
        (facts.state != State::Absent).then_some((cost, pid))
    }

    /// Obeys, for ever.
    pub async fn work(self: Rc<Self>) {
        self.adopt().await;
        self.adopted.set(true);
        loop {
            let (number, wish) = self.next_wish().await;
            let refused = tokio::select! {
                biased;
                () = self.superseded(number) => {
                    self.watch_on();
                    continue;
                }
                done = self.obey(&wish) => done.err(),
            };
            if let (Some(text), Wish::Act(action, _)) = (&refused, &wish) {
                tracing::warn!("VM '{}': could not {action}: {text}", self.name);
                let text = format!("'{}': {text}", self.shared.place.name);
                self.facts.borrow_mut().refused = Some((action.clone(), text));
            }
            if self.wish_number.get() == number {
                *self.wanted.borrow_mut() = None;
            }
            self.changed();
        }
    }

    /// Which VM.
    #[must_use]
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// Takes note of whether the store says that it does not know it; whether it has said so for long.
    pub fn is_unknown(&self, unknown: bool) -> bool {
        self.unknown.set(if unknown { self.unknown.get().saturating_add(1) } else { 0 });
        self.unknown.get() >= UNKNOWN_MIN
    }

    /// The task that obeys for it.
    pub fn begun(&self, task: AbortHandle) {
        self.working.replace(Some(task));
    }

    /// Ends that task. There is nothing left to be done.
    pub fn end(&self) {
        if let Some(task) = self.working.take() {
            task.abort();
        }
    }

    /// Only a newer order may be carried out; that it was heard is kept before.
    fn admit(&self, act: &Act) -> Result<bool, String> {
        let mut orders = self.facts.borrow().memory.orders;
        if !orders.admit(&act.order) {
            return Ok(false);
        }
        let news = orders != self.facts.borrow().memory.orders;
        self.remember(|memory| (memory.orders, memory.brief) = (orders, act.brief.clone()))?;
        if news {
            // What an older order could not do is not said of this one.
            self.facts.borrow_mut().refused = None;
        }
        Ok(true)
    }

    /// Changes what is kept; nothing is changed where it cannot be kept.
    fn remember(&self, change: impl FnOnce(&mut Memory)) -> Result<(), String> {
        let mut memory = self.facts.borrow().memory.clone();
        change(&mut memory);
        if memory != self.facts.borrow().memory {
            memory.save(&self.shared.place).map_err(|problem| problem.to_string())?;
            self.facts.borrow_mut().memory = memory;
        }
        Ok(())
    }

    /// The same again goes on; anything else takes its place.
    fn wish(&self, wish: Wish) {
        let mut wanted = self.wanted.borrow_mut();
        if wanted.as_ref() != Some(&wish) {
            *wanted = Some(wish);
            self.facts.borrow_mut().refused = None;
            self.wish_number.set(self.wish_number.get() + 1);
            self.woken.notify_one();
        }
    }

    async fn next_wish(&self) -> (u64, Wish) {
        loop {
            if let Some(wish) = &*self.wanted.borrow() {
                return (self.wish_number.get(), wish.clone());
            }
            self.woken.notified().await;
        }
    }

    async fn superseded(&self, number: u64) {
        while self.wish_number.get() == number {
            self.woken.notified().await;
        }
    }

    async fn obey(self: &Rc<Self>, wish: &Wish) -> Result<(), String> {
        match wish {
            Wish::ShutDown(patience) => self.shut_down(*patience).await,
            Wish::RunOn => self.run_on().await,
            Wish::Act(action, other) => match action {
                Action::Start { epoch, .. } => self.start(*epoch).await,
                Action::Incoming { epoch, .. } => self.incoming(*epoch).await,
                Action::Cont { epoch, .. } => self.cont(*epoch).await,
                Action::Migrate { .. } => self.migrate(other.as_ref()).await,
                Action::Continue { .. } => self.continue_migration().await,
                Action::Cancel { .. } => self.cancel().await,
                Action::Return { epoch, .. } => self.come_back(*epoch).await,
                Action::Destroy { .. } => self.destroy().await,
                Action::Watch { .. } => Ok(()),
                Action::Reserve { .. } | Action::Raise { .. } | Action::Ask { .. } | Action::PowerOff { .. } => {
                    Err("this is not for a host".to_owned())
                }
            },
        }
    }

    fn state(&self) -> State {
        self.facts.borrow().state
    }

    fn epoch(&self) -> Option<Epoch> {
        self.facts.borrow().epoch
    }

    fn vm(&self) -> Option<Rc<Vm>> {
        self.facts.borrow().vm.clone()
    }

    /// Something is new: it is told.
    fn changed(&self) {
        self.shared.voice.changed(&self.name);
    }

    /// Takes note of how the guest is; tells it if that is new.
    fn is_now(&self, state: State) {
        let before = std::mem::replace(&mut self.facts.borrow_mut().state, state);
        if before != state {
            tracing::info!("VM '{}' is {state} (before: {before})", self.name);
            self.changed();
        }
    }

    fn because(&self, why: Option<String>) {
        let before = std::mem::replace(&mut self.facts.borrow_mut().why, why.clone());
        if before != why {
            if let Some(why) = why {
                tracing::info!(vm = %self.name, "{why}");
            }
            self.changed();
        }
    }
}

/// What the store's word on a VM asks of its host, while no job works on it. A start is never among it: that takes a new
/// epoch, so it is a job.
fn wish_for(
    assignment: &Assignment,
    newest: Revision,
    state: State,
    epoch: Option<Epoch>,
    host: HostKey,
) -> Option<Wish> {
    if assignment.job || newest > assignment.at || state == State::Absent {
        return None;
    }
    let stands = matches!(state, State::Loaded | State::Stopped | State::PostMigrate);
    match (assignment.owner, assignment.running) {
        (false, _) => Some(Wish::Act(Action::Destroy { host }, None)),
        (true, true) if stands && epoch == Some(assignment.epoch) => {
            Some(Wish::Act(Action::Cont { host, epoch: assignment.epoch }, None))
        }
        (true, true) => None,
        (true, false) => Some(Wish::ShutDown(assignment.patience_ms)),
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::identity::{Identity, Seat};
    use crate::peer::Brief;
    use crate::root::Root;
    use crate::service::Node;
    use std::path::{Path, PathBuf};
    use std::time::Duration;
    use tokio::runtime::Runtime;
    use tokio::task::LocalSet;

    fn brief() -> Brief {
        Brief {
            vm: "web1".parse().unwrap(),
            uuid: String::new(),
            memory_mib: 64,
            vcpus: 1,
            cpu: None,
            disks: Vec::new(),
            nics: Vec::new(),
            seed: None,
            patience_ms: Millis(1),
            unknown_fields: cluster::store::UnknownFields::default(),
        }
    }

    fn runtime() -> Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    /// A node of its own, in a folder of its own; and where that is.
    fn node(runtime: &Runtime, what: &str) -> (Rc<Node>, PathBuf) {
        let _entered = runtime.enter();
        let base = std::env::temp_dir().join(format!("muskox-{what}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&base);
        let (address, roles) = ("127.0.0.1:1".parse().unwrap(), vec![api::Role::Witness]);
        let seat = Seat { name: "alpha".parse().unwrap(), address, portals: Vec::new(), roles };
        crate::init::init(&Root::new(&base), &seat, 3600).unwrap();
        (again(runtime, &base), base)
    }

    /// Its next life.
    fn again(runtime: &Runtime, base: &Path) -> Rc<Node> {
        let _entered = runtime.enter();
        let root = Root::new(base);
        Rc::new(crate::run::open(root.clone(), Identity::load(&root).unwrap()).unwrap())
    }

    /// Goal: a guest whose task panicked is not taken for one that obeys: the agent ends, and the node with it. Method: its
    /// facts are held for ever when its task looks at them, which is a broken invariant; nothing else is wrong.
    #[test]
    fn a_guest_whose_task_panics_ends_the_agent() {
        let runtime = runtime();
        let (node, base) = node(&runtime, "panic");
        let guest = node.agent.add(Memory::new(brief()));
        let held = guest.facts.borrow_mut();
        let ended = LocalSet::new().block_on(&runtime, async {
            let agent = tokio::task::spawn_local(crate::agent::run(Rc::clone(&node)));
            tokio::time::timeout(Duration::from_secs(10), agent).await.expect("it ends")
        });
        assert!(ended.expect_err("not by itself").is_panic());
        drop(held);
        std::fs::remove_dir_all(base).unwrap();
    }

    async fn ordered(node: &Node, at: u64, action: Action) -> bool {
        let order = Order { vm: brief().vm, job: "j1".parse().unwrap(), at: Revision(at) };
        let acted = node.agent.act(Act { order, action, brief: brief(), other: None }).await;
        // Until it has come to rest.
        for _ in 0..500 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let guest = node.agent.guests.borrow().get(&brief().vm).cloned().expect("it is known");
            if guest.adopted.get() && guest.wanted.borrow().is_none() {
                return acted.admitted;
            }
        }
        panic!("it never came to rest");
    }

    fn knows(node: &Node, base: &Path) -> (bool, bool) {
        let kept = base.join("var/lib/muskox/vm/web1.json").exists();
        (node.agent.all().iter().any(|guest| guest.name.as_str() == "web1"), kept)
    }

    /// Goal: a deleted VM is forgotten for good, file and all, but not before any order of its past has arrived and was refused;
    /// and not while something newer was heard of it, something is wished of it, or something of it may live. Method: the store
    /// says that it does not know it, in each of these; a VM of the same name is made anew; the next life knows neither.
    #[test]
    fn a_deleted_vm_is_forgotten_and_may_be_made_anew() {
        let runtime = runtime();
        let (node, base) = node(&runtime, "forget");
        node.agent.shared.place.make_folders().unwrap();
        let destroy = || Action::Destroy { host: HostKey([7; 32]) };
        LocalSet::new().block_on(&runtime, async {
            assert!(ordered(&node, 5, destroy()).await);
            let guest = node.agent.all()[0].clone();
            assert_eq!((guest.state(), knows(&node, &base)), (State::Absent, (true, true)));
            let said = |at, times| (0..times).for_each(|_| node.agent.forget(&[brief().vm], Revision(at)));
            said(4, 2 * UNKNOWN_MIN);
            assert_eq!(knows(&node, &base), (true, true), "a store that has not seen what was heard");
            guest.facts.borrow_mut().state = State::Stopped;
            said(9, 1);
            guest.facts.borrow_mut().state = State::Absent;
            guest.wish(Wish::ShutDown(Millis(1)));
            said(9, 1);
            assert_eq!(knows(&node, &base), (true, true));
            assert!(ordered(&node, 6, destroy()).await);
            node.agent.forget(&[], Revision(9));
            said(9, UNKNOWN_MIN - 1);
            assert!(!ordered(&node, 5, destroy()).await, "an order that was on its way when it was deleted");
            let task = guest.working.borrow().clone().expect("it works");
            said(9, 1);
            tokio::task::yield_now().await;
            assert_eq!((knows(&node, &base), task.is_finished()), ((false, false), true));
            assert!(ordered(&node, 10, destroy()).await, "one of the same name");
            said(12, UNKNOWN_MIN);
            assert_eq!(knows(&node, &base), (false, false));
        });
        drop(node);
        assert_eq!(knows(&again(&runtime, &base), &base), (false, false));
        std::fs::remove_dir_all(base).unwrap();
    }

    fn assignment(owner: bool, running: bool) -> Assignment {
        let (vm, epoch, at, patience_ms) = (brief().vm, Epoch(7), Revision(5), Millis(9));
        Assignment { vm, owner, epoch, at, job: false, running, patience_ms }
    }

    /// Goal: without a job a host lets run what it owns, ends what it does not, shuts down what should not run, and starts
    /// nothing; an older word than the newest order is nothing. Method: a table.
    #[test]
    fn the_stores_word_is_obeyed_without_a_job() {
        let me = HostKey([7; 32]);
        let wish = |assignment: &Assignment, state, epoch| wish_for(assignment, Revision(5), state, epoch, me);
        let (here, old) = (Some(Epoch(7)), Some(Epoch(6)));
        let cont = Some(Wish::Act(Action::Cont { host: me, epoch: Epoch(7) }, None));
        let destroy = Some(Wish::Act(Action::Destroy { host: me }, None));
        for state in [State::Loaded, State::Stopped, State::PostMigrate] {
            assert_eq!(wish(&assignment(true, true), state, here), cont, "{state:?}");
            assert_eq!(wish(&assignment(true, true), state, old), None, "another epoch is a job's");
        }
        assert_eq!(wish(&assignment(true, true), State::Running, here), None);
        assert_eq!(wish(&assignment(true, true), State::Absent, here), None, "a start is a job");
        assert_eq!(wish(&assignment(false, true), State::Running, old), destroy);
        assert_eq!(wish(&assignment(false, false), State::Absent, None), None);
        assert_eq!(wish(&assignment(true, false), State::Running, here), Some(Wish::ShutDown(Millis(9))));
        assert_eq!(wish(&Assignment { job: true, ..assignment(false, false) }, State::Running, here), None);
        assert_eq!(wish_for(&assignment(false, false), Revision(6), State::Running, here, me), None, "a newer order");
    }
}
