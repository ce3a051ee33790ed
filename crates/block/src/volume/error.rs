//! Why a volume group was not opened or changed.

use crate::DeviceError;
use units::{ByteLen, ByteOffset, VolumeId};

/// Something on disk that contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place} is damaged: {what}")]
pub struct Damage {
    /// What was being read.
    pub place: &'static str,
    /// What is wrong with it.
    pub what: String,
}

impl Damage {
    pub(super) fn new(place: &'static str, what: impl Into<String>) -> Self {
        Self { place, what: what.into() }
    }
}

/// Why something was not done. Nothing was changed, except after [`VolumeError::Device`] in a change: see
/// [`VolumeError::Doubtful`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// The disk below failed.
    #[error("the disk below failed")]
    Device(#[from] DeviceError),
    /// There is no volume group here.
    #[error("there is no volume group on this disk: create one, or check that it is the right disk")]
    NoGroup,
    /// `create` was asked not to overwrite anything, and there is something.
    #[error("the disk is not empty, there is data at {at}: ask for a wipe if it is not needed any more")]
    NotEmpty {
        /// The first byte that is not zero.
        at: ByteOffset,
    },
    /// Not even one extent fits.
    #[error("the disk has {size}, a volume group needs at least {need}")]
    TooSmall {
        /// What there is.
        size: ByteLen,
        /// What it takes.
        need: ByteLen,
    },
    /// The metadata is not sound. An operator restores it with `vgcfgrestore`.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// Sound, but more than muskox serves or changes. Use the stock LVM2 tools.
    #[error("{0}: muskox does not serve that, use the lvm tools")]
    Unsupported(String),
    /// Not enough free extents.
    #[error("{asked} were asked for, {free} are free")]
    NoSpace {
        /// How much was asked for, in whole extents.
        asked: ByteLen,
        /// How much there is.
        free: ByteLen,
    },
    /// A volume has at least one extent.
    #[error("a volume of no bytes was asked for")]
    EmptyVolume,
    /// A volume of that name exists.
    #[error("there is already a volume named '{0}'")]
    NameTaken(String),
    /// A volume of that identity exists.
    #[error("there is already a volume with the identity {0}")]
    IdTaken(VolumeId),
    /// LVM2 keeps such names to itself.
    #[error("'{name}' is not possible: LVM2 reserves names with '{part}', use another one")]
    NameReserved {
        /// What was asked for.
        name: String,
        /// Which part of it is reserved.
        part: String,
    },
    /// There is no such volume.
    #[error("there is no volume {0}")]
    UnknownVolume(String),
    /// The volume still shows what others left in its extents.
    #[error("the volume {0} is not zeroed yet: finish it, or remove it")]
    Unfinished(VolumeId),
    /// The volume is not one muskox serves: the text says why.
    #[error("the volume '{name}' is not served: {why}")]
    Foreign {
        /// Its name.
        name: String,
        /// What is special.
        why: String,
    },
    /// Somebody holds the volume's disk or zeroes it.
    #[error("the volume {0} is in use")]
    InUse(VolumeId),
    /// No room for one more volume in the metadata area.
    #[error(
        "the list of this pool's volumes would be {len} long, and at most {most} fit: remove a volume, or use another pool"
    )]
    MetadataFull {
        /// How long it would be.
        len: ByteLen,
        /// How long it may be.
        most: ByteLen,
    },
    /// As many volumes as a pool keeps grants for.
    #[error("the pool has {0} volumes, and keeps grants for no more: remove one, or use another pool")]
    TooMany(usize),
    /// An earlier change failed or was dropped half way: what is on disk is either the old or the new metadata.
    #[error("an earlier change did not end: open the volume group again")]
    Doubtful,
}
