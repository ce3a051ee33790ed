//! What lies in the store about volumes.

use cluster::store::Key;
use serde::{Deserialize, Serialize};
use units::{ByteLen, NodeName, PoolName, VmName, VolumeId, VolumeName};

/// `/volume/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeObject {
    /// Of this object's form.
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
