//! Moving a machine while it runs (`qapi/migration.json`).

use super::command::{Command, Empty, plain};
use serde::{Deserialize, Serialize};

plain! {
    /// How far a migration is.
    QueryMigrate = "query-migrate" -> MigrationInfo;
    /// What this QEMU can do, and what is switched on.
    QueryMigrateCapabilities = "query-migrate-capabilities" -> Vec<CapabilityState>;
    /// Gives a migration up. A source in pre-switchover resumes.
    MigrateCancel = "migrate_cancel" -> Empty;
}

/// Something a migration may do. Both ends must agree before `migrate-incoming` and `migrate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// The event `MIGRATION`.
    Events,
    /// The destination tells the source that it loaded.
    ReturnPath,
    /// The source stops before it lets go of its disks, until `migrate-continue`.
    PauseBeforeSwitchover,
    /// The destination does not touch its disks before it runs.
    LateBlockActivate,
    /// Several streams.
    Multifd,
    /// Memory follows later.
    PostcopyRam,
    /// Slows down a guest that writes faster than the link.
    AutoConverge,
    /// The destination refuses another machine's stream.
    ValidateUuid,
    /// One this code does not know.
    #[serde(other)]
    Unknown,
}

/// A capability and whether it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilityState {
    /// Which.
    pub capability: Capability,
    /// Whether it is on.
    pub state: bool,
}

/// Switches capabilities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MigrateSetCapabilities {
    /// Which, and how; the others stay.
    pub capabilities: Vec<CapabilityState>,
}

impl MigrateSetCapabilities {
    /// Switches these on.
    #[must_use]
    pub fn on(capabilities: &[Capability]) -> Self {
        let on = |capability: &Capability| CapabilityState { capability: *capability, state: true };
        Self { capabilities: capabilities.iter().map(on).collect() }
    }
}

impl Command for MigrateSetCapabilities {
    const NAME: &'static str = "migrate-set-capabilities";
    type Reply = Empty;
}

/// How several streams are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all.
    None,
    /// Zlib.
    Zlib,
    /// Zstandard, where QEMU was built with it.
    Zstd,
}

/// Sets what is given; the rest stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrateSetParameters {
    /// The longest the guest may stand still.
    #[serde(rename = "downtime-limit", skip_serializing_if = "Option::is_none")]
    pub downtime_limit_ms: Option<u64>,
    /// Bytes a second at most.
    #[serde(rename = "max-bandwidth", skip_serializing_if = "Option::is_none")]
    pub max_bandwidth_bytes: Option<u64>,
    /// How many streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multifd_channels: Option<u8>,
    /// How they are compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multifd_compression: Option<Compression>,
    /// The object with the keys of TLS; empty means no TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_creds: Option<String>,
}

impl Command for MigrateSetParameters {
    const NAME: &'static str = "migrate-set-parameters";
    type Reply = Empty;
}

/// Begins to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Migrate {
    /// `tcp:HOST:PORT`, `unix:PATH`.
    pub uri: String,
}

impl Command for Migrate {
    const NAME: &'static str = "migrate";
    type Reply = Empty;
}

/// Begins to listen; for a QEMU started with `-incoming defer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MigrateIncoming {
    /// `tcp:ADDRESS:PORT`, `unix:PATH`.
    pub uri: String,
}

impl Command for MigrateIncoming {
    const NAME: &'static str = "migrate-incoming";
    type Reply = Empty;
}

/// Goes on from a pause. Refused if the migration is no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MigrateContinue {
    /// Where it pauses: [`MigrationStatus::PreSwitchover`].
    pub state: MigrationStatus,
}

impl Command for MigrateContinue {
    const NAME: &'static str = "migrate-continue";
    type Reply = Empty;
}

/// A connection of QEMU's that may be torn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum YankInstance {
    /// The migration's.
    Migration,
    /// A disk's.
    BlockNode {
        /// Which.
        node_name: String,
    },
    /// A character device's.
    Chardev {
        /// Which.
        id: String,
    },
}

/// Tears connections, out of band: what hangs on them ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Yank {
    /// Which.
    pub instances: Vec<YankInstance>,
}

impl Command for Yank {
    const NAME: &'static str = "yank";
    const OUT_OF_BAND: bool = true;
    type Reply = Empty;
}

/// The phase of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationStatus {
    /// Not begun.
    None,
    /// Connecting.
    Setup,
    /// Being cancelled.
    Cancelling,
    /// Cancelled.
    Cancelled,
    /// Memory is being copied while the guest runs.
    Active,
    /// Memory follows while the guest runs at the destination.
    PostcopyActive,
    /// Post-copy lost its link.
    PostcopyPaused,
    /// Done, at this end.
    Completed,
    /// Failed; `query-migrate` may say why.
    Failed,
    /// The source is stopped, drained and flushed, and waits for `migrate-continue`.
    PreSwitchover,
    /// The devices' state is being sent.
    Device,
    /// Waits for a device to unplug.
    WaitUnplug,
    /// One this code does not know.
    #[serde(other)]
    Unknown,
}

impl MigrationStatus {
    /// Whether nothing more will happen by itself.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::None | Self::Cancelled | Self::Completed | Self::Failed)
    }
}

/// `query-migrate`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationInfo {
    /// The phase; absent if nothing was ever migrated.
    pub status: Option<MigrationStatus>,
    /// What was copied.
    pub ram: Option<RamInfo>,
    /// Since it began.
    #[serde(rename = "total-time")]
    pub total_ms: Option<u64>,
    /// What QEMU believes the guest stood still; trust STOP and RESUME.
    #[serde(rename = "downtime")]
    pub downtime_ms: Option<u64>,
    /// What QEMU expects.
    #[serde(rename = "expected-downtime")]
    pub expected_downtime_ms: Option<u64>,
    /// What it took to begin.
    #[serde(rename = "setup-time")]
    pub setup_ms: Option<u64>,
    /// Why it failed.
    pub error_desc: Option<String>,
}

/// What a migration copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RamInfo {
    /// Bytes sent.
    pub transferred: u64,
    /// Bytes of memory still to send.
    pub remaining: u64,
    /// Bytes of memory.
    pub total: u64,
    /// Rounds over memory.
    #[serde(rename = "dirty-sync-count", default)]
    pub rounds: u64,
    /// Pages a second the guest dirties.
    #[serde(default)]
    pub dirty_pages_rate: u64,
    /// Megabits a second.
    #[serde(default)]
    pub mbps: f64,
    /// Bytes a page.
    #[serde(default)]
    pub page_size: u64,
}
