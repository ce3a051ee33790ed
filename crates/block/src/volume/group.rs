//! One volume group on one disk: opening it, and adding and removing linear volumes.
//!
//! ```text
//! create_volume ──▶ Zeroing ──zeroing().run()──▶ publish ──▶ Ready ──▶ remove_volume
//!                      │ crash: unfinished() finds it again                ▲
//!                      └───────────────────────────────────────────────────┘
//! ```
//! Invariants: every change is one commit (see [`super::area`]), all or nothing; a volume is served only after its
//! extents were zeroed and that is on disk; an extent has one owner; what muskox does not understand stays as it was.
//! After a change that failed or was dropped half way nobody knows which metadata is on disk: nothing is changed or
//! handed out any more until the group is opened again.

use super::area::{self, MetadataArea};
use super::edit::{self, NewGroup};
use super::error::{Damage, VolumeError};
use super::extents::{Run, allocate, free_runs};
use super::ident::{LvmId, reserved_part};
use super::label::{Area, EXTENSION_USED, EXTENSION_VERSION, Extension, Label, encode};
use super::linear::{Linear, Map};
use super::mda;
use super::model::{Content, Group, Logical};
use super::text::{Section, TEXT_MAX_BYTES, parse, write};
use super::zeroing::{Zeroed, Zeroing};
use crate::raid::facts::RECORDS_MAX;
use crate::runtime::Rt;
use crate::{Disk, Durability};
use std::collections::{HashMap, HashSet};
use std::rc::{Rc, Weak};
use units::{ByteLen, ByteOffset, PoolName, VolumeId, VolumeName};

/// LVM2's default extent.
pub const EXTENT_LEN: ByteLen = ByteLen::mib(4);
/// LVM2's defaults: the metadata area from 4 KiB to 1 MiB, the extents behind it.
const AREA: Area = Area { at: ByteOffset(4096), len: ByteLen((1 << 20) - 4096) };
const EXTENTS_AT: ByteOffset = ByteOffset(1 << 20);

/// More volumes than their array keeps records of grants for could be made and never be served.
pub const VOLUMES_MAX: usize = RECORDS_MAX;

/// The identities of a new group, drawn by the caller.
#[derive(Clone, Copy, Debug)]
pub struct GroupIds {
    /// Of the volume group.
    pub group: [u8; 16],
    /// Of its physical volume.
    pub physical: [u8; 16],
}

/// What `create` does with what is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Anything but zeroes before the first extent is left alone, with an error.
    Refuse,
    /// It is overwritten.
    Wipe,
}

/// A volume as `list` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Which one.
    pub id: VolumeId,
    /// Its name; a stock volume may have one that is no [`VolumeName`].
    pub name: String,
    /// Its length.
    pub size: ByteLen,
    /// LVM2 lets nobody write to it (`lvchange --permission r`).
    pub read_only: bool,
    /// What can be done with it.
    pub state: VolumeState,
}

/// What can be done with a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeState {
    /// It is served.
    Ready,
    /// It is not zeroed yet: [`VolumeGroup::zeroing`] goes on with it.
    Zeroing,
    /// It is kept and never served, for this reason.
    Foreign(String),
}

/// An opened volume group.
pub struct VolumeGroup {
    rt: Rt,
    disk: Disk,
    area: MetadataArea,
    tree: Section,
    group: Group,
    doubtful: bool,
    /// Who holds a volume: its disk, or the work of zeroing it.
    users: HashMap<LvmId, Weak<Map>>,
}

