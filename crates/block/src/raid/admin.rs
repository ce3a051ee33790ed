//! What an operator and the gate ask of a running array.

use super::array::{Inner, LastOne};
use super::assemble::{read_facts, read_superblock};
use super::bitmap::Bitmap;
use super::chunks::ChunkSet;
use super::create::{clear_head, disk_error, failed, new_leg, own_superblock_at, refuse_used};
use super::facts::{RECORDS_MAX, epoch_of};
use super::history::{self, Relation, relation};
use super::io::ArrayDisk;
use super::layout::{self, BITMAP_AT};
use super::leg::{Leg, Standing};
use super::meta::superblock_of;
use super::records::FactsTable;
use super::status::ArrayStatus;
use super::superblock::{FEATURE_BAD_BLOCKS, FEATURE_RECOVERY, FEATURE_RECOVERY_BITMAP, ROLES_KEPT, Role, Superblock};
use super::witness::MembershipWitness;
use super::{Member, RaidError, SLOTS_MAX};
use crate::device::Disk;
use std::rc::Rc;
use units::sabotage::{Bug, planted};
use units::{ByteLen, Millis, Moment, Sectors};

/// Members that hung together come back together, give or take this: a controller's reset brings one disk after the other.
const RETURN_MAX: Millis = Millis(1500);

/// A running array.
pub struct Array(pub(super) Rc<Inner>);

impl Array {
    /// The array as a disk.
    #[must_use]
    pub fn disk(&self) -> Disk {
        Rc::new(ArrayDisk(Rc::clone(&self.0)))
    }

    /// What there is to say about it.
    #[must_use]
    pub fn status(&self) -> ArrayStatus {
        self.0.status()
    }

    /// The per-volume records on its members.
    #[must_use]
    pub fn facts(&self) -> FactsTable {
        FactsTable(Rc::clone(&self.0))
    }

    /// Tells this witness from now on who is in sync; answered when it knows. For an array just created, before it is
    /// served; one that is assembled gets it there.
    ///
    /// # Errors
    /// [`RaidError::Broken`].
    pub async fn watch_by(&self, witness: Rc<dyn MembershipWitness>) -> Result<(), RaidError> {
        self.0.watch_by(witness).await
    }

    /// Fails the member of a slot, recorded on the others when this answers.
    ///
    /// # Errors
    /// [`RaidError::NoMember`], [`RaidError::LastMember`], [`RaidError::Broken`].
    pub async fn fail(&self, slot: usize) -> Result<(), RaidError> {
        let leg = self.0.board.borrow().legs.get(slot).and_then(Clone::clone).ok_or(RaidError::NoMember(slot))?;
        self.0.fail(&leg, "failed by an operator").map_err(|LastOne| RaidError::LastMember(slot))?;
        self.0.may_answer().await.map_err(RaidError::Broken)
    }

    /// Fails every member on which an operation admitted before `older_than` still hangs, recorded on the others when
    /// this answers; the composite operations then end without them. What hangs runs out in the background. Time in which
    /// this process was not scheduled does not count.
    ///
    /// # Errors
    /// [`RaidError::LastMember`]: operations hang on every member in sync, or did a moment ago: none of those is failed, as
    /// that would free nothing, or cost a member that is on its way back. [`RaidError::Unrecorded`]: the box takes no record of who is in sync, so that failing them would
    /// free nothing either. [`RaidError::Broken`].
    pub async fn fail_laggards(&self, older_than: Moment) -> Result<(), RaidError> {
        let now = self.0.rt.now();
        let trusted = self.0.trusted(now);
        let lags = |leg: &Rc<Leg>| leg.lags(older_than, now, trusted);
        let laggards: Vec<Rc<Leg>> = self.0.live().into_iter().filter(|leg| lags(leg)).collect();
        let others = self.0.in_sync().iter().any(|leg| !lags(leg));
        if !others {
            self.0.pulse.all_hung.set(Some(now));
        }
        let spared = self.0.pulse.all_hung.get().is_some_and(|hung| now.since(hung) < RETURN_MAX);
        for leg in &laggards {
            if leg.standing() == Standing::Recovering || !spared {
                let failed = self.0.fail(leg, "operations hung on it while a fence waited");
                failed.map_err(|LastOne| RaidError::LastMember(usize::from(leg.slot)))?;
            }
        }
        self.0.may_answer_unless_unrecorded().await?;
        match laggards.iter().find(|leg| leg.is_in_sync()) {
            Some(leg) if spared => Err(RaidError::LastMember(usize::from(leg.slot))),
            _ => Ok(()),
        }
    }

