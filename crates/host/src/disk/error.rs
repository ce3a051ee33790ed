//! Why a disk could not be opened, for people: which one, what is wrong, what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;
use units::ByteLen;

/// A disk that could not be opened. Nothing was changed.
#[derive(Debug)]
pub struct DiskError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub kind: DiskErrorKind,
}

/// What is wrong with it.
#[derive(Debug)]
pub enum DiskErrorKind {
    /// Somebody else has it; waiting may help.
    Busy {
        /// Who, as far as the kernel tells.
        holder: String,
    },
    /// The kernel would not open it.
    Open(io::Error),
    /// It is something else: what.
    NotADisk(&'static str),
    /// It was exchanged for something else while it was being opened.
    Replaced,
    /// The kernel would not say how big or how shaped it is.
    Probe(io::Error),
    /// It holds not even one block.
    Empty {
        /// How long it is.
        found: ByteLen,
        /// How long a block is.
        block_bytes: u32,
    },
    /// Its blocks are larger than 4096 bytes, or no power of two.
    BlockSize(u32),
    /// The kernel refuses this thread an io_uring.
    Ring(io::Error),
}

impl DiskError {
    /// Whether somebody else has it and waiting may help.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self.kind, DiskErrorKind::Busy { .. })
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk '{}' ", self.path.display())?;
        match &self.kind {
            DiskErrorKind::Busy { holder } => write!(f, "is in use by {holder}: stop that, or wait until it has ended"),
            DiskErrorKind::Open(error) => match error.kind() {
                io::ErrorKind::NotFound => write!(f, "does not exist: check the path (/dev/disk/by-id is stable)"),
                io::ErrorKind::PermissionDenied => {
                    write!(
                        f,
                        "cannot be opened, permission denied: run as root; where this is root, check the container's device rules"
                    )
                }
                io::ErrorKind::ReadOnlyFilesystem => write!(f, "is write-protected: check its switch or its mount"),
                _ => write!(f, "cannot be opened ({error}): look at `dmesg` for its hardware"),
            },
            DiskErrorKind::NotADisk(what) => write!(f, "is {what}: name a block device or a file"),
            DiskErrorKind::Replaced => write!(f, "was exchanged while it was being opened: try again"),
            DiskErrorKind::Probe(error) => {
                write!(f, "does not say its size or blocks ({error}): look at `dmesg` for its hardware")
            }
            DiskErrorKind::Empty { found, block_bytes } => {
                write!(f, "holds {found}, less than one block of {block_bytes} bytes: make it longer (`truncate -s`)")
            }
            DiskErrorKind::BlockSize(found) => {
                write!(f, "has blocks of {found} bytes: only powers of two up to 4096 can be served")
            }
            DiskErrorKind::Ring(error) => {
                write!(f, "gets no io_uring ({error}): raise the limit of open files, or choose the pool engine")
            }
        }
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            DiskErrorKind::Open(error) | DiskErrorKind::Probe(error) | DiskErrorKind::Ring(error) => Some(error),
            _ => None,
        }
    }
}
