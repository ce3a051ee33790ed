//! Three hosts, one of them with the target, and their witnesses, as scripts: they do at once what they are asked unless
//! they are told to be dead, deaf or stuck. The store is a real one, in memory; jobs, clocks and tasks are the real ones.

use super::super::votes::Ballot;
use super::super::{Desk, Later, Machines};
use crate::identity::Seat;
use crate::peer::{Act, Acted, Ask, HostReport, Processor, Reply, Tell};
use crate::registry::{self, Record, Settings};
use crate::secret::Secret;
use crate::storage::object::{VolumeObject, volume_key};
use crate::store::{Store, failed};
use api::{Code, NodeList, Problem, Role};
use cluster::ha::Answer;
use cluster::job::{Action, Guest, Orders};
use cluster::lease::Vote;
use cluster::store::{Backup, Memory, Txn, UnknownFields};
use host::runtime::now;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::{Rc, Weak};
use std::time::Duration;
use units::{ByteLen, CaFingerprint, Epoch, HostKey, Millis, Moment, VmName, VolumeId, VolumeName};
use wire::control::{self, GrantReport, Refusal, Request, ServeState};

pub const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];
/// Tests wait at most so long for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub store: Store,
    pub state: RefCell<State>,
    desk: RefCell<Weak<Desk>>,
}

#[derive(Default)]
pub struct State {
    /// Machines that do not answer.
    pub dead: BTreeSet<usize>,
    /// The target of alpha does not answer.
    pub target_down: bool,
    /// Sources that copy memory for ever.
    pub stuck: bool,
    /// Hosts whose guests do not start.
    pub sluggish: BTreeSet<usize>,
    pub no_qemu: BTreeSet<usize>,
    /// The processors of hosts that have others than the rest.
    pub processors: BTreeMap<usize, Option<Processor>>,
    /// Hosts that run guests by KVM.
    pub kvm: BTreeSet<usize>,
    /// Hosts whose QEMU has no machine type of ours.
    pub no_machine: BTreeSet<usize>,
    /// Hosts that call, and do not answer when they are looked at.
    pub mute: BTreeSet<usize>,
    /// Hosts whose dead-men let no guest run.
    pub withheld: BTreeSet<usize>,
    /// Hosts whose bridge `lan` has no carrier.
    pub unplugged: BTreeSet<usize>,
    pub floors: BTreeMap<VolumeName, Epoch>,
    pub guests: BTreeMap<(usize, VmName), Tell>,
    pub orders: BTreeMap<(usize, VmName), Orders>,
    pub silent: BTreeMap<usize, Millis>,
    pub votes: Vec<usize>,
    pub starts: Vec<(usize, Moment)>,
    /// Machines that cannot list what they have.
    pub blind: BTreeSet<usize>,
    /// Machines that do not do what they are told, and what they say.
    pub refuses: BTreeMap<usize, Refuses>,
    /// What alpha's target says to every raise.
    pub target_refuses: Option<Refusal>,
    /// Which life of their agents reports are of.
    pub life: u64,
}

/// How a machine refuses.
#[derive(Clone)]
pub enum Refuses {
    /// It takes no order: it cannot keep it.
    Order(String),
    /// It took the order and cannot do it.
    Deed(String),
    /// It is at it, and something keeps it from being done.
    Waits(String),
}

pub fn key(n: usize) -> HostKey {
    HostKey([u8::try_from(n).expect("three"); 32])
}

fn index(key: HostKey) -> usize {
    usize::from(key.0[0])
}

pub fn record(n: usize) -> Record {
    let mut roles = vec![Role::Host, Role::Witness];
    if n == 0 {
        roles.push(Role::Storage);
    }
    let address = format!("127.0.0.{}:10811", n + 1).parse().expect("an address");
    Record::new(Seat { name: NAMES[n].parse().expect("a name"), address, portals: Vec::new(), roles }, key(n), 0)
}

pub fn spec(name: &str, more: &str) -> String {
    format!("name='{name}'\nmemory=512\nvcpus=1\n{more}\n[[disk]]\nvolume='{name}'\n[[nic]]\nbridge='lan'\n")
}

