//! The lab's networks: bridges in a "switch" namespace of their own, a veth pair from each machine to each network it is
//! on. Cuts are made at the switch: the machine's carrier stays up, as with a switch that forwards nothing.
//!
//! ```text
//!   storage ──seg1──┐            namespace of the switch
//!   host1 ───seg1───┤ veth ports: storage-seg1, host1-seg1 … on bridge seg1
//!   host2 ───seg1───┘
//! ```
//! Addresses exist inside namespaces only; nothing is put on the machine's own network.

use crate::ledger::{Ledger, Thing};
use anyhow::Context;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where `ip netns` keeps its namespaces. Source: ip-netns(8).
const NAMESPACES: &str = "/run/netns";

/// One of the lab's networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The first storage segment.
    Segment1,
    /// The second storage segment.
    Segment2,
    /// Nodes among themselves.
    Control,
    /// Guests and who uses them.
    Guest,
}

/// All of them.
pub const NETWORKS: [Network; 4] = [Network::Segment1, Network::Segment2, Network::Control, Network::Guest];
/// Those that carry storage.
pub const SEGMENTS: [Network; 2] = [Network::Segment1, Network::Segment2];

impl Network {
    /// The name of its bridge, and of the interface inside each machine. With a machine's name and a dash before it,
    /// it is the name of a port: at most 15 characters (`IFNAMSIZ` with its zero, the kernel's `uapi/linux/if.h`).
    pub fn name(self) -> &'static str {
        match self {
            Self::Segment1 => "seg1",
            Self::Segment2 => "seg2",
            Self::Control => "control",
            Self::Guest => "guest",
        }
    }

    /// The address of machine `number`, in a /24 of its own.
    pub fn address(self, number: u8) -> String {
        let third = match self {
            Self::Segment1 => 1,
            Self::Segment2 => 2,
            Self::Control => 3,
            Self::Guest => 4,
        };
        format!("10.77.{third}.{number}")
    }
}

/// The switch with all its bridges.
pub struct Switch {
    namespace: String,
}

/// A machine's plug on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    machine: String,
    network: Network,
}

impl Port {
    /// Which network it is on.
    pub fn network(&self) -> Network {
        self.network
    }

    fn name(&self) -> String {
        format!("{}-{}", self.machine, self.network.name())
    }
}

impl Switch {
    /// Makes the switch of a run.
    ///
    /// # Errors
    /// When namespaces or bridges cannot be made.
    pub fn build(ledger: &Ledger, run: &str) -> anyhow::Result<Self> {
        let namespace = format!("{run}-switch");
        add_namespace(ledger, &namespace)?;
        let bridges = NETWORKS.map(|network| {
            let bridge = network.name();
            // No spanning tree: a port forwards at once. No snooping: nothing here answers queries.
            format!("link add name {bridge} type bridge stp_state 0 mcast_snooping 0\nlink set dev {bridge} up\n")
        });
        batch(&namespace, &bridges.concat())?;
        Ok(Self { namespace })
    }

    /// Plugs the machine in `namespace` into `network`, with the address of `number`, if it is to have one there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn plug(&self, machine: &str, namespace: &str, network: Network, number: Option<u8>) -> anyhow::Result<Port> {
        let port = Port { machine: machine.to_owned(), network };
        let (name, inside) = (port.name(), network.name());
        anyhow::ensure!(name.len() <= 15, "the port's name {name} is longer than 15 characters");
        batch(
            &self.namespace,
            &format!(
                "link add name {name} type veth peer name {inside} netns {namespace}\n\
                 link set dev {name} master {inside} up\n"
            ),
        )?;
        let address = number.map(|number| format!("addr add {}/24 dev {inside}\n", network.address(number)));
        batch(namespace, &format!("{}link set dev {inside} up\n", address.unwrap_or_default()))?;
        Ok(port)
    }

    /// Cuts ports in one step: nothing leaves and nothing arrives, the carrier stays up.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cut(&self, ports: &[&Port]) -> anyhow::Result<()> {
        batch(&self.namespace, &lines(ports, |port| format!("link set dev {} nomaster", port.name())))
    }

    /// Makes the machines on these ports deaf: what they send arrives, nothing reaches them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn deafen(&self, ports: &[&Port]) -> anyhow::Result<()> {
        // With nothing learned about a port everything for it is flooded, and it takes no flood.
        let how = "type bridge_slave learning off flood off mcast_flood off bcast_flood off fdb_flush";
        batch(&self.namespace, &lines(ports, |port| format!("link set dev {} {how}", port.name())))
    }

    /// Puts ports back, whatever was done to them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn put_back(&self, ports: &[&Port]) -> anyhow::Result<()> {
        let how = "type bridge_slave learning on flood on mcast_flood on bcast_flood on";
        batch(
            &self.namespace,
            &lines(ports, |port| {
                let name = port.name();
                format!("link set dev {name} master {}\nlink set dev {name} {how}", port.network.name())
            }),
        )
    }
}

