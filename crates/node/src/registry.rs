//! Who belongs to the cluster, decided on the store: `/node/NAME`, `/address/…`, `/token/…`, `/removed/…`.
//!
//! Invariant: a decision is one transaction that compares what it read; a token admits one machine; a name, an address
//! and a key belong to one machine at a time; a removed key never comes back. It does *not* know HTTP, certificates or
//! clocks: what it needs is handed in.

use crate::identity::Seat;
use crate::past::{self, Removed};
use crate::ports;
use crate::store::{failed, parse_object as read};
use api::{Code, Problem, Role};
use cluster::lease::{LeaseTiming, RosterError, Voter, check_roster};
use cluster::store::{Compare, Engine, Entry, Key, Op, Revision, Txn, UnknownFields};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use units::{HostKey, NodeName};

/// Tokens that wait to be used.
const TOKENS_MAX: usize = 100;
/// Expired tokens cleared away with one new one: the operations of a transaction are bounded.
const CLEARED_MAX: usize = 32;
/// A decision is tried again if somebody changed what it had read.
const TRIES: u32 = 8;
/// Every object's form so far.
const FORM: u32 = 1;
/// Where members are.
pub const NODES: &str = "/node/";
/// Where tokens that wait are.
pub const TOKENS: &str = "/token/";
/// Where it is kept who was removed.
pub const REMOVED: &str = "/removed/";

/// A machine as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// Its name.
    pub name: NodeName,
    /// Where its node listens.
    pub address: SocketAddr,
    /// Its addresses on the storage segments; none: that of its node.
    #[serde(default)]
    pub portals: Vec<IpAddr>,
    /// What it is for.
    pub roles: Vec<Role>,
    /// Who it is.
    pub key: HostKey,
    /// When it became a member.
    pub joined_s: u64,
    /// What a newer version wrote beside it.
    #[serde(flatten)]
    unknown_fields: UnknownFields,
}

/// What holds for the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    version: u32,
    /// How long a machine's certificate is good.
    pub certificate_s: u64,
    /// The times of the lease.
    #[serde(default)]
    pub lease: LeaseTiming,
}

#[derive(Serialize, Deserialize)]
struct Held {
    version: u32,
    name: NodeName,
}

#[derive(Serialize, Deserialize)]
struct Waiting {
    version: u32,
    until_s: u64,
}

#[derive(Serialize, Deserialize)]
struct Gone {
    version: u32,
    name: NodeName,
    removed_s: u64,
}

/// What a key is to the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A member's.
    Member(Record),
    /// A machine's that was removed; this was its name.
    Removed(NodeName),
    /// Nobody's.
    Stranger,
}

impl Record {
    /// A machine of the current form.
    #[must_use]
    pub fn new(seat: Seat, key: HostKey, joined_s: u64) -> Self {
        let Seat { name, address, portals, roles } = seat;
        let unknown_fields = UnknownFields::default();
        Self { version: FORM, name, address, portals, roles, key, joined_s, unknown_fields }
    }

    /// Where it is found on the storage segments.
    #[must_use]
    pub fn storage_ips(&self) -> Vec<IpAddr> {
        if self.portals.is_empty() { vec![self.address.ip()] } else { self.portals.clone() }
    }

    /// Every address of it, without the port: on the storage segments, and its node's.
    #[must_use]
    pub fn ips(&self) -> Vec<IpAddr> {
        let mut ips = self.storage_ips();
        if !ips.contains(&self.address.ip()) {
            ips.push(self.address.ip());
        }
        ips
    }

    /// The witness that it is, as all dead-men are told.
    #[must_use]
    pub fn voter(&self) -> Voter {
        let portals = self.ips().into_iter().map(|ip| SocketAddr::new(ip, ports::DEADMAN)).collect();
        Voter { key: self.key, name: self.name.clone(), portals }
    }
}

impl Settings {
    /// Settings of the current form.
    #[must_use]
    pub fn new(certificate_s: u64) -> Self {
        Self { version: FORM, certificate_s, lease: LeaseTiming::default() }
    }
}

/// The first machine of a new cluster.
///
/// # Errors
/// [`Code::Exists`] if the store is not empty.
pub fn found(engine: &mut dyn Engine, first: &Record, settings: Settings) -> Result<(), Problem> {
    let mut txn = Txn { compares: vec![absent(&settings_key())], ..Txn::default() };
    txn.then = vec![put(&settings_key(), &settings)];
    add(&mut txn, first);
    if engine.txn(&txn).map_err(|error| failed(&error))?.held {
        return Ok(());
    }
    Err(Problem::new(Code::Exists, "the store holds a cluster already", "use another folder"))
}

