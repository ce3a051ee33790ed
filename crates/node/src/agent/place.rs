//! Where things of this machine are, and who it is: what every part of the agent has to know.

use super::host_config::{Bridge, HostConfig};
use crate::identity::Identity;
use crate::root::Root;
use api::Role;
use host::net::TlsFiles;
use host::users::{User, UserRange, Users, give};
use host::vm::{Folder, Owner};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use units::{HostKey, NodeName, VmName};

/// The daemon of a distribution package.
const QEMU: [&str; 2] = ["/usr/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm"];
/// Source: the kernel's `Documentation/virt/kvm/api.rst`.
const KVM: &str = "/dev/kvm";
/// What our own processes keep of our environment: the lab's planted bugs.
pub const ENVIRONMENT: [&str; 1] = ["MUSKOX_SABOTAGE"];

/// This machine.
pub struct Place {
    root: Root,
    /// Its name.
    pub name: NodeName,
    /// Its key.
    pub key: HostKey,
    /// Its own address.
    pub ip: IpAddr,
    /// Its addresses on the storage segments.
    pub storage: Vec<IpAddr>,
    roles: Vec<Role>,
    /// This program: what it starts are its own other roles.
    pub program: PathBuf,
    users: Rc<Users>,
    /// As `host.toml` said when it could be read.
    range: Cell<Option<UserRange>>,
    /// Likewise.
    bridges: RefCell<Vec<Bridge>>,
}

impl Place {
    /// This machine, as its identity says.
    #[must_use]
    pub fn new(root: &Root, identity: &Identity, key: HostKey) -> Self {
        // Asked for at once: after an update the link would name a file that is gone.
        let program = std::env::current_exe().unwrap_or_else(|_| "/usr/bin/muskox".into());
        let ip = identity.address.ip();
        let storage = if identity.portals.is_empty() { vec![ip] } else { identity.portals.clone() };
        let (name, roles) = (identity.name.clone(), identity.roles.clone());
        let absolute = std::path::absolute(root.below("")).unwrap_or_else(|_| root.below(""));
        let (root, users, range, bridges) = (Root::new(&absolute), Rc::default(), Cell::new(None), RefCell::default());
        Self { root, name, key, ip, storage, roles, program, users, range, bridges }
    }

    /// Whether this machine is for that.
    #[must_use]
    pub fn is(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// QEMU, if it is installed.
    #[must_use]
    pub fn qemu(&self) -> Option<PathBuf> {
        QEMU.into_iter().map(PathBuf::from).find(|path| path.exists())
    }

    /// The node's own certificate, key and CA.
    #[must_use]
    pub fn tls(&self) -> TlsFiles {
        TlsFiles { certificate: self.root.certificate(), key: self.root.key(), ca: self.root.ca() }
    }

    /// The node's files.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The file of a systemd unit; none, where the files are a rehearsal's.
    #[must_use]
    pub fn unit(&self, name: &str) -> Option<PathBuf> {
        (self.root.below("") == Path::new("/")).then(|| self.root.units().join(name))
    }

    /// A file of the configuration.
    #[must_use]
    pub fn etc(&self, name: &str) -> PathBuf {
        self.root.below("etc/muskox").join(name)
    }

    /// A file that ends with the boot.
    #[must_use]
    pub fn run(&self, name: &str) -> PathBuf {
        self.root.below("run/muskox").join(name)
    }

    /// A file that is kept.
    #[must_use]
    pub fn kept(&self, name: &str) -> PathBuf {
        self.root.below("var/lib/muskox").join(name)
    }

    /// A log.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.below("var/log/muskox").join(format!("{name}.log"))
    }

    /// The folder of a VM's QEMU: its user's.
    #[must_use]
    pub fn machine(&self, vm: &VmName) -> PathBuf {
        self.run("vm").join(vm.as_str())
    }

    /// The folder of what is kept beside a VM: root's.
    #[must_use]
    pub fn beside(&self, vm: &VmName) -> PathBuf {
        self.kept("vm").join(vm.as_str())
    }

