//! VMs whose host cannot tell about them (`crate::agent::unknown`): left alone until a person has said what they are.
//!
//! Invariant: as long as the host lives, nothing of such a VM is fenced, started or ended. A host that the witnesses have
//! voted dead is failed over like any other: what it could not tell about is fenced, as everything else it had.

use super::{Desk, View};
use api::{Code, Problem};
use units::{HostKey, VmName};

impl Desk {
    /// The living host that may run a VM and cannot tell, with its words. Only hosts that the store suspects count: what
    /// others have of it was fenced before.
    pub(super) fn unknown_on(&self, view: &View, vm: &VmName) -> Option<(HostKey, String)> {
        let (owned, _) = view.owned.get(vm)?;
        let living = owned.suspects().into_iter().filter(|host| self.voted_dead(*host).is_none());
        let hosts = self.hosts.borrow();
        living.filter_map(|host| Some((host, hosts.unknown(vm, host)?))).next()
    }

    /// What is to be said if a VM's host cannot tell about it.
    pub(super) fn unknown_problem(&self, view: &View, vm: &VmName) -> Option<Problem> {
        let (host, why) = self.unknown_on(view, vm)?;
        let text = format!("'{}' cannot tell about VM '{vm}': {why}", view.name(host));
        let hint = format!(
            "nothing is done for this VM while that host lives; `muskox vm adopt {vm}` takes over what runs there, `muskox \
             vm forget {vm}` ends it"
        );
        Some(Problem::new(Code::NotPossible, text, hint))
    }
}
