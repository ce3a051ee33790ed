//! Which of two members went on without the other, told from their superblocks alone.
//!
//! Every update of an array is written to all members at work, with the roles of exactly those: before anything is
//! written to a mirror that misses a member, the others' superblocks say that it is not active any more. Both muskox and
//! Linux md do so (drivers/md/md.c: `md_write_start` waits for the superblock that a first write needs), but with
//! different words: `fffe` (faulty) for a member that failed, `ffff` (spare) from Linux for a slot whose disk is not there.
//! So only *active or not* counts here, never which of the two words stands there.
//!
//! ```text
//!                          the other's record has it active
//!  its record has           yes                       no
//!  the other active  yes    one run: by events        it stopped, the other went on
//!                    no     it went on                each went on alone, or the other joined after it had left
//! ```
//! Why the upper right is safe by bitmap: the other took part in the update that it recorded last, so that update is in
//! the other's past, and every write since is marked in the other's bitmap.

use super::superblock::{FEATURE_RECOVERY, Role, Superblock};

/// How one member's record of the array stands to another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// Written by the same updates, up to one that a crash may have cut.
    Current,
    /// The other went on without it: it lacks what was written since, and nothing else.
    Behind,
    /// It went on without the other.
    Ahead,
    /// Each has updates that the other lacks: what was written then is on one of them only.
    Diverged,
}

/// How `one` stands to `other`, a member of the same array.
pub(super) fn relation(one: &Superblock, other: &Superblock) -> Relation {
    if one.device == other.device {
        // Copies of one disk.
        return by_events(one, other);
    }
    match (has_data(one), has_data(other)) {
        (false, _) => return Relation::Behind,
        (true, false) => return Relation::Ahead,
        (true, true) => {}
    }
    match (knows(one, other), knows(other, one)) {
        (true, true) => by_events(one, other),
        (true, false) if one.events <= other.events || was_joining(one, other) => Relation::Behind,
        (false, true) if other.events <= one.events || was_joining(other, one) => Relation::Ahead,
        (false, false) if left_before(one, other) => Relation::Behind,
        (false, false) if left_before(other, one) => Relation::Ahead,
        // Also a record whose partner's is older than it can be: a disk that was set back, or a number given twice.
        _ => Relation::Diverged,
    }
}

/// Whether the update that `one` recorded last was also made by `other`, which is active in it.
pub(super) fn knows(one: &Superblock, other: &Superblock) -> bool {
    one.number != other.number && matches!(one.role_of(other.number), Role::Active(_))
}

/// A spare never held data of the array.
fn has_data(one: &Superblock) -> bool {
    matches!(one.role(), Role::Active(_))
}

/// Two that know each other differ by at most the update that a crash cut; an older one was set back, or was left out
/// while its number was given to another disk.
fn by_events(one: &Superblock, other: &Superblock) -> Relation {
    match one.events.abs_diff(other.events) {
        0 | 1 => Relation::Current,
        _ if one.events < other.events => Relation::Behind,
        _ => Relation::Ahead,
    }
}

/// Whether the power went in the very update that took `one` in: it is written on `one`, which has no data yet, but not on
/// `other`.
fn was_joining(one: &Superblock, other: &Superblock) -> bool {
    one.events == other.events + 1 && one.has(FEATURE_RECOVERY)
}

/// Whether `one` left the array before `other` joined it. A new disk gets a number above those in use, so a spare entry
/// above all that `one` knows of was given out later. Only a record with every slot filled proves that `one` did not run
/// without somebody from whom `other` could come.
fn left_before(one: &Superblock, other: &Superblock) -> bool {
    let newest_known = one.roles.iter().rposition(|role| *role != Role::Spare);
    let newer = newest_known.is_some_and(|known| other.number as usize > known);
    let filled =
        |slot: u32| one.roles.iter().any(|role| matches!(role, Role::Active(held) if u32::from(*held) == slot));
    one.events < other.events && newer && (0..one.slots).all(filled)
}

#[cfg(test)]
mod test {
    use super::super::create::own_superblock_at;
    use super::*;
    use units::{ByteLen, Sectors};

    /// A record of a mirror of two at `events`: this number, and what it says of the others.
    fn record(number: u32, events: u64, roles: &[(usize, Role)]) -> Superblock {
        let device = [u8::try_from(number).unwrap() + 1; 16];
        let own = own_superblock_at(ByteLen::mib(18), Sectors(32_768), Sectors(2048), number, device);
        let mut all = vec![Role::Spare; 8];
        roles.iter().for_each(|(number, role)| all[*number] = *role);
        Superblock { slots: 2, events, roles: all, ..own }
    }

