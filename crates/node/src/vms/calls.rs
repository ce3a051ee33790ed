//! What people ask of VMs: make, edit, delete, start, stop, move.
//!
//! Every answer is after the transaction that decides; what follows is the director's.

use super::object::{Shape, Vm, Wish, fresh_uuid};
use super::show::parse_vm;
use super::spec::Spec;
use crate::clock::now_s;
use crate::director::{Desk, View};
use crate::registry::{absent, put};
use crate::storage::object::{VolumeObject, claim_key, volume_key};
use crate::store::{failed, parse_object};
use api::{Code, Done, Problem, VmDetails};
use cluster::job::{Guest, JobError, Ownership, VolumeFloor};
use cluster::store::{Compare, Engine, Op, Txn};
use cluster::why::Happened;
use host::runtime::now;
use std::collections::BTreeSet;
use std::rc::Rc;
use units::{Epoch, Millis, VmName, VolumeName};

/// A decision is tried again if somebody changed what it had read.
const TRIES: u32 = 8;
/// More VMs than this are not what muskox is for.
const VMS_MAX: usize = 1_000;

impl Desk {
    /// Makes a VM; it does not run yet.
    ///
    /// # Errors
    /// [`Code::BadRequest`], [`Code::Exists`], [`Code::NotFound`], [`Code::InUse`]: nothing was changed.
    pub async fn vm_create(self: &Rc<Self>, text: &str) -> Result<VmDetails, Problem> {
        let (text, spec, uuid) = (text.to_owned(), Spec::parse(text)?, fresh_uuid()?);
        let name = spec.name.clone();
        self.store.ask(move |engine| create(engine, &text, &spec, &uuid)).await?;
        self.vm_show(name.as_str()).await
    }

    /// Gives a VM another description, which holds from its next start on.
    ///
    /// # Errors
    /// [`Code::BadRequest`], [`Code::NotFound`], [`Code::InUse`]: nothing was changed.
    pub async fn vm_edit(self: &Rc<Self>, name: &str, text: &str) -> Result<VmDetails, Problem> {
        let (vm, text, spec) = (parse_vm(name)?, text.to_owned(), Spec::parse(text)?);
        if spec.name != vm {
            let text = format!("the description is of '{}', not of '{vm}'", spec.name);
            return Err(Problem::new(Code::BadRequest, text, "a VM keeps its name"));
        }
        let (behind, view) = (self.behind_on(&vm).await?, self.view().await?);
        let notes = notes(view.vm(&vm)?, &spec);
        let off = match behind {
            Some(problem) => Err(problem),
            None => self.is_off(&view, &vm)?,
        };
        self.store.ask(move |engine| edit(engine, &text, &spec, off.is_ok())).await?;
        Ok(VmDetails { notes, ..self.vm_show(name).await? })
    }

    /// Deletes a VM that does not run; its volumes stay.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::InUse`]: nothing was changed.
    pub async fn vm_delete(self: &Rc<Self>, name: &str) -> Result<Done, Problem> {
        let vm = parse_vm(name)?;
        let _placing = self.placing.lock().await;
        self.refuse_if_behind(&vm).await?;
        self.is_off(&*self.view().await?, &vm)??;
        let gone = vm.clone();
        let volumes = self.store.ask(move |engine| delete(engine, &gone)).await?;
        let volumes: Vec<String> = volumes.iter().map(ToString::to_string).collect();
        Ok(Done { text: format!("VM '{vm}' is removed; its volumes stay: {}", volumes.join(", ")) })
    }

