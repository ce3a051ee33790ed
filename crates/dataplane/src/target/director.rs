//! Who knows all pools: starts and stops their threads, remembers them, and passes on what concerns one of them.
//!
//! It lives on the control thread and touches no disk. One owner per state: a pool's thread owns the pool, this owns the
//! list of them. Nothing here waits while it holds the list.

use crate::control::Answering;
use crate::target::audit::Audit;
use crate::target::config::Config;
use crate::target::known::{Known, KnownError, KnownPool};
use crate::target::pool::{Blueprint, Handle, Knock, Look, Opened, Start, Survey, Wanted, not_here};
use crate::trouble::Troubles;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use units::{HostKey, Moment, PoolName, VolumeName};
use wire::control::{Advice, Code, MemberState, PoolReport, PoolState, Refusal, Reply, Request, StatusReport};
use wire::nbd::{ListedExport, Refusal as NbdRefusal};

/// A pool's thread answers a look within this, or is shown as not answering: its loop never blocks.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Between two looks for the disks of pools that could not be started.
const TRY_EVERY: Duration = Duration::from_secs(3);
/// A disk that somebody holds is tried every so many looks: the start itself waits for it.
const BUSY_ROUNDS: u32 = 3;

/// Paths remembered per pool: twice the slots of the largest mirror.
const PLACES_MAX: usize = 16;

/// The list of pools.
pub struct Director {
    config: Config,
    started: Moment,
    known: RefCell<Known>,
    pools: RefCell<BTreeMap<PoolName, Entry>>,
    /// Volumes being made: a name is given once on the whole target.
    naming: RefCell<BTreeSet<VolumeName>>,
    audit: Audit,
    troubles: Rc<Troubles>,
}

enum Entry {
    /// Being started or stopped.
    Busy(&'static str),
    Running(Rc<Handle>),
    Stopped,
    /// It could not be started; why.
    Failed(Refusal),
    /// The same, and it is being tried again.
    Trying(Refusal),
}

/// What was there when a pool was last tried.
#[derive(Default)]
struct Tried {
    found: Option<Vec<(PathBuf, [u8; 16], u64)>>,
    rounds: u32,
}

impl Tried {
    /// Whether something changed since: other disks, or a disk that somebody held may be free by now.
    fn is_worth_another(&mut self, survey: &Survey, code: Code) -> bool {
        let seen = survey.members.iter().map(|it| (it.path.clone(), it.superblock.device, it.superblock.events));
        let found = Some(seen.collect::<Vec<_>>());
        self.rounds = (self.rounds + 1) % BUSY_ROUNDS;
        let changed = self.found != found;
        self.found = found;
        changed || (code == Code::Busy && self.rounds == 0)
    }
}

impl Director {
    /// A director of what is known, nothing started yet.
    pub fn new(config: Config, known: Known, troubles: Rc<Troubles>) -> Rc<Self> {
        let started = host::runtime::now();
        let (known, audit) = (RefCell::new(known), Audit::new(&config.state_dir));
        Rc::new(Self { config, started, known, pools: RefCell::default(), naming: RefCell::default(), audit, troubles })
    }

    /// Starts every known pool that was not stopped by hand. A pool that cannot be started keeps the others from nothing.
    pub async fn start_known(&self) {
        let known = self.known.borrow().pools().clone();
        let starts = known.into_iter().filter_map(|(name, pool)| {
            let entry = if pool.stopped { Entry::Stopped } else { Entry::Busy("being started") };
            self.pools.borrow_mut().insert(name.clone(), entry);
            (!pool.stopped).then_some((name, pool))
        });
        let starts: Vec<_> = starts.collect();
        futures_util::future::join_all(starts.into_iter().map(|(name, pool)| async move {
            let start = self.known_start(&pool);
            if let Err(refusal) = self.launch(&name, start).await {
                tracing::error!(pool = %name, hint = refusal.hint, "cannot start: {}", refusal.text);
            }
        }))
        .await;
    }

