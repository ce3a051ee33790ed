//! The oracle guest: QEMU with Debian's kernel in it, disks that are plugged in while it runs, and a port by which commands go
//! in. It is on a network with the storage box and nobody else.

use super::image::{INIT, Image};
use super::network::Network;
use super::qmp::Qmp;
use super::words::{Ask, PORT, Said};
use crate::kills::stop::Stop;
use crate::ledger::Ledger;
use crate::logs;
use anyhow::Context;
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const MEMORY_MIB: u32 = 640;
/// It boots in 6 s on a machine that does nothing else.
const BOOT_MAX: Duration = Duration::from_secs(180);
const SOCKET_MAX: Duration = Duration::from_secs(20);
/// A command that says nothing else takes seconds.
const LIMIT_SECS: u64 = 120;
/// How much longer than a command's limit its answer is waited for.
const ANSWER_GRACE: Duration = Duration::from_secs(20);
/// Disks have the targets from here on. Source: QEMU's hw/scsi/virtio-scsi.c, at most 255 targets.
const TARGETS: std::ops::Range<u32> = 1..200;

/// What guests are made from.
pub struct Maker {
    /// What they boot.
    pub image: Image,
    /// Our program, for the guest.
    pub program: PathBuf,
    /// Where a guest's sockets and logs are.
    pub folder: PathBuf,
    /// The network that it is on.
    pub network: Arc<Network>,
    /// Takes away what a crashed run leaves.
    pub ledger: Arc<Ledger>,
    /// Ends waiting.
    pub stop: Stop,
}

/// A disk that is plugged in.
struct Disk {
    file: PathBuf,
    target: u32,
    device: String,
}

/// A running guest. Dropped, it is killed.
pub struct Guest {
    child: Child,
    qmp: Qmp,
    port: BufReader<UnixStream>,
    disks: Vec<Disk>,
    targets: std::ops::Range<u32>,
}

impl Maker {
    /// Boots a guest, and waits until it takes commands.
    ///
    /// # Errors
    /// When it does not come up; its last words are in the error.
    pub fn boot(&self) -> anyhow::Result<Guest> {
        for name in ["qmp.sock", "port.sock", "console.log"] {
            let _ = std::fs::remove_file(self.folder.join(name));
        }
        let child = self.command()?.spawn().context("starting QEMU: `cargo xtask setup` installs it")?;
        // Reaped, whatever happens from here on.
        let mut child = Reaped(Some(child));
        self.ledger.record_child(child.0.as_ref().expect("it was just put there").id())?;
        let booted = self.connect(&mut child);
        booted.map_err(|error| anyhow::anyhow!("the oracle guest: {error:#}; its last words:\n{}", self.last_words()))
    }

    fn connect(&self, child: &mut Reaped) -> anyhow::Result<Guest> {
        let (qmp, port) = (self.folder.join("qmp.sock"), self.folder.join("port.sock"));
        let both = || qmp.exists() && port.exists();
        self.stop.wait(SOCKET_MAX, "QEMU makes its sockets", || both() || child.has_ended())?;
        // Before the guest's port is opened: what is said to nobody is lost.
        let stream = UnixStream::connect(&port).with_context(|| format!("connecting to {}", port.display()))?;
        stream.set_read_timeout(Some(BOOT_MAX))?;
        let mut port = BufReader::new(stream);
        let qmp = Qmp::connect(&qmp)?;
        read(&mut port).context("waiting for its first word")?;
        let child = child.0.take().context("it is there until here")?;
        Ok(Guest { child, qmp, port, disks: Vec::new(), targets: TARGETS })
    }

    fn last_words(&self) -> String {
        ["console.log", "qemu.log"].map(|name| logs::tail(&self.folder.join(name))).join("\n")
    }

    fn command(&self) -> anyhow::Result<Command> {
        let program = self.program_disk()?;
        let bytes = std::fs::metadata(&self.program)?.len();
        let path = |path: &Path| path.display().to_string().replace(',', ",,");
        let file = |name: &str| path(&self.folder.join(name));
        let mut command = self.network.command("qemu-system-x86_64");
        command.args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"]);
        command.args(["-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", &MEMORY_MIB.to_string()]);
        command.arg("-kernel").arg(&self.image.kernel).arg("-initrd").arg(&self.image.initrd);
        let words = format!(
            "console=ttyS0 quiet loglevel=4 panic=-1 net.ifnames=0 fsck.mode=skip root=/dev/vda rw init={INIT} oracle_bytes={bytes}"
        );
        command.args(["-append", &words]);
        command.args([
            "-chardev",
            &format!("file,id=console,path={}", file("console.log")),
            "-serial",
            "chardev:console",
        ]);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", file("qmp.sock"))]);
        // The root is everybody's: what a guest writes there is gone with it.
        let root = path(&self.image.root);
        command.args(["-drive", &format!("if=none,id=root,format=raw,snapshot=on,cache=unsafe,file={root}")]);
        command.args(["-device", "virtio-blk-pci,drive=root,addr=0x0a"]);
        let program = path(&program);
        command.args(["-drive", &format!("if=none,id=program,format=raw,readonly=on,file={program}")]);
        command.args([
            "-device",
            "virtio-blk-pci,drive=program,addr=0x0b",
            "-device",
            "virtio-scsi-pci,id=scsi,addr=0x0c",
        ]);
        command.args(["-device", "virtio-serial-pci,addr=0x0d"]);
        command.args(["-chardev", &format!("socket,id=port,server=on,wait=off,path={}", file("port.sock"))]);
        command.args(["-device", &format!("virtserialport,chardev=port,name={PORT}")]);
        command.args(["-netdev", &format!("tap,id=nic,ifname={},script=no,downscript=no", self.network.tap())]);
        command.args(["-device", "virtio-net-pci,netdev=nic,addr=0x02,romfile="]);
        let log = logs::open(&self.folder.join("qemu.log"))?;
        // QEMU puts the root's changes into a file there that has no name.
        command.env("TMPDIR", &self.folder);
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    /// Our program as a disk: whole sectors.
    fn program_disk(&self) -> anyhow::Result<PathBuf> {
        let disk = self.folder.join("program.img");
        std::fs::copy(&self.program, &disk)
            .with_context(|| format!("copying {}: `cargo build -p lab` builds it", self.program.display()))?;
        let file = std::fs::File::options().write(true).open(&disk)?;
        file.set_len(file.metadata()?.len().next_multiple_of(4096))?;
        Ok(disk)
    }
}

impl Guest {
    /// Runs a command to its end, whatever that is.
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn run(&mut self, words: &[&str]) -> anyhow::Result<Said> {
        self.run_for(LIMIT_SECS, words)
    }