impl World {
    /// A cluster with a volume for each of these names.
    pub async fn new(volumes: &[&str]) -> Rc<Self> {
        let store = Store::serve(Memory::new()).expect("a thread");
        let volumes: Vec<VolumeName> = volumes.iter().map(|name| name.parse().expect("a name")).collect();
        let found = move |engine: &mut dyn cluster::store::Engine| {
            registry::found(engine, &record(0), Settings::new(1_000))?;
            let nodes =
                (1..3).map(|n| registry::put(&format!("/node/{}", NAMES[n]).parse().expect("a key"), &record(n)));
            let volumes = volumes.into_iter().map(|name| {
                let (pool, node) = ("tank".parse().expect("a name"), NAMES[0].parse().expect("a name"));
                let (id, size) = (Some(VolumeId([7; 16])), ByteLen::mib(64));
                let unknown_fields = UnknownFields::default();
                let volume = VolumeObject { version: 1, name, id, pool, node, size, vm: None, unknown_fields };
                registry::put(&volume_key(&volume.name), &volume)
            });
            let txn = Txn { then: nodes.chain(volumes).collect(), ..Txn::default() };
            engine.txn(&txn).map(drop).map_err(|error| failed(&error))
        };
        store.ask(found).await.expect("an empty store");
        Rc::new(Self { store, state: RefCell::default(), desk: RefCell::default() })
    }

    /// The same machines with another store, made anew from a backup. The former director has to be gone.
    pub async fn restored(&self, backup: Backup) -> Rc<Self> {
        let store = Store::serve(Memory::new()).expect("a thread");
        let restore = move |engine: &mut dyn cluster::store::Engine| engine.restore(&backup).map_err(|it| failed(&it));
        store.ask(restore).await.expect("it is one");
        Rc::new(Self { store, state: RefCell::new(self.state.take()), desk: RefCell::default() })
    }

    /// A director, that has run for a while, with machines that call it.
    pub async fn direct(self: &Rc<Self>) -> Rc<Desk> {
        self.direct_since(Moment(now().0.saturating_sub(10_000))).await
    }

