//! Which disks this machine has, which paths lead to the same one, and by which name a disk is found again.
//!
//! Names of block devices are given out in the order in which disks answer: after a boot `sdb` may be another one. A disk
//! is known by what is written on it; here is only where to look. Nothing is opened but for a superblock that a caller
//! reads; sysfs says the rest.

use std::collections::BTreeSet;
use std::fs::{Metadata, read_link, read_to_string};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Where the kernel tells about devices, and where their nodes are.
#[derive(Clone, Debug)]
pub struct Machine {
    sys: PathBuf,
    dev: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into() }
    }
}

/// What a path leads to. Two paths with the same lead to one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    place: Place,
    /// The name that the disk itself gives (SCSI VPD page 83h, NVMe EUI-64 or NGUID), and the partition on it: two ways to
    /// one disk have different device numbers and the same of these.
    world_wide: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A block device, by its number.
    Device(u32, u32),
    /// A file, by its file system's device and its inode.
    File(u64, u64),
}

/// Kinds of block devices on which no member is looked for: what lies in memory, what is made of other disks, and what
/// may show a guest's bytes (an `nbd` device is a volume that somebody serves).
const NEVER: [&str; 8] = ["nbd", "ram", "zram", "sr", "fd", "md", "drbd", "bcache"];
/// How device mapper marks a logical volume: guests write what they like there. Source: lvm2, `lib/activate/dev_manager.c`
/// (`UUID_PREFIX`).
const LVM_PREFIX: &str = "LVM-";

impl Identity {
    /// Whether both are one disk.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.place == other.place || (self.world_wide.is_some() && self.world_wide == other.world_wide)
    }
}

impl Machine {
    /// What a path leads to. A loop device without an offset is the file behind it.
    ///
    /// # Errors
    /// The path leads nowhere, or to what is no disk.
    pub fn identify(&self, path: &Path) -> io::Result<Identity> {
        let meta = std::fs::metadata(path)?;
        let kind = meta.file_type();
        if kind.is_file() {
            return Ok(Identity { place: file(&meta), world_wide: None });
        }
        if !kind.is_block_device() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        let about = self.sys.join(format!("dev/block/{major}:{minor}"));
        let behind = file_behind(&about).unwrap_or(Place::Device(major, minor));
        Ok(Identity { place: behind, world_wide: world_wide(&about) })
    }

    /// The block devices on which nobody sits: nothing is made of them, and they can be written. Mounted ones are among
    /// them; they are refused when they are opened.
    #[must_use]
    pub fn free_disks(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.sys.join("class/block")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let free: BTreeSet<String> = names.filter(|name| self.may_hold_a_member(name)).collect();
        free.into_iter().map(|name| self.dev.join(name.replace('!', "/"))).collect()
    }

    fn may_hold_a_member(&self, name: &str) -> bool {
        let about = self.sys.join("class/block").join(name);
        let text = |file: &str| read_to_string(about.join(file)).unwrap_or_default().trim().to_owned();
        let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let never = NEVER.contains(&kind) || NEVER.iter().any(|never| is_numbered(name, never));
        let held = std::fs::read_dir(about.join("holders")).is_ok_and(|mut holders| holders.next().is_some());
        let size = text("size");
        !never
            && !held
            && text("ro") != "1"
            && size != "0"
            && !size.is_empty()
            && !text("dm/uuid").starts_with(LVM_PREFIX)
    }

    /// A name of this disk that stays when others come and go: of those in `/dev/disk/by-id` the one that tells people
    /// most, which carries model and serial number.
    #[must_use]
    pub fn lasting_name(&self, path: &Path) -> Option<PathBuf> {
        let number = std::fs::metadata(path).ok().filter(|meta| meta.file_type().is_block_device())?.rdev();
        let folder = self.dev.join("disk/by-id");
        let leads_there = |link: &PathBuf| std::fs::metadata(link).is_ok_and(|meta| meta.rdev() == number);
        let links = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).filter(leads_there);
        links.min_by_key(|link| {
            let name = link.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            // Numbers alone (World Wide Name, EUI-64) say nothing to a person who looks for a disk.
            (["wwn-", "nvme-eui.", "nvme-nvme.", "dm-uuid-"].iter().any(|plain| name.starts_with(plain)), name)
        })
    }
}

