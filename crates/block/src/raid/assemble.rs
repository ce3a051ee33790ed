//! Starting an array from the disks that were found.
//!
//! `roster` says who is a member; here is what the members hold together: bitmap, facts, and what each lacks.

use super::admin::Array;
use super::array::{Board, Inner, Shape};
use super::bitmap::{self, Bitmap, Header};
use super::chunks::ChunkSet;
use super::create::disk_error;
use super::facts::{self, Facts, FactsError, RECORDS_MAX, Records};
use super::layout::{self, FACTS_AT, FACTS_BYTES};
use super::leg::{Leg, Standing};
use super::roster::{self, Roster};
use super::superblock::{CLEAN, FEATURE_BITMAP, Role, SUPERBLOCK_AT, SUPERBLOCK_BYTES, Superblock};
use super::witness::{Membership, MembershipWitness};
use super::{Member, RaidError};
use crate::IoBuf;
use crate::runtime::Rt;
use std::collections::HashMap;
use std::rc::Rc;
use units::{ByteLen, ByteOffset};

/// How few members are enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// All that the newest superblock calls active must be here: nobody else can hold newer data.
    AsLeft,
    /// As left; or with fewer, if the witness names one that is here: it holds everything that was acknowledged.
    /// What a box does by itself.
    Witnessed,
    /// One member in sync is enough. If the missing one went on alone, what it acknowledged is not seen: only by the
    /// word of an operator who knows that the missing ones are lost.
    Degraded,
}

/// How to start.
#[derive(Clone, Copy, Debug)]
pub struct AssembleOptions {
    /// How few members are enough.
    pub start: Start,
    /// Seconds since 1970, for the superblocks' times.
    pub unix_seconds: u64,
}

/// A disk with a sound superblock.
pub(super) struct Found {
    pub member: Member,
    pub superblock: Superblock,
    pub facts: Result<Facts, FactsError>,
}

/// More chunks than this are no bitmap that anybody made.
const CHUNKS_MAX: u64 = 1 << 23;

/// Starts the array whose members these are. Disks that are not (any more) members are named in the status.
///
/// # Errors
/// [`RaidError`]; nothing was written then.
///
/// # Panics
/// Never: the `expect`s name why.
pub async fn assemble(members: Vec<Member>, rt: &Rt, options: AssembleOptions) -> Result<Rc<Array>, RaidError> {
    bring_up(members, rt, options, None).await
}

/// The same with a witness, which is asked what it knows and told from then on.
///
/// # Errors
/// [`RaidError`]; nothing was written then.
pub async fn assemble_witnessed(
    members: Vec<Member>,
    rt: &Rt,
    options: AssembleOptions,
    witness: Rc<dyn MembershipWitness>,
) -> Result<Rc<Array>, RaidError> {
    bring_up(members, rt, options, Some(witness)).await
}

async fn bring_up(
    members: Vec<Member>,
    rt: &Rt,
    options: AssembleOptions,
    witness: Option<Rc<dyn MembershipWitness>>,
) -> Result<Rc<Array>, RaidError> {
    let (found, outsiders) = examine_all(members).await?;
    let known = recall(&found, witness.as_deref()).await;
    let Roster { newest, mut legs, missing, outsiders, roles } =
        roster::call(&found, outsiders, options.start, known.as_ref())?;
    let dirty = newest.resync_offset != CLEAN;
    let bitmap = load_bitmap(&newest, &mut legs).await?;
    let chunk_bytes = bitmap.as_ref().map_or_else(|| layout::chunk_bytes(size_of(&newest)), Bitmap::chunk_bytes);
    assign_work(&legs, bitmap.as_ref(), chunk_bytes, &newest, dirty);

    let complete = legs.iter().all(|leg| leg.as_ref().is_some_and(|leg| has_facts(&found, &newest, leg)));
    let (all_facts, records) = merge_facts(&found, &newest)?;
    let missing: Vec<(u32, usize)> = missing.into_iter().filter_map(|number| slot_of(&newest, number)).collect();
    let behind = !missing.is_empty() || legs.iter().flatten().any(|leg| leg.own.events != newest.events);
    let board = Board {
        legs,
        roles,
        events: newest.events,
        clean: !dirty || newest.slots == 1,
        bitmap,
        uses: HashMap::new(),
        facts_sequence: all_facts.iter().map(|facts| facts.sequence).max().unwrap_or(0),
        found: facts::each(&all_facts),
        records,
        complete,
        superblock_dirty: false,
        facts_dirty: false,
        outsiders,
        missing,
    };
    let inner = Inner::new(rt, shape(&newest, chunk_bytes, rt, options), board);
    inner.watch.witness.replace(witness);
    inner.watch.kept.replace(known);
    if inner.is_news(&inner.membership()) {
        inner.touch();
    }
    if behind {
        inner.touch_superblocks();
    }
    // Degraded from the start is recorded before anything is served (I6).
    inner.settle(inner.progress.wanted.get()).await?;
    inner.resync_later();
    inner.tidy_if_active();
    Ok(Rc::new(Array(inner)))
}

