//! The pool's own thread: what it holds, and the loop that takes messages.

use super::array::{OpenedPool, PoolArray, open};
use super::export::Exports;
use super::membership::Members;
use super::places::Places;
use super::returning::Remark;
use super::{Blueprint, Look, Message, Names, Start};
use crate::target::audit::Audit;
use block::runtime::{Rt, sleep};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, oneshot};
use units::{Millis, PoolName};
use wire::control::{Code, PoolReport, PoolState, Refusal};

/// Sessions end by themselves within this once they are told to: their answers get 10 s to leave.
const SESSIONS_END_MAX: Duration = Duration::from_secs(12);

/// How often the pool looks at its members: for a person reading the log, and for gates that wait for a member.
const WATCH_EVERY: Millis = Millis(1000);

/// All of a pool, on its thread.
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// Moments and tasks.
    pub rt: Rt,
    /// The members and the array.
    pub array: PoolArray,
    /// Who was granted what.
    pub audit: Audit,
    /// The volumes and who uses them.
    pub exports: Exports,
    /// On which disks its members were.
    pub places: RefCell<Places>,
    /// Where members are looked for besides.
    pub named: Vec<PathBuf>,
    /// Disks that were left out when they were last looked for, and why: `PATH: why`.
    pub left_out: RefCell<Vec<String>>,
    /// Why disks that are where a member was, or say to be one, were not taken back.
    pub remarks: RefCell<BTreeMap<PathBuf, Remark>>,
    /// One change of members or volumes at a time: each is several steps.
    pub changing: Mutex<()>,
}

/// The thread's work, from the first disk opened to the last closed.
pub async fn run(
    rt: Rt,
    mut inbox: mpsc::Receiver<Message>,
    blueprint: Blueprint,
    names: Names,
    ready: oneshot::Sender<Result<PoolReport, Refusal>>,
) {
    let pool = match bring_up(&rt, blueprint, names).await {
        Ok(pool) => pool,
        Err(refusal) => {
            let _ = ready.send(Err(refusal));
            return;
        }
    };
    let report = pool.report().await;
    let watch = tokio::task::spawn_local(Rc::clone(&pool).watch(report.state));
    let returning = tokio::task::spawn_local(Rc::clone(&pool).take_absent_back());
    if ready.send(Ok(report)).is_ok() {
        take_messages(&pool, &mut inbox).await;
    } else {
        let _ = pool.stop().await;
    }
    watch.abort();
    returning.abort();
}

async fn take_messages(pool: &Rc<Pool>, inbox: &mut mpsc::Receiver<Message>) {
    while let Some(message) = inbox.recv().await {
        match message {
            Message::Stop(answer) => {
                let _ = answer.send(pool.stop().await);
                return;
            }
            message => {
                tokio::task::spawn_local(Rc::clone(pool).take(message));
            }
        }
    }
    let _ = pool.stop().await;
}

async fn bring_up(rt: &Rt, blueprint: Blueprint, names: Names) -> Result<Rc<Pool>, Refusal> {
    let Blueprint { pool: name, start, state_dir, audit } = blueprint;
    let named = match &start {
        Start::Assemble { paths, .. } => paths.clone(),
        Start::Create { .. } => Vec::new(),
    };
    let OpenedPool { array, group, notes } = open(rt, &name, start, Rc::new(Members::new(&state_dir))).await?;
    let pool = Rc::new(Pool {
        name,
        rt: Rc::clone(rt),
        audit,
        exports: Exports::new(group, names),
        places: RefCell::new(Places::load(&state_dir, array.array.status().id)),
        named,
        left_out: RefCell::new(notes),
        remarks: RefCell::default(),
        changing: Mutex::new(()),
        array,
    });
    pool.remember_places().await;
    pool.open_volumes().await;
    Ok(pool)
}

impl Pool {
    async fn take(self: Rc<Self>, message: Message) {
        // Who asked may be gone: then nobody waits for the answer, and what was done stays done.
        match message {
            Message::Ask(request, answer) => drop(answer.send(self.answer(request).await)),
            Message::Look(answer) => drop(answer.send(self.look().await)),
            Message::Exports(host, answer) => drop(answer.send(self.visible_to(host))),
            Message::Open(knock, answer) => drop(answer.send(self.open_export(knock).await)),
            Message::Stop(_) => unreachable!("the loop takes it"),
        }
    }

    /// Says when the pool's state changes, and opens gates that waited for a member.
    async fn watch(self: Rc<Self>, mut state: PoolState) {
        let mut complete = self.array.array.facts().complete();
        loop {
            sleep(&self.rt, WATCH_EVERY).await;
            if !std::mem::replace(&mut complete, self.array.array.facts().complete()) && complete {
                self.found_again();
            }
            let report = self.report().await;
            if std::mem::replace(&mut state, report.state) != state {
                let reason = report.reason.unwrap_or_default();
                tracing::warn!(pool = %self.name, reason, "the pool is {} now", state.word());
            }
        }
    }

    async fn look(&self) -> Look {
        Look { pool: self.report().await, volumes: self.volumes().await, sessions: self.exports.session_reports() }
    }

    /// Ends the sessions, waits for what is below the gates, and marks the members clean.
    async fn stop(&self) -> Result<(), Refusal> {
        let _changing = self.changing.lock().await;
        self.exports.close();
        if tokio::time::timeout(SESSIONS_END_MAX, self.exports.emptied()).await.is_err() {
            tracing::warn!(pool = %self.name, "sessions did not end in time");
        }
        self.array.stop().await.map_err(|error| {
            let text = format!("the pool '{}' was not stopped cleanly: {error}", self.name);
            Refusal::new(
                Code::Failed,
                text,
                "its members are brought together at the next start; look at `dmesg` for its disks",
            )
        })
    }
}
