//! Verbs that begin something with a VM and wait for it: a job if there is one, otherwise the VM itself.

use crate::client::Ask;
use crate::job;
use crate::print::Ended;
use crate::watch::{Interrupts, Watch};
use api::{Begun, Call, Code, Job, Problem, Vm, VmDetails, VmState};
use serde::Serialize;
use units::VmName;
use units::table::printable;

/// What is begun, and how.
pub struct Begin<'a> {
    /// Where.
    pub ask: &'a Ask,
    /// By which call.
    pub call: &'static str,
    /// Which VM.
    pub name: &'a VmName,
    /// Wait for it.
    pub wait: bool,
}

/// The last that was heard of it; with `--json` it is printed as it is.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// Not waited for.
    Begun(Begun),
    /// The job that did it.
    Job(Job),
    /// The VM, where no job was needed.
    Vm(VmDetails),
}

impl Outcome {
    /// For people: what was done, and what it cost.
    pub fn text(&self, done: &str) -> String {
        match self {
            Self::Begun(begun) => match &begun.job {
                Some(job) => format!("{} (job {})\n", printable(&begun.text), printable(job)),
                None => format!("{}\n", printable(&begun.text)),
            },
            Self::Job(job) => format!("{done}\n") + &job.receipt.as_ref().map_or_else(String::new, job::receipt),
            Self::Vm(_) => format!("{done}\n"),
        }
    }
}

/// Whether a VM is as it was asked to be; none: not yet.
pub type Judge = fn(&Vm) -> Option<Result<(), Problem>>;

impl Begin<'_> {
    /// Begins it, and waits if that is wished.
    ///
    /// # Errors
    /// The node's problem.
    pub async fn run(&self, request: &impl Serialize, judge: Judge) -> Result<Ended<Outcome>, Problem> {
        let mut interrupts = Interrupts::new()?;
        let asked = self.ask.ask::<Begun>(Call::named(self.call), self.name.as_str(), Some(request));
        let begun = interrupts.during(asked).await?;
        if !self.wait {
            return Ok(Ended::Done(Outcome::Begun(begun)));
        }
        if !self.ask.json && !begun.text.is_empty() {
            eprintln!("{}", printable(&begun.text));
        }
        match &begun.job {
            Some(id) => Ok(wrap(job::wait(self.ask, id, &mut interrupts).await?, Outcome::Job)),
            None => Ok(wrap(self.watch(&mut interrupts, judge).await?, Outcome::Vm)),
        }
    }

    async fn watch(&self, interrupts: &mut Interrupts, judge: Judge) -> Result<Ended<VmDetails>, Problem> {
        let mut last = None;
        let waited = Watch::new(self.ask, "vm_show", self.name.as_str())
            .until::<VmDetails>(interrupts, |details, shown| {
                let verdict = judge(&details.vm);
                if verdict.is_none() && last.replace(details.vm.state) != Some(details.vm.state) {
                    shown.line(details.vm.state.as_str());
                }
                verdict.is_some()
            })
            .await?;
        let left = format!("it goes on: muskox vm show {}", self.name);
        Ok(waited.judged(&left, |details| judge(&details.vm).unwrap_or(Ok(()))))
    }
}

fn wrap<T>(ended: Ended<T>, into: impl FnOnce(T) -> Outcome) -> Ended<Outcome> {
    match ended {
        Ended::Done(seen) => Ended::Done(into(seen)),
        Ended::Failed(seen, problem) => Ended::Failed(into(seen), problem),
        Ended::Left(seen, what) => Ended::Left(seen.map(into), what),
    }
}

/// It runs.
pub fn started(vm: &Vm) -> Option<Result<(), Problem>> {
    match vm.state {
        VmState::Running => Some(Ok(())),
        _ if !vm.wished => Some(Err(meanwhile(vm, "stopped"))),
        _ => None,
    }
}

/// It does not run.
pub fn stopped(vm: &Vm) -> Option<Result<(), Problem>> {
    match vm.state {
        _ if vm.wished => Some(Err(meanwhile(vm, "started"))),
        VmState::Stopped => Some(Ok(())),
        _ => None,
    }
}

fn meanwhile(vm: &Vm, what: &str) -> Problem {
    let hint = format!("see `muskox why vm {}`", vm.name);
    Problem::new(Code::Failed, format!("'{}' was {what} by somebody else meanwhile", vm.name), hint)
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::job::test::migrated;
    use crate::vm::show::test::running;

    /// Goal: a wait ends when the VM is as wished, or when somebody wishes otherwise. Method: states and wishes.
    #[test]
    fn waits_for_a_vm_end() {
        let mut vm = running().vm;
        assert_eq!(started(&vm), Some(Ok(())));
        assert!(stopped(&vm).expect("it should run").is_err());
        vm.wished = false;
        assert!(stopped(&vm).is_none(), "it is still shutting down");
        vm.state = VmState::Stopped;
        assert_eq!(stopped(&vm), Some(Ok(())));
        assert!(started(&vm).expect("nobody wishes it").is_err());
        vm.wished = true;
        assert!(started(&vm).is_none());
    }

    #[test]
    fn the_end_of_a_migration_is_its_receipt() {
        let expect = "\
'web1' has moved
total:      4.2 s
blackout:   87 ms
hand-over:  -
bytes:      300 MiB
rounds:     3
";
        assert_eq!(Outcome::Job(migrated()).text("'web1' has moved"), expect);
        let begun = Begun { job: Some("start-web1-1".into()), text: "'web1' starts on host1".into() };
        assert_eq!(Outcome::Begun(begun).text(""), "'web1' starts on host1 (job start-web1-1)\n");
    }
}
