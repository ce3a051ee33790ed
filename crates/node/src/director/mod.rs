//! What is decided, on the machine with the store: jobs are carried on, hosts are declared dead, guests are placed.
//!
//! Invariant: nothing is done that the store does not say; nothing is taken from a host without votes. It does *not* know
//! QEMU, disks or processes: it asks the machines' agents.

use crate::peer::{SyncReport, Synced, Tell};
use crate::registry::Record;
use crate::service::Node;
use api::Problem;
use std::rc::Rc;

/// Who decides.
#[derive(Default)]
pub struct Director {}

impl Director {
    /// A guest changed.
    pub async fn told(&self, node: &Node, from: &Record, told: Tell) {
        let _ = (node, from, told);
        todo!("director")
    }

    /// A machine says how it is; how it should be.
    ///
    /// # Errors
    /// The store's.
    pub async fn synced(&self, node: &Node, from: &Record, report: SyncReport) -> Result<Synced, Problem> {
        let _ = (from, report);
        let keeper = node.keeper.as_ref().expect("only the machine with the store has a director");
        let members = node.members(keeper).await?;
        let timing = cluster::lease::LeaseTiming::default();
        Ok(Synced { members, assignments: Vec::new(), witnesses: Vec::new(), timing })
    }
}

/// Its loops, for ever; nothing on a machine without the store.
pub async fn run(node: Rc<Node>) {
    drop(node);
    std::future::pending::<()>().await;
}
