//! The serial console: a socket for one visitor at a time, and a log of bounded length.

use super::VmError;
use super::folder::Folder;
use std::io;
use std::path::Path;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

/// The longest a log may be. QEMU has it as RLIMIT_FSIZE, so it holds also while nobody trims; what the guest says
/// beyond is not recorded until somebody does.
pub(super) const LOG_MAX: u64 = 4 << 20;
/// From this length on a log is trimmed.
const TRIM_FROM: u64 = 1 << 20;
/// Ctrl-]: leaves a console, as in telnet and `virsh console`.
pub const DETACH: u8 = 0x1d;

/// Connects to the console of the machine in `folder`. A second visitor waits until the first has left.
///
/// # Errors
/// If no machine runs there.
pub async fn attach(folder: &Folder) -> Result<UnixStream, VmError> {
    let path = folder.console();
    let connected = UnixStream::connect(&path).await;
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

/// Moves a log that has grown long to `NAME.old`, in the place of the one before, and begins it anew. The writer
/// appends, so it goes on in the new one; what it says during the move may be lost.
///
/// # Errors
/// If the folder or the disk refuses.
pub fn trim_log(log: &Path) -> io::Result<bool> {
    match std::fs::metadata(log) {
        Ok(facts) if facts.len() < TRIM_FROM => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    let mut old = log.as_os_str().to_owned();
    old.push(".old");
    std::fs::copy(log, &old)?;
    std::fs::OpenOptions::new().write(true).open(log)?.set_len(0)?;
    Ok(true)
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
}
