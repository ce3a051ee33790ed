//! QEMU as a try needs it: the devices that `muskox` gives a guest, on plain files.

use super::super::guest::config::{Config, SEED_FILE};
use crate::ledger::Ledger;
use crate::net::{add_namespace, namespace_file};
use anyhow::Context;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The canary's serial number.
pub const CANARY: &str = "web1-canary";
const TAP: &str = "guest0";
/// Who QEMU runs as: nobody's number, as with muskox (docs/runbooks/vm.md).
const USER: u32 = 2_100_600_010;
const MEMORY_MIB: u32 = 256;
const SEED_BYTES: u64 = 1_474_560;
const TAIL_BYTES: u64 = 2000;

/// A running QEMU. Dropped, it is killed.
pub struct Qemu {
    child: Child,
    folder: PathBuf,
    /// Kept until the end: QEMU may not have read a word yet when its sender is done.
    monitor: Option<UnixStream>,
}

/// A seed as muskox writes it, name and address, with the guest's own configuration beside.
pub fn make_seed(folder: &Path, address: &str, config: &Config) -> anyhow::Result<()> {
    let seed = folder.join("seed.img");
    File::create(&seed)?.set_len(SEED_BYTES)?;
    tool(Command::new("mkfs.fat").args(["-F", "12", "-n", "CIDATA"]).arg(&seed))?;
    let network = format!("version: 2\nethernets:\n  eth0:\n    addresses: [{address}/24]\n");
    let meta = "instance-id: try\nlocal-hostname: web1\n";
    let files = [("meta-data", meta), ("network-config", network.as_str()), (SEED_FILE, &config.text())];
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text)?;
        tool(Command::new("mcopy").arg("-i").arg(&seed).arg(&path).arg(format!("::{name}")))?;
    }
    Ok(())
}

/// A namespace with the guest's tap in it, which has the referee's address: guest and referee are neighbours.
pub fn make_network(ledger: &Ledger, config: &Config) -> anyhow::Result<String> {
    let namespace = format!("{}-try", ledger.run());
    add_namespace(ledger, &namespace)?;
    let address = format!("{}/24", config.referee.ip());
    let steps: [&[&str]; 3] = [
        &["tuntap", "add", "dev", TAP, "mode", "tap", "user", &USER.to_string()],
        &["address", "add", &address, "dev", TAP],
        &["link", "set", "dev", TAP, "up"],
    ];
    for step in steps {
        tool(Command::new("ip").args(["-netns", &namespace]).args(step))?;
    }
    Ok(namespace)
}

impl Qemu {
    /// Starts the guest on the disks in `folder`.
    pub fn start(folder: &Path, namespace: &str, ledger: &Ledger) -> anyhow::Result<Self> {
        // It runs in there: what lies above need not be open to its user.
        let entries = std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
        for path in std::iter::once(Ok(folder.to_owned())).chain(entries) {
            std::os::unix::fs::lchown(path?, Some(USER), Some(USER))
                .context("giving the guest's files to QEMU's user")?;
        }
        let drive = |id: &str, name: &str, more: &str| {
            // What a killed QEMU has written is in the files: flushing them would only measure this machine's disk.
            format!("if=none,id={id},format=raw,cache=unsafe,file={name}{more}")
        };
        let mut command = Command::new("nsenter");
        command.current_dir(folder).arg(format!("--net={}", namespace_file(namespace).display()));
        command.args(["--setuid", &USER.to_string(), "--setgid", &USER.to_string()]);
        command.args(["--", "qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none"]);
        command.args(["-machine", "q35,accel=tcg", "-cpu", "max", "-m", &MEMORY_MIB.to_string()]);
        command.args(["-chardev", "file,id=console,append=on,path=console.log"]);
        command.args(["-serial", "chardev:console"]);
        command.args(["-monitor", "unix:monitor.sock,server=on,wait=off"]);
        command.args(["-drive", &drive("root", "root.raw", "")]);
        command.args(["-device", "virtio-blk-pci,drive=root,addr=0x0a,serial=web1-root,bootindex=1"]);
        command.args(["-drive", &drive("canary", "canary.raw", "")]);
        command.args(["-device", &format!("virtio-blk-pci,drive=canary,addr=0x0b,serial={CANARY}")]);
        command.args(["-drive", &drive("seed", "seed.img", ",readonly=on")]);
        command.args(["-device", "virtio-blk-pci,drive=seed,addr=0x1a,serial=cidata"]);
        command.args(["-netdev", &format!("tap,id=nic,ifname={TAP},script=no,downscript=no")]);
        command.args(["-device", "virtio-net-pci,netdev=nic,mac=52:54:00:ab:01:02,addr=0x02,romfile="]);
        let log = File::options().create(true).append(true).open(folder.join("qemu.log"))?;
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("starting QEMU: `cargo xtask setup` installs it")?;
        let qemu = Self { child, folder: folder.to_owned(), monitor: None };
        ledger.record_child(qemu.child.id())?;
        Ok(qemu)
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_some())
    }

    /// The CPU time that it has used. Source: proc(5), fields 14 and 15 of `stat`, in clock ticks.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    /// Asks the guest to shut down, as `muskox vm stop` does.
    pub fn press_power_button(&mut self) -> anyhow::Result<()> {
        let connected = UnixStream::connect(self.folder.join("monitor.sock"));
        let monitor = self.monitor.insert(connected.context("connecting to QEMU")?);
        monitor.write_all(b"system_powerdown\n").context("telling QEMU")
    }

    /// A sudden death; or nothing, if it has ended.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// The last words of guest and QEMU, for an error.
    pub fn tail(&self) -> String {
        let end = |name: &str| {
            let mut text = Vec::new();
            if let Ok(mut file) = File::open(self.folder.join(name)) {
                let len = file.metadata().map_or(0, |facts| facts.len());
                let _ = file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)));
                let _ = file.read_to_end(&mut text);
            }
            String::from_utf8_lossy(&text).into_owned()
        };
        format!("the guest said:\n{}\nQEMU said:\n{}", end("console.log"), end("qemu.log"))
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn tool(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().with_context(|| format!("running {name}: `cargo xtask setup` installs it"))?;
    let words = String::from_utf8_lossy(&done.stderr);
    anyhow::ensure!(done.status.success(), "{name} failed ({}): {}", done.status, words.trim());
    Ok(())
}