/// The cluster's settings.
///
/// # Errors
/// [`Code::StoreFailed`].
pub fn settings(engine: &mut dyn Engine) -> Result<Settings, Problem> {
    let entry = engine.get(&settings_key()).map_err(|error| failed(&error))?;
    let lost = || Problem::new(Code::StoreFailed, "the store holds no cluster", "bring it back from a backup");
    read(&entry.ok_or_else(lost)?)
}

/// All machines, by name.
///
/// # Errors
/// [`Code::StoreFailed`].
pub fn members(engine: &mut dyn Engine) -> Result<Vec<Record>, Problem> {
    let listing = engine.range(NODES).map_err(|error| failed(&error))?;
    listing.entries.iter().map(read).collect()
}

/// Everybody who was removed, by key.
///
/// # Errors
/// [`Code::StoreFailed`].
pub fn removed(engine: &mut dyn Engine) -> Result<Vec<Removed>, Problem> {
    let listing = engine.range(REMOVED).map_err(|error| failed(&error))?;
    listing.entries.iter().map(removed_of).collect()
}

/// Who was removed, by its object.
///
/// # Errors
/// [`Code::StoreFailed`].
pub fn removed_of(entry: &Entry) -> Result<Removed, Problem> {
    let Gone { name, removed_s, .. } = read(entry)?;
    let key = entry.key.as_str().trim_start_matches(REMOVED).replace('/', "");
    let foreign = |error: units::IdentError| {
        let hint = "run the muskox version that wrote it";
        Problem::new(Code::StoreFailed, format!("the store's object {} is not understood: {error}", entry.key), hint)
    };
    Ok(Removed { key: key.parse().map_err(foreign)?, name, removed_s })
}

/// What a key is to the cluster.
///
/// # Errors
/// [`Code::StoreFailed`].
pub fn standing(engine: &mut dyn Engine, key: HostKey) -> Result<Standing, Problem> {
    if let Some(member) = members(engine)?.into_iter().find(|member| member.key == key) {
        return Ok(Standing::Member(member));
    }
    let gone = engine.get(&removed_key(key)).map_err(|error| failed(&error))?;
    Ok(match gone {
        Some(entry) => Standing::Removed(read::<Gone>(&entry)?.name),
        None => Standing::Stranger,
    })
}

/// Keeps a token's hash until it is used or its time is over.
///
/// # Errors
/// [`Code::Busy`] if too many wait already.
pub fn add_token(engine: &mut dyn Engine, hash: &str, until_s: u64, now_s: u64) -> Result<(), Problem> {
    let waiting = engine.range(TOKENS).map_err(|error| failed(&error))?.entries;
    let mut over = Vec::new();
    for entry in &waiting {
        if read::<Waiting>(entry)?.until_s <= now_s {
            over.push(Op::Delete(entry.key.clone()));
        }
    }
    if waiting.len() - over.len() >= TOKENS_MAX {
        let text = format!("{TOKENS_MAX} tokens wait to be used");
        return Err(Problem::new(Code::Busy, text, "use them, or wait until they expire"));
    }
    over.truncate(CLEARED_MAX);
    let key = token_key(hash);
    over.push(put(&key, &Waiting { version: FORM, until_s }));
    let held = decide(engine, &Txn { compares: vec![absent(&key)], then: over, ..Txn::default() })?;
    assert!(held, "256 random bits are not drawn twice");
    Ok(())
}

/// Makes a machine a member, for a token that is used up by it. The same machine asking again, after an answer that got
/// lost, is told yes again.
///
/// # Errors
/// [`Code::TokenUnknown`], [`Code::TokenExpired`], [`Code::NameTaken`], [`Code::AddressTaken`], [`Code::Removed`],
/// [`Code::Exists`], [`Code::Busy`], also while a store that was brought back has not heard enough machines: nothing was changed.
pub fn admit(engine: &mut dyn Engine, hash: &str, wanted: &Record) -> Result<Record, Problem> {
    for _ in 0..TRIES {
        let all = members(engine)?;
        if let Some(same) = all.iter().find(|member| member.key == wanted.key) {
            let again = same.name == wanted.name && same.address == wanted.address;
            return if again { Ok(same.clone()) } else { Err(other_words(same)) };
        }
        let token = engine.get(&token_key(hash)).map_err(|error| failed(&error))?;
        let token = check_token(token, wanted.joined_s)?;
        past::check_heard(engine)?;
        check_room(engine, &all, wanted)?;
        let mut txn = Txn { compares: vec![Compare::Changed(token.key.clone(), token.changed)], ..Txn::default() };
        txn.compares.push(absent(&removed_key(wanted.key)));
        txn.then.push(Op::Delete(token.key));
        add(&mut txn, wanted);
        if decide(engine, &txn)? {
            return Ok(wanted.clone());
        }
    }
    Err(busy())
}

