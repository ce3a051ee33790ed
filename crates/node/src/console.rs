//! Serial consoles: `POST /v1/vms/NAME/console` with `Upgrade: muskox-console` becomes bytes both ways.
//!
//! ```text
//!  muskox vm console ── Unix socket ─▶ this node ── mTLS, the same words ─▶ the host's node ──▶ console.sock of QEMU
//! ```
//! Source of the upgrade's form: RFC 9110 §7.8. This machine's owner may visit any VM: the store says where it is. A
//! member that comes by TLS for a user of its own gets a VM of this machine, and never another's: nothing is passed on twice. Who
//! is a member is asked of the store at each visit, so a machine that was removed is out at once; who visits is in the audit log.
//!
//! Invariant: a visit holds one of [`VISITORS_MAX`] places, and ends with either side.

use crate::client::{self, Answer};
use crate::rights::{self, Caller};
use crate::service::{Node, refusal};
use api::{CONSOLE_PROTOCOL, Call, Code, NodeList, Problem, VmDetails, VmState};
use host::net::Transport;
use host::vm::Folder;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, HeaderValue, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use units::{NodeName, VmName};

/// Consoles somebody looks at, on one machine.
const VISITORS_MAX: usize = 64;
/// Their places: a visit is no longer one of the door's connections.
static PLACES: Semaphore = Semaphore::const_new(VISITORS_MAX);
/// The host's node has a socket of its own machine to connect to, no more.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A closing word waits no longer.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
/// A problem is a few lines.
const PROBLEM_MAX_BYTES: usize = 64 << 10;

/// What a console's bytes come from.
enum Far {
    /// QEMU, on this machine.
    Here(UnixStream),
    /// The host's node.
    There(Upgraded),
}

/// Answers who asks for a VM's console: with the upgrade, then bytes, or with a problem.
pub async fn answer(node: &Node, caller: Caller, name: &str, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match open(node, caller, name, request.headers().get(UPGRADE)).await {
        Ok((far, place)) => {
            // The request becomes the connection once the answer is out.
            tokio::task::spawn_local(async move {
                match hyper::upgrade::on(request).await {
                    Ok(visitor) => carry(visitor, far).await,
                    Err(error) => tracing::debug!("a console's visitor did not stay: {error}"),
                }
                drop(place);
            });
            let answer = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
            let answer = answer.header(CONNECTION, "upgrade").header(UPGRADE, CONSOLE_PROTOCOL);
            answer.body(Full::default()).expect("plain headers")
        }
        Err(problem) => crate::door::to_http(refusal(&problem)),
    }
}

async fn open(
    node: &Node,
    caller: Caller,
    name: &str,
    upgrade: Option<&HeaderValue>,
) -> Result<(Far, SemaphorePermit<'static>), Problem> {
    let bad = |text: String, hint: &str| Err(Problem::new(Code::BadRequest, text, hint));
    let name: VmName = match name.parse() {
        Ok(name) => name,
        Err(error) => return bad(format!("{error}"), "see `muskox vm list`"),
    };
    if upgrade.is_none_or(|wished| wished != CONSOLE_PROTOCOL) {
        return bad(format!("a console needs 'Upgrade: {CONSOLE_PROTOCOL}'"), "use `muskox vm console NAME`");
    }
    let (user, asks) = visitor(node, caller).await?;
    let host = if matches!(caller, Caller::Local(_)) { whereabouts(node, caller, &name).await? } else { None };
    let place = PLACES.try_acquire().map_err(|_| {
        let text = format!("{VISITORS_MAX} consoles are being visited through this machine");
        Problem::new(Code::Busy, text, "leave one of them")
    })?;
    let far = match host {
        Some(host) if host != node.identity.name => Far::There(pass_on(node, user, &host, &name).await?),
        _ => {
            let entry = node.audit.asked((&asks, Some(user)), ("console", name.as_str())).await?;
            let attached = attach(node, &name).await;
            node.audit
                .ended(&entry, attached.as_ref().map_or_else(|problem| problem.code.as_str(), |_| "opened"))
                .await;
            Far::Here(attached?)
        }
    };
    Ok((far, place))
}

/// Who visits: which user, of which machine.
///
/// # Errors
/// [`Code::Forbidden`], [`Code::NotAMember`], or that the store was not reached.
pub async fn visitor(node: &Node, caller: Caller) -> Result<(u32, NodeName), Problem> {
    let user = rights::check_console(caller)?;
    let Caller::Machine { key, .. } = caller else { return Ok((user, node.identity.name.clone())) };
    let known = ask::<NodeList>(node, Caller::Itself, "node_list", "").await?.nodes;
    let stranger = || Problem::new(Code::NotAMember, format!("the key {key} belongs to no member"), "");
    let member = known.into_iter().find(|member| member.key == key).ok_or_else(stranger)?;
    Ok((user, member.name))
}

/// The host that owns a VM. Without the store a VM of this machine can still be visited: that is when it is needed most.
async fn whereabouts(node: &Node, caller: Caller, name: &VmName) -> Result<Option<NodeName>, Problem> {
    match ask::<VmDetails>(node, caller, "vm_show", name.as_str()).await {
        Ok(details) => host_of(details.vm).map(Some),
        Err(problem) if matches!(problem.code, Code::StoreUnreachable | Code::StoreFailed) => {
            if attach(node, name).await.is_ok() { Ok(None) } else { Err(problem) }
        }
        Err(problem) => Err(problem),
    }
}

