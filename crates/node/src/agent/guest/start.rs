//! A guest is let run: started from its disk, or gone on with.
//!
//! Invariant: before `cont` every volume is attached at the epoch the order names, and the dead-man gives leave.

use super::Guest;
use crate::agent::deadman::{self, Leave};
use crate::agent::{initiator, network};
use crate::peer::{Brief, BriefSeed};
use cluster::job::Guest as State;
use cluster::migrate::Measured;
use host::vm::seed::Seed;
use host::vm::{Accelerator, Boot, Disk, Launch, Machine, Owner, Start, Vm};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use units::{Epoch, Millis};
use wire::qmp::Cont;

/// An ordinary command takes well under a millisecond; the machine may be busy.
pub(super) const COMMAND_MAX: Millis = Millis(5_000);
/// A guest that does not run by then does not.
const RUNNING_MAX: Millis = Millis(15_000);
/// How often the dead-man is asked again.
const LEAVE_AGAIN: Duration = Duration::from_millis(100);
/// QEMU waits longer for a disk than the initiator does, which answers then.
const RECONNECT_MORE_S: u64 = 60;

impl Guest {
    /// Starts it from its disk; anything of it at another epoch is destroyed first.
    pub(super) async fn start(self: &Rc<Self>, epoch: Epoch) -> Result<(), String> {
        if self.vm().is_some() && self.epoch() == Some(epoch) {
            return self.go_on().await;
        }
        self.not_newer(epoch)?;
        self.destroy().await?;
        self.leave_given().await;
        let started = async {
            let vm = self.launch(epoch, Start::Paused).await?;
            self.hold(vm);
            self.go_on().await
        };
        let started = started.await;
        if started.is_err() {
            self.destroy().await?;
        }
        started
    }

    /// Prepares everything around a QEMU at this epoch, and starts it.
    pub(super) async fn launch(self: &Rc<Self>, epoch: Epoch, start: Start) -> Result<Vm, String> {
        self.remember(|memory| (memory.epoch, memory.powered_off) = (Some(epoch), false))?;
        {
            let mut facts = self.facts.borrow_mut();
            (facts.stopped, facts.resumed, facts.measured) = (None, None, Measured::default());
        }
        // From here on there may be a QEMU, so nobody is told that there is none before it was made sure of.
        self.is_now(State::Stopped);
        let (place, brief) = (&self.shared.place, self.facts.borrow().memory.brief.clone());
        let qemu = place.qemu().ok_or("there is no QEMU on this host")?;
        let accelerator = self.shared.accelerators.get(place).await?;
        let owner = self.take_user(accelerator)?;
        place.make_machine(&self.name, owner)?;
        let cgroup = self.make_group()?;
        let nics = network::plug(place, &brief, owner)?;
        let seed = brief.seed.as_ref().map(|seed| self.write_seed(&brief, seed)).transpose()?;
        self.attach(epoch).await?;
        let mut machine = machine_of(&brief, accelerator, |index| initiator::socket(place, &self.name, index));
        (machine.nics, machine.seed, machine.start) = (nics, seed, start);
        let launch = Launch { qemu, machine, folder: self.folder()?, owner, cgroups: cgroup.into_iter().collect() };
        Vm::start(&launch).await.map_err(|error| error.to_string())
    }

    /// A user of its own for the QEMU that is about to be started, held until that is gone.
    fn take_user(&self, accelerator: Accelerator) -> Result<Option<Owner>, String> {
        let place = &self.shared.place;
        // The former life's first: its own folder keeps nobody from its user.
        self.facts.borrow_mut().user = None;
        let user = place.user(self.name.as_str(), Some(&place.machine(&self.name)))?;
        let owner = place.owner(user.as_ref(), accelerator == Accelerator::Kvm);
        self.facts.borrow_mut().user = user;
        Ok(owner)
    }