impl VolumeGroup {
    /// Makes an empty group on `disk`. The label is written last: without it there is no group.
    ///
    /// # Errors
    /// [`VolumeError::TooSmall`], [`VolumeError::NotEmpty`]; [`VolumeError::Device`] leaves no label.
    pub async fn create(
        rt: &Rt,
        disk: &Disk,
        name: &PoolName,
        ids: GroupIds,
        existing: Existing,
        now_unix: u64,
    ) -> Result<Self, VolumeError> {
        let size = disk.geometry().size;
        let need = ByteLen(EXTENTS_AT.0) + EXTENT_LEN;
        if size < need {
            return Err(VolumeError::TooSmall { size, need });
        }
        make_room(disk, existing).await?;
        let physical_id = LvmId::from_bytes(&ids.physical);
        let tree = edit::new_group(&NewGroup {
            name: name.as_str(),
            group_id: LvmId::from_bytes(&ids.group),
            physical_id,
            disk_len: size,
            extents_at: EXTENTS_AT,
            extent_len: EXTENT_LEN,
            extents: ((size.0 - EXTENTS_AT.0) / EXTENT_LEN.0).min(u64::from(u32::MAX)),
            now_unix,
        });
        area::commit(disk, AREA, None, write(&tree)).await?;
        let label = Label {
            sector: 1,
            id: physical_id,
            device_size: size,
            data_areas: vec![Area { at: EXTENTS_AT, len: ByteLen(0) }],
            metadata_areas: vec![AREA],
            extension: Some(Extension { version: EXTENSION_VERSION, flags: EXTENSION_USED, boot_areas: Vec::new() }),
        };
        area::write_range(disk, ByteOffset(512), &encode(&label), Durability::Fua).await?;
        Self::open(rt, disk).await
    }

    /// Opens the group on `disk`. Nothing is written.
    ///
    /// # Errors
    /// [`VolumeError::NoGroup`], [`VolumeError::Damaged`], [`VolumeError::Unsupported`], [`VolumeError::Device`].
    pub async fn open(rt: &Rt, disk: &Disk) -> Result<Self, VolumeError> {
        let label = area::read_label(disk).await?;
        let area = metadata_area(disk, &label)?;
        let (area, text) = area::read_text(disk, area).await?;
        let tree = parse(&text)?;
        let group = Group::of(&tree)?;
        check_place(disk, &label, area.area, &group)?;
        let users = HashMap::new();
        Ok(Self { rt: Rc::clone(rt), disk: Rc::clone(disk), area, tree, group, doubtful: false, users })
    }

