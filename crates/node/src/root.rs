//! Where a node's files are, and how they are written: whole or not at all, and secrets for their owner only.

use api::{Code, Problem};
use host::replace::Outlives;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The files of one node; `/` on a real machine, a folder in a rehearsal.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

/// No file of a node is longer.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// The folders and who may look in: guests run as users of their own and have sockets under `run/muskox`; the node's own
/// is its owner's by its mode.
const FOLDERS: [(&str, u32); 3] = [("etc/muskox", 0o700), ("var/lib/muskox", 0o700), ("run/muskox", 0o755)];
/// Secrets.
const OWNER_ONLY: u32 = 0o600;
/// Certificates are no secret.
const READABLE: u32 = 0o644;

impl Root {
    /// The files under `base`.
    #[must_use]
    pub fn new(base: &Path) -> Self {
        Self(base.to_owned())
    }

    /// Who this machine is; written last, so it is there only if everything else is.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.0.join("etc/muskox/node.toml")
    }

    /// This machine's key.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.0.join("etc/muskox/node.key")
    }

    /// The key of a join that has not been answered.
    #[must_use]
    pub fn pending_key(&self) -> PathBuf {
        self.0.join("etc/muskox/join.key")
    }

    /// This machine's certificate, then the CA's.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.0.join("etc/muskox/node.crt")
    }

    /// The CA's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.0.join("etc/muskox/ca.crt")
    }

    /// The CA's key; only where the store is.
    #[must_use]
    pub fn ca_key(&self) -> PathBuf {
        self.0.join("etc/muskox/ca.key")
    }

    /// The store; only on the machine that ran `init`.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.0.join("var/lib/muskox/store.db")
    }

    /// Where the local API answers.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.0.join(api::SOCKET)
    }

    /// What lies below it under this name.
    #[must_use]
    pub fn below(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Sockets and what else ends with the machine's boot.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.0.join("run/muskox")
    }

    /// Where systemd looks for units of the machine's owner.
    #[must_use]
    pub fn units(&self) -> PathBuf {
        self.0.join("etc/systemd/system")
    }

    /// What stays.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.0.join("var/lib/muskox")
    }

    /// Makes the folders, and tries that they can be written to.
    ///
    /// # Errors
    /// [`Code::Files`].
    pub fn make_folders(&self) -> Result<(), Problem> {
        for (folder, mode) in FOLDERS {
            let folder = self.0.join(folder);
            // What lies above is the system's: it keeps the usual mode.
            let above = folder.parent().expect("every folder of a node lies in another");
            let made =
                std::fs::create_dir_all(above).and_then(|()| match DirBuilder::new().mode(mode).create(&folder) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
                    made => made,
                });
            made.map_err(|error| unusable(&folder, "made", &error))?;
            let probe = folder.join(".probe");
            write_new(&probe, b"", OWNER_ONLY).map_err(|error| unusable(&folder, "written to", &error))?;
            std::fs::remove_file(&probe).map_err(|error| unusable(&folder, "written to", &error))?;
        }
        Ok(())
    }

    /// The first of `paths` that exists.
    ///
    /// # Errors
    /// [`Code::Files`] if that cannot be told.
    pub fn first_that_exists(paths: &[PathBuf]) -> Result<Option<&PathBuf>, Problem> {
        for path in paths {
            match std::fs::symlink_metadata(path) {
                Ok(_) => return Ok(Some(path)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(unusable(path, "looked at", &error)),
            }
        }
        Ok(None)
    }
}

/// Reads a text file.
///
/// # Errors
/// [`Code::Files`].
pub fn read_text(path: &Path) -> Result<String, Problem> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MAX_BYTES).read_to_string(&mut text));
    read.map(|_| text).map_err(|error| unusable(path, "read", &error))
}