    /// Lets a guest run that was loaded, or stopped by an error.
    pub(super) async fn cont(self: &Rc<Self>, epoch: Epoch) -> Result<(), String> {
        if self.vm().is_none() || self.epoch() != Some(epoch) {
            return Ok(());
        }
        if matches!(self.state(), State::Loaded | State::Stopped | State::PostMigrate | State::Running) {
            return self.go_on().await;
        }
        Ok(())
    }

    /// `cont`, with the dead-man's leave and all volumes attached.
    pub(super) async fn go_on(&self) -> Result<(), String> {
        let vm = loop {
            self.leave_given().await;
            let (Some(vm), Some(epoch)) = (self.vm(), self.epoch()) else { return Ok(()) };
            let brief = self.facts.borrow().memory.brief.clone();
            if let Err(why) = initiator::attached(&self.shared.place, &brief, epoch).await {
                // It stays as it is and says why; whoever asks again lets it go on.
                self.because(Some(why));
                return Ok(());
            }
            // The initiator may have taken its time, and the lease have ended.
            if deadman::leave(&self.shared.place).await == Leave::Given {
                break vm;
            }
        };
        vm.qmp().run(Cont {}, COMMAND_MAX).await.map_err(|error| error.to_string())?;
        let runs = vm.running(RUNNING_MAX).await;
        if self.facts.borrow().resumed.is_some() {
            // It ran: what became of it since is told by who watches it.
            return Ok(());
        }
        runs.map_err(|error| error.to_string())?;
        self.because(None);
        Ok(())
    }

    /// Waits until the dead-man lets guests run.
    pub(super) async fn leave_given(&self) {
        while let Leave::Withheld(why) = deadman::leave(&self.shared.place).await {
            self.facts.borrow_mut().paused = true;
            self.because(Some(why));
            tokio::time::sleep(LEAVE_AGAIN).await;
        }
        if std::mem::take(&mut self.facts.borrow_mut().paused) {
            self.because(None);
            self.changed();
        }
    }

    /// An order is newer than what is here, so its epoch is not lower.
    pub(super) fn not_newer(&self, epoch: Epoch) -> Result<(), String> {
        match self.epoch() {
            Some(held) if held > epoch => Err(format!("it is at {held} here, which is newer than {epoch}")),
            _ => Ok(()),
        }
    }

    fn write_seed(&self, brief: &Brief, seed: &BriefSeed) -> Result<PathBuf, String> {
        let path = self.shared.place.machine(&self.name).join("seed.img");
        seed_of(&brief.uuid, seed).write(&path).map_err(|error| error.to_string())?;
        Ok(path)
    }
}

/// What QEMU is asked for, but for what is made on this host: interfaces and the seed.
pub fn machine_of(brief: &Brief, accelerator: Accelerator, socket: impl Fn(usize) -> PathBuf) -> Machine {
    let mut machine = Machine::new(brief.vm.as_str(), &brief.uuid, brief.memory_mib, accelerator);
    (machine.vcpus, machine.cpu, machine.boot) = (brief.vcpus, brief.cpu.clone(), Boot::Disk);
    let delay_s = initiator::HOLD.0 / 1000 + RECONNECT_MORE_S;
    let disk = |(index, disk): (usize, &crate::peer::BriefDisk)| Disk {
        serial: disk.serial.clone(),
        socket: socket(index),
        export: disk.volume.to_string(),
        reconnect_delay_s: u32::try_from(delay_s).expect("minutes"),
    };
    machine.disks = brief.disks.iter().enumerate().map(disk).collect();
    machine
}

/// What its first boot is told.
pub fn seed_of(uuid: &str, seed: &BriefSeed) -> Seed {
    Seed {
        instance_id: uuid.to_owned(),
        hostname: seed.hostname.clone(),
        ssh_keys: seed.ssh_keys.clone(),
        user_data: seed.user_data.clone(),
        network_config: seed.network_config.clone(),
        files: seed.files.clone(),
    }
}
