//! Where things of this machine are, and who it is: what every part of the agent has to know.

use crate::identity::Identity;
use crate::root::Root;
use api::Role;
use host::net::TlsFiles;
use host::vm::Owner;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, lchown};
use std::path::{Path, PathBuf};
use units::{HostKey, NodeName, VmName};

/// The user that QEMU runs as, where it exists (docs/runbooks/vm.md).
const QEMU_USER: &str = "muskox-vm";
/// The daemon of a distribution package.
const QEMU: [&str; 2] = ["/usr/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm"];
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
    /// Who QEMU runs as; `None`: as ourselves.
    pub owner: Option<Owner>,
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
        Self { root: Root::new(&absolute), name, key, ip, storage, roles, program, owner: qemu_user() }
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
    /// If the disk refuses.
    pub fn make_machine(&self, vm: &VmName) -> io::Result<()> {
        self.make_folders()?;
        make_folder(&self.beside(vm), 0o700)?;
        make_folder(&self.machine(vm), 0o700)?;
        self.give(&self.machine(vm))
    }

    /// Gives a file to QEMU's user. A link is not followed: in a folder of that user it may lead to anything.
    ///
    /// # Errors
    /// If we may not.
    pub fn give(&self, path: &Path) -> io::Result<()> {
        self.owner.map_or(Ok(()), |owner| lchown(path, Some(owner.uid), Some(owner.gid)))
    }
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    let above = path.parent().expect("our folders lie in others");
    std::fs::create_dir_all(above)?;
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

/// The user for QEMU, of `/etc/passwd`; its group is that of `/dev/kvm`, which QEMU opens.
fn qemu_user() -> Option<Owner> {
    use std::os::unix::fs::MetadataExt;
    // Only root can make a process somebody else's.
    let root = std::fs::metadata("/proc/self").is_ok_and(|facts| facts.uid() == 0);
    let users = std::fs::read_to_string("/etc/passwd").ok().filter(|_| root)?;
    let (uid, gid) = user_in(&users, QEMU_USER)?;
    let kvm = std::fs::metadata("/dev/kvm").ok().map(|facts| facts.gid()).filter(|gid| *gid != 0);
    Some(Owner { uid, gid: kvm.unwrap_or(gid) })
}

/// Source: passwd(5).
fn user_in(users: &str, name: &str) -> Option<(u32, u32)> {
    let mut line = users.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.split(':').skip(1);
    Some((line.next()?.parse().ok()?, line.next()?.parse().ok()?))
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: the user is found by its whole name only. Method: a passwd file.
    #[test]
    fn a_user_is_found_by_name() {
        let users =
            "root:x:0:0:root:/root:/bin/sh\nmuskox-vm2:x:5:6::/:\nmuskox-vm:x:970:971:,:/nonexistent:/bin/false\n";
        assert_eq!(user_in(users, QEMU_USER), Some((970, 971)));
        assert_eq!(user_in("muskox-vm:x\n", QEMU_USER), None);
    }
}
