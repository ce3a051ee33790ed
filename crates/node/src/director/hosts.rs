//! What machines said lately: their reports, and how their guests are. Kept in memory: a new director hears it all within
//! a second.

use crate::peer::{HostReport, Sequence, Tell};
use cluster::job::Guest;
use std::collections::BTreeMap;
use units::{HostKey, Millis, Moment, VmName};

/// Who called within this time is taken as there; machines call every second.
pub const FRESH: Millis = Millis(3_000);
/// A connection is cut off after 30 s, and nothing comes by it any more. Who speaks with lower numbers for longer has lost its
/// count: it is believed again.
const SWAPPED_MAX: Millis = Millis(60_000);
/// Of a host that does not number what it says: what was told so shortly before a report arrived may be newer than the report.
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
    /// A machine's regular report; what of it was news. Nothing, if it was overtaken by a newer one.
    pub fn reported(&mut self, host: HostKey, report: HostReport, now: Moment) -> Vec<Tell> {
        let before = self.reports.get(&host);
        if before.is_some_and(|(before, when)| is_past(report.sequence, before.sequence, now.since(*when))) {
            return Vec::new();
        }
        let listed = |vm: &VmName| report.guests.iter().any(|tell| tell.vm == *vm);
        // What was told after the report was made is not in it.
        self.guests.retain(|(vm, at), (known, when)| {
            *at != host || listed(vm) || is_past(report.sequence, known.sequence, now.since(*when)) || {
                known.sequence == report.sequence && now.since(*when) < OVERTAKEN
            }
        });
        let overtaken = |tell: &Tell| {
            self.guests.get(&(tell.vm.clone(), host)).is_some_and(|(known, when)| {
                let since = now.since(*when);
                let unclear = known.sequence == tell.sequence;
                let newer = known.at > tell.at || (known.at == tell.at && since < OVERTAKEN && known != tell);
                is_past(tell.sequence, known.sequence, since) || (unclear && newer)
            })
        };
        let news: Vec<Tell> = report.guests.iter().filter(|tell| !overtaken(tell)).cloned().collect();
        self.guests.extend(news.iter().map(|tell| ((tell.vm.clone(), host), (tell.clone(), now))));
        self.reports.insert(host, (report, now));
        news
    }

    /// A machine says how one guest is; whether that is news, not what a newer word has overtaken.
    pub fn told(&mut self, host: HostKey, tell: &Tell, now: Moment) -> bool {
        let place = (tell.vm.clone(), host);
        let report = || self.reports.get(&host).map(|(report, when)| (report.sequence, *when));
        // A report that does not list it is newer than what it cleared away.
        let known = self.guests.get(&place).map(|(known, when)| (known.sequence, *when)).or_else(report);
        if known.is_some_and(|(known, when)| is_past(tell.sequence, known, now.since(when))) {
            return false;
        }
        match self.guests.get(&place) {
            // Its report clears away what it invented.
            None if self.guests.len() >= GUESTS_MAX => return true,
            Some(_) | None => {}
        }
        self.guests.insert(place, (tell.clone(), now));
        true
    }

    /// The newest report, if it is fresh.
    #[must_use]
    pub fn fresh(&self, host: HostKey, now: Moment) -> Option<&HostReport> {
        self.reports.get(&host).filter(|(_, when)| now.since(*when) < FRESH).map(|(report, _)| report)
    }

    /// When a machine called last.
    #[must_use]
    pub fn heard_at(&self, host: HostKey) -> Option<Moment> {
        self.reports.get(&host).map(|(_, when)| *when)
    }

    /// Which witnesses each machine's dead-man knows, by its newest report.
    #[must_use]
    pub fn witnesses(&self) -> BTreeMap<HostKey, Vec<HostKey>> {
        self.reports.iter().map(|(host, (report, _))| (*host, report.witnesses.clone())).collect()
    }

    /// Why a host cannot tell whether it has a VM, by what it said last, also if that was long ago.
    #[must_use]
    pub fn unknown(&self, vm: &VmName, host: HostKey) -> Option<String> {
        match self.tell(vm, host) {
            Some(tell) if tell.guest == Guest::Unknown => {
                Some(tell.why.clone().unwrap_or_else(|| "it does not say why".to_owned()))
            }
            Some(_) => None,
            None => self.reports.get(&host).and_then(|(report, _)| report.unlisted.clone()),
        }
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

    /// The host that says it has a guest, at the highest epoch of those that do.
    #[must_use]
    pub fn who_has(&self, vm: &VmName) -> Option<HostKey> {
        let having = self.tells(vm).filter(|(_, tell)| tell.guest != Guest::Absent);
        having.max_by_key(|(_, tell)| tell.epoch).map(|(host, _)| host)
    }

    /// What was said about all VMs, by whom.
    pub fn all_tells(&self) -> impl Iterator<Item = (&VmName, HostKey, &Tell)> {
        self.guests.iter().map(|((vm, host), (tell, _))| (vm, *host, tell))
    }

    /// How a guest is; none: its host has not been heard lately.
    #[must_use]
    pub fn guest(&self, vm: &VmName, host: HostKey, now: Moment) -> Option<Guest> {
        let report = self.fresh(host, now)?;
        let unsaid = if report.unlisted.is_some() { Guest::Unknown } else { Guest::Absent };
        Some(self.tell(vm, host).map_or(unsaid, |tell| tell.guest))
    }
}