    /// Starts pools that could not be started, when their disks come or are let go. Ends only with its task.
    pub async fn start_what_waits(self: Rc<Self>) {
        let mut tried: BTreeMap<PoolName, Tried> = BTreeMap::new();
        loop {
            tokio::time::sleep(TRY_EVERY).await;
            let known = self.known.borrow().pools().clone();
            for (name, pool) in known.into_iter().filter(|(_, pool)| !pool.stopped) {
                let Some(refusal) = self.why_failed(&name) else { continue };
                let Start::Assemble { array, paths, .. } = self.known_start(&pool) else { continue };
                let survey = Wanted { name: name.clone(), array }.survey(&paths, true).await;
                let before = tried.entry(name.clone()).or_default();
                if survey.members.is_empty() || !before.is_worth_another(&survey, refusal.code) {
                    continue;
                }
                // Somebody may have asked for a start meanwhile.
                if self.why_failed(&name).is_some() {
                    self.pools.borrow_mut().insert(name.clone(), Entry::Trying(refusal.clone()));
                    self.try_again(&name, self.known_start(&pool), &refusal).await;
                }
            }
        }
    }

    async fn try_again(&self, name: &PoolName, start: Start, before: &Refusal) {
        match self.launch(name, start).await {
            Ok(_) => tracing::warn!(pool = %name, "started, its disks are here now"),
            Err(refusal) if refusal == *before => {}
            Err(refusal) => tracing::error!(pool = %name, hint = refusal.hint, "cannot start: {}", refusal.text),
        }
    }

    fn why_failed(&self, name: &PoolName) -> Option<Refusal> {
        match self.pools.borrow().get(name) {
            Some(Entry::Failed(refusal)) => Some(refusal.clone()),
            _ => None,
        }
    }

    fn known_start(&self, pool: &KnownPool) -> Start {
        let paths = self.places(&pool.members, &[]);
        Start::Assemble { array: Some(pool.array), paths, degraded: false, everywhere: true }
    }

    /// Stops every pool, all at once, and waits for their threads.
    pub async fn stop_all(&self) {
        let entries = std::mem::take(&mut *self.pools.borrow_mut());
        let running = entries.into_iter().filter_map(|(name, entry)| match entry {
            Entry::Running(handle) => Some((name, handle)),
            _ => None,
        });
        futures_util::future::join_all(running.map(|(name, handle)| async move {
            match handle.stop().await {
                Ok(()) => tracing::info!(pool = %name, "stopped, its members are clean"),
                Err(refusal) => tracing::error!(pool = %name, "did not stop cleanly: {}", refusal.text),
            }
        }))
        .await;
    }

    /// Opens an export for a client that is `knock.host`.
    ///
    /// # Errors
    /// What to tell the client.
    pub async fn open(&self, knock: Knock) -> Result<Opened, NbdRefusal> {
        let volume = &knock.name.volume;
        let Ok(handle) = self.holder(volume) else {
            tracing::info!(peer = knock.peer, host = %knock.host, "refused: no volume '{volume}' is served here");
            return Err(not_here(volume, knock.host));
        };
        handle.open(knock).await
    }

    /// What a client may see of the exports: what it was granted or promised.
    pub async fn exports(&self, host: HostKey) -> Vec<ListedExport> {
        let handles = self.handles();
        let lists = futures_util::future::join_all(handles.iter().map(|(_, handle)| handle.exports(host))).await;
        lists.into_iter().flatten().collect()
    }

    async fn create(&self, pool: PoolName, start: Start) -> Result<Reply, Refusal> {
        if self.pools.borrow().contains_key(&pool) {
            let text = format!("there is a pool '{pool}' already: choose another name");
            return Err(Refusal::advised(Code::Exists, text, Advice::ListPools));
        }
        self.pools.borrow_mut().insert(pool.clone(), Entry::Busy("being made"));
        let made = self.launch(&pool, start).await;
        if made.is_err() {
            self.pools.borrow_mut().remove(&pool);
        }
        made.map(Reply::Pool)
    }

