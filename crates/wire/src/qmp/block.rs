//! Disks and other objects of a machine.

use super::command::{Command, Empty, plain};
use serde::{Deserialize, Serialize};

plain! {
    /// The disks of a machine.
    QueryBlock = "query-block" -> Vec<BlockInfo>;
    /// What the disks did.
    QueryBlockStats = "query-blockstats" -> Vec<BlockStats>;
}

/// A disk (`BlockInfo`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockInfo {
    /// The block device's name; empty for one made with `-blockdev`.
    #[serde(default)]
    pub device: String,
    /// The path of the device that shows it to the guest.
    pub qdev: Option<String>,
    /// `ok`, `failed`, `nospace`: what the last request met, where an error stops the guest.
    pub io_status: Option<String>,
    /// What is behind it.
    pub inserted: Option<NodeInfo>,
}

/// What is behind a disk.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NodeInfo {
    /// The node.
    pub node_name: Option<String>,
    /// Its driver.
    pub drv: String,
    /// Whether writes are refused.
    pub ro: bool,
}

/// The counters of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockStats {
    /// The node.
    pub node_name: Option<String>,
    /// The path of the device that shows it to the guest.
    pub qdev: Option<String>,
    /// The counters.
    pub stats: NodeStats,
}

/// Counters since the machine's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct NodeStats {
    /// Bytes read.
    pub rd_bytes: u64,
    /// Bytes written.
    pub wr_bytes: u64,
    /// Reads.
    pub rd_operations: u64,
    /// Writes.
    pub wr_operations: u64,
    /// Flushes.
    pub flush_operations: u64,
    /// Reads that failed.
    #[serde(default)]
    pub failed_rd_operations: u64,
    /// Writes that failed.
    #[serde(default)]
    pub failed_wr_operations: u64,
}

/// What a failed request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockOperation {
    /// A read.
    Read,
    /// A write or a flush.
    Write,
}

/// What QEMU did about a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockAction {
    /// Told nobody.
    Ignore,
    /// Told the guest.
    Report,
    /// Stopped the guest, which knows nothing; `cont` sends the request again.
    Stop,
}

/// A disk's node: raw bytes without any probing, the host's cache bypassed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockNode {
    /// On a server.
    Nbd(NbdNode),
    /// In a file.
    File(FileNode),
}

/// A volume on an NBD server behind a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdNode {
    /// The node's name, at most 31 bytes (`BDRV_NODE_NAME_MAX`).
    pub name: String,
    /// The socket.
    pub socket: String,
    /// The export.
    pub export: String,
    /// How long requests wait for the server to come back before they fail.
    pub reconnect_delay_s: u32,
}

/// A file, shown read-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileNode {
    /// The node's name.
    pub name: String,
    /// The file.
    pub path: String,
}

impl BlockNode {
    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Nbd(node) => &node.name,
            Self::File(node) => &node.name,
        }
    }

    /// The options, as `-blockdev` takes them.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.options()).expect("strings, numbers and booleans always serialize")
    }

    fn options(&self) -> RawOptions<'_> {
        let name = self.name();
        let (direct, read_only) = match self {
            Self::Nbd(_) => (true, false),
            // A file on tmpfs refuses O_DIRECT, and a seed of a few KiB gains nothing by it.
            Self::File(_) => (false, true),
        };
        let cache = CacheOptions { direct, no_flush: false };
        let file = match self {
            Self::Nbd(node) => FileOptions::Nbd {
                node_name: format!("{name}-nbd"),
                server: SocketAddress::Unix { path: &node.socket },
                export: &node.export,
                reconnect_delay: node.reconnect_delay_s,
                cache,
            },
            Self::File(node) => {
                FileOptions::File { node_name: format!("{name}-file"), filename: &node.path, read_only }
            }
        };
        RawOptions { driver: "raw", node_name: name, read_only, cache, file }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct RawOptions<'a> {
    driver: &'static str,
    node_name: &'a str,
    read_only: bool,
    cache: CacheOptions,
    file: FileOptions<'a>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
struct CacheOptions {
    direct: bool,
    no_flush: bool,
}

#[derive(Serialize)]
#[serde(tag = "driver", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
enum FileOptions<'a> {
    Nbd { node_name: String, server: SocketAddress<'a>, export: &'a str, reconnect_delay: u32, cache: CacheOptions },
    File { node_name: String, filename: &'a str, read_only: bool },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
enum SocketAddress<'a> {
    Unix { path: &'a str },
}

/// Opens a disk's node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockdevAdd(pub BlockNode);

impl Serialize for BlockdevAdd {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.options().serialize(serializer)
    }
}

impl Command for BlockdevAdd {
    const NAME: &'static str = "blockdev-add";
    type Reply = Empty;
}

/// Closes a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockdevDel {
    /// Which.
    pub node_name: String,
}

impl Command for BlockdevDel {
    const NAME: &'static str = "blockdev-del";
    type Reply = Empty;
}

/// Makes an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ObjectAdd(pub Object);

impl Command for ObjectAdd {
    const NAME: &'static str = "object-add";
    type Reply = Empty;
}

/// An object that is no device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "qom-type", rename_all = "kebab-case")]
pub enum Object {
    /// A pre-shared key.
    TlsCredsPsk(TlsCredsPsk),
}

/// One end of a TLS connection by a pre-shared key, which stands in `keys.psk` of a folder as `NAME:HEXADECIMAL`
/// (`qapi/crypto.json`; GnuTLS's psktool(1)). A client reads the file now, a server at each connection: GnuTLS looks the
/// name up in the file itself (`gnutls_psk_set_server_credentials_file`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TlsCredsPsk {
    /// The object's name.
    pub id: String,
    /// The folder.
    pub dir: String,
    /// Which end.
    pub endpoint: TlsEnd,
    /// The key's name, which a client says; a server takes any in its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

/// An end of a TLS connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsEnd {
    /// It connects.
    Client,
    /// It is connected to.
    Server,
}

/// Removes an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectDel {
    /// Which.
    pub id: String,
}

impl Command for ObjectDel {
    const NAME: &'static str = "object-del";
    type Reply = Empty;
}
