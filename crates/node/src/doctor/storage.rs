//! Pools, volumes and claims: what the store says of them beside what the targets say.

use super::{Findings, check};
use crate::storage::object::{ClaimObject, PoolObject, VolumeObject, pool_key, volume_key};
use api::{Check, Grade};
use units::VolumeName;
use wire::control::{MemberState, PoolReport, PoolState, ServeState, VolumeReport};

pub fn judge(findings: &Findings) -> Vec<Check> {
    let pools = findings.pools.iter().filter_map(|it| pool(findings, it));
    let volumes = findings.volumes.iter().filter_map(|it| volume(findings, it));
    let claims = findings.claims.iter().filter_map(|it| claim(findings, it));
    pools.chain(volumes).chain(claims).chain(strangers(findings)).collect()
}

/// Nothing is said of what a target has that does not answer: the target is a finding itself.
fn pool(findings: &Findings, it: &PoolObject) -> Option<Check> {
    let Ok(status) = findings.targets.get(&it.node)? else { return None };
    let what = format!("pool {}", it.name);
    let Some(report) = status.pools.iter().find(|report| report.pool == it.name) else {
        let text = "its target does not know it";
        let hint = "if it was never made, make it again; otherwise `muskox pool start` it and name its disks";
        return Some(check(&it.node, &what, Grade::Bad, text, hint));
    };
    let (grade, hint) = match report.state {
        PoolState::Healthy if report.members.len() == 1 => (
            Grade::Warning,
            "one disk protects nothing: make a pool of two, copy its volumes there, and remove this one",
        ),
        PoolState::Healthy => (Grade::Good, ""),
        PoolState::Recovering => (Grade::Warning, "wait until the resync is over; a failure until then may lose data"),
        PoolState::Degraded => (Grade::Warning, degraded(report)),
        PoolState::Failed => {
            (Grade::Bad, "bring its disks back: it starts by itself then, or `muskox pool start` says why not")
        }
        PoolState::Stopped => (Grade::Warning, "start it with `muskox pool start` when its volumes are needed"),
    };
    Some(check(&it.node, &what, grade, said(report), hint))
}

/// What brings redundancy back depends on whether a disk failed or is not there.
fn degraded(report: &PoolReport) -> &'static str {
    let is = |state| report.members.iter().any(|member| member.state == state);
    match (is(MemberState::Failed), is(MemberState::Missing)) {
        (true, false) => {
            "see to the failed disk's cable and to `dmesg`, then `muskox pool add` takes it back, or `muskox pool replace` puts another in its place: one more failure loses data"
        }
        (false, true) => {
            "bring the missing disk: it comes back by itself if it did not fail before; or `muskox pool replace` it: one more failure loses data"
        }
        _ => {
            "bring the missing disk, or `muskox pool replace` it; `muskox pool add` takes a failed one back: one more failure loses data"
        }
    }
}

/// The disks are named by the reason; of a pool that is not assembled the size is not known.
fn said(report: &PoolReport) -> String {
    let why = report.reason.iter().chain(&report.note).map(|why| format!(": {why}")).collect::<String>();
    let resync = report.resync.map_or_else(String::new, |work| format!(", resync {} of {}", work.done, work.total));
    let free = if report.size.0 > 0 { format!(", {} of {} free", report.free, report.size) } else { String::new() };
    format!("{}{why}{free}{resync}", report.state.word())
}

