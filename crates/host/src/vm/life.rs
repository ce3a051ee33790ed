//! The life of a machine: start, adopt, run, stop, end.

use super::argv::argv;
use super::cgroup::Cgroup;
use super::folder::{Folder, Monitor};
use super::machine::Machine;
use super::monitor::{Heard, MonitorError, Qmp};
use super::process::{How, Process};
use super::spawn::{Limits, Program};
use super::{VmError, console};
use crate::runtime::now;
use rustix::process::Signal;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use units::{Millis, Moment};
use wire::qmp::{Cont, EventKind, QueryStatus, Quit, RunState, StatusInfo, SystemPowerdown};

/// From exec to a monitor that speaks: 0.3 s alone, a few seconds where the machine is busy.
const START_MAX: Millis = Millis(20_000);
/// An ordinary command takes well under a millisecond; QEMU's main loop may be busy with a slow disk for a while.
const COMMAND_MAX: Millis = Millis(5000);
/// A killed process that is not gone by then hangs in the kernel, in a disk or a network.
const KILL_MAX: Millis = Millis(5000);
/// From a closed connection to the end of its process, at most.
const DYING_MAX: Duration = Duration::from_secs(1);
/// How long a guest has to keep running after `cont` to count: a disk that still fails stops it again at once.
const STAYS_RUNNING: Duration = Duration::from_millis(150);

/// User and group of a QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group; that of `/dev/kvm`, where KVM is used.
    pub gid: u32,
}

/// A machine to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// QEMU.
    pub qemu: PathBuf,
    /// What.
    pub machine: Machine,
    /// Where.
    pub folder: Folder,
    /// As whom; `None` is as ourselves, unless that is root.
    pub owner: Option<Owner>,
    /// Into which control groups: one of v2, or one for each controller of v1.
    pub cgroups: Vec<Cgroup>,
}

/// QEMU ended, and what it said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub how: How,
    /// The end of its log.
    pub log_tail: String,
}

impl std::error::Error for Ended {}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QEMU {}", self.how)?;
        match self.log_tail.as_str() {
            "" => Ok(()),
            tail => write!(f, "; its last words: {tail}"),
        }
    }
}

/// How long a stop may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For the guest, after its power button was pressed; zero pulls the plug.
    pub guest: Millis,
    /// For QEMU to end after `quit`, before it is killed.
    pub quit: Millis,
}

/// How a stop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The guest powered off.
    ByGuest,
    /// The guest did not, so QEMU was told to end.
    ByQuit,
    /// QEMU did not either, so it was killed.
    ByKill,
    /// It had ended already.
    Before,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ByGuest => "the guest shut down",
            Self::ByQuit => "the guest did not shut down in time, its QEMU was told to end",
            Self::ByKill => "its QEMU did not end in time and was killed",
            Self::Before => "its QEMU had ended already",
        })
    }
}

/// A machine that runs in a QEMU. Dropping it leaves the QEMU alone.
#[derive(Debug)]
pub struct Vm {
    folder: Folder,
    process: Process,
    qmp: Qmp,
}

impl Vm {
    /// Starts a machine, and returns once QEMU listens to commands.
    ///
    /// # Errors
    /// If it cannot be, runs already, or QEMU ended; no QEMU is left behind.
    pub async fn start(launch: &Launch) -> Result<Self, VmError> {
        let folder = &launch.folder;
        let arguments = argv(&launch.machine, folder)?;
        if let Some(process) = find(folder)? {
            let folder = folder.path().display().to_string();
            return Err(VmError::Running { pid: process.identity().pid, folder });
        }
        refuse_root(launch.owner)?;
        folder.make(launch.owner)?;
        folder.sweep();
        let program = Program {
            program: launch.qemu.clone(),
            arguments: arguments.into_iter().map(OsString::from).collect(),
            talk: None,
            log: folder.open_log()?,
            owner: launch.owner,
            folder: Some(folder.open()?),
            cgroups: launch.cgroups.iter().map(Cgroup::procs).collect::<Result<_, _>>()?,
            environment: Vec::new(),
            ends_with_us: false,
            limits: Some(Limits { file_bytes: console::LOG_MAX }),
        };
        let starting = |source| VmError::io(format!("starting {}", launch.qemu.display()), source);
        let mut child = program.start().map_err(starting)?;
        let found = Process::of_child(&mut child).map_err(starting)?;
        let Some(process) = found else {
            let status = child.wait().map_err(starting)?;
            let how = status.code().map_or(How::Signalled(status.signal().unwrap_or_default()), How::Exited);
            return Err(Ended { how, log_tail: folder.log_tail() }.into());
        };
        // From here on nothing may be left behind: the note, or the end.
        let noted = folder.note(process.identity());
        let met = match noted {
            Ok(()) => meet(folder, &process, START_MAX).await,
            Err(error) => Err(error),
        };
        match met {
            Ok(qmp) => Ok(Self { folder: folder.clone(), process, qmp }),
            Err(error) => {
                put_down(&process).await?;
                folder.sweep();
                Err(error)
            }
        }
    }