/// Takes a machine out for good.
///
/// # Errors
/// [`Code::NotFound`], [`Code::HoldsStore`], [`Code::Busy`]: nothing was changed.
pub fn remove(engine: &mut dyn Engine, name: &NodeName, holder: &NodeName, removed_s: u64) -> Result<Record, Problem> {
    if name == holder {
        let text = format!("'{name}' holds the store: without it nothing can be decided");
        return Err(Problem::new(Code::HoldsStore, text, "remove the other machines; this one stays to the end"));
    }
    for _ in 0..TRIES {
        let entry = engine.get(&node_key(name)).map_err(|error| failed(&error))?;
        let missing =
            || Problem::new(Code::NotFound, format!("there is no machine '{name}'"), "see `muskox node list`");
        let entry = entry.ok_or_else(missing)?;
        let record: Record = read(&entry)?;
        if take_out(engine, &record, entry.changed, removed_s)? {
            return Ok(record);
        }
    }
    Err(busy())
}

/// Takes a machine out of which another machine knows that it was removed; whether that is news. One that is no member is kept out.
///
/// # Errors
/// [`Code::StoreFailed`], [`Code::Busy`]: nothing was changed.
pub fn remove_again(engine: &mut dyn Engine, gone: &Removed) -> Result<bool, Problem> {
    for _ in 0..TRIES {
        let member = members(engine)?.into_iter().find(|member| member.key == gone.key);
        if let Some(record) = member {
            let entry = engine.get(&node_key(&record.name)).map_err(|error| failed(&error))?;
            if let Some(entry) = entry
                && take_out(engine, &record, entry.changed, gone.removed_s)?
            {
                return Ok(true);
            }
            continue;
        }
        let key = removed_key(gone.key);
        if engine.get(&key).map_err(|error| failed(&error))?.is_some() {
            return Ok(false);
        }
        let object = Gone { version: FORM, name: gone.name.clone(), removed_s: gone.removed_s };
        let txn = Txn { compares: vec![absent(&key)], then: vec![put(&key, &object)], ..Txn::default() };
        if decide(engine, &txn)? {
            return Ok(true);
        }
    }
    Err(busy())
}

/// Whether nobody had changed the machine's object since.
fn take_out(engine: &mut dyn Engine, record: &Record, changed: Revision, removed_s: u64) -> Result<bool, Problem> {
    let gone = Gone { version: FORM, name: record.name.clone(), removed_s };
    let mut then = vec![put(&removed_key(record.key), &gone)];
    then.extend(keys_of(record).into_iter().map(Op::Delete));
    decide(engine, &Txn { compares: vec![Compare::Changed(node_key(&record.name), changed)], then, ..Txn::default() })
}

/// Every object that is a machine's own as a member.
#[must_use]
pub fn keys_of(record: &Record) -> Vec<Key> {
    std::iter::once(node_key(&record.name)).chain(claims(record)).collect()
}

fn check_token(token: Option<Entry>, now_s: u64) -> Result<Entry, Problem> {
    let hint = "make a new one with `muskox node token`";
    let unknown = || {
        let text = "the token is not known: it was used already, or another cluster made it";
        Problem::new(Code::TokenUnknown, text, hint)
    };
    let token = token.ok_or_else(unknown)?;
    let until_s = read::<Waiting>(&token)?.until_s;
    if until_s > now_s {
        return Ok(token);
    }
    Err(Problem::new(Code::TokenExpired, format!("the token expired {} s ago", now_s - until_s), hint))
}

fn check_room(engine: &mut dyn Engine, all: &[Record], wanted: &Record) -> Result<(), Problem> {
    if all.iter().any(|member| member.name == wanted.name) {
        return Err(taken(Code::NameTaken, &wanted.name, "the name"));
    }
    if let Some(other) = all.iter().find(|member| member.address == wanted.address) {
        return Err(taken(Code::AddressTaken, &other.name, &format!("the address {}", wanted.address)));
    }
    check_witness(all, wanted)?;
    if engine.get(&removed_key(wanted.key)).map_err(|error| failed(&error))?.is_some() {
        let text = "this machine's key was removed from the cluster and never comes back";
        return Err(Problem::new(
            Code::Removed,
            text,
            "delete the machine's etc/muskox folder and join with a new key",
        ));
    }
    Ok(())
}

