//! `muskox node run`: the daemon. Starts in an order in which a second one on the same files is refused before it touches
//! them, and serves until it is told to stop.

use crate::agent;
use crate::authority::{Authority, fingerprint, key_of_request, request_for, validity};
use crate::client::tls_problem;
use crate::director::{self, Director};
use crate::door::{self, Tls};
use crate::identity::Identity;
use crate::keep;
use crate::root::{Root, read_secret, read_text};
use crate::service::{Keeper, Node};
use crate::store::Store;
use crate::works;
use api::{Code, Problem};
use host::net::{Listener, NetError, ServerTls, when_there};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// What to do about an address or a socket that cannot be had.
const IN_USE: &str = "is a node running already? `ss -ltnp` shows which program has a port";
/// Bringing the last changes into the store's file takes milliseconds.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// Serves until SIGTERM or SIGINT. To be called within a tokio `LocalSet`.
///
/// # Errors
/// Why it could not start; once it runs it ends only when told to.
pub async fn run(root: Root) -> Result<(), Problem> {
    let system =
        |error: std::io::Error| Problem::new(Code::Failed, format!("cannot start: {error}"), "see `ulimit -a`");
    let mut terminate = signal(SignalKind::terminate()).map_err(system)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system)?;
    let identity = Identity::load(&root)?;
    root.make_folders()?;
    let busy = |error: NetError| Problem::new(Code::Files, error.to_string(), IN_USE);
    let local = Listener::unix(&root.socket()).map_err(busy)?;
    let node = Rc::new(open(root, identity)?);
    if let Err(problem) = keep::renew_if_due(&node).await {
        tracing::warn!("the certificate could not be renewed: {problem}; hint: {}", problem.hint);
    }
    let tls = ServerTls::load_for_strangers_too(&node.tls_files()).map_err(|error| tls_problem("this node", &error))?;
    let tls: Tls = Rc::new(RefCell::new(tls));
    let (name, address) = (node.identity.name.clone(), node.identity.address);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn_local(door::serve(Rc::clone(&node), local, None));
    tasks.spawn_local(listen(Rc::clone(&node), Rc::clone(&tls)));
    // Listening, or said why not, before it is ready.
    tokio::task::yield_now().await;
    tasks.spawn_local(keep::certificate(Rc::clone(&node), tls));
    tasks.spawn_local(agent::run(Rc::clone(&node)));
    tasks.spawn_local(director::run(Rc::clone(&node)));
    tasks.spawn_local(works::run(Rc::clone(&node)));
    tasks.spawn_local(keep::sync(Rc::clone(&node)));
    tracing::info!("'{name}' is ready at {address}");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = tasks.join_next() => {
            // None of them ends by itself. A node without one of them would look alive; started anew it takes all over.
            let text = format!("a part of the node has ended: {ended:?}");
            return Err(Problem::new(Code::Failed, text, "see its log; start it again: what runs here runs on"));
        }
    }
    tracing::info!("stopping");
    tasks.abort_all();
    if let Some(keeper) = &node.keeper
        && tokio::time::timeout(CLOSE_MAX, keeper.store.close()).await.is_err()
    {
        tracing::warn!(
            "the store's disk does not answer; what was decided is in store.db-wal and is read at the next start"
        );
    }
    Ok(())
}

/// The door for machines. Its address may come later; until then everything else goes on.
async fn listen(node: Rc<Node>, tls: Tls) {
    let address = node.identity.address;
    let told = |wrong: Option<&NetError>| {
        let problem = wrong.map(|error| Problem::new(Code::Files, error.to_string(), IN_USE));
        node.agent.fault("node", problem.as_ref());
    };
    let listener = when_there(|| Listener::tcp(address), told).await;
    tracing::info!("listening on {address}");
    door::serve(Rc::clone(&node), listener, Some(tls)).await;
}

/// Reads the files and checks that they belong together.
///
/// # Errors
/// [`Code::Files`]: what is missing, or does not fit.
pub fn open(root: Root, identity: Identity) -> Result<Node, Problem> {
    let key = key_of_request(&request_for(&read_secret(&root.key())?)?)?;
    let ca_pem = read_text(&root.ca())?;
    let torn = |what: &str| {
        let hint = "bring etc/muskox back from one backup, or remove the machine and join it anew";
        Problem::new(Code::Files, format!("the files in etc/muskox do not belong together: {what}"), hint)
    };
    if fingerprint(&ca_pem)? != identity.cluster {
        return Err(torn("ca.crt is not the CA of the cluster in node.toml"));
    }
    if validity(&read_text(&root.certificate())?)?.key != key {
        return Err(torn("node.crt is not for node.key"));
    }
    let keeper = match identity.store {
        Some(_) => None,
        None => {
            let authority = Authority::load(&ca_pem, &read_secret(&root.ca_key())?)?;
            Some(Keeper { store: Store::open(&root.store())?, authority, director: Director::default() })
        }
    };
    Ok(Node::new(root, identity, key, keeper))
}