    /// The group's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.group.name
    }

    /// The group's identity, as LVM2 writes it.
    #[must_use]
    pub fn id(&self) -> LvmId {
        self.group.id
    }

    /// How many changes the metadata has seen.
    #[must_use]
    pub fn seqno(&self) -> u32 {
        self.group.seqno
    }

    /// Why this group cannot be changed by muskox, if so.
    #[must_use]
    pub fn frozen(&self) -> Option<&str> {
        self.group.frozen.as_deref()
    }

    /// How much new volumes can take, in whole extents.
    #[must_use]
    pub fn free(&self) -> ByteLen {
        self.len_of(self.free_runs().iter().map(|run| run.count).sum())
    }

    /// How much all volumes together can take.
    #[must_use]
    pub fn capacity(&self) -> ByteLen {
        self.len_of(self.group.physical.extents)
    }

    /// All volumes but the hidden parts of stock ones, in the order of the metadata.
    #[must_use]
    pub fn list(&self) -> Vec<Volume> {
        self.group.logical.iter().filter(|volume| volume.visible).map(|volume| self.shown(volume)).collect()
    }

    /// The volumes whose zeroing did not end.
    #[must_use]
    pub fn unfinished(&self) -> Vec<Volume> {
        self.list().into_iter().filter(|volume| volume.state == VolumeState::Zeroing).collect()
    }

    /// The volume of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Volume> {
        self.list().into_iter().find(|volume| volume.name == name)
    }

    /// The volume as a disk. Several may be handed out; they are the same volume.
    ///
    /// # Errors
    /// [`VolumeError::UnknownVolume`], [`VolumeError::Unfinished`], [`VolumeError::Foreign`],
    /// [`VolumeError::Doubtful`].
    pub fn volume(&mut self, id: VolumeId) -> Result<Disk, VolumeError> {
        let (volume, runs) = self.linear(id)?;
        if volume.zeroing {
            return Err(VolumeError::Unfinished(id));
        }
        let (key, writable, runs) = (volume.id, volume.writable, runs.to_vec());
        let map = self.map(key, &runs);
        Ok(Rc::new(Linear::new(&self.rt, &self.disk, map, writable)))
    }

    /// Takes the space for a new volume, rounded up to whole extents. It is not served before it is zeroed:
    /// [`Self::zeroing`], then [`Self::publish`].
    ///
    /// # Errors
    /// [`VolumeError::NoSpace`], [`VolumeError::NameTaken`], [`VolumeError::IdTaken`],
    /// [`VolumeError::NameReserved`], [`VolumeError::EmptyVolume`], [`VolumeError::MetadataFull`],
    /// [`VolumeError::TooMany`]: nothing changed.
    pub async fn create_volume(
        &mut self,
        name: &VolumeName,
        id: VolumeId,
        size: ByteLen,
        now_unix: u64,
    ) -> Result<Volume, VolumeError> {
        self.changeable()?;
        self.check_name(name.as_str())?;
        if self.group.logical.iter().any(|volume| volume.id.volume_id() == id) {
            return Err(VolumeError::IdTaken(id));
        }
        if size.0 == 0 {
            return Err(VolumeError::EmptyVolume);
        }
        if self.list().len() >= VOLUMES_MAX {
            return Err(VolumeError::TooMany(VOLUMES_MAX));
        }
        let extents = size.0.div_ceil(self.group.extent_len.0);
        let no_space = VolumeError::NoSpace { asked: size, free: self.free() };
        let runs = allocate(&self.free_runs(), extents).ok_or(no_space)?;
        let mut tree = self.tree.clone();
        edit::add_volume(&mut tree, &self.group, name.as_str(), id.into(), &runs, now_unix);
        self.commit(tree, now_unix).await?;
        Ok(self.shown(self.logical(id)?))
    }

    /// The work of zeroing a new volume. It starts from the beginning after a crash. The group may be used meanwhile.
    ///
    /// # Errors
    /// [`VolumeError::InUse`] if somebody is at it already; [`VolumeError::UnknownVolume`] if there is no such
    /// volume, or it needs no zeroing.
    pub fn zeroing(&mut self, id: VolumeId) -> Result<Zeroing, VolumeError> {
        self.changeable()?;
        let (volume, runs) = self.linear(id)?;
        if !volume.zeroing {
            return Err(VolumeError::UnknownVolume(format!("{id} that is still to be zeroed")));
        }
        let (key, runs) = (volume.id, runs.to_vec());
        if self.is_used(key) {
            return Err(VolumeError::InUse(id));
        }
        let map = self.map(key, &runs);
        Ok(Zeroing::new(&self.rt, &self.disk, id, map))
    }

    /// Records that a volume is zeroed: from now on it is served.
    ///
    /// # Errors
    /// [`VolumeError::UnknownVolume`] if the proof is of a volume of another group; else as any change.
    pub async fn publish(&mut self, zeroed: Zeroed, now_unix: u64) -> Result<Volume, VolumeError> {
        self.changeable()?;
        let id = zeroed.id();
        let volume = self.logical(id)?;
        let ours = self.users.get(&volume.id).and_then(Weak::upgrade);
        if !ours.is_some_and(|map| zeroed.is_of(&map)) {
            return Err(VolumeError::UnknownVolume(format!("{id} that was zeroed")));
        }
        let mut tree = self.tree.clone();
        edit::untag(&mut tree, &self.group.name, &volume.name);
        self.commit(tree, now_unix).await?;
        Ok(self.shown(self.logical(id)?))
    }

    /// Removes a volume and frees its extents. Its data stays on the disk until another volume is zeroed there.
    ///
    /// The caller has drained it: operations whose futures were dropped may still be running on the lower disk.
    ///
    /// # Errors
    /// [`VolumeError::InUse`] while somebody holds its disk; [`VolumeError::Foreign`]; else as any change.
    pub async fn remove_volume(&mut self, id: VolumeId, now_unix: u64) -> Result<(), VolumeError> {
        self.changeable()?;
        let (volume, _) = self.linear(id)?;
        let (key, name) = (volume.id, volume.name.clone());
        if self.is_used(key) {
            return Err(VolumeError::InUse(id));
        }
        let mut tree = self.tree.clone();
        edit::remove_volume(&mut tree, &self.group.name, &name);
        self.commit(tree, now_unix).await?;
        self.users.remove(&key);
        Ok(())
    }

    /// Makes `tree` the metadata. Until the answer is here, and for ever if it is a failure, the group is doubtful.
    async fn commit(&mut self, mut tree: Section, now_unix: u64) -> Result<(), VolumeError> {
        let spent = || VolumeError::Unsupported("the group's sequence number is used up".into());
        let seqno = self.group.seqno.checked_add(1).ok_or_else(spent)?;
        edit::stamp(&mut tree, &self.group.name, seqno, now_unix);
        let text = write(&tree);
        let (len, most) = (text.len() as u64 + 1, mda::growth_max(self.area.area).min(TEXT_MAX_BYTES as u64));
        // What does not grow is always let through: it is how room is made, and how what was begun ends.
        if len > most && len > self.area.committed.len {
            return Err(VolumeError::MetadataFull { len: ByteLen(len), most: ByteLen(most) });
        }
        assert_eq!(parse(&text).as_ref(), Ok(&tree), "what is written is what will be read");
        let group = Group::of(&tree).expect("a change keeps the metadata sound");
        self.doubtful = true;
        let answer = area::commit(&self.disk, self.area.area, Some(self.area.committed), text).await;
        self.doubtful = matches!(answer, Err(VolumeError::Device(_)));
        self.area.committed = answer?;
        (self.tree, self.group) = (tree, group);
        Ok(())
    }

    fn changeable(&self) -> Result<(), VolumeError> {
        match &self.group.frozen {
            _ if self.doubtful => Err(VolumeError::Doubtful),
            Some(why) => Err(VolumeError::Unsupported(why.clone())),
            None => Ok(()),
        }
    }

    fn check_name(&self, name: &str) -> Result<(), VolumeError> {
        if self.group.logical.iter().any(|volume| volume.name == name) {
            return Err(VolumeError::NameTaken(name.to_owned()));
        }
        let pv_key = self.group.physical.key.as_str();
        match reserved_part(name).or_else(|| (name == pv_key).then_some(pv_key)) {
            Some(part) => Err(VolumeError::NameReserved { name: name.to_owned(), part: part.to_owned() }),
            None => Ok(()),
        }
    }

    fn logical(&self, id: VolumeId) -> Result<&Logical, VolumeError> {
        let mut visible = self.group.logical.iter().filter(|volume| volume.visible);
        let found = visible.find(|volume| volume.id.volume_id() == id);
        found.ok_or_else(|| VolumeError::UnknownVolume(id.to_string()))
    }

    fn linear(&self, id: VolumeId) -> Result<(&Logical, &[Run]), VolumeError> {
        if self.doubtful {
            return Err(VolumeError::Doubtful);
        }
        let volume = self.logical(id)?;
        match &volume.content {
            Content::Linear(runs) => Ok((volume, runs)),
            Content::Foreign(why) => Err(VolumeError::Foreign { name: volume.name.clone(), why: why.clone() }),
        }
    }

    fn shown(&self, volume: &Logical) -> Volume {
        let state = match &volume.content {
            Content::Foreign(why) => VolumeState::Foreign(why.clone()),
            Content::Linear(_) if volume.zeroing => VolumeState::Zeroing,
            Content::Linear(_) => VolumeState::Ready,
        };
        let size = ByteLen(volume.extents.saturating_mul(self.group.extent_len.0));
        let read_only = !volume.writable;
        Volume { id: volume.id.volume_id(), name: volume.name.clone(), size, read_only, state }
    }

    fn is_used(&self, key: LvmId) -> bool {
        self.users.get(&key).is_some_and(|map| map.strong_count() > 0)
    }

    /// The one map of a volume, shared by everybody who uses it.
    fn map(&mut self, key: LvmId, runs: &[Run]) -> Rc<Map> {
        if let Some(map) = self.users.get(&key).and_then(Weak::upgrade) {
            return map;
        }
        let start = |run: &Run| self.group.physical.extents_at + self.len_of(run.first);
        let map = Rc::new(Map::new(runs.iter().map(|run| (start(run), self.len_of(run.count)))));
        self.users.insert(key, Rc::downgrade(&map));
        map
    }

    fn free_runs(&self) -> Vec<Run> {
        let claimed = self.group.logical.iter().flat_map(|volume| volume.claims.iter().copied());
        free_runs(self.group.physical.extents, claimed.collect())
    }

    /// The length of extents of this disk: checked against its size when the group was opened.
    fn len_of(&self, extents: u64) -> ByteLen {
        ByteLen(extents * self.group.extent_len.0)
    }
}