    /// The machine that runs in `folder`, started by a former life of ours; `None` if there is none.
    ///
    /// # Errors
    /// If there is a QEMU but it does not listen; [`Vm::process_in`] can still end it.
    pub async fn adopt(folder: &Folder) -> Result<Option<Self>, VmError> {
        let Some(process) = find(folder)? else { return Ok(None) };
        folder.note(process.identity())?;
        let qmp = meet(folder, &process, START_MAX).await?;
        Ok(Some(Self { folder: folder.clone(), process, qmp }))
    }

    /// The QEMU of `folder`, whether or not it listens.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn process_in(folder: &Folder) -> Result<Option<Process>, VmError> {
        find(folder)
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Commands and events.
    #[must_use]
    pub fn qmp(&self) -> &Qmp {
        &self.qmp
    }

    /// A connection to the second monitor, for commands out of band.
    ///
    /// # Errors
    /// If there is none within `limit`.
    pub async fn out_of_band(&self, limit: Millis) -> Result<Qmp, MonitorError> {
        Qmp::connect(&self.folder.monitor(Monitor::OutOfBand), true, limit).await
    }

    /// Another connection in the place of one that ended or hangs; clones of the old one are closed.
    ///
    /// # Errors
    /// If there is none within `limit`.
    pub async fn reconnect(&mut self, limit: Millis) -> Result<(), MonitorError> {
        self.qmp.close();
        self.qmp = Qmp::connect(&self.folder.monitor(Monitor::Node), false, limit).await?;
        Ok(())
    }

    /// What the guest does.
    ///
    /// # Errors
    /// If QEMU does not say.
    pub async fn status(&self) -> Result<StatusInfo, MonitorError> {
        self.qmp.run(QueryStatus {}, COMMAND_MAX).await
    }

    /// Waits until the guest runs; the moment we heard of it.
    ///
    /// # Errors
    /// If it does not within `limit`, or QEMU ended.
    pub async fn running(&self, limit: Millis) -> Result<Moment, VmError> {
        let mut events = self.qmp.events();
        let resumed = async {
            loop {
                if self.status().await?.running {
                    return Ok(now());
                }
                match events.recv().await {
                    Ok(Heard { at, event }) if event.kind == EventKind::Resume => return Ok(at),
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Err(MonitorError::Closed { command: "cont" }.into()),
                }
            }
        };
        self.unless_it_ends(limit, "waiting for the guest to run", resumed).await
    }

    /// Lets a stopped guest go on, again and again while its disk still fails, until it stays running.
    ///
    /// # Errors
    /// If it does not within `limit`, or QEMU ended.
    pub async fn resume(&self, limit: Millis) -> Result<(), VmError> {
        let attempts = async {
            loop {
                self.qmp.run(Cont {}, COMMAND_MAX).await?;
                tokio::time::sleep(STAYS_RUNNING).await;
                if self.status().await?.running {
                    return Ok(());
                }
            }
        };
        self.unless_it_ends(limit, "resuming the guest", attempts).await
    }

