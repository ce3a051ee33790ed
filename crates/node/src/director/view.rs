//! What the store says about VMs, read at one moment.
//!
//! Invariant: what cannot be read (a newer muskox's, or damaged) is neither absent nor fails the rest: it is named in
//! [`View::unreadable`], and the VM that it belongs to is left alone, whatever happens to its host.

use crate::peer::{Brief, BriefDisk};
use crate::ports;
use crate::registry::{self, Record};
use crate::storage::object::{VolumeObject, volume_key};
use crate::store::{failed, parse_object};
use crate::vms::object::{Vm, brief_nics, brief_seed};
use api::{Code, Problem};
use cluster::job::Ownership;
use cluster::store::{Engine, Entry, Key, Revision, UnknownFields};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use units::{HostKey, VmName, VolumeName};

/// Where VMs' objects are.
const VMS: &str = "/vm/";
/// Where it is said who owns them.
const OWNED: &str = "/epoch/vm/";
/// For objects that this muskox cannot read.
const NEWER: &str = "run the muskox version that wrote it; a damaged one: bring the store back from a backup";

/// Everything about all VMs, or about one.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The store's revision when it was read.
    pub at: Revision,
    /// All machines.
    pub members: Vec<Record>,
    /// VMs, and when their objects were last changed.
    pub vms: BTreeMap<VmName, (Vm, Revision)>,
    /// Who owns them, and when that was last changed.
    pub owned: BTreeMap<VmName, (Ownership, Revision)>,
    /// Their volumes; in a whole view all there are.
    pub volumes: BTreeMap<VolumeName, (VolumeObject, Revision)>,
    /// Objects of a whole view that are there and cannot be read, and why. What such a VM needs (memory, addresses) is not
    /// known and counts nowhere.
    pub unreadable: Vec<(Key, String)>,
}

/// The newest whole view. It is read again when the store has changed, and only then: hundreds of VMs take milliseconds to parse, on
/// the thread that decides everything, for each call of each machine.
#[derive(Clone, Default)]
pub struct Views(Arc<Mutex<Option<Arc<View>>>>);

impl Views {
    /// Everything, as the store says it at this moment.
    ///
    /// # Errors
    /// [`Code::StoreFailed`].
    pub fn whole(&self, engine: &mut dyn Engine) -> Result<Arc<View>, Problem> {
        let at = revision(engine)?;
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = newest.as_ref().filter(|view| view.at == at) {
            return Ok(Arc::clone(view));
        }
        let view = Arc::new(View::whole(engine)?);
        *newest = Some(Arc::clone(&view));
        Ok(view)
    }
}

impl View {
    /// All VMs. Machines are read or nothing is: without one of them nobody knows what a majority is.
    ///
    /// # Errors
    /// [`Code::StoreFailed`].
    pub fn whole(engine: &mut dyn Engine) -> Result<Self, Problem> {
        let mut view = Self { at: revision(engine)?, members: registry::members(engine)?, ..Self::default() };
        for entry in range(engine, VMS)? {
            let read = parse_object::<Vm>(&entry).and_then(|vm| in_its_place(&entry, &Vm::key(&vm.name)).map(|()| vm));
            if let Some(vm) = view.readable(&entry, read) {
                view.vms.insert(vm.name.clone(), (vm, entry.changed));
            }
        }
        for entry in range(engine, OWNED)? {
            let read = read_ownership(&entry.value);
            let read = read.and_then(|it| in_its_place(&entry, &Ownership::key(&it.vm)).map(|()| it));
            if let Some(owned) = view.readable(&entry, read) {
                view.owned.insert(owned.vm.clone(), (owned, entry.changed));
            }
        }
        for entry in range(engine, "/volume/")? {
            let read = parse_object::<VolumeObject>(&entry);
            let read = read.and_then(|it| in_its_place(&entry, &volume_key(&it.name)).map(|()| it));
            if let Some(volume) = view.readable(&entry, read) {
                view.volumes.insert(volume.name.clone(), (volume, entry.changed));
            }
        }
        Ok(view)
    }

    fn readable<T>(&mut self, entry: &Entry, read: Result<T, Problem>) -> Option<T> {
        read.map_err(|problem| self.unreadable.push((entry.key.clone(), problem.text))).ok()
    }

    /// Whether everything about a VM that is in the store could be read: itself, its ownership, its volumes.
    ///
    /// # Errors
    /// [`Code::StoreFailed`]: what could not.
    pub fn check_readable(&self, vm: &VmName) -> Result<(), Problem> {
        if self.unreadable.is_empty() {
            return Ok(());
        }
        let volumes = self.owned.get(vm).into_iter().flat_map(|(owned, _)| &owned.volumes);
        let mut keys = [Vm::key(vm), Ownership::key(vm)].into_iter().chain(volumes.map(volume_key));
        keys.try_for_each(|key| self.check_key(&key))
    }

