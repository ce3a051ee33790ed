//! The oracle guest's image: Debian's kernel, its initramfs and a root file system with the tools that are the oracles. Our
//! program is no part of it: it comes on a disk of its own, so that a new one needs no new image.

use crate::image::debian::{Debian, check_libc};
use crate::image::files::newest;
use crate::image::{Workshop, hash};
use anyhow::Context;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// To be raised whenever the code that makes the image, not its words here, makes another one.
const VERSION: &str = "1";
/// Beside the essential packages.
const PACKAGES: &str = "mdadm,lvm2,thin-provisioning-tools,nbd-client,fio,kmod,iproute2,util-linux,procps,e2fsprogs,\
                        initramfs-tools,linux-image-cloud-amd64";
/// Room in the root file system beside what is in it.
const ROOM_MIB: u64 = 160;

/// The guest's first program.
pub const INIT: &str = "/usr/local/sbin/oracle-init";
/// Takes ours off its disk. The kernel's words say how long it is.
const INIT_TEXT: &str = "\
#!/bin/sh
mount -t tmpfs tmpfs /run
bytes=$(tr ' ' '\\n' < /proc/cmdline | sed -n 's/^oracle_bytes=//p')
until [ -b /dev/vdb ]; do sleep 0.05; done
head -c \"$bytes\" /dev/vdb > /run/oracle
chmod 0755 /run/oracle
exec /run/oracle
";
/// No array is assembled by anybody but us.
const MDADM: &str = "AUTO -all\n";
/// Nobody but us activates anything, and udev, which does not run, is not waited for. Source: lvm.conf(5).
const LVM: &str = "\
activation { udev_sync=0 udev_rules=0 verify_udev_operations=0 monitoring=0 }
devices { obtain_device_list_from_udev=0 external_device_info_source=\"none\" use_devicesfile=0 }
global { event_activation=0 }
";
/// The kernel has ext4 built in; the disk it lies on is a module. Of everything else the root has the modules.
const INITRAMFS_HOOK: &str = "\
#!/bin/sh
[ \"$1\" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules virtio_pci virtio_blk
";
const INITRAMFS_CONF: &str = "MODULES=list\nCOMPRESS=gzip\nCOMPRESSLEVEL=1\n";

/// Path, text and mode of the files that are not Debian's.
const OVERLAY: [(&str, &str, u32); 5] = [
    ("usr/local/sbin/oracle-init", INIT_TEXT, 0o755),
    ("etc/mdadm/mdadm.conf", MDADM, 0o644),
    ("etc/lvm/lvmlocal.conf", LVM, 0o644),
    ("etc/initramfs-tools/hooks/muskox", INITRAMFS_HOOK, 0o755),
    ("etc/initramfs-tools/conf.d/muskox", INITRAMFS_CONF, 0o644),
];

/// What a guest boots from.
#[derive(Clone, Debug)]
pub struct Image {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initrd: PathBuf,
    /// The root file system; for reading.
    pub root: PathBuf,
}

impl Image {
    /// The image, from the cache if it is there.
    ///
    /// # Errors
    /// When a tool is missing or fails, or the run is over.
    pub fn get(workshop: &Workshop<'_>) -> anyhow::Result<Self> {
        std::fs::create_dir_all(workshop.cache).with_context(|| format!("making {}", workshop.cache.display()))?;
        let debian = Debian::of_this_machine()?;
        let folder = Self::folder(workshop.cache, &debian);
        if !folder.exists() {
            workshop.made(&folder, |scratch| make(workshop, &debian, scratch))?;
        }
        workshop.prune("oracle-", &[&folder])?;
        let folder = folder.canonicalize().with_context(|| format!("looking for {}", folder.display()))?;
        let file = |name: &str| folder.join(name);
        Ok(Self { kernel: file("vmlinuz"), initrd: file("initrd"), root: file("root.img") })
    }

    /// Whether it is in the cache.
    ///
    /// # Errors
    /// When this is no Debian.
    pub fn is_cached(cache: &Path) -> anyhow::Result<bool> {
        Ok(Self::folder(cache, &Debian::of_this_machine()?).exists())
    }

    fn folder(cache: &Path, debian: &Debian) -> PathBuf {
        let mut parts = vec![VERSION.to_owned(), debian.words(), PACKAGES.to_owned()];
        parts.extend(OVERLAY.iter().map(|(path, text, _)| format!("{path}{text}")));
        let parts: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
        cache.join(format!("oracle-{}", hash(&parts)))
    }
}

fn make(workshop: &Workshop<'_>, debian: &Debian, scratch: &Path) -> anyhow::Result<PathBuf> {
    let suite = debian.suite();
    (workshop.say)(&format!("the oracle guest's Debian ({suite}) is not in the cache: building it takes two minutes"));
    let (overlay, tree, made) = (scratch.join("overlay"), scratch.join("tree"), scratch.join("made"));
    // Before the kernel is installed, whose initramfs is made then. The others after it: lvm2 has one of them too, and asks.
    lay_out(&overlay, |path| path.starts_with("etc/initramfs-tools"))?;
    workshop.finish("mmdebstrap", &mut debian.mmdebstrap(PACKAGES, &overlay, &tree, scratch)?)?;
    check_libc(&tree)?;
    lay_out(&tree, |_| true)?;
    std::fs::create_dir(&made)?;
    let boot = tree.join("boot");
    for (prefix, name) in [("vmlinuz-", "vmlinuz"), ("initrd.img-", "initrd")] {
        let from = newest(&boot, prefix)?;
        std::fs::copy(&from, made.join(name)).with_context(|| format!("copying {}", from.display()))?;
    }
    std::fs::remove_dir_all(&boot)?;
    // Package lists and archives: as large as the rest, and of no use here.
    for folder in ["var/cache/apt", "var/lib/apt/lists"] {
        let _ = std::fs::remove_dir_all(tree.join(folder));
    }
    let used = crate::image::tool(Command::new("du").args(["-sm"]).arg(&tree))?;
    let used: u64 = used.split_whitespace().next().and_then(|mib| mib.parse().ok()).context("du printed no number")?;
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-L", "root", "-d"]).arg(&tree);
    // Inodes and their tables take a tenth.
    mke2fs.arg(made.join("root.img")).arg(format!("{}m", used * 11 / 10 + ROOM_MIB));
    workshop.finish("mke2fs", &mut mke2fs)?;
    Ok(made)
}

/// Writes those of the files that are not Debian's.
fn lay_out(root: &Path, is_wanted: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    for (path, text, mode) in OVERLAY.into_iter().filter(|(path, ..)| is_wanted(path)) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("a file is in a folder"))?;
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        std::fs::set_permissions(&path, Permissions::from_mode(mode))?;
    }
    Ok(())
}
