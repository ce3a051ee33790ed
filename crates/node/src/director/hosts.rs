//! What machines said lately: their reports, and how their guests are. Kept in memory: a new director hears it all within
//! a second.

use crate::peer::{HostReport, Tell};
use cluster::job::Guest;
use std::collections::BTreeMap;
use units::{HostKey, Millis, Moment, VmName};

/// Who called within this time is taken as there; machines call every second.
pub const FRESH: Millis = Millis(3_000);
/// What was told so shortly before a report arrived may be newer than the report.
const OVERTAKEN: Millis = Millis(1_500);

/// Many times what a cluster has: a host that invents VMs does not fill the memory.
const GUESTS_MAX: usize = 50_000;

/// All machines.
#[derive(Default)]
pub struct Hosts {
    reports: BTreeMap<HostKey, (HostReport, Moment)>,
    guests: BTreeMap<(VmName, HostKey), (Tell, Moment)>,
}

impl Hosts {
    /// A machine's regular report.
    pub fn reported(&mut self, host: HostKey, report: HostReport, now: Moment) {
        let listed = |vm: &VmName| report.guests.iter().any(|tell| tell.vm == *vm);
        self.guests.retain(|(vm, at), (_, when)| *at != host || listed(vm) || now.since(*when) < OVERTAKEN);
        for tell in &report.guests {
            let known = self.guests.get(&(tell.vm.clone(), host));
            let overtaken = known.is_some_and(|(known, when)| {
                known.at > tell.at || (known.at == tell.at && now.since(*when) < OVERTAKEN && known != tell)
            });
            if !overtaken {
                self.guests.insert((tell.vm.clone(), host), (tell.clone(), now));
            }
        }
        self.reports.insert(host, (report, now));
    }

    /// A machine says how one guest is.
    pub fn told(&mut self, host: HostKey, tell: &Tell, now: Moment) {
        let place = (tell.vm.clone(), host);
        if !self.guests.contains_key(&place) && self.guests.len() >= GUESTS_MAX {
            // Its report clears away what it invented.
            return;
        }
        self.guests.insert((tell.vm.clone(), host), (tell.clone(), now));
    }

    /// The newest report, if it is fresh.
    #[must_use]
    pub fn fresh(&self, host: HostKey, now: Moment) -> Option<&HostReport> {
        self.reports.get(&host).filter(|(_, when)| now.since(*when) < FRESH).map(|(report, _)| report)
    }

    /// Which witnesses each machine's dead-man knows, by its newest report.
    #[must_use]
    pub fn witnesses(&self) -> BTreeMap<HostKey, Vec<HostKey>> {
        self.reports.iter().map(|(host, (report, _))| (*host, report.witnesses.clone())).collect()
    }

    /// What was said about a guest.
    #[must_use]
    pub fn tell(&self, vm: &VmName, host: HostKey) -> Option<&Tell> {
        self.guests.get(&(vm.clone(), host)).map(|(tell, _)| tell)
    }

    /// What was said about a VM, by whom.
    pub fn tells(&self, vm: &VmName) -> impl Iterator<Item = (HostKey, &Tell)> {
        let from = (vm.clone(), HostKey([0; 32]));
        self.guests
            .range(from..)
            .take_while(move |((name, _), _)| name == vm)
            .map(|((_, host), (tell, _))| (*host, tell))
    }

    /// What was said about all VMs, by whom.
    pub fn all_tells(&self) -> impl Iterator<Item = (&VmName, HostKey, &Tell)> {
        self.guests.iter().map(|((vm, host), (tell, _))| (vm, *host, tell))
    }

    /// How a guest is; none: its host has not been heard lately.
    #[must_use]
    pub fn guest(&self, vm: &VmName, host: HostKey, now: Moment) -> Option<Guest> {
        self.fresh(host, now)?;
        Some(self.tell(vm, host).map_or(Guest::Absent, |tell| tell.guest))
    }
}

#[cfg(test)]
pub mod test {
    use super::*;
    use cluster::migrate::Measured;
    use cluster::store::Revision;
    use units::ByteLen;

    pub fn tell(vm: &str, at: u64, guest: Guest) -> Tell {
        Tell {
            vm: vm.parse().expect("a name"),
            at: Revision(at),
            guest,
            epoch: None,
            refused: None,
            measured: Measured::default(),
            stopped_ago_ms: None,
            resumed_ago_ms: None,
            port: None,
            powered_off: false,
            paused: false,
            why: None,
        }
    }

    pub fn report(guests: Vec<Tell>) -> HostReport {
        HostReport {
            memory: ByteLen::mib(4096),
            free: ByteLen::mib(2048),
            cpus: 2,
            qemu: Some((10, 0)),
            accelerator: "tcg".to_owned(),
            bridges: vec!["lan".to_owned()],
            guests,
            target_up: None,
            deadman: true,
            witnesses: Vec::new(),
            complaints: Vec::new(),
        }
    }

    /// Goal: a report that was overtaken by what was told does not hide it, a later one does; silence is not absence.
    /// Method: in this order.
    #[test]
    fn news_is_not_hidden_by_an_older_report() {
        let (host, vm) = (HostKey([1; 32]), "a".parse().expect("a name"));
        let mut hosts = Hosts::default();
        assert_eq!(hosts.guest(&vm, host, Moment(0)), None);
        hosts.reported(host, report(Vec::new()), Moment(0));
        assert_eq!(hosts.guest(&vm, host, Moment(1)), Some(Guest::Absent));
        hosts.told(host, &tell("a", 5, Guest::Running), Moment(100));
        hosts.reported(host, report(Vec::new()), Moment(200));
        assert_eq!(hosts.guest(&vm, host, Moment(201)), Some(Guest::Running), "the report was on its way");
        hosts.reported(host, report(vec![tell("a", 4, Guest::Loaded)]), Moment(5_000));
        assert_eq!(hosts.guest(&vm, host, Moment(5_001)), Some(Guest::Running), "of an older order");
        hosts.reported(host, report(Vec::new()), Moment(9_000));
        assert_eq!(hosts.guest(&vm, host, Moment(9_001)), Some(Guest::Absent));
        assert_eq!(hosts.guest(&vm, host, Moment(12_000)), None, "silent");
    }
}
