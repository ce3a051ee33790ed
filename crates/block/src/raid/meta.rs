//! Writing bitmap, facts and superblocks: one task owns this, so that updates have one order.
//!
//! A round writes what is dirty to every live member at once, in each in the order bitmap, facts, bad block log, superblock
//! (so the bitmap is never older than the superblock, as md demands). A member whose metadata cannot be written is failed, and
//! another round records that on the others, before anybody who waits goes on (B-06).

use super::array::{Inner, LastOne};
use super::bitmap::{Header, PAGE_BYTES, Settings};
use super::chunks::ChunkSet;
use super::facts::{self, Facts};
use super::leg::{Joined, Leg, Outcome};
use super::superblock::{
    CLEAN, FEATURE_BAD_BLOCKS, FEATURE_BITMAP, FEATURE_RECOVERY, FEATURE_RECOVERY_BITMAP, SUPERBLOCK_AT, Superblock,
};
use super::witness::Membership;
use crate::device::{DeviceError, Durability, IoFuture};
use crate::{IoBuf, IoData};
use std::rc::Rc;
use units::sabotage::{Bug, planted};
use units::{ByteOffset, Sectors};

type Writes = Vec<(ByteOffset, IoData)>;

/// What one round writes.
struct Plan {
    generation: u64,
    per_leg: Vec<(Rc<Leg>, Writes)>,
    snapshot: Option<ChunkSet>,
    membership: Membership,
}

/// Writes until nothing is dirty. There is one of these at a time ([`Inner::touch`]).
pub(super) async fn write_all(inner: Rc<Inner>) {
    assert!(!planted(Bug::TaskPanics), "planted");
    while inner.progress.settled.get() < inner.progress.wanted.get() {
        let plan = plan(&inner);
        let (generation, membership) = (plan.generation, plan.membership.clone());
        if planted(Bug::WitnessFirst) && inner.tell(membership.clone()).await.is_err() {
            return;
        }
        let done = match round(&inner, plan).await {
            // The members first: what the witness says of them is never newer than what they say.
            Ok(true) => inner.tell(membership).await.map(|()| true),
            other => other,
        };
        match done {
            Ok(true) => {
                inner.progress.settled.set(generation);
                inner.progress.changed.wake_all();
            }
            Ok(false) => {}
            Err(error) => {
                inner.become_broken(error);
                return;
            }
        }
    }
    inner.progress.running.set(false);
}

/// Whether every member that was asked has it; a member that failed is recorded by the next round.
async fn round(inner: &Rc<Inner>, plan: Plan) -> Result<bool, DeviceError> {
    let writes: Vec<(Rc<Leg>, Writes)> = plan.per_leg;
    let legs = writes.iter().map(|(leg, _)| Rc::clone(leg));
    let joined = Joined::start(inner, inner.rt.now(), legs, |leg| {
        let (_, writes) = writes.iter().find(|(other, _)| std::ptr::eq(&raw const **other, leg)).expect("made for it");
        in_order(leg, writes.clone())
    });
    let mut all = true;
    for (leg, outcome) in joined.await {
        if let Outcome::Answered(Err(error)) = outcome {
            if planted(Bug::MetadataEioIgnored) {
                continue;
            }
            all = false;
            if let Err(LastOne) = inner.fail(&leg, &format!("writing its metadata: {error}")) {
                leg.cause.replace(Some(format!("writing its metadata: {error}")));
                return Err(error);
            }
        }
    }
    // A member that failed does not count any more: on the others it is written.
    if let (Some(snapshot), Some(bitmap)) = (plan.snapshot, &mut inner.board.borrow_mut().bitmap) {
        bitmap.written(&snapshot);
    }
    Ok(all)
}

fn in_order(leg: &Leg, writes: Writes) -> IoFuture<()> {
    let disk = match leg.metadata() {
        Ok(disk) => disk,
        Err(error) => return IoFuture::ready(Err(error)),
    };
    IoFuture::later(async move {
        for (at, data) in writes {
            disk.write(at, data, Durability::Fua).await?;
        }
        Ok(())
    })
}

