//! A process that is not taken for another: by pidfd, found again by pid, start time and boot id.

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use std::fmt;
use std::io;
use std::process::Child;
use std::sync::Mutex;
use std::time::Duration;
use units::Millis;

/// A killed process that is not gone by then hangs in the kernel, in a disk or a network.
const KILL_MAX: Duration = Duration::from_secs(5);

/// Who a process is, also after we were restarted. A pid alone may be somebody else's by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`, `proc_pid_stat(5)`).
    pub start_ticks: u64,
    /// Which boot of the machine.
    pub boot_id: String,
}

impl Identity {
    /// Who `pid` is now; `None` if it is nobody, or dead and not yet collected.
    ///
    /// # Errors
    /// The kernel's files cannot be read: too many are open, say. That says nothing about the process.
    pub fn of(pid: i32) -> io::Result<Option<Self>> {
        let Some(stat) = read_of(pid, "stat")? else { return Ok(None) };
        let Some(stat) = Stat::parse(&stat) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat says something else")));
        };
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let alive = !stat.is_dead();
        Ok(alive.then(|| Self { pid, start_ticks: stat.start_ticks, boot_id: boot_id.trim().to_owned() }))
    }

    /// The opposite of its `Display`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let pid = words.next()?.parse().ok()?;
        let start_ticks = words.next()?.parse().ok()?;
        let boot_id = words.next()?.to_owned();
        (words.next().is_none() && pid > 0).then_some(Self { pid, start_ticks, boot_id })
    }
}

/// A file that the kernel has of a process; `None` if there is no such process.
pub(super) fn read_of(pid: i32, name: &str) -> io::Result<Option<String>> {
    match std::fs::read(format!("/proc/{pid}/{name}")) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        // It may end between the opening and the reading.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fields 3, 4 and 22 of `/proc/PID/stat`.
pub(super) struct Stat<'a> {
    state: &'a str,
    /// Whose child it is.
    pub(super) parent: i32,
    /// When it started, in clock ticks since boot.
    pub(super) start_ticks: u64,
}

impl<'a> Stat<'a> {
    /// Reads it. The second field is the program's name in parentheses, which may hold anything, also parentheses.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
        let (state, parent) = (fields.next()?, fields.next()?.parse().ok()?);
        Some(Self { state, parent, start_ticks: fields.nth(17)?.parse().ok()? })
    }

    /// It has ended, and its parent has not collected it.
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, "Z" | "X")
    }
}

/// `PID START_TICKS BOOT_ID`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} {}", self.pid, self.start_ticks, self.boot_id)
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It ended by itself.
    Exited(i32),
    /// A signal ended it.
    Signalled(i32),
    /// It is gone; it was not our child, so nobody told us more.
    Gone,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(0) => write!(f, "ended"),
            Self::Exited(status) => write!(f, "ended with status {status}"),
            Self::Signalled(signal) => write!(f, "was killed by signal {signal}"),
            Self::Gone => write!(f, "is gone (it was started by a former process, so its status is not known)"),
        }
    }
}

/// A process, held so that no signal ever reaches another. Dropping it leaves the process alone.
#[derive(Debug)]
pub struct Process {
    identity: Identity,
    pidfd: OwnedFd,
    ended: Mutex<Option<How>>,
}

impl Process {
    /// The process that `identity` names, if it still lives.
    ///
    /// # Errors
    /// If the kernel refuses a pidfd, or to say who that is: then it may live.
    pub fn find(identity: &Identity) -> io::Result<Option<Self>> {
        let Some(pid) = Pid::from_raw(identity.pid) else { return Ok(None) };
        let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // In this order: were the pid given to another before the pidfd was made, its start time differs; were it
        // given away after, the pidfd still means the one that is gone.
        let same = Identity::of(identity.pid)?.as_ref() == Some(identity);
        Ok(same.then(|| Self { identity: identity.clone(), pidfd, ended: Mutex::new(None) }))
    }