    /// The same, within a time of its own.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_for(&mut self, limit_secs: u64, words: &[&str]) -> anyhow::Result<Said> {
        let command = words.iter().map(|&word| word.to_owned()).collect();
        let mut line = serde_json::to_vec(&Ask { command, limit_secs })?;
        line.push(b'\n');
        let stream = self.port.get_mut();
        stream.set_read_timeout(Some(Duration::from_secs(limit_secs) + ANSWER_GRACE))?;
        stream.write_all(&line).context("telling the guest")?;
        read(&mut self.port).with_context(|| format!("the guest runs '{}'", words.join(" ")))
    }

    /// Runs a command that has to end well; what it printed.
    ///
    /// # Errors
    /// Its own words, if it does not.
    pub fn done(&mut self, words: &[&str]) -> anyhow::Result<String> {
        let said = self.run(words)?;
        anyhow::ensure!(
            said.is_fine(),
            "'{}' in the guest: status {}: {}",
            words.join(" "),
            said.status,
            said.words().trim()
        );
        Ok(said.out)
    }

    /// A script of the shell that has to end well; what it printed.
    ///
    /// # Errors
    /// As [`Self::done`].
    pub fn shell(&mut self, script: &str) -> anyhow::Result<String> {
        self.done(&["sh", "-ec", script])
    }

    /// Plugs a file in as a disk; its device in the guest.
    ///
    /// # Errors
    /// When QEMU or the guest does not take it.
    pub fn plug(&mut self, file: &Path) -> anyhow::Result<String> {
        let target = self.targets.next().context("the guest has no room for more disks")?;
        let node = format!("disk{target}");
        let backend = json!({
            "driver": "raw", "node-name": node, "discard": "unmap",
            "file": { "driver": "file", "filename": file, "aio": "threads", "discard": "unmap", "cache": { "direct": true } },
            "cache": { "direct": true }
        });
        self.qmp.run("blockdev-add", &backend)?;
        let device = json!({ "driver": "scsi-hd", "id": node, "drive": node, "bus": "scsi.0", "scsi-id": target, "serial": node });
        self.qmp.run("device_add", &device)?;
        let device = self.done(&["muskox-oracle", "disk", &target.to_string()])?.trim().to_owned();
        self.disks.push(Disk { file: file.to_owned(), target, device: device.clone() });
        Ok(device)
    }

    /// Plugs several in; their devices in the same order.
    ///
    /// # Errors
    /// As [`Self::plug`].
    pub fn plug_all<const N: usize>(&mut self, files: [&Path; N]) -> anyhow::Result<[String; N]> {
        let devices = files.iter().map(|file| self.plug(file)).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(devices.try_into().unwrap_or_else(|_| unreachable!("one for each file")))
    }

    /// Takes everything down that runs on disks, and pulls all of them out.
    ///
    /// # Errors
    /// When something holds on to one.
    pub fn clear(&mut self) -> anyhow::Result<()> {
        self.shell(
            "for at in $(findmnt -rno TARGET,SOURCE | sed -n 's: /dev/\\(mapper\\|md\\|nbd\\).*::p'); do umount \"$at\"; done\n\
             vgchange -an >/dev/null 2>&1 || true\n\
             for try in 1 2 3 4 5; do dmsetup remove_all >/dev/null 2>&1; mdadm --stop --scan >/dev/null 2>&1 && break; sleep 0.2; done\n\
             ! grep -q '^md' /proc/mdstat",
        )?;
        while let Some(disk) = self.disks.pop() {
            self.pull(&disk).with_context(|| format!("pulling {}", disk.file.display()))?;
        }
        Ok(())
    }

    fn pull(&mut self, disk: &Disk) -> anyhow::Result<()> {
        let name = disk.device.trim_start_matches("/dev/");
        self.shell(&format!("blockdev --flushbufs {}; echo 1 > /sys/block/{name}/device/delete", disk.device))?;
        let node = format!("disk{}", disk.target);
        self.qmp.run("device_del", &json!({ "id": node }))?;
        // The device lets go of its backend a moment after the guest has.
        let mut last = Ok(());
        for _ in 0..200 {
            last = self.qmp.run("blockdev-del", &json!({ "node-name": node })).map(drop);
            if last.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        last
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_some())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A child that is not left behind.
struct Reaped(Option<Child>);

impl Reaped {
    fn has_ended(&mut self) -> bool {
        self.0.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|ended| ended.is_some()))
    }
}

impl Drop for Reaped {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn read(port: &mut BufReader<UnixStream>) -> anyhow::Result<Said> {
    let mut line = String::new();
    let len = port.read_line(&mut line).context("it does not answer")?;
    anyhow::ensure!(len > 0, "it has ended");
    serde_json::from_str(&line).context("reading its answer")
}
