//! Asking another node, or this one: the same words, with and without a wire.

use super::{Ask, Reply, Tell};
use crate::registry::Record;
use crate::rights::Caller;
use crate::service::Node;
use api::{Code, Problem};
use hyper::body::Bytes;
use std::net::SocketAddr;
use units::HostKey;

/// Where nodes listen for each other's words, by POST.
pub const PATH: &str = "/peer/v1";

/// Asks a machine; this one without a wire.
///
/// # Errors
/// [`Code::Unreachable`] and what else stands between, or what the machine says.
pub async fn ask(node: &Node, machine: &Record, ask: Ask) -> Result<Reply, Problem> {
    if machine.key == node.key {
        // Boxed: an answer may ask others in turn.
        return settled(Box::pin(node.answer_peer(node.key, ask)).await);
    }
    over_the_wire(node, machine.address, machine.key, &ask).await
}

/// Tells the machine with the store.
///
/// # Errors
/// As [`ask`].
pub async fn tell(node: &Node, told: Tell) -> Result<(), Problem> {
    to_the_store(node, Ask::Tell(told)).await.map(drop)
}

/// Asks the machine with the store.
///
/// # Errors
/// As [`ask`].
pub async fn to_the_store(node: &Node, ask: Ask) -> Result<Reply, Problem> {
    match &node.identity.store {
        None => settled(Box::pin(node.answer_peer(node.key, ask)).await),
        Some(store) => over_the_wire(node, store.address, store.key, &ask).await,
    }
}

/// Asks over mTLS.
///
/// # Errors
/// As [`ask`].
pub async fn over_the_wire(node: &Node, address: SocketAddr, key: HostKey, ask: &Ask) -> Result<Reply, Problem> {
    let body = serde_json::to_vec(ask).expect("messages are JSON");
    let answer = node.lines.post(&node.tls_files(), (address, key), PATH, body.into()).await?;
    let foreign = |error: serde_json::Error| {
        let text = format!("the reply of {address} is not understood: {error}");
        Problem::new(Code::Failed, text, "run the same muskox version on all machines")
    };
    if answer.status == 200 {
        return settled(serde_json::from_slice(&answer.body).map_err(foreign)?);
    }
    Err(serde_json::from_slice::<Problem>(&answer.body).map_err(foreign)?)
}

fn settled(reply: Reply) -> Result<Reply, Problem> {
    match reply {
        Reply::Problem { problem } => Err(problem),
        reply => Ok(reply),
    }
}

impl Node {
    /// Answers a peer over the wire: only members are heard.
    ///
    /// # Errors
    /// Who calls is none, or what is said is not understood.
    pub async fn hear_peer(&self, caller: Caller, body: Bytes) -> Result<Reply, Problem> {
        let Caller::Machine { key, .. } = caller else {
            return Err(Problem::new(Code::Forbidden, "this is for other machines", ""));
        };
        self.check_peer(key).await?;
        let foreign = |error: serde_json::Error| {
            let hint = "run the same muskox version on all machines";
            Problem::new(Code::BadRequest, format!("the request is not understood: {error}"), hint)
        };
        let ask: Ask = serde_json::from_slice(&body).map_err(foreign)?;
        Ok(self.answer_peer(key, ask).await)
    }
}
