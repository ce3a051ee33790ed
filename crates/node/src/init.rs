//! `muskox node init`: makes a cluster of this one machine. It prepares the files and is done; `run` serves them.
//!
//! Invariant: nothing that exists is overwritten; `node.toml` is written last, so a half-made cluster is never run.

use crate::authority::{Authority, fingerprint, key_of_request, new_key, request_for};
use crate::clock::now_s;
use crate::identity::{Identity, Seat, check_address, check_portals};
use crate::registry::{self, Record, Settings};
use crate::root::{Root, write_public, write_secret};
use crate::service::random;
use crate::store::failed;
use api::{Code, Problem};
use host::net::Listener;
use host::store::Sqlite;
use std::net::SocketAddr;
use units::{CaFingerprint, HostKey, NodeName};

/// What a machine has become.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Became {
    /// Its name.
    pub name: NodeName,
    /// Where its node will listen.
    pub address: SocketAddr,
    /// Who it is.
    pub key: HostKey,
    /// Which cluster.
    pub cluster: CaFingerprint,
    /// How many machines the cluster has.
    pub machines: usize,
}

/// Makes the cluster. To be called within a tokio runtime: it tries the address.
///
/// # Errors
/// [`Code::Exists`], [`Code::Files`], [`Code::BadRequest`]: nothing was changed, except that folders may have been made.
pub fn init(root: &Root, seat: &Seat, certificate_s: u64) -> Result<Became, Problem> {
    let (name, address) = (&seat.name, seat.address);
    refuse_second(root)?;
    try_addresses(seat)?;
    root.make_folders()?;
    let now_s = now_s();
    let (ca_pem, ca_key) = Authority::create(now_s)?;
    let own_key = new_key()?;
    let request = request_for(&own_key)?;
    let (key, cluster) = (key_of_request(&request)?, fingerprint(&ca_pem)?);
    let authority = Authority::load(&ca_pem, &ca_key)?;
    let certificate = authority.issue(&request, (name, address), (now_s, certificate_s), random()?)?;
    write_secret(&root.ca_key(), &ca_key)?;
    write_public(&root.ca(), &ca_pem)?;
    write_secret(&root.key(), &own_key)?;
    write_public(&root.certificate(), &certificate.chain_pem)?;
    let mut engine = Sqlite::open(&root.store()).map_err(|error| failed(&error))?;
    let first = Record::new(seat.clone(), key, now_s);
    registry::found(&mut engine, &first, Settings::new(certificate_s))?;
    Identity::new(cluster, seat.clone(), None).save(root)?;
    Ok(Became { name: name.clone(), address, key, cluster, machines: 1 })
}

/// Refuses a machine that belongs to a cluster, or that has anything of one.
///
/// # Errors
/// [`Code::Exists`]: what is there.
pub fn refuse_second(root: &Root) -> Result<(), Problem> {
    if Root::first_that_exists(&[root.identity()])?.is_some() {
        let (text, leave) = match Identity::load(root) {
            Ok(own) => {
                (format!("this machine is '{}' of the cluster {} already", own.name, own.cluster), way_out(&own))
            }
            Err(problem) => (format!("this machine belongs to a cluster already ({problem})"), String::new()),
        };
        let hint = format!("see '{}'{leave}", root.identity().display());
        return Err(Problem::new(Code::Exists, text, hint));
    }
    let ours = [root.ca_key(), root.store(), root.ca(), root.certificate(), root.key()];
    let Some(found) = Root::first_that_exists(&ours)? else { return Ok(()) };
    let begun =
        found != &root.ca_key() && found != &root.store() && Root::first_that_exists(&[root.pending_key()])?.is_some();
    if begun {
        // A join that was answered and could not finish; the next join does.
        return Ok(());
    }
    let text = format!("'{}' exists: it belongs to a cluster, or to an init that did not finish", found.display());
    let hint = "if it is of no worth, move the folders etc/muskox and var/lib/muskox away; nothing was changed";
    Err(Problem::new(Code::Exists, text, hint))
}

/// How a slip is taken back.
fn way_out(own: &Identity) -> String {
    if own.store.is_none() {
        let what = "to give up its whole cluster, stop the nodes and move etc/muskox and var/lib/muskox away";
        return format!("; it holds the store: {what}");
    }
    let name = &own.name;
    format!("; to leave: `muskox node remove {name}` on another of its machines, stop this node, empty etc/muskox")
}

/// Tries to listen there, so that a wrong address or portal is heard of before anything is made.
///
/// # Errors
/// [`Code::BadRequest`].
pub fn try_addresses(seat: &Seat) -> Result<(), Problem> {
    check_portals(&seat.portals)?;
    check_address(seat.address)?;
    let listen = |address, hint: &str| {
        Listener::tcp(address).map(drop).map_err(|error| Problem::new(Code::BadRequest, error.to_string(), hint))
    };
    listen(seat.address, "give this machine's own address, and a port that is free")?;
    // Any port: who will serve there is another process.
    seat.portals.iter().try_for_each(|portal| {
        listen(SocketAddr::new(*portal, 0), "give this machine's own addresses on the storage segments as --portals")
    })
}
