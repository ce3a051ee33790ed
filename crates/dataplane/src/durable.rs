//! Small files that are replaced whole: after a crash at any moment a file is the old or the new one.

use std::fs::{File, rename};
use std::io::{self, Write};
use std::path::Path;

/// Writes beside, makes durable, renames over, makes the renaming durable.
///
/// # Errors
/// What the system said; then the old content stands.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    rename(&new, path)?;
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