fn plan(inner: &Inner) -> Plan {
    let live = inner.live();
    let mut board = inner.board.borrow_mut();
    let events_before = board.events;
    let superblocks = std::mem::take(&mut board.superblock_dirty);
    if superblocks {
        board.events += 1;
        board.facts_dirty = true;
        if let Some(bitmap) = &mut board.bitmap {
            bitmap.rewrite_header();
        }
    }
    let events = board.events;
    let taken = board.bitmap.as_mut().map(|bitmap| {
        let header = header(inner, events, bitmap.events_cleared(), bitmap.settings.clone());
        bitmap.take_dirty(&header)
    });
    let facts = std::mem::take(&mut board.facts_dirty).then(|| {
        board.facts_sequence = (board.facts_sequence + 1).min(facts::SEQUENCE_MAX);
        board.facts_sequence
    });
    let (pages, snapshot) = taken.map_or((Vec::new(), None), |(pages, snapshot)| (pages, Some(snapshot)));
    let pages: Writes =
        pages.iter().map(|(page, bytes)| (page_offset(*page), IoBuf::copy_of(bytes).freeze())).collect();
    drop(board);
    let per_leg = live.into_iter().map(|leg| {
        let mut writes = Writes::new();
        if let Some(at) = leg.bitmap_at.get() {
            writes.extend(pages.iter().map(|(page, data)| (ByteOffset(at.0 + page.0), data.clone())));
        }
        if let Some(sequence) = facts.filter(|_| leg.facts_room) {
            let slot = if planted(Bug::FactsOverNewest) { sequence / 2 } else { sequence };
            writes.push((facts::slot_at(slot), facts_of(inner, &leg, sequence, events_before)));
        }
        if let Some((at, log)) = leg.take_log() {
            writes.push((at, log));
        }
        if superblocks {
            writes.push((SUPERBLOCK_AT, IoBuf::copy_of(&superblock_of(inner, &leg).encode()).freeze()));
        }
        if planted(Bug::SuperblockFirst) && leg.by_bitmap.get() {
            writes.reverse();
        }
        (leg, writes)
    });
    Plan {
        generation: inner.progress.wanted.get(),
        per_leg: per_leg.collect(),
        snapshot,
        membership: inner.membership(),
    }
}

fn page_offset(page: usize) -> ByteOffset {
    ByteOffset((page * PAGE_BYTES) as u64)
}

fn header(inner: &Inner, events: u64, events_cleared: u64, settings: Settings) -> Header {
    Header {
        array: inner.shape.id,
        events,
        events_cleared,
        sync_size: inner.shape.size,
        chunk_bytes: u32::try_from(inner.shape.chunk_bytes).expect("chosen or read as 32 bits"),
        settings,
    }
}

fn facts_of(inner: &Inner, leg: &Leg, sequence: u64, events_before: u64) -> IoData {
    let board = inner.board.borrow();
    let records = board.records.clone();
    let facts = Facts { sequence, array: inner.shape.id, role: leg.slot, events_before, events: board.events, records };
    IoBuf::copy_of(&facts.encode()).freeze()
}

/// The superblock of one member as the array stands now.
pub(super) fn superblock_of(inner: &Inner, leg: &Leg) -> Superblock {
    let board = inner.board.borrow();
    let mut features = 0;
    if board.bitmap.is_some() {
        features |= FEATURE_BITMAP;
    }
    let mut recovery_offset = 0;
    if !leg.is_in_sync() {
        features |= FEATURE_RECOVERY;
        recovery_offset = leg.recovered.get().0;
        if leg.by_bitmap.get() {
            features |= FEATURE_RECOVERY_BITMAP;
        }
    }
    let mut own = leg.own.clone();
    if let Some(place) = leg.log.filter(|_| !leg.bad.borrow().is_empty()) {
        features |= FEATURE_BAD_BLOCKS;
        let sectors = (place.at.0 - SUPERBLOCK_AT.0) / 512;
        own.bad_block_offset = i32::try_from(sectors).expect("before the data");
        own.bad_block_sectors = u16::try_from(place.bytes / 512).expect("at most a page");
        own.bad_block_shift = place.shift;
    }
    let elapsed_ms = inner.rt.now().since(inner.shape.since).0;
    Superblock {
        features,
        array: inner.shape.id,
        name: inner.shape.name,
        created: inner.shape.created,
        size: inner.shape.size,
        slots: u32::try_from(board.legs.len()).expect("at most eight"),
        bitmap_offset: bitmap_offset(leg),
        recovery_offset,
        updated: inner.shape.unix_seconds + elapsed_ms / 1000,
        events: board.events,
        resync_offset: if board.clean { CLEAN } else { 0 },
        roles: board.roles.clone(),
        block_bytes: inner.geometry.get().block_bytes,
        ..own
    }
}

fn bitmap_offset(leg: &Leg) -> i32 {
    let sectors = leg.bitmap_at.get().map_or(Sectors(0), |at| Sectors((at.0 - SUPERBLOCK_AT.0) / 512));
    i32::try_from(sectors.0).expect("before the data")
}
