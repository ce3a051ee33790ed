//! `muskox target`: the process of a storage box that serves volumes over NBD through the gate.
pub mod config;
pub mod known;
pub mod session;