/// Takes away the bridges and taps that programs made in a namespace; its own ports stay.
///
/// # Errors
/// When the kernel refuses.
pub fn forget(namespace: &str) -> anyhow::Result<()> {
    for kind in ["bridge", "tun"] {
        let mut command = Command::new("ip");
        command.args(["-n", namespace, "-o", "link", "show", "type", kind]).stdin(Stdio::null());
        let listed = command.output().context("running ip")?;
        anyhow::ensure!(listed.status.success(), "ip: {}", String::from_utf8_lossy(&listed.stderr).trim());
        let text = String::from_utf8_lossy(&listed.stdout);
        // Lines are `7: lan: <BROADCAST,…`.
        let names = text.lines().filter_map(|line| line.split(": ").nth(1));
        let lines: String = names.map(|name| format!("link del dev {name}\n")).collect();
        batch(namespace, &lines)?;
    }
    Ok(())
}

/// The file of a namespace.
pub fn namespace_file(name: &str) -> PathBuf {
    Path::new(NAMESPACES).join(name)
}

/// Moves this thread, and every thread it starts, into the namespace of this file.
///
/// # Errors
/// When it is gone, or that is not allowed.
pub fn enter(namespace: &Path) -> anyhow::Result<()> {
    let file = File::open(namespace).with_context(|| format!("opening {}", namespace.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).context("entering a network namespace")
}

/// Makes a namespace with its loopback up.
///
/// # Errors
/// When that is not allowed.
pub fn add_namespace(ledger: &Ledger, name: &str) -> anyhow::Result<()> {
    ledger.record(Thing::Namespace { name: name.to_owned() })?;
    run(Command::new("ip").args(["netns", "add", name]), "")?;
    batch(name, "link set dev lo up\n")
}

/// Removes a namespace; one that is gone is fine. What still runs in it keeps it, without a name.
///
/// # Errors
/// When that is not allowed.
pub fn remove_namespace(name: &str) -> anyhow::Result<()> {
    if !namespace_file(name).exists() {
        return Ok(());
    }
    run(Command::new("ip").args(["netns", "del", name]), "")
}

fn lines(ports: &[&Port], line: impl Fn(&Port) -> String) -> String {
    ports.iter().map(|port| line(port) + "\n").collect()
}

/// Many commands of `ip` in one namespace, in one process.
pub(crate) fn batch(namespace: &str, commands: &str) -> anyhow::Result<()> {
    if commands.is_empty() {
        return Ok(());
    }
    run(Command::new("ip").args(["-netns", namespace, "-batch", "-"]), commands)
}

fn run(command: &mut Command, input: &str) -> anyhow::Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("running ip: Debian's package iproute2 has it")?;
    // An `ip` that refused already reads no more; its own words are the better report.
    let _ = child.stdin.take().expect("stdin was piped above").write_all(input.as_bytes());
    let done = child.wait_with_output()?;
    let words = String::from_utf8_lossy(&done.stderr).into_owned();
    anyhow::ensure!(done.status.success(), "ip {:?} {input:?}: {words}", command.get_args().collect::<Vec<_>>());
    Ok(())
}
