//! How VMs are, for people: from what the store says and what their hosts said last.

use crate::clock::rfc3339;
use crate::director::{Desk, View, facts_of, now_ms};
use crate::vms::spec::Spec;
use api::{Code, Event, Problem, Vm as Shown, VmDetails, VmList, VmState, Why};
use cluster::job::{Guest, Plan, Record, Task};
use cluster::why::{Fact, Present, sentence, told, why};
use host::runtime::now;
use units::{ByteLen, VmName};

impl Desk {
    /// All VMs.
    ///
    /// # Errors
    /// The store's.
    pub async fn vm_list(&self) -> Result<VmList, Problem> {
        let view = self.view().await?;
        let mut names = view.unreadable_vms();
        names.extend(view.vms.keys().cloned());
        let shown = |vm: &VmName| self.shown(&view, vm).unwrap_or_else(|_| unreadable(&view, vm));
        Ok(VmList { vms: names.iter().map(shown).collect() })
    }

    /// One VM.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub async fn vm_show(&self, name: &str) -> Result<VmDetails, Problem> {
        let vm = parse_vm(name)?;
        let view = self.view().await?;
        let object = view.vm(&vm)?.clone();
        let shown = self.shown(&view, &vm)?;
        let (history, events) = self.told(&view, &vm).await?;
        Ok(VmDetails {
            vm: shown,
            spec: object.shape.spec,
            uuid: object.uuid,
            macs: object.shape.macs,
            history,
            events,
            notes: Vec::new(),
        })
    }

    /// Why a VM is as it is.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub async fn vm_why(&self, name: &str) -> Result<Why, Problem> {
        let vm = parse_vm(name)?;
        let view = self.view().await?;
        view.vm(&vm)?;
        let (sentences, events) = self.told(&view, &vm).await?;
        Ok(Why { vm, sentences, events })
    }

    /// How it is, then what led there, the newest first; and that once more for programs.
    async fn told(&self, view: &View, vm: &VmName) -> Result<(Vec<String>, Vec<Event>), Problem> {
        let (name, job) = (vm.clone(), view.ownership(vm)?.job.clone());
        let (facts, job) = self
            .store
            .ask(move |engine| {
                let facts = facts_of(engine, &name)?;
                let Some(id) = job else { return Ok((facts, None)) };
                let entry = crate::director::get(engine, &Record::<Task>::key(&id))?;
                let record = entry.and_then(|entry| Record::<Task>::read(&entry.value).ok());
                let stage = record.map_or_else(|| "unknown".to_owned(), |it| it.plan.stage().to_owned());
                Ok((facts, Some((id.to_string(), stage))))
            })
            .await?;
        let (object, owned) = (view.vm(vm)?, view.ownership(vm)?);
        let guest = owned.owner.and_then(|owner| self.hosts.borrow().guest(vm, owner, now()));
        let present = Present {
            vm: vm.clone(),
            wished: object.wished(),
            owner: owned.owner.map(|owner| view.name(owner)),
            running: guest.map(|guest| matches!(guest, Guest::Running | Guest::Copying)),
            job,
        };
        let mut lines = why(&present, &facts, now_ms());
        // It tells oldest first; people look at the top.
        lines[1..].reverse();
        // A VM whose objects cannot all be read is shown as far as they can.
        if let Ok(Some(behind)) = self.behind_on(vm).await {
            lines.insert(1, format!("{}; {}.", behind.text, behind.hint));
        }
        Ok((lines, told(&facts).into_iter().rev().map(event).collect()))
    }

    /// A VM at a glance.
    ///
    /// # Errors
    /// The store's.
    pub fn shown(&self, view: &View, vm: &VmName) -> Result<Shown, Problem> {
        let (object, owned) = (view.vm(vm)?, view.ownership(vm)?);
        // Where the store is behind, its word on the host is of the past: whoever says that it has the guest has it.
        let behind = self.seems_behind(view, vm);
        let owner = if behind { self.hosts.borrow().who_has(vm).or(owned.owner) } else { owned.owner };
        let state = if behind { VmState::Unknown } else { self.state(view, vm)? };
        let (described, started) = (object.spec()?, object.as_started()?.0);
        let runs = !matches!(state, VmState::Stopped | VmState::Down | VmState::Starting);
        let (spec, pending) = if runs {
            let pending = if object.started_as.is_some() { pending(&started, &described) } else { Vec::new() };
            (started, pending)
        } else {
            (described, Vec::new())
        };
        Ok(Shown {
            name: vm.clone(),
            state,
            pending,
            wished: object.wished(),
            host: owner.and_then(|owner| view.member(owner)).map(|record| record.name.clone()),
            epoch: owned.epoch.0,
            memory: u64::from(spec.memory_mib) << 20,
            vcpus: u64::from(spec.vcpus),
            volumes: spec.volumes(),
            job: owned.job.as_ref().map(ToString::to_string),
        })
    }

    fn state(&self, view: &View, vm: &VmName) -> Result<VmState, Problem> {
        let (object, owned) = (view.vm(vm)?, view.ownership(vm)?);
        let hosts = self.hosts.borrow();
        let guest = match owned.owner {
            None => Some(Guest::Absent),
            Some(owner) => hosts.guest(vm, owner, now()),
        };
        let paused = owned.owner.and_then(|owner| hosts.tell(vm, owner)).is_some_and(|tell| tell.paused);
        let migrating = owned.job.is_some() && owned.owner.is_none()
            || matches!(
                guest,
                Some(Guest::Copying | Guest::PreSwitchover | Guest::Switching | Guest::PostMigrate | Guest::Loaded)
            );
        let never = owned.owner.is_none();
        Ok(match (guest, owned.job.is_some(), object.wished()) {
            (Some(Guest::Unknown), _, _) => VmState::Unknown,
            (_, true, _) if migrating => VmState::Migrating,
            (Some(Guest::Running), false, true) if paused => VmState::Paused,
            (Some(Guest::Running | Guest::Copying), _, true) => VmState::Running,
            (Some(Guest::Absent), true, _) => VmState::Starting,
            (Some(Guest::Absent), false, true) => VmState::Down,
            (Some(Guest::Absent), false, false) => VmState::Stopped,
            (Some(_), _, false) => VmState::Stopping,
            (Some(_), _, true) => VmState::Paused,
            (None, _, false) if never => VmState::Stopped,
            (None, _, _) => VmState::Unknown,
        })
    }
}

