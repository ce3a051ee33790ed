//! Everything that a host has to know to run a VM: it asks nobody when it is told to start one. It keeps it in a file of its
//! own, with what a newer version said beside it.

use cluster::store::UnknownFields;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use units::{HostKey, Millis, VmName, VolumeName};

/// A VM, as its host is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brief {
    /// Its name.
    pub vm: VmName,
    /// Its UUID.
    pub uuid: String,
    /// Its memory.
    pub memory_mib: u32,
    /// Its virtual CPUs.
    pub vcpus: u32,
    /// A CPU model of QEMU's; none: what all hosts have.
    pub cpu: Option<String>,
    /// Its disks, in order; the first one boots.
    pub disks: Vec<BriefDisk>,
    /// Its network interfaces, in order.
    pub nics: Vec<BriefNic>,
    /// What its first boot is told.
    pub seed: Option<BriefSeed>,
    /// How long it may take to shut down.
    pub patience_ms: Millis,
    /// What a newer version wrote beside it.
    #[serde(flatten)]
    pub unknown_fields: UnknownFields,
}

/// A disk: a volume, and where it is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BriefDisk {
    /// Which volume.
    pub volume: VolumeName,
    /// What the guest sees as the disk's serial number: at most 20 bytes.
    pub serial: String,
    /// Where its target listens, on each storage segment.
    pub portals: Vec<SocketAddr>,
    /// Who the target is.
    pub target: HostKey,
    /// What a newer version wrote beside it.
    #[serde(flatten)]
    pub unknown_fields: UnknownFields,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BriefNic {
    /// The host's bridge.
    pub bridge: String,
    /// The guest's address, as in `52:54:00:…`.
    pub mac: String,
    /// What a newer version wrote beside it.
    #[serde(flatten)]
    pub unknown_fields: UnknownFields,
}

/// NoCloud's texts; see `host::vm::seed`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BriefSeed {
    /// The guest's hostname.
    pub hostname: String,
    /// Who may log in.
    pub ssh_keys: Vec<String>,
    /// More `user-data`, as given.
    pub user_data: Option<String>,
    /// `network-config`, as given.
    pub network_config: Option<String>,
    /// More files: name and text.
    pub files: Vec<(String, String)>,
    /// What a newer version wrote beside it.
    #[serde(flatten)]
    pub unknown_fields: UnknownFields,
}
