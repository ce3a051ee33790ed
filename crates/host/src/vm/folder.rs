//! The runtime folder of one machine: what QEMU puts there, and who it is, so that a successor of ours finds it.
//!
//! ```text
//! qemu.pid      QEMU's own; it keeps a lock on it for its life, so a second QEMU in the same folder ends at once
//! process       who QEMU is: pid, start time, boot id (a pid alone may be somebody else's by now)
//! node.sock     monitor of the control plane            oob.sock       its second one, for out-of-band commands
//! deadman.sock  monitor of the dead-man                 console.sock   serial console
//! console.log   what the guest said there               qemu.log       what QEMU said
//! paused-by-deadman   the dead-man stopped this guest, and lets it go on
//! ```

use super::process::{Identity, read_of};
use super::{Owner, VmError};
use crate::replace::{Outlives, replace};
use crate::users::is_gone;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A monitor of a machine; each accepts one connection at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Monitor {
    /// The control plane's.
    Node,
    /// The control plane's second one, which is free when the first one hangs in a command.
    OutOfBand,
    /// The dead-man's.
    Deadman,
}

impl Monitor {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Node, Self::OutOfBand, Self::Deadman];

    /// Its name, also on QEMU's command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::OutOfBand => "oob",
            Self::Deadman => "deadman",
        }
    }
}

/// How much of a log is shown with an error.
const TAIL_BYTES: u64 = 2048;
/// A note is a line or two.
const NOTE_MAX_BYTES: u64 = 4096;
/// A socket's name in the folder is at most this long; with it the path has to fit `sun_path` (108 with its end).
const SOCKET_NAME_MAX: usize = "/deadman.sock".len();

