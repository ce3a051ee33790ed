//! VMs on which the store is behind: it was brought back from a backup that is older than what really runs.
//!
//! In ordinary life the store says everything first: an epoch is in it before a target or a host hears of it, and no order
//! is of a later revision than its own. So whoever knows a higher epoch, or has heard a later order, has heard it from a
//! store that is lost. Nothing is done for such a VM: what this store would do (start it where it is not, end it where it
//! is) is what must not happen. A person brings the two together: `muskox vm adopt` (`crate::vms::adopt`).
//!
//! Invariant: words are gathered before the store is read they are held against; the other way round a job that just went
//! on would look like a lost store.

use super::hosts::Hosts;
use super::recover::SETTLE;
use super::{Desk, View};
use crate::peer::Tell;
use api::{Code, Problem, Role};
use cluster::job::Guest;
use cluster::store::Revision;
use host::runtime::now;
use std::collections::BTreeMap;
use std::time::Duration;
use units::{Epoch, HostKey, VmName, VolumeName};

/// Between two looks at who has called since this director began.
const LISTEN_AGAIN: Duration = Duration::from_millis(50);

/// What a host said about a VM, as far as it shows where the store once was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// Who.
    pub host: HostKey,
    /// How its guest is.
    pub guest: Guest,
    /// The epoch that it is attached at.
    pub epoch: Option<Epoch>,
    /// The newest order heard.
    pub at: Revision,
    /// The host cannot tell about it, but certainly nothing of it runs there.
    pub nothing_runs: bool,
}

/// What shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sign {
    /// A host has a guest at an epoch that the store never named.
    Guest(HostKey, Epoch),
    /// A target was raised to an epoch that the store does not know.
    Granted(VolumeName, Epoch),
    /// A host has heard an order that the store has not given yet.
    Order(HostKey, Option<Epoch>, Revision),
}

impl Word {
    /// What a host told.
    #[must_use]
    pub fn of(host: HostKey, tell: &Tell) -> Self {
        Self { host, guest: tell.guest, epoch: tell.epoch, at: tell.at, nothing_runs: tell.nothing_runs }
    }

    /// Whether something of it may run there.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.guest != Guest::Absent && !(self.guest == Guest::Unknown && self.nothing_runs)
    }

    /// The highest epoch that this guest may be at by the store: who waits for memory, or is just being started, may know
    /// one that was only promised.
    fn allowed(&self, epoch: Epoch, promised: Epoch) -> Epoch {
        match self.guest {
            Guest::Running | Guest::Copying | Guest::PreSwitchover | Guest::Switching | Guest::PostMigrate => epoch,
            Guest::Absent | Guest::Incoming | Guest::Loaded | Guest::Stopped | Guest::Unknown => promised.max(epoch),
        }
    }
}

impl Desk {
    /// Refuses what would be done for a VM on which the store is behind, or that its host cannot tell about.
    ///
    /// # Errors
    /// [`Code::NotPossible`], with what shows it and what to do; the store's.
    pub async fn refuse_if_behind(&self, vm: &VmName) -> Result<(), Problem> {
        match self.behind_on(vm).await? {
            Some(problem) => Err(problem),
            None => Ok(()),
        }
    }

    /// What is to be said if the store is behind on this VM, or its host cannot tell about it.
    ///
    /// # Errors
    /// The store's.
    pub async fn behind_on(&self, vm: &VmName) -> Result<Option<Problem>, Problem> {
        let (words, granted, name) = (self.words(vm), self.granted.borrow().clone(), vm.clone());
        let view = self.store.ask(move |engine| View::of(engine, &name)).await?;
        let behind = sign(&view, vm, &words, &granted).map(|sign| problem(&view, vm, &sign));
        Ok(behind.or_else(|| self.unknown_problem(&view, vm)))
    }

    /// All VMs on which the store is behind, or that their hosts cannot tell about, each with what is to be said.
    ///
    /// # Errors
    /// The store's.
    pub async fn all_behind(&self) -> Result<Vec<(VmName, Problem)>, Problem> {
        let (words, granted) = (self.hosts.borrow().words(), self.granted.borrow().clone());
        let view = self.view().await?;
        let none = Vec::new();
        let one = |vm: &VmName| {
            let behind = sign(&view, vm, words.get(vm).unwrap_or(&none), &granted);
            let behind = behind.map(|sign| problem(&view, vm, &sign)).or_else(|| self.unknown_problem(&view, vm))?;
            Some((vm.clone(), behind))
        };
        Ok(view.vms.keys().filter_map(one).collect())
    }

    /// Whether the store seems behind on a VM, or its host cannot tell about it. The view is older than what was said: for
    /// whoever looks again soon.
    #[must_use]
    pub fn seems_behind(&self, view: &View, vm: &VmName) -> bool {
        is_behind(view, vm, &self.words(vm), &self.granted.borrow()) || self.unknown_on(view, vm).is_some()
    }

    /// A target says at which epoch a volume is.
    pub fn note_granted(&self, volume: &VolumeName, epoch: Epoch) {
        let mut granted = self.granted.borrow_mut();
        let known = granted.entry(volume.clone()).or_default();
        *known = epoch.max(*known);
    }

    /// A director that has just begun has not heard who knows better: nothing is begun before every host has called, or has
    /// had the time to.
    ///
    /// # Errors
    /// The store's.
    pub async fn listen(&self) -> Result<(), Problem> {
        while now().since(self.began) < SETTLE {
            let members = self.store.ask(crate::registry::members).await?;
            let mut hosts = members.iter().filter(|record| record.roles.contains(&Role::Host));
            if hosts.all(|record| self.hosts.borrow().fresh(record.key, now()).is_some()) {
                break;
            }
            tokio::time::sleep(LISTEN_AGAIN).await;
        }
        Ok(())
    }