    async fn start(&self, pool: PoolName, members: Vec<PathBuf>, degraded: bool) -> Result<Reply, Refusal> {
        let known = self.known.borrow().pools().get(&pool).cloned();
        match self.pools.borrow().get(&pool) {
            Some(Entry::Running(_)) => {
                return Err(Refusal::new(Code::Exists, format!("the pool '{pool}' is running already"), ""));
            }
            Some(Entry::Busy(what)) => return Err(busy(&pool, what)),
            Some(Entry::Trying(_)) => return Err(busy(&pool, "being started")),
            Some(Entry::Stopped | Entry::Failed(_)) | None => {}
        }
        // Who names disks with that word says which of the members to go on with: no others are looked for.
        let chosen = degraded && !members.is_empty();
        let places = if chosen {
            members
        } else {
            self.places(known.as_ref().map_or(&[][..], |known| &known.members), &members)
        };
        if places.is_empty() {
            let text = format!("no pool '{pool}' is known here");
            return Err(Refusal::advised(Code::NotFound, text, Advice::NameDisks));
        }
        let fresh = self.pools.borrow_mut().insert(pool.clone(), Entry::Busy("being started")).is_none();
        let array = known.map(|known| known.array);
        let started = self.launch(&pool, Start::Assemble { array, paths: places, degraded, everywhere: !chosen }).await;
        if started.is_err() && fresh {
            self.pools.borrow_mut().remove(&pool);
        }
        started.map(Reply::Pool)
    }

    /// Starts a pool's thread and waits until it serves. The entry says `Busy` before and the outcome after.
    async fn launch(&self, pool: &PoolName, start: Start) -> Result<PoolReport, Refusal> {
        let (pool_name, state_dir, audit) = (pool.clone(), self.config.state_dir.clone(), self.audit.clone());
        let outcome = Handle::launch(Blueprint { pool: pool_name, start, state_dir, audit }).await;
        let (entry, outcome) = match outcome {
            Ok((handle, report)) => (Entry::Running(Rc::new(handle)), Ok(report)),
            Err(refusal) => (Entry::Failed(refusal.clone()), Err(refusal)),
        };
        self.pools.borrow_mut().insert(pool.clone(), entry);
        let report = outcome?;
        self.remember(pool, &report, false).map_err(|error| not_remembered(pool, &error))?;
        Ok(report)
    }

    async fn stop(&self, pool: PoolName) -> Result<Reply, Refusal> {
        let handle = self.running(&pool)?;
        let report = handle.look(LOOK_MAX).await.map(|look| look.pool);
        self.pools.borrow_mut().insert(pool.clone(), Entry::Busy("being stopped"));
        let stopped = handle.stop().await;
        self.pools.borrow_mut().insert(pool.clone(), Entry::Stopped);
        stopped?;
        if let Some(report) = report {
            self.remember(&pool, &report, true).map_err(|error| not_remembered(&pool, &error))?;
        }
        Ok(Reply::Done)
    }

    async fn show(&self, pool: &PoolName) -> Result<Reply, Refusal> {
        if !self.pools.borrow().contains_key(pool) {
            return Err(no_pool(pool));
        }
        let all = self.look().await.pools;
        all.into_iter().find(|report| report.pool == *pool).map(Reply::Pool).ok_or_else(|| no_pool(pool))
    }

    async fn status(&self) -> StatusReport {
        StatusReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            up: host::runtime::now().since(self.started),
            troubles: self.troubles.list(),
            ..self.look().await
        }
    }

