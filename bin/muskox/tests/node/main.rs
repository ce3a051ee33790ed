//! `muskox node` as processes: machines that know each other, each in a folder of its own, on loopback addresses.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

mod accidents;
mod agent;
mod alone;
mod api;
mod certificates;
mod cold;
mod deadman;
#[path = "../common/flood.rs"]
mod flood;
mod guard;
mod images;
mod membership;
mod memory;
mod restore;
mod storage;
mod support;
mod unknown;
mod upkeep;