/// `nbd0p1`: a partition of one of that kind.
fn is_numbered(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn file(meta: &Metadata) -> Place {
    Place::File(meta.dev(), meta.ino())
}

/// Source: Linux `drivers/block/loop.c`, the attributes `backing_file`, `offset`, `sizelimit`.
fn file_behind(about: &Path) -> Option<Place> {
    let text = |file: &str| Some(read_to_string(about.join("loop").join(file)).ok()?.trim().to_owned());
    let whole = text("offset")? == "0" && text("sizelimit")? == "0";
    std::fs::metadata(text("backing_file").filter(|_| whole)?).ok().as_ref().map(file)
}

/// Source: Linux `drivers/scsi/scsi_sysfs.c` (`wwid` of a device) and `drivers/nvme/host/sysfs.c` (`wwid` of a namespace).
fn world_wide(about: &Path) -> Option<String> {
    let text = |path: PathBuf| read_to_string(path).ok().map(|text| text.trim().to_owned()).filter(|it| !it.is_empty());
    let partition = text(about.join("partition"));
    let disk = if partition.is_some() { read_link(about).ok().map(|_| about.join(".."))? } else { about.to_owned() };
    let name = text(disk.join("wwid")).or_else(|| text(disk.join("device/wwid")))?;
    Some(partition.map_or(name.clone(), |number| format!("{name} partition {number}")))
}

/// Reads `bytes` at `at` of a disk or file without opening it for good: it may be somebody else's. A disk that hangs keeps
/// one thread at most: while an older look at the same path has not ended, a new one is an error at once.
///
/// # Errors
/// The system's; [`io::ErrorKind::WouldBlock`] while an older look goes on.
pub fn look_at(path: &Path, at: u64, bytes: &mut [u8]) -> io::Result<()> {
    let _turn = Turn::take(path)?;
    let kind = std::fs::metadata(path)?.file_type();
    // Opening a FIFO would wait for its other end.
    if !(kind.is_file() || kind.is_block_device()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    std::fs::File::open(path)?.read_exact_at(bytes, at)
}

struct Turn(PathBuf);

static LOOKING: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

impl Turn {
    fn take(path: &Path) -> io::Result<Self> {
        let fresh = LOOKING.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
        if fresh { Ok(Self(path.to_owned())) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        LOOKING.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("muskox-find-{name}-{}", std::process::id()));
            create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn machine(&self) -> Machine {
            Machine { sys: self.0.join("sys"), dev: self.0.join("dev") }
        }

        /// A device as sysfs shows it: its folder below `devices`, and the link to it.
        fn device(&self, name: &str, facts: &[(&str, &str)]) {
            let about = self.0.join("sys/devices").join(name);
            for (file, text) in [("size", "2048"), ("ro", "0")].iter().chain(facts) {
                let path = about.join(file);
                create_dir_all(path.parent().unwrap()).unwrap();
                write(path, format!("{text}\n")).unwrap();
            }
            create_dir_all(about.join("holders")).unwrap();
            create_dir_all(self.0.join("sys/class/block")).unwrap();
            symlink(&about, self.0.join("sys/class/block").join(Path::new(name).file_name().unwrap())).unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Goal: A42: members are looked for on what may hold one, and never on what shows a guest's bytes. Method: a sysfs
    /// tree with one of each kind.
    #[test]
    fn only_free_disks_are_looked_at() {
        let folder = Folder::new("free");
        for name in ["sda", "sda1", "nvme0n1", "vda", "dm-0", "loop3", "cciss!c0d0"] {
            folder.device(name, &[]);
        }
        for name in ["nbd0", "nbd0p1", "zram0", "ram0", "sr0", "fd0", "md127", "md127p1"] {
            folder.device(name, &[]);
        }
        folder.device("dm-1", &[("dm/uuid", "LVM-abcdef")]);
        folder.device("dm-2", &[("dm/uuid", "mpath-3600")]);
        folder.device("sdb", &[("holders/md127", "")]);
        folder.device("sdc", &[("ro", "1")]);
        folder.device("loop4", &[("size", "0")]);
        let found = folder.machine().free_disks();
        let found: Vec<&str> =
            found.iter().map(|path| path.strip_prefix(folder.0.join("dev")).unwrap().to_str().unwrap()).collect();
        assert_eq!(found, ["cciss/c0d0", "dm-0", "dm-2", "loop3", "nvme0n1", "sda", "sda1", "vda"]);
    }

    /// Goal: DA8: two paths to one file are one disk, two files are two. Method: a link, a second name, another file.
    #[test]
    fn paths_to_one_file_are_one_disk() {
        let folder = Folder::new("same");
        let (one, machine) = (folder.0.join("one"), Machine::default());
        write(&one, "x").unwrap();
        write(folder.0.join("other"), "x").unwrap();
        symlink(&one, folder.0.join("link")).unwrap();
        std::fs::hard_link(&one, folder.0.join("hard")).unwrap();
        let identity = |name: &str| machine.identify(&folder.0.join(name)).unwrap();
        for (name, same) in [("one", true), ("link", true), ("hard", true), ("other", false)] {
            assert_eq!(identity("one").is_same(&identity(name)), same, "{name}");
        }
        assert!(machine.identify(&folder.0).is_err() && machine.identify(&folder.0.join("nothing")).is_err());
    }

    /// Goal: two ways to one disk are one, its partitions are not it. Method: facts as SCSI and NVMe show them.
    #[test]
    fn a_disk_names_itself() {
        let folder = Folder::new("wwid");
        folder.device("sda", &[("device/wwid", "naa.5000")]);
        folder.device("sdb", &[("device/wwid", "naa.5000")]);
        folder.device("sdb/sdb1", &[("partition", "1")]);
        folder.device("nvme0n1", &[("wwid", "eui.77")]);
        folder.device("vda", &[]);
        let device = |name: &str, minor| {
            let about = folder.0.join("sys/devices").join(name);
            let link = folder.0.join(format!("by-number-{minor}"));
            symlink(about, &link).unwrap();
            Identity { place: Place::Device(8, minor), world_wide: world_wide(&link) }
        };
        let [a, b, part] = [device("sda", 0), device("sdb", 16), device("sdb/sdb1", 17)];
        let [nvme, plain, other] = [device("nvme0n1", 32), device("vda", 48), device("vda", 49)];
        assert!(a.is_same(&b) && !a.is_same(&part) && !b.is_same(&part) && !nvme.is_same(&a));
        assert_eq!(part.world_wide.as_deref(), Some("naa.5000 partition 1"));
        assert!(!plain.is_same(&other), "who names itself not is known by its number alone");
    }

    /// Goal: a disk that hangs keeps one thread. Method: a second look while a first one goes on, and after it.
    #[test]
    fn a_path_is_looked_at_by_one_at_a_time() {
        let folder = Folder::new("turn");
        let path = folder.0.join("disk");
        write(&path, "0123456789").unwrap();
        let mut bytes = [0; 4];
        let turn = Turn::take(&path).unwrap();
        assert_eq!(look_at(&path, 2, &mut bytes).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(turn);
        look_at(&path, 2, &mut bytes).unwrap();
        assert_eq!(&bytes, b"2345");
        assert!(look_at(&path, 8, &mut bytes).is_err() && look_at(&path, 2, &mut bytes).is_ok());
    }
}
