//! Machines: do they answer, are their certificates and versions right, do they have what their roles need.

use super::{Findings, check};
use crate::VERSION;
use api::{Check, Grade, Member, NodeState, Role};

/// Votes are a majority of these: with fewer, nobody is ever declared dead.
const WITNESSES_MIN: usize = 3;

pub fn judge(findings: &Findings) -> Vec<Check> {
    let mut checks: Vec<Check> = findings.members.iter().flat_map(|member| machine(findings, member)).collect();
    // Every member has a dead-man, and every dead-man a vote.
    let count = findings.members.len();
    checks.push(if count < WITNESSES_MIN {
        let text = format!("{count} of at least {WITNESSES_MIN} machines with a vote: no automatic failover");
        let hint = "join a third machine, if only with --roles witness";
        check(&findings.store, "votes", Grade::Warning, text, hint)
    } else {
        check(&findings.store, "votes", Grade::Good, format!("{count} machines vote"), "")
    });
    checks
}

pub fn machine(findings: &Findings, member: &Member) -> Vec<Check> {
    let mut checks = vec![reached(findings, member), certificate(findings, member)];
    if let Some(version) = member.version.as_ref().filter(|version| *version != VERSION) {
        let text = format!("it runs muskox {version}, the machine with the store {VERSION}");
        checks.push(check(&member.name, "version", Grade::Warning, text, "run one version on all machines"));
    }
    let Some(Ok(report)) = findings.looks.get(&member.name) else { return checks };
    if member.roles.contains(&Role::Host) {
        checks.extend(host(member, report));
    }
    checks.push(if report.deadman {
        check(&member.name, "dead-man", Grade::Good, "it answers", "")
    } else {
        let text = "it does not answer: this machine has no vote, and its guests are not watched";
        check(&member.name, "dead-man", Grade::Bad, text, "see var/log/muskox there, and restart its node")
    });
    if member.roles.contains(&Role::Storage) {
        checks.push(match findings.targets.get(&member.name) {
            Some(Ok(status)) => {
                check(&member.name, "target", Grade::Good, format!("it has run for {} s", status.up.0 / 1000), "")
            }
            Some(Err(problem)) => {
                let hint = "see var/log/muskox there, and restart its node; guests wait meanwhile";
                check(&member.name, "target", Grade::Bad, problem.text.clone(), hint)
            }
            None => check(&member.name, "target", Grade::Bad, "it was not asked", "ask again"),
        });
    }
    let complaint =
        |(text, hint): &(String, String)| check(&member.name, "machine", Grade::Warning, text.clone(), hint);
    checks.extend(report.complaints.iter().map(complaint));
    let fault = |(text, hint): &(String, String)| check(&member.name, "machine", Grade::Bad, text.clone(), hint);
    checks.extend(report.faults.iter().map(fault));
    checks
}

fn reached(findings: &Findings, member: &Member) -> Check {
    match (findings.looks.get(&member.name), member.state) {
        (Some(Err(problem)), _) => {
            let hint = if problem.hint.is_empty() { "check that `muskox node run` runs there" } else { &problem.hint };
            check(&member.name, "node", Grade::Bad, problem.text.clone(), hint)
        }
        (_, NodeState::Silent | NodeState::Unheard) => {
            let text = "it answers, but does not call the machine with the store";
            let hint = "see its log: it cannot reach that machine, or does not trust it";
            check(&member.name, "node", Grade::Warning, text, hint)
        }
        _ => check(&member.name, "node", Grade::Good, "it answers", ""),
    }
}

/// After two thirds of its life it is renewed; one that has a fifth left was not.
fn certificate(findings: &Findings, member: &Member) -> Check {
    let hint = "see its log for why it is not renewed; `muskox node run` renews it at its start too";
    match member.certificate_until_s {
        None => check(&member.name, "certificate", Grade::Warning, "it has not said which one it uses", hint),
        Some(until_s) if until_s <= findings.now_s => {
            let text = format!("it ended {} ago", span(findings.now_s - until_s));
            check(&member.name, "certificate", Grade::Bad, text, hint)
        }
        Some(until_s) => {
            let left_s = until_s - findings.now_s;
            let grade = if left_s < findings.certificate_s / 5 { Grade::Warning } else { Grade::Good };
            let hint = if grade == Grade::Good { "" } else { hint };
            check(&member.name, "certificate", grade, format!("good for {}", span(left_s)), hint)
        }
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn host(member: &Member, report: &crate::peer::HostReport) -> Vec<Check> {
    let Some((major, minor)) = report.qemu else {
        let hint =
            "install it: package qemu-system-x86 (Debian, Ubuntu), qemu-kvm (Fedora, RHEL); or take the role away";
        return vec![check(&member.name, "QEMU", Grade::Bad, "there is none: no VM can run here", hint)];
    };
    let mut checks = vec![match &report.lacks_machine {
        None => check(&member.name, "QEMU", Grade::Good, format!("version {major}.{minor}"), ""),
        Some(missing) => {
            let text = format!("version {major}.{minor} does not offer the machine type {missing}: no VM can run here");
            let hint = "install a QEMU that has it: `qemu-system-x86_64 -machine help` lists them";
            check(&member.name, "QEMU", Grade::Bad, text, hint)
        }
    }];
    checks.push(if report.accelerator == "kvm" {
        check(&member.name, "KVM", Grade::Good, "it runs guests", "")
    } else {
        let text = "KVM does not run guests here: they run by TCG, 10 to 30 times slower";
        let hint =
            "switch virtualisation on in the firmware, load kvm_intel or kvm_amd, or move to a machine that has it";
        check(&member.name, "KVM", Grade::Warning, text, hint)
    });
    checks
}