/// The host that a VM's console is on, if it has one.
fn host_of(vm: api::Vm) -> Result<NodeName, Problem> {
    match vm.host {
        Some(host) if !matches!(vm.state, VmState::Stopped | VmState::Down) => Ok(host),
        _ => {
            let text = format!("VM '{}' is {}: it has no console", vm.name, vm.state);
            Err(Problem::new(Code::NotPossible, text, format!("start it with `muskox vm start {}`", vm.name)))
        }
    }
}

/// Asks for whoever visits, or by ourselves.
async fn ask<T: DeserializeOwned>(node: &Node, caller: Caller, call: &str, name: &str) -> Result<T, Problem> {
    let call = Call::named(call);
    read(&node.answer(caller, call, &call.path_for(name), name, Bytes::new()).await)
}

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T, Problem> {
    let foreign = |error: serde_json::Error| {
        let text = format!("an answer is not understood: {error}");
        Problem::new(Code::Failed, text, "run the same muskox version on all machines")
    };
    if answer.status == 200 {
        return serde_json::from_slice(&answer.body).map_err(foreign);
    }
    Err(serde_json::from_slice::<Problem>(&answer.body).map_err(foreign)?)
}

/// Connects to a console of this machine.
async fn attach(node: &Node, name: &VmName) -> Result<UnixStream, Problem> {
    let path = node.root.socket().with_file_name("vm").join(name.as_str());
    let failed = |error: &dyn std::fmt::Display| {
        let text = format!("the console of '{name}' cannot be reached on '{}': {error}", node.identity.name);
        Problem::new(Code::NotPossible, text, format!("see `muskox vm show {name}`"))
    };
    let path = std::path::absolute(path).map_err(|error| failed(&error))?;
    let folder = Folder::new(&path).map_err(|error| failed(&error))?;
    host::vm::attach(&folder).await.map_err(|error| failed(&error))
}

/// Asks the host's node for the same.
async fn pass_on(node: &Node, user: u32, host: &NodeName, name: &VmName) -> Result<Upgraded, Problem> {
    let known = ask::<NodeList>(node, Caller::Itself, "node_list", "").await?;
    let member = known.nodes.into_iter().find(|member| member.name == *host).ok_or_else(|| {
        Problem::new(Code::NotFound, format!("there is no machine '{host}'"), "see `muskox node list`")
    })?;
    let transport = client::as_member(&node.tls_files(), member.address, member.key).await?;
    match tokio::time::timeout(ANSWER_MAX, upgrade(transport, Some(user), name)).await {
        Ok(upgraded) => upgraded,
        Err(_) => Err(Problem::new(Code::Unreachable, format!("'{host}' does not answer"), "ask again")),
    }
}

async fn upgrade(transport: Transport, user: Option<u32>, name: &VmName) -> Result<Upgraded, Problem> {
    let lost = |error: &dyn std::error::Error| {
        Problem::new(Code::Unreachable, format!("the connection to the VM's host broke: {error}"), "ask again")
    };
    let request = Request::post(format!("/v1/vms/{name}/console")).header(HOST, "muskox");
    let request = match user {
        Some(user) => request.header(rights::FOR_USER, rights::mark(user)),
        None => request,
    };
    let request =
        request.header(CONNECTION, "upgrade").header(UPGRADE, CONSOLE_PROTOCOL).body(Full::<Bytes>::default());
    let request = request.expect("a name of ours and plain headers");
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(transport)).await;
    let (mut sender, connection) = shaken.map_err(|error| lost(&error))?;
    // The connection's own error comes out of the request, or of the bytes, as well.
    tokio::task::spawn_local(async move { drop(connection.with_upgrades().await) });
    let reply = sender.send_request(request).await.map_err(|error| lost(&error))?;
    if reply.status() == StatusCode::SWITCHING_PROTOCOLS {
        return hyper::upgrade::on(reply).await.map_err(|error| lost(&error));
    }
    let status = reply.status().as_u16();
    let body = Limited::new(reply.into_body(), PROBLEM_MAX_BYTES).collect().await.map_err(|error| lost(&*error))?;
    // Nothing but an upgrade is a success here.
    let answer = Answer { status: if status == 200 { 500 } else { status }, body: body.to_bytes() };
    Err(read::<Problem>(&answer).unwrap_or_else(|problem| problem))
}

/// Bytes both ways, until one side ends.
async fn carry(visitor: Upgraded, far: Far) {
    let (typed, mut shown) = tokio::io::split(TokioIo::new(visitor));
    let carried = match far {
        Far::Here(console) => host::vm::pump(console, typed, &mut shown).await,
        Far::There(host) => join(typed, &mut shown, TokioIo::new(host)).await,
    };
    farewell(shown).await;
    if let Err(error) = carried {
        tracing::debug!("a visit to a console broke off: {error}");
    }
}

/// Unlike a full copy both ways: the first end is the end, nobody keeps a console for a visitor that has left.
async fn join(
    mut typed: impl AsyncRead + Unpin,
    shown: &mut (impl AsyncWrite + Unpin),
    host: TokioIo<Upgraded>,
) -> std::io::Result<()> {
    let (mut said, mut heard) = tokio::io::split(host);
    let joined = tokio::select! {
        typed = tokio::io::copy(&mut typed, &mut heard) => typed.map(drop),
        said = tokio::io::copy(&mut said, shown) => said.map(drop),
    };
    farewell(heard).await;
    joined
}

/// TLS tells an end from a connection that was cut. Who does not take it is not waited for.
async fn farewell(mut side: impl AsyncWrite + Unpin) {
    let _ = tokio::time::timeout(FAREWELL_MAX, side.shutdown()).await;
}

#[cfg(test)]
mod test;
