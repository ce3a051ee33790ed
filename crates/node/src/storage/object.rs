//! What lies in the store about pools and volumes. Who they belong to is decided here; how they are is asked of the
//! targets.

use crate::registry::absent;
use crate::store::{failed, parse_object};
use api::{Code, Problem};
use cluster::job::VolumeFloor;
use cluster::store::{Compare, Engine, Entry, Key, Op, Txn, UnknownFields};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use units::{ByteLen, Epoch, NodeName, PoolName, VmName, VolumeId, VolumeName};

/// Every object's form so far.
pub const FORM: u32 = 1;

/// `/pool/NAME`: written before the pool is made, so it may be that there is none yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolObject {
    /// [`FORM`].
    pub version: u32,
    /// Its name.
    pub name: PoolName,
    /// The machine that has its disks.
    pub node: NodeName,
}

/// `/volume/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeObject {
    /// [`FORM`].
    pub version: u32,
    /// Its name.
    pub name: VolumeName,
    /// What its target calls it; none: it is being made or removed, and of no use to anybody.
    pub id: Option<VolumeId>,
    /// The pool that it lives on.
    pub pool: PoolName,
    /// The machine that serves it.
    pub node: NodeName,
    /// How long it is.
    pub size: ByteLen,
    /// The VM that it belongs to.
    pub vm: Option<VmName>,
    /// What a newer version wrote beside it.
    #[serde(flatten)]
    pub unknown_fields: UnknownFields,
}

/// `/claim/VOLUME`: a machine fills a volume that is nobody's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimObject {
    /// [`FORM`].
    pub version: u32,
    /// Which volume.
    pub volume: VolumeName,
    /// Who fills it.
    pub machine: NodeName,
    /// At which epoch.
    pub epoch: Epoch,
    /// Since when, in seconds since 1970.
    pub since_s: u64,
}

/// An object as it was read, and the compare that it is still so.
#[derive(Clone, Debug)]
pub struct Found<T> {
    /// What it says.
    pub value: T,
    /// Holds as long as nobody changed it.
    pub unchanged: Compare,
}

/// Where a pool's object is.
#[must_use]
pub fn pool_key(name: &PoolName) -> Key {
    format!("/pool/{name}").parse().expect("a name is a part of a key")
}

/// Where a volume's object is.
#[must_use]
pub fn volume_key(name: &VolumeName) -> Key {
    format!("/volume/{name}").parse().expect("a name is a part of a key")
}

/// Where a claim is.
#[must_use]
pub fn claim_key(volume: &VolumeName) -> Key {
    format!("/claim/{volume}").parse().expect("a name is a part of a key")
}

/// All pools, by name.
///
/// # Errors
/// [`Code::StoreFailed`].
pub fn pools(engine: &mut dyn Engine) -> Result<Vec<PoolObject>, Problem> {
    all(engine, "/pool/")
}

/// All volumes, by name.
///
/// # Errors
/// [`Code::StoreFailed`].
pub fn volumes(engine: &mut dyn Engine) -> Result<Vec<VolumeObject>, Problem> {
    all(engine, "/volume/")
}

/// All claims, by volume.
///
/// # Errors
/// [`Code::StoreFailed`].
pub fn claims(engine: &mut dyn Engine) -> Result<Vec<ClaimObject>, Problem> {
    all(engine, "/claim/")
}

fn all<T: DeserializeOwned>(engine: &mut dyn Engine, prefix: &str) -> Result<Vec<T>, Problem> {
    let listing = engine.range(prefix).map_err(|error| failed(&error))?;
    listing.entries.iter().map(parse_object).collect()
}

/// A pool.
///
/// # Errors
/// [`Code::NotFound`], [`Code::StoreFailed`].
pub fn pool(engine: &mut dyn Engine, name: &PoolName) -> Result<Found<PoolObject>, Problem> {
    let missing = || Problem::new(Code::NotFound, format!("there is no pool '{name}'"), "see `muskox pool list`");
    find(engine, &pool_key(name))?.ok_or_else(missing)
}

/// A volume.
///
/// # Errors
/// [`Code::NotFound`], [`Code::StoreFailed`].
pub fn volume(engine: &mut dyn Engine, name: &VolumeName) -> Result<Found<VolumeObject>, Problem> {
    let missing = || Problem::new(Code::NotFound, format!("there is no volume '{name}'"), "see `muskox volume list`");
    find(engine, &volume_key(name))?.ok_or_else(missing)
}

/// An object, if it is there.
///
/// # Errors
/// [`Code::StoreFailed`].
pub fn find<T: DeserializeOwned>(engine: &mut dyn Engine, key: &Key) -> Result<Option<Found<T>>, Problem> {
    let Some(entry) = engine.get(key).map_err(|error| failed(&error))? else { return Ok(None) };
    let value = parse_object(&entry)?;
    Ok(Some(Found { value, unchanged: Compare::Changed(entry.key, entry.changed) }))
}

/// A volume's floor and the compare that it is still so; a volume that never had one begins at zero.
///
/// # Errors
/// [`Code::StoreFailed`].
pub fn floor(engine: &mut dyn Engine, name: &VolumeName) -> Result<Found<VolumeFloor>, Problem> {
    let key = VolumeFloor::key(name);
    let Some(Entry { value, changed, .. }) = engine.get(&key).map_err(|error| failed(&error))? else {
        return Ok(Found { value: VolumeFloor::new(Epoch(0), None), unchanged: absent(&key) });
    };
    let unread = |error: cluster::job::JobError| Problem::new(Code::StoreFailed, format!("{key}: {error}"), "");
    Ok(Found { value: VolumeFloor::read(&value).map_err(unread)?, unchanged: Compare::Changed(key.clone(), changed) })
}

/// Changes the store if all compares hold; whether they did.
///
/// # Errors
/// [`Code::StoreFailed`].
pub fn decide(engine: &mut dyn Engine, compares: Vec<Compare>, then: Vec<Op>) -> Result<bool, Problem> {
    let outcome = engine.txn(&Txn { compares, then, ..Txn::default() });
    outcome.map(|outcome| outcome.held).map_err(|error| failed(&error))
}

/// Somebody changed what had been read: nothing was decided.
#[must_use]
pub fn changed_meanwhile() -> Problem {
    Problem::new(Code::Busy, "somebody else changed the same thing at the same time", "ask again")
}