fn volume(findings: &Findings, it: &VolumeObject) -> Option<Check> {
    let Ok(status) = findings.targets.get(&it.node)? else { return None };
    let what = format!("volume {}", it.name);
    let Some(id) = it.id else {
        let text = "it was being made or removed when something failed";
        return Some(check(&it.node, &what, Grade::Warning, text, "make it or remove it again"));
    };
    let report = status.volumes.iter().find(|report| report.volume == it.name.as_str());
    let pool = status.pools.iter().find(|report| report.pool == it.pool);
    match report {
        Some(report) if report.id != id => {
            let text = format!("its target has another volume of this name: {}, not {id}", report.id);
            Some(check(
                &it.node,
                &what,
                Grade::Bad,
                text,
                "rename or remove that one with lvm2, and bring the right disks",
            ))
        }
        Some(report) => blocked(report).map(|(text, hint)| check(&it.node, &what, Grade::Bad, text, hint)),
        // A pool that does not serve is said once.
        None if pool.is_none_or(|pool| matches!(pool.state, PoolState::Failed | PoolState::Stopped)) => None,
        None => {
            let text = format!("it is not on its pool '{}' any more", it.pool);
            Some(check(
                &it.node,
                &what,
                Grade::Bad,
                text,
                "somebody removed it at the target; `muskox volume remove` forgets it",
            ))
        }
    }
}

fn blocked(report: &VolumeReport) -> Option<(String, &'static str)> {
    let (state, hint) = match report.state {
        ServeState::Serving | ServeState::Raising | ServeState::Zeroing => return None,
        ServeState::BlockedFloor => ("a member is missing that may know a newer epoch", "bring the missing disk back"),
        ServeState::BlockedFence => ("an operation hangs on the last good disk", "look at `dmesg` on that machine"),
        ServeState::BlockedStore => {
            ("its grant could not be made durable", "look at its pool's disks; its VM's next start tries again")
        }
        ServeState::Offline => ("its pool does not serve it", "see its pool"),
    };
    let why = report.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    Some((format!("it serves nobody: {state}{why}"), hint))
}

fn claim(findings: &Findings, it: &ClaimObject) -> Option<Check> {
    if findings.filling.contains(&it.volume) {
        return None;
    }
    let text = format!("a copy of an image into the volume '{}' did not end; it holds a part of it", it.volume);
    let hint = "restart that machine's node, or import the image again from any machine: that takes the volume over";
    Some(check(&it.machine, &format!("volume {}", it.volume), Grade::Warning, text, hint))
}

/// What targets have that the cluster does not know. What it cannot read it knows.
fn strangers(findings: &Findings) -> Vec<Check> {
    let mut checks = Vec::new();
    for (node, status) in &findings.targets {
        let Ok(status) = status else { continue };
        for report in &status.pools {
            let known = findings.pools.iter().any(|it| it.name == report.pool && it.node == *node);
            let unread = findings.unreadable.iter().any(|(key, _)| *key == pool_key(&report.pool));
            if !known && !unread {
                let text = "its target has this pool, and the cluster does not know it";
                let hint = "take it in with `muskox pool create` and the same disks, or stop it with `muskox ctl`";
                checks.push(check(node, &format!("pool {}", report.pool), Grade::Warning, text, hint));
            }
        }
        for report in &status.volumes {
            let name = report.volume.parse::<VolumeName>().ok();
            let known = findings.volumes.iter().any(|it| Some(&it.name) == name.as_ref() && it.node == *node);
            let mut unread = findings.unreadable.iter().map(|(key, _)| key);
            let unread = name.is_some_and(|name| unread.any(|key| *key == volume_key(&name)));
            if !known && !unread && findings.pools.iter().any(|it| it.name == report.pool) {
                let foreign = report.reason.as_ref().filter(|_| report.state == ServeState::Offline);
                let (text, hint) = match foreign {
                    Some(why) => (
                        format!("its target has this volume, and does not serve it: {why}"),
                        "it takes room; see to it with the lvm tools while the pool is stopped",
                    ),
                    None => (
                        "its target has this volume, and the cluster does not know it".to_owned(),
                        "it is served to nobody; restore a newer backup of the store, or `muskox ctl volume remove` it",
                    ),
                };
                checks.push(check(node, &format!("volume {}", report.volume), Grade::Warning, text, hint));
            }
        }
    }
    checks
}
