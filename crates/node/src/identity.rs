//! Who this machine is within its cluster: `node.toml`. Written by `init` and `join`, read by `run`.

use crate::ports;
use crate::root::{Root, read_text, write_public};
use crate::versions::{check_toml_version, toml_mistake};
use api::{Code, Problem, Role};
use cluster::lease::SEGMENTS_MAX;
use cluster::store::UnknownFields;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use units::{CaFingerprint, HostKey, NodeName};

/// The only form so far.
const FORM: u32 = 1;

/// What `node.toml` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// What a newer version wrote beside it.
    #[serde(flatten)]
    unknown_fields: UnknownFields,
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
        let unknown_fields = UnknownFields::default();
        Self { version: FORM, cluster, name, address, portals, roles, store, unknown_fields }
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
        Self::parse(&read_text(&path)?).map_err(wrong)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        check_toml_version(text, FORM)?;
        toml::from_str(text).map_err(|error| toml_mistake(text, &error))
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
    match (unusable(address), ports::taken_by(address.port())) {
        (Some(why), _) => wrong(format!("at {address} {why}")),
        (None, Some(whose)) => wrong(format!("port {} is {whose}", address.port())),
        (None, None) => Ok(()),
    }
}

/// Why nobody could be found at an address; `None`: it will do.
fn unusable(address: SocketAddr) -> Option<&'static str> {
    let link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    match address.ip() {
        _ if address.port() == 0 => Some("port 0 is no port"),
        ip if ip.is_unspecified() => Some("no single machine is found"),
        ip if ip.is_multicast() => Some("many machines are found (multicast)"),
        // RFC 4007, section 6: it means something only together with an interface, which differs from machine to machine.
        ip if link_local(&ip) => Some("a machine is found on one interface only (IPv6 link-local)"),
        // RFC 4291, section 2.5.5.2. Written both ways, one machine would look like two.
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => Some("an IPv4 address is hidden: write it as such"),
        _ => None,
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
    if portals.len() > SEGMENTS_MAX { wrong(format!("{} portals are too many", portals.len())) } else { Ok(()) }
}
