//! VMs that should run and do not, guests that stand still, jobs that wait.

use super::{Findings, check};
use crate::director::Desk;
use crate::peer::Tell;
use api::{Check, Grade};
use cluster::job::Guest;
use serde::Deserialize;

/// A VM's object, as far as it matters here.
#[derive(Deserialize)]
pub struct VmAtAGlance {
    /// Its name.
    pub name: units::VmName,
    /// `running` or `stopped`.
    pub wish: String,
    /// Why it does not run, as far as that was recorded.
    #[serde(skip)]
    pub down: Option<String>,
}

/// A job's object, as far as it matters here.
#[derive(Deserialize)]
pub struct JobAtAGlance {
    /// Which.
    pub id: String,
    /// What it waits for, longer than it should.
    pub blocked: Option<String>,
    /// What it came to; none: it goes on.
    pub outcome: Option<serde::de::IgnoredAny>,
}

impl JobAtAGlance {
    /// What it waits for right now says more than what was recorded.
    pub fn ask(&mut self, desk: &Desk) {
        let waits = self.id.parse().ok().and_then(|id| desk.waits_for(&id));
        self.blocked = waits.or(self.blocked.take());
    }
}

pub fn judge(findings: &Findings) -> Vec<Check> {
    let jobs = findings.jobs.iter().filter(|job| job.outcome.is_none());
    let blocked = jobs.filter_map(|job| {
        let text = format!("it waits for: {}", job.blocked.as_ref()?);
        let hint = format!("`muskox job show {}` says since when; see to what it waits for", job.id);
        Some(check(&findings.store, &format!("job {}", job.id), Grade::Bad, text, &hint))
    });
    findings
        .vms
        .iter()
        .filter_map(|vm| down(findings, vm))
        .chain(still(findings))
        .chain(paths(findings))
        .chain(blocked)
        .chain(behind(findings))
        .collect()
}

fn down(findings: &Findings, vm: &VmAtAGlance) -> Option<Check> {
    let mut tells = findings.looks.values().flatten().flat_map(|report| &report.guests).filter(|it| it.vm == vm.name);
    if vm.wish != "running" || tells.any(|tell| !matches!(tell.guest, Guest::Absent)) {
        return None;
    }
    let silent = findings.looks.values().any(Result::is_err);
    let (grade, text) = if silent {
        (Grade::Warning, "it should run, and no machine that answers has it")
    } else {
        (Grade::Bad, "it should run and does not")
    };
    let text = vm.down.as_ref().map_or_else(|| text.to_owned(), |why| format!("{text}: {why}"));
    let hint = format!("`muskox why vm {}` tells what happened", vm.name);
    Some(check(&findings.store, &format!("VM {}", vm.name), grade, text, &hint))
}

fn behind(findings: &Findings) -> impl Iterator<Item = Check> {
    let bad = |(vm, problem): &(units::VmName, api::Problem)| {
        check(&findings.store, &format!("VM {vm}"), Grade::Bad, problem.text.clone(), &problem.hint)
    };
    findings.behind.iter().map(bad)
}

/// A24, A26: each disk of each guest, by the paths that its initiator has.
pub fn paths(findings: &Findings) -> Vec<Check> {
    let mut checks = Vec::new();
    for (node, report) in &findings.looks {
        let guests = report.iter().flat_map(|report| &report.guests);
        for (tell, disk) in guests.flat_map(|tell| tell.disks.iter().map(move |disk| (tell, disk))) {
            let what = format!("VM {}", tell.vm);
            let down = disk.down.iter().map(|(portal, why)| format!("{portal} ({why})")).collect::<Vec<_>>().join(", ");
            if let Some(why) = &disk.waits {
                let text = format!("the guest waits for its volume '{}': {why}", disk.volume);
                let hint =
                    "see to the target and to the network between; the guest goes on by itself when the volume is back";
                checks.push(check(node, &what, Grade::Bad, text, hint));
            } else if !down.is_empty() {
                let left = disk.up.len();
                let text = format!("its volume '{}' is not reached over {down}; paths left: {left}", disk.volume);
                let hint = "look at that segment: cable, switch, addresses and MTU at both ends; one more failure stops the guest";
                checks.push(check(node, &what, Grade::Warning, text, hint));
            }
        }
    }
    checks
}

pub fn still(findings: &Findings) -> Vec<Check> {
    let mut checks = Vec::new();
    for (node, report) in &findings.looks {
        let Ok(report) = report else { continue };
        let still = |tell: &&Tell| tell.paused || tell.guest == Guest::Stopped;
        for tell in report.guests.iter().filter(still) {
            let why = tell.why.clone().unwrap_or_else(|| "its host does not say why".to_owned());
            let hint = format!("`muskox why vm {}`; it goes on by itself when its volumes and its host do", tell.vm);
            checks.push(check(node, &format!("VM {}", tell.vm), Grade::Bad, format!("it stands still: {why}"), &hint));
        }
    }
    checks
}