/// Whether what is said now was said before what is known, which was heard this long ago. Two connections may swap them.
fn is_past(said: Sequence, known: Sequence, since: Millis) -> bool {
    said < known && since < SWAPPED_MAX
}

#[cfg(test)]
pub mod test {
    use super::*;
    use cluster::store::Revision;
    use units::ByteLen;

    pub fn tell(vm: &str, at: u64, guest: Guest) -> Tell {
        Tell { at: Revision(at), ..Tell::new(vm.parse().expect("a name"), Sequence::default(), guest) }
    }

    pub fn report(guests: Vec<Tell>) -> HostReport {
        HostReport {
            sequence: Sequence::default(),
            memory: ByteLen::mib(4096),
            free: ByteLen::mib(2048),
            cpus: 2,
            qemu: Some((10, 0)),
            accelerator: "tcg".to_owned(),
            bridges: vec!["lan".to_owned()],
            bridges_out: Vec::new(),
            lacks_machine: None,
            processor: None,
            guests,
            unlisted: None,
            target_up: None,
            deadman: true,
            withheld: None,
            witnesses: Vec::new(),
            complaints: Vec::new(),
            faults: Vec::new(),
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

    /// Goal: of two words that arrive swapped the later one stays, whichever way they came: told, or in a report that lists the
    /// guest or does not; a report that was overtaken changes nothing. A host that has lost its count is believed again after a
    /// minute. Method: each pair in both orders.
    #[test]
    fn swapped_words_change_nothing() {
        let (host, vm) = (HostKey([1; 32]), "a".parse().expect("a name"));
        let said = |life, number, guest| Tell { sequence: Sequence { life, number }, ..tell("a", 5, guest) };
        let list = |life, number, guests| HostReport { sequence: Sequence { life, number }, ..report(guests) };
        let (old, new) = (said(3, 8, Guest::Incoming), said(4, 2, Guest::Running));
        let with = |hosts: &mut Hosts, tell: &Tell, listed: bool, at| match listed {
            true => {
                let Sequence { life, number } = tell.sequence;
                !hosts.reported(host, list(life, number - 1, vec![tell.clone()]), Moment(at)).is_empty()
            }
            false => hosts.told(host, tell, Moment(at)),
        };
        for (first, second) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut hosts = Hosts::default();
            assert!(with(&mut hosts, &new, first, 10) && !with(&mut hosts, &old, second, 5_000), "{first} {second}");
            assert_eq!(hosts.tell(&vm, host), Some(&new), "{first} {second}");
            let mut hosts = Hosts::default();
            assert!(with(&mut hosts, &old, first, 10) && with(&mut hosts, &new, second, 20), "{first} {second}");
            assert_eq!(hosts.tell(&vm, host), Some(&new), "{first} {second}");
        }
        let mut hosts = Hosts::default();
        assert!(hosts.told(host, &new, Moment(10)));
        assert!(hosts.reported(host, list(4, 1, Vec::new()), Moment(5_000)).is_empty());
        assert_eq!(hosts.tell(&vm, host), Some(&new), "a report from before it was there");
        hosts.reported(host, list(4, 3, Vec::new()), Moment(5_010));
        assert!(!hosts.told(host, &new, Moment(5_015)), "from before that report");
        assert_eq!(hosts.tell(&vm, host), None, "one from after that");
        hosts.reported(host, list(4, 1, vec![new.clone()]), Moment(5_020));
        assert_eq!(hosts.tell(&vm, host), None, "a report that was overtaken");
        assert!(hosts.reported(host, list(1, 1, vec![said(1, 2, Guest::Running)]), Moment(65_009)).is_empty());
        assert!(!hosts.reported(host, list(1, 3, vec![said(1, 4, Guest::Running)]), Moment(65_010)).is_empty());
    }
}
