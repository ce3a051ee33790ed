//! Making a new array. Every member is looked at before the first byte of any is changed.

use super::admin::Array;
use super::array::{Board, Inner, Shape};
use super::bitmap::Bitmap;
use super::chunks::ChunkSet;
use super::facts::Records;
use super::layout::{self, BITMAP_AT, FACTS_AT, FACTS_BYTES};
use super::leg::{Leg, Standing};
use super::superblock::{ArrayName, ROLES_KEPT, Role, Superblock};
use super::{Member, RaidError, SLOTS_MAX};
use crate::device::{Disk, Durability};
use crate::probe;
use crate::runtime::Rt;
use std::collections::HashMap;
use std::rc::Rc;
use units::{ArrayId, ByteLen, ByteOffset, Sectors};

/// What a new array shall be.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Its name, at most 32 bytes.
    pub name: String,
    /// Its identity, made at random by the caller.
    pub id: ArrayId,
    /// Seconds since 1970, for the superblocks' times.
    pub unix_seconds: u64,
    /// Overwrite members that hold something.
    pub wipe: bool,
    /// The members are known to read the same (all zeroes): no first resync.
    pub assume_clean: bool,
}

/// The smallest size an array may have: one rounding step.
const SIZE_MIN: ByteLen = ByteLen::mib(1);

/// Makes a mirror of `members` and starts it. Unless `assume_clean`, they are made equal in the background.
///
/// `random` fills bytes for the members' identities.
///
/// # Errors
/// Anything wrong with a member is said before the first write. [`RaidError::MemberFailed`] and [`RaidError::Broken`]
/// may leave members half written; they are not an array then, and may be wiped.
pub async fn create(
    options: CreateOptions,
    members: Vec<Member>,
    rt: &Rt,
    random: &mut dyn FnMut(&mut [u8]),
) -> Result<Rc<Array>, RaidError> {
    let (name, size) = check(&options, &members).await?;
    for member in &members {
        clear_head(&member.disk, options.wipe).await.map_err(|source| disk_error(member, source))?;
    }
    let chunk_bytes = layout::chunk_bytes(ByteLen(size.bytes()));
    let chunks = super::bitmap::chunk_count(ByteLen(size.bytes()), chunk_bytes);
    let unequal = ChunkSet::of_range(chunks, 0..if options.assume_clean { 0 } else { chunks });
    let mut roles = vec![Role::Spare; ROLES_KEPT];
    let mut legs = Vec::new();
    for (slot, member) in (0u16..).zip(&members) {
        let mut device = [0; 16];
        random(&mut device);
        roles[usize::from(slot)] = Role::Active(slot);
        let todo = if slot == 0 { ChunkSet::empty(chunks) } else { unequal.clone() };
        let own = own_superblock(&member.disk, size, u32::from(slot), device);
        legs.push(Some(Rc::new(new_leg(member, slot, own, Standing::InSync, todo))));
    }
    let bitmap = (members.len() > 1).then(|| Bitmap::new(chunk_bytes, unequal, 0));
    if bitmap.is_some() {
        legs.iter().flatten().for_each(|leg| leg.bitmap_at.set(Some(BITMAP_AT)));
    }
    let block_bytes = members.iter().map(|member| member.disk.geometry().block_bytes).max();
    let shape = Shape {
        id: options.id,
        name,
        created: options.unix_seconds,
        size,
        chunk_bytes,
        block_bytes: block_bytes.expect("at least one"),
        unix_seconds: options.unix_seconds,
        since: rt.now(),
    };
    let inner = Inner::new(rt, shape, new_board(legs, roles, bitmap, options.assume_clean || members.len() == 1));
    let generation = inner.touch_superblocks();
    inner.settle(generation).await?;
    if let Some(leg) = inner.board.borrow().legs.iter().flatten().find(|leg| !leg.is_live()) {
        return Err(failed(leg));
    }
    inner.resync_later();
    inner.tidy_if_active();
    Ok(Rc::new(Array(inner)))
}

fn new_board(legs: Vec<Option<Rc<Leg>>>, roles: Vec<Role>, bitmap: Option<Bitmap>, clean: bool) -> Board {
    Board {
        legs,
        roles,
        events: 0,
        clean,
        bitmap,
        uses: HashMap::new(),
        records: Records::new(),
        found: HashMap::new(),
        facts_sequence: 0,
        complete: true,
        superblock_dirty: false,
        facts_dirty: false,
        outsiders: Vec::new(),
        missing: Vec::new(),
    }
}