    /// Whether nobody runs this VM, or will; why not.
    fn is_off(&self, view: &View, vm: &VmName) -> Result<Result<(), Problem>, Problem> {
        let (object, owned) = (view.vm(vm)?, view.ownership(vm)?);
        let busy = |text: String, hint: &str| Ok(Err(Problem::new(Code::InUse, text, hint)));
        if let Some(job) = &owned.job {
            return busy(format!("job {job} works on VM '{vm}'"), "wait for it, or `muskox job cancel` it");
        }
        if object.wished() {
            return busy(
                format!("VM '{vm}' is running, or is to be started again"),
                "stop it first, with `muskox vm stop`",
            );
        }
        for host in owned.suspects() {
            match self.hosts.borrow().guest(vm, host, now()) {
                Some(Guest::Absent) => {}
                Some(Guest::Unknown) => {
                    let text = format!("'{}' cannot tell about VM '{vm}'", view.name(host));
                    return busy(text, "see `muskox why vm NAME`");
                }
                Some(_) => {
                    return busy(format!("VM '{vm}' is still there on '{}'", view.name(host)), "wait until it is off");
                }
                None => {
                    let text = format!("'{}', which may still have VM '{vm}', does not answer", view.name(host));
                    return busy(text, "see `muskox node list`");
                }
            }
        }
        Ok(Ok(()))
    }

    /// Writes down whether a VM should run; whether that is new.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Busy`].
    pub async fn wish(&self, vm: &VmName, wish: Wish, patience_ms: Option<Millis>) -> Result<bool, Problem> {
        self.change(vm, move |vm, at| {
            let new = vm.wish != wish;
            vm.wish = wish;
            vm.patience_ms = patience_ms;
            if new {
                vm.wished_at = at;
            }
            new
        })
        .await
    }

    /// A VM is about to be started: from now on it is as it is described.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::Busy`].
    pub async fn start_as_described(&self, vm: &VmName) -> Result<(), Problem> {
        self.change(vm, |vm, _| vm.started_as.take().is_some()).await.map(drop)
    }

    /// Changes a VM's object, if `change` says that it is one.
    async fn change(
        &self,
        vm: &VmName,
        mut change: impl FnMut(&mut Vm, cluster::store::Revision) -> bool + Send + 'static,
    ) -> Result<bool, Problem> {
        let vm = vm.clone();
        let work = move |engine: &mut dyn Engine| {
            for _ in 0..TRIES {
                let view = View::of(engine, &vm)?;
                let mut object = view.vm(&vm)?.clone();
                let (before, key) = (object.clone(), Vm::key(&vm));
                let at = engine.range(key.as_str()).map_err(|error| failed(&error))?.at;
                let changed = change(&mut object, at);
                if object == before {
                    return Ok(changed);
                }
                let compares = vec![Compare::Changed(key.clone(), view.vms[&vm].1)];
                if held(engine, &Txn { compares, then: vec![put(&key, &object)], otherwise: Vec::new() })? {
                    return Ok(changed);
                }
            }
            Err(busy())
        };
        self.store.ask(work).await
    }

    /// Notes who asked for what.
    pub fn note_wish(self: &Rc<Self>, vm: &VmName, by: &str, running: bool) {
        self.happened(vm, Happened::Wished { by: by.to_owned(), running });
    }
}

/// What to know about a new description of a VM.
fn notes(before: &Vm, spec: &Spec) -> Vec<String> {
    let was_wished = before.wished_at != cluster::store::Revision(0);
    let same = before.spec().is_ok_and(|before| before.seed == spec.seed);
    if !was_wished || same {
        return Vec::new();
    }
    // A03: cloud-init takes the seed of an instance id that it has seen for read. Source: cloud-init, "boot stages".
    let text = "the seed was changed, and a guest reads it when it boots for the first time only; this one may have done so. To have it \
                read again run `cloud-init clean --reboot` in the guest, or make the change there by hand";
    vec![text.to_owned()]
}

