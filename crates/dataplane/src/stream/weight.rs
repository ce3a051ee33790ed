//! What is under way on one connection, and how much of it may be: the target receives nothing beyond this, and the
//! initiator sends nothing beyond it, so that its heartbeat is never behind requests that wait for a place.

/// Requests in flight per connection: four times what a kernel client or QEMU sends by default.
pub const REQUESTS_MAX: u32 = 128;
/// Payload in memory per connection: two requests of the largest size, so that one can be sent while the next is done.
const BYTES_MAX: u64 = 64 << 20;
/// Heartbeats that wait for their turn to be sent; they have places of their own.
pub const BEATS_MAX: u32 = 4;

/// Requests and bytes, counted from the request's start until its answer has left (the target) or is here (the initiator).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// How many requests.
    pub requests: u32,
    /// Payload in memory for them.
    pub bytes: u64,
    /// How many heartbeats, beside the requests.
    pub beats: u32,
}

impl Weight {
    /// A heartbeat.
    pub const BEAT: Self = Self { requests: 0, bytes: 0, beats: 1 };

    /// One request with this much payload.
    pub fn of(bytes: u64) -> Self {
        Self { requests: 1, bytes, beats: 0 }
    }

    /// Whether another request with this much payload has a place. One is always let in, however large: otherwise it would
    /// wait for ever.
    pub fn has_room(self, bytes: u64) -> bool {
        self.requests == 0 || (self.requests < REQUESTS_MAX && self.bytes + bytes <= BYTES_MAX)
    }

    /// Adds another.
    pub fn add(&mut self, more: Self) {
        self.requests += more.requests;
        self.bytes += more.bytes;
        self.beats += more.beats;
    }

    /// Takes another away.
    ///
    /// # Panics
    /// If it was never added.
    pub fn remove(&mut self, less: Self) {
        let rest = self.requests.checked_sub(less.requests).zip(self.bytes.checked_sub(less.bytes));
        let rest = rest.zip(self.beats.checked_sub(less.beats));
        ((self.requests, self.bytes), self.beats) = rest.expect("only what was added is given back");
    }
}
