//! Bytes to messages and back, and the protocol sessions above them, without a socket: one folder a protocol.
//!
//! Invariant: every byte from a peer is untrusted. Whatever arrives, in whatever pieces, is answered, refused or ends
//! the session; it neither panics nor makes memory grow beyond a constant. This room does *not* know sockets, clocks,
//! TLS or disks: who drives a session hands bytes in and carries out the commands that come back.

pub mod nbd;
pub mod qmp;
