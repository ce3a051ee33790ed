//! Starting an array from the disks that were found.
//!
//! `roster` says who is a member; here is what the members hold together: bitmap, facts, and what each lacks.

use super::admin::Array;
use super::array::{Board, Inner, Shape};
use super::bad_blocks::BadBlocks;
use super::bitmap::{self, Bitmap, Header, HeaderError, Settings};
use super::chunks::ChunkSet;
use super::create::disk_error;
use super::facts::{self, Facts, FactsError, RECORDS_MAX, Records};
use super::layout::{self, FACTS_AT, FACTS_BYTES};
use super::leg::{Leg, Standing};
use super::roster::{self, Roster};
use super::superblock::{
    CLEAN, FEATURE_BAD_BLOCKS, FEATURE_BITMAP, Role, SUPERBLOCK_AT, SUPERBLOCK_BYTES, Superblock, SuperblockError,
};
use super::watchdog::SILENCE_MAX;
use super::witness::{Membership, MembershipWitness};
use super::{Member, RaidError};
use crate::IoBuf;
use crate::device::DeviceError;
use crate::runtime::{Rt, sleep};
use futures_util::future::{Either, join_all, select};
use std::collections::HashMap;
use std::pin::pin;
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
    pub bad: BadBlocks,
}

/// More chunks than this are no bitmap that anybody made; so many end before the bad block log.
const CHUNKS_MAX: u64 = 8_000_000;

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
    let Examined { found, outsiders, refused } = examine_all(members, rt).await?;
    let known = recall(&found, witness.as_deref()).await;
    let called = roster::call(&found, outsiders, options.start, known.as_ref());
    let Roster { newest, legs, missing, outsiders, roles, block_bytes } = match (called, refused) {
        // Who is counted as missing is here, and refused by name.
        (Err(RaidError::Incomplete { .. } | RaidError::NoneInSync), Some(refused)) => return Err(refused),
        (called, _) => called?,
    };
    let dirty = newest.resync_offset != CLEAN;
    let (bitmap, unread) = load_bitmap(&newest, &legs, rt).await?;
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
    let inner = Inner::new(rt, shape(&newest, chunk_bytes, block_bytes, rt, options), board);
    inner.watch.witness.replace(witness);
    inner.watch.kept.replace(known);
    if inner.is_news(&inner.membership()) {
        inner.touch();
    }
    // What could not be read is written again: a disk relocates it.
    if behind || unread {
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

fn shape(newest: &Superblock, chunk_bytes: u64, block_bytes: u32, rt: &Rt, options: AssembleOptions) -> Shape {
    Shape {
        id: newest.array,
        name: newest.name,
        created: newest.created,
        size: newest.size,
        chunk_bytes,
        block_bytes,
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

/// What the disks that were handed in are.
struct Examined {
    found: Vec<Found>,
    outsiders: Vec<(String, String)>,
    /// A disk that is a member of something that this version does not do.
    refused: Option<RaidError>,
}

async fn examine_all(members: Vec<Member>, rt: &Rt) -> Result<Examined, RaidError> {
    let (mut found, mut outsiders, mut refused, mut first_error) = (Vec::new(), Vec::new(), None, None);
    let labels: Vec<String> = members.iter().map(|member| member.label.clone()).collect();
    let all = members.into_iter().map(|member| {
        let label = member.label.clone();
        async move { in_time(rt, examine(member)).await.unwrap_or(Err(RaidError::Silent { label })) }
    });
    for (label, examined) in labels.into_iter().zip(join_all(all).await) {
        match examined {
            Ok(one) => found.push(one),
            Err(error @ RaidError::Facts { .. }) => return Err(error),
            Err(error) => {
                outsiders.push((label, error.to_string()));
                let named = matches!(error, RaidError::Superblock { source: SuperblockError::Unsupported(_), .. });
                let place = if named { &mut refused } else { &mut first_error };
                place.get_or_insert(error);
            }
        }
    }
    match (refused, first_error) {
        (Some(error), _) | (None, Some(error)) if found.is_empty() => Err(error),
        (refused, _) => Ok(Examined { found, outsiders, refused }),
    }
}

/// The answer of a disk, or `None` if it takes longer than one that works may: one that hangs does not hold up the start.
async fn in_time<T>(rt: &Rt, work: impl Future<Output = T>) -> Option<T> {
    match select(pin!(work), sleep(rt, SILENCE_MAX)).await {
        Either::Left((answer, _)) => Some(answer),
        Either::Right(_) => None,
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
    let bad = read_bad_blocks(&member, &superblock).await?;
    Ok(Found { member, superblock, facts, bad })
}

/// The places where a member holds nothing. A log that cannot be read, or is not sound, may name any: the disk is not used.
async fn read_bad_blocks(member: &Member, superblock: &Superblock) -> Result<BadBlocks, RaidError> {
    if !superblock.has(FEATURE_BAD_BLOCKS) {
        return Ok(BadBlocks::default());
    }
    let refuse = |what: String| RaidError::Unsupported { label: member.label.clone(), what };
    let block_bytes = member.disk.geometry().block_bytes;
    let Some(place) = layout::log_place(superblock).filter(|place| place.is_aligned(block_bytes)) else {
        return Err(refuse("its bad block log lies where muskox cannot keep it".into()));
    };
    let bytes = member.disk.read(place.at, IoBuf::new(place.bytes)).await;
    let bytes = bytes.map_err(|error| refuse(format!("its bad block log cannot be read: {error}")))?;
    BadBlocks::decode(&bytes, &place)
        .map_err(|entry| refuse(format!("its bad block log is damaged: the entry {entry:#x} cannot be")))
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

/// What a member's bitmap says.
enum Bits {
    Sound {
        chunk_bytes: u64,
        set: ChunkSet,
        events_cleared: u64,
        settings: Settings,
    },
    /// None that can be used: any chunk may differ.
    Unusable,
    /// It could not be read. A bit is on every member before its data is on any, and goes only when they are equal: the
    /// others' bitmaps say enough.
    Unread,
    Unsupported(String),
}

/// The bits of all members in sync together, and whether one could not be read. Where one's bitmap cannot be used, or none
/// can be read, every bit counts as set.
async fn load_bitmap(
    newest: &Superblock,
    legs: &[Option<Rc<Leg>>],
    rt: &Rt,
) -> Result<(Option<Bitmap>, bool), RaidError> {
    if !newest.has(FEATURE_BITMAP) {
        return Ok((None, false));
    }
    let in_sync: Vec<&Rc<Leg>> = legs.iter().flatten().filter(|leg| leg.is_in_sync()).collect();
    let all = in_sync.iter().map(|leg| async { in_time(rt, read_bitmap(newest, leg)).await.unwrap_or(Bits::Unread) });
    let (mut union, mut usable, mut unread, mut unsupported) = (None, true, false, None);
    for (leg, bits) in in_sync.iter().zip(join_all(all).await) {
        match (bits, &mut union) {
            (Bits::Sound { chunk_bytes, set, events_cleared, settings }, None) => {
                union = Some((chunk_bytes, set, events_cleared, settings));
            }
            (Bits::Sound { chunk_bytes, set, events_cleared, .. }, Some((all_chunk, all, all_cleared, _)))
                if chunk_bytes == *all_chunk =>
            {
                all.add_all(&set);
                *all_cleared = events_cleared.max(*all_cleared);
            }
            (Bits::Unread, _) => unread = true,
            (Bits::Unsupported(what), _) => {
                let what =
                    format!("it has {what}, which muskox does not do: remove it with mdadm --grow --bitmap=none");
                unsupported = Some(RaidError::Unsupported { label: leg.label.clone(), what });
            }
            (Bits::Sound { .. } | Bits::Unusable, _) => usable = false,
        }
    }
    match unsupported {
        Some(error) if union.is_none() => return Err(error),
        Some(_) => usable = false,
        None => {}
    }
    let (chunk_bytes, set, cleared, settings) = union.filter(|_| usable).unwrap_or_else(|| {
        let chunk_bytes = layout::chunk_bytes(size_of(newest));
        let chunks = bitmap::chunk_count(size_of(newest), chunk_bytes);
        (chunk_bytes, ChunkSet::of_range(chunks, 0..chunks), newest.events, Settings::default())
    });
    let bytes = bitmap::bytes_on_disk(set.possible()) as u64;
    for leg in legs.iter().flatten() {
        let Some(at) = layout::bitmap_at(&leg.own, bytes) else {
            let what = "its bitmap lies where muskox cannot keep it: remove the bitmap with mdadm --grow".to_owned();
            return Err(RaidError::Unsupported { label: leg.label.clone(), what });
        };
        leg.bitmap_at.set(Some(at));
    }
    let mut bitmap = Bitmap::new(chunk_bytes, set, cleared);
    bitmap.settings = settings;
    Ok((Some(bitmap), unread))
}

async fn read_bitmap(newest: &Superblock, leg: &Leg) -> Bits {
    let read = async |at: ByteOffset, len: usize| -> Result<IoBuf, DeviceError> {
        leg.metadata()?.read(at, IoBuf::new(len.next_multiple_of(bitmap::PAGE_BYTES))).await
    };
    let Some(at) = layout::bitmap_at(&leg.own, bitmap::PAGE_BYTES as u64) else {
        return Bits::Unusable;
    };
    let Ok(page) = read(at, bitmap::PAGE_BYTES).await else {
        return Bits::Unread;
    };
    let header = match Header::decode(&page) {
        Ok(header) => header,
        Err(HeaderError::Unusable) => return Bits::Unusable,
        Err(HeaderError::Unsupported(what)) => return Bits::Unsupported(what),
    };
    let chunk_bytes = u64::from(header.chunk_bytes);
    let current = header.events >= leg.own.events && header.sync_size == newest.size;
    if !current || header.array != newest.array || size_of(newest).0.div_ceil(chunk_bytes) > CHUNKS_MAX {
        return Bits::Unusable;
    }
    let chunks = bitmap::chunk_count(size_of(newest), chunk_bytes);
    let len = bitmap::bytes_on_disk(chunks);
    if layout::bitmap_at(&leg.own, len as u64).is_none() {
        return Bits::Unusable;
    }
    let Ok(bytes) = read(at, len).await else {
        return Bits::Unread;
    };
    let (set, settings) = (bitmap::decode_bits(&bytes, chunks), header.settings);
    Bits::Sound { chunk_bytes, set, events_cleared: header.events_cleared, settings }
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
