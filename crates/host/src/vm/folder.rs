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

use super::VmError;
use super::process::Identity;
use rustix::fs::{Mode, OFlags};
use std::fs::{File, OpenOptions};
use std::io::Read;
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

    /// Makes the folder, for its owner only.
    pub(super) fn make(&self, owner: Option<(u32, u32)>) -> Result<(), VmError> {
        let doing = |source| VmError::io(format!("making {}", self.0.display()), source);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(doing)?;
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::chown(&self.0, Some(uid), Some(gid)).map_err(doing)?;
        }
        Ok(())
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
    pub(super) fn identity(&self) -> Option<Identity> {
        if let Some(identity) = self.read_note("process").and_then(|text| Identity::parse(&text)) {
            return Some(identity);
        }
        let pid = self.read_note("qemu.pid")?.trim().parse().ok()?;
        let identity = Identity::of(pid)?;
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let ours = self.pid_file();
        let ours = arguments.split(|byte| *byte == 0).any(|argument| argument == ours.as_os_str().as_encoded_bytes());
        ours.then_some(identity)
    }

    /// Whether this process may be the folder's: it runs as the folder's user. What the folder says of itself is written by
    /// that user, and must not point us at anybody else's process; at its own it could send signals without us.
    ///
    /// Not by the command line: reading that waits for the process's memory, which may wait for a disk. Source: `proc(5)`.
    #[must_use]
    pub fn may_be_of(&self, pid: i32) -> bool {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
        let uid = |line: &str| line.strip_prefix("Uid:")?.split_ascii_whitespace().next()?.parse().ok();
        let user: Option<u32> = status.lines().find_map(uid);
        std::fs::symlink_metadata(&self.0).is_ok_and(|meta| user == Some(meta.uid()))
    }

    /// Notes who QEMU is: whole or not at all.
    pub(super) fn note(&self, identity: &Identity) -> Result<(), VmError> {
        let noted = self.write_note("process", &identity.to_string());
        noted.map_err(|source| VmError::io(format!("noting QEMU's process in {}", self.0.display()), source))
    }

    /// A small text of this folder. The folder is QEMU's user's, and a guest may have taken that over: no link is
    /// followed, no pipe waited for, nothing long read.
    #[must_use]
    pub fn read_note(&self, name: &str) -> Option<String> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(self.0.join(name), flags, Mode::empty()).ok()?;
        let mut text = String::new();
        File::from(opened).take(NOTE_MAX_BYTES).read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// Replaces a small text of this folder: whole or not at all, for as long as the machine is up.
    ///
    /// # Errors
    /// What the system said.
    pub fn write_note(&self, name: &str, text: &str) -> std::io::Result<()> {
        let new = self.0.join(format!("{name}.new"));
        let _ = std::fs::remove_file(&new);
        // `create_new` opens nothing that is there, and follows no link.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        std::fs::rename(new, self.0.join(name))
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
        assert!(folder.may_be_of(me));
        let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        if is_root {
            std::os::unix::fs::chown(&dir, Some(65_534), None).unwrap();
        }
        assert_eq!(folder.may_be_of(me), !is_root);
        std::fs::remove_dir_all(dir).unwrap();
        assert!(!folder.may_be_of(me));
    }
}
