//! Small files that are replaced whole: at any moment a file is the old or the new one.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, rename};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What a file has to outlive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlives {
    /// The loss of power: the file and its name are durable before the call ends.
    PowerLoss,
    /// The death of who wrote it: nothing waits for a disk.
    Process,
}

/// Writes a new file beside, with this mode, and renames it over `path`. What stood beside, of a former life or of somebody else who
/// may write there, is removed and never opened: no link of a stranger's is followed.
///
/// # Errors
/// What the system said; then the old content stands.
pub fn replace(path: &Path, bytes: &[u8], mode: u32, outlives: Outlives) -> io::Result<()> {
    let beside = beside(path)?;
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(bytes)?;
    if outlives == Outlives::Process {
        return rename(&beside, path);
    }
    file.sync_all()?;
    rename(&beside, path)?;
    sync_folder_of(path)
}

/// Makes durable which files are in the folder of `path`, and under which names.
///
/// # Errors
/// What the system said.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

fn beside(path: &Path) -> io::Result<PathBuf> {
    let mut name: OsString = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    Ok(path.with_file_name(name))
}

#[cfg(test)]
mod test {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// Goal: the new content stands with its mode, what a crash or a stranger left beside is neither kept nor written to, and a
    /// refusal leaves the old content. Method: a rest, a link to another file, and a folder in the way.
    #[test]
    fn the_file_is_the_old_or_the_new_one() {
        let dir = std::env::temp_dir().join(format!("muskox-replace-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (path, new, victim) = (dir.join("a.note"), dir.join("a.note.new"), dir.join("victim"));
        std::fs::write(&new, "half a").unwrap();
        replace(&path, b"one", 0o600, Outlives::PowerLoss).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&victim, "untouched").unwrap();
        symlink(&victim, &new).unwrap();
        let first = std::fs::metadata(&path).unwrap().ino();
        replace(&path, b"two", 0o644, Outlives::Process).unwrap();
        assert_eq!(
            (std::fs::read(&path).unwrap(), std::fs::read(&victim).unwrap()),
            (b"two".into(), b"untouched".into())
        );
        assert_ne!(std::fs::metadata(&path).unwrap().ino(), first);
        std::fs::create_dir(&new).unwrap();
        assert!(replace(&path, b"three", 0o600, Outlives::PowerLoss).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
