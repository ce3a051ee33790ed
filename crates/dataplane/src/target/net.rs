//! Connections as the door and the sessions use them: accepted on the control thread, served on a pool's.

use crate::target::config::{Endpoint, Listener, Trust};
use crate::target::sockets;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use units::HostKey;

/// Who a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trusted {
    /// Known once TLS is up.
    AfterTls,
    /// By the listener it came in at.
    As(HostKey),
}

/// Why nobody can come in.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address or the socket.
    #[error("cannot listen on {at}: {source}")]
    Bind {
        /// Where.
        at: String,
        /// What the system said.
        source: io::Error,
    },
}
