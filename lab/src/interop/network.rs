//! Where guest and storage box meet: a namespace with a bridge that has the box's address, and a tap for the guest on it.

use crate::ledger::Ledger;
use crate::net::{add_namespace, batch, namespace_file};
use std::ffi::OsStr;
use std::process::Command;

const BRIDGE: &str = "storage";
const TAP: &str = "guest0";
/// The storage box's address.
pub const BOX: &str = "10.77.1.1";
/// The guest's.
pub const GUEST: &str = "10.77.1.2";

/// The network.
pub struct Network {
    namespace: String,
}

impl Network {
    /// Makes it; it is in the ledger, whose settling takes it away.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn build(ledger: &Ledger) -> anyhow::Result<Self> {
        let namespace = format!("{}-oracle", ledger.run());
        add_namespace(ledger, &namespace)?;
        batch(
            &namespace,
            &format!(
                "link add name {BRIDGE} type bridge stp_state 0 mcast_snooping 0\nlink set dev {BRIDGE} up\n\
                 addr add {BOX}/24 dev {BRIDGE}\ntuntap add dev {TAP} mode tap\nlink set dev {TAP} master {BRIDGE} up\n"
            ),
        )?;
        Ok(Self { namespace })
    }

    /// The guest's tap.
    #[must_use]
    pub fn tap(&self) -> &'static str {
        TAP
    }

    /// A command that will run in it, as the process that is started.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", namespace_file(&self.namespace).display())).arg("--").arg(program);
        command
    }

    /// Cuts the guest off, silently: its carrier stays.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cut(&self) -> anyhow::Result<()> {
        batch(&self.namespace, &format!("link set dev {TAP} nomaster\n"))
    }

    /// Puts it back.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn put_back(&self) -> anyhow::Result<()> {
        batch(&self.namespace, &format!("link set dev {TAP} master {BRIDGE}\n"))
    }
}
