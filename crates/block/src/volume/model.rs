//! What muskox reads out of the metadata tree: the group, its physical volume, its volumes.
//!
//! Reading is strict where muskox relies on something (sizes, extents, overlaps, identities) and cautious elsewhere:
//! a volume of a kind it does not know is [`Content::Foreign`], keeps its extents and is never served or changed.

use super::error::{Damage, VolumeError};
use super::extents::{Run, refuse_overlaps};
use super::ident::LvmId;
use super::text::{Section, Value};
use std::collections::{HashMap, HashSet};
use units::{ByteLen, ByteOffset, SECTOR_BYTES};

/// The tag of a volume that still shows what others left in its extents.
pub const ZEROING_TAG: &str = "muskox.zeroing";
/// The `contents` of every metadata text. Source: lvm2 `lib/format_text/import-export.h`.
pub const CONTENTS: &str = "Text Format Volume Group";

/// One volume group on one physical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: LvmId,
    /// Grows by one with every change.
    pub seqno: u32,
    /// All sizes are multiples of this.
    pub extent_len: ByteLen,
    /// Why muskox must not change this group, if so.
    pub frozen: Option<String>,
    /// Where the extents are.
    pub physical: Physical,
    /// All logical volumes, hidden ones too.
    pub logical: Vec<Logical>,
}

/// The physical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Physical {
    /// What segments call it: `pv0`.
    pub key: String,
    /// Its identity, the same as in the label.
    pub id: LvmId,
    /// Where extent 0 begins.
    pub extents_at: ByteOffset,
    /// How many extents there are.
    pub extents: u64,
}

/// A logical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logical {
    /// Its name: one of ours or any LVM2 allows.
    pub name: String,
    /// Its identity on disk.
    pub id: LvmId,
    /// Whether it is a volume of its own and not a part of another one.
    pub visible: bool,
    /// Whether it may be written.
    pub writable: bool,
    /// Whether it carries [`ZEROING_TAG`].
    pub zeroing: bool,
    /// Its length in extents.
    pub extents: u64,
    /// What it is made of.
    pub content: Content,
    /// The physical extents that are its own, as far as muskox can tell; never too few.
    pub claims: Vec<Run>,
}

/// What a logical volume is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Runs of extents, one after the other.
    Linear(Vec<Run>),
    /// Something muskox keeps but does not serve, and why.
    Foreign(String),
}

impl Group {
    /// Reads a group out of its tree.
    ///
    /// # Errors
    /// [`VolumeError::Damaged`] and [`VolumeError::Unsupported`] say what and where.
    pub fn of(root: &Section) -> Result<Self, VolumeError> {
        let top = At { section: root, place: String::from("the text") };
        if top.text("contents")? != CONTENTS || top.number("version")? != 1 {
            return Err(VolumeError::Unsupported("the metadata is not a text volume group of version 1".into()));
        }
        let (name, section) = only(root, "volume groups in one text")?;
        let at = At { section, place: format!("the volume group '{name}'") };
        let (pv_key, pv_section) = match section.section("physical_volumes") {
            Some(all) => only(all, "physical volumes in one group")?,
            None => return Err(at.wrong("it has no physical volume").into()),
        };
        let physical = Physical::of(pv_key, pv_section)?;
        let extent_sectors = at.count("extent_size", u64::from(u32::MAX))?;
        let group = Self {
            name: name.to_owned(),
            id: at.id()?,
            seqno: u32::try_from(at.count("seqno", u64::from(u32::MAX))?).expect("limited above"),
            extent_len: ByteLen(extent_sectors * SECTOR_BYTES),
            frozen: frozen(&at, pv_section)?,
            logical: logical_volumes(section, &physical)?,
            physical,
        };
        group.check().map(|()| group)
    }

