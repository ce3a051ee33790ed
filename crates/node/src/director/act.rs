//! A job's actions on their way: to every target of the VM's volumes, to a host's agent, to the witnesses. What comes back
//! goes to the job's inbox; what does not come back is asked again by the job.

use super::runs::Said;
use super::view::get;
use super::{Desk, View};
use crate::peer::{Act, Acted, Ask, Other, Reply};
use crate::registry::Record;
use crate::store::failed;
use api::Problem;
use cluster::ha::Verdict;
use cluster::job::{Action, Event, Guest, Order, Proof, Report, Task, VolumeFloor};
use cluster::store::{Engine, StoreError, epoch_of};
use std::collections::BTreeSet;
use std::rc::Rc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use units::{Epoch, HostKey, Mode, VmName, VolumeName};
use wire::control::{self, Code, Owner, Request};

/// Carries one action out.
pub async fn dispatch(desk: Rc<Desk>, to: mpsc::Sender<Said>, task: Task, order: Order, action: Action) {
    match host_of(&action) {
        Some(host) => match act(&desk, &task, &order, &action, host).await {
            Ok(Taken::Yes) => {}
            Ok(Taken::Waits(why)) => drop(to.send(Said::Waits { at: order.at, why }).await),
            Ok(Taken::No(why)) => drop(to.send(Said::NotTaken { at: order.at, action, why }).await),
            Err(problem) => tracing::debug!("job {} was not heard when it asked to {action}: {problem}", order.job),
        },
        None => match action {
            Action::Reserve { .. } | Action::Raise { .. } => fence(&desk, &to, order, action).await,
            Action::Ask { host } => ask_witnesses(&desk, &to, &order, host).await,
            // There are no fence agents: never answered.
            _ => {}
        },
    }
}

/// Whose agent does it.
pub fn host_of(action: &Action) -> Option<HostKey> {
    match action {
        Action::Incoming { host, .. }
        | Action::Migrate { host, .. }
        | Action::Continue { host }
        | Action::Watch { host }
        | Action::Cont { host, .. }
        | Action::Cancel { host }
        | Action::Return { host, .. }
        | Action::Start { host, .. }
        | Action::Destroy { host } => Some(*host),
        Action::Reserve { .. } | Action::Raise { .. } | Action::Ask { .. } | Action::PowerOff { .. } => None,
    }
}

/// What a host did with an order.
enum Taken {
    /// It was heard, or a newer one before it.
    Yes,
    /// It was heard, and is not done yet for this reason.
    Waits(String),
    /// It was not, for this reason.
    No(String),
}

/// Gives an order to a host.
async fn act(desk: &Rc<Desk>, task: &Task, order: &Order, action: &Action, host: HostKey) -> Result<Taken, Problem> {
    let vm = order.vm.clone();
    let view = desk.store.ask(move |engine| View::of(engine, &vm)).await?;
    let brief = view.brief(&order.vm)?;
    let Some(machine) = view.member(host) else { return Ok(Taken::Yes) };
    let waits = |key| {
        let hosts = desk.hosts.borrow();
        hosts.tell(&order.vm, key).map(|tell| (tell.port, tell.move_key.clone()))
    };
    let other = other_end(task, host).and_then(|key| view.member(key)).map(|record| {
        // Whoever copies has to know it. Others are told the same whenever they are asked: a host goes on with what it does
        // as long as the words stay the same.
        let copies = matches!(action, Action::Migrate { .. });
        let (port, move_key) = copies.then(|| waits(record.key)).flatten().unwrap_or_default();
        Other { key: record.key, name: record.name.clone(), ip: record.address.ip(), port, move_key }
    });
    if let (Action::Migrate { destination, .. }, Some(Other { port: None, .. })) = (action, &other) {
        // A director that just took over has not heard where the destination waits: it is asked, and this comes again.
        let watch = Action::Watch { host: *destination };
        return Box::pin(act(desk, task, order, &watch, *destination)).await;
    }
    let ask = Ask::Act(Box::new(Act { order: order.clone(), action: action.clone(), brief, other }));
    match desk.machines.ask(machine, ask).await? {
        Reply::Acted(acted) if acted.admitted => {
            let runs = matches!(acted.told.guest, Guest::Running | Guest::Copying);
            let waits = acted.told.why.clone().filter(|_| matches!(action, Action::Start { .. }) && !runs);
            desk.heard(host, acted.told);
            return Ok(waits.map_or(Taken::Yes, |why| Taken::Waits(format!("'{}': {why}", machine.name))));
        }
        Reply::Acted(Acted { why: Some(why), .. }) => return Ok(Taken::No(format!("'{}': {why}", machine.name))),
        Reply::Acted(_) => {
            tracing::info!("'{}' has a newer order than {} of job {}", machine.name, order.at.0, order.job);
        }
        _ => tracing::warn!("'{}' answered an order with something else; {SAME_VERSION}", machine.name),
    }
    Ok(Taken::Yes)
}