    /// What all pools show, in one report whose head is filled in by the caller.
    async fn look(&self) -> StatusReport {
        let empty = StatusReport {
            version: String::new(),
            up: units::Millis(0),
            pools: Vec::new(),
            volumes: Vec::new(),
            sessions: Vec::new(),
            troubles: Vec::new(),
        };
        let names: Vec<PoolName> = self.pools.borrow().keys().cloned().collect();
        let looks = futures_util::future::join_all(names.iter().map(|name| self.look_at(name))).await;
        looks.into_iter().fold(empty, |mut all, look| {
            all.pools.push(look.pool);
            all.volumes.extend(look.volumes);
            all.sessions.extend(look.sessions);
            all
        })
    }

    async fn look_at(&self, name: &PoolName) -> Look {
        let alone = |state, reason: &str| {
            let pool = PoolReport::without_members(name.clone(), state, reason);
            Look { pool, volumes: Vec::new(), sessions: Vec::new() }
        };
        let handle = match self.pools.borrow().get(name) {
            Some(Entry::Running(handle)) => Rc::clone(handle),
            Some(Entry::Busy(what)) => return alone(PoolState::Stopped, what),
            Some(Entry::Stopped) | None => return alone(PoolState::Stopped, ""),
            Some(Entry::Failed(refusal) | Entry::Trying(refusal)) => return alone(PoolState::Failed, &refusal.text),
        };
        let look = handle.look(LOOK_MAX).await;
        look.unwrap_or_else(|| alone(PoolState::Failed, "its thread does not answer: see the log"))
    }

    fn handles(&self) -> Vec<(PoolName, Rc<Handle>)> {
        let pools = self.pools.borrow();
        let running = pools.iter().filter_map(|(name, entry)| match entry {
            Entry::Running(handle) => Some((name.clone(), Rc::clone(handle))),
            _ => None,
        });
        running.collect()
    }

    fn running(&self, pool: &PoolName) -> Result<Rc<Handle>, Refusal> {
        match self.pools.borrow().get(pool) {
            Some(Entry::Running(handle)) => Ok(Rc::clone(handle)),
            Some(Entry::Busy(what)) => Err(busy(pool, what)),
            Some(Entry::Failed(refusal) | Entry::Trying(refusal)) => Err(refusal.clone()),
            Some(Entry::Stopped) => {
                Err(Refusal::advised(Code::Busy, format!("the pool '{pool}' is stopped"), Advice::StartPool))
            }
            None => Err(no_pool(pool)),
        }
    }

    /// The pool that has a volume.
    fn holder(&self, volume: &VolumeName) -> Result<Rc<Handle>, Refusal> {
        let found = self.handles().into_iter().find(|(_, handle)| handle.has(volume)).map(|(_, handle)| handle);
        found.ok_or_else(|| {
            let text = format!("no running pool has a volume '{volume}'");
            Refusal::advised(Code::NotFound, text, Advice::ListVolumes)
        })
    }

    /// Keeps a name for a volume that is being made.
    fn take_name(&self, volume: &VolumeName) -> Result<impl Drop + use<'_>, Refusal> {
        struct Taken<'a>(&'a Director, VolumeName);
        impl Drop for Taken<'_> {
            fn drop(&mut self) {
                self.0.naming.borrow_mut().remove(&self.1);
            }
        }
        if self.holder(volume).is_ok() || !self.naming.borrow_mut().insert(volume.clone()) {
            let text = format!("there is a volume '{volume}' on this target already");
            return Err(Refusal::new(Code::Exists, text, "choose another name"));
        }
        Ok(Taken(self, volume.clone()))
    }

    /// Where a pool's members may be: where they were, where the caller says, where the configuration says.
    fn places(&self, known: &[PathBuf], said: &[PathBuf]) -> Vec<PathBuf> {
        let mut places: Vec<PathBuf> = Vec::new();
        for path in said.iter().chain(known).chain(&self.config.disks) {
            if !places.contains(path) {
                places.push(path.clone());
            }
        }
        places
    }

    fn remember(&self, pool: &PoolName, report: &PoolReport, stopped: bool) -> Result<(), KnownError> {
        let Some(array) = report.array else { return Ok(()) };
        let mut members: Vec<PathBuf> = Vec::new();
        let whole = report.members.iter().all(|member| member.state == MemberState::InSync);
        let here = report.members.iter().filter(|member| member.state != MemberState::Missing);
        // Where a missing member was is where it will most likely come back.
        let before = self.known.borrow().pools().get(pool).filter(|_| !whole).map(|known| known.members.clone());
        for path in here.map(|member| PathBuf::from(&member.path)).chain(before.unwrap_or_default()) {
            if !members.contains(&path) && members.len() < PLACES_MAX {
                members.push(path);
            }
        }
        self.known.borrow_mut().remember(pool, KnownPool { array, members, stopped, more: BTreeMap::new() })
    }

    fn remember_members(&self, pool: &PoolName, reply: &Reply) {
        let Reply::Pool(report) = reply else { return };
        if let Err(error) = self.remember(pool, report, false) {
            tracing::error!(%pool, %error, "the new members were not remembered: name them in 'disks' before a restart");
        }
    }
}

