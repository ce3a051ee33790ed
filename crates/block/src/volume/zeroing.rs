//! Zeroing a new volume, so that it never shows what a removed one left.

use super::linear::Map;
use crate::runtime::{Rt, run_to_end};
use crate::{DeviceError, Disk, Durability, IoFuture};
use std::rc::Rc;
use units::sabotage::{Bug, planted};
use units::{ByteLen, ByteOffset, VolumeId};

/// One step: long enough for a disk's full speed, short enough for a progress bar and for guests beside it.
const STEP: ByteLen = ByteLen::mib(8);

/// The work of zeroing one volume. While it exists the volume cannot be removed.
pub struct Zeroing {
    rt: Rt,
    disk: Disk,
    id: VolumeId,
    map: Rc<Map>,
}

/// The proof that a volume reads as zeroes, durably. Hand it to [`super::VolumeGroup::publish`].
pub struct Zeroed {
    id: VolumeId,
    map: Rc<Map>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZeroProgress {
    /// What is done.
    pub done: ByteLen,
    /// What there is to do.
    pub total: ByteLen,
}

impl Zeroing {
    pub(super) fn new(rt: &Rt, disk: &Disk, id: VolumeId, map: Rc<Map>) -> Self {
        Self { rt: Rc::clone(rt), disk: Rc::clone(disk), id, map }
    }

    /// Writes the zeroes (space may be given back), then flushes. `progress` is called after every step.
    ///
    /// # Errors
    /// The disk's; the volume stays unfinished.
    pub async fn run(self, mut progress: impl FnMut(ZeroProgress)) -> Result<Zeroed, DeviceError> {
        let total = self.map.size();
        let mut at = ByteOffset(0);
        while at.0 < total.0 {
            let len = STEP.min(ByteLen(total.0 - at.0));
            let step = self.step(at, len);
            if planted(Bug::ZeroedTooEarly) {
                self.rt.spawn(Box::pin(async move {
                    let _ = step.await;
                }));
            } else {
                step.await?;
            }
            at = at + len;
            progress(ZeroProgress { done: ByteLen(at.0), total });
        }
        self.disk.flush().await?;
        Ok(Zeroed { id: self.id, map: self.map })
    }

    /// Zeroes a range. It holds the map until the disk is done, even if nobody waits any more: a late zero must not
    /// land on the volume that gets the extents next.
    fn step(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        let (map, disk) = (Rc::clone(&self.map), Rc::clone(&self.disk));
        let work = async move {
            for piece in map.parts(at, len) {
                disk.write_zeroes(piece.lower, piece.len, Durability::Cached, true).await?;
            }
            Ok(())
        };
        run_to_end(&self.rt, work)
    }
}

impl Zeroed {
    /// Which volume.
    #[must_use]
    pub fn id(&self) -> VolumeId {
        self.id
    }

    pub(super) fn is_of(&self, map: &Rc<Map>) -> bool {
        Rc::ptr_eq(&self.map, map)
    }
}
