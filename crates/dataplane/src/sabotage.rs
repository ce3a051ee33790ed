//! Planted bugs by name, for the lab. Not in release builds (docs/rfd/0005-planted-bugs.md).

use units::sabotage::{Bug, plant_in_process};

/// Those of the data plane, then those of the control plane: one program plays every role.
const BUGS: &[(&str, Bug)] = &[
    ("no-gate", Bug::NoGate),
    ("ack-before-drain", Bug::AckBeforeDrain),
    ("requeue-new-epoch", Bug::RequeueNewEpoch),
    ("grant-not-durable", Bug::GrantNotDurable),
    ("degraded-serves", Bug::DegradedServes),
    ("incarnation-overtakes", Bug::IncarnationOvertakes),
    ("stock-overtakes", Bug::StockOvertakes),
    ("flush-not-passed-on", Bug::FlushNotPassedOn),
    ("fua-ignored", Bug::FuaIgnored),
    ("resync-overwrites-newer", Bug::ResyncOverwritesNewer),
    ("eio-retried", Bug::EioRetried),
    ("degraded-ack-first", Bug::DegradedAckFirst),
    ("bitmap-after-data", Bug::BitmapAfterData),
    ("partial-recovery-trusted", Bug::PartialRecoveryTrusted),
    ("no-deadman", Bug::NoDeadman),
    ("no-guard", Bug::NoGuard),
    ("task-panics", Bug::TaskPanics),
    ("cas-skip", Bug::CasSkip),
    ("cont-before-commit", Bug::ContBeforeCommit),
    ("fence-after-completion", Bug::FenceAfterCompletion),
    ("target-cleanup-although-won", Bug::TargetCleanupAlthoughWon),
    ("start-before-ack", Bug::StartBeforeAck),
    ("start-without-proof", Bug::StartWithoutProof),
    ("old-order-obeyed", Bug::OldOrderObeyed),
];

/// Plants a bug for the life of the process.
///
/// # Errors
/// Which names there are.
pub fn plant(name: &str) -> Result<(), String> {
    let found = BUGS.iter().find(|(known, _)| *known == name);
    let names: Vec<&str> = BUGS.iter().map(|(name, _)| *name).collect();
    let (_, bug) = found.ok_or_else(|| format!("MUSKOX_SABOTAGE={name} is not one of {}", names.join(", ")))?;
    tracing::warn!(name, "sabotage: this process is wrong on purpose");
    plant_in_process(*bug);
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: a name means the bug it says. Method: each name beside the variant's own.
    #[test]
    fn names_are_the_bugs_own() {
        for (name, bug) in BUGS {
            let joined: String =
                name.split('-').flat_map(|word| [word[..1].to_uppercase(), word[1..].into()]).collect();
            assert_eq!(joined, format!("{bug:?}"));
        }
    }

    /// Goal: a planted bug is planted, and a wrong name says the right ones. Method: one of the control plane's.
    #[test]
    fn a_name_plants_its_bug() {
        let complaint = plant("cas-skipped").expect_err("there is no such bug");
        assert!(complaint.contains("no-gate, ack-before-drain") && complaint.contains("cas-skip,"), "{complaint}");
        plant("cas-skip").expect("it is known");
        assert!(units::sabotage::planted(Bug::CasSkip) && !units::sabotage::planted(Bug::NoGate));
    }
}