    fn check_key(&self, key: &Key) -> Result<(), Problem> {
        match self.unreadable.iter().find(|(unreadable, _)| unreadable == key) {
            Some((key, why)) => Err(Problem::new(Code::StoreFailed, format!("{key}: {why}"), NEWER)),
            None => Ok(()),
        }
    }

    /// VMs that the store has something of that cannot be read.
    #[must_use]
    pub fn unreadable_vms(&self) -> BTreeSet<VmName> {
        let named = |key: &Key| {
            let name = key.as_str().strip_prefix(VMS).or_else(|| key.as_str().strip_prefix(OWNED));
            name.and_then(|name| name.parse().ok())
        };
        self.unreadable.iter().filter_map(|(key, _)| named(key)).collect()
    }

    /// One VM and its volumes, and all machines.
    ///
    /// # Errors
    /// [`Code::StoreFailed`].
    pub fn of(engine: &mut dyn Engine, name: &VmName) -> Result<Self, Problem> {
        let mut view = Self { at: revision(engine)?, members: registry::members(engine)?, ..Self::default() };
        if let Some(entry) = get(engine, &Vm::key(name))? {
            view.vms.insert(name.clone(), (parse_object(&entry)?, entry.changed));
        }
        let Some(entry) = get(engine, &Ownership::key(name))? else {
            return Ok(view);
        };
        let owned = read_ownership(&entry.value)?;
        for volume in &owned.volumes {
            if let Some(entry) = get(engine, &volume_key(volume))? {
                view.volumes.insert(volume.clone(), (parse_object(&entry)?, entry.changed));
            }
        }
        view.owned.insert(name.clone(), (owned, entry.changed));
        Ok(view)
    }

    /// A VM.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::StoreFailed`] if it is there and cannot be read.
    pub fn vm(&self, name: &VmName) -> Result<&Vm, Problem> {
        if let Some((vm, _)) = self.vms.get(name) {
            return Ok(vm);
        }
        self.check_key(&Vm::key(name))?;
        Err(Problem::new(Code::NotFound, format!("there is no VM '{name}'"), "see `muskox vm list`"))
    }

    /// When a VM's ownership or wish last changed: an order of this revision.
    #[must_use]
    pub fn changed(&self, name: &VmName) -> Revision {
        let changed = |revision: Option<Revision>| revision.unwrap_or_default();
        changed(self.vms.get(name).map(|it| it.1)).max(changed(self.owned.get(name).map(|it| it.1)))
    }

    /// Who owns a VM.
    ///
    /// # Errors
    /// [`Code::StoreFailed`]: a VM without this object was not made by muskox.
    pub fn ownership(&self, name: &VmName) -> Result<&Ownership, Problem> {
        self.check_key(&Ownership::key(name))?;
        let torn = || {
            let text = format!("the store has no /epoch/vm/{name}");
            Problem::new(Code::StoreFailed, text, "bring the store back from a backup")
        };
        self.owned.get(name).map(|(owned, _)| owned).ok_or_else(torn)
    }

    /// The machine of this key.
    #[must_use]
    pub fn member(&self, key: HostKey) -> Option<&Record> {
        self.members.iter().find(|record| record.key == key)
    }

    /// Its name, for people.
    #[must_use]
    pub fn name(&self, key: HostKey) -> String {
        self.member(key).map_or_else(|| "a machine that was removed".to_owned(), |record| record.name.to_string())
    }

    /// As [`View::name`], of a view that may not have been read.
    #[must_use]
    pub fn name_in(view: &Result<Self, Problem>, key: HostKey) -> String {
        view.as_ref().map_or_else(|_| format!("the machine {key}"), |view| view.name(key))
    }

    /// The machine that serves a volume.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::StoreFailed`] if its object is there and cannot be read.
    pub fn target(&self, volume: &VolumeName) -> Result<&Record, Problem> {
        self.check_key(&volume_key(volume))?;
        let missing =
            |what: String| Problem::new(Code::NotFound, what, "see `muskox volume list` and `muskox node list`");
        let (volume, _) = self.volumes.get(volume).ok_or_else(|| missing(format!("there is no volume '{volume}'")))?;
        let record = self.members.iter().find(|record| record.name == volume.node);
        record.ok_or_else(|| missing(format!("the machine '{}' of volume '{}' is gone", volume.node, volume.name)))
    }

