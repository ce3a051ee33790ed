//! `muskox target` as a process, with the peers' tools as clients and oracles.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

mod accidents;
mod fencing;
#[path = "../common/flood.rs"]
mod flood;
mod initiator;
mod lvm;
mod members;
mod serving;
mod stock;
mod strangers;
mod support;
mod tls;
mod wire;