/// Whether every dead-man will take this machine as a witness beside the others: one that would be refused there is refused
/// here, before anybody is told of it. A machine that is wrong already is not this one's fault.
fn check_witness(all: &[Record], wanted: &Record) -> Result<(), Problem> {
    let mut voters: Vec<Voter> = all.iter().map(Record::voter).collect();
    voters.push(wanted.voter());
    let error = match check_roster(&voters) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    let (code, hint) = match &error {
        RosterError::Count(_) => (Code::Busy, "remove a machine that is not needed any more (`muskox node remove`)"),
        RosterError::SameAddress(..) => (
            Code::AddressTaken,
            "each machine needs addresses of its own, whatever the port: its target and its dead-man listen there too. For \
             several nodes on one machine use 127.0.0.2, 127.0.0.3 and so on; if the other machine is gone for good, remove it",
        ),
        RosterError::Addresses { .. } => (Code::BadRequest, "give this machine's own addresses"),
        RosterError::SameKey(..) | RosterError::SameName(_) => (Code::NameTaken, "see `muskox node list`"),
    };
    if error.machine().is_some_and(|name| *name != wanted.name) {
        let hint = "remove one of the two (`muskox node remove`): until then no machine's dead-man takes new witnesses";
        return Err(Problem::new(Code::Busy, format!("the cluster's machines clash already: {error}"), hint));
    }
    let text = match &error {
        RosterError::SameAddress(first, _, at) => format!("the address {} belongs to the machine '{first}'", at.ip()),
        other => other.to_string(),
    };
    Err(Problem::new(code, text, hint))
}

fn taken(code: Code, by: &NodeName, what: &str) -> Problem {
    let hint = "choose another, or remove that machine first (`muskox node list`, `muskox node remove`)";
    Problem::new(code, format!("{what} belongs to the machine '{by}'"), hint)
}

/// An answer got lost, and now the machine calls itself something else.
fn other_words(same: &Record) -> Problem {
    let text = format!("this machine has joined already, as '{}' at {}", same.name, same.address);
    Problem::new(Code::Exists, text, "join with that name and address, or remove that machine first")
}

fn busy() -> Problem {
    Problem::new(Code::Busy, "others keep changing the same thing", "ask again")
}

fn add(txn: &mut Txn, record: &Record) {
    for key in claims(record) {
        txn.compares.push(absent(&key));
        txn.then.push(put(&key, &Held { version: FORM, name: record.name.clone() }));
    }
    let node = node_key(&record.name);
    txn.compares.push(absent(&node));
    txn.then.push(put(&node, record));
}

fn decide(engine: &mut dyn Engine, txn: &Txn) -> Result<bool, Problem> {
    engine.txn(txn).map(|outcome| outcome.held).map_err(|error| failed(&error))
}

/// Holds as long as there is no such object.
#[must_use]
pub fn absent(key: &Key) -> Compare {
    Compare::Changed(key.clone(), Revision(0))
}

/// Writes an object.
#[must_use]
pub fn put(key: &Key, value: &impl Serialize) -> Op {
    let value = serde_json::to_string(value).expect("plain values are JSON");
    Op::Put { key: key.clone(), value, lease: None }
}

fn made_key(text: &str) -> Key {
    text.parse().expect("made of names, digits and hexadecimal")
}

fn settings_key() -> Key {
    made_key("/cluster/settings")
}

fn node_key(name: &NodeName) -> Key {
    made_key(&format!("/node/{name}"))
}

/// A key's part has no colons, and begins with a letter.
fn address_key(address: SocketAddr) -> Key {
    let text = address.to_string().replace(['[', ']'], "").replace('%', "_").replace(':', "-");
    made_key(&format!("/address/at-{text}"))
}

/// What a machine has for itself: where its node listens, and every one of its addresses.
fn claims(record: &Record) -> Vec<Key> {
    let ips = record.ips().into_iter().map(ip_key);
    std::iter::once(address_key(record.address)).chain(ips).collect()
}

fn ip_key(ip: IpAddr) -> Key {
    made_key(&format!("/address/ip-{}", ip.to_string().replace(':', "-")))
}

/// Half of the hash finds it; 128 bits are nobody's guess either.
fn token_key(hash: &str) -> Key {
    made_key(&format!("/token/{}", &hash[..32]))
}

/// A key's part is at most 63 long, a host key 64.
fn removed_key(key: HostKey) -> Key {
    let text = key.to_string();
    made_key(&format!("/removed/{}/{}", &text[..32], &text[32..]))
}

#[cfg(test)]
mod test;
#[cfg(test)]
pub mod versions;
