//! `muskox deadman` as processes on loopback, with certificates, fake QEMUs and fake initiators.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

mod configuration;
#[path = "../common/flood.rs"]
mod flood;
mod guard;
mod guests;
mod lease;
mod qemu;
mod support;
