//! Which extents are free, and which a new volume gets. Pure arithmetic on runs of extents.

use super::error::Damage;

/// Extents `first`, `first + 1` … of the physical volume; `count` of them, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// The first extent.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl Run {
    /// The extent behind the last one.
    #[must_use]
    pub fn end(self) -> u64 {
        self.first + self.count
    }
}

/// Refuses two owners of one extent. Names are for the text.
///
/// # Errors
/// [`Damage`] that names both.
pub fn refuse_overlaps(owned: &mut [(Run, &str)]) -> Result<(), Damage> {
    owned.sort_unstable();
    for pair in owned.windows(2) {
        let ((before, owner), (after, other)) = (pair[0], pair[1]);
        if after.first < before.end() {
            let what = format!("extent {} belongs to '{owner}' and to '{other}'", after.first);
            return Err(Damage::new("the LVM2 metadata", what));
        }
    }
    Ok(())
}

/// The runs of `0..total` that nobody claims. Claims may overlap and come in any order.
#[must_use]
pub fn free_runs(total: u64, mut claimed: Vec<Run>) -> Vec<Run> {
    claimed.sort_unstable();
    let (mut free, mut next) = (Vec::new(), 0);
    for run in claimed.into_iter().chain([Run { first: total, count: 0 }]) {
        if run.first > next {
            free.push(Run { first: next, count: run.first - next });
        }
        next = next.max(run.end());
    }
    free
}

/// `count` extents out of `free`: the first run that holds them all, else the largest runs, so that the pieces are
/// few. `None` if there are not enough.
#[must_use]
pub fn allocate(free: &[Run], count: u64) -> Option<Vec<Run>> {
    assert!(count > 0, "a volume has an extent");
    if let Some(fit) = free.iter().find(|run| run.count >= count) {
        return Some(vec![Run { first: fit.first, count }]);
    }
    let mut largest_first = free.to_vec();
    largest_first.sort_by_key(|run| (std::cmp::Reverse(run.count), run.first));
    let (mut taken, mut left) = (Vec::new(), count);
    for run in largest_first {
        let part = run.count.min(left);
        taken.push(Run { first: run.first, count: part });
        left -= part;
        if left == 0 {
            taken.sort_unstable();
            return Some(taken);
        }
    }
    None
}

#[cfg(test)]
mod test {
    use super::*;

    fn run(first: u64, count: u64) -> Run {
        Run { first, count }
    }

    #[test]
    fn what_nobody_claims_is_free() {
        let check = |claimed: &[Run], expect: &[Run]| assert_eq!(free_runs(10, claimed.to_vec()), expect);
        check(&[], &[run(0, 10)]);
        check(&[run(0, 10)], &[]);
        check(&[run(8, 2), run(2, 3)], &[run(0, 2), run(5, 3)]);
        check(&[run(2, 5), run(3, 1), run(6, 2)], &[run(0, 2), run(8, 2)]);
    }

    #[test]
    fn the_first_run_that_fits_is_taken_else_the_largest() {
        let free = [run(0, 2), run(4, 3), run(10, 5)];
        let check = |count: u64, expect: &[Run]| assert_eq!(allocate(&free, count).as_deref(), Some(expect));
        check(1, &[run(0, 1)]);
        check(3, &[run(4, 3)]);
        check(6, &[run(4, 1), run(10, 5)]);
        check(10, &[run(0, 2), run(4, 3), run(10, 5)]);
        assert_eq!(allocate(&free, 11), None);
    }

    #[test]
    fn an_extent_has_one_owner() {
        assert!(refuse_overlaps(&mut [(run(4, 4), "b"), (run(0, 4), "a")]).is_ok());
        let error = refuse_overlaps(&mut [(run(3, 4), "b"), (run(0, 4), "a")]).expect_err("extent 3 is owned twice");
        assert_eq!(error.what, "extent 3 belongs to 'a' and to 'b'");
    }
}
