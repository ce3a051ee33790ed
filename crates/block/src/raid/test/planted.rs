//! Every planted bug of this room is seen by the test that is there for it (`cargo test -p block --features sabotage`).

use super::{fill, pages, serve, walk};
use std::panic::catch_unwind;
use units::sabotage::{Bug, plant};

#[test]
fn every_planted_bug_is_found() {
    let cases: [(Bug, fn()); 11] = [
        (Bug::ClearingUnannounced, pages::a_member_older_than_the_cleared_bits_is_filled_whole),
        (Bug::FlushNotPassedOn, serve::a_flush_and_fua_reach_every_member),
        (Bug::FuaIgnored, serve::a_flush_and_fua_reach_every_member),
        (Bug::ResyncOverwritesNewer, fill::a_resync_never_overwrites_a_newer_write),
        (Bug::ResyncOverwritesNewer, walk::members_in_sync_hold_what_was_acknowledged),
        (Bug::MendWithoutWindow, serve::a_write_back_never_overwrites_a_newer_write),
        (Bug::EioRetried, serve::a_failed_member_is_never_asked_again),
        (Bug::DegradedAckFirst, serve::a_degraded_write_waits_for_the_record_of_the_failure),
        (Bug::BitmapAfterData, serve::the_bit_is_durable_before_the_data),
        (Bug::BitmapAfterData, serve::no_data_goes_to_a_member_whose_bitmap_write_failed),
        (Bug::PartialRecoveryTrusted, fill::a_rebuild_stopped_anywhere_goes_on_and_ends_equal),
    ];
    for (bug, test) in cases {
        let _planted = plant(bug);
        assert!(catch_unwind(test).is_err(), "{bug:?} was not found");
    }
}
