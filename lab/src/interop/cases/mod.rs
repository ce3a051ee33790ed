//! The cases: what has to be so between muskox and the kernel. A finding that the kernel showed has its number first.

mod handed;
mod initiator;
mod lvm;
mod mirror;
mod nbd;
mod split;
mod stock;
mod target;

use super::Guests;
use super::report::Verdict;
use super::storage::Plant;

/// A story, and its name.
pub struct Case {
    /// What it is about.
    pub name: &'static str,
    /// What happens in it.
    pub story: fn(&Plant, &mut Guests, &mut Verdict) -> anyhow::Result<()>,
}

/// All of them, in the order in which they are tried.
pub const CASES: &[Case] = &[
    Case { name: "md: a clean mirror, there and back", story: mirror::clean },
    Case { name: "md: killed in mid-writes, the kernel resyncs", story: mirror::killed },
    Case { name: "md: the kernel runs it degraded, both come back", story: mirror::degraded },
    Case { name: "md: the kernel crashes, muskox resyncs by its bitmap", story: mirror::crashed },
    Case { name: "md: a recovery by bitmap handed over by the kernel", story: handed::by_bitmap },
    Case { name: "md: a recovery of an empty disk handed over by the kernel", story: handed::of_an_empty_disk },
    Case { name: "md: a recovery handed over by muskox, killed in it", story: handed::to_the_kernel },
    Case { name: "OD1: the kernel ran a alone, then b", story: split::kernel_ran_both },
    Case { name: "OD1: the same, the state folder lost", story: split::and_state_is_lost },
    Case { name: "OD1: the same, a has more events", story: split::a_is_above },
    Case { name: "OD1: the same, b has more events, the state folder lost", story: split::a_is_below },
    Case { name: "OD1: muskox ran a, the kernel b", story: split::muskox_ran_a },
    Case {
        name: "OD1: muskox ran a, the kernel b, the state folder lost",
        story: split::muskox_ran_a_and_state_is_lost,
    },
    Case { name: "OD1: stock mdadm --re-add of a split, for comparison", story: split::stock_re_add },
    Case { name: "OD2: a failed disk is added again while the pool runs", story: target::added_again },
    Case { name: "OD3: what muskox does not do is refused by name, untouched", story: stock::refused },
    Case { name: "OD4: the member that ran elsewhere comes back late", story: split::the_newer_one_comes_late },
    Case { name: "OD5: an array without room for grants is refused at its start", story: stock::without_room },
    Case { name: "OD6: a stock spare is called a spare", story: stock::with_a_spare },
    Case { name: "OD7: a stop soon after writes or a resync is quick", story: target::stops_soon },
    Case { name: "OD8: an initiator that is up tells no past failure as present", story: initiator::past_failures },
    Case { name: "OD9: a read-only volume and a snapshot of stock LVM2", story: lvm::read_only_and_snapshot },
    Case { name: "OD10: SIGTERM when a recovery ends is no error", story: target::stops_without_an_error },
    Case { name: "md: arrays of stock mdadm are served and handed back", story: stock::served },
    Case { name: "lvm: a group that stock LVM2 has changed", story: lvm::changed_by_stock },
    Case { name: "lvm: two physical volumes are refused, untouched", story: lvm::two_physical_volumes },
    Case { name: "lvm: a new pool takes no disk that stock tools made", story: lvm::created_over },
    Case { name: "nbd: the kernel's client, each way to attach", story: nbd::ways_to_attach },
    Case { name: "nbd: several connections of one stock client", story: nbd::several_connections },
    Case { name: "nbd: fio through a cut shorter than the timeout", story: nbd::fio_through_a_cut },
    Case { name: "nbd: kills under stamped writes, nothing acknowledged is lost", story: nbd::kills },
];