    /// A child that was just started; `None` if it has ended.
    ///
    /// # Errors
    /// If the kernel refuses a pidfd, or to say who that is; the child is gone then.
    pub(super) fn of_child(child: &mut Child) -> io::Result<Option<Self>> {
        let pid = i32::try_from(child.id()).expect("the kernel's pids fit");
        let found = Identity::of(pid).and_then(|it| it.map_or(Ok(None), |identity| Self::find(&identity)));
        if found.is_err() {
            // Nobody could find it again.
            let _ = child.kill();
            let _ = child.wait();
        }
        found
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What names it to the kernel.
    pub(super) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Sends a signal; a process that has ended gets none.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Err(Errno::SRCH) => Ok(()),
            answer => Ok(answer?),
        }
    }

    /// Kills it, and does not wait.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn end_at_once(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// Asks it to end, and kills it if it has not within `patience`. In a frozen control group of v1 a kill waits for the
    /// thaw: use [`super::Cgroup::kill`] there.
    ///
    /// # Errors
    /// If the kernel refuses, or the process hangs in the kernel.
    pub async fn end(&self, patience: Millis) -> io::Result<How> {
        self.signal(Signal::TERM)?;
        if let Ok(how) = tokio::time::timeout(patience.into(), self.ended()).await {
            return how;
        }
        self.signal(Signal::KILL)?;
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it was killed and hangs in the kernel");
        tokio::time::timeout(KILL_MAX, self.ended()).await.map_err(late)?
    }

    /// Waits until it ends, and collects it if it is our child. May be asked again.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub async fn ended(&self) -> io::Result<How> {
        if let Some(how) = self.known() {
            return Ok(how);
        }
        super::spawn::readable(&self.pidfd).await?;
        self.collect()
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn has_ended(&self) -> io::Result<Option<How>> {
        if let Some(how) = self.known() {
            return Ok(Some(how));
        }
        let mut asked = [rustix::event::PollFd::new(&self.pidfd, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        if rustix::event::poll(&mut asked, Some(&now))? == 0 {
            return Ok(None);
        }
        self.collect().map(Some)
    }

    fn known(&self) -> Option<How> {
        *self.ended.lock().expect("nobody panics while holding it")
    }

    fn collect(&self) -> io::Result<How> {
        let mut ended = self.ended.lock().expect("nobody panics while holding it");
        if let Some(how) = *ended {
            return Ok(how);
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let how = match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(status), _) => How::Exited(status),
                (_, Some(signal)) => How::Signalled(signal),
                _ => How::Gone,
            },
            Ok(None) | Err(Errno::CHILD) => How::Gone,
            Err(error) => return Err(error.into()),
        };
        *ended = Some(how);
        Ok(how)
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use std::process::{Command, Stdio};

    fn sleeper() -> (Child, Identity) {
        let child = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap();
        let identity = Identity::of(i32::try_from(child.id()).unwrap()).unwrap().unwrap();
        (child, identity)
    }

    /// Goal: a process is found by its note and by nothing less. Method: a sleeper, its note with each part changed.
    #[test]
    fn a_recycled_pid_is_not_taken_for_the_process() {
        let (mut child, identity) = sleeper();
        assert_eq!(Identity::parse(&identity.to_string()).as_ref(), Some(&identity));
        assert!(Process::find(&identity).unwrap().is_some());
        let other = Identity { start_ticks: identity.start_ticks + 1, ..identity.clone() };
        assert!(Process::find(&other).unwrap().is_none(), "another start time is another process");
        let other = Identity { boot_id: "x".into(), ..identity.clone() };
        assert!(Process::find(&other).unwrap().is_none(), "another boot is another process");
        child.kill().unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while Process::find(&identity).unwrap().is_some() && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(Process::find(&identity).unwrap().is_none(), "dead but not collected is dead");
        child.wait().unwrap();
        for text in ["", "1", "1 2", "0 1 b", "-4 1 b", "1 2 b x", "a 2 b"] {
            assert_eq!(Identity::parse(text), None, "{text}");
        }
    }

    /// Goal: an end is noticed with its reason, told again, and a late signal is harmless.
    #[tokio::test]
    async fn an_end_is_noticed_with_its_reason() {
        let (_child, identity) = sleeper();
        let process = Process::find(&identity).unwrap().unwrap();
        assert_eq!(process.has_ended().unwrap(), None);
        // Two may wait at once.
        let both = async { tokio::join!(process.ended(), process.ended()) };
        assert!(tokio::time::timeout(Duration::from_millis(50), both).await.is_err());
        process.signal(Signal::TERM).unwrap();
        assert_eq!(process.ended().await.unwrap(), How::Signalled(15));
        assert_eq!(process.ended().await.unwrap(), How::Signalled(15));
        assert_eq!(process.has_ended().unwrap(), Some(How::Signalled(15)));
        process.signal(Signal::KILL).unwrap();
        assert!(Process::find(&identity).unwrap().is_none());
    }
}