    /// Makes the folders that the node itself does not have.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn make_folders(&self) -> io::Result<()> {
        for (folder, mode) in
            [(self.run("vm"), 0o755), (self.run("tls"), 0o755), (self.kept("vm"), 0o700), (self.log("x"), 0o750)]
        {
            let folder =
                if folder.extension().is_some_and(|end| end == "log") { folder.parent() } else { Some(&*folder) };
            make_folder(folder.expect("a log lies in a folder"), mode)?;
        }
        Ok(())
    }

    /// Makes a VM's folders; the one of its QEMU is its user's.
    ///
    /// # Errors
    /// What the system said, for people.
    pub fn make_machine(&self, vm: &VmName, owner: Option<Owner>) -> Result<(), String> {
        let made = self.make_folders().and_then(|()| make_folder(&self.beside(vm), 0o700));
        made.map_err(|error| format!("its folder cannot be made: {error}"))?;
        let folder = Folder::new(&self.machine(vm)).and_then(|folder| folder.make(owner));
        folder.map_err(|error| error.to_string())
    }

    /// Gives a file to the user of a VM's QEMU: whoever has its folder.
    ///
    /// # Errors
    /// If we may not.
    pub fn give(&self, vm: &VmName, path: &Path) -> io::Result<()> {
        let folder = std::fs::symlink_metadata(self.machine(vm))?;
        give(path, folder.uid(), folder.gid())
    }

    /// A user for a program that a stranger may take over: nobody else's for as long as it is held, or a process or a file has it.
    /// `own` is the former folder of the same name. `None`: we are not root, and it runs as we do.
    ///
    /// # Errors
    /// There is none, for people: it is not run as root instead.
    pub fn user(&self, name: &str, own: Option<&Path>) -> Result<Option<User>, String> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let taken = self.users.take(self.users_range()?, name, own, &[self.run("")]);
        let file = self.etc("host.toml");
        taken
            .map(Some)
            .map_err(|error| format!("there is no user to run it: {error}; see [users] in '{}'", file.display()))
    }

    /// The users of `host.toml`; while it cannot be read, as it said before.
    ///
    /// # Errors
    /// It could not be read yet, or names no users that can be.
    pub fn users_range(&self) -> Result<UserRange, String> {
        match HostConfig::load(&self.etc("host.toml")) {
            Ok(config) => {
                let range = config.users();
                range.check()?;
                self.range.set(Some(range));
                Ok(range)
            }
            Err(error) => self.range.get().ok_or(error),
        }
    }

    /// The bridges of `host.toml`; while it cannot be read, as it said before.
    #[must_use]
    pub fn bridges(&self) -> Vec<Bridge> {
        if let Ok(config) = HostConfig::load(&self.etc("host.toml")) {
            self.bridges.replace(config.bridges);
        }
        self.bridges.borrow().clone()
    }

    /// Who a QEMU is: a user of its own, in a group of its own; where it needs KVM and that is a group's, in that group.
    #[must_use]
    pub fn owner(&self, user: Option<&User>, needs_kvm: bool) -> Option<Owner> {
        let uid = user?.uid();
        let group = kvm_group().filter(|_| needs_kvm);
        Some(Owner { uid, gid: group.unwrap_or(uid) })
    }
}

/// The group that may use KVM, unless everybody may.
fn kvm_group() -> Option<u32> {
    let facts = std::fs::metadata(KVM).ok()?;
    let (group, others) = (facts.mode() & 0o060 == 0o060, facts.mode() & 0o006 == 0o006);
    (group && !others && facts.gid() != 0).then(|| facts.gid())
}

/// Whether KVM is there, and nobody but root may use it.
#[must_use]
pub fn kvm_is_roots() -> bool {
    std::fs::metadata(KVM).is_ok_and(|facts| kvm_group().is_none() && facts.mode() & 0o006 != 0o006)
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    let above = path.parent().expect("our folders lie in others");
    std::fs::create_dir_all(above)?;
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}