/// A fact for programs: its words are those that it is kept with.
fn event(fact: &Fact) -> Event {
    let kept = serde_json::to_value(&fact.happened).expect("plain data");
    let text = |key: &str| kept[key].as_str().map(str::to_owned);
    Event {
        at: rfc3339(fact.at_ms),
        kind: text("kind").expect("every fact has a kind"),
        epoch: kept["epoch"].as_u64(),
        host: text("host").or_else(|| text("to")),
        text: sentence(&fact.happened),
    }
}

/// What a description says otherwise than the one that the VM was started with.
fn pending(started: &Spec, described: &Spec) -> Vec<String> {
    let mut changes = Vec::new();
    if started.memory_mib != described.memory_mib {
        changes.push(format!("memory {}", ByteLen::mib(described.memory_mib.into())));
    }
    if started.vcpus != described.vcpus {
        changes.push(format!("vcpus {}", described.vcpus));
    }
    if started.cpu != described.cpu {
        changes.push(format!("cpu {}", described.cpu.as_deref().unwrap_or("as the host's")));
    }
    if started.nics != described.nics {
        changes.push("nics".to_owned());
    }
    if started.seed != described.seed {
        changes.push("seed".to_owned());
    }
    changes
}

/// A VM that cannot be read is there all the same.
fn unreadable(view: &View, vm: &VmName) -> Shown {
    let owned = view.ownership(vm).ok();
    Shown {
        name: vm.clone(),
        state: VmState::Unknown,
        wished: view.vm(vm).is_ok_and(crate::vms::object::Vm::wished),
        host: owned.and_then(|it| it.owner).and_then(|owner| view.member(owner)).map(|record| record.name.clone()),
        epoch: owned.map_or(0, |it| it.epoch.0),
        memory: 0,
        vcpus: 0,
        pending: Vec::new(),
        volumes: owned.map_or_else(Vec::new, |it| it.volumes.clone()),
        job: owned.and_then(|it| it.job.as_ref()).map(ToString::to_string),
    }
}

/// A VM's name, as a call gives it.
///
/// # Errors
/// [`Code::BadRequest`].
pub fn parse_vm(name: &str) -> Result<VmName, Problem> {
    let bad = |error: units::IdentError| Problem::new(Code::BadRequest, error.to_string(), "see `muskox vm list`");
    name.parse().map_err(bad)
}
