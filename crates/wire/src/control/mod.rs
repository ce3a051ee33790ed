//! What muskox processes say to each other: requests and replies as JSON in length-prefixed frames.
//!
//! Invariant: whatever bytes arrive, decoding neither panics nor keeps more than one frame of [`FRAME_MAX_BYTES`].
//! This room does *not* know sockets, who may ask what, or how an answer is found.
//!
//! ```text
//! frame   = length (u32, big-endian, of what follows) body
//! body    = {"version":1,"id":N,"request":{"do":"pool-create",…}}
//!         | {"version":1,"id":N,"reply":{…}} | {"version":1,"id":N,"refusal":{"code":…,"text":…,"hint":…}}
//! ```

mod advice;
mod deadman;
mod frame;
mod message;
mod report;

pub use advice::Advice;
pub use deadman::{
    CastReport, DeadmanReport, Doubt, GuestReport, PeerReport, PortalReport, RenewalReport, StandingReport, VoteReport,
};
pub use frame::{Decoder, FRAME_MAX_BYTES, FrameError, encode};
pub use message::{Answer, Ask, Code, Outcome, Owner, Refusal, Reply, Request, VERSION};
pub use report::{
    GrantReport, HeldReport, HeldState, InitiatorReport, MemberReport, MemberState, PathReport, PoolReport, PoolState,
    ReservationReport, ServeState, SessionReport, StatusReport, VolumeReport, WorkReport,
};
