//! The cluster under test: a storage box and two hosts, each a machine of the lab with `muskox node run` on it. It is
//! made and driven as a person would: with the program's own words.

use super::http;
use crate::disks::control::{Command as DiskCommand, Control};
use crate::disks::running::Running;
use crate::kills::stop::Stop;
use crate::ledger::Ledger;
use crate::machine::{Machine, Role, Site};
use crate::net::{NETWORKS, Network, SEGMENTS};
use crate::{disks, logs};
use anyhow::Context;
use serde_json::Value;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Machines that are members.
pub const MEMBERS: [Role; 3] = [Role::Storage, Role::Host1, Role::Host2];
/// The bridge that hosts keep for guests.
pub const BRIDGE: &str = "lan";
/// Two in the pool, one waits.
pub const DISKS: usize = 3;
/// Source: the IANA registry of port numbers, `nbd`.
const NBD_PORT: u16 = 10809;
/// Starting takes a second, several on a machine that builds meanwhile.
const START_MAX: Duration = Duration::from_secs(60);
/// Source: the kernel's `include/uapi/linux/un.h`, `UNIX_PATH_MAX` 108 with the closing zero.
const SOCKET_PATH_MAX: usize = 107;
/// The longest path of a socket below a machine's root.
const LONGEST_SOCKET: &str = "run/muskox/vm/web1/web1-canary.sock";

/// What a cluster is made of.
pub struct Plan<'a> {
    /// The muskox binary.
    pub program: &'a Path,
    /// Everything of this run is in here.
    pub folder: &'a Path,
    /// The lab's state folder.
    pub state: &'a Path,
    /// Where the disks log the rogue's writes.
    pub applied: &'a Path,
    /// How large each disk is.
    pub disk_mib: u64,
    /// A planted bug, by name.
    pub sabotage: Option<&'a str>,
}

/// The machines and what runs on them.
pub struct Cluster {
    /// The machines and the switch.
    pub site: Site,
    program: PathBuf,
    folder: PathBuf,
    sabotage: Option<String>,
    ledger: Arc<Ledger>,
    /// When everything has to end.
    pub stop: Stop,
    disks: Running,
    nodes: Vec<(Role, Child)>,
}

impl Plan<'_> {
    fn disks(&self) -> disks::running::Plan<'_> {
        let (folder, state, applied) = (self.folder, self.state, Some(self.applied));
        disks::running::Plan { folder, state, count: DISKS, size_mib: self.disk_mib, applied }
    }
}

impl Cluster {
    /// Builds machines and disks; nothing of muskox runs yet.
    ///
    /// # Errors
    /// What does not work.
    pub fn build(plan: &Plan<'_>, ledger: &Arc<Ledger>, stop: &Stop) -> anyhow::Result<Self> {
        let longest = plan.folder.join("storage").join(LONGEST_SOCKET).as_os_str().len();
        anyhow::ensure!(
            longest <= SOCKET_PATH_MAX,
            "{}: sockets in there would have paths of {longest} bytes, more than {SOCKET_PATH_MAX}: give a shorter --folder",
            plan.folder.display()
        );
        let site = Site::build(ledger).context("building the machines")?;
        let disks = Running::start(&plan.disks(), ledger, stop)?;
        Ok(Self {
            site,
            program: plan.program.to_owned(),
            folder: plan.folder.to_owned(),
            sabotage: plan.sabotage.map(str::to_owned),
            ledger: Arc::clone(ledger),
            stop: stop.clone(),
            disks,
            nodes: Vec::new(),
        })
    }

    /// `node init` on the storage box, `node join` on the hosts, `node run` everywhere.
    ///
    /// # Errors
    /// The words of whoever refuses.
    pub fn found(&mut self) -> anyhow::Result<()> {
        self.enlist(Role::Storage, &["init", "storage", "--roles", "storage,witness"])?;
        self.start_node(Role::Storage)?;
        for host in [Role::Host1, Role::Host2] {
            let token = self.cli(Role::Storage, &["node", "token", "--lifetime", "600"])?;
            let bridge = format!("{BRIDGE}={}", Network::Guest.name());
            // In a file: a secret has no place on a command line.
            let file = self.folder.join(format!("{}.token", host.name()));
            let mut options = std::fs::File::options();
            options.write(true).create_new(true).mode(0o600).open(&file)?.write_all(token.as_bytes())?;
            let file = file.to_str().context("the lab's folder is not UTF-8")?;
            let words = ["join", file, "--name", host.name(), "--roles", "host,witness", "--bridge", &bridge];
            self.enlist(host, &words)?;
            self.start_node(host)?;
        }
        Ok(())
    }

