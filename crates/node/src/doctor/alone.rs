//! What a machine sees by itself while the machine with the store does not answer.

use super::{Findings, check, guests, local, machines, weight};
use crate::clock::now_s;
use crate::peer::HostReport;
use crate::service::Node;
use api::{Check, Doctor, Grade, Member, NodeState, Problem, Role};
use cluster::job::Guest;
use std::collections::BTreeMap;
use wire::control::{Reply, Request};

/// Looks at this machine alone. `why`: the store was not reached.
pub async fn examine_alone(node: &Node, why: &Problem) -> Doctor {
    let mut report = node.agent.look().await;
    local::look(&node.root, &mut report);
    let own = &node.identity;
    let member = Member {
        name: own.name.clone(),
        address: own.address,
        portals: own.portals.clone(),
        roles: own.roles.clone(),
        key: node.key,
        joined_s: 0,
        state: NodeState::Up,
        heard_ms: None,
        certificate_until_s: Some(*node.certificate_until_s.borrow()),
        version: Some(crate::VERSION.to_owned()),
    };
    let mut targets = BTreeMap::new();
    if own.roles.contains(&Role::Storage) {
        let said = match node.agent.target(Request::Status).await {
            Ok(Reply::Status(status)) => Ok(status),
            Ok(_) => Err(Problem::new(api::Code::Failed, "it answered something else", "")),
            Err(refusal) => Err(Problem::new(api::Code::Failed, refusal.text, &refusal.hint)),
        };
        targets.insert(own.name.clone(), said);
    }
    Doctor { checks: judge(&member, report, targets, why) }
}

fn judge(
    member: &Member,
    report: HostReport,
    targets: BTreeMap<units::NodeName, Result<wire::control::StatusReport, Problem>>,
    why: &Problem,
) -> Vec<Check> {
    let name = member.name.clone();
    let runs: Vec<Check> = report.guests.iter().filter_map(|tell| guest(&name, tell)).collect();
    let looks = BTreeMap::from([(name.clone(), Ok(report))]);
    // How long certificates are good only the store knows: here one is bad when it has ended.
    let findings = Findings { looks, targets, ..Findings::empty(name.clone(), now_s()) };
    let text = format!("{}; what follows is what this machine sees", why.text);
    let mut checks = vec![check(&name, "store", Grade::Bad, text, &why.hint)];
    checks.extend(machines::machine(&findings, member));
    checks.extend(guests::still(&findings));
    checks.extend(guests::paths(&findings));
    checks.extend(runs);
    checks[1..].sort_by_key(|check| weight(check.grade));
    checks
}

/// A guest that is as it should be, as far as this machine knows.
fn guest(name: &units::NodeName, tell: &crate::peer::Tell) -> Option<Check> {
    let word = match tell.guest {
        Guest::Running if !tell.paused => "it runs here",
        Guest::Copying => "it runs here, and is being moved",
        Guest::Absent | Guest::Stopped | Guest::Running => return None,
        _ => "it is being started, moved or ended here",
    };
    let epoch = tell.epoch.map_or_else(String::new, |epoch| format!(", at {epoch}"));
    Some(check(name, &format!("VM {}", tell.vm), Grade::Good, format!("{word}{epoch}"), ""))
}

#[cfg(test)]
mod test {
    use super::super::test::{guest as tell, member, report};
    use super::*;

    /// Goal: D10: while the store is away, a machine says so first, and then how its own guests, QEMU and dead-man are. Method: a guest
    /// that runs, one that stands, one that is gone; a dead-man that does not answer.
    #[test]
    fn a_machine_says_what_it_sees() {
        let mut seen = report();
        let named = |name: &str, guest| crate::peer::Tell { vm: name.parse().unwrap(), ..tell(guest) };
        let guests = [("a", Guest::Running), ("b", Guest::Stopped), ("c", Guest::Absent)];
        seen.guests = guests.map(|(name, guest)| named(name, guest)).into();
        seen.deadman = false;
        let why = Problem::new(api::Code::StoreUnreachable, "the store is away", "start it");
        let mut alone = member("two");
        alone.roles = vec![Role::Host];
        let checks = judge(&alone, seen, BTreeMap::new(), &why);
        let of = |what: &str| checks.iter().find(|check| check.what == what).map(|check| check.grade);
        assert_eq!((checks[0].what.as_str(), checks[0].grade), ("store", Grade::Bad));
        assert!(checks[0].text.starts_with("the store is away; what follows"), "{checks:?}");
        assert_eq!(of("VM a"), Some(Grade::Good));
        assert_eq!(of("VM b"), Some(Grade::Bad));
        assert_eq!((of("VM c"), of("votes"), of("target")), (None, None, None), "{checks:?}");
        assert_eq!((of("dead-man"), of("QEMU")), (Some(Grade::Bad), Some(Grade::Good)));
    }
}
