//! A guest for tests: Debian's cloud kernel, unpacked and not installed, with busybox; and an NBD disk that can fail.
//!
//! The kernel is fetched once, by apt, and kept in cargo's folder for test files. The guest loads virtio and the power
//! button, prints `GUEST READY`, and does what `job=` on its command line says; `poweroff` follows the power button.
#![allow(dead_code, reason = "each test uses its part")]

#[path = "../support/mod.rs"]
pub mod support;

use host::vm::{Accelerator, Boot, Disk, Folder, Launch, Machine, Owner, Vm};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::{Scratch, tool};

/// QEMU; `MUSKOX_TEST_QEMU` names another one, to try another version.
pub fn qemu() -> PathBuf {
    std::env::var_os("MUSKOX_TEST_QEMU").map_or_else(|| "/usr/bin/qemu-system-x86_64".into(), PathBuf::from)
}

/// How long a boot under TCG may take on a busy machine; alone it takes 5 s.
const BOOT_MAX: Duration = Duration::from_secs(60);

/// Modules in the order they need each other, in the kernel's folder.
const MODULES: [&str; 8] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
    "drivers/acpi/button",
    "drivers/input/evdev",
];

/// `write`: a counter goes to the disk's blocks, synchronously, and to the console. Whole pages, or the guest's cache
/// would read before it writes.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
for m in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk button evdev; do
  insmod /mod/$m.ko
done
mkdir -p /var/log; acpid
dmesg -n 1
for d in /sys/block/vd*; do [ -e $d ] && echo "DISK $(cat $d/serial) $(cat $d/size)"; done
echo GUEST READY
case "$(cat /proc/cmdline)" in
*job=write*)
  n=1
  while true; do
    printf '%08d' $n | dd of=/dev/vda bs=4096 seek=$n count=1 conv=sync,fsync 2>/dev/null && echo "WROTE $n" || echo "GUEST ERROR $n"
    n=$((n+1)); usleep 5000
  done ;;
esac
exec sh </dev/console
"#;

const POWER_BUTTON: &str = "#!/bin/busybox sh\necho GUEST POWERS OFF >/dev/console\npoweroff -f\n";

/// The kernel and the initial file system.
pub struct Guest {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

impl Guest {
    /// Builds it, or finds it built.
    pub fn get() -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest");
        std::fs::create_dir_all(&root).unwrap();
        let lock = File::create(root.join("lock")).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let (kernel, tree) = kernel(&root);
        let initrd = root.join("initrd");
        let script = format!("{INIT}{POWER_BUTTON}{kernel:?}");
        let made_of = std::fs::read_to_string(root.join("made-of")).unwrap_or_default();
        if made_of != script || !initrd.exists() {
            initial_file_system(&root, &tree, &initrd);
            std::fs::write(root.join("made-of"), script).unwrap();
        }
        Self { kernel, initrd }
    }

    /// A machine of 96 MB that boots it.
    pub fn machine(&self, name: &str, job: &str) -> Machine {
        let uuid = "4f7c9e3a-8d51-4c0e-9f00-0123456789ab";
        let mut machine = Machine::new(name, uuid, 96, Accelerator::Tcg);
        let append = format!("console=ttyS0 quiet panic=1 mitigations=off job={job}");
        machine.boot = Boot::Kernel { kernel: self.kernel.clone(), initrd: Some(self.initrd.clone()), append };
        machine
    }
}

/// A user that is nobody's, for QEMU; who is not root runs it as itself.
pub fn owner() -> Option<Owner> {
    let root = rustix::process::geteuid().is_root();
    root.then_some(Owner { uid: 2_100_600_001, gid: 2_100_600_001 })
}

/// The machine in a folder of `scratch`, and its kernel where QEMU's user may read it: cargo's folder need not be open to others.
pub fn launch(mut machine: Machine, scratch: &Scratch, folder: &str) -> Launch {
    if let Boot::Kernel { kernel, initrd, .. } = &mut machine.boot {
        for path in std::iter::once(kernel).chain(initrd) {
            let copy = scratch.path(path.file_name().unwrap().to_str().unwrap());
            if *path != copy {
                std::fs::copy(&*path, &copy).unwrap();
                set_mode(&copy, 0o644);
                *path = copy;
            }
        }
    }
    let folder = Folder::new(&scratch.path(folder)).unwrap();
    Launch { qemu: qemu(), machine, folder, owner: owner(), cgroups: Vec::new() }
}

pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Kills the QEMU of a folder when a test ends, however it ends.
pub struct Reaper(pub Folder);

impl Drop for Reaper {
    fn drop(&mut self) {
        if let Ok(Some(process)) = Vm::process_in(&self.0) {
            let _ = process.signal(rustix::process::Signal::KILL);
        }
    }
}

