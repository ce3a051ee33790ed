//! Machines: a network namespace and a cgroup each. What a machine runs is in both, so that it can be cut off, frozen
//! and powered off as one thing. The storage box's disks stand outside: they outlive its power.

use crate::cgroup::Cgroup;
use crate::ledger::{Ledger, Thing};
use crate::net::{NETWORKS, Network, Port, SEGMENTS, Switch, add_namespace, enter, forget, namespace_file};
use anyhow::Context;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// Enters the cgroup whose door is the first word and becomes the rest. Before, in a mount namespace that ends with it,
/// /sys is made to show the machine's own interfaces: it shows those of the namespace it was mounted in.
const ENTER: &str = "mount -t sysfs sysfs /mnt && mount --bind /mnt/class/net /sys/class/net \
    && mount --bind /mnt/devices/virtual/net /sys/devices/virtual/net && umount --lazy /mnt \
    && echo $$ > \"$0\" && exec \"$@\"";

/// Who a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The storage box.
    Storage,
    /// The first VM host.
    Host1,
    /// The second VM host.
    Host2,
    /// Where the referee and the guests' users are.
    Client,
}

const ROLES: [Role; 4] = [Role::Storage, Role::Host1, Role::Host2, Role::Client];

impl Role {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Host1 => "host1",
            Self::Host2 => "host2",
            Self::Client => "client",
        }
    }

    /// The last part of its addresses.
    pub fn number(self) -> u8 {
        match self {
            Self::Storage => 1,
            Self::Host1 => 11,
            Self::Host2 => 12,
            Self::Client => 21,
        }
    }

    /// Its number, where it is to have an address: a host's interface for guests is a bridge's alone.
    fn number_on(self, network: Network) -> Option<u8> {
        let is_bridges = network == Network::Guest && self != Self::Client;
        (!is_bridges).then(|| self.number())
    }

    fn is_on(self, network: Network) -> bool {
        match self {
            Self::Storage => network != Network::Guest,
            Self::Host1 | Self::Host2 => true,
            Self::Client => !SEGMENTS.contains(&network),
        }
    }
}

/// All machines and the switch between them.
pub struct Site {
    /// The switch.
    pub switch: Switch,
    machines: Vec<Machine>,
}

/// A machine.
pub struct Machine {
    role: Role,
    namespace: String,
    cgroup: Cgroup,
    ports: Vec<Port>,
    ledger: Arc<Ledger>,
}

impl Site {
    /// Builds it. Everything is in the ledger, whose settling takes it away.
    ///
    /// # Errors
    /// When namespaces or cgroups cannot be made.
    pub fn build(ledger: &Arc<Ledger>) -> anyhow::Result<Self> {
        let run = ledger.run();
        let switch = Switch::build(ledger, &run)?;
        let machines =
            ROLES.iter().map(|role| Machine::build(ledger, &switch, &run, *role)).collect::<Result<_, _>>()?;
        Ok(Self { switch, machines })
    }

    /// A machine.
    pub fn machine(&self, role: Role) -> &Machine {
        self.machines.iter().find(|machine| machine.role == role).expect("every role has its machine")
    }

    /// Every port of the switch.
    pub fn ports(&self) -> Vec<&Port> {
        self.machines.iter().flat_map(|machine| &machine.ports).collect()
    }
}

impl Machine {
    fn build(ledger: &Arc<Ledger>, switch: &Switch, run: &str, role: Role) -> anyhow::Result<Self> {
        let namespace = format!("{run}-{}", role.name());
        add_namespace(ledger, &namespace)?;
        let cgroup = Cgroup::named(&namespace)?;
        ledger.record(Thing::Cgroup { path: cgroup.path().to_owned() })?;
        cgroup.make()?;
        let networks = NETWORKS.into_iter().filter(|network| role.is_on(*network));
        let plug = |network| switch.plug(role.name(), &namespace, network, role.number_on(network));
        let ports = networks.map(plug).collect::<Result<_, _>>()?;
        Ok(Self { role, namespace, cgroup, ports, ledger: Arc::clone(ledger) })
    }

    /// Its address on a network.
    pub fn address(&self, network: Network) -> String {
        network.address(self.role.number())
    }

    /// Its ports on these networks.
    pub fn ports(&self, networks: &[Network]) -> Vec<&Port> {
        self.ports.iter().filter(|port| networks.contains(&port.network())).collect()
    }

    /// A command that will run inside: arguments and streams can be added, then it is for [`Machine::spawn`].
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        // nsenter, unshare and sh replace themselves: the child's id is the program's in the end. In a process group of its
        // own, so that Ctrl-C at a terminal reaches the lab, which ends things in their order.
        let mut netns = std::ffi::OsString::from("--net=");
        netns.push(namespace_file(&self.namespace));
        let mut command = Command::new("nsenter");
        command.arg(netns).args(["--", "unshare", "--mount", "--propagation", "slave", "sh", "-c", ENTER]);
        command.arg(self.cgroup.door()).arg(program.as_ref()).process_group(0).stdin(Stdio::null());
        command
    }

    /// Starts it inside.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> anyhow::Result<Child> {
        let child = command.spawn().with_context(|| format!("starting something on {}", self.role.name()))?;
        self.ledger.record_child(child.id())?;
        Ok(child)
    }

    /// Does something of the lab's own on this machine's networks: sockets made in `work` stay there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    /// When `work` does.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        // A thread of its own, which ends: the others stay where they are.
        let entered = || enter(&self.namespace()).map(|()| work());
        std::thread::scope(|scope| match scope.spawn(entered).join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// The file of its network namespace.
    pub fn namespace(&self) -> PathBuf {
        namespace_file(&self.namespace)
    }

    /// The folder of its cgroup.
    pub fn cgroup(&self) -> PathBuf {
        self.cgroup.path().to_owned()
    }

    /// Everything in it is dead when this returns. Whoever started it still has to wait for it.
    ///
    /// # Errors
    /// When something does not die.
    pub fn kill_all(&self) -> anyhow::Result<()> {
        self.cgroup.kill()
    }

    /// Nothing in it runs any more when this returns.
    ///
    /// # Errors
    /// When something does not come to rest.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.cgroup.freeze()
    }

    /// Everything in it goes on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.cgroup.thaw()
    }

    /// The power goes: from one moment on nothing leaves the machine (the carrier stays), then everything in it dies.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn power_off(&self, switch: &Switch) -> anyhow::Result<()> {
        switch.cut(&self.ports(&NETWORKS))?;
        self.kill_all()
    }

    /// What the machine's programs made of its network is gone, as after a power-off: bridges, taps.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn restart_network(&self) -> anyhow::Result<()> {
        forget(&self.namespace)
    }

    /// The power comes back; nothing runs yet.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn power_on(&self, switch: &Switch) -> anyhow::Result<()> {
        switch.put_back(&self.ports(&NETWORKS))
    }
}
