//! Sockets of the data plane: TCP and Unix, plain and under TLS.
//!
//! A [`Transport`] moves bytes and says who the peer is, as far as that is proven: by its TLS key, or by the kernel
//! for a Unix socket. It does *not* know messages. Nothing here is evidence of a peer's death: keepalive only clears
//! away connections whose peer is long gone; who is dead is decided by heartbeats elsewhere.

mod acked;
mod bridge;
mod door;
mod duty;
mod link;
mod listen;
mod stream;
mod tap;
mod tls;
mod transport;

pub use acked::Acknowledged;
pub use bridge::{bridges, check_bridge, check_uplink, keep_bridge};
pub use door::{Lobby, LogBudget, Place, Places, Source};
pub use duty::duties;
pub use listen::{Listener, NetError, connect_tcp, connect_unix, when_there};
pub use tap::{TapOwner, keep_tap, remove_tap};
pub use tls::{ClientTls, Expect, ServerTls, StrangerTls, TlsError, TlsFiles, fingerprint_of, host_key_of};
pub use transport::{Parts, Peer, Transport};