    /// What holds between the volumes.
    fn check(&self) -> Result<(), VolumeError> {
        let wrong = |what: String| Err(Damage::new("the LVM2 metadata", what).into());
        let end =
            u128::from(self.physical.extents_at.0) + u128::from(self.physical.extents) * u128::from(self.extent_len.0);
        if self.extent_len.0 == 0 || end > u128::from(u64::MAX) {
            return wrong(format!("{} extents of {} cannot be", self.physical.extents, self.extent_len));
        }
        let (mut ids, mut exact) = (HashSet::new(), Vec::new());
        for volume in &self.logical {
            if !ids.insert(volume.id) {
                return wrong(format!("'{}' has the identity of another volume", volume.name));
            }
            if volume.claims.iter().any(|run| run.count == 0 || end_of(run) > u128::from(self.physical.extents)) {
                return wrong(format!("'{}' has extents past the end of the physical volume", volume.name));
            }
            if matches!(volume.content, Content::Linear(_)) {
                exact.extend(volume.claims.iter().map(|run| (*run, volume.name.as_str())));
            }
        }
        refuse_overlaps(&mut exact)?;
        let mut linear: Vec<Run> = exact.into_iter().map(|(run, _)| run).collect();
        linear.sort_unstable();
        let next_to = |run: &Run| linear.get(linear.partition_point(|other| other.end() <= run.first));
        let meets = |run: &Run| next_to(run).is_some_and(|other| other.first < run.end());
        let mut foreign = self.logical.iter().filter(|volume| matches!(volume.content, Content::Foreign(_)));
        match foreign.find(|volume| volume.claims.iter().any(meets)) {
            Some(volume) => wrong(format!("'{}' shares extents with another volume", volume.name)),
            None => Ok(()),
        }
    }
}

impl Physical {
    fn of(key: &str, section: &Section) -> Result<Self, VolumeError> {
        let at = At { section, place: format!("the physical volume '{key}'") };
        if at.words("flags")?.contains(&"MISSING") {
            return Err(VolumeError::Unsupported("the group's physical volume is marked missing".into()));
        }
        let start_sectors = at.count("pe_start", u64::MAX / SECTOR_BYTES)?;
        Ok(Self {
            key: key.to_owned(),
            id: at.id()?,
            extents_at: ByteOffset(start_sectors * SECTOR_BYTES),
            extents: at.count("pe_count", u64::from(u32::MAX))?,
        })
    }
}

/// Why the group must not be changed by muskox, if so.
fn frozen(group: &At<'_>, physical: &Section) -> Result<Option<String>, VolumeError> {
    refuse_owned(group)?;
    let status = group.words("status")?;
    if let Some(word) = status.iter().find(|word| !matches!(**word, "RESIZEABLE" | "READ" | "WRITE")) {
        return Err(VolumeError::Unsupported(format!("the volume group is marked {word}")));
    }
    let physical = At { section: physical, place: String::from("the physical volume") };
    let why = if !status.contains(&"WRITE") || !status.contains(&"RESIZEABLE") {
        "the volume group is read only or not resizeable"
    } else if !group.words("flags")?.is_empty() {
        "the volume group has flags of a newer LVM2"
    } else if !physical.words("status")?.contains(&"ALLOCATABLE") {
        "the physical volume is not allocatable"
    } else {
        return Ok(None);
    };
    Ok(Some(why.into()))
}

/// A group that LVM2 gives to one host, or to several under locks, is in use there as far as anybody knows. Source: lvm2
/// lvmsystemid(7), lvmlockd(8); a `lock_type` of "none" is the ordinary one.
fn refuse_owned(group: &At<'_>) -> Result<(), VolumeError> {
    let word = |key: &str| -> Result<Option<&str>, Damage> {
        let there = group.section.get(key).is_some();
        let word = if there { Some(group.text(key)?) } else { None };
        Ok(word.filter(|word| !word.is_empty() && *word != "none"))
    };
    if let Some(host) = word("system_id")? {
        let why =
            format!("the volume group belongs to the LVM2 host '{host}' (system_id) until `vgchange --systemid` there");
        return Err(VolumeError::Unsupported(why));
    }
    match word("lock_type")? {
        Some(kind) => {
            let why =
                format!("the volume group is shared by LVM2 hosts (lock_type {kind}) until `vgchange --locktype none`");
            Err(VolumeError::Unsupported(why))
        }
        None => Ok(()),
    }
}

