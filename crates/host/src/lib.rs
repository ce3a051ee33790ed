//! Hands.

pub mod store;