impl Answering for Director {
    /// Does what a control request asks.
    ///
    /// # Errors
    /// What to tell who asked.
    async fn answer(&self, request: Request) -> Result<Reply, Refusal> {
        match request {
            Request::Status => Ok(Reply::Status(self.status().await)),
            Request::PoolList => Ok(Reply::Pools(self.look().await.pools)),
            Request::PoolCreate { pool, members, wipe, single } => {
                self.create(pool, Start::Create { members: paths(&members), wipe, single }).await
            }
            Request::PoolStart { pool, members, degraded } => self.start(pool, paths(&members), degraded).await,
            Request::PoolStop { pool } => self.stop(pool).await,
            Request::PoolShow { pool } => self.show(&pool).await,
            Request::VolumeList { pool } => {
                let all = self.look().await.volumes.into_iter();
                Ok(Reply::Volumes(all.filter(|volume| pool.as_ref().is_none_or(|pool| *pool == volume.pool)).collect()))
            }
            Request::VolumeCreate { ref pool, ref volume, .. } => {
                let (handle, volume) = (self.running(pool)?, volume.clone());
                let _name = self.take_name(&volume)?;
                handle.ask(request).await
            }
            Request::MemberFail { ref pool, .. }
            | Request::MemberAdd { ref pool, .. }
            | Request::MemberReplace { ref pool, .. } => {
                let pool = pool.clone();
                let reply = self.running(&pool)?.ask(request).await?;
                self.remember_members(&pool, &reply);
                Ok(reply)
            }
            Request::VolumeRemove { ref volume }
            | Request::GrantShow { ref volume }
            | Request::Floor { ref volume, .. }
            | Request::Reserve { ref volume, .. }
            | Request::Raise { ref volume, .. }
            | Request::Override { ref volume, .. } => self.holder(volume)?.ask(request).await,
            Request::Renew | Request::Vote { .. } | Request::Votes { .. } | Request::Reload => {
                let text = "a target grants no leases and does not vote";
                Err(Refusal::new(Code::Invalid, text, "ask this machine's `muskox deadman`"))
            }
        }
    }
}

fn paths(texts: &[String]) -> Vec<PathBuf> {
    texts.iter().map(PathBuf::from).collect()
}

fn no_pool(pool: &PoolName) -> Refusal {
    Refusal::advised(Code::NotFound, format!("there is no pool '{pool}'"), Advice::ListPools)
}

fn busy(pool: &PoolName, what: &str) -> Refusal {
    Refusal::new(Code::Busy, format!("the pool '{pool}' is {what}"), "wait a moment and ask again")
}

fn not_remembered(pool: &PoolName, error: &KnownError) -> Refusal {
    let text = format!("the pool '{pool}' was changed, but that was not remembered: {error}");
    Refusal::new(Code::Failed, text, error.hint())
}