    /// Waits until QEMU ends. A guest that powered off leaves it in [`RunState::Shutdown`], which does not end it.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn ended(&self) -> Result<Ended, VmError> {
        last_words(&self.folder, self.process.ended().await)
    }

    /// Ends the machine: the power button, then `quit`, then a kill. Nothing is left of it then but its logs.
    ///
    /// # Errors
    /// If QEMU hangs in the kernel: it still lives, though it runs no guest code any more once it was killed.
    pub async fn shutdown(&self, patience: Patience) -> Result<Stopped, VmError> {
        let stopped = if self.has_ended()? {
            Stopped::Before
        } else {
            let by_guest = self.power_down(patience.guest).await;
            match self.quit(patience.quit).await? {
                true if by_guest => Stopped::ByGuest,
                true => Stopped::ByQuit,
                false => {
                    self.kill().await?;
                    Stopped::ByKill
                }
            }
        };
        self.folder.sweep();
        Ok(stopped)
    }

    /// Kills QEMU and waits until it is gone. In a frozen control group of v1 a kill waits for the thaw: use
    /// [`Cgroup::kill`] there.
    ///
    /// # Errors
    /// If it hangs in the kernel.
    pub async fn kill(&self) -> Result<(), VmError> {
        put_down(&self.process).await
    }

    fn has_ended(&self) -> Result<bool, VmError> {
        let ended = self.process.has_ended().map_err(|source| VmError::io("asking for QEMU".into(), source))?;
        Ok(ended.is_some())
    }

    /// Presses the power button; whether the guest powered off within `limit`. A guest that is stopped cannot.
    async fn power_down(&self, limit: Millis) -> bool {
        let mut events = self.qmp.events();
        let off = async {
            let status = self.status().await.ok()?;
            if status.status == RunState::Shutdown {
                return Some(());
            }
            if !status.running {
                return None;
            }
            self.qmp.run(SystemPowerdown {}, COMMAND_MAX).await.ok()?;
            loop {
                match events.recv().await {
                    Ok(heard) if matches!(heard.event.kind, EventKind::Shutdown { guest: true, .. }) => return Some(()),
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) => {
                        if self.status().await.ok()?.status == RunState::Shutdown {
                            return Some(());
                        }
                    }
                    Err(RecvError::Closed) => return None,
                }
            }
        };
        limit > Millis(0) && tokio::time::timeout(limit.into(), off).await.is_ok_and(|off| off.is_some())
    }

    /// Tells QEMU to end; whether it did within `limit`.
    async fn quit(&self, limit: Millis) -> Result<bool, VmError> {
        let quit = async {
            // It may end before it answers; a lost connection is not what counts, the process is.
            let _ = self.qmp.run(Quit {}, limit).await;
            self.ended().await
        };
        tokio::time::timeout(limit.into(), quit).await.map_or(Ok(false), |ended| ended.map(|_| true))
    }

    async fn unless_it_ends<T>(
        &self,
        limit: Millis,
        what: &str,
        work: impl Future<Output = Result<T, VmError>>,
    ) -> Result<T, VmError> {
        let either = async {
            tokio::select! {
                biased;
                ended = self.ended() => Err(ended?.into()),
                done = work => done,
            }
        };
        let late = |_| VmError::Deadline { what: what.to_owned(), limit };
        match tokio::time::timeout(limit.into(), either).await.map_err(late)? {
            Err(VmError::Monitor(MonitorError::Closed { .. })) if ends_soon(&self.process).await => {
                Err(self.ended().await?.into())
            }
            done => done,
        }
    }
}

/// A QEMU that its guest has taken over must not be root.
fn refuse_root(owner: Option<Owner>) -> Result<(), VmError> {
    let uid = owner.map_or_else(|| rustix::process::geteuid().as_raw(), |owner| owner.uid);
    let what = "QEMU is not run as root: it needs a user of its own".to_owned();
    if uid == 0 { Err(VmError::Description { what }) } else { Ok(()) }
}

/// The process of `folder` that is alive; nobody else's, whatever the folder's user may have noted there.
fn find(folder: &Folder) -> Result<Option<Process>, VmError> {
    let looking = |source| VmError::io(format!("looking for the QEMU of {}", folder.path().display()), source);
    let Some(identity) = folder.identity().map_err(looking)? else { return Ok(None) };
    let Some(process) = Process::find(&identity).map_err(looking)? else { return Ok(None) };
    let ours = folder.may_be_of(process.identity().pid).map_err(looking)?;
    Ok(ours.then_some(process))
}

/// A connection to the node's monitor, unless QEMU ends first.
async fn meet(folder: &Folder, process: &Process, limit: Millis) -> Result<Qmp, VmError> {
    let socket = folder.monitor(Monitor::Node);
    tokio::select! {
        biased;
        how = process.ended() => Err(last_words(folder, how)?.into()),
        qmp = Qmp::connect(&socket, false, limit) => match qmp {
            Err(MonitorError::Closed { .. }) if ends_soon(process).await => {
                Err(last_words(folder, process.ended().await)?.into())
            }
            qmp => Ok(qmp?),
        },
    }
}

/// A connection breaks a moment before its process is gone: say the reason, not the symptom.
async fn ends_soon(process: &Process) -> bool {
    tokio::time::timeout(DYING_MAX, process.ended()).await.is_ok()
}

fn last_words(folder: &Folder, how: io::Result<How>) -> Result<Ended, VmError> {
    let how = how.map_err(|source| VmError::io("waiting for QEMU".into(), source))?;
    Ok(Ended { how, log_tail: folder.log_tail() })
}

async fn put_down(process: &Process) -> Result<(), VmError> {
    let failed = |source| VmError::io(format!("killing process {}", process.identity().pid), source);
    process.signal(Signal::KILL).map_err(failed)?;
    let late =
        |_| VmError::Deadline { what: format!("the end of process {}", process.identity().pid), limit: KILL_MAX };
    tokio::time::timeout(KILL_MAX.into(), process.ended()).await.map_err(late)?.map_err(failed)?;
    Ok(())
}
