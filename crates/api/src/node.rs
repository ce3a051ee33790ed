//! Machines of the cluster: who they are, how they come and how they go.

use crate::schema::{message, words};
use std::net::{IpAddr, SocketAddr};
use units::{CaFingerprint, HostKey, NodeName};

words! {
    /// What a machine is for; a label, a machine may have all of them.
    pub enum Role {
        /// It has disks and serves volumes.
        Storage = "storage",
        /// It runs VMs.
        Host = "host",
        /// It votes on who is alive, and no more.
        Witness = "witness",
    }
}

words! {
    /// What the machine that holds the store has heard of another. Not evidence of anybody's death.
    pub enum NodeState {
        /// It holds the store: it is the one that answers.
        Store = "store",
        /// Its node calls regularly.
        Up = "up",
        /// Its node has called, but not lately.
        Silent = "silent",
        /// Its node has not called since this one was started.
        Unheard = "unheard",
    }
}

message! {
    /// A machine of the cluster.
    pub struct Member {
        /// Its name.
        pub name: NodeName,
        /// Where its node listens.
        #[schemars(extend("format" = "ip:port"))]
        pub address: SocketAddr,
        /// Its addresses on the storage segments; none: that of its node.
        pub portals: Vec<IpAddr>,
        /// What it is for.
        pub roles: Vec<Role>,
        /// Who it is: SHA-256 of its TLS public key.
        pub key: HostKey,
        /// When it became a member, in seconds since 1970.
        pub joined_s: u64,
        /// What is known of it now.
        pub state: NodeState,
        /// How long ago its node called, in milliseconds.
        pub heard_ms: Option<u64>,
        /// When the certificate it uses ends, in seconds since 1970.
        pub certificate_until_s: Option<u64>,
        /// The muskox version it runs.
        pub version: Option<String>,
    }
}

message! {
    /// All machines of the cluster.
    pub struct NodeList {
        /// Which cluster: SHA-256 of its CA's certificate.
        pub cluster: CaFingerprint,
        /// The machines, by name.
        pub nodes: Vec<Member>,
    }
}

message! {
    /// Asks for a join token.
    #[serde(deny_unknown_fields)]
    pub struct TokenRequest {
        /// How long it may be used, in seconds; at most a week.
        #[schemars(range(min = 1, max = 604_800))]
        pub lifetime_s: u64,
    }
}

message! {
    /// A join token. It is shown once and kept only as a hash.
    pub struct Token {
        /// The text for `muskox node join`. Secret.
        pub token: String,
        /// When it ends, in seconds since 1970.
        pub until_s: u64,
    }
}

message! {
    /// Asks to become a member.
    #[serde(deny_unknown_fields)]
    pub struct JoinRequest {
        /// The token's secret part, in hexadecimal.
        pub secret: String,
        /// The name the machine wants.
        pub name: NodeName,
        /// Where its node will listen.
        #[schemars(extend("format" = "ip:port"))]
        pub address: SocketAddr,
        /// Its addresses on the storage segments; none: that of its node.
        pub portals: Vec<IpAddr>,
        /// What it is for.
        pub roles: Vec<Role>,
        /// A certificate signing request (PKCS #10, PEM) for the machine's key. Only its key is used.
        pub request_pem: String,
    }
}

message! {
    /// The machine is a member.
    pub struct Joined {
        /// Its certificate.
        pub certificate: Certificate,
        /// The cluster's CA, PEM.
        pub ca_pem: String,
        /// Who holds the store.
        pub store: HostKey,
        /// The machines, the new one among them.
        pub members: NodeList,
    }
}

message! {
    /// Asks for a new certificate for a member's key. Whoever asks gets nothing that is secret.
    #[serde(deny_unknown_fields)]
    pub struct RenewRequest {
        /// A certificate signing request (PKCS #10, PEM) for the member's key. Only its key is used.
        pub request_pem: String,
    }
}

message! {
    /// A certificate.
    pub struct Certificate {
        /// The certificate, then the CA's, PEM.
        pub chain_pem: String,
        /// When it ends, in seconds since 1970.
        pub until_s: u64,
    }
}

message! {
    /// Asks for a file with the store's objects.
    #[serde(deny_unknown_fields)]
    pub struct StoreBackupRequest {
        /// The new file, an absolute path on the machine that is asked.
        pub path: String,
    }
}

message! {
    /// It is done.
    pub struct Done {
        /// What was done, for people.
        pub text: String,
    }
}