    /// Gives the mirror more slots, empty ones: a mirror of one gets its bitmap with that.
    ///
    /// # Errors
    /// [`RaidError::CannotGrow`], [`RaidError::Broken`], [`RaidError::Closed`].
    pub async fn grow(&self, slots: usize) -> Result<(), RaidError> {
        let inner = &self.0;
        self.check_open()?;
        let now = inner.board.borrow().legs.len();
        if slots <= now || slots > SLOTS_MAX {
            return Err(RaidError::CannotGrow { now, asked: slots });
        }
        let legs = inner.live();
        let room = legs.iter().all(|leg| leg.facts_room);
        {
            let mut board = inner.board.borrow_mut();
            board.legs.resize(slots, None);
            if board.bitmap.is_none() && room {
                let bits = ChunkSet::empty(inner.chunk_count());
                board.bitmap = Some(Bitmap::new(inner.shape.chunk_bytes, bits, board.events));
                legs.iter().for_each(|leg| leg.bitmap_at.set(Some(BITMAP_AT)));
            }
        }
        let generation = inner.touch_superblocks();
        Ok(inner.settle(generation).await?)
    }

    /// Takes a disk into the first slot that is empty or failed and starts filling it. A disk that was a member
    /// before gets only what was written since; a foreign one is refused if it holds something, unless `wipe`.
    ///
    /// `device` is 16 random bytes, the identity of a new member.
    ///
    /// # Errors
    /// [`RaidError`]: what is wrong with the disk, or [`RaidError::NoFreeSlot`].
    pub async fn add(&self, member: Member, wipe: bool, device: [u8; 16]) -> Result<usize, RaidError> {
        self.check_open()?;
        self.free_slot()?;
        let known = self.known_member(&member).await?;
        let returning = known.clone().filter(|_| !wipe).map_or(Ok(None), |own| self.recognise(&member, own))?;
        if let Some(own) = &known {
            if returning.is_none() {
                self.place_new(&member, wipe).await?;
            }
            // From here on it is taken.
            self.take_epochs(&member, own).await?;
        }
        let by_bitmap = returning.is_some();
        let own = match returning {
            Some(superblock) => superblock,
            None => self.prepare_new(&member, wipe, device).await?,
        };
        self.admit(&member, own, by_bitmap, Self::free_slot).await
    }

    /// Takes a member back that was away: into an empty slot, not that of one that failed, and only if it lacks no more
    /// than the bitmap says. What a box does by itself.
    ///
    /// # Errors
    /// As [`Self::add`]; [`RaidError::LacksMore`].
    pub async fn take_back(&self, member: Member) -> Result<usize, RaidError> {
        self.check_open()?;
        self.empty_slot()?;
        let lacks_more = || RaidError::LacksMore(member.label.clone());
        let known = self.known_member(&member).await?.ok_or_else(lacks_more)?;
        let own = self.recognise(&member, known)?.ok_or_else(lacks_more)?;
        self.take_epochs(&member, &own).await?;
        self.admit(&member, own, true, Self::empty_slot).await
    }

    /// Gives a disk its place and starts to fill it.
    async fn admit(
        &self,
        member: &Member,
        own: Superblock,
        by_bitmap: bool,
        slot: fn(&Self) -> Result<usize, RaidError>,
    ) -> Result<usize, RaidError> {
        let inner = &self.0;
        self.check_open()?;
        self.refuse_member(member, Some(&own))?;
        let slot = slot(self)?;
        let leg = self.seat(member, slot, own, by_bitmap);
        let generation = inner.touch_superblocks();
        inner.settle(generation).await?;
        if !leg.is_live() {
            return Err(failed(&leg));
        }
        inner.resync_later();
        Ok(slot)
    }

    /// Whether [`Self::add`] would take this disk if a slot were free; nothing is changed. For who fails a member only
    /// when its successor is certain.
    ///
    /// # Errors
    /// As [`Self::add`], but for [`RaidError::NoFreeSlot`].
    pub async fn check_successor(&self, member: &Member, wipe: bool) -> Result<(), RaidError> {
        self.check_open()?;
        let known = self.known_member(member).await?;
        let returning = known.filter(|_| !wipe).map_or(Ok(None), |own| self.recognise(member, own))?;
        if returning.is_none() {
            self.place_new(member, wipe).await?;
        }
        Ok(())
    }

    /// Ends everything and leaves the members as mdadm would: flushed, clean, the bitmap empty if all slots are in
    /// sync. A recovery goes on from here at the next start.
    ///
    /// # Errors
    /// [`RaidError::Broken`]: the last member failed; the array is stopped but not clean.
    pub async fn stop(&self) -> Result<(), RaidError> {
        let inner = &self.0;
        if inner.closed.replace(true) {
            return Ok(());
        }
        inner.closing.wake_all();
        inner.resync.cancel.set(true);
        while inner.resync.running.get() {
            inner.resync.ended.wait().await;
        }
        while inner.ranges.writes.borrow().iter().any(Option::is_some) {
            inner.ranges.write_ended.wait().await;
        }
        inner.settle(inner.progress.wanted.get()).await?;
        inner.checkpoint().await?;
        inner.tidy(Millis(0)).await?;
        Ok(())
    }