    fn enlist(&self, role: Role, words: &[&str]) -> anyhow::Result<()> {
        let machine = self.site.machine(role);
        let portals = SEGMENTS.map(|segment| machine.address(segment)).join(",");
        let address = machine.address(Network::Control);
        let mut command = machine.command(&self.program);
        command.arg("node").args(words).args(["--address", &address, "--portals", &portals]).arg("--root");
        command.arg(self.root(role));
        self.run(machine, &mut command, words[0]).map(drop)
    }

    /// Starts a machine's node and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_node(&mut self, role: Role) -> anyhow::Result<()> {
        let machine = self.site.machine(role);
        let mut command = machine.command(&self.program);
        command.args(["node", "run", "--root"]).arg(self.root(role));
        if let Some(bug) = &self.sabotage {
            command.env("MUSKOX_SABOTAGE", bug);
        }
        let log = logs::open(&self.folder.join(format!("{}-node.log", role.name())))?;
        command.stdout(log.try_clone()?).stderr(log);
        let child = machine.spawn(&mut command)?;
        self.nodes.push((role, child));
        let socket = self.socket(role);
        self.stop.wait(START_MAX, &format!("the node of {} answers", role.name()), || {
            http::call(&socket, "GET", "/v1/nodes", None).is_ok()
        })
    }

    /// Ends a machine's node with SIGKILL; what it started goes on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_node(&mut self, role: Role) -> anyhow::Result<()> {
        let index = self.nodes.iter().position(|(of, _)| *of == role);
        let index = index.with_context(|| format!("the node of {} does not run", role.name()))?;
        let (_, child) = self.nodes.remove(index);
        reap(child);
        Ok(())
    }

    /// Whether a machine's node was started and not killed since.
    pub fn has_node(&self, role: Role) -> bool {
        self.nodes.iter().any(|(of, _)| *of == role)
    }

    /// Runs a `muskox` verb against a machine's node and gives what it prints.
    ///
    /// # Errors
    /// Its words, if it fails.
    pub fn cli(&self, role: Role, words: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command.args(words).arg("--root").arg(self.root(role)).process_group_of_its_own();
        self.finish(command.stdin(Stdio::null()), &words.join(" "))
    }

    /// The same with `--json`.
    ///
    /// # Errors
    /// As [`Self::cli`].
    pub fn json(&self, words: &[&str]) -> anyhow::Result<Value> {
        let mut all = words.to_vec();
        all.push("--json");
        let text = self.cli(Role::Storage, &all)?;
        serde_json::from_str(&text).with_context(|| format!("`muskox {}` printed no JSON: {text:?}", words.join(" ")))
    }

    /// A call of the API at the machine with the store.
    ///
    /// # Errors
    /// As [`http::call`].
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        http::call(&self.socket(Role::Storage), "GET", path, None)
    }

    /// Where a machine's files are.
    pub fn root(&self, role: Role) -> PathBuf {
        self.folder.join(role.name())
    }

    /// Where a machine's node answers.
    pub fn socket(&self, role: Role) -> PathBuf {
        self.root(role).join("run/muskox/node.sock")
    }

    /// Where the storage box serves volumes.
    pub fn storage_portals(&self) -> Vec<String> {
        let machine = self.site.machine(Role::Storage);
        SEGMENTS.map(|segment| format!("{}:{NBD_PORT}", machine.address(segment))).into()
    }

    /// What the target says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn target_status(&self) -> anyhow::Result<Value> {
        Ok(self.ctl_status(Role::Storage, "target")?["status"].clone())
    }

    /// What a machine's dead-man says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn deadman_status(&self, role: Role) -> anyhow::Result<Value> {
        Ok(self.ctl_status(role, "deadman")?["deadman"].clone())
    }

    fn ctl_status(&self, role: Role, of: &str) -> anyhow::Result<Value> {
        let socket = self.root(role).join("run/muskox").join(format!("{of}.sock"));
        let mut command = Command::new(&self.program);
        command.arg("ctl").arg("--socket").arg(socket).args(["--json", "status"]).stdin(Stdio::null());
        let text = self.finish(command.process_group_of_its_own(), "ctl status")?;
        serde_json::from_str(&text).with_context(|| format!("`muskox ctl status` printed no JSON: {text:?}"))
    }

    /// A disk, as the storage box sees it.
    pub fn disk(&self, number: usize) -> PathBuf {
        self.folder.join(format!("disks/disk{number}"))
    }

    /// Where a disk's bytes are when nobody serves them.
    pub fn backing(&self) -> PathBuf {
        self.folder.join("backing")
    }

    /// Tells the disks something.
    ///
    /// # Errors
    /// What they refuse.
    pub fn tell_disks(&self, command: &DiskCommand) -> anyhow::Result<()> {
        let answer = Control::connect(&self.folder.join("disks.sock"))?.send(command)?;
        anyhow::ensure!(answer.ok, "the disks refuse {command:?}: {}", answer.error.unwrap_or_default());
        Ok(())
    }

    /// The power of a machine goes: nothing leaves any more, then everything in it is dead. For the storage box its
    /// disks lose every write that was not flushed.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn power_off(&mut self, role: Role) -> anyhow::Result<()> {
        self.site.machine(role).power_off(&self.site.switch)?;
        for (_, child) in self.nodes.extract_if(.., |(of, _)| *of == role) {
            reap(child);
        }
        if role == Role::Storage {
            self.tell_disks(&DiskCommand::PowerCut { disk: None, seed: None })?;
        }
        Ok(())
    }

    /// The power comes back: what a machine remembers is what lies in its files; `/run` is empty.
    ///
    /// # Errors
    /// When its node does not start.
    pub fn power_on(&mut self, role: Role) -> anyhow::Result<()> {
        // On a real machine this is a tmpfs.
        let run = self.root(role).join("run");
        if run.exists() {
            std::fs::remove_dir_all(&run).with_context(|| format!("emptying {}", run.display()))?;
        }
        self.site.machine(role).restart_network()?;
        self.site.machine(role).power_on(&self.site.switch)?;
        self.start_node(role)
    }

    /// Cuts every port of a machine, silently.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cut(&self, role: Role) -> anyhow::Result<()> {
        self.site.switch.cut(&self.site.machine(role).ports(&NETWORKS))
    }

    /// Puts them back.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn put_back(&self, role: Role) -> anyhow::Result<()> {
        self.site.switch.put_back(&self.site.machine(role).ports(&NETWORKS))
    }

    /// Whether every program of the lab's own that should live does.
    ///
    /// # Errors
    /// Which one ended, with its last words.
    pub fn check_lives(&mut self) -> anyhow::Result<()> {
        self.disks.check_lives()?;
        for (role, child) in &mut self.nodes {
            if let Some(status) = child.try_wait()? {
                let words = logs::tail(&self.folder.join(format!("{}-node.log", role.name())));
                anyhow::bail!("the node of {} ended by itself ({status}):\n{words}", role.name());
            }
        }
        Ok(())
    }

    fn run(&self, machine: &Machine, command: &mut Command, what: &str) -> anyhow::Result<String> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = machine.spawn(command)?;
        finished(child, what)
    }

    fn finish(&self, command: &mut Command, what: &str) -> anyhow::Result<String> {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.with_context(|| format!("running {}", self.program.display()))?;
        self.ledger.record_child(child.id()).ok();
        finished(child, what)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for role in MEMBERS {
            let _ = self.site.machine(role).thaw();
            let _ = self.site.machine(role).kill_all();
        }
        self.nodes.drain(..).for_each(|(_, child)| reap(child));
    }
}

/// Ctrl-C at a terminal reaches the lab, which ends things in their order.
trait OfItsOwn {
    fn process_group_of_its_own(&mut self) -> &mut Self;
}

impl OfItsOwn for Command {
    fn process_group_of_its_own(&mut self) -> &mut Self {
        std::os::unix::process::CommandExt::process_group(self, 0)
    }
}

fn finished(child: Child, what: &str) -> anyhow::Result<String> {
    let done = child.wait_with_output().with_context(|| format!("waiting for `muskox {what}`"))?;
    let words = String::from_utf8_lossy(&done.stderr);
    anyhow::ensure!(
        done.status.success(),
        "`muskox {what}`: {}{}",
        words.trim(),
        String::from_utf8_lossy(&done.stdout).trim()
    );
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// It is dead already; nothing is left a zombie.
fn reap(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}
