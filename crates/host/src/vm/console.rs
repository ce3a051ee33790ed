//! The serial console: a socket for one visitor at a time, and a log of bounded length.

use super::VmError;
use super::folder::Folder;
use crate::users::connect_to_owner;
use rustix::fs::{Mode, OFlags};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

/// The longest a log may be. QEMU has it as RLIMIT_FSIZE, so it holds also while nobody trims; what the guest says
/// beyond is not recorded until somebody does.
pub(super) const LOG_MAX: u64 = 4 << 20;
/// From this length on a log is trimmed.
const TRIM_FROM: u64 = 1 << 20;
const COPY_BYTES: usize = 64 << 10;
/// Ctrl-]: leaves a console, as in telnet and `virsh console`.
pub const DETACH: u8 = 0x1d;

/// Connects to the console of the machine in `folder`. A second visitor waits until the first has left.
///
/// # Errors
/// If no machine runs there.
pub async fn attach(folder: &Folder) -> Result<UnixStream, VmError> {
    let path = folder.console();
    let connected = connect_to_owner(&path).await;
    connected.map_err(|source| VmError::io(format!("connecting to the console {}", path.display()), source))
}

/// Carries bytes between a visitor and a console, until the visitor sends [`DETACH`] or ends, or the console ends.
///
/// # Errors
/// If one of them fails.
pub async fn pump(
    console: UnixStream,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let (mut said, mut heard) = console.into_split();
    let typing = async {
        let mut bytes = [0; 1024];
        loop {
            let len = from.read(&mut bytes).await?;
            let typed = &bytes[..len];
            let leaves = typed.iter().position(|byte| *byte == DETACH);
            heard.write_all(&typed[..leaves.unwrap_or(len)]).await?;
            if leaves.is_some() || len == 0 {
                return Ok(());
            }
        }
    };
    let showing = async {
        let mut bytes = [0; 4096];
        loop {
            let len = said.read(&mut bytes).await?;
            if len == 0 {
                return Ok(());
            }
            to.write_all(&bytes[..len]).await?;
            to.flush().await?;
        }
    };
    tokio::select! {
        done = typing => done,
        done = showing => done,
    }
}

/// Moves what a log holds to `NAME.old` once it has grown long, in the place of what was there, and begins the log anew. The
/// writer appends, so it goes on in the new one. Everything said before the cut is in the log or in `NAME.old`, but for what
/// comes in the microseconds between the last look and the cut.
///
/// The folder is QEMU's user's, and a guest may have taken that over: no link is followed, no pipe waited for, no file cut
/// that has another name too, and not more copied than a log may hold.
///
/// # Errors
/// If the log is not a plain file of its own, or the folder or the disk refuses.
pub fn trim_log(log: &Path) -> io::Result<bool> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(log, flags, Mode::empty()) {
        Ok(opened) => File::from(opened),
        Err(rustix::io::Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let facts = file.metadata()?;
    if !facts.is_file() || facts.nlink() != 1 {
        return Err(io::Error::other("it is not a plain file with one name: remove it, it is none of muskox's"));
    }
    if facts.len() < TRIM_FROM {
        return Ok(false);
    }
    let beside = |suffix: &str| {
        let mut name = log.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let (new, old) = (beside(".new"), beside(".old"));
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // `create_new` opens nothing that is there, and follows no link.
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let copied = copy_from(&file, 0, &mut copy)?;
    std::fs::rename(&new, &old)?;
    copy_from(&file, copied, &mut copy)?;
    file.set_len(0)?;
    Ok(true)
}

/// Copies what a log holds from `at` on; returns where it ended.
fn copy_from(log: &File, mut at: u64, to: &mut File) -> io::Result<u64> {
    let mut bytes = vec![0; COPY_BYTES];
    while at < LOG_MAX {
        let len = log.read_at(&mut bytes, at)?;
        if len == 0 {
            break;
        }
        to.write_all(&bytes[..len])?;
        at += len as u64;
    }
    Ok(at)
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: a visitor's bytes arrive up to Ctrl-], the console's all. Method: a socket pair as console.
    #[tokio::test]
    async fn a_visitor_leaves_by_ctrl_bracket() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"login: ").await.unwrap();
        let (mut keyboard, typed) = UnixStream::pair().unwrap();
        let (mut screen, shown) = UnixStream::pair().unwrap();
        let visit = tokio::spawn(pump(ours, typed, shown));
        let mut bytes = [0; 7];
        screen.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"login: ");
        keyboard.write_all(b"ro\x1dot").await.unwrap();
        visit.await.unwrap().unwrap();
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"ro");
    }

    /// A folder that is gone in the end.
    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn scratch(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("muskox-console-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    /// CA14: goal: nothing that was said is lost while a log is trimmed again and again. Method: a writer that appends numbered
    /// lines, as QEMU does; whatever `.old` and the log hold is collected after each cut. The writer waits around a cut, as
    /// no cut promises its own microseconds.
    #[test]
    fn what_was_said_before_a_cut_is_kept() {
        let scratch = scratch("kept");
        let (log, old) = (scratch.0.join("console.log"), scratch.0.join("console.log.old"));
        let mut writer = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let (mut said, mut kept, mut number) = (String::new(), String::new(), 0);
        for _ in 0..3 {
            while std::fs::metadata(&log).unwrap().len() < TRIM_FROM {
                let line = format!("line {number} {}\n", "x".repeat(500));
                writer.write_all(line.as_bytes()).unwrap();
                said.push_str(&line);
                number += 1;
            }
            assert!(trim_log(&log).unwrap());
            assert!(!trim_log(&log).unwrap(), "a short log stays");
            kept.push_str(&std::fs::read_to_string(&old).unwrap());
        }
        writer.write_all(b"the last line\n").unwrap();
        kept.push_str(&std::fs::read_to_string(&log).unwrap());
        assert!(kept == said + "the last line\n", "{} bytes of {number} lines", kept.len());
        assert!(!scratch.0.join("console.log.new").exists());
    }

    /// CA14's sibling: goal: a guest that took over its QEMU has us write into, or cut, no file of ours. Method: links and a pipe
    /// in the places of the log and of what is made of it.
    #[test]
    fn no_link_is_followed_by_a_trim() {
        let scratch = scratch("links");
        let (log, ours) = (scratch.0.join("console.log"), scratch.0.join("ours"));
        let long = vec![b'x'; usize::try_from(TRIM_FROM).unwrap()];
        std::fs::write(&ours, &long).unwrap();
        std::os::unix::fs::symlink(&ours, &log).unwrap();
        assert!(trim_log(&log).is_err(), "a link");
        std::fs::remove_file(&log).unwrap();
        std::fs::hard_link(&ours, &log).unwrap();
        assert!(trim_log(&log).unwrap_err().to_string().contains("one name"));
        std::fs::remove_file(&log).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &log, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(trim_log(&log).is_err(), "a pipe");
        std::fs::remove_file(&log).unwrap();
        std::fs::write(&log, &long).unwrap();
        for suffix in ["old", "new"] {
            std::os::unix::fs::symlink(&ours, scratch.0.join(format!("console.log.{suffix}"))).unwrap();
        }
        assert!(trim_log(&log).unwrap());
        assert_eq!(std::fs::read(&ours).unwrap(), long, "ours is as it was");
        assert_eq!(std::fs::read(scratch.0.join("console.log.old")).unwrap(), long);
        assert!(!scratch.0.join("console.log.old").is_symlink());
    }
}
