//! After a cold start of everything: VMs start in their order, each waiting for those before it.

use units::{Millis, VmName};

/// One VM that is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Autostart {
    /// Which.
    pub vm: VmName,
    /// Lower ones first; those of the same order together.
    pub order: u32,
    /// The next order waits this long after it runs.
    pub settle_ms: Millis,
    /// How long it has been running; none: it does not.
    pub running_ms: Option<Millis>,
    /// It was tried and failed: nobody waits for it.
    pub failed: bool,
}

/// Whom to start now: everybody of the lowest order that is not up yet, once all of the lower orders run and have settled.
#[must_use]
pub fn due(vms: &[Autostart]) -> Vec<&VmName> {
    let holds_up = |it: &&Autostart| !it.failed && it.running_ms.is_none_or(|running| running < it.settle_ms);
    let Some(first) = vms.iter().filter(holds_up).map(|it| it.order).min() else {
        return Vec::new();
    };
    let wants = |it: &&Autostart| it.order == first && it.running_ms.is_none() && !it.failed;
    vms.iter().filter(wants).map(|it| &it.vm).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: a database is up and settled before what needs it starts; a broken VM holds nobody up. Method: step by step.
    #[test]
    fn orders_start_one_after_the_other() {
        let vm = |name: &str, order| {
            let (settle_ms, running_ms, failed) = (Millis(5_000), None, false);
            Autostart { vm: name.parse().expect("a name"), order, settle_ms, running_ms, failed }
        };
        let mut vms = [vm("db", 1), vm("broken", 1), vm("web1", 2), vm("web2", 2)];
        let names = |vms: &[Autostart]| due(vms).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&vms), ["db", "broken"]);
        vms[0].running_ms = Some(Millis(100));
        vms[1].failed = true;
        assert_eq!(names(&vms), Vec::<String>::new(), "db settles");
        vms[0].running_ms = Some(Millis(5_000));
        assert_eq!(names(&vms), ["web1", "web2"]);
        vms[2].running_ms = Some(Millis(1));
        assert_eq!(names(&vms), ["web2"]);
    }
}
