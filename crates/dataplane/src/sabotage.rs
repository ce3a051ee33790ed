//! Planted bugs by name, for the lab. Not in release builds (docs/rfd/0005-planted-bugs.md).

use units::sabotage::{Bug, plant_in_process};

const BUGS: [(&str, Bug); 14] = [
    ("no-gate", Bug::NoGate),
    ("ack-before-drain", Bug::AckBeforeDrain),
    ("requeue-new-epoch", Bug::RequeueNewEpoch),
    ("grant-not-durable", Bug::GrantNotDurable),
    ("degraded-serves", Bug::DegradedServes),
    ("incarnation-overtakes", Bug::IncarnationOvertakes),
    ("flush-not-passed-on", Bug::FlushNotPassedOn),
    ("fua-ignored", Bug::FuaIgnored),
    ("resync-overwrites-newer", Bug::ResyncOverwritesNewer),
    ("eio-retried", Bug::EioRetried),
    ("degraded-ack-first", Bug::DegradedAckFirst),
    ("bitmap-after-data", Bug::BitmapAfterData),
    ("partial-recovery-trusted", Bug::PartialRecoveryTrusted),
    ("no-deadman", Bug::NoDeadman),
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