/// The other end of a migration.
fn other_end(task: &Task, host: HostKey) -> Option<HostKey> {
    match task {
        Task::Migrate(plan) if host == plan.source => Some(plan.destination),
        Task::Migrate(plan) if host == plan.destination => Some(plan.source),
        Task::Migrate(_) | Task::Recover(_) => None,
    }
}

async fn ask_witnesses(desk: &Rc<Desk>, to: &mpsc::Sender<Said>, order: &Order, host: HostKey) {
    if let Ok(Verdict::Dead { until, .. }) = desk.verdict(host).await {
        let report = Report::Gone { host, proof: Proof::Votes { until } };
        let _ = to.send(Said::Event(Event::Report(order.at, report))).await;
    }
}

/// For answers to another question.
const SAME_VERSION: &str = "run the same muskox version on all machines";

/// What one volume's target came to.
enum Answer {
    Acknowledged(HostKey),
    Refused(String),
    /// Not yet, and why: it is asked again.
    Waits(String),
}

/// What all targets came to.
enum Fence {
    /// So many machines acknowledged.
    Acknowledged(usize),
    Refused(String),
    Waits(String),
}

async fn fence(desk: &Rc<Desk>, to: &mpsc::Sender<Said>, order: Order, action: Action) {
    let report = match ask_targets(desk, &order.vm, &action).await {
        Ok(Fence::Acknowledged(targets)) => {
            if let Action::Raise { epoch, .. } = &action {
                let _ = to.send(Said::Fenced(*epoch, targets)).await;
            }
            Report::Done(action)
        }
        Ok(Fence::Refused(why)) => Report::Refused(action, why),
        Ok(Fence::Waits(why)) => return drop(to.send(Said::Waits { at: order.at, why }).await),
        Err(problem) => {
            tracing::warn!("job {} could not {action}: {problem}; hint: {}", order.job, problem.hint);
            return drop(to.send(Said::Waits { at: order.at, why: problem.text }).await);
        }
    };
    let _ = to.send(Said::Event(Event::Report(order.at, report))).await;
}

/// Asks the target of every volume at the same time.
async fn ask_targets(desk: &Rc<Desk>, vm: &VmName, action: &Action) -> Result<Fence, Problem> {
    let name = vm.clone();
    let view = desk.store.ask(move |engine| View::of(engine, &name)).await?;
    let mut asked = JoinSet::new();
    for volume in &view.ownership(vm)?.volumes {
        let (desk, machine) = (Rc::clone(desk), view.target(volume)?.clone());
        let (volume, request) = (volume.clone(), request(volume, action));
        asked.spawn_local(async move { ask_target(&desk, &machine, &volume, request).await });
    }
    let (mut machines, mut waits) = (BTreeSet::new(), None);
    while let Some(answer) = asked.join_next().await {
        match answer.unwrap_or_else(|error| Answer::Waits(error.to_string())) {
            Answer::Acknowledged(machine) => drop(machines.insert(machine)),
            Answer::Refused(why) => return Ok(Fence::Refused(why)),
            Answer::Waits(why) => waits = Some(why),
        }
    }
    Ok(waits.map_or(Fence::Acknowledged(machines.len()), Fence::Waits))
}

