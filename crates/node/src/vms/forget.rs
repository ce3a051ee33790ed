//! `muskox vm forget`: what runs of a VM on a host that cannot tell about it is ended there, and what the host kept of it is
//! removed. The opposite of adopting it.
//!
//! Invariant: the host ends what is certainly the VM's, or refuses; only then it is told to be gone, and the VM is started
//! again as any other that died.

use super::show::parse_vm;
use crate::director::Desk;
use crate::peer::{Ask, Reply};
use crate::registry::Record;
use api::{Code, Done, Problem, Role};
use cluster::job::Guest;
use cluster::why::Happened;
use futures_util::future::join_all;
use host::runtime::now;
use std::rc::Rc;
use units::VmName;

impl Desk {
    /// Ends a VM on the hosts that cannot tell about it.
    ///
    /// # Errors
    /// [`Code::InUse`]: a job works on it; [`Code::NotPossible`]: no host has anything of it that it cannot tell about, or
    /// what runs there cannot be ended; [`Code::Unreachable`]: a host that may have it does not answer. What was not ended
    /// stays unknown.
    pub async fn vm_forget(self: &Rc<Self>, name: &str, by: &str) -> Result<Done, Problem> {
        let vm = parse_vm(name)?;
        let _placing = self.placing.lock().await;
        let view = self.view().await?;
        // One that the store does not know may run somewhere all the same.
        if let Some(job) = view.owned.get(&vm).and_then(|(owned, _)| owned.job.clone()) {
            let text = format!("job {job} works on VM '{vm}'");
            return Err(Problem::new(Code::InUse, text, "wait for it, or `muskox job cancel` it"));
        }
        let hosts: Vec<&Record> = view.members.iter().filter(|record| record.roles.contains(&Role::Host)).collect();
        let looks = join_all(hosts.iter().map(|host| self.is_unknown_at(host, &vm))).await;
        let (mut unknown, mut silent) = (Vec::new(), None);
        for (host, look) in hosts.into_iter().zip(looks) {
            match look {
                Ok(true) => unknown.push(host),
                Ok(false) => {}
                Err(problem) => silent = silent.or(Some(problem)),
            }
        }
        if unknown.is_empty() {
            let none = || {
                let text = format!("no host has anything of VM '{vm}' that it cannot tell about");
                Problem::new(Code::NotPossible, text, "nothing was changed; stop or delete it as any other")
            };
            return Err(silent.unwrap_or_else(none));
        }
        for host in &unknown {
            match self.answer_of(host, Ask::Forget { vm: vm.clone() }).await? {
                Reply::Done => {}
                _ => return Err(super::adopt::astray(host)),
            }
            self.happened(&vm, Happened::Forgotten { by: by.to_owned(), host: host.name.to_string() });
            // What it says from now on is asked at once: the VM may be started again.
            let _ = self.is_unknown_at(host, &vm).await;
        }
        let names: Vec<String> = unknown.iter().map(|host| format!("'{}'", host.name)).collect();
        Ok(Done { text: format!("nothing of VM '{vm}' is left on {}", names.join(", ")) })
    }

    /// Whether a host says now that it cannot tell about a VM.
    async fn is_unknown_at(self: &Rc<Self>, host: &Record, vm: &VmName) -> Result<bool, Problem> {
        match self.answer_of(host, Ask::Look).await? {
            Reply::Look(report) => {
                let unknown = report.guests.iter().any(|tell| tell.vm == *vm && tell.guest == Guest::Unknown);
                self.hosts.borrow_mut().reported(host.key, *report, now());
                Ok(unknown)
            }
            _ => Err(super::adopt::astray(host)),
        }
    }
}