/// A volume that a VM may take: what it becomes, what must still be so, and its floor.
fn take(engine: &mut dyn Engine, name: &VolumeName, vm: &VmName, txn: &mut Txn) -> Result<Epoch, Problem> {
    let refused = |code, text: String, hint: &str| Problem::new(code, text, hint);
    let entry = engine.get(&volume_key(name)).map_err(|error| failed(&error))?;
    let missing =
        || refused(Code::NotFound, format!("there is no volume '{name}'"), "make it with `muskox volume create`");
    let entry = entry.ok_or_else(missing)?;
    let volume: VolumeObject = parse_object(&entry)?;
    if let Some(other) = &volume.vm {
        return Err(refused(Code::InUse, format!("volume '{name}' belongs to VM '{other}'"), "a volume is one VM's"));
    }
    if volume.id.is_none() {
        return Err(refused(
            Code::InUse,
            format!("volume '{name}' is being made or removed"),
            "see `muskox volume show`",
        ));
    }
    let claim = claim_key(name);
    if engine.get(&claim).map_err(|error| failed(&error))?.is_some() {
        let text = format!("volume '{name}' is being filled from an image");
        return Err(refused(
            Code::InUse,
            text,
            "wait until that is done; see `muskox doctor` if nobody does it any more",
        ));
    }
    let key = VolumeFloor::key(name);
    let floor = engine.get(&key).map_err(|error| failed(&error))?;
    let epoch = match &floor {
        None => Epoch(0),
        Some(entry) => VolumeFloor::read(&entry.value).map_err(|error| unreadable(&error))?.epoch,
    };
    txn.compares.push(Compare::Changed(entry.key.clone(), entry.changed));
    txn.compares.push(absent(&claim));
    txn.compares.push(Compare::Changed(key, floor.map_or(cluster::store::Revision(0), |entry| entry.changed)));
    txn.then.push(put(&entry.key, &VolumeObject { vm: Some(vm.clone()), ..volume }));
    Ok(epoch)
}

fn create(engine: &mut dyn Engine, text: &str, spec: &Spec, uuid: &str) -> Result<(), Problem> {
    let view = View::whole(engine)?;
    view.check_readable(&spec.name)?;
    if view.vms.contains_key(&spec.name) {
        let text = format!("there is a VM '{}' already", spec.name);
        return Err(Problem::new(Code::Exists, text, "choose another name, or change it with `muskox vm edit`"));
    }
    if view.vms.len() >= VMS_MAX {
        return Err(Problem::new(Code::NoRoom, format!("there are {VMS_MAX} VMs, no more are possible"), ""));
    }
    check_hosts(&view, spec)?;
    let (key, owned_key) = (Vm::key(&spec.name), Ownership::key(&spec.name));
    let mut txn = Txn { compares: vec![absent(&key), absent(&owned_key)], ..Txn::default() };
    let mut owned = Ownership::new(spec.name.clone(), spec.volumes()).map_err(|error| unreadable(&error))?;
    for volume in spec.volumes() {
        owned.epoch = owned.epoch.max(take(engine, &volume, &spec.name, &mut txn)?);
    }
    // Whoever had these volumes before was named nothing higher: its VM's deletion wrote down all that was promised.
    owned.promised = owned.epoch;
    txn.then.extend(owned.puts());
    let vm = Vm {
        version: Vm::VERSION,
        name: spec.name.clone(),
        shape: Shape::new(text, spec, &[], &macs(&view, None))?,
        started_as: None,
        uuid: uuid.to_owned(),
        wish: Wish::Stopped,
        wished_at: cluster::store::Revision(0),
        patience_ms: None,
        created_s: now_s(),
        unknown_fields: cluster::store::UnknownFields::default(),
    };
    txn.then.push(put(&key, &vm));
    held(engine, &txn)?.then_some(()).ok_or_else(busy)
}

