//! Pools and volumes as the store keeps them.

pub mod object;