fn logical_volumes(group: &Section, physical: &Physical) -> Result<Vec<Logical>, VolumeError> {
    let Some(all) = group.section("logical_volumes") else { return Ok(Vec::new()) };
    let names: HashSet<&str> = all.sections().map(|(name, _)| name).collect();
    let mut used_by_others: HashSet<&str> = HashSet::new();
    let mut found = Vec::with_capacity(names.len());
    for (name, section) in all.sections() {
        found.push(Logical::of(name, section, physical, &names)?);
        let segments = section.sections().filter(|(key, _)| key.starts_with("segment"));
        let parts = segments.flat_map(|(_, segment)| references(segment));
        used_by_others.extend(parts.filter(|part| names.contains(part) && *part != physical.key));
    }
    for volume in found.iter_mut().filter(|volume| used_by_others.contains(volume.name.as_str())) {
        volume.content = Content::Foreign("another volume is built on it (a snapshot, a pool, a mirror …)".into());
    }
    name_snapshots(all, &mut found);
    Ok(found)
}

/// A snapshot has two volumes in the metadata: one of its own name, hidden, for its blocks, and a visible `snapshot0` that
/// joins it to its origin. People know the first. Source: lvm2 `lib/snapshot/snapshot.c`, `_snap_text_import`.
fn name_snapshots(all: &Section, found: &mut [Logical]) {
    for (joint, section) in all.sections() {
        let segments = section.sections().filter(|(key, _)| key.starts_with("segment"));
        let text = |segment: &Section, key: &str| segment.value(key).and_then(Value::text).map(str::to_owned);
        for (_, segment) in segments.filter(|(_, segment)| text(segment, "type").as_deref() == Some("snapshot")) {
            let Some(origin) = text(segment, "origin") else { continue };
            let Some(own) = text(segment, "cow_store").or_else(|| text(segment, "merging_store")) else { continue };
            if !found.iter().any(|volume| volume.name == own) {
                continue;
            }
            for volume in found.iter_mut() {
                let why = match volume.name.as_str() {
                    name if name == own => format!("it is a snapshot of '{origin}'"),
                    name if name == origin => format!("it has a snapshot, '{own}'"),
                    name if name == joint => format!("it joins the snapshot '{own}' to '{origin}'"),
                    _ => continue,
                };
                volume.visible = (volume.visible || volume.name == own) && volume.name != joint;
                volume.content = Content::Foreign(why);
            }
        }
    }
}

/// Every string in a segment that could name a volume.
fn references(segment: &Section) -> impl Iterator<Item = &str> {
    let values = segment.0.iter().filter(|(key, _)| key != "type" && key != "tags");
    let values = values.filter_map(|(key, _)| segment.value(key));
    values.flat_map(Value::items).filter_map(Value::text)
}

impl Logical {
    fn of(name: &str, section: &Section, pv: &Physical, names: &HashSet<&str>) -> Result<Self, VolumeError> {
        let at = At { section, place: format!("the volume '{name}'") };
        let (status, tags) = (at.words("status")?, at.words("tags")?);
        let strange = status.iter().find(|word| !matches!(**word, "READ" | "WRITE" | "VISIBLE" | "FIXED_MINOR"));
        let mut why = strange.map(|word| format!("its status is {word}"));
        let segments: HashMap<&str, &Section> = section.sections().collect();
        let (mut runs, mut extents) = (Vec::new(), 0);
        for number in 1..=at.count("segment_count", u64::from(u32::MAX))? {
            let key = format!("segment{number}");
            let inner = *segments.get(key.as_str()).ok_or_else(|| at.wrong(format!("{key} is missing")))?;
            let segment = At { section: inner, place: format!("{key} of {}", at.place) };
            if segment.count("start_extent", u64::MAX)? != extents {
                return Err(segment.wrong("it does not follow the segment before it").into());
            }
            let len = segment.count("extent_count", u64::from(u32::MAX))?;
            let (kind, mut claims) = segment.claims(len, pv, names)?;
            why = why.or(kind);
            runs.append(&mut claims);
            extents += len;
        }
        let why = why.or_else(|| (extents == 0).then(|| "it is empty".into()));
        Ok(Self {
            name: name.to_owned(),
            id: at.id()?,
            visible: status.contains(&"VISIBLE"),
            writable: status.contains(&"WRITE"),
            zeroing: tags.contains(&ZEROING_TAG),
            extents,
            content: why.map_or_else(|| Content::Linear(runs.clone()), Content::Foreign),
            claims: runs,
        })
    }
}

/// A section and what to call it in an error.
struct At<'a> {
    section: &'a Section,
    place: String,
}

