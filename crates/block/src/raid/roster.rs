//! Who is a member: the superblocks that were found, what the box remembers, and who is left outside for which reason.
//!
//! The newest superblock says who is who: of those that the box names, if one of them is here, the one that went on
//! without the others (`history`), then the one with the most events. A member is in sync if that one has it active and
//! both were written by the same updates, up to one that was being written when the power went and that nobody was
//! answered for. What a member says of its own recovery is believed: never more than its recovery offset (B-03).
//! Two that each went on without the other are never joined; nobody but the box or an operator can say which one to serve.

use super::assemble::{Found, Start};
use super::chunks::ChunkSet;
use super::create::new_leg;
use super::history::{self, Relation, relation};
use super::leg::{Leg, Standing};
use super::superblock::{FEATURE_RECOVERY, FEATURE_RECOVERY_BITMAP, ROLES_KEPT, Role, Superblock};
use super::witness::Membership;
use super::{RaidError, SLOTS_MAX, ran_elsewhere};
use std::rc::Rc;
use units::Sectors;
use units::sabotage::{Bug, planted};

/// Disks that are not members, and why.
pub(super) type Outsiders = Vec<(String, String)>;

/// Who is who.
pub(super) struct Roster {
    /// The superblock that counts.
    pub newest: Superblock,
    /// By slot.
    pub legs: Vec<Option<Rc<Leg>>>,
    /// Numbers of active members that are not here.
    pub missing: Vec<usize>,
    pub outsiders: Outsiders,
    /// By number, those that are not here as failed.
    pub roles: Vec<Role>,
    /// The array's blocks.
    pub block_bytes: u32,
}

impl Start {
    fn takes_fewer(self, known: Option<&Membership>) -> bool {
        match self {
            Self::AsLeft => false,
            Self::Witnessed => known.is_some(),
            Self::Degraded => true,
        }
    }
}

/// Decides who of `found` works in the array, if it may be started so.
pub(super) fn call(
    found: &[Found],
    mut outsiders: Outsiders,
    start: Start,
    known: Option<&Membership>,
) -> Result<Roster, RaidError> {
    let newest = newest(found, start, known)?;
    let served = block_bytes(found);
    let (legs, missing) = seat(found, newest, served, &mut outsiders)?;
    let larger = found.iter().map(|one| refuse_blocks(one, served)).find_map(Result::err);
    if start != Start::Degraded {
        refuse_old(newest, &legs, known)?;
    }
    if !legs.iter().flatten().any(|leg| leg.is_in_sync()) {
        return Err(larger.unwrap_or(RaidError::NoneInSync));
    }
    if !(missing.is_empty() || start.takes_fewer(known)) {
        let present = legs.iter().flatten().count();
        return Err(larger.unwrap_or(RaidError::Incomplete { present, expected: present + missing.len() }));
    }
    let newest = newest.superblock.clone();
    let mut roles = newest.roles.clone();
    roles.resize(roles.len().max(ROLES_KEPT), Role::Spare);
    missing.iter().for_each(|&number| roles[number] = Role::Faulty);
    forget_no_number(found, &newest, &mut roles);
    // An array from before its blocks were kept has those of its members.
    let measured = legs.iter().flatten().filter_map(|leg| leg.geometry()).map(|geometry| geometry.block_bytes).max();
    let block_bytes = served.or(measured).expect("a member is in sync");
    Ok(Roster { newest, legs, missing, outsiders, roles, block_bytes })
}

/// The array's blocks, as any superblock has kept them.
fn block_bytes(found: &[Found]) -> Option<u32> {
    found.iter().map(|one| one.superblock.block_bytes).max().filter(|&bytes| bytes > 0)
}

/// An error if a disk cannot be written in blocks as small as the array's: every volume's blocks would change.
fn refuse_blocks(one: &Found, served: Option<u32>) -> Result<(), RaidError> {
    let (label, found) = (&one.member.label, one.member.disk.geometry().block_bytes);
    match served {
        Some(served) if found > served => Err(RaidError::BlockSize { label: label.clone(), found, served }),
        _ => Ok(()),
    }
}

/// Linux forgets the number of a member that is not there. It is not given to another disk as long as the former member
/// is around.
fn forget_no_number(found: &[Found], newest: &Superblock, roles: &mut [Role]) {
    let former = found.iter().map(|one| &one.superblock).filter(|own| matches!(own.role(), Role::Active(_)));
    for own in former.filter(|own| newest.role_of(own.number) == Role::Spare) {
        if let Some(role) = roles.get_mut(own.number as usize) {
            *role = Role::Faulty;
        }
    }
}

/// The member whose superblock counts, if all are of one array that we can serve.
fn newest<'a>(found: &'a [Found], start: Start, known: Option<&Membership>) -> Result<&'a Found, RaidError> {
    let Some(first) = found.first() else {
        return Err(RaidError::MemberCount(0));
    };
    for one in found {
        if one.superblock.array != first.superblock.array {
            let (label, found) = (one.member.label.clone(), one.superblock.array);
            return Err(RaidError::OtherArray { label, found, expected: first.superblock.array });
        }
    }
    let named = |one: &&Found| known.is_some_and(|known| known.names(&one.superblock.device, one.superblock.events));
    let mut candidates: Vec<&Found> = found.iter().filter(named).collect();
    if candidates.is_empty() {
        candidates = found.iter().collect();
    }
    let newest = candidates.iter().copied().reduce(newer).expect("at least one was found");
    let split = |one: &&&Found| relation(&one.superblock, &newest.superblock) == Relation::Diverged;
    match candidates.iter().find(split) {
        Some(other) if start != Start::Degraded => {
            let (first, second) = (newest.member.label.clone(), other.member.label.clone());
            return Err(RaidError::Split { first, second });
        }
        _ => {}
    }
    refuse_level(newest)?;
    Ok(newest)
}