    /// A director that began at this moment.
    pub async fn direct_since(self: &Rc<Self>, began: Moment) -> Rc<Desk> {
        let machines: Rc<dyn Machines> = Rc::clone(self) as _;
        let desk = Desk::new((key(0), began), self.store.clone(), machines, Rc::clone(self) as Rc<dyn Ballot>);
        self.desk.replace(Rc::downgrade(&desk));
        self.sync_all(&desk).await;
        let (world, calls) = (Rc::clone(self), Rc::downgrade(&desk));
        tokio::task::spawn_local(async move {
            while let Some(desk) = calls.upgrade() {
                world.sync_all(&desk).await;
                drop(desk);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        desk
    }

    /// Every living machine calls.
    pub async fn sync_all(&self, desk: &Rc<Desk>) {
        for n in 0..3 {
            if !self.state.borrow().dead.contains(&n) {
                let members = NodeList { cluster: CaFingerprint([1; 32]), nodes: Vec::new() };
                desk.synced(&record(n), self.report(n), members).await.expect("the store works");
            }
        }
    }

    pub fn report(&self, n: usize) -> HostReport {
        let state = self.state.borrow();
        let guests = state.guests.iter().filter(|((host, _), _)| *host == n).map(|(_, tell)| tell.clone());
        let mut report = super::super::hosts::test::report(guests.collect());
        report.sequence.life = state.life;
        if state.no_qemu.contains(&n) {
            report.qemu = None;
        }
        if state.no_machine.contains(&n) {
            report.lacks_machine = Some("pc-q35-7.2".to_owned());
        }
        if state.kvm.contains(&n) {
            report.accelerator = "kvm".to_owned();
        }
        report.withheld = state.withheld.contains(&n).then(|| "the dead-man pauses all guests".to_owned());
        if state.unplugged.contains(&n) {
            let why = "its port 'eth1' has no carrier".to_owned();
            (report.bridges, report.bridges_out) = (Vec::new(), vec![("lan".to_owned(), why)]);
        }
        if state.blind.contains(&n) {
            (report.unlisted, report.guests) = (Some("the disk fails".to_owned()), Vec::new());
        }
        report
    }

    /// A guest changes by itself, and its host tells.
    pub fn becomes(&self, n: usize, vm: &str, change: impl FnOnce(&mut Tell)) {
        let vm: VmName = vm.parse().expect("a name");
        let tell = {
            let mut state = self.state.borrow_mut();
            let tell = state.guests.get_mut(&(n, vm)).expect("it is there");
            change(tell);
            tell.clone()
        };
        if let Some(desk) = self.desk.borrow().upgrade() {
            desk.heard(key(n), tell);
        }
    }

    fn act(&self, n: usize, act: &Act) -> Acted {
        let (vm, place) = (act.order.vm.clone(), (n, act.order.vm.clone()));
        if let Some(Refuses::Order(why)) = self.state.borrow().refuses.get(&n) {
            let told = super::super::hosts::test::tell(vm.as_str(), 0, Guest::Absent);
            return Acted { admitted: false, why: Some(why.clone()), told };
        }
        let admitted = self.state.borrow_mut().orders.entry(place.clone()).or_default().admit(&act.order);
        let mut tell = self
            .state
            .borrow()
            .guests
            .get(&place)
            .cloned()
            .unwrap_or_else(|| super::super::hosts::test::tell(vm.as_str(), 0, Guest::Absent));
        let unknown =
            tell.guest == Guest::Unknown && !(tell.nothing_runs && matches!(act.action, Action::Destroy { .. }));
        if !admitted || unknown {
            let why = unknown.then(|| "it is not known here".to_owned());
            return Acted { admitted: false, why, told: tell };
        }
        tell.at = act.order.at;
        tell.powered_off = false;
        let before = tell.clone();
        self.obey(n, act, &mut tell);
        let begun = matches!(act.action, Action::Incoming { .. }) && before.guest == Guest::Absent;
        self.state.borrow_mut().guests.insert(place, tell.clone());
        Acted { admitted, why: None, told: if begun { before } else { tell } }
    }

    fn obey(&self, n: usize, act: &Act, tell: &mut Tell) {
        let mut state = self.state.borrow_mut();
        let does = matches!(act.action, Action::Start { .. } | Action::Incoming { .. } | Action::Migrate { .. });
        match state.refuses.get(&n).filter(|_| does) {
            // As an agent says it: with its machine's name.
            Some(Refuses::Deed(why)) => {
                return tell.refused = Some((act.action.clone(), format!("'{}': {why}", NAMES[n])));
            }
            Some(Refuses::Waits(why)) => return tell.why = Some(why.clone()),
            Some(Refuses::Order(_)) | None => {}
        }
        match &act.action {
            Action::Start { .. } if state.sluggish.contains(&n) => {}
            Action::Start { epoch, .. } if tell.guest != Guest::Running => {
                state.starts.push((n, now()));
                (tell.guest, tell.epoch) = (Guest::Running, Some(*epoch));
            }
            Action::Destroy { .. } => (tell.guest, tell.epoch) = (Guest::Absent, None),
            Action::Incoming { epoch, .. } if tell.guest == Guest::Absent => {
                tell.epoch = Some(*epoch);
                // As real ones: what is old is destroyed first, and that is told.
                let (desk, host, mut later) = (self.desk.borrow().clone(), key(n), tell.clone());
                (later.guest, later.port) = (Guest::Incoming, Some(10_820));
                later.move_key = Some(Secret::new([n.to_le_bytes()[0]; 32]));
                (tell.guest, tell.port, tell.move_key) = (later.guest, later.port, later.move_key.clone());
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    desk.upgrade().expect("the test goes on").heard(host, later);
                });
            }
            Action::Migrate { .. } if state.stuck => tell.guest = Guest::Copying,
            Action::Migrate { .. } => {
                let other = act.other.as_ref().expect("a destination");
                // CA3: the source gets the destination's port and its key of this move.
                let key = Secret::new([index(other.key).to_le_bytes()[0]; 32]);
                assert_eq!((other.port, &other.move_key), (Some(10_820), &Some(key)));
                (tell.guest, tell.stopped_ago_ms) = (Guest::PreSwitchover, Some(Millis(0)));
            }
            Action::Continue { .. } => {
                tell.guest = Guest::PostMigrate;
                drop(state);
                let other = index(act.other.as_ref().expect("a destination").key);
                let at = act.order.at;
                self.becomes(other, tell.vm.as_str(), |tell| (tell.guest, tell.at) = (Guest::Loaded, at));
            }
            Action::Cont { .. } => (tell.guest, tell.resumed_ago_ms) = (Guest::Running, Some(Millis(0))),
            Action::Cancel { .. } => tell.guest = Guest::Running,
            _ => {}
        }
    }

    fn target(&self, request: Request) -> Result<control::Reply, Refusal> {
        let mut state = self.state.borrow_mut();
        if let (Request::Raise { .. }, Some(refusal)) = (&request, &state.target_refuses) {
            return Err(refusal.clone());
        }
        let floors = &mut state.floors;
        match request {
            Request::Raise { volume, epoch, .. } if floors.get(&volume).is_some_and(|floor| epoch < *floor) => {
                Err(Refusal::new(control::Code::Fenced, "an older epoch", ""))
            }
            Request::Raise { volume, epoch, .. } | Request::Floor { volume, epoch } => {
                let floor = floors.entry(volume.clone()).or_default();
                *floor = epoch.max(*floor);
                Ok(grant(volume, *floor))
            }
            Request::GrantShow { volume } => {
                let floor = floors.get(&volume).copied().unwrap_or_default();
                Ok(grant(volume, floor))
            }
            _ => Ok(control::Reply::Done),
        }
    }
}

/// A processor with these flags, and two models: one that it has all of, one of which it lacks `rtm`.
pub fn processor_with(flags: &[&str]) -> Processor {
    let set = |flags: &[&str]| flags.iter().map(ToString::to_string).collect();
    let lacking = [("qemu64", set(&[])), ("Haswell", set(&["rtm"])), ("max", set(&[]))];
    let lacking = lacking.into_iter().map(|(model, lacks)| (model.to_owned(), lacks)).collect();
    Processor { vendor: "GenuineIntel".to_owned(), flags: set(flags), lacking }
}

fn grant(volume: VolumeName, epoch: Epoch) -> control::Reply {
    control::Reply::Grant(GrantReport {
        volume,
        epoch,
        granted: epoch,
        owners: Vec::new(),
        reservation: None,
        shared: false,
        state: ServeState::Serving,
        reason: None,
        overridden: None,
    })
}

impl Machines for World {
    fn ask<'a>(&'a self, machine: &'a Record, ask: Ask) -> Later<'a, Result<Reply, Problem>> {
        let n = index(machine.key);
        Box::pin(async move {
            let silent = || Problem::new(Code::Unreachable, "it does not answer", "");
            if self.state.borrow().dead.contains(&n) {
                return Err(silent());
            }
            if matches!(ask, Ask::Look) && self.state.borrow().mute.contains(&n) {
                std::future::pending::<()>().await;
            }
            match ask {
                Ask::Target { .. } if self.state.borrow().target_down => Err(silent()),
                Ask::Target { request } => Ok(Reply::Target { answer: self.target(request) }),
                Ask::Act(act) => Ok(Reply::Acted(self.act(n, &act))),
                Ask::Look => {
                    let processor = self.state.borrow().processors.get(&n).cloned();
                    let processor = processor.unwrap_or_else(|| Some(processor_with(&["avx2", "sse2"])));
                    Ok(Reply::Look(Box::new(HostReport { processor, ..self.report(n) })))
                }
                Ask::Adopt(adopt) => {
                    self.becomes(n, adopt.brief.vm.as_str(), |tell| {
                        (tell.guest, tell.at, tell.why) = (Guest::Running, adopt.at, None);
                    });
                    Ok(Reply::Done)
                }
                Ask::Forget { vm } => {
                    self.becomes(n, vm.as_str(), |tell| (tell.guest, tell.epoch) = (Guest::Absent, None));
                    Ok(Reply::Done)
                }
                other => panic!("nobody asks a machine for {other:?}"),
            }
        })
    }
}

impl Ballot for World {
    fn silence(&self) -> Later<'_, Result<Vec<(HostKey, Millis)>, Problem>> {
        let silent = self.state.borrow().silent.iter().map(|(n, silent)| (key(*n), *silent)).collect();
        Box::pin(async { Ok(silent) })
    }