async fn make_room(disk: &Disk, existing: Existing) -> Result<(), VolumeError> {
    let head = Area { at: ByteOffset(0), len: ByteLen(EXTENTS_AT.0) };
    if existing == Existing::Refuse {
        let found = area::read_range(disk, head).await?;
        return match found.iter().zip(0..).find(|(byte, _)| **byte != 0) {
            Some((_, at)) => Err(VolumeError::NotEmpty { at: ByteOffset(at) }),
            None => Ok(()),
        };
    }
    disk.write_zeroes(head.at, head.len, Durability::Cached, false).await?;
    Ok(disk.flush().await?)
}

/// The one metadata area of a label, if it can be used on this disk.
fn metadata_area(disk: &Disk, label: &Label) -> Result<Area, VolumeError> {
    let [area] = label.metadata_areas.as_slice() else {
        let count = label.metadata_areas.len();
        return Err(VolumeError::Unsupported(format!("the physical volume has {count} metadata areas, not one")));
    };
    let geometry = disk.geometry();
    let end = area.at.checked_add(area.len).filter(|end| end.0 <= geometry.size.0);
    if end.is_none() || area.at.0 < super::label::SCAN_BYTES as u64 || area.len.0 < 8 * super::mda::HEADER_LEN {
        return Err(Damage::new("the LVM2 label", "its metadata area cannot be where it says").into());
    }
    if !area.at.is_aligned(geometry.block_bytes) || !area.len.is_aligned(geometry.block_bytes) {
        let what = format!("the metadata area does not fit blocks of {} bytes", geometry.block_bytes);
        return Err(VolumeError::Unsupported(what));
    }
    Ok(*area)
}

