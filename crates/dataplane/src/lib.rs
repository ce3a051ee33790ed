//! The data plane.
pub mod initiator;
pub mod stream;
