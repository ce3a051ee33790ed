//! An image file as this machine sees it: what its content is, whether somebody writes to it, whether it changed.
#![allow(unsafe_code, reason = "a file's lease has no safe call here")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use units::ByteLen;

/// A file at one moment. Whoever writes to it changes this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    identity: (u64, u64),
    len: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

/// How the file is now.
///
/// # Errors
/// The kernel's.
pub fn seen(file: &File) -> io::Result<Seen> {
    let facts = file.metadata()?;
    Ok(Seen {
        identity: (facts.dev(), facts.ino()),
        len: facts.size(),
        written: (facts.mtime(), facts.mtime_nsec()),
        changed: (facts.ctime(), facts.ctime_nsec()),
    })
}

/// Whether any process has it open for writing: a QEMU, a download, a loop device. False too where the file system cannot tell, and
/// for who is neither root nor the file's owner.
#[must_use]
pub fn is_written_to(file: &File) -> bool {
    // A read lease is given only on a file that nobody has open for writing (fcntl(2), F_SETLEASE); it is given back at once, because
    // it would hold up whoever wants to write.
    let lease = |kind: i32| {
        // SAFETY: the descriptor is open for as long as `file` is borrowed, and F_SETLEASE takes a number, no address.
        let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    let taken = lease(libc::F_RDLCK);
    if taken.is_ok() {
        let _ = lease(libc::F_UNLCK);
    }
    taken.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// What a disk with these bytes would hold, in words that finish "it holds …"; `None`: nothing that is known.
///
/// # Errors
/// The kernel's.
pub fn content(file: &File, len: ByteLen) -> io::Result<Option<String>> {
    block::probe::named(len, |range| read(file, range))
}

/// A part of a file, as far as it is there.
///
/// # Errors
/// The kernel's.
pub fn read(file: &File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?];
    let mut have = 0;
    while have < bytes.len() {
        match file.read_at(&mut bytes[have..], range.start + have as u64) {
            Ok(0) => break,
            Ok(more) => have += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(have);
    Ok(bytes)
}

#[cfg(test)]
mod test {
    use super::*;
    use std::fs::OpenOptions;
    use std::io::Write;

    /// A10. Goal: a file that somebody writes to is told from one that is only read, and a change is seen. Method: a real file.
    #[test]
    fn who_writes_is_noticed() {
        let path = std::env::temp_dir().join(format!("muskox-image-{}", std::process::id()));
        std::fs::write(&path, b"some bytes").unwrap();
        let (file, _reader) = (File::open(&path).unwrap(), File::open(&path).unwrap());
        assert!(!is_written_to(&file));
        let before = seen(&file).unwrap();
        assert_eq!(seen(&file).unwrap(), before);
        let mut writer = OpenOptions::new().append(true).open(&path).unwrap();
        assert!(is_written_to(&file));
        writer.write_all(b"more").unwrap();
        drop(writer);
        assert!(!is_written_to(&file));
        assert_ne!(seen(&file).unwrap(), before);
        assert_eq!(read(&file, 5..100).unwrap(), b"bytesmore");
        std::fs::remove_file(path).unwrap();
    }

    /// D17. Goal: what is on a disk is told from what is none. Method: a boot sector, a file system's mark, text.
    #[test]
    fn a_disks_content_is_known() {
        let path = std::env::temp_dir().join(format!("muskox-content-{}", std::process::id()));
        let of = |at: usize, bytes: &[u8]| {
            let mut disk = vec![0; 1 << 20];
            disk[at..at + bytes.len()].copy_from_slice(bytes);
            std::fs::write(&path, &disk).unwrap();
            content(&File::open(&path).unwrap(), ByteLen(disk.len() as u64)).unwrap()
        };
        assert!(of(510, &[0x55, 0xaa]).is_some());
        assert!(of(1080, &[0x53, 0xef]).is_some_and(|words| words.contains("ext")));
        assert!(of(0, b"LUKS\xba\xbe\0\x02").is_some_and(|words| words.contains("LUKS")));
        assert_eq!(of(0, b"Dear reader, this is a letter."), None);
        std::fs::write(&path, b"abc").unwrap();
        assert_eq!(content(&File::open(&path).unwrap(), ByteLen(3)).unwrap(), None);
        std::fs::remove_file(path).unwrap();
    }
}