    /// A VM as its host is told of it.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::StoreFailed`].
    pub fn brief(&self, name: &VmName) -> Result<Brief, Problem> {
        let vm = self.vm(name)?;
        let (spec, macs) = vm.as_started()?;
        let mut disks = Vec::new();
        for disk in &spec.disks {
            let target = self.target(&disk.volume)?;
            let portals = target.storage_ips().into_iter().map(|ip| SocketAddr::new(ip, ports::TARGET)).collect();
            let (volume, serial) = (disk.volume.clone(), disk.serial.clone());
            let (target, unknown_fields) = (target.key, UnknownFields::default());
            disks.push(BriefDisk { volume, serial, portals, target, unknown_fields });
        }
        Ok(Brief {
            vm: vm.name.clone(),
            uuid: vm.uuid.clone(),
            memory_mib: spec.memory_mib,
            vcpus: spec.vcpus,
            cpu: spec.cpu.clone(),
            disks,
            nics: brief_nics(&spec, macs),
            seed: spec.seed.as_ref().map(|seed| brief_seed(&vm.name, seed)),
            patience_ms: vm.patience_ms.unwrap_or(spec.shutdown_ms),
            unknown_fields: UnknownFields::default(),
        })
    }
}

/// Reads `/epoch/vm/NAME`.
///
/// # Errors
/// [`Code::StoreFailed`].
pub fn read_ownership(value: &str) -> Result<Ownership, Problem> {
    Ownership::read(value).map_err(|error| Problem::new(Code::StoreFailed, error.to_string(), NEWER))
}

/// An object under another's key would be taken for that one.
fn in_its_place(entry: &Entry, key: &Key) -> Result<(), Problem> {
    let text = || format!("the store's object {} is that of {key}", entry.key);
    if entry.key == *key { Ok(()) } else { Err(Problem::new(Code::StoreFailed, text(), NEWER)) }
}

/// Every listing says it; this one is short.
fn revision(engine: &mut dyn Engine) -> Result<Revision, Problem> {
    engine.range("/cluster/").map(|listing| listing.at).map_err(|error| failed(&error))
}

fn range(engine: &mut dyn Engine, prefix: &str) -> Result<Vec<Entry>, Problem> {
    engine.range(prefix).map(|listing| listing.entries).map_err(|error| failed(&error))
}

/// One object.
///
/// # Errors
/// [`Code::StoreFailed`].
pub fn get(engine: &mut dyn Engine, key: &Key) -> Result<Option<Entry>, Problem> {
    engine.get(key).map_err(|error| failed(&error))
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::identity::Seat;
    use api::Role;
    use cluster::store::{Memory, Op, Txn};
    use std::time::Instant;

    fn put(engine: &mut Memory, key: &str, value: String) {
        let then = vec![Op::Put { key: key.parse().unwrap(), value, lease: None }];
        engine.txn(&Txn { then, ..Txn::default() }).unwrap();
    }

    /// control B2. Goal: a store that has not changed is not read again, one that has is. Method: 30 machines, 200 VMs with seeds of
    /// 16 KB; the times are printed.
    #[test]
    fn a_view_is_read_once_for_each_revision() {
        let mut engine = Memory::new();
        for n in 0..30_u8 {
            let (name, address) = (format!("m{n}").parse().unwrap(), format!("192.0.2.{n}:1").parse().unwrap());
            let seat = Seat { name, address, portals: Vec::new(), roles: vec![Role::Host] };
            let record = Record::new(seat, HostKey([n; 32]), 0);
            put(&mut engine, &format!("/node/m{n}"), serde_json::to_string(&record).unwrap());
        }
        for n in 0..200 {
            let spec = format!("name='v{n}'\nmemory=512\nvcpus=1\n# {}", "x".repeat(16 << 10));
            let vm = serde_json::json!({"version": 1, "name": format!("v{n}"), "spec": spec, "macs": [], "uuid": "u",
                "wish": "running", "wished_at": 0, "created_s": 0});
            put(&mut engine, &format!("/vm/v{n}"), vm.to_string());
        }
        let views = Views::default();
        let timed = |engine: &mut Memory| {
            let begun = Instant::now();
            (views.whole(engine).unwrap(), begun.elapsed())
        };
        let (first, read) = timed(&mut engine);
        let (again, kept) = timed(&mut engine);
        println!("read: {read:?}, kept: {kept:?}");
        assert!(first.vms.len() == 200 && first.unreadable.is_empty() && Arc::ptr_eq(&first, &again));
        put(&mut engine, "/fact/v1", "{}".to_owned());
        assert!(!Arc::ptr_eq(&first, &views.whole(&mut engine).unwrap()));
    }

    /// Architecture 3.6. Goal: a store that cannot be read is not taken for one that knows no such machine. Method: both.
    #[test]
    fn a_machine_whose_name_cannot_be_read_is_not_called_removed() {
        let key = HostKey([7; 32]);
        assert_eq!(View::name_in(&Ok(View::default()), key), "a machine that was removed");
        let unread = Err(Problem::new(Code::StoreFailed, "the disk fails", ""));
        assert_eq!(View::name_in(&unread, key), format!("the machine {key}"));
    }
}