impl<'a> At<'a> {
    fn wrong(&self, what: impl std::fmt::Display) -> Damage {
        Damage::new("the LVM2 metadata", format!("{}: {what}", self.place))
    }

    fn value(&self, key: &str) -> Result<&'a Value, Damage> {
        self.section.value(key).ok_or_else(|| self.wrong(format!("'{key}' is missing")))
    }

    fn number(&self, key: &str) -> Result<i64, Damage> {
        self.value(key)?.number().ok_or_else(|| self.wrong(format!("'{key}' is no number")))
    }

    fn count(&self, key: &str, most: u64) -> Result<u64, Damage> {
        let number = self.number(key)?;
        let fits = u64::try_from(number).ok().filter(|&count| count <= most);
        fits.ok_or_else(|| self.wrong(format!("'{key}' cannot be {number}")))
    }

    fn text(&self, key: &str) -> Result<&'a str, Damage> {
        self.value(key)?.text().ok_or_else(|| self.wrong(format!("'{key}' is no string")))
    }

    fn id(&self) -> Result<LvmId, Damage> {
        let text = self.text("id")?;
        text.parse().map_err(|error| self.wrong(format!("its id '{text}' is none: {error}")))
    }

    /// The strings of a list; a list that is not there is empty.
    fn words(&self, key: &str) -> Result<Vec<&'a str>, Damage> {
        let Some(value) = self.section.value(key) else { return Ok(Vec::new()) };
        let words = value.items().iter().map(Value::text);
        words.map(|word| word.ok_or_else(|| self.wrong(format!("'{key}' is no list of words")))).collect()
    }

    /// Why this segment of `len` extents is not linear, if so, and which physical extents it takes.
    fn claims(&self, len: u64, pv: &Physical, names: &HashSet<&str>) -> Result<(Option<String>, Vec<Run>), Damage> {
        if len == 0 {
            return Err(self.wrong("it has no extents"));
        }
        let kind = self.text("type")?;
        if kind != "striped" {
            let lists = self.section.0.iter().filter_map(|(key, _)| self.section.value(key));
            let runs = lists.flat_map(|value| pairs(value.items(), &pv.key)).map(|first| Run { first, count: len });
            return Ok((Some(format!("it is of the type '{kind}'")), runs.collect()));
        }
        let stripes = self.count("stripe_count", u64::from(u32::MAX))?;
        let areas = self.value("stripes")?.items();
        if stripes == 0 || !len.is_multiple_of(stripes) || areas.len() as u64 != stripes * 2 {
            return Err(self.wrong("its stripes do not add up"));
        }
        let (mut why, mut runs) = ((stripes > 1).then(|| "it is striped".into()), Vec::new());
        for area in areas.chunks_exact(2) {
            let first = area[1].number().and_then(|first| u64::try_from(first).ok());
            match (area[0].text(), first) {
                (Some(key), Some(first)) if key == pv.key => runs.push(Run { first, count: len / stripes }),
                (Some(name), Some(_)) if names.contains(name) => why = Some(format!("it is built on '{name}'")),
                _ => return Err(self.wrong("a stripe is on no known physical volume")),
            }
        }
        Ok((why, runs))
    }
}

/// The extents that follow the name of the physical volume in a list of any segment type.
fn pairs<'a>(items: &'a [Value], pv_key: &'a str) -> impl Iterator<Item = u64> + 'a {
    let named = items.windows(2).filter(move |pair| pair[0].text() == Some(pv_key));
    named.filter_map(|pair| pair[1].number().and_then(|first| u64::try_from(first).ok()))
}

fn only<'a>(section: &'a Section, what: &str) -> Result<(&'a str, &'a Section), VolumeError> {
    let mut all = section.sections();
    match (all.next(), all.count()) {
        (Some(one), 0) => Ok(one),
        (None, _) => Err(Damage::new("the LVM2 metadata", format!("there are no {what}")).into()),
        (Some(_), more) => Err(VolumeError::Unsupported(format!("there are {} {what}", more + 1))),
    }
}

fn end_of(run: &Run) -> u128 {
    u128::from(run.first) + u128::from(run.count)
}

#[cfg(test)]
#[path = "model_test.rs"]
mod test;