    /// The store agrees with the hosts now: what is not done from here on has another reason.
    pub fn agreed(&self, vm: &VmName) {
        self.quiet.borrow_mut().remove(vm);
    }

    /// What hosts said about a VM, also those that are silent by now.
    #[must_use]
    pub fn words(&self, vm: &VmName) -> Vec<Word> {
        self.hosts.borrow().tells(vm).map(|(host, tell)| Word::of(host, tell)).collect()
    }
}

impl Hosts {
    fn words(&self) -> BTreeMap<VmName, Vec<Word>> {
        let mut words: BTreeMap<VmName, Vec<Word>> = BTreeMap::new();
        for (vm, host, tell) in self.all_tells() {
            words.entry(vm.clone()).or_default().push(Word::of(host, tell));
        }
        words
    }
}

/// Whether what was said shows that the store is behind on a VM.
#[must_use]
pub fn is_behind(view: &View, vm: &VmName, words: &[Word], granted: &BTreeMap<VolumeName, Epoch>) -> bool {
    sign(view, vm, words, granted).is_some()
}

/// What shows that the store is behind on a VM. A machine that was removed says nothing any more.
fn sign(view: &View, vm: &VmName, words: &[Word], granted: &BTreeMap<VolumeName, Epoch>) -> Option<Sign> {
    let (owned, _) = view.owned.get(vm)?;
    let words = words.iter().filter(|word| view.member(word.host).is_some());
    let guest = words.clone().find_map(|word| {
        let epoch = word.epoch.filter(|epoch| *epoch > word.allowed(owned.epoch, owned.promised))?;
        Some(Sign::Guest(word.host, epoch))
    });
    let target = || {
        let known = owned.volumes.iter().filter_map(|volume| granted.get(volume).map(|epoch| (volume, *epoch)));
        let (volume, epoch) = known.max_by_key(|(_, epoch)| *epoch).filter(|(_, epoch)| *epoch > owned.epoch)?;
        Some(Sign::Granted(volume.clone(), epoch))
    };
    let order = || {
        let newest = words.max_by_key(|word| word.at).filter(|word| word.at > view.at)?;
        Some(Sign::Order(newest.host, newest.epoch, newest.at))
    };
    guest.or_else(target).or_else(order)
}

fn problem(view: &View, vm: &VmName, sign: &Sign) -> Problem {
    let stored = view.owned.get(vm).map(|(owned, _)| owned.epoch).unwrap_or_default();
    let known = match sign {
        Sign::Guest(host, epoch) => format!("'{}' has its guest at {epoch}", view.name(*host)),
        Sign::Granted(volume, epoch) => format!("the target of volume '{volume}' is at {epoch}"),
        Sign::Order(host, epoch, at) => {
            let epoch = epoch.map_or_else(String::new, |epoch| format!(" (its guest is at {epoch})"));
            format!("'{}' has heard order {} of it{epoch}, which this store has not given", view.name(*host), at.0)
        }
    };
    let text = format!("the store is behind on VM '{vm}': it says {stored}, but {known}");
    let hint =
        format!("nothing is done for this VM; if the store was brought back from a backup, run `muskox vm adopt {vm}`");
    Problem::new(Code::NotPossible, text, hint)
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::director::test::world::record;
    use cluster::job::Ownership;

    /// Goal: what an ordinary migration says is no sign, what a lost store said is one. Method: the store's word is epoch 5,
    /// promised 7, revision 100; a table of words.
    #[test]
    fn only_a_lost_store_gives_signs() {
        let vm: VmName = "web1".parse().unwrap();
        let owned = Ownership::new(vm.clone(), vec!["root".parse().unwrap()]).unwrap();
        let owned = Ownership { epoch: Epoch(5), promised: Epoch(7), ..owned };
        let mut view = View { members: vec![record(1)], at: Revision(100), ..View::default() };
        let host = view.members[0].key;
        view.owned.insert(vm.clone(), (owned, Revision(90)));
        let shows = |guest, epoch: Option<u64>, at, granted| {
            let word = Word { host, guest, epoch: epoch.map(Epoch), at: Revision(at), nothing_runs: false };
            sign(&view, &vm, &[word], &[("root".parse().unwrap(), Epoch(granted))].into())
        };
        for waits in [Guest::Incoming, Guest::Loaded, Guest::Stopped] {
            assert_eq!(shows(waits, Some(7), 100, 5), None, "{waits:?}: it was promised");
            assert_eq!(shows(waits, Some(8), 100, 5), Some(Sign::Guest(host, Epoch(8))), "{waits:?}");
        }
        for runs in [Guest::Running, Guest::Copying, Guest::PreSwitchover, Guest::Switching, Guest::PostMigrate] {
            assert_eq!(shows(runs, Some(5), 100, 5), None, "{runs:?}");
            assert_eq!(shows(runs, Some(6), 100, 5), Some(Sign::Guest(host, Epoch(6))), "{runs:?}: it was granted");
        }
        assert_eq!(shows(Guest::Absent, None, 100, 6), Some(Sign::Granted("root".parse().unwrap(), Epoch(6))));
        assert_eq!(shows(Guest::Absent, None, 101, 5), Some(Sign::Order(host, None, Revision(101))));
        assert_eq!(shows(Guest::Absent, None, 100, 4), None, "a target that is not told yet");
        view.members.clear();
        let (epoch, at) = (Some(Epoch(9)), Revision(999));
        let word = Word { host, guest: Guest::Running, epoch, at, nothing_runs: false };
        assert_eq!(sign(&view, &vm, &[word], &BTreeMap::new()), None, "a machine that was removed");
    }
}