fn edit(engine: &mut dyn Engine, text: &str, spec: &Spec, off: bool) -> Result<(), Problem> {
    let view = View::whole(engine)?;
    check_hosts(&view, spec)?;
    let (vm, owned) = (view.vm(&spec.name)?.clone(), view.ownership(&spec.name)?);
    let key = Vm::key(&spec.name);
    let mut txn = Txn { compares: vec![Compare::Changed(key.clone(), view.vms[&spec.name].1)], ..Txn::default() };
    let mut shape = Shape::new(text, spec, &vm.shape.macs, &macs(&view, Some(&spec.name)))?;
    shape.spec = text.to_owned();
    let (before, after): (BTreeSet<_>, BTreeSet<_>) =
        (owned.volumes.iter().cloned().collect(), spec.volumes().into_iter().collect());
    if before != after {
        if !off {
            let text = format!("the disks of VM '{}' can change only while it is off", spec.name);
            return Err(Problem::new(Code::InUse, text, "stop it first, with `muskox vm stop`"));
        }
        let mut next = Ownership { volumes: spec.volumes(), ..owned.clone() };
        for volume in after.difference(&before) {
            next.epoch = next.epoch.max(take(engine, volume, &spec.name, &mut txn)?);
        }
        next.promised = next.promised.max(next.epoch);
        txn.compares.extend(owned.compares());
        for volume in before.difference(&after) {
            give_back(engine, volume, owned.promised, &mut txn)?;
        }
        txn.then.extend(next.puts());
    }
    // A guest that runs stays as it was started, also when it moves.
    let started_as = if off { None } else { vm.started_as.or(Some(vm.shape)) };
    let started_as = started_as.filter(|started| *started != shape);
    txn.then.push(put(&key, &Vm { shape, started_as, ..view.vm(&spec.name)?.clone() }));
    held(engine, &txn)?.then_some(()).ok_or_else(busy)
}

fn delete(engine: &mut dyn Engine, vm: &VmName) -> Result<Vec<VolumeName>, Problem> {
    let view = View::of(engine, vm)?;
    let (object, owned) = (view.vm(vm)?, view.ownership(vm)?);
    if object.wished() || owned.job.is_some() {
        return Err(busy());
    }
    let key = Vm::key(vm);
    let mut txn = Txn { compares: vec![Compare::Changed(key.clone(), view.vms[vm].1)], ..Txn::default() };
    txn.compares.extend(owned.compares());
    for volume in &owned.volumes {
        give_back(engine, volume, owned.promised, &mut txn)?;
    }
    txn.then.extend([key, Ownership::key(vm), crate::director::facts_key(vm)].map(Op::Delete));
    held(engine, &txn)?.then_some(()).ok_or_else(busy)?;
    Ok(owned.volumes.clone())
}

/// A volume becomes nobody's. Its floor stays, above everything that was ever promised to anybody.
fn give_back(engine: &mut dyn Engine, name: &VolumeName, promised: Epoch, txn: &mut Txn) -> Result<(), Problem> {
    let key = VolumeFloor::key(name);
    let value = VolumeFloor::new(promised, None).value();
    txn.then.push(Op::Put { key, value, lease: None });
    if let Some(entry) = engine.get(&volume_key(name)).map_err(|error| failed(&error))? {
        let volume: VolumeObject = parse_object(&entry)?;
        txn.compares.push(Compare::Changed(entry.key.clone(), entry.changed));
        txn.then.push(put(&entry.key, &VolumeObject { vm: None, ..volume }));
    }
    Ok(())
}

fn check_hosts(view: &View, spec: &Spec) -> Result<(), Problem> {
    for host in spec.hosts.iter().flatten() {
        if !view.members.iter().any(|record| record.name == *host) {
            let text = format!("hosts: there is no machine '{host}'");
            return Err(Problem::new(Code::BadRequest, text, "see `muskox node list`"));
        }
    }
    Ok(())
}

/// Addresses of all VMs, but one.
fn macs(view: &View, except: Option<&VmName>) -> BTreeSet<String> {
    let others = view.vms.values().filter(|(vm, _)| Some(&vm.name) != except);
    let shapes = others.flat_map(|(vm, _)| std::iter::once(&vm.shape).chain(&vm.started_as));
    shapes.flat_map(|shape| shape.macs.clone()).collect()
}

fn held(engine: &mut dyn Engine, txn: &Txn) -> Result<bool, Problem> {
    engine.txn(txn).map(|outcome| outcome.held).map_err(|error| failed(&error))
}

fn busy() -> Problem {
    Problem::new(Code::Busy, "somebody changed the same thing at the same time", "ask again")
}

fn unreadable(error: &JobError) -> Problem {
    Problem::new(Code::StoreFailed, error.to_string(), "run the muskox version that wrote it")
}