/// Looks at everything; returns the array's name and size.
async fn check(options: &CreateOptions, members: &[Member]) -> Result<(ArrayName, Sectors), RaidError> {
    if !(1..=SLOTS_MAX).contains(&members.len()) {
        return Err(RaidError::MemberCount(members.len()));
    }
    let name = options.name.as_str();
    let printable = !name.is_empty() && !name.chars().any(|c| c.is_control() || c.is_whitespace());
    let Some(kept) = ArrayName::new(name).filter(|_| printable) else {
        return Err(RaidError::BadName(name.chars().take(80).collect()));
    };
    let mut size = Sectors(u64::MAX);
    for member in members {
        let len = member.disk.geometry().size;
        let usable = layout::usable(len);
        if usable.0 == 0 {
            let least = ByteLen(layout::data_offset(len).bytes()) + SIZE_MIN;
            return Err(RaidError::TooSmall { label: member.label.clone(), size: len, least });
        }
        size = size.min(usable);
        refuse_used(member, options.wipe).await?;
    }
    Ok((kept, size))
}

/// An error if the disk holds something and may not be wiped. A disk that is wiped is not read: it need not be readable.
pub(super) async fn refuse_used(member: &Member, wipe: bool) -> Result<(), RaidError> {
    if wipe {
        return Ok(());
    }
    match probe::what_is_on(&member.disk).await.map_err(|source| disk_error(member, source))? {
        Some(what) => Err(RaidError::InUse { label: member.label.clone(), what }),
        None => Ok(()),
    }
}

/// Zeroes the gap's head, where old signatures, bitmaps and facts would lie, durably; on a wipe all of the gap, and
/// everywhere that the probe looks.
pub(super) async fn clear_head(disk: &Disk, wipe: bool) -> Result<(), crate::DeviceError> {
    if wipe {
        let gap = layout::data_offset(disk.geometry().size);
        probe::wipe(disk, ByteLen(gap.bytes())).await?;
    } else {
        let head = ByteLen(FACTS_AT.0 + FACTS_BYTES.0);
        disk.write_zeroes(ByteOffset(0), head, Durability::Cached, true).await?;
    }
    disk.flush().await
}

/// What belongs to this member alone; the shared fields are filled in at every write.
pub(super) fn own_superblock(disk: &Disk, size: Sectors, number: u32, device: [u8; 16]) -> Superblock {
    let len = disk.geometry().size;
    own_superblock_at(len, layout::data_offset(len), size, number, device)
}

pub(super) fn own_superblock_at(
    len: ByteLen,
    data_offset: Sectors,
    size: Sectors,
    number: u32,
    device: [u8; 16],
) -> Superblock {
    Superblock {
        features: 0,
        array: ArrayId([0; 16]),
        name: ArrayName::default(),
        created: 0,
        level: 1,
        layout: 0,
        size,
        chunk: 0,
        slots: 1,
        bitmap_offset: 0,
        reshape: [0; 28],
        data_offset,
        data_size: Sectors(Sectors::floor(len).0 - data_offset.0),
        recovery_offset: 0,
        number,
        corrected_reads: 0,
        device,
        flags: 0,
        bad_block_shift: 0,
        bad_block_sectors: 0,
        bad_block_offset: 0,
        updated: 0,
        events: 0,
        resync_offset: 0,
        block_bytes: 0,
        roles: Vec::new(),
    }
}

pub(super) fn new_leg(member: &Member, slot: u16, own: Superblock, standing: Standing, todo: ChunkSet) -> Leg {
    let mut leg = Leg::new(Rc::clone(&member.disk), member.label.clone(), slot, own, standing, todo);
    leg.facts_room = layout::has_facts_room(&leg.own);
    let block_bytes = member.disk.geometry().block_bytes;
    leg.log = layout::log_place(&leg.own).filter(|place| place.is_aligned(block_bytes));
    leg
}

pub(super) fn disk_error(member: &Member, source: crate::DeviceError) -> RaidError {
    RaidError::Disk { label: member.label.clone(), source }
}

pub(super) fn failed(leg: &Leg) -> RaidError {
    RaidError::MemberFailed { label: leg.label.clone(), cause: leg.cause.borrow().clone().unwrap_or_default() }
}
