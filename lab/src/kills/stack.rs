//! The programs under test, each on its machine: disks that outlive the storage box's power, `muskox target` on a mirror
//! of two, `muskox initiator` on the first host. They are started, killed and asked as an operator would.

use super::delay::Delay;
use super::keys::Keys;
use super::stop::Stop;
use crate::disks::control::{Command as DiskCommand, Control};
use crate::disks::running::Running;
use crate::ledger::Ledger;
use crate::machine::{Role, Site};
use crate::net::SEGMENTS;
use crate::{disks, logs};
use anyhow::Context;
use std::fmt::Write;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Starting and asking take milliseconds, seconds on a machine that builds meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);
/// Source: the kernel's `include/uapi/linux/un.h`, `UNIX_PATH_MAX` 108 with the closing zero.
const SOCKET_PATH_MAX: usize = 107;
const POOL: &str = "tank";
const VOLUME: &str = "web1";
const EPOCH: u64 = 7;
const PORT: u16 = 10809;
const DELAY_PORT: u16 = 20809;
const SOCKET: &str = "web1.sock";
const PORTALS: &str = "@PORTALS@";
const DISKS: usize = 2;

/// What a stack is built with.
pub struct Plan<'a> {
    /// The muskox binary.
    pub program: &'a Path,
    /// Everything of this run is in here.
    pub folder: &'a Path,
    /// The lab's state folder.
    pub state: &'a Path,
    /// How large each disk is.
    pub disk_mib: u64,
    /// How large the volume is.
    pub volume_mib: u64,
    /// TLS between the machines.
    pub tls: bool,
    /// How long the initiator holds.
    pub hold_ms: u64,
}

/// The programs.
pub struct Stack {
    /// The machines.
    pub site: Site,
    program: PathBuf,
    folder: PathBuf,
    ledger: Arc<Ledger>,
    stop: Stop,
    disks: Running,
    target: Option<Child>,
    initiator: Option<Child>,
    /// The initiator's configuration without its portals.
    initiator_text: String,
    delay: Option<Delay>,
}

/// How the initiator reaches the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Straight.
    Direct,
    /// Over [`Delay`].
    Delayed,
}

impl Plan<'_> {
    fn disks(&self) -> disks::running::Plan<'_> {
        let (folder, state) = (self.folder, self.state);
        disks::running::Plan { folder, state, count: DISKS, size_mib: self.disk_mib, applied: None }
    }
}

impl Stack {
    /// Builds the machines, makes the pool and the volume, grants it, attaches it.
    ///
    /// # Errors
    /// What does not work, with the last words of the program that failed.
    pub fn build(plan: &Plan<'_>, ledger: &Arc<Ledger>, stop: &Stop) -> anyhow::Result<Self> {
        let longest = plan.folder.join("initiator.sock").as_os_str().len();
        anyhow::ensure!(
            longest <= SOCKET_PATH_MAX,
            "{}: sockets in there would have paths of {longest} bytes, more than {SOCKET_PATH_MAX}: give a shorter --state",
            plan.folder.display()
        );
        let site = Site::build(ledger).context("building the machines")?;
        let keys = if plan.tls { Some(Keys::make(&plan.folder.join("keys"), ["storage", "host1"])?) } else { None };
        let owner = keys.as_ref().map_or_else(|| "ab".repeat(32), |[_, host]| host.identity.clone());
        let disks = Running::start(&plan.disks(), ledger, stop)?;
        let mut stack = Self {
            site,
            program: plan.program.to_owned(),
            folder: plan.folder.to_owned(),
            ledger: Arc::clone(ledger),
            stop: stop.clone(),
            disks,
            target: None,
            initiator: None,
            initiator_text: initiator_config(plan, keys.as_ref()),
            delay: None,
        };
        std::fs::write(stack.path("target.toml"), stack.target_config(keys.as_ref().map(|[keys, _]| keys), &owner))?;
        stack.start_target()?;
        stack.ctl_soon(&["status"])?;
        let members: Vec<String> =
            (0..DISKS).map(|disk| stack.path(&format!("disks/disk{disk}")).display().to_string()).collect();
        let mut create = vec!["pool", "create", POOL, "--wipe"];
        create.extend(members.iter().map(String::as_str));
        stack.ctl(&create)?;
        stack.ctl(&["volume", "create", POOL, VOLUME, &format!("{}M", plan.volume_mib)])?;
        // Refused while the new volume is being zeroed.
        stack.ctl_soon(&["grant", "raise", VOLUME, &EPOCH.to_string(), "--owner", &owner])?;
        stack.start_initiator(Way::Direct)?;
        Ok(stack)
    }