/// Debian's newest cloud kernel, unpacked under `root`: the kernel and its modules' folder.
fn kernel(root: &Path) -> (PathBuf, PathBuf) {
    let tree = root.join("tree");
    if !tree.exists() {
        let depends = tool(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]));
        let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).expect("a kernel package");
        let packages = root.join("packages");
        std::fs::create_dir_all(&packages).unwrap();
        // The sandbox user of apt cannot enter every folder; what it would warn about is of no matter here.
        let fetch = ["download", "-q", "-o", "APT::Sandbox::User=root", package];
        tool(Command::new("apt-get").args(fetch).current_dir(&packages));
        let found = std::fs::read_dir(&packages).unwrap().map(|entry| entry.unwrap().path());
        let package = found.filter(|path| path.extension().is_some_and(|end| end == "deb")).max().unwrap();
        let new = root.join("tree.new");
        let _ = std::fs::remove_dir_all(&new);
        tool(Command::new("dpkg").arg("-x").args([&package, &new]));
        std::fs::rename(&new, &tree).unwrap();
    }
    let only = |folder: PathBuf, begin: &str| {
        let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let fits = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(begin);
        entries.filter(fits).max().unwrap_or_else(|| panic!("{begin} in {}", folder.display()))
    };
    let modules = only(tree.join("lib/modules"), "").join("kernel");
    (only(tree.join("boot"), "vmlinuz"), modules)
}

fn initial_file_system(root: &Path, modules: &Path, initrd: &Path) {
    let tree = root.join("initial");
    let _ = std::fs::remove_dir_all(&tree);
    for folder in ["bin", "mod", "proc", "sys", "dev", "etc/acpi/PWRF"] {
        std::fs::create_dir_all(tree.join(folder)).unwrap();
    }
    std::fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
    for module in MODULES {
        let name = format!("{}.ko", module.rsplit('/').next().unwrap());
        std::fs::copy(modules.join(format!("{module}.ko")), tree.join("mod").join(name)).unwrap();
    }
    for (path, text) in [("init", INIT), ("etc/acpi/PWRF/00000080", POWER_BUTTON)] {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = File::options();
        let mut file = options.create(true).write(true).mode(0o755).open(tree.join(path)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
    let pack = "find . | busybox cpio -o -H newc";
    let image = Command::new("sh").args(["-c", pack]).current_dir(&tree).stderr(Stdio::null()).output().unwrap();
    assert!(image.status.success() && image.stdout.len() > 1 << 20, "cpio failed");
    std::fs::write(initrd, image.stdout).unwrap();
}

/// What a guest said on its console so far.
pub fn said(folder: &Folder) -> String {
    String::from_utf8_lossy(&std::fs::read(folder.console_log()).unwrap_or_default()).replace('\r', "")
}

/// Waits until the guest of `folder` said something that `wanted` accepts.
pub async fn hear(folder: &Folder, what: &str, wanted: impl Fn(&str) -> bool) {
    let begun = Instant::now();
    while !wanted(&said(folder)) {
        let said = said(folder);
        let end = said.floor_char_boundary(said.len().saturating_sub(500));
        assert!(
            begun.elapsed() < BOOT_MAX,
            "no {what} in {BOOT_MAX:?}; QEMU: {}; guest: {}",
            folder.log_tail(),
            &said[end..]
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The last number the guest says it wrote.
pub fn wrote(folder: &Folder) -> u32 {
    let said = said(folder);
    let whole = &said[..said.rfind('\n').map_or(0, |end| end + 1)];
    let numbers = whole.lines().filter_map(|line| line.trim().strip_prefix("WROTE ")?.parse().ok());
    numbers.max().unwrap_or_default()
}

/// A disk of 64 MB in a sparse file, served by nbdkit, that fails while a file exists.
pub struct NbdDisk {
    server: Child,
    pub socket: PathBuf,
    pub file: PathBuf,
    fails: PathBuf,
}

impl NbdDisk {
    pub fn serve(scratch: &Scratch) -> Self {
        let file = scratch.disk("disk.raw", units::ByteLen(64 << 20));
        let (socket, fails) = (scratch.path("nbd.sock"), scratch.path("fails"));
        let mut command = Command::new("nbdkit");
        command.args(["-f", "-U"]).arg(&socket).args(["--filter=error", "file"]).arg(&file);
        command.args(["error=EIO", "error-rate=100%"]).arg(format!("error-file={}", fails.display()));
        let server = command.stderr(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        while !socket.exists() {
            assert!(begun.elapsed() < Duration::from_secs(10), "nbdkit does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        set_mode(&socket, 0o777);
        Self { server, socket, file, fails }
    }

    pub fn fail(&self, fails: bool) {
        if fails {
            std::fs::write(&self.fails, "").unwrap();
        } else {
            std::fs::remove_file(&self.fails).unwrap();
        }
    }

    pub fn disk(&self) -> Disk {
        Disk { serial: "test-root".into(), socket: self.socket.clone(), export: String::new(), reconnect_delay_s: 660 }
    }

    /// The first block of 1.. that does not hold its number, up to `last`.
    pub fn first_wrong(&self, last: u32) -> Option<u32> {
        let bytes = std::fs::read(&self.file).unwrap();
        let holds = |n: u32| {
            let at = 4096 * usize::try_from(n).unwrap();
            bytes[at..at + 8] == *format!("{n:08}").as_bytes()
        };
        (1..=last).find(|n| !holds(*n))
    }
}

impl Drop for NbdDisk {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
