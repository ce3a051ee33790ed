//! `muskox initiator`: one process per running VM; its disks outlive target restarts, switch reboots and cut cables.

mod inbox;
mod link;

pub use link::Link;
