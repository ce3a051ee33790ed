//! What HTTP says: every request, reply and problem of the API, and the table of calls. `docs/openapi.json` is made from here.
//!
//! Invariant: what is not written here is not part of the API. A call never changes its meaning within a version; a reply
//! may get more fields, a request is refused if it has one that is not known. This room does *not* know sockets, stores
//! or who may call what; it only names things.

mod call;
mod node;
mod openapi;
mod problem;
mod schema;
mod storage;
mod vm;
mod work;

pub use call::{CALLS, Call, Found, Method, Who, find};
pub use node::{
    Certificate, Done, JoinRequest, Joined, Member, NodeList, NodeState, RenewRequest, Role, StoreBackupRequest, Token,
    TokenRequest,
};
pub use openapi::{CONSOLE_PATH, CONSOLE_PROTOCOL, document};
pub use problem::{Code, Problem};
pub use storage::{
    OtherVolume, Pool, PoolAddRequest, PoolCreateRequest, PoolList, PoolMember, PoolReplaceRequest, PoolStartRequest,
    PoolState, Progress, Volume, VolumeCreateRequest, VolumeList, VolumeState,
};
pub use vm::{
    Begun, Check, Doctor, Event, Grade, Job, JobList, JobNote, MigrationReceipt, StoreChange, StoreChanges, Vm,
    VmDetails, VmList, VmMigrateRequest, VmSpecRequest, VmStartRequest, VmState, VmStopRequest, Why,
};
pub use work::{ImageImportRequest, Work, WorkList, WorkState};

/// The version in every path.
pub const VERSION: &str = "v1";
/// What requests and replies are.
pub const JSON: &str = "application/json";
/// What a problem is. Source: RFC 9457 §3.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// Where nodes listen for each other unless told otherwise: beside NBD's 10809.
pub const PORT: u16 = 10811;
/// Where the API answers on a machine, under its root folder.
pub const SOCKET: &str = "run/muskox/node.sock";
/// The longest request and reply; a list of 1000 machines fits twice.
pub const BODY_MAX_BYTES: usize = 1 << 20;
