//! The machine's own processes, kept for as long as the node runs: target, dead-man and guard, each with the configuration that
//! it should have.
//!
//! Invariant: a configuration that would be refused ends no process that runs (`configuration`).

use super::{LOOK_EVERY, deadman, guard, supervise, target};
use crate::service::Node;
use api::{Code, Role};
use std::rc::Rc;
use std::time::Duration;
use wire::control;

/// What was refused may be accepted later: its certificate came back, its disk answers again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// The target of a storage machine.
pub async fn target(node: Rc<Node>) {
    let (agent, place) = (&node.agent, &node.agent.shared.place);
    if !place.is(Role::Storage) {
        return;
    }
    let (daemon, configuration) = (target::daemon(place), target::configuration(place));
    let configured = async {
        loop {
            let replaced = configuration.replace(place, &target::wanted(place)).await;
            agent.fault("target", replaced.as_ref().err());
            match replaced {
                // It does not read its configuration again.
                Ok(true) => return drop(supervise::end(&daemon).await),
                Ok(false) => return,
                Err(_) => tokio::time::sleep(TRY_AGAIN).await,
            }
        }
    };
    if !configuration.file.exists() {
        configured.await;
        return supervise::keep(daemon.clone()).await;
    }
    // By the file that is there until the other one takes its place.
    tokio::join!(supervise::keep(daemon.clone()), configured);
}

/// The dead-man of every machine, as soon as it is told of witnesses.
pub async fn deadman(node: Rc<Node>) {
    let (agent, place) = (&node.agent, &node.agent.shared.place);
    let daemon = deadman::daemon(place);
    let kept = async {
        while !deadman::is_configured(place) {
            tokio::time::sleep(LOOK_EVERY / 10).await;
        }
        supervise::keep_by(daemon.clone(), Some(deadman::unit(place))).await;
    };
    let told = async {
        let configuration = deadman::configuration(place);
        // One that runs already may have missed what a former life of ours wrote.
        let mut unread = deadman::answers(place).await;
        loop {
            let wanted = agent.wanted_deadman.borrow().clone();
            let mut refused = false;
            if let Some(text) = wanted {
                // One that is only started after this reads the new file anyhow.
                let runs = !matches!(daemon.find(), Ok(None));
                let replaced = configuration.replace(place, &text).await;
                agent.fault("dead-man", replaced.as_ref().err());
                refused = replaced.is_err();
                unread |= runs && replaced.unwrap_or(false);
            }
            if unread && deadman::is_configured(place) {
                unread = !read_again(&node).await;
            }
            let again = match (unread, refused) {
                (true, _) => LOOK_EVERY,
                (false, true) => TRY_AGAIN,
                (false, false) => Duration::MAX,
            };
            // Whatever is told in between is looked at at once.
            let _ = tokio::time::timeout(again, agent.witnesses.notified()).await;
        }
    };
    tokio::join!(kept, told);
}

/// The guard of a host, as soon as its dead-man has written down where it stands.
pub async fn guard(node: Rc<Node>) {
    let place = &node.agent.shared.place;
    if !place.is(Role::Host) {
        return;
    }
    while !guard::has_record(place) {
        tokio::time::sleep(LOOK_EVERY / 10).await;
    }
    supervise::keep_by(guard::daemon(place), Some(guard::unit(place))).await;
}

/// Has the dead-man read its configuration again, if need be as another process; whether it has.
async fn read_again(node: &Node) -> bool {
    let (agent, place) = (&node.agent, &node.agent.shared.place);
    let refusal = match deadman::reload(place).await {
        Ok(()) => return true,
        Err(refusal) => refusal,
    };
    if refusal.code != control::Code::Invalid {
        // It is not ended for being slow: a disk that keeps it from reading would keep the next one from starting.
        tracing::warn!("the dead-man has not read its configuration again: {}", refusal.text);
        return false;
    }
    // What changed may be for a new life only. One that could not start is no reason to end this one.
    match deadman::configuration(place).is_accepted(place).await {
        Ok(()) => {
            tracing::warn!("the dead-man is started anew, to read its configuration: {}", refusal.text);
            supervise::end(&deadman::daemon(place)).await.is_ok()
        }
        Err(problem) => {
            agent.fault("dead-man", Some(&problem));
            // It is looked at again when other witnesses are told, or when a former answer could not be had.
            problem.code == Code::BadRequest
        }
    }
}