/// The runtime folder of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at `path`.
    ///
    /// # Errors
    /// If the path is not absolute, not UTF-8, or too long for the sockets in it.
    pub fn new(path: &Path) -> Result<Self, VmError> {
        let text = path.to_str().filter(|text| text.starts_with('/') && text.len() + SOCKET_NAME_MAX < 108);
        let what = || format!("{}: not an absolute path that leaves room for a socket's name", path.display());
        text.map(|text| Self(text.into())).ok_or_else(|| VmError::Description { what: what() })
    }

    /// Makes the folder, for its owner only. One that was another's is handed over: no process of its user may live any more.
    ///
    /// # Errors
    /// What the system said.
    pub fn make(&self, owner: Option<Owner>) -> Result<(), VmError> {
        let doing = |source| VmError::io(format!("making {}", self.0.display()), source);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(doing)?;
        match owner {
            Some(owner) if self.owner()? != owner => self.hand_over(owner).map_err(doing),
            _ => Ok(()),
        }
    }

    /// Whose it is: the user that its QEMU runs as.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn owner(&self) -> Result<Owner, VmError> {
        let facts = std::fs::symlink_metadata(&self.0);
        let facts = facts.map_err(|source| VmError::io(format!("looking at {}", self.0.display()), source))?;
        Ok(Owner { uid: facts.uid(), gid: facts.gid() })
    }

    /// The folder first, which keeps the former user out. Of what that user left, plain files with this one name are given to the new
    /// one (logs, and the pid file with its lock); anything else, a link to a file of ours say, is removed.
    fn hand_over(&self, owner: Owner) -> io::Result<()> {
        std::os::unix::fs::chown(&self.0, Some(owner.uid), Some(owner.gid))?;
        for entry in std::fs::read_dir(&self.0)? {
            let path = entry?.path();
            if crate::users::give(&path, owner.uid, owner.gid).is_ok() {
                continue;
            }
            if std::fs::symlink_metadata(&path)?.is_dir() {
                std::fs::remove_dir_all(&path)?;
            } else {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// The folder itself, for a program that will run in it.
    pub(super) fn open(&self) -> Result<OwnedFd, VmError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&self.0, flags, Mode::empty());
        opened.map_err(|source| VmError::io(format!("opening {}", self.0.display()), source.into()))
    }

    /// A path as QEMU names it, which runs in the folder: what lies above need not be open to its user.
    pub(super) fn name_of<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.0).unwrap_or(path)
    }

    /// The folder's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A monitor's socket.
    #[must_use]
    pub fn monitor(&self, monitor: Monitor) -> PathBuf {
        self.0.join(format!("{}.sock", monitor.word()))
    }

    /// The serial console's socket.
    #[must_use]
    pub fn console(&self) -> PathBuf {
        self.0.join("console.sock")
    }

    /// What the guest said on its console.
    #[must_use]
    pub fn console_log(&self) -> PathBuf {
        self.0.join("console.log")
    }

    /// What QEMU said.
    #[must_use]
    pub fn qemu_log(&self) -> PathBuf {
        self.0.join("qemu.log")
    }

    /// QEMU's own pid file.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.0.join("qemu.pid")
    }

    /// Opens QEMU's log for it; the last life's is kept as `qemu.log.old`.
    pub(super) fn open_log(&self) -> Result<File, VmError> {
        let path = self.qemu_log();
        if path.exists() {
            let _ = std::fs::rename(&path, self.0.join("qemu.log.old"));
        }
        // QEMU gets what we open: through a link of its user's that could be any file of ours.
        let flags = i32::try_from(OFlags::NOFOLLOW.bits()).expect("a flag of the kernel's");
        let opened = OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(flags).open(&path);
        opened.map_err(|source| VmError::io(format!("opening {}", path.display()), source))
    }

    /// The end of QEMU's log, fit to be shown.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.qemu_log()).unwrap_or_default()
    }

    /// Who QEMU is, as it was noted; else as QEMU's own pid file says, if that process runs in this very folder: we
    /// may have died between starting QEMU and the note.
    ///
    /// An error is not an absence: it may live.
    pub(super) fn identity(&self) -> io::Result<Option<Identity>> {
        if let Some(identity) = self.read_note("process")?.and_then(|text| Identity::parse(&text)) {
            return Ok(Some(identity));
        }
        let noted = self.read_note("qemu.pid")?.and_then(|text| text.trim().parse().ok());
        let Some(pid) = noted else { return Ok(None) };
        let Some(identity) = Identity::of(pid)? else { return Ok(None) };
        let here = self.is_where_it_works(pid)? || self.is_named_by(pid)?;
        Ok(here.then_some(identity))
    }

    /// Source: proc_pid_cwd(5): it leads to the folder itself, whatever its name.
    fn is_where_it_works(&self, pid: i32) -> io::Result<bool> {
        let works_in = match std::fs::metadata(format!("/proc/{pid}/cwd")) {
            Err(error) if is_gone(&error) => return Ok(false),
            // Another user's, and we are not root: none of ours.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(false),
            facts => facts?,
        };
        let ours = std::fs::symlink_metadata(&self.0)?;
        Ok((works_in.dev(), works_in.ino()) == (ours.dev(), ours.ino()))
    }

    /// An earlier muskox named the folder on QEMU's command line.
    fn is_named_by(&self, pid: i32) -> io::Result<bool> {
        let Some(arguments) = read_of(pid, "cmdline")? else { return Ok(false) };
        let ours = self.pid_file();
        let ours = ours.to_str().expect("a folder's path is UTF-8");
        Ok(arguments.split('\0').any(|argument| argument == ours))
    }

    /// Whether this process may be the folder's: it runs as the folder's user. What the folder says of itself is written by
    /// that user, and must not point us at anybody else's process; at its own it could send signals without us.
    ///
    /// Not by the command line: reading that waits for the process's memory, which may wait for a disk. Source: `proc(5)`.
    ///
    /// # Errors
    /// The kernel does not say; it may be.
    pub fn may_be_of(&self, pid: i32) -> io::Result<bool> {
        let Some(status) = read_of(pid, "status")? else { return Ok(false) };
        let uid = |line: &str| line.strip_prefix("Uid:")?.split_ascii_whitespace().next()?.parse().ok();
        let user: Option<u32> = status.lines().find_map(uid);
        match std::fs::symlink_metadata(&self.0) {
            Ok(meta) => Ok(user == Some(meta.uid())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Notes who QEMU is: whole or not at all.
    pub(super) fn note(&self, identity: &Identity) -> Result<(), VmError> {
        let noted = self.write_note("process", &identity.to_string());
        noted.map_err(|source| VmError::io(format!("noting QEMU's process in {}", self.0.display()), source))
    }

    /// A small text of this folder. The folder is QEMU's user's, and a guest may have taken that over: no link is
    /// followed, no pipe waited for, nothing long read: what is none of our notes is no note.
    ///
    /// # Errors
    /// It cannot be read: too many files are open, the disk fails. There may be one.
    pub fn read_note(&self, name: &str) -> io::Result<Option<String>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = match rustix::fs::open(self.0.join(name), flags, Mode::empty()) {
            Ok(opened) => opened,
            // ENXIO: a socket.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = Vec::new();
        match File::from(opened).take(NOTE_MAX_BYTES).read_to_end(&mut bytes) {
            Ok(_) => Ok(String::from_utf8(bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces a small text of this folder: whole or not at all, for as long as the machine is up.
    ///
    /// # Errors
    /// What the system said.
    pub fn write_note(&self, name: &str, text: &str) -> io::Result<()> {
        replace(&self.0.join(name), text.as_bytes(), 0o600, Outlives::Process)
    }

    /// Forgets a life that is over, but for its logs. Only for whoever knows that the process is gone.
    pub fn sweep(&self) {
        let sockets = Monitor::ALL.map(|monitor| self.monitor(monitor));
        // Not the pid file: the lock that keeps a second QEMU out is on it.
        let others = [self.console(), self.0.join("process")];
        for path in sockets.iter().chain(&others) {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn tail(path: &Path) -> std::io::Result<String> {
    use std::io::Seek;
    let mut file = File::open(path)?;
    let len_bytes = file.metadata()?.len();
    file.seek(std::io::SeekFrom::Start(len_bytes.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let shown = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    Ok(text.trim_end().chars().map(shown).collect())
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: a folder cannot name a process of another user. Method: a folder of this user, and one of nobody's.
    #[test]
    fn a_process_of_another_user_is_not_of_this_folder() {
        let me = i32::try_from(std::process::id()).unwrap();
        let dir = std::env::temp_dir().join(format!("muskox-group-{me}"));
        std::fs::create_dir_all(&dir).unwrap();
        let folder = Folder::new(&dir).unwrap();
        assert!(folder.may_be_of(me).unwrap());
        let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        if is_root {
            std::os::unix::fs::chown(&dir, Some(65_534), None).unwrap();
        }
        assert_eq!(folder.may_be_of(me).unwrap(), !is_root);
        std::fs::remove_dir_all(dir).unwrap();
        assert!(!folder.may_be_of(me).unwrap());
    }

    /// What tells the second process of the next test what it is.
    const FEW_FILES: &str = "MUSKOX_TEST_FEW_FILES";

    /// B5. Goal: that a process cannot be looked for, because too many files are open, is an error and not an absence. Method: the
    /// note of a process that lives, and one that is missing; a second process that may open no file looks for both.
    #[test]
    fn too_many_open_files_are_no_absence() {
        if let Some(dir) = std::env::var_os(FEW_FILES) {
            return look_with_few_files(Path::new(&dir));
        }
        let dir = std::env::temp_dir().join(format!("muskox-few-files-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let me = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap().unwrap();
        std::fs::write(dir.join("process"), me.to_string()).unwrap();
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "vm::folder::test::too_many_open_files_are_no_absence", "--nocapture"]);
        let done = again.env(FEW_FILES, &dir).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&[done.stdout, done.stderr].concat()));
        std::fs::remove_dir_all(dir).unwrap();
    }

    fn look_with_few_files(dir: &Path) {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let folder = Folder::new(dir).unwrap();
        let daemon = crate::vm::Daemon {
            program: "/bin/true".into(),
            arguments: vec!["none".into()],
            environment: Vec::new(),
            note: dir.join("missing"),
            log: dir.join("log"),
            cgroups: Vec::new(),
        };
        assert!(crate::vm::Vm::process_in(&folder).unwrap().is_some(), "with files enough it is found");
        assert!(daemon.find().unwrap().is_none());
        let me = i32::try_from(std::process::id()).unwrap();
        setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum: Some(0) }).unwrap();
        assert!(folder.read_note("process").is_err());
        assert!(crate::vm::Vm::process_in(&folder).is_err());
        assert!(Identity::of(me).is_err() && folder.may_be_of(me).is_err());
        assert!(daemon.find().is_err());
    }
}