/// The facts of all that were found, stale ones too, and what they say together.
fn merge_facts(found: &[Found], newest: &Superblock) -> Result<(Vec<Facts>, Records), RaidError> {
    let all = found.iter().filter_map(|one| one.facts.clone().ok());
    let all: Vec<Facts> = all.filter(|facts| facts.array == newest.array).collect();
    let records = facts::merge(all.clone());
    if records.len() > RECORDS_MAX {
        let what = format!("its members' facts together have {} records, {RECORDS_MAX} are kept", records.len());
        return Err(RaidError::Unsupported { label: found[0].member.label.clone(), what });
    }
    Ok((all, records))
}

fn shape(newest: &Superblock, chunk_bytes: u64, rt: &Rt, options: AssembleOptions) -> Shape {
    Shape {
        id: newest.array,
        name: newest.name.clone(),
        created: newest.created,
        size: newest.size,
        chunk_bytes,
        unix_seconds: options.unix_seconds,
        since: rt.now(),
    }
}

/// A number with its slot, if it has one.
fn slot_of(newest: &Superblock, number: usize) -> Option<(u32, usize)> {
    let number = u32::try_from(number).ok()?;
    match newest.role_of(number) {
        Role::Active(slot) => Some((number, usize::from(slot))),
        Role::Spare | Role::Faulty => None,
    }
}

fn size_of(newest: &Superblock) -> ByteLen {
    ByteLen(newest.size.bytes())
}

async fn examine_all(members: Vec<Member>) -> Result<(Vec<Found>, Vec<(String, String)>), RaidError> {
    let (mut found, mut outsiders, mut first_error) = (Vec::new(), Vec::new(), None);
    for member in members {
        let label = member.label.clone();
        match examine(member).await {
            Ok(one) => found.push(one),
            Err(error @ RaidError::Facts { .. }) => return Err(error),
            Err(error) => {
                outsiders.push((label, error.to_string()));
                first_error.get_or_insert(error);
            }
        }
    }
    match first_error {
        Some(error) if found.is_empty() => Err(error),
        _ => Ok((found, outsiders)),
    }
}

async fn examine(member: Member) -> Result<Found, RaidError> {
    let superblock = read_superblock(&member).await?;
    let size = member.disk.geometry().size.0;
    if superblock.data_offset.bytes() + superblock.size.bytes() > size {
        let least = ByteLen(superblock.data_offset.bytes() + superblock.size.bytes());
        return Err(RaidError::TooSmall { label: member.label, size: ByteLen(size), least });
    }
    if !superblock.data_offset.bytes().is_multiple_of(u64::from(member.disk.geometry().block_bytes)) {
        return Err(RaidError::Unsupported { label: member.label, what: "its data begins within a block".into() });
    }
    let facts = read_facts(&member, &superblock).await?;
    Ok(Found { member, superblock, facts })
}

/// The facts of a disk with this superblock.
pub(super) async fn read_facts(
    member: &Member,
    superblock: &Superblock,
) -> Result<Result<Facts, FactsError>, RaidError> {
    if !layout::has_facts_room(superblock) {
        return Ok(Err(FactsError::Absent));
    }
    let area = IoBuf::new(usize::try_from(FACTS_BYTES.0).expect("a mebibyte"));
    let area = member.disk.read(FACTS_AT, area).await.map_err(|source| disk_error(member, source))?;
    match Facts::newest(&area) {
        Err(source @ FactsError::Newer(_)) => Err(RaidError::Facts { label: member.label.clone(), source }),
        facts => Ok(facts),
    }
}

/// The superblock of a disk.
pub(super) async fn read_superblock(member: &Member) -> Result<Superblock, RaidError> {
    if member.disk.geometry().size.0 < SUPERBLOCK_AT.0 + SUPERBLOCK_BYTES as u64 {
        let source = super::superblock::SuperblockError::Absent;
        return Err(RaidError::Superblock { label: member.label.clone(), source });
    }
    let bytes = member.disk.read(SUPERBLOCK_AT, IoBuf::new(SUPERBLOCK_BYTES)).await;
    let bytes = bytes.map_err(|source| disk_error(member, source))?;
    let bytes: &[u8; SUPERBLOCK_BYTES] = bytes.first_chunk().expect("a read fills its buffer");
    Superblock::decode(bytes).map_err(|source| RaidError::Superblock { label: member.label.clone(), source })
}

/// What the witness knows of the array; a witness that cannot say knows nothing.
async fn recall(found: &[Found], witness: Option<&dyn MembershipWitness>) -> Option<Membership> {
    let array = found.first()?.superblock.array;
    witness?.recall(array).await.unwrap_or_default()
}