    /// Goal: OD1: every pair of words that two members can say of each other, at every order of their events. Method: the
    /// table of the module's text, with both words for "not active"; what a is to b, and the other way round.
    #[test]
    fn every_pair_of_views_at_every_order_of_events() {
        use Relation::{Ahead, Behind, Current, Diverged};
        /// The events of a and b, and how a stands to b where (both, only a, only b, none) have the other active.
        const TABLE: [(u64, u64, [Relation; 4]); 5] = [
            (9, 4, [Ahead, Diverged, Ahead, Diverged]),
            (7, 6, [Current, Diverged, Ahead, Diverged]),
            (6, 6, [Current, Behind, Ahead, Diverged]),
            (6, 7, [Current, Behind, Diverged, Diverged]),
            (4, 9, [Behind, Behind, Diverged, Diverged]),
        ];
        let away = [Role::Spare, Role::Faulty];
        for (a_events, b_events, [both, only_a, only_b, none]) in TABLE {
            let check = |of_b: Role, of_a: Role, expect: Relation| {
                let a = record(0, a_events, &[(0, Role::Active(0)), (1, of_b)]);
                let b = record(1, b_events, &[(0, of_a), (1, Role::Active(1))]);
                let mirrored = match expect {
                    Ahead => Behind,
                    Behind => Ahead,
                    same => same,
                };
                let found = [relation(&a, &b), relation(&b, &a)];
                assert_eq!(found, [expect, mirrored], "a says {of_b:?} at {a_events}, b says {of_a:?} at {b_events}");
            };
            check(Role::Active(1), Role::Active(0), both);
            for word in away {
                check(Role::Active(1), word, only_a);
                check(word, Role::Active(0), only_b);
                away.into_iter().for_each(|other| check(word, other, none));
            }
        }
    }

    /// Goal: a number given out after a member had left is a spare entry in its record, too, and no sign of a split.
    /// Method: b left a full mirror; c, with the next number, took its place and later a's. Then the same with records
    /// that do not prove it: b ran alone, c's number was in use before, c is older.
    #[test]
    fn a_disk_that_joined_after_one_had_left_is_no_split() {
        let (one, two) = (Role::Active(0), Role::Active(1));
        let b = record(1, 5, &[(0, one), (1, two)]);
        let c = record(2, 20, &[(0, Role::Faulty), (1, Role::Faulty), (2, two)]);
        assert_eq!((relation(&b, &c), relation(&c, &b)), (Relation::Behind, Relation::Ahead));
        assert!(!knows(&b, &c) && !knows(&c, &b), "nothing is shared: never by bitmap");
        let alone = record(1, 5, &[(1, two)]);
        let older = Superblock { events: 5, ..c.clone() };
        let known = record(1, 5, &[(0, one), (1, two), (3, Role::Faulty)]);
        for (b, c) in [(&alone, &c), (&b, &older), (&known, &c)] {
            assert_eq!([relation(b, c), relation(c, b)], [Relation::Diverged; 2]);
        }
    }

    /// Goal: numbers alone do not make two disks one. Method: a number that was given twice, and copies of one disk.
    #[test]
    fn a_number_that_was_given_twice_is_not_acquaintance() {
        let b = record(1, 5, &[(0, Role::Active(0)), (1, Role::Active(1))]);
        let successor = Superblock { device: [99; 16], ..record(1, 5, &[(1, Role::Active(1))]) };
        assert_eq!([relation(&b, &successor), relation(&successor, &b)], [Relation::Diverged; 2]);
        let copy = Superblock { events: 9, ..b.clone() };
        assert_eq!((relation(&b, &b.clone()), relation(&b, &copy)), (Relation::Current, Relation::Behind));
    }

    /// Goal: a disk that was being added when the power went is no split. Method: the update that takes it in is on itself
    /// only; then the same without the mark that it lacks data, and with more than one update.
    #[test]
    fn a_disk_that_was_being_added_is_behind() {
        let a = record(0, 5, &[(0, Role::Active(0)), (1, Role::Faulty)]);
        let b = record(1, 6, &[(0, Role::Active(0)), (1, Role::Active(1))]);
        let joining = Superblock { features: FEATURE_RECOVERY, ..b.clone() };
        assert_eq!((relation(&joining, &a), relation(&a, &joining)), (Relation::Behind, Relation::Ahead));
        for other in [b, Superblock { events: 7, ..joining }] {
            assert_eq!([relation(&other, &a), relation(&a, &other)], [Relation::Diverged; 2]);
        }
    }

    /// Goal: a spare is no witness of anything. Method: one that knows all members, and claims more updates than they.
    #[test]
    fn a_spare_holds_no_data() {
        let a = record(0, 5, &[(0, Role::Active(0)), (1, Role::Active(1))]);
        let spare = record(2, 9, &[(0, Role::Active(0)), (1, Role::Active(1))]);
        assert_eq!((relation(&spare, &a), relation(&a, &spare)), (Relation::Behind, Relation::Ahead));
    }
}