    /// Waits until no resync is under way.
    pub async fn resync_ended(&self) {
        while self.0.resync.running.get() {
            self.0.resync.ended.wait().await;
        }
    }

    /// What a disk was in this array, if it may be a member now.
    async fn known_member(&self, member: &Member) -> Result<Option<Superblock>, RaidError> {
        let (served, found) = (self.0.shape.block_bytes, member.disk.geometry().block_bytes);
        if found > served {
            return Err(RaidError::BlockSize { label: member.label.clone(), found, served });
        }
        let known = read_superblock(member).await.ok().filter(|own| own.array == self.0.shape.id);
        self.refuse_member(member, known.as_ref())?;
        Ok(known)
    }

    fn check_open(&self) -> Result<(), RaidError> {
        match (self.0.closed.get(), self.0.broken.get()) {
            (true, _) => Err(RaidError::Closed),
            (false, Some(error)) => Err(RaidError::Broken(error)),
            (false, None) => Ok(()),
        }
    }

    fn free_slot(&self) -> Result<usize, RaidError> {
        let board = self.0.board.borrow();
        let free = board.legs.iter().position(|leg| leg.as_ref().is_none_or(|leg| !leg.is_live()));
        free.ok_or(RaidError::NoFreeSlot(board.legs.len()))
    }

    fn empty_slot(&self) -> Result<usize, RaidError> {
        let board = self.0.board.borrow();
        board.legs.iter().position(Option::is_none).ok_or(RaidError::NoFreeSlot(board.legs.len()))
    }

    /// A disk that saw higher epochs than we (the array was split) hands them over before it is overwritten (I12).
    async fn take_epochs(&self, member: &Member, own: &Superblock) -> Result<(), RaidError> {
        let Ok(facts) = read_facts(member, own).await? else { return Ok(()) };
        if facts.array != self.0.shape.id {
            return Ok(());
        }
        let mut board = self.0.board.borrow_mut();
        for (volume, record) in facts.records {
            let higher = board.records.get(&volume).is_none_or(|held| epoch_of(held) < epoch_of(&record));
            if higher && (board.records.len() < RECORDS_MAX || board.records.contains_key(&volume)) {
                board.found.remove(&volume);
                board.records.insert(volume, record);
                board.facts_dirty = true;
            }
        }
        Ok(())
    }

    /// An error if the disk is a member at work, or one that failed and on which old operations may still land on top
    /// of what is written to it from now on (B-11).
    fn refuse_member(&self, member: &Member, own: Option<&Superblock>) -> Result<(), RaidError> {
        let label = member.label.clone();
        let same = |leg: &&Rc<Leg>| leg.label == label || own.is_some_and(|own| own.device == leg.own.device);
        let board = self.0.board.borrow();
        let (mut ghosts, now) = (self.0.ghosts.borrow_mut(), self.0.rt.now());
        ghosts.retain(|leg| leg.still_busy(now).is_some());
        let all: Vec<&Rc<Leg>> = board.legs.iter().flatten().chain(ghosts.iter()).filter(same).collect();
        match all.iter().find_map(|leg| leg.still_busy(now)) {
            _ if all.iter().any(|leg| leg.is_live()) => Err(RaidError::AlreadyMember(label)),
            Some(busy) => Err(RaidError::StillBusy(busy)),
            None => Ok(()),
        }
    }

    /// The superblock of a former member that only lacks what the bitmap says; `None` for one that is filled anew.
    fn recognise(&self, member: &Member, own: Superblock) -> Result<Option<Superblock>, RaidError> {
        let inner = &self.0;
        let in_sync: Vec<Superblock> = inner.in_sync().iter().map(|leg| superblock_of(inner, leg)).collect();
        let board = inner.board.borrow();
        let lags = |other: &Superblock| matches!(relation(&own, other), Relation::Behind | Relation::Current);
        if !in_sync.iter().any(lags) {
            let (found, current) = (own.events, board.events);
            return Err(RaidError::RanElsewhere { label: member.label.clone(), found, current });
        }
        let Some(bitmap) = &board.bitmap else {
            return Ok(None);
        };
        let known = in_sync.iter().any(|other| lags(other) && history::knows(&own, other));
        let complete = !own.has(FEATURE_RECOVERY) || own.has(FEATURE_RECOVERY_BITMAP);
        let was_active = matches!(own.role(), Role::Active(_)) && own.size == inner.shape.size;
        let was_active = was_active && board.roles.get(own.number as usize).is_some();
        let unused = board.legs.iter().flatten().all(|leg| !leg.is_live() || leg.number != own.number);
        let same = board.legs.iter().flatten().all(|leg| leg.number != own.number || leg.own.device == own.device);
        let bytes = super::bitmap::bytes_on_disk(bitmap.set().possible()) as u64;
        let fits = own.data_offset.bytes() + own.size.bytes() <= member.disk.geometry().size.0
            && layout::bitmap_at(&own, bytes).is_some();
        // What its log of bad blocks names is filled with the rest.
        let complete = complete && !own.has(FEATURE_BAD_BLOCKS);
        let by_bitmap = known && complete && was_active && unused && same && fits;
        let by_slot = planted(Bug::ReaddBySlot) && was_active && fits;
        Ok((by_slot || by_bitmap && own.events >= bitmap.events_cleared()).then_some(own))
    }

