//! A machine as QEMU's command line: a pure function.
//!
//! Nothing is left to QEMU's defaults that a guest could see or an attacker could use: no default devices, no
//! configuration files, every disk raw by name, every device at its own PCI address (so that both ends of a migration
//! agree and a guest's names stay when a disk is added). What lies in its folder is named from there, where QEMU runs.

use super::VmError;
use super::description::SEED_SERIAL;
use super::folder::{Folder, Monitor};
use super::machine::{Boot, Disk, Machine, Nic, Start};
use std::path::Path;
use wire::qmp::{BlockNode, FileNode, NbdNode};

/// Above what QEMU's own documents advise against: an exploited QEMU neither changes user, starts programs, nor
/// touches priorities. `elevateprivileges=deny` rules out `-daemonize`, which we do not use.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// PCI slots on q35's root bus. 0 is the host bridge, 0x1f the chipset's.
const NIC_SLOT: usize = 0x02;
const DISK_SLOT: usize = 0x0a;
const SEED_SLOT: usize = 0x1a;

/// The arguments of QEMU for `machine`, without the program's name.
///
/// # Errors
/// If the description cannot be.
pub fn argv(machine: &Machine, folder: &Folder) -> Result<Vec<String>, VmError> {
    machine.check()?;
    let mut argv = Argv(Vec::new());
    argv.flag("-no-user-config");
    argv.flag("-nodefaults");
    argv.pair("-sandbox", SANDBOX);
    argv.pair("-name", format!("guest={},debug-threads=on", machine.name));
    argv.pair("-uuid", &machine.uuid);
    argv.pair("-machine", format!("{},accel={},usb=off,vmport=off", machine.machine_type, machine.accelerator.word()));
    argv.pair("-cpu", machine.cpu.as_deref().unwrap_or("max"));
    argv.pair("-smp", machine.vcpus.to_string());
    argv.pair("-m", format!("size={}M", machine.memory_mib));
    argv.pair("-display", "none");
    argv.pair("-vga", "none");
    argv.pair("-rtc", "base=utc");
    argv.pair("-boot", "strict=on");
    // A guest that powers off stays as a paused process until it is told to quit, so that its reason outlives us.
    argv.pair("-action", "shutdown=pause");
    argv.pair("-pidfile", text(folder.name_of(&folder.pid_file()))?);
    for monitor in Monitor::ALL {
        argv.monitor(monitor, folder)?;
    }
    argv.console(folder)?;
    argv.boot(&machine.boot)?;
    for (index, disk) in machine.disks.iter().enumerate() {
        argv.disk(index, disk, folder)?;
    }
    for (index, nic) in machine.nics.iter().enumerate() {
        argv.nic(index, nic);
    }
    if let Some(seed) = &machine.seed {
        let node = BlockNode::File(FileNode { name: "seed".into(), path: text(folder.name_of(seed))? });
        argv.pair("-blockdev", node.to_json());
        argv.pair("-device", format!("virtio-blk-pci,id=vseed,drive=seed,addr={SEED_SLOT:#04x},serial={SEED_SERIAL}"));
    }
    match machine.start {
        Start::Running => {}
        Start::Paused => argv.flag("-S"),
        Start::Incoming => {
            argv.flag("-S");
            argv.pair("-incoming", "defer");
        }
    }
    Ok(argv.0)
}

struct Argv(Vec<String>);

impl Argv {
    fn flag(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn pair(&mut self, name: &str, value: impl Into<String>) {
        self.0.extend([name.to_owned(), value.into()]);
    }

    fn monitor(&mut self, monitor: Monitor, folder: &Folder) -> Result<(), VmError> {
        let (word, path) = (monitor.word(), escaped(folder.name_of(&folder.monitor(monitor)))?);
        self.pair("-chardev", format!("socket,id=mon-{word},path={path},server=on,wait=off"));
        self.pair("-mon", format!("chardev=mon-{word},mode=control"));
        Ok(())
    }

    fn console(&mut self, folder: &Folder) -> Result<(), VmError> {
        let (socket, log) = (folder.console(), folder.console_log());
        let (socket, log) = (escaped(folder.name_of(&socket))?, escaped(folder.name_of(&log))?);
        let chardev = format!("socket,id=console,path={socket},server=on,wait=off,logfile={log},logappend=on");
        self.pair("-chardev", chardev);
        self.pair("-serial", "chardev:console");
        Ok(())
    }

    fn boot(&mut self, boot: &Boot) -> Result<(), VmError> {
        if let Boot::Kernel { kernel, initrd, append } = boot {
            self.pair("-kernel", text(kernel)?);
            if let Some(initrd) = initrd {
                self.pair("-initrd", text(initrd)?);
            }
            self.pair("-append", append);
        }
        Ok(())
    }

    fn disk(&mut self, index: usize, disk: &Disk, folder: &Folder) -> Result<(), VmError> {
        let node = BlockNode::Nbd(NbdNode {
            name: format!("disk{index}"),
            socket: text(folder.name_of(&disk.socket))?,
            export: disk.export.clone(),
            reconnect_delay_s: disk.reconnect_delay_s,
        });
        self.pair("-blockdev", node.to_json());
        let (slot, serial) = (DISK_SLOT + index, &disk.serial);
        let boot = if index == 0 { ",bootindex=1" } else { "" };
        let device = format!("virtio-blk-pci,id=vd{index},drive=disk{index},addr={slot:#04x},serial={serial}");
        self.pair("-device", format!("{device},write-cache=on,werror=stop,rerror=stop{boot}"));
        Ok(())
    }

    fn nic(&mut self, index: usize, nic: &Nic) {
        let (slot, tap, mac) = (NIC_SLOT + index, &nic.tap, nic.mac_text());
        self.pair("-netdev", format!("tap,id=nic{index},ifname={tap},script=no,downscript=no,vhost=off"));
        // No ROM: nobody boots from the network, and both ends of a migration need the same one.
        let device = format!("virtio-net-pci,id=vn{index},netdev=nic{index},mac={mac},addr={slot:#04x},romfile=");
        self.pair("-device", device);
    }
}

fn text(path: &Path) -> Result<String, VmError> {
    let what = || format!("{}: a path that is not UTF-8", path.display());
    path.to_str().map(str::to_owned).ok_or_else(|| VmError::Description { what: what() })
}

/// A path within a list of options: a comma is doubled.
fn escaped(path: &Path) -> Result<String, VmError> {
    text(path).map(|text| text.replace(',', ",,"))
}

#[cfg(test)]
mod test {
    use super::super::machine::Accelerator;
    use super::*;

