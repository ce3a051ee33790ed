//! What a node does by itself: it renews its certificate before it ends, and tells the machine with the store that it is
//! there.
//!
//! Invariant: files are replaced only by what was checked: a certificate of this cluster's CA for this machine's key.

use crate::authority::{SKEW_S, request_for, validity};
use crate::client;
use crate::clock::now_s;
use crate::door::Tls;
use crate::identity::StoreAt;
use crate::peer::{self, Ask, HostReport, Reply, SyncReport, Synced};
use crate::registry::Record;
use crate::root::{read_secret, read_text, write_public};
use crate::service::{Node, issue};
use api::{Call, Certificate, Code, Problem, RenewRequest};
use host::net::ServerTls;
use std::rc::Rc;
use std::time::Duration;

/// How often a node calls the machine with the store.
pub const SYNC_EVERY: Duration = Duration::from_secs(1);
/// A call that was cut off with its network is given up soon: a machine that does not call is no place for a guest.
const SYNC_MAX: Duration = Duration::from_secs(5);
/// A certificate is renewed when this part of its life is over: what is left is the time in which the machine with the
/// store may be away.
const RENEW_AFTER: (u64, u64) = (2, 3);
/// How often the clock is looked at: by the time of day, so a clock that jumps is noticed.
const LOOKS_A_LIFE: u64 = 20;
const LOOK_MAX_S: u64 = 60;

/// Renews for ever; the door's TLS follows.
pub async fn certificate(node: Rc<Node>, tls: Tls) {
    // Tried every second, said once: a wrong clock may stay wrong for days.
    let mut last: Option<Code> = None;
    loop {
        let pause = match renew_if_due(&node).await {
            Ok((renewed, pause)) => {
                last = None;
                if renewed {
                    match ServerTls::load_for_strangers_too(&node.tls_files()) {
                        Ok(fresh) => drop(tls.replace(fresh)),
                        Err(error) => tracing::error!("the renewed certificate cannot be used: {error}"),
                    }
                }
                pause
            }
            Err(problem) => {
                if last.replace(problem.code) != Some(problem.code) {
                    tracing::warn!("the certificate could not be renewed: {problem}; hint: {}", problem.hint);
                }
                SYNC_EVERY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Renews the certificate if it is time; whether it did, and when to look again.
///
/// # Errors
/// What stands in the way; the old certificate stays.
pub async fn renew_if_due(node: &Node) -> Result<(bool, Duration), Problem> {
    let held = validity(&read_text(&node.root.certificate())?)?;
    node.certificate_until_s.replace(held.until_s);
    let life_s = held.until_s.saturating_sub(held.made_s);
    let pause = Duration::from_secs((life_s / LOOKS_A_LIFE).clamp(1, LOOK_MAX_S));
    let due_s = held.made_s + life_s * RENEW_AFTER.0 / RENEW_AFTER.1;
    // Not valid yet: it was made while a clock was wrong. Seconds between two machines' clocks are no reason.
    let begins_s = held.made_s.saturating_sub(SKEW_S);
    if (begins_s..due_s).contains(&now_s()) {
        return Ok((false, pause));
    }
    let request_pem = request_for(&read_secret(&node.root.key())?)?;
    let fresh = match (&node.keeper, &node.identity.store) {
        (Some(keeper), _) => {
            let record = own_record(node);
            issue(keeper, &request_pem, &record).await?
        }
        (None, Some(store)) => ask_for(node, store, request_pem).await?,
        (None, None) => return Err(Problem::new(Code::Files, "nobody holds the store", "see node.toml")),
    };
    if validity(&fresh.chain_pem)?.key != node.key {
        return Err(Problem::new(
            Code::WrongPeer,
            "the renewed certificate is for another key",
            "check the store's machine",
        ));
    }
    write_public(&node.root.certificate(), &fresh.chain_pem)?;
    node.certificate_until_s.replace(fresh.until_s);
    tracing::info!("certificate renewed, good until {} s since 1970", fresh.until_s);
    Ok((true, pause))
}

fn own_record(node: &Node) -> Record {
    Record::new(node.identity.seat(), node.key, now_s())
}

/// As a stranger: a certificate that has ended is no way in any more, and renewing needs none.
async fn ask_for(node: &Node, store: &StoreAt, request_pem: String) -> Result<Certificate, Problem> {
    let transport = client::as_stranger(node.identity.cluster, store.address).await?;
    if transport.host_key() != Some(store.key) {
        let text = format!("{} belongs to this cluster, but it does not hold the store", store.address);
        return Err(Problem::new(Code::WrongPeer, text, "check which machine has this address"));
    }
    client::call(transport, Call::named("renew"), &RenewRequest { request_pem }).await
}

/// Tells the machine with the store for ever how this one is, and hears how it should be; also on that machine itself.
pub async fn sync(node: Rc<Node>) {
    let mut last: Option<Code> = None;
    loop {
        let late = |_| {
            let text = format!("the machine with the store has not answered within {} s", SYNC_MAX.as_secs());
            Err(Problem::new(Code::StoreUnreachable, text, "see that `muskox node run` runs there"))
        };
        match tokio::time::timeout(SYNC_MAX, exchange(&node)).await.unwrap_or_else(late) {
            Ok(synced) => {
                if last.take().is_some() {
                    tracing::info!("in touch with the store: {} machines", synced.members.nodes.len());
                }
                node.agent.synced(synced);
            }
            Err(problem) => {
                if last.replace(problem.code) != Some(problem.code) {
                    tracing::warn!("the machine with the store: {problem}; hint: {}", problem.hint);
                }
            }
        }
        tokio::time::sleep(SYNC_EVERY).await;
    }
}

async fn exchange(node: &Node) -> Result<Synced, Problem> {
    let certificate_until_s = *node.certificate_until_s.borrow();
    // What is long and never changes is told to who asks.
    let report = HostReport { processor: None, ..node.agent.look().await };
    let (keeps, kept) = node.agent.keeps();
    let told = SyncReport { certificate_until_s, version: crate::VERSION.to_owned(), report, keeps, kept };
    match peer::to_the_store(node, Ask::Sync(Box::new(told))).await? {
        Reply::Synced(synced) => Ok(*synced),
        other => {
            let text = format!("it answered something else: {other:?}");
            Err(Problem::new(Code::Failed, text, "run the same muskox version on all machines"))
        }
    }
}
