//! `muskox node join`: makes this machine a member. It asks once, prepares the files and is done; `run` serves them.
//!
//! Invariant: the token's secret is said only to a server behind which the token's CA stands. If the answer gets lost,
//! joining again with the same token finishes it: the key that was asked for is kept until then.

use crate::authority::{fingerprint, key_of_request, new_key, request_for, validity};
use crate::client;
use crate::identity::{Identity, Seat, StoreAt};
use crate::init::{Became, refuse_second, try_addresses};
use crate::root::{Root, read_secret, unusable, write_public, write_secret};
use crate::token::JoinToken;
use api::{Call, Code, JoinRequest, Joined, Problem};

/// Joins the cluster that made the token. To be called within a tokio `LocalSet`.
///
/// # Errors
/// The cluster's refusal, [`Code::WrongPeer`], [`Code::Unreachable`], [`Code::ClockSkew`], [`Code::Exists`], [`Code::Files`].
pub async fn join(root: &Root, token: &JoinToken, seat: &Seat) -> Result<Became, Problem> {
    let (name, address) = (&seat.name, seat.address);
    refuse_second(root)?;
    try_addresses(seat)?;
    // First of all the server's proof; nothing is made for a wrong one.
    let transport = client::as_stranger(token.ca, token.address).await?;
    root.make_folders()?;
    let own_key = pending_key(root)?;
    let request_pem = request_for(&own_key)?;
    let key = key_of_request(&request_pem)?;
    let Seat { name: wanted, portals, roles, .. } = seat.clone();
    let request = JoinRequest { secret: token.secret.reveal(), name: wanted, address, portals, roles, request_pem };
    let joined: Joined = match client::call(transport, Call::named("join"), &request).await {
        Ok(joined) => joined,
        Err(problem) => {
            if is_final(problem.code) {
                remove_pending(root)?;
            }
            return Err(problem);
        }
    };
    if fingerprint(&joined.ca_pem)? != token.ca || validity(&joined.certificate.chain_pem)?.key != key {
        let text = format!("{} answered with a certificate that is not for this machine", token.address);
        return Err(Problem::new(Code::WrongPeer, text, "check what runs there"));
    }
    write_secret(&root.key(), &own_key)?;
    write_public(&root.ca(), &joined.ca_pem)?;
    write_public(&root.certificate(), &joined.certificate.chain_pem)?;
    let store = StoreAt { address: token.address, key: joined.store };
    Identity::new(token.ca, seat.clone(), Some(store)).save(root)?;
    remove_pending(root)?;
    Ok(Became { name: name.clone(), address, key, cluster: token.ca, machines: joined.members.nodes.len() })
}

/// The key of the join that has not been answered, or a new one.
fn pending_key(root: &Root) -> Result<String, Problem> {
    let path = root.pending_key();
    if Root::first_that_exists(std::slice::from_ref(&path))?.is_some() {
        return read_secret(&path);
    }
    let key = new_key()?;
    write_secret(&path, &key)?;
    Ok(key)
}

/// The cluster has said no; asking again with the same key is of no use. Not so if the key is a member's already.
fn is_final(code: Code) -> bool {
    !matches!(code, Code::Unreachable | Code::Failed | Code::StoreFailed | Code::Busy | Code::Exists)
}

fn remove_pending(root: &Root) -> Result<(), Problem> {
    let path = root.pending_key();
    std::fs::remove_file(&path).map_err(|error| unusable(&path, "removed", &error))
}