/// The one that went on without the other, else the one with more updates.
fn newer<'a>(one: &'a Found, other: &'a Found) -> &'a Found {
    match relation(&one.superblock, &other.superblock) {
        Relation::Ahead => one,
        Relation::Behind => other,
        Relation::Current | Relation::Diverged => {
            if other.superblock.events > one.superblock.events {
                other
            } else {
                one
            }
        }
    }
}

fn refuse_level(newest: &Found) -> Result<(), RaidError> {
    let what = match (newest.superblock.level, newest.superblock.slots as usize) {
        (1, 1..=SLOTS_MAX) => return Ok(()),
        (1, slots) => format!("a mirror of {slots} slots; at most {SLOTS_MAX} are served"),
        (level, _) => format!("md level {level}; so far level 1 is served"),
    };
    Err(RaidError::Unsupported { label: newest.member.label.clone(), what })
}

/// An error if the box remembers others than these: they went on.
fn refuse_old(newest: &Found, legs: &[Option<Rc<Leg>>], known: Option<&Membership>) -> Result<(), RaidError> {
    let Some(known) = known else { return Ok(()) };
    let named = |leg: &Rc<Leg>| leg.is_in_sync() && known.names(&leg.own.device, leg.own.events);
    if legs.iter().flatten().any(named) {
        return Ok(());
    }
    Err(RaidError::Superseded { label: newest.member.label.clone() })
}

type Seats = (Vec<Option<Rc<Leg>>>, Vec<usize>);

/// Puts members into slots; returns also the numbers of active members that are not here.
fn seat(found: &[Found], newest: &Found, served: Option<u32>, outsiders: &mut Outsiders) -> Result<Seats, RaidError> {
    let newest = &newest.superblock;
    let mut legs: Vec<Option<Rc<Leg>>> = vec![None; newest.slots as usize];
    for one in found {
        let (superblock, label) = (&one.superblock, &one.member.label);
        let Some((slot, standing)) = place_of(superblock, newest) else {
            outsiders.push((label.clone(), why_outside(superblock, newest)));
            continue;
        };
        if let Err(larger) = refuse_blocks(one, served) {
            outsiders.push((label.clone(), larger.to_string()));
            continue;
        }
        let seat = &mut legs[usize::from(slot)];
        if let Some(other) = seat {
            let (first, second) = (other.label.clone(), label.clone());
            return Err(RaidError::Twins { first, second, number: superblock.number });
        }
        let leg = new_leg(&one.member, slot, superblock.clone(), standing, ChunkSet::default());
        leg.recovered.set(Sectors(superblock.recovery_offset));
        leg.by_bitmap.set(superblock.has(FEATURE_RECOVERY_BITMAP));
        leg.bad.replace(one.bad.clone());
        *seat = Some(Rc::new(leg));
    }
    let seated = |number: usize| legs.iter().flatten().any(|leg| leg.number as usize == number);
    let active = newest.roles.iter().enumerate().filter(|(_, role)| matches!(role, Role::Active(_)));
    let missing = active.map(|(number, _)| number).filter(|&number| !seated(number)).collect();
    Ok((legs, missing))
}

fn place_of(superblock: &Superblock, newest: &Superblock) -> Option<(u16, Standing)> {
    let Role::Active(slot) = newest.role_of(superblock.number) else {
        return None;
    };
    let current = relation(superblock, newest) == Relation::Current && superblock.role() == Role::Active(slot);
    let same = superblock.size == newest.size && superblock.level == newest.level;
    if !current || !same || u32::from(slot) >= newest.slots {
        return None;
    }
    let partial = superblock.has(FEATURE_RECOVERY) && !planted(Bug::PartialRecoveryTrusted);
    Some((slot, if partial { Standing::Recovering } else { Standing::InSync }))
}

fn why_outside(superblock: &Superblock, newest: &Superblock) -> String {
    let (own, events) = (superblock.events, newest.events);
    let spare = superblock.role() == Role::Spare && newest.role_of(superblock.number) == Role::Spare;
    match relation(superblock, newest) {
        Relation::Behind if spare => "a spare of this array; `pool add` uses it when a slot is free".to_owned(),
        Relation::Behind if history::knows(superblock, newest) => {
            format!("stale: it stopped at events {own}, the array is at {events}; add it again")
        }
        Relation::Behind => {
            format!("stale: it left at events {own}, before the members of today joined; add it again")
        }
        Relation::Current => "its superblock and the array's do not agree about its slot or size".to_owned(),
        Relation::Ahead | Relation::Diverged => {
            let ran = ran_elsewhere(own, events);
            format!("{ran}; `pool add --wipe` takes it, when nobody needs what was written to it then")
        }
    }
}
