//! Servers side by side, each with its own way to be started. They die with us: by `Drop`, and by `setpriv --pdeathsig`
//! if we are killed.

use crate::ledger::Ledger;
use anyhow::Context;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// How a server is asked to reach its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Memory: through the page cache, which is where the image is.
    Tmpfs,
    /// A disk: around the page cache where the server can.
    Disk,
}

/// What a server is started with.
pub struct Place<'a> {
    /// What lies under the image.
    pub medium: Medium,
    /// The directory for images.
    pub folder: &'a Path,
    /// A filled image that servers may share, one at a time.
    pub image: &'a Path,
    /// Its size.
    pub image_bytes: u64,
    /// The directory for what servers say.
    pub logs: &'a Path,
    /// The muskox binary.
    pub program: &'a Path,
    /// Where leftovers are written down.
    pub ledger: &'a Ledger,
}

/// A running server.
pub struct Server {
    /// Its name in tables.
    pub name: &'static str,
    /// HOST:PORT.
    pub address: String,
    /// The export's name.
    pub export: &'static str,
    child: Child,
}

/// The peer every goal compares with.
pub const NBDKIT_FILE: &str = "nbdkit file";
/// A peer that stores nothing.
pub const NBDKIT_MEMORY: &str = "nbdkit memory";
/// A peer on io_uring.
pub const QEMU: &str = "qsd io_uring";
/// Ours: gate and volume on one member.
pub const VOLUME: &str = "muskox volume";
/// Ours: gate, volume and RAID 1 on two members.
pub const RAID1: &str = "muskox raid1";

impl Server {
    /// Starts what can be started in `place`; says what cannot.
    ///
    /// # Errors
    /// When a server that should start does not.
    pub fn all(place: &Place<'_>) -> anyhow::Result<Vec<Self>> {
        let mut servers = vec![nbdkit_file(place)?];
        if place.medium == Medium::Tmpfs {
            servers.push(nbdkit_memory(place)?);
        }
        servers.push(qemu_storage_daemon(place)?);
        for (name, members, port) in [(VOLUME, 1, 10812), (RAID1, 2, 10813)] {
            servers.extend(super::muskox::start(place, name, members, port)?);
        }
        Ok(servers)
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Binds all its threads to `cpus`; threads to come inherit that.
    ///
    /// # Errors
    /// When it is gone.
    pub fn bind(&self, cpus: &[usize]) -> anyhow::Result<()> {
        let mut set = CpuSet::new();
        cpus.iter().try_for_each(|cpu| set.set(*cpu))?;
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()))
            .with_context(|| format!("{} is gone", self.name))?;
        for task in tasks.flatten() {
            let id = task.file_name().to_string_lossy().parse().context("a thread's id")?;
            // A thread may end between being listed and being bound.
            let _ = sched_setaffinity(Pid::from_raw(id), &set);
        }
        Ok(())
    }

    /// Starts a program that will listen on `port`.
    ///
    /// # Errors
    /// When it cannot be started or written down.
    pub fn spawn(
        place: &Place<'_>,
        name: &'static str,
        port: u16,
        export: &'static str,
        program: &Path,
        arguments: &[String],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments).stdin(Stdio::null());
        let log = place.logs.join(format!("{}.log", name.replace(' ', "-")));
        let log = std::fs::File::create(&log).with_context(|| format!("making {}", log.display()))?;
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        let server = Self { name, address: format!("127.0.0.1:{port}"), export, child };
        place.ledger.record_child(server.child.id())?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn nbdkit_file(place: &Place<'_>) -> anyhow::Result<Server> {
    let mut arguments = nbdkit_arguments(10809);
    arguments.extend(["file".into(), place.image.display().to_string()]);
    if place.medium == Medium::Disk {
        // It has no O_DIRECT; this gives the pages back as it goes (nbdkit-file-plugin(1)).
        arguments.push("cache=none".into());
    }
    Server::spawn(place, NBDKIT_FILE, 10809, "", Path::new("nbdkit"), &arguments)
}

fn nbdkit_memory(place: &Place<'_>) -> anyhow::Result<Server> {
    let mut arguments = nbdkit_arguments(10810);
    arguments.extend(["memory".into(), place.image_bytes.to_string()]);
    Server::spawn(place, NBDKIT_MEMORY, 10810, "", Path::new("nbdkit"), &arguments)
}

fn nbdkit_arguments(port: u16) -> Vec<String> {
    ["-f", "-i", "127.0.0.1", "-p", &port.to_string()].map(str::to_owned).to_vec()
}

fn qemu_storage_daemon(place: &Place<'_>) -> anyhow::Result<Server> {
    let direct = if place.medium == Medium::Disk { "on" } else { "off" };
    let image = place.image.display();
    let arguments = [
        "--blockdev".to_owned(),
        format!("driver=file,node-name=f,filename={image},aio=io_uring,cache.direct={direct},locking=off"),
        "--nbd-server".to_owned(),
        "addr.type=inet,addr.host=127.0.0.1,addr.port=10811".to_owned(),
        "--export".to_owned(),
        "type=nbd,id=e,node-name=f,name=d,writable=on".to_owned(),
    ];
    Server::spawn(place, QEMU, 10811, "d", Path::new("qemu-storage-daemon"), &arguments)
}