/// Reads a secret, if it is its owner's only.
///
/// # Errors
/// [`Code::Files`].
pub fn read_secret(path: &Path) -> Result<String, Problem> {
    let mode = std::fs::metadata(path).map_err(|error| unusable(path, "read", &error))?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return read_text(path);
    }
    let text = format!("'{}' may be read by others (mode {mode:04o})", path.display());
    let hint =
        format!("run `chmod 600 '{}'`; if others have read it, make the machine or the cluster anew", path.display());
    Err(Problem::new(Code::Files, text, hint))
}

/// Writes a secret: a new file beside it takes its place, durably.
///
/// # Errors
/// [`Code::Files`].
pub fn write_secret(path: &Path, text: &str) -> Result<(), Problem> {
    replace(path, text, OWNER_ONLY)
}

/// Writes what everybody may read: a new file beside it takes its place, durably.
///
/// # Errors
/// [`Code::Files`].
pub fn write_public(path: &Path, text: &str) -> Result<(), Problem> {
    replace(path, text, READABLE)
}

fn replace(path: &Path, text: &str, mode: u32) -> Result<(), Problem> {
    let replaced = host::replace::replace(path, text.as_bytes(), mode, Outlives::PowerLoss);
    replaced.map_err(|error| unusable(path, "written", &error))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A file or folder that does not do what it should.
#[must_use]
pub fn unusable(path: &Path, deed: &str, error: &io::Error) -> Problem {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => "run it as root, or rehearse in a folder of yours with --root DIR",
        io::ErrorKind::NotFound => "check the path; if the node's own file was lost: from a backup, or by joining anew",
        io::ErrorKind::AlreadyExists => "choose another name: what is there is not overwritten",
        io::ErrorKind::InvalidData => "check that it is the right file: it is no text",
        io::ErrorKind::StorageFull => "make room on that file system",
        _ => "check the path and its file system",
    };
    Problem::new(Code::Files, format!("'{}' cannot be {deed}: {error}", path.display()), hint)
}

/// The same of a path that a request gave: that is the caller's to mend.
#[must_use]
pub fn unusable_given(path: &Path, deed: &str, error: &io::Error) -> Problem {
    let problem = unusable(path, deed, error);
    match error.kind() {
        io::ErrorKind::NotFound => Problem { code: Code::BadRequest, hint: "check the path".to_owned(), ..problem },
        io::ErrorKind::AlreadyExists => Problem { code: Code::Exists, ..problem },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Problem { code: Code::NoRoom, ..problem },
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::ReadOnlyFilesystem => Problem { code: Code::BadRequest, ..problem },
        _ => problem,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: what to do fits what went wrong. Method: a name that is taken, a file that is no text.
    #[test]
    fn hints_fit_the_error() {
        let hint = |kind: io::ErrorKind| unusable(Path::new("/backup/store"), "made", &kind.into()).hint;
        assert!(hint(io::ErrorKind::AlreadyExists).contains("another name"));
        assert!(hint(io::ErrorKind::InvalidData).contains("the right file"));
    }

    /// Goal: a secret is nobody else's at any moment, and a second write replaces the first. Method: modes and contents.
    #[test]
    fn secrets_are_their_owners() {
        let base = std::env::temp_dir().join(format!("muskox-root-{}", std::process::id()));
        let root = Root::new(&base);
        root.make_folders().unwrap();
        write_secret(&root.key(), "one").unwrap();
        write_secret(&root.key(), "two").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&root.key()) & 0o077, 0);
        assert_eq!(mode(root.key().parent().unwrap()) & 0o077, 0);
        assert_eq!(read_text(&root.key()).unwrap(), "two");
        let missing = read_text(&root.ca()).unwrap_err();
        assert!(missing.code == Code::Files && missing.text.contains("ca.crt"), "{missing:?}");
        assert_eq!(Root::first_that_exists(&[root.ca(), root.key()]).unwrap(), Some(&root.key()));
        std::fs::remove_dir_all(&base).unwrap();
    }
}
