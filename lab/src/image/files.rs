//! What is done to images as files.

use super::tool;
use anyhow::Context;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const COPY_BYTES: usize = 1 << 20;
const BLOCK_BYTES: usize = 4096;
const ZEROES: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// The last of the files in a folder whose names begin so.
///
/// # Errors
/// When there is none.
pub fn newest(folder: &Path, prefix: &str) -> anyhow::Result<PathBuf> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?.flatten();
    let found = entries
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
    found.max().with_context(|| format!("Debian put no {prefix}… into {}", folder.display()))
}

/// Puts a program into an ext4 that lies where e2fsprogs find it by this name, executable.
///
/// # Errors
/// When debugfs does not do it.
pub fn insert(at: &OsStr, from: &Path, to: &str) -> anyhow::Result<()> {
    let commands = format!("write \"{}\" {to}\nset_inode_field {to} mode 0100755\n", from.display());
    anyhow::ensure!(!from.to_string_lossy().contains(['"', '\n']), "{}: not a path for debugfs", from.display());
    let mut child = Command::new("debugfs")
        .args(["-w", "-f", "-"])
        .arg(at)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("running debugfs: `cargo xtask setup` installs it")?;
    child.stdin.take().expect("stdin was piped above").write_all(commands.as_bytes())?;
    child.wait()?;
    // debugfs ends well whatever became of its commands.
    let said = tool(Command::new("debugfs").args(["-R", &format!("stat {to}")]).arg(at))?;
    let size = std::fs::metadata(from)?.len();
    anyhow::ensure!(said.contains(&format!("Size: {size}")), "debugfs did not put {to} into the image: {said}");
    Ok(())
}

/// Copies a file without its zeroes.
///
/// # Errors
/// When one of them cannot be read or written.
pub fn copy_sparse(from: &Path, to: &Path) -> anyhow::Result<()> {
    let file = File::create(to).with_context(|| format!("writing {}", to.display()))?;
    let len = write_sparse(from, &file, 0)?;
    file.set_len(len)?;
    Ok(())
}

/// Writes what is not zero of a file, or of a device, into another from `at` on; returns how long it is. Holes are not
/// even read: most of a guest's disk is one.
///
/// # Errors
/// When one of them cannot be read or written.
pub fn write_sparse(from: &Path, to: &File, at: u64) -> anyhow::Result<u64> {
    let source = File::open(from).with_context(|| format!("reading {}", from.display()))?;
    let len = seek(&source, SeekFrom::End(0)).with_context(|| format!("measuring {}", from.display()))?;
    let (mut bytes, mut done) = (vec![0; COPY_BYTES], 0);
    while done < len {
        match seek(&source, SeekFrom::Data(done)) {
            // Behind the last data (lseek(2)).
            Err(Errno::NXIO) => break,
            // What knows no holes is data everywhere.
            found => done = found.unwrap_or(done),
        }
        let many = source.read_at(&mut bytes, done).with_context(|| format!("reading {}", from.display()))?;
        anyhow::ensure!(many > 0, "{} ended at byte {done} of {len}", from.display());
        for block in bytes[..many].chunks(BLOCK_BYTES) {
            if block != &ZEROES[..block.len()] {
                to.write_all_at(block, at + done)?;
            }
            done += block.len() as u64;
        }
    }
    Ok(len)
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: a copy is the same, and takes no room for zeroes. Method: a file with a hole and an odd end.
    #[test]
    fn a_sparse_copy_is_the_same() {
        let folder = std::env::temp_dir().join(format!("muskox-sparse-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (from, to) = (folder.join("from"), folder.join("to"));
        let bytes = [vec![1; 5000], vec![0; 3 << 20], vec![2; 100], vec![0; 77]].concat();
        std::fs::write(&from, &bytes).unwrap();
        copy_sparse(&from, &to).unwrap();
        let same = std::fs::read(&to).unwrap() == bytes;
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&to).unwrap());
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(same && blocks * 512 < 64 << 10, "{blocks}");
    }
}