/// Whether the metadata is this disk's and its extents are on it.
fn check_place(disk: &Disk, label: &Label, area: Area, group: &Group) -> Result<(), VolumeError> {
    let wrong = |what: String| Err(Damage::new("the LVM2 metadata", what).into());
    let (physical, geometry) = (&group.physical, disk.geometry());
    let len = ByteLen(physical.extents * group.extent_len.0);
    let mut ids = HashSet::new();
    if physical.id != label.id {
        return wrong(format!("it is about the physical volume {}, the label says {}", physical.id, label.id));
    }
    if physical.extents_at < area.at + area.len {
        return wrong("the extents begin inside the metadata area".into());
    }
    if physical.extents_at + len > ByteOffset(geometry.size.0) {
        return wrong(format!(
            "the disk has {}, its extents need {}",
            geometry.size,
            ByteLen(physical.extents_at.0) + len
        ));
    }
    if !physical.extents_at.is_aligned(geometry.block_bytes) || !group.extent_len.is_aligned(geometry.block_bytes) {
        return Err(VolumeError::Unsupported(format!("extents do not fit blocks of {} bytes", geometry.block_bytes)));
    }
    match group.logical.iter().find(|volume| !ids.insert(volume.id.volume_id())) {
        Some(volume) => wrong(format!("'{}' has the identity of another volume", volume.name)),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "group_test.rs"]
mod test;
