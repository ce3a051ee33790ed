//! Asking targets: one, or all at once; and what their words are in the API's.

use crate::peer::{self, Ask, Reply};
use crate::registry::{self, Record};
use crate::service::{Keeper, Node};
use api::{Code, Problem, Progress, Role};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::time::Duration;
use units::NodeName;
use wire::control::{
    self, MemberState, PoolReport, PoolState, Refusal, ServeState, StatusReport, VolumeReport, WorkReport,
};

/// A target that is well answers in milliseconds. Who lists does not wait for one that is not.
const LOOK_WITHIN: Duration = Duration::from_secs(3);

/// What each machine with role storage says of its target.
pub type Looked = BTreeMap<NodeName, Result<StatusReport, Problem>>;

/// Asks a machine's target.
///
/// # Errors
/// The target's refusal, or what stands between.
pub async fn ask(node: &Node, machine: &Record, request: control::Request) -> Result<control::Reply, Problem> {
    match peer::ask(node, machine, Ask::Target { request }).await? {
        Reply::Target { answer } => answer.map_err(|refusal| problem(&machine.name, refusal)),
        other => Err(astray(&machine.name, &other)),
    }
}

/// How every target is, asked at once.
///
/// # Errors
/// [`Code::StoreFailed`].
pub async fn look_at_all(node: &Node, keeper: &Keeper) -> Result<Looked, Problem> {
    let mut machines = keeper.store.ask(registry::members).await?;
    machines.retain(|machine| machine.roles.contains(&Role::Storage));
    let looks = machines.iter().map(|machine| async { (machine.name.clone(), look_at(node, machine).await) });
    Ok(join_all(looks).await.into_iter().collect())
}

/// How a target is; one that hangs is not waited for.
///
/// # Errors
/// As [`ask`]; [`Code::Unreachable`].
pub async fn look_at(node: &Node, machine: &Record) -> Result<StatusReport, Problem> {
    let silent = || {
        let text = format!("the target of '{}' has not answered within {} s", machine.name, LOOK_WITHIN.as_secs());
        Problem::new(Code::Unreachable, text, "check that `muskox node run` and its target run there")
    };
    let asked = tokio::time::timeout(LOOK_WITHIN, ask(node, machine, control::Request::Status)).await;
    match asked.map_err(|_| silent())?? {
        control::Reply::Status(status) => Ok(status),
        other => Err(astray(&machine.name, &other)),
    }
}

/// A member by name.
///
/// # Errors
/// [`Code::NotFound`], [`Code::StoreFailed`].
pub async fn machine(keeper: &Keeper, name: &NodeName) -> Result<Record, Problem> {
    let found = keeper.store.ask(registry::members).await?.into_iter().find(|member| member.name == *name);
    let missing = || Problem::new(Code::NotFound, format!("there is no machine '{name}'"), "see `muskox node list`");
    found.ok_or_else(missing)
}

/// An answer to another question.
#[must_use]
pub fn astray(from: &NodeName, answer: &impl std::fmt::Debug) -> Problem {
    let text = format!("'{from}' answered something else: {answer:?}");
    Problem::new(Code::Failed, text, "run the same muskox version on all machines")
}

/// A refusal in the target's own words.
#[must_use]
pub fn problem(from: &NodeName, refusal: Refusal) -> Problem {
    let code = match refusal.code {
        control::Code::Invalid => Code::BadRequest,
        control::Code::NotFound => Code::NotFound,
        control::Code::Exists => Code::Exists,
        control::Code::HoldsData => Code::HoldsData,
        control::Code::Busy => Code::InUse,
        control::Code::NoSpace => Code::NoRoom,
        control::Code::Fenced | control::Code::Blocked => Code::NotPossible,
        control::Code::Version | control::Code::Failed => Code::Failed,
    };
    let hint = if refusal.hint.is_empty() {
        "see `muskox pool list` and `muskox volume list`".to_owned()
    } else {
        refusal.advice.map_or(refusal.hint, |advice| advice.for_cluster().to_owned())
    };
    Problem::new(code, format!("{} (target of '{from}')", refusal.text), hint)
}

/// Long work in the API's words.
#[must_use]
pub fn progress(work: WorkReport) -> Progress {
    Progress { done: work.done.0, total: work.total.0, left_ms: work.left.map(|left| left.0) }
}

/// A pool in the API's words.
#[must_use]
pub fn pool(node: &NodeName, report: PoolReport) -> api::Pool {
    let state = match report.state {
        PoolState::Healthy => api::PoolState::Healthy,
        PoolState::Degraded => api::PoolState::Degraded,
        PoolState::Recovering => api::PoolState::Recovering,
        PoolState::Failed => api::PoolState::Failed,
        PoolState::Stopped => api::PoolState::Stopped,
    };
    // A pool that is not assembled does not tell.
    let known = report.size.0 > 0;
    let member = |member: control::MemberReport| {
        let state = match member.state {
            MemberState::InSync => "in-sync",
            MemberState::Recovering => "recovering",
            MemberState::Failed => "failed",
            MemberState::Missing => "missing",
            MemberState::Spare => "spare",
        };
        api::PoolMember { path: member.path, slot: member.slot.map(u64::from), state: state.to_owned() }
    };
    api::Pool {
        name: report.pool,
        node: node.clone(),
        state,
        reason: report.reason,
        note: report.note,
        size: known.then_some(report.size.0),
        free: known.then_some(report.free.0),
        members: report.members.into_iter().map(member).collect(),
        resync: report.resync.map(progress),
    }
}

/// A volume's state in the API's words, and why if it says so by itself.
#[must_use]
pub fn volume_state(report: &VolumeReport) -> (api::VolumeState, Option<String>) {
    use api::VolumeState as State;
    let (state, why) = match report.state {
        ServeState::Serving => (State::Serving, None),
        ServeState::Raising => (State::Raising, None),
        ServeState::BlockedFloor => (State::Blocked, Some("its newest epoch is not known: a member is missing")),
        ServeState::BlockedFence => (State::Blocked, Some("an operation hangs on the last good disk")),
        ServeState::BlockedStore => (State::Blocked, Some("its grant could not be made durable")),
        ServeState::Zeroing => (State::Zeroing, None),
        ServeState::Offline => (State::Down, None),
    };
    (state, report.reason.clone().or_else(|| why.map(str::to_owned)))
}

#[cfg(test)]
mod test {
    use super::*;
    use wire::control::Advice;

    /// Goal: who asks the cluster is not sent to a target's own door, unless only that one has the word. Method: a refusal with
    /// advice, one without, one without a hint.
    #[test]
    fn hints_are_in_the_clusters_words() {
        let hint = |refusal| problem(&"store1".parse().unwrap(), refusal).hint;
        let of = |text: &str| Refusal::new(control::Code::Busy, "it is busy", text);
        assert_eq!(
            hint(Refusal::advised(control::Code::Busy, "it is busy", Advice::ShowPool)),
            Advice::ShowPool.for_cluster()
        );
        assert_eq!(hint(of("wait a moment")), "wait a moment");
        assert_eq!(hint(of("")), "see `muskox pool list` and `muskox volume list`");
    }
}