    /// Where QEMU would come in.
    pub fn socket(&self) -> PathBuf {
        self.path(SOCKET)
    }

    /// The export's name there.
    pub fn export(&self) -> &'static str {
        VOLUME
    }

    /// Starts the target; it is not waited for.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_target(&mut self) -> anyhow::Result<()> {
        self.target = Some(self.spawn(Role::Storage, "target")?);
        Ok(())
    }

    /// Starts the initiator; it is not waited for.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_initiator(&mut self, way: Way) -> anyhow::Result<()> {
        let portals = match way {
            Way::Direct => self.portals(Role::Storage, PORT),
            Way::Delayed => self.portals(Role::Host1, DELAY_PORT),
        };
        let text = self.initiator_text.replace(PORTALS, &format!("{portals:?}"));
        std::fs::write(self.path("initiator.toml"), text)?;
        self.initiator = Some(self.spawn(Role::Host1, "initiator")?);
        Ok(())
    }

    /// The slow wire between the first host and the storage box, made when it is needed first.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn delay(&mut self) -> anyhow::Result<&Delay> {
        if self.delay.is_none() {
            let ways = self.portals(Role::Host1, DELAY_PORT).into_iter().zip(self.portals(Role::Storage, PORT));
            let delay = Delay::start(&self.site.machine(Role::Host1).namespace(), &ways.collect::<Vec<_>>())?;
            self.delay = Some(delay);
        }
        Ok(self.delay.as_ref().expect("it was made above"))
    }

    /// Kills the target, as `kill -9`.
    ///
    /// # Errors
    /// When it was dead already.
    pub fn kill_target(&mut self) -> anyhow::Result<()> {
        self.check_lives()?;
        end(self.target.take())
    }

    /// Kills the initiator, as `kill -9`.
    ///
    /// # Errors
    /// When it was dead already.
    pub fn kill_initiator(&mut self) -> anyhow::Result<()> {
        self.check_lives()?;
        end(self.initiator.take())
    }

    /// The storage box loses its power: it is silent, then dead, then its disks lose what was not flushed, or with a
    /// seed a part of it. Returns how many sectors were not flushed.
    ///
    /// # Errors
    /// When it was dead already, or the disks are gone.
    pub fn power_off(&mut self, seed: Option<u64>) -> anyhow::Result<usize> {
        self.check_lives()?;
        self.site.machine(Role::Storage).power_off(&self.site.switch)?;
        end(self.target.take())?;
        let mut control = Control::connect(&self.path("disks.sock"))?;
        let status = control.send(&DiskCommand::Status)?;
        control.send(&DiskCommand::PowerCut { disk: None, seed })?;
        Ok(status.disks.iter().map(|disk| disk.volatile_sectors).sum())
    }

    /// The power comes back and the target is started.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn power_on(&mut self) -> anyhow::Result<()> {
        self.site.machine(Role::Storage).power_on(&self.site.switch)?;
        self.start_target()
    }

    /// Takes what was written about the disks' operations so far: nobody reads it here, and it grows.
    ///
    /// # Errors
    /// When the log is gone.
    pub fn forget_disk_log(&self) -> anyhow::Result<()> {
        Ok(File::options().write(true).open(self.path("backing/log.jsonl"))?.set_len(0)?)
    }

    /// Whether every program that should live does; else which one ended and its last words.
    ///
    /// # Errors
    /// That.
    pub fn check_lives(&mut self) -> anyhow::Result<()> {
        self.disks.check_lives()?;
        let programs = [("target", self.target.as_mut()), ("initiator", self.initiator.as_mut())];
        let programs = programs.into_iter().filter_map(|(name, child)| Some((name, child?)));
        for (name, child) in programs {
            if let Some(status) = child.try_wait()? {
                let words = logs::tail(&self.folder.join(format!("{name}.log")));
                anyhow::bail!("{name} ended by itself ({status}); its last words:\n{words}");
            }
        }
        Ok(())
    }

    /// The last words of target and initiator, for a report about something that went wrong.
    pub fn last_words(&self) -> String {
        let mut text = String::new();
        for name in ["target", "initiator"] {
            let _ = writeln!(text, "--- {name}.log\n{}", logs::tail(&self.path(&format!("{name}.log"))));
        }
        text
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn spawn(&self, role: Role, name: &str) -> anyhow::Result<Child> {
        let machine = self.site.machine(role);
        let mut command = machine.command(&self.program);
        command.arg(name).arg("--config").arg(self.path(&format!("{name}.toml")));
        let log = logs::open(&self.path(&format!("{name}.log")))?;
        command.stdout(log.try_clone()?).stderr(log);
        machine.spawn(&mut command)
    }

    /// `muskox ctl`, again until it succeeds, or there is nobody to ask.
    fn ctl_soon(&mut self, words: &[&str]) -> anyhow::Result<()> {
        let (mut last, mut lives) = (Ok(()), Ok(()));
        let stop = self.stop.clone();
        let waited = stop.wait(PATIENCE, "muskox ctl succeeds", || {
            last = self.ctl(words);
            lives = self.check_lives();
            last.is_ok() || lives.is_err()
        });
        lives.and(last).and(waited)
    }

    /// `muskox ctl`.
    fn ctl(&self, words: &[&str]) -> anyhow::Result<()> {
        let said = self.path("ctl.log");
        let mut command = Command::new(&self.program);
        command.arg("ctl").arg("--socket").arg(self.path("target.sock")).args(["--timeout", "20"]).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&said)?).process_group(0);
        let mut child = command.spawn().with_context(|| format!("running {}", self.program.display()))?;
        self.ledger.record_child(child.id()).ok();
        let mut status = None;
        let waited = self.stop.wait(PATIENCE, "muskox ctl", || {
            status = child.try_wait().ok().flatten();
            status.is_some()
        });
        if waited.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        waited?;
        let well = status.is_some_and(|status| status.success());
        anyhow::ensure!(well, "muskox ctl {}: {}", words.join(" "), std::fs::read_to_string(&said)?.trim());
        Ok(())
    }

    fn target_config(&self, keys: Option<&Keys>, owner: &str) -> String {
        let mut text = format!(
            "control = {:?}\nstate_dir = {:?}\n",
            self.path("target.sock").display().to_string(),
            self.path("target.state").display().to_string()
        );
        for address in self.portals(Role::Storage, PORT) {
            let trust = match keys {
                Some(keys) => format!("tls = {{ {} }}", keys.toml().join(", ")),
                None => format!("plaintext = true\nidentity = \"{owner}\""),
            };
            let _ = write!(text, "[[listen]]\nnbd = \"{address}\"\n{trust}\n");
        }
        text
    }

    fn portals(&self, at: Role, port: u16) -> Vec<String> {
        let machine = self.site.machine(at);
        SEGMENTS.map(|segment| format!("{}:{port}", machine.address(segment))).into()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // The ledger's settling takes everything away; here nothing is left a zombie.
        for child in [self.target.take(), self.initiator.take()] {
            let _ = end(child);
        }
    }
}

/// With [`PORTALS`] where the portals will be.
fn initiator_config(plan: &Plan<'_>, keys: Option<&[Keys; 2]>) -> String {
    let path = |name: &str| format!("{:?}", plan.folder.join(name).display().to_string());
    let mut text = format!("control = {}\nstate_dir = {}\n", path("initiator.sock"), path("initiator.state"));
    if let Some([_, host]) = keys {
        let _ = write!(text, "[tls]\n{}\n", host.toml().join("\n"));
    }
    let trust =
        keys.map_or_else(|| "plaintext = true".to_owned(), |[storage, _]| format!("target = \"{}\"", storage.identity));
    let _ = write!(
        text,
        "[[volume]]\nname = \"{VOLUME}\"\nepoch = {EPOCH}\nmode = \"rw\"\nportals = {PORTALS}\n{trust}\n\
         socket = {}\nhold_ms = {}\nheartbeat_ms = 250\ndead_after_ms = 750\n",
        path(SOCKET),
        plan.hold_ms
    );
    text
}

fn end(child: Option<Child>) -> anyhow::Result<()> {
    if let Some(mut child) = child {
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}
