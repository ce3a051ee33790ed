//! Who this machine is within its cluster: `node.toml`. Written by `init` and `join`, read by `run`.

use crate::root::{Root, read_text, write_public};
use api::{Code, Problem, Role};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use units::{CaFingerprint, HostKey, NodeName};

/// The only form so far.
const FORM: u32 = 1;
/// More storage segments than anybody has.
const PORTALS_MAX: usize = 8;

/// What `node.toml` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    version: u32,
    /// Which cluster.
    pub cluster: CaFingerprint,
    /// This machine's name.
    pub name: NodeName,
    /// Where its node listens.
    pub address: SocketAddr,
    /// Its addresses on the storage segments; none: that of its node.
    #[serde(default)]
    pub portals: Vec<IpAddr>,
    /// What it is for.
    pub roles: Vec<Role>,
    /// Who holds the store; nobody else: this machine does.
    pub store: Option<StoreAt>,
}

/// A machine's name, where it is found, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its name.
    pub name: NodeName,
    /// Where its node listens.
    pub address: SocketAddr,
    /// Its addresses on the storage segments; none: that of its node.
    pub portals: Vec<IpAddr>,
    /// What it is for.
    pub roles: Vec<Role>,
}

/// The machine that holds the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreAt {
    /// Where its node listens.
    pub address: SocketAddr,
    /// Who it is.
    pub key: HostKey,
}

impl Identity {
    /// An identity of the current form.
    #[must_use]
    pub fn new(cluster: CaFingerprint, seat: Seat, store: Option<StoreAt>) -> Self {
        let Seat { name, address, portals, roles } = seat;
        Self { version: FORM, cluster, name, address, portals, roles, store }
    }

    /// Its seat.
    #[must_use]
    pub fn seat(&self) -> Seat {
        let (name, address) = (self.name.clone(), self.address);
        Seat { name, address, portals: self.portals.clone(), roles: self.roles.clone() }
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`Code::Files`]: there is none, or it says something else.
    pub fn load(root: &Root) -> Result<Self, Problem> {
        let path = root.identity();
        if Root::first_that_exists(std::slice::from_ref(&path))?.is_none() {
            return Err(Problem::new(
                Code::Files,
                format!("this machine belongs to no cluster: there is no '{}'", path.display()),
                "make a cluster with `muskox node init`, or join one with `muskox node join`",
            ));
        }
        let wrong = |what: String| {
            let hint = "bring it back from a backup; it is written by `init` and `join` and not meant to be edited";
            Problem::new(Code::Files, format!("{}: {what}", path.display()), hint)
        };
        let this: Self = toml::from_str(&read_text(&path)?).map_err(|error| wrong(error.to_string()))?;
        if this.version == FORM {
            Ok(this)
        } else {
            Err(wrong(format!("its version is {}, this muskox knows {FORM}", this.version)))
        }
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`Code::Files`].
    pub fn save(&self, root: &Root) -> Result<(), Problem> {
        let text = toml::to_string(self).expect("plain values are TOML");
        write_public(&root.identity(), &text)
    }
}

/// Refuses addresses at which nobody could find this machine again.
///
/// # Errors
/// [`Code::BadRequest`].
pub fn check_address(address: SocketAddr) -> Result<(), Problem> {
    let wrong = |text: String| {
        Err(Problem::new(Code::BadRequest, text, "give the address and port at which the other machines find this one"))
    };
    match address {
        _ if address.port() == 0 => wrong(format!("{address} has port 0")),
        _ if address.ip().is_unspecified() => wrong(format!("{} is no machine's address", address.ip())),
        _ if address.ip().is_multicast() => wrong(format!("{} is a multicast address", address.ip())),
        _ => Ok(()),
    }
}

/// Refuses portals at which nobody could find this machine.
///
/// # Errors
/// [`Code::BadRequest`].
pub fn check_portals(portals: &[IpAddr]) -> Result<(), Problem> {
    let hint = "give this machine's own address on each storage segment, at most 8";
    let wrong = |text: String| Err(Problem::new(Code::BadRequest, text, hint));
    for (index, portal) in portals.iter().enumerate() {
        if portals[..index].contains(portal) {
            return wrong(format!("the portal {portal} stands there twice"));
        }
        check_address(SocketAddr::new(*portal, api::PORT))?;
    }
    if portals.len() > PORTALS_MAX { wrong(format!("{} portals are too many", portals.len())) } else { Ok(()) }
}
