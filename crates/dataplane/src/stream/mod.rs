//! Moving NBD messages over a byte stream, for both ends.

mod outbox;

pub use outbox::{Outbox, Weight};
