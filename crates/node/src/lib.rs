//! The control plane's process on every machine, `muskox node`: who belongs to the cluster, the API, what is decided and
//! who does it.
//!
//! ```text
//!  muskox … (cli) ─────── Unix socket ─▶ door ─▶ service ──▶ store's thread   (the machine that ran `init`)
//!  other machines ── TLS, HTTP/1.1, ──▶ door ─┘     │  └─ mTLS ─▶ that machine's door  (every other machine)
//!                    /v1 and /peer/v1               ▼
//!        director: jobs, votes, recovery  ◀─ peer ─▶  agent: QEMUs, initiators, target, dead-man    (every machine)
//!          (the machine with the store)
//! ```
//! `init` and `join` prepare files and are done; `run` is the daemon. Reasons: docs/rfd/0010-node.md, 0011-joined.md.
//!
//! Invariant: a machine is a member because the store says so, whatever certificate it holds; nothing is decided without
//! the store, and a guest is started by a job only. This room does *not* know arrays, NBD or guests' data: it asks targets and
//! QEMUs by their control sockets, and with every node dead guests and their disks go on.

mod agent;
mod audit;
mod authority;
mod backup;
mod client;
mod clock;
mod command;
mod console;
mod control;
mod director;
mod doctor;
mod door;
#[cfg(test)]
mod hostile;
mod identity;
mod image;
mod init;
mod install;
mod join;
mod keep;
mod past;
mod peer;
mod ports;
mod registry;
mod rights;
mod root;
mod run;
mod secret;
mod service;
mod storage;
mod store;
mod suggest;
mod token;
mod versions;
mod vms;
mod works;

pub use command::{BackupArguments, InitArguments, InstallArguments, JoinArguments, RestoreArguments, RunArguments};

/// The version that a node tells the others.
const VERSION: &str = env!("CARGO_PKG_VERSION");
