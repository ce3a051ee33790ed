//! Moving NBD messages over a byte stream, for both ends.

mod outbox;
mod weight;

pub use outbox::Outbox;
#[cfg(test)]
pub use weight::REQUESTS_MAX;
pub use weight::{BEATS_MAX, Weight};

use host::net::{Acknowledged, Transport};
use tokio::io::{AsyncRead, AsyncWrite};

/// A stream, and what is known of the bytes that were given to it.
pub trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// How far the peer's machine has acknowledged them; `None` where nobody counts that.
    fn acknowledged(&self) -> Option<Acknowledged>;
}

impl Wire for Transport {
    fn acknowledged(&self) -> Option<Acknowledged> {
        Self::acknowledged(self)
    }
}
