//! What a node does on its own machine, whoever decides: it obeys orders about guests, keeps the machine's processes
//! (target, dead-man, initiators, QEMUs) and says how things are.
//!
//! Invariant: a guest runs only after every volume was attached at the epoch that its order names; an order older than
//! the newest one heard is refused, also after a restart. It does *not* know the store: what should be is told to it.

use crate::identity::Identity;
use crate::peer::{Act, Acted, HostReport, Synced};
use crate::root::Root;
use crate::service::Node;
use std::rc::Rc;
use units::HostKey;
use wire::control;

/// A raise waits for slow disks.
const TARGET_PATIENCE: std::time::Duration = std::time::Duration::from_secs(18);

/// The machine's hands.
pub struct Agent {
    target: std::path::PathBuf,
}

impl Agent {
    /// Hands that have found nothing yet; [`run`] lets them look.
    #[must_use]
    pub fn new(root: &Root, _identity: &Identity, _key: HostKey) -> Self {
        Self { target: root.run().join("target.sock") }
    }

    /// Takes an order: what is quick is done, what is long is begun; how things are right now.
    pub async fn act(&self, act: Act) -> Acted {
        drop(act);
        todo!("agent")
    }

    /// What this machine is and has.
    pub async fn look(&self) -> HostReport {
        HostReport {
            memory: units::ByteLen(0),
            free: units::ByteLen(0),
            cpus: 1,
            qemu: None,
            accelerator: "tcg".to_owned(),
            bridges: Vec::new(),
            guests: Vec::new(),
            target_up: None,
            deadman: false,
            complaints: Vec::new(),
        }
    }

    /// Asks this machine's target.
    ///
    /// # Errors
    /// What it refuses; that there is none.
    pub async fn target(&self, request: control::Request) -> Result<control::Reply, control::Refusal> {
        crate::control::ask("target", &self.target, request, TARGET_PATIENCE).await
    }

    /// How everything here should be.
    pub fn synced(&self, synced: Synced) {
        drop(synced);
    }
}

/// The machine's loops, for ever.
pub async fn run(node: Rc<Node>) {
    drop(node);
    std::future::pending::<()>().await;
}
