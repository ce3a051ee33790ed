//! What the store says about VMs, read at one moment.

use crate::peer::{Brief, BriefDisk};
use crate::registry::{self, Record};
use crate::storage::object::{VolumeObject, volume_key};
use crate::store::{failed, parse_object};
use crate::vms::object::{Vm, brief_nics, brief_seed};
use api::{Code, Problem};
use cluster::job::Ownership;
use cluster::store::{Engine, Key, Revision};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use units::{HostKey, VmName, VolumeName};

/// Where targets listen. Source: the IANA registry's `nbd`, 10809.
const NBD_PORT: u16 = 10809;

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
}

impl View {
    /// All VMs.
    ///
    /// # Errors
    /// [`Code::StoreFailed`].
    pub fn whole(engine: &mut dyn Engine) -> Result<Self, Problem> {
        let mut view = Self { at: revision(engine)?, members: registry::members(engine)?, ..Self::default() };
        for entry in range(engine, "/vm/")? {
            let vm: Vm = parse_object(&entry)?;
            view.vms.insert(vm.name.clone(), (vm, entry.changed));
        }
        for entry in range(engine, "/epoch/vm/")? {
            let owned = read_ownership(&entry.value)?;
            view.owned.insert(owned.vm.clone(), (owned, entry.changed));
        }
        for entry in range(engine, "/volume/")? {
            let volume: VolumeObject = parse_object(&entry)?;
            view.volumes.insert(volume.name.clone(), (volume, entry.changed));
        }
        Ok(view)
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
    /// [`Code::NotFound`].
    pub fn vm(&self, name: &VmName) -> Result<&Vm, Problem> {
        let missing = || Problem::new(Code::NotFound, format!("there is no VM '{name}'"), "see `muskox vm list`");
        self.vms.get(name).map(|(vm, _)| vm).ok_or_else(missing)
    }

    /// Who owns a VM.
    ///
    /// # Errors
    /// [`Code::StoreFailed`]: a VM without this object was not made by muskox.
    pub fn ownership(&self, name: &VmName) -> Result<&Ownership, Problem> {
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

    /// The machine that serves a volume.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn target(&self, volume: &VolumeName) -> Result<&Record, Problem> {
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
            let portals = target.storage_ips().into_iter().map(|ip| SocketAddr::new(ip, NBD_PORT)).collect();
            let (volume, serial) = (disk.volume.clone(), disk.serial.clone());
            disks.push(BriefDisk { volume, serial, portals, target: target.key });
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
        })
    }
}

/// Reads `/epoch/vm/NAME`.
///
/// # Errors
/// [`Code::StoreFailed`].
pub fn read_ownership(value: &str) -> Result<Ownership, Problem> {
    Ownership::read(value)
        .map_err(|error| Problem::new(Code::StoreFailed, error.to_string(), "run the muskox version that wrote it"))
}

/// Every listing says it; this one is short.
fn revision(engine: &mut dyn Engine) -> Result<Revision, Problem> {
    engine.range("/cluster/").map(|listing| listing.at).map_err(|error| failed(&error))
}

fn range(engine: &mut dyn Engine, prefix: &str) -> Result<Vec<cluster::store::Entry>, Problem> {
    engine.range(prefix).map(|listing| listing.entries).map_err(|error| failed(&error))
}

/// One object.
///
/// # Errors
/// [`Code::StoreFailed`].
pub fn get(engine: &mut dyn Engine, key: &Key) -> Result<Option<cluster::store::Entry>, Problem> {
    engine.get(key).map_err(|error| failed(&error))
}
