//! The data plane's processes: loops that join `block` and `wire` to `host`. They go on while the control plane is
//! restarted, upgraded or dead, and do *not* know the store, jobs or HTTP.

mod config;
mod control;
mod credentials;
pub mod ctl;
pub mod deadman;
pub mod guard;
mod guests;
pub mod initiator;
#[cfg(feature = "sabotage")]
pub mod sabotage;
mod session;
mod stream;
pub mod target;
mod trouble;
