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
use cluster::job::{Action, Event, Order, Proof, Report, Task, VolumeFloor};
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
            Ok(None) => {}
            Ok(Some(why)) => drop(to.send(Said::NotTaken { at: order.at, action, why }).await),
            Err(problem) => tracing::debug!("job {}: {action:?} was not heard: {problem}", order.job),
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

/// Why the host did not take the order, if it said so; not, if it has heard a newer one.
async fn act(
    desk: &Rc<Desk>,
    task: &Task,
    order: &Order,
    action: &Action,
    host: HostKey,
) -> Result<Option<String>, Problem> {
    let vm = order.vm.clone();
    let view = desk.store.ask(move |engine| View::of(engine, &vm)).await?;
    let brief = view.brief(&order.vm)?;
    let Some(machine) = view.member(host) else { return Ok(None) };
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
        Reply::Acted(acted) if acted.admitted => desk.heard(host, acted.told),
        Reply::Acted(Acted { why: Some(why), .. }) => return Ok(Some(format!("'{}': {why}", machine.name))),
        Reply::Acted(_) => {
            tracing::info!("'{}' has a newer order than {} of job {}", machine.name, order.at.0, order.job);
        }
        reply => tracing::warn!("'{}' answered an order with {reply:?}", machine.name),
    }
    Ok(None)
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

/// What one volume's target came to.
enum Answer {
    Acknowledged(HostKey),
    Refused(String),
    Silent,
}

async fn fence(desk: &Rc<Desk>, to: &mpsc::Sender<Said>, order: Order, action: Action) {
    let report = match ask_targets(desk, &order.vm, &action).await {
        Ok(Some(Ok(targets))) => {
            if let Action::Raise { epoch, .. } = &action {
                let _ = to.send(Said::Fenced(*epoch, targets)).await;
            }
            Report::Done(action)
        }
        Ok(Some(Err(why))) => Report::Refused(action, why),
        Ok(None) => return,
        Err(problem) => return tracing::warn!("job {}: {action:?}: {problem}; hint: {}", order.job, problem.hint),
    };
    let _ = to.send(Said::Event(Event::Report(order.at, report))).await;
}

/// Asks the target of every volume at the same time. How many machines acknowledged, or why one refused; none if one has
/// not answered: it is asked again.
async fn ask_targets(desk: &Rc<Desk>, vm: &VmName, action: &Action) -> Result<Option<Result<usize, String>>, Problem> {
    let name = vm.clone();
    let view = desk.store.ask(move |engine| View::of(engine, &name)).await?;
    let mut asked = JoinSet::new();
    for volume in &view.ownership(vm)?.volumes {
        let (desk, machine) = (Rc::clone(desk), view.target(volume)?.clone());
        let (volume, request) = (volume.clone(), request(volume, action));
        asked.spawn_local(async move { ask_target(&desk, &machine, &volume, request).await });
    }
    let (mut machines, mut silent) = (BTreeSet::new(), false);
    while let Some(answer) = asked.join_next().await {
        match answer.unwrap_or(Answer::Silent) {
            Answer::Acknowledged(machine) => drop(machines.insert(machine)),
            Answer::Refused(why) => return Ok(Some(Err(why))),
            Answer::Silent => silent = true,
        }
    }
    Ok((!silent).then_some(Ok(machines.len())))
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
            Answer::Silent
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
        Ok(reply) => {
            tracing::warn!("'{}' answered a request for its target with {reply:?}", machine.name);
            Err(Answer::Silent)
        }
        Err(problem) => {
            tracing::debug!("the target of '{}' was not heard: {problem}", machine.name);
            Err(Answer::Silent)
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
