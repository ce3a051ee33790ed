//! VMs of which something may be here that this agent cannot tell about: what it kept cannot be read, or a QEMU runs of which
//! nothing is kept. After an update that was taken back, a damaged disk, a file that somebody removed.
//!
//! Invariant: such a VM is told as unknown, never as absent, and nothing of it is started or ended here before a person has
//! said so: `muskox vm adopt` takes it over as it runs, `muskox vm forget` ends it. Meanwhile its QEMU goes on and its
//! initiator is kept: that needs nothing but the initiator's own files.

use super::memory::{self, Memory};
use super::place::Place;
use super::tasks::Tasks;
use super::{initiator, supervise};
use crate::peer::{Sequence, Tell};
use cluster::job::Guest as State;
use host::vm::{Folder, Vm};
use std::collections::{BTreeMap, BTreeSet};
use tokio::task::AbortHandle;
use units::{Epoch, VmName};

/// A VM that cannot be told about.
pub struct Unknown {
    why: String,
    /// Certainly neither a QEMU nor an initiator of it runs.
    nothing_runs: bool,
    /// At which epoch its initiator attached, if that was asked and answers.
    epoch: Option<Epoch>,
    keeping: Option<AbortHandle>,
    /// It is being forgotten: nothing of it is started any more.
    ending: bool,
}

/// What a look at this machine's files and processes came to, besides what is known already.
#[derive(Default)]
pub struct Survey {
    /// VMs whose files could be read.
    pub readable: Vec<Memory>,
    /// VMs that are unknown, each with the reason and whether certainly nothing of it runs.
    pub unknown: BTreeMap<VmName, (String, bool)>,
    /// Why there may be others.
    pub unlisted: Option<String>,
    /// Files that are no VM's.
    pub complaints: Vec<String>,
}

/// Looks at everything that may be a VM's and is not known.
#[must_use]
pub fn survey(place: &Place, known: &BTreeSet<VmName>) -> Survey {
    let mut survey = Survey::default();
    match Memory::list(place) {
        Ok((vms, strangers)) => {
            for vm in vms.difference(known) {
                match Memory::load(place, vm) {
                    Ok(memory) => survey.readable.push(memory),
                    Err(problem) => survey.note(place, vm, &problem.text),
                }
            }
            survey.complaints.extend(strangers.iter().map(|path| format!("'{}' is no VM's file", path.display())));
        }
        Err(problem) => survey.unlisted = Some(problem.text),
    }
    survey.look_for_qemus(place, known);
    survey
}

impl Survey {
    /// A VM whose file cannot be used.
    fn note(&mut self, place: &Place, vm: &VmName, why: &str) {
        let (what, nothing_runs) = match running(place, vm) {
            Ok(None) => ("nothing of it runs here".to_owned(), true),
            Ok(Some(what)) => (what, false),
            Err(error) => (format!("whether it runs here cannot be told: {error}"), false),
        };
        self.unknown.insert(vm.clone(), (format!("{why}; {what}"), nothing_runs));
    }

    /// QEMUs of which nothing is kept.
    fn look_for_qemus(&mut self, place: &Place, known: &BTreeSet<VmName>) {
        let folder = place.run("vm");
        let folders = match memory::entries(&folder) {
            Ok(folders) => folders,
            Err(error) => {
                self.unlisted = Some(format!("'{}' cannot be listed: {error}", folder.display()));
                return;
            }
        };
        for path in folders {
            let Some(vm) = path.file_name().and_then(|name| name.to_str()?.parse::<VmName>().ok()) else { continue };
            let seen = self.unknown.contains_key(&vm) || self.readable.iter().any(|memory| memory.brief.vm == vm);
            if seen || known.contains(&vm) {
                continue;
            }
            let why = match qemu(place, &vm) {
                Ok(None) => continue,
                Ok(Some(pid)) => format!("its QEMU runs here as process {pid}, and nothing is kept of it"),
                Err(error) => format!("nothing is kept of it, and whether its QEMU runs here cannot be told: {error}"),
            };
            self.unknown.insert(vm, (why, false));
        }
    }
}

/// The process of a VM's QEMU, if there is one.
fn qemu(place: &Place, vm: &VmName) -> Result<Option<i32>, String> {
    let folder = Folder::new(&place.machine(vm)).map_err(|error| error.to_string())?;
    let process = Vm::process_in(&folder).map_err(|error| error.to_string())?;
    Ok(process.map(|process| process.identity().pid))
}

/// What of a VM runs here, in words.
fn running(place: &Place, vm: &VmName) -> Result<Option<String>, String> {
    if let Some(pid) = qemu(place, vm)? {
        return Ok(Some(format!("its QEMU runs here as process {pid}")));
    }
    let found = initiator::daemon(place, vm, None).find().map_err(|error| error.to_string())?;
    Ok(found.map(|process| format!("its initiator runs here as process {}", process.identity().pid)))
}

impl Unknown {
    /// A VM that was found like this.
    #[must_use]
    pub fn new(vm: &VmName, (why, nothing_runs): (String, bool)) -> Self {
        tracing::error!(%vm, "it is not known here: {why}; hint: {}", hint(vm));
        Self { why, nothing_runs, epoch: None, keeping: None, ending: false }
    }

    /// What a later look found.
    pub fn found(&mut self, (why, nothing_runs): (String, bool)) {
        (self.why, self.nothing_runs) = (why, nothing_runs);
        if nothing_runs {
            self.epoch = None;
            self.let_go();
        }
    }

    /// At which epoch its initiator says that it is attached.
    pub fn attached(&mut self, epoch: Option<Epoch>) {
        self.epoch = epoch.or(self.epoch);
    }

    /// Starts its initiator anew when that dies, as it was configured last.
    pub fn keep_initiator(&mut self, place: &Place, tasks: &Tasks, vm: &VmName) {
        // Without its configuration it never ran, or attaches nothing.
        let keeps = !self.ending && !self.nothing_runs && initiator::is_configured(place, vm);
        if self.keeping.is_none() && keeps {
            self.keeping = Some(tasks.spawn(supervise::keep(initiator::daemon(place, vm, None))));
        }
    }

    /// Whether it is being forgotten: then nothing of it is started any more.
    pub fn set_ending(&mut self, ending: bool) {
        self.ending = ending;
        if ending {
            self.let_go();
        }
    }

    /// Nobody keeps its initiator here any more.
    pub fn let_go(&mut self) {
        if let Some(keeping) = self.keeping.take() {
            keeping.abort();
        }
    }

    /// Why it is unknown.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// At which epoch its initiator said to be attached.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// Whether certainly nothing of it runs.
    #[must_use]
    pub fn nothing_runs(&self) -> bool {
        self.nothing_runs
    }

    /// As it is told.
    #[must_use]
    pub fn tell(&self, vm: &VmName, sequence: Sequence) -> Tell {
        let (epoch, why, nothing_runs) = (self.epoch, Some(self.why.clone()), self.nothing_runs);
        Tell { epoch, why, nothing_runs, ..Tell::new(vm.clone(), sequence, State::Unknown) }
    }
}

/// What to do about a VM that is unknown.
#[must_use]
pub fn hint(vm: &VmName) -> String {
    format!("`muskox vm adopt {vm}` takes it over as it runs, `muskox vm forget {vm}` ends what runs of it there")
}
