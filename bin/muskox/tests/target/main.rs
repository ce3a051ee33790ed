//! `muskox target` as a process, with the peers' tools as clients and oracles.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

mod accidents;
mod fencing;
mod initiator;
mod lvm;
mod members;
mod serving;
mod stock;
mod support;
mod tls;
mod wire;
