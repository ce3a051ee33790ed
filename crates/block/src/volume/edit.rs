//! Changes to a metadata tree: a new group, a volume more, a volume less. All else in the tree stays as it is.

use super::extents::Run;
use super::ident::LvmId;
use super::model::{CONTENTS, Group, ZEROING_TAG};
use super::text::{Entry, Section, Value};
use units::{ByteLen, ByteOffset, SECTOR_BYTES};

/// What our physical volume is called in segments.
const PV_KEY: &str = "pv0";
/// Who made it, where stock tools put the host's name: muskox names no hosts in what a peer may read.
const HOST: &str = "muskox";

/// What a new group needs.
pub struct NewGroup<'a> {
    pub name: &'a str,
    pub group_id: LvmId,
    pub physical_id: LvmId,
    pub disk_len: ByteLen,
    pub extents_at: ByteOffset,
    pub extent_len: ByteLen,
    pub extents: u64,
    pub now_unix: u64,
}

/// The tree of a group without volumes, before its first [`stamp`].
pub fn new_group(new: &NewGroup<'_>) -> Section {
    let physical = Section::from([
        ("id", Entry::from(new.physical_id.to_string().as_str())),
        ("device", format!("/dev/md/{}", new.name).as_str().into()),
        ("status", ["ALLOCATABLE".into()].into()),
        ("flags", [].into()),
        ("dev_size", number(new.disk_len.0 / SECTOR_BYTES)),
        ("pe_start", number(new.extents_at.0 / SECTOR_BYTES)),
        ("pe_count", number(new.extents)),
    ]);
    let group = Section::from([
        ("id", Entry::from(new.group_id.to_string().as_str())),
        ("seqno", 0.into()),
        ("format", "lvm2".into()),
        ("status", ["RESIZEABLE".into(), "READ".into(), "WRITE".into()].into()),
        ("flags", [].into()),
        ("extent_size", number(new.extent_len.0 / SECTOR_BYTES)),
        ("max_lv", 0.into()),
        ("max_pv", 0.into()),
        ("metadata_copies", 0.into()),
        ("physical_volumes", Entry::Section([(PV_KEY, Entry::Section(physical))].into())),
    ]);
    let mut root =
        Section::from([(new.name, Entry::Section(group)), ("contents", CONTENTS.into()), ("version", 1.into())]);
    stamp(&mut root, new.name, 1, new.now_unix);
    root
}

/// Says who changed the group, when, and for the how many-th time.
pub fn stamp(root: &mut Section, group: &str, seqno: u32, now_unix: u64) {
    root.set("description", "Write from muskox.".into());
    root.set("creation_host", HOST.into());
    root.set("creation_time", number(now_unix));
    section(root, group).set("seqno", i64::from(seqno).into());
}

/// Adds a linear volume on `runs`, tagged as not zeroed.
pub fn add_volume(root: &mut Section, group: &Group, name: &str, id: LvmId, runs: &[Run], now_unix: u64) {
    let mut volume = Section::from([
        ("id", Entry::from(id.to_string().as_str())),
        ("status", ["READ".into(), "WRITE".into(), "VISIBLE".into()].into()),
        ("flags", [].into()),
        ("tags", [ZEROING_TAG.into()].into()),
        ("creation_time", number(now_unix)),
        ("creation_host", HOST.into()),
        ("segment_count", number(runs.len() as u64)),
    ]);
    let mut start = 0;
    for (index, run) in runs.iter().enumerate() {
        let segment = Section::from([
            ("start_extent", number(start)),
            ("extent_count", number(run.count)),
            ("type", "striped".into()),
            ("stripe_count", 1.into()),
            ("stripes", [group.physical.key.as_str().into(), value(run.first)].into()),
        ]);
        volume.set(&format!("segment{}", index + 1), Entry::Section(segment));
        start += run.count;
    }
    let group = section(root, &group.name);
    if group.section("logical_volumes").is_none() {
        group.set_after("physical_volumes", "logical_volumes", Entry::Section(Section::default()));
    }
    section(group, "logical_volumes").set(name, Entry::Section(volume));
}

/// Removes a volume.
pub fn remove_volume(root: &mut Section, group: &str, name: &str) {
    let group = section(root, group);
    let all = section(group, "logical_volumes");
    all.remove(name);
    if all.0.is_empty() {
        group.remove("logical_volumes");
    }
}

/// Takes the tag off a volume that is zeroed.
pub fn untag(root: &mut Section, group: &str, name: &str) {
    let volume = section(section(section(root, group), "logical_volumes"), name);
    let Some(tags) = volume.value("tags") else { return };
    let left: Vec<Value> = tags.items().iter().filter(|tag| tag.text() != Some(ZEROING_TAG)).cloned().collect();
    if left.is_empty() {
        volume.remove("tags");
    } else {
        volume.set("tags", Entry::Value(Value::List(left)));
    }
}

fn section<'a>(of: &'a mut Section, key: &str) -> &'a mut Section {
    of.section_mut(key).expect("the model was read out of this tree")
}

fn number(count: u64) -> Entry {
    Entry::Value(value(count))
}

fn value(count: u64) -> Value {
    Value::Number(i64::try_from(count).expect("a count of sectors or extents is below 2^63"))
}