    /// Empties a new disk's head, and says where its data will lie.
    async fn prepare_new(&self, member: &Member, wipe: bool, device: [u8; 16]) -> Result<Superblock, RaidError> {
        let (len, size) = (member.disk.geometry().size, self.0.shape.size);
        let offset = self.place_new(member, wipe).await?;
        clear_head(&member.disk, wipe).await.map_err(|source| disk_error(member, source))?;
        let number = self.new_number();
        Ok(own_superblock_at(len, offset, size, number, device))
    }

    /// Looks at a new disk: where its data would lie.
    async fn place_new(&self, member: &Member, wipe: bool) -> Result<Sectors, RaidError> {
        let (inner, len) = (&self.0, member.disk.geometry().size);
        let ours = matches!(read_superblock(member).await, Ok(own) if own.array == inner.shape.id);
        refuse_used(member, wipe || ours).await?;
        let size = inner.shape.size;
        let fits = |offset: &Sectors| Sectors::floor(len).0 >= offset.0 + size.0;
        let offsets = [layout::data_offset(len), layout::data_offset(ByteLen(0))];
        let least = ByteLen(offsets[1].bytes() + size.bytes());
        let too_small = || RaidError::TooSmall { label: member.label.clone(), size: len, least };
        offsets.into_iter().find(fits).ok_or_else(too_small)
    }

    /// A number nobody had, so that a former member is never taken for its successor; the least used one if all had.
    /// As Linux does (drivers/md/md.c, `bind_rdev_to_array`), not one of those that the first members had.
    fn new_number(&self) -> u32 {
        let board = self.0.board.borrow();
        let used = |number: usize| {
            board.roles.get(number).is_some_and(|role| *role != Role::Spare)
                || board.legs.iter().flatten().any(|leg| leg.number as usize == number)
        };
        let live =
            |number: usize| board.legs.iter().flatten().any(|leg| leg.is_live() && leg.number as usize == number);
        let fresh = (board.legs.len()..ROLES_KEPT).find(|&number| !used(number));
        let number = fresh.or_else(|| (0..ROLES_KEPT).find(|&number| !live(number)));
        u32::try_from(number.expect("128 numbers, eight slots")).expect("below 128")
    }

    fn seat(&self, member: &Member, slot: usize, own: Superblock, returning: bool) -> Rc<Leg> {
        let inner = &self.0;
        let mut board = inner.board.borrow_mut();
        let chunks = inner.chunk_count();
        let bits = board.bitmap.as_ref().map(|bitmap| bitmap.set().clone());
        let todo = bits.filter(|_| returning).unwrap_or_else(|| ChunkSet::of_range(chunks, 0..chunks));
        let role = u16::try_from(slot).expect("at most eight");
        let number = own.number as usize;
        let leg = new_leg(member, role, own, Standing::Recovering, todo);
        leg.by_bitmap.set(returning);
        if let Some(bitmap) = &mut board.bitmap {
            bitmap.rewrite_all();
            let bytes = super::bitmap::bytes_on_disk(chunks) as u64;
            let kept = if returning { layout::bitmap_at(&leg.own, bytes) } else { None };
            leg.bitmap_at.set(Some(kept.unwrap_or(BITMAP_AT)));
        }
        let leg = Rc::new(leg);
        board.roles[number] = Role::Active(role);
        board.missing.retain(|(missing, _)| *missing != leg.number);
        let old = board.legs[slot].replace(Rc::clone(&leg));
        inner.ghosts.borrow_mut().extend(old.filter(|old| old.in_flight() > 0));
        board.outsiders.retain(|(label, _)| *label != member.label);
        drop(board);
        inner.measure();
        leg
    }
}

impl Inner {
    /// An array that was left active becomes clean again without waiting for a write.
    pub(super) fn tidy_if_active(self: &Rc<Self>) {
        let active = !self.board.borrow().clean;
        let bits = self.board.borrow().bitmap.as_ref().is_some_and(|bitmap| !bitmap.set().is_empty());
        if active || bits && self.is_whole() {
            self.tidy_later();
        }
    }
}