    fn votes(&self, host: HostKey) -> Later<'_, Result<Vec<Answer>, Problem>> {
        let vote = match self.state.borrow().dead.contains(&index(host)) {
            true => Vote::Dead { valid_for: Millis(10_000) },
            false => Vote::Alive { silent_for: Millis(0) },
        };
        let answers = self.state.borrow().votes.iter().map(|n| Answer { by: key(*n), asked: now(), vote }).collect();
        Box::pin(async { Ok(answers) })
    }
}

/// Runs a test as a node runs its tasks.
pub fn local<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

/// Waits until it is so.
pub async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("it never came to be: {what}"));
}

/// Waits for a job's end.
pub async fn ended(desk: &Rc<Desk>, job: &str) -> api::Job {
    until("the job's end", async || desk.job_show(job).await.expect("it is there").outcome.is_some()).await;
    desk.job_show(job).await.expect("it is there")
}

/// A VM that runs on this host.
pub async fn running(desk: &Rc<Desk>, vm: &str, host: usize) {
    if desk.vm_show(vm).await.is_err() {
        desk.vm_create(&spec(vm, "")).await.expect("it is made");
    }
    let request = api::VmStartRequest { host: Some(NAMES[host].parse().expect("a name")), overcommit: false };
    let begun = desk.vm_start(vm, &request, "the test").await.expect("it begins");
    let job = ended(desk, &begun.job.expect("a job")).await;
    assert_eq!(job.outcome.as_deref(), Some("done"), "{job:?}");
}
