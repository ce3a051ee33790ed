//! Unix sockets in the file system: made for their owner alone, cleared away when a killed process left them.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Listens on a socket that only this user may open.
///
/// A socket that nobody listens on is what a killed process leaves; it is replaced. Anything else at `path` stays.
///
/// # Errors
/// `AddrInUse` if somebody listens there already, `AlreadyExists` if something that is no socket is in the way.
pub fn listen(path: &Path) -> io::Result<tokio::net::UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    clear(path)?;
    // Bound under another name, so that nobody can connect before the permissions are right.
    let hidden = path.with_extension(format!("new-{}", std::process::id()));
    clear(&hidden)?;
    let listener = UnixListener::bind(&hidden)?;
    std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&hidden, path)?;
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

fn clear(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(meta) if !meta.file_type().is_socket() => Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            Err(error) => Err(error),
        },
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn run(test: impl FnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { test() });
    }

    /// Goal: a leftover is replaced, a living socket and a file are not. Method: one of each at the same path.
    #[test]
    fn only_leftovers_are_replaced() {
        run(|| {
            let path = std::env::temp_dir().join(format!("muskox-sockets-{}", std::process::id()));
            let first = listen(&path).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            drop(first);
            drop(listen(&path).expect("nobody listens there any more"));
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, "precious").unwrap();
            assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(&path).unwrap(), b"precious");
            std::fs::remove_file(&path).unwrap();
        });
    }
}