fn has_facts(found: &[Found], newest: &Superblock, leg: &Leg) -> bool {
    let own = found.iter().find(|one| one.superblock.number == leg.number && one.member.label == leg.label);
    own.is_some_and(|one| matches!(&one.facts, Ok(facts) if facts.array == newest.array && facts.role == leg.slot))
}

/// The bits of all members in sync together. Where one's bitmap cannot be used, every bit counts as set.
async fn load_bitmap(newest: &Superblock, legs: &mut [Option<Rc<Leg>>]) -> Result<Option<Bitmap>, RaidError> {
    if !newest.has(FEATURE_BITMAP) {
        return Ok(None);
    }
    let mut union: Option<(u64, ChunkSet, u64)> = None;
    let mut sound = true;
    for leg in legs.iter().flatten().filter(|leg| leg.is_in_sync()) {
        match (read_bitmap(newest, leg).await?, &mut union) {
            (Some(own), None) => union = Some(own),
            (Some((chunk, bits, cleared)), Some((all_chunk, all, all_cleared))) if chunk == *all_chunk => {
                all.add_all(&bits);
                *all_cleared = cleared.max(*all_cleared);
            }
            _ => sound = false,
        }
    }
    let (chunk_bytes, bits, cleared) = union.filter(|_| sound).unwrap_or_else(|| {
        let chunk_bytes = layout::chunk_bytes(size_of(newest));
        let chunks = bitmap::chunk_count(size_of(newest), chunk_bytes);
        (chunk_bytes, ChunkSet::of_range(chunks, 0..chunks), newest.events)
    });
    let bytes = bitmap::bytes_on_disk(bits.possible()) as u64;
    for leg in legs.iter().flatten() {
        let Some(at) = layout::bitmap_at(&leg.own, bytes) else {
            let what = "its bitmap lies where muskox cannot keep it: remove the bitmap with mdadm --grow".to_owned();
            return Err(RaidError::Unsupported { label: leg.label.clone(), what });
        };
        leg.bitmap_at.set(Some(at));
    }
    Ok(Some(Bitmap::new(chunk_bytes, bits, cleared)))
}

async fn read_bitmap(newest: &Superblock, leg: &Leg) -> Result<Option<(u64, ChunkSet, u64)>, RaidError> {
    let read = async |at: ByteOffset, len: usize| {
        let bytes = leg.metadata()?.read(at, IoBuf::new(len.next_multiple_of(bitmap::PAGE_BYTES))).await;
        bytes.map_err(|source| RaidError::Disk { label: leg.label.clone(), source })
    };
    let Some(at) = layout::bitmap_at(&leg.own, bitmap::PAGE_BYTES as u64) else {
        return Ok(None);
    };
    let Some(header) = Header::decode(&read(at, bitmap::PAGE_BYTES).await?) else {
        return Ok(None);
    };
    let chunk_bytes = u64::from(header.chunk_bytes);
    let current = header.events >= leg.own.events && header.sync_size == newest.size;
    if !current || header.array != newest.array || size_of(newest).0.div_ceil(chunk_bytes) > CHUNKS_MAX {
        return Ok(None);
    }
    let chunks = bitmap::chunk_count(size_of(newest), chunk_bytes);
    let len = bitmap::bytes_on_disk(chunks);
    if layout::bitmap_at(&leg.own, len as u64).is_none() {
        return Ok(None);
    }
    Ok(Some((chunk_bytes, bitmap::decode_bits(&read(at, len).await?, chunks), header.events_cleared)))
}

/// What each member lacks: after a crash whatever the bits say, in a recovery what lies above the offset.
fn assign_work(legs: &[Option<Rc<Leg>>], bitmap: Option<&Bitmap>, chunk_bytes: u64, newest: &Superblock, dirty: bool) {
    let chunks = bitmap::chunk_count(size_of(newest), chunk_bytes);
    let from =
        |sectors: u64| usize::try_from(sectors.saturating_mul(512) / chunk_bytes).map_or(chunks, |n| n.min(chunks));
    let resync_from = if dirty { from(newest.resync_offset) } else { chunks };
    let unequal = bitmap.map_or_else(|| ChunkSet::of_range(chunks, resync_from..chunks), |bitmap| bitmap.set().clone());
    let mut source_seen = false;
    for leg in legs.iter().flatten() {
        let todo = match leg.standing() {
            Standing::InSync if dirty && std::mem::replace(&mut source_seen, true) => unequal.clone(),
            Standing::InSync => ChunkSet::empty(chunks),
            _ if leg.by_bitmap.get() => {
                bitmap.map_or_else(|| ChunkSet::of_range(chunks, 0..chunks), |b| b.set().clone())
            }
            _ => {
                let mut todo = ChunkSet::of_range(chunks, from(leg.recovered.get().0)..chunks);
                if dirty {
                    todo.add_all(&unequal);
                }
                todo
            }
        };
        leg.todo.replace(todo);
    }
}
