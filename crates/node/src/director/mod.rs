//! What is decided, on the machine with the store: jobs are carried on, hosts are declared dead, guests are placed.
//!
//! ```text
//!  calls (vms, jobs) ─▶ begin ─▶ runs: one task a job ── act ──▶ agents, targets        what they say ─▶ hosts, runs
//!  recover: the dead, the absent, the cold ─▶┘        └─ store
//! ```
//! Invariant: nothing is done that the store does not say; nothing is taken from a host without votes. It does *not* know
//! QEMU, disks or processes: it asks the machines' agents.

mod act;
mod assign;
mod behind;
mod facts;
mod floors;
mod hosts;
mod jobs;
mod place;
mod recover;
mod runs;
#[cfg(test)]
mod test;
mod unknown;
#[cfg(test)]
pub mod versions;
mod view;
mod votes;
mod witnesses;

#[cfg(test)]
pub use assign::told;
pub use behind::{Word, is_behind};
pub use hosts::FRESH;
pub use place::{Fit, admitted, memory, side, still_bound};
pub use recover::DEADLINE as RECOVERY_DEADLINE;
pub use view::{View, Views, get};
pub use witnesses::{keep as keep_sets, sets as witness_sets};

use crate::past;
use crate::peer::{self, Ask, Reply, SyncReport, Synced, Tell};
use crate::registry::Record;
use crate::service::Node;
use crate::store::Store;
use api::{Code, Problem};
use cluster::ha::Restarts;
use cluster::store::Key;
use host::runtime::now;
use hosts::Hosts;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use units::{Epoch, HostKey, Moment, VmName, VolumeName};
use votes::{Ballot, DeadMan, VotedDead};

pub use facts::{key as facts_key, now_ms, of as facts_of};

/// Hosts cannot be switched off from here: there are no fence agents yet.
pub const POWER: bool = false;

/// What will come.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Whom the director speaks to.
pub trait Machines {
    /// Asks a machine.
    fn ask<'a>(&'a self, machine: &'a Record, ask: Ask) -> Later<'a, Result<Reply, Problem>>;
}

/// Who decides. Calls that come before its loops run are told to come again.
#[derive(Default)]
pub struct Director {
    desk: OnceCell<Rc<Desk>>,
}

/// What its tasks share.
pub struct Desk {
    /// This machine.
    pub me: HostKey,
    /// The store.
    pub store: Store,
    /// The other machines.
    pub machines: Rc<dyn Machines>,
    /// This machine's dead-man.
    ballot: Rc<dyn Ballot>,
    /// What the store said last.
    pub views: Views,
    /// What machines said lately.
    pub hosts: RefCell<Hosts>,
    /// Jobs in hand, by VM.
    runs: RefCell<BTreeMap<VmName, runs::Handle>>,
    /// Where a guest goes is decided one after the other: two that look at the same free memory would both take it.
    pub placing: tokio::sync::Mutex<()>,
    restarts: RefCell<BTreeMap<VmName, Restarts>>,
    /// Why nothing was done last, so that it is told once.
    quiet: RefCell<BTreeMap<VmName, String>>,
    /// What could not be read last, so that it is told once.
    unreadable: RefCell<Vec<(Key, String)>>,
    /// Guests that a dead-man stands on, and since when.
    paused: RefCell<BTreeMap<(VmName, HostKey), Moment>>,
    /// Volumes that a guest waits for, since when.
    held: RefCell<BTreeMap<(VmName, HostKey, VolumeName), Moment>>,
    /// Hosts that were voted dead.
    verdicts: RefCell<BTreeMap<HostKey, VotedDead>>,
    /// When each machine's target began its life, as far as floors were told.
    lives: RefCell<BTreeMap<HostKey, Moment>>,
    /// The highest epoch that a target said of each volume.
    granted: RefCell<BTreeMap<VolumeName, Epoch>>,
    began: Moment,
    /// The name of this machine's clock: it begins anew with each boot.
    clock: String,
}

struct Wire(Rc<Node>);

impl Machines for Wire {
    fn ask<'a>(&'a self, machine: &'a Record, ask: Ask) -> Later<'a, Result<Reply, Problem>> {
        Box::pin(peer::ask(&self.0, machine, ask))
    }
}

impl Director {
    /// What its tasks share, once they run.
    ///
    /// # Errors
    /// [`Code::Busy`].
    pub fn desk(&self) -> Result<&Rc<Desk>, Problem> {
        let starting = || Problem::new(Code::Busy, "the director is starting", "ask again");
        self.desk.get().ok_or_else(starting)
    }

    /// A guest changed.
    pub async fn told(&self, _node: &Node, from: &Record, told: Tell) {
        if let Ok(desk) = self.desk() {
            desk.heard(from.key, told);
        }
    }

    /// A machine says how it is; how it should be.
    ///
    /// # Errors
    /// The store's; [`Code::Busy`] at the very start.
    pub async fn synced(&self, node: &Node, from: &Record, report: SyncReport) -> Result<Synced, Problem> {
        let keeper = node.keeper.as_ref().expect("only the machine with the store has a director");
        let desk = self.desk()?;
        let (key, keeps, holder) = (from.key, report.keeps, desk.me);
        if let Some(kept) = report.kept {
            keeper.store.ask(move |engine| past::hear(engine, (key, holder), &kept)).await?;
            // What was found by other witnesses is asked again.
            desk.verdicts.borrow_mut().clear();
        }
        let members = node.members(keeper).await?;
        let synced = desk.synced(from, report.report, members).await?;
        // After that: what is told of witnesses is among what is to be kept.
        let keep = keeper.store.ask(move |engine| past::to_keep(engine, key, keeps)).await?;
        Ok(Synced { keep, ..synced })
    }
}

impl Desk {
    /// The desk of this machine, with nothing on it, since this moment.
    #[must_use]
    pub fn new(
        (me, began): (HostKey, Moment),
        store: Store,
        machines: Rc<dyn Machines>,
        ballot: Rc<dyn Ballot>,
    ) -> Rc<Self> {
        Rc::new(Self {
            me,
            began,
            clock: boot_id(),
            store,
            machines,
            ballot,
            views: Views::default(),
            hosts: RefCell::default(),
            runs: RefCell::default(),
            placing: tokio::sync::Mutex::new(()),
            restarts: RefCell::default(),
            quiet: RefCell::default(),
            unreadable: RefCell::default(),
            paused: RefCell::default(),
            held: RefCell::default(),
            verdicts: RefCell::default(),
            lives: RefCell::default(),
            granted: RefCell::default(),
        })
    }

    /// Everything about all VMs.
    ///
    /// # Errors
    /// The store's.
    pub async fn view(&self) -> Result<Arc<View>, Problem> {
        let views = self.views.clone();
        self.store.ask(move |engine| views.whole(engine)).await
    }
}

/// Which boot this is; nothing, if the kernel does not say. Source: random(4), `boot_id`.
fn boot_id() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.map_or_else(|_| String::new(), |text| text.trim().to_owned())
}

/// Its loops, for ever; nothing on a machine without the store.
pub async fn run(node: Rc<Node>) {
    let Some(keeper) = &node.keeper else {
        return std::future::pending().await;
    };
    let ballot = Rc::new(DeadMan::new(&node.root));
    let desk = Desk::new((node.key, now()), keeper.store.clone(), Rc::new(Wire(Rc::clone(&node))), ballot);
    if keeper.director.desk.set(Rc::clone(&desk)).is_err() {
        unreachable!("a node has one director");
    }
    runs::take_over_all(&desk).await;
    tokio::join!(recover::watch(&desk), recover::tend(&desk));
}
