//! What a virtual machine is, in plain words, and what of it cannot be.

use super::VmError;
use super::description::{self, DISKS_MAX, MEMORY_MIN_MIB, NICS_MAX, VCPUS_MAX, is_word};
use std::path::PathBuf;

/// A Unix socket's path, with its end (`sun_path` of `unix(7)`).
const SOCKET_PATH_MAX: usize = 107;
/// The machine type, unless another is asked for. Both QEMU 7.2 and 10.0 have it, so a guest moves between them.
pub const MACHINE_TYPE: &str = "pc-q35-7.2";

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Letters, digits, `.`, `_` and `-`, at most 63.
    pub name: String,
    /// As in `0f1e…`: 8-4-4-4-12 hexadecimal digits.
    pub uuid: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory.
    pub memory_mib: u32,
    /// What runs its instructions.
    pub accelerator: Accelerator,
    /// A machine type of QEMU's. It must not change in a machine's life, and both ends of a migration need the same.
    pub machine_type: String,
    /// A CPU model of QEMU's; `None` is `max`, all the accelerator has.
    pub cpu: Option<String>,
    /// What it boots.
    pub boot: Boot,
    /// Its disks, in order; the first one boots.
    pub disks: Vec<Disk>,
    /// Its network interfaces, in order.
    pub nics: Vec<Nic>,
    /// A NoCloud seed (see [`super::seed`]), shown as a read-only disk.
    pub seed: Option<PathBuf>,
    /// How it starts.
    pub start: Start,
}

impl Machine {
    /// A machine with one virtual CPU and no disk, that boots from its disk.
    #[must_use]
    pub fn new(name: &str, uuid: &str, memory_mib: u32, accelerator: Accelerator) -> Self {
        Self {
            name: name.to_owned(),
            uuid: uuid.to_owned(),
            vcpus: 1,
            memory_mib,
            accelerator,
            machine_type: MACHINE_TYPE.to_owned(),
            cpu: None,
            boot: Boot::Disk,
            disks: Vec::new(),
            nics: Vec::new(),
            seed: None,
            start: Start::Running,
        }
    }

    /// Whether QEMU can be asked for this.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), VmError> {
        let need = |holds: bool, what: String| if holds { Ok(()) } else { Err(VmError::Description { what }) };
        need(is_word(&self.name, 63), format!("the name '{}' is not 1 to 63 of letters, digits and ._-", self.name))?;
        need(is_uuid(&self.uuid), format!("'{}' is not a UUID (8-4-4-4-12 hexadecimal digits)", self.uuid))?;
        need((1..=VCPUS_MAX).contains(&self.vcpus), format!("{} vCPUs: 1 to {VCPUS_MAX} are possible", self.vcpus))?;
        let enough = self.memory_mib >= MEMORY_MIN_MIB;
        need(enough, format!("{} MiB of memory: {MEMORY_MIN_MIB} is the least", self.memory_mib))?;
        need(is_word(&self.machine_type, 63), format!("the machine type '{}' is no word", self.machine_type))?;
        need(self.disks.len() <= DISKS_MAX, format!("{} disks: {DISKS_MAX} are possible", self.disks.len()))?;
        need(self.nics.len() <= NICS_MAX, format!("{} interfaces: {NICS_MAX} are possible", self.nics.len()))?;
        self.cpu.as_deref().map_or(Ok(()), description::cpu).map_err(|wrong| VmError::of("cpu", &wrong))?;
        let serials = self.disks.iter().map(|disk| disk.serial.as_str());
        description::serials(serials, self.seed.is_some()).map_err(|(_, wrong)| VmError::of("disk.serial", &wrong))?;
        for disk in &self.disks {
            description::serial(&disk.serial).map_err(|wrong| VmError::of("disk.serial", &wrong))?;
            let socket = disk.socket.to_str().unwrap_or_default();
            let fits = socket.starts_with('/') && socket.len() <= SOCKET_PATH_MAX;
            need(fits, format!("{}: not an absolute path of at most {SOCKET_PATH_MAX} bytes", disk.socket.display()))?;
        }
        for nic in &self.nics {
            // IFNAMSIZ of linux/if.h is 16 with its end.
            need(is_word(&nic.tap, 15), format!("'{}' cannot be the name of a network interface", nic.tap))?;
            let unicast = nic.mac[0] & 1 == 0 && nic.mac != [0; 6];
            need(unicast, format!("{} is no address of a network interface", nic.mac_text()))?;
        }
        Ok(())
    }
}

/// What runs a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Accelerator {
    /// The processor. Only where [`super::accelerator()`] saw it work.
    Kvm,
    /// QEMU itself.
    Tcg,
}

impl Accelerator {
    /// QEMU's word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// What a machine boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// What SeaBIOS finds on the first disk.
    Disk,
    /// A kernel of the host's.
    Kernel {
        /// The kernel.
        kernel: PathBuf,
        /// The initial file system.
        initrd: Option<PathBuf>,
        /// The command line.
        append: String,
    },
}

/// How a machine starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Start {
    /// It runs.
    Running,
    /// It waits for `cont`.
    Paused,
    /// It waits for `migrate-incoming`, and then for `cont`.
    Incoming,
}

/// A disk: a volume on an NBD server behind a Unix socket. Errors stop the guest, which knows nothing of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// What the guest sees as the disk's serial number.
    pub serial: String,
    /// The socket.
    pub socket: PathBuf,
    /// The export.
    pub export: String,
    /// How long QEMU waits for the server to come back; longer than the initiator's own hold, which answers then.
    pub reconnect_delay_s: u32,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// The tap, made beforehand. Where QEMU runs as another user, it belongs to that user (TUNSETOWNER).
    pub tap: String,
    /// The guest's address.
    pub mac: [u8; 6],
}

impl Nic {
    /// `52:54:00:…`.
    #[must_use]
    pub fn mac_text(&self) -> String {
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let hexadecimal = groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hexadecimal && groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
}