fn request(volume: &VolumeName, action: &Action) -> Request {
    let volume = volume.clone();
    match action {
        Action::Reserve { epoch, host } => Request::Reserve { volume, epoch: *epoch, host: *host },
        Action::Raise { epoch, owner } => {
            let owners = owner.map(|host| Owner { host, mode: Mode::Rw }).into_iter().collect();
            Request::Raise { volume, epoch: *epoch, owners, shared: false }
        }
        other => unreachable!("{other:?} is not for targets"),
    }
}

async fn ask_target(desk: &Rc<Desk>, machine: &Record, volume: &VolumeName, request: Request) -> Answer {
    let mut refusal = match ask_once(desk, machine, request.clone()).await {
        Ok(answer) => answer,
        Err(answer) => return answer,
    };
    if refusal.as_ref().is_some_and(|refusal| refusal.code == Code::Blocked) {
        // A target that has lost a member serves only from the floor that the store knows.
        let (name, volume) = (volume.clone(), volume.clone());
        if let Ok(Some(epoch)) = desk.store.ask(move |engine| floor(engine, &name)).await {
            let _ = ask_once(desk, machine, Request::Floor { volume, epoch }).await;
            refusal = match ask_once(desk, machine, request).await {
                Ok(answer) => answer,
                Err(answer) => return answer,
            };
        }
    }
    match refusal {
        None => Answer::Acknowledged(machine.key),
        Some(refusal) if refusal.code == Code::Fenced => {
            learn_grant(desk, machine, volume).await;
            Answer::Refused(format!("{}: {}", machine.name, refusal.text))
        }
        Some(refusal) => {
            tracing::warn!("the target of '{}': {}; hint: {}", machine.name, refusal.text, refusal.hint);
            Answer::Waits(format!("the target of '{}': {}", machine.name, refusal.text))
        }
    }
}

/// A target that refuses an epoch knows more than the store: nothing else is begun on that before somebody has looked.
async fn learn_grant(desk: &Desk, machine: &Record, volume: &VolumeName) {
    let ask = Ask::Target { request: Request::GrantShow { volume: volume.clone() } };
    if let Ok(Reply::Target { answer: Ok(control::Reply::Grant(grant)) }) = desk.machines.ask(machine, ask).await {
        desk.note_granted(volume, grant.epoch);
    }
}

/// The refusal, if it was one.
async fn ask_once(desk: &Desk, machine: &Record, request: Request) -> Result<Option<control::Refusal>, Answer> {
    match desk.machines.ask(machine, Ask::Target { request }).await {
        Ok(Reply::Target { answer }) => Ok(answer.err()),
        Ok(_) => {
            let why = format!("'{}' answered for its target with something else; {SAME_VERSION}", machine.name);
            tracing::warn!("{why}");
            Err(Answer::Waits(why))
        }
        Err(problem) => {
            tracing::debug!("the target of '{}' was not heard: {problem}", machine.name);
            Err(Answer::Waits(format!("the target of '{}' was not heard: {problem}", machine.name)))
        }
    }
}

/// The store's epoch of a volume.
///
/// # Errors
/// [`api::Code::StoreFailed`].
pub fn floor(engine: &mut dyn Engine, volume: &VolumeName) -> Result<Option<Epoch>, Problem> {
    let Some(entry) = get(engine, &VolumeFloor::key(volume))? else { return Ok(None) };
    let unread = || failed(&StoreError::BadValue(entry.key.clone()));
    epoch_of(&entry.key, &entry.value).map(Some).ok_or_else(unread)
}
