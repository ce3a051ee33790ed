//! Asking a process of this machine over its control socket, and what to say when it does not answer.

use host::control::CallError;
use std::path::Path;
use std::time::Duration;
use wire::control::{Code, Refusal, Reply, Request};

/// Asks the process behind `socket`; `who` it is, for people.
///
/// # Errors
/// What it refuses; [`Code::Failed`] if it cannot be asked, [`Code::Busy`] if it has not answered in time: it may still
/// do what was asked.
pub async fn ask(who: &str, socket: &Path, request: Request, patience: Duration) -> Result<Reply, Refusal> {
    host::control::ask(socket, request, patience).await.map_err(|error| match error {
        CallError::Refused(refusal) => refusal,
        CallError::TimedOut(patience) => {
            let text =
                format!("the {who} has not answered within {} s; it may still do what was asked", patience.as_secs());
            Refusal::new(Code::Busy, text, "look how it is, then ask again")
        }
        CallError::Frame(what) => {
            Refusal::new(Code::Version, format!("the {who} speaks something else: {what}"), "run one muskox version")
        }
        what @ (CallError::Net(_) | CallError::Io(_) | CallError::Closed) => {
            let hint = format!("check that it runs and answers at '{}'", socket.display());
            Refusal::new(Code::Failed, format!("the {who} of this machine does not answer: {what}"), hint)
        }
    })
}
