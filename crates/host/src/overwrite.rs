//! A small file on a file system in memory that is replaced whole, again and again, and needs no more room once it was written
//! twice: the old content's file is the next one to be written over, at the same length.

use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file, and the one beside it.
#[derive(Debug)]
pub struct Overwritten {
    path: PathBuf,
    beside: PathBuf,
    room_bytes: usize,
}

impl Overwritten {
    /// A file at `path`, always a multiple of `room_bytes` long; `NAME.new` beside it is its own too.
    #[must_use]
    pub fn new(path: &Path, room_bytes: usize) -> Self {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        Self { path: path.to_owned(), beside: beside.into(), room_bytes }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the content by `text` and spaces: whole or not at all. Not made durable. Only its owner may read it.
    ///
    /// # Errors
    /// What the system said; then the old content stands.
    pub fn replace(&self, text: &[u8]) -> io::Result<()> {
        let mut bytes = text.to_vec();
        bytes.resize(bytes.len().next_multiple_of(self.room_bytes), b' ');
        let mut open = OpenOptions::new();
        let mut file = open.write(true).create(true).truncate(false).mode(0o600).open(&self.beside)?;
        file.write_all(&bytes)?;
        file.set_len(u64::try_from(bytes.len()).expect("a small file"))?;
        match renameat_with(CWD, &self.beside, CWD, &self.path, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(()),
            // There is none yet, or this file system cannot exchange.
            Err(_) => std::fs::rename(&self.beside, &self.path),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: the newest text is read, followed by spaces only, whether it is longer or shorter than the one before; once written
    /// twice, no new file is made. Method: texts of several lengths; the two inodes.
    #[test]
    fn the_newest_text_stands_and_no_file_is_new() {
        use std::os::unix::fs::MetadataExt;
        let dir = std::env::temp_dir().join(format!("muskox-overwrite-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = Overwritten::new(&dir.join("x.lease"), 64);
        let mut inodes = Vec::new();
        for text in ["one", &"two".repeat(30), "", "three", &"x".repeat(64)] {
            file.replace(text.as_bytes()).unwrap();
            let read = std::fs::read_to_string(file.path()).unwrap();
            assert_eq!((read.trim_end(), read.len() % 64), (text, 0));
            inodes.push(std::fs::metadata(file.path()).unwrap().ino());
        }
        assert_eq!(inodes[2..4], inodes[0..2], "they take turns");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