    const UUID: &str = "4f7c9e3a-8d51-4c0e-9f00-0123456789ab";

    fn example() -> Machine {
        let mut machine = Machine::new("web1", UUID, 512, Accelerator::Tcg);
        let disk = |serial: &str, folder: &str| Disk {
            serial: serial.into(),
            socket: format!("{folder}/{serial}.sock").into(),
            export: "vg0/web1".into(),
            reconnect_delay_s: 660,
        };
        machine.disks = vec![disk("web1-root", "/run/muskox/vm/web1"), disk("web1-data", "/run/elsewhere")];
        machine.nics = vec![Nic { tap: "mx-web1-0".into(), mac: [0x52, 0x54, 0, 0xab, 1, 2] }];
        machine.seed = Some("/run/muskox/vm/web1/seed.img".into());
        machine
    }

    fn line(machine: &Machine, folder: &str) -> String {
        let argv = argv(machine, &Folder::new(Path::new(folder)).unwrap()).unwrap();
        argv.join(" ").replace(" -", "\n-")
    }

    /// Goal: what QEMU is told is exactly this. Method: a golden command line; a change of it is a change of every
    /// guest's hardware, which a running guest cannot follow to another host.
    #[test]
    fn the_command_line_is_golden() {
        let expect = include_str!("argv.golden");
        assert_eq!(line(&example(), "/run/muskox/vm/web1"), expect.trim_end());
    }

    /// Goal: a kernel, an incoming migration, KVM and a strange folder only change their own words.
    #[test]
    fn variants_change_their_own_words_only() {
        let mut machine = example();
        machine.start = Start::Incoming;
        machine.accelerator = Accelerator::Kvm;
        machine.boot =
            Boot::Kernel { kernel: "/boot/k".into(), initrd: Some("/boot/i".into()), append: "a=b, c".into() };
        let changed = line(&machine, "/run/x,y");
        for words in ["\n-S\n-incoming defer", "accel=kvm", "\n-kernel /boot/k\n-initrd /boot/i\n-append a=b, c"] {
            assert!(changed.contains(words), "{words}: {changed}");
        }
        assert!(changed.contains("path=node.sock,") && changed.contains("-pidfile qemu.pid"));
        machine.start = Start::Paused;
        assert!(line(&machine, "/run/x").ends_with("\n-S"));
    }

    /// Goal: no name of a user's becomes an option of QEMU's. Method: a table of bad descriptions.
    #[test]
    fn what_cannot_be_is_refused() {
        let check = |what: &str, spoil: fn(&mut Machine)| {
            let mut machine = example();
            spoil(&mut machine);
            let error = argv(&machine, &Folder::new(Path::new("/run/x")).unwrap()).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        };
        check("the name", |machine| machine.name = "a,b".into());
        check("the name", |machine| machine.name = "-a".into());
        check("UUID", |machine| machine.uuid = "4f7c9e3a".into());
        check("vCPUs", |machine| machine.vcpus = 0);
        check("memory", |machine| machine.memory_mib = 1);
        check("cpu: ", |machine| machine.cpu = Some("a b".into()));
        check("serial", |machine| machine.disks[0].serial = "a,logical_block_size=4096".into());
        check("two disks", |machine| machine.disks[0].serial = "web1-data".into());
        check("'cidata'", |machine| machine.disks[0].serial = "cidata".into());
        check("serial: '-a'", |machine| machine.disks[0].serial = "-a".into());
        check("absolute", |machine| machine.disks[0].socket = "x".into());
        check("network interface", |machine| machine.nics[0].tap = "x,script=/bin/sh".into());
        check("01:54:00", |machine| machine.nics[0].mac[0] = 1);
        check("interfaces", |machine| machine.nics = vec![machine.nics[0].clone(); NICS_MAX_AND_ONE]);
        let too_long = format!("/run/{}", "x".repeat(100));
        assert!(Folder::new(Path::new(&too_long)).is_err() && Folder::new(Path::new("x")).is_err());
    }

    const NICS_MAX_AND_ONE: usize = super::super::NICS_MAX + 1;
}
