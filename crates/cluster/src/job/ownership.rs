//! Who owns a VM, at which epoch: one object `/epoch/vm/NAME`, and one `/epoch/volume/NAME` for each of its volumes with
//! the target's floor. They only ever move together, in one transaction, by compare and swap.

use super::{JobError, JobId};
use crate::store::{Compare, Key, Op};
use serde::{Deserialize, Serialize};
use units::{Epoch, HostKey, VmName, VolumeName};

/// Volumes of one VM: with its own object and the job's they fit a transaction twice.
pub const VOLUMES_MAX: usize = 16;

/// Who owns a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// Of this object's form.
    pub version: u32,
    /// Which VM.
    pub vm: VmName,
    /// The epoch of all its volumes.
    pub epoch: Epoch,
    /// The highest epoch ever named to anybody for it: the next one is above this.
    pub promised: Epoch,
    /// Who may run it; nobody while it is handed over.
    pub owner: Option<HostKey>,
    /// Hosts besides the owner where a QEMU of it may still be.
    pub unsettled: Vec<HostKey>,
    /// The only job that may change this.
    pub job: Option<JobId>,
    /// Its volumes.
    pub volumes: Vec<VolumeName>,
}

#[derive(Serialize)]
struct VolumeFloor<'a> {
    version: u32,
    epoch: Epoch,
    vm: &'a VmName,
}

impl Ownership {
    /// The only form so far.
    pub const VERSION: u32 = 1;

    /// A VM that never ran.
    ///
    /// # Errors
    /// [`JobError::TooManyVolumes`].
    pub fn new(vm: VmName, volumes: Vec<VolumeName>) -> Result<Self, JobError> {
        if volumes.len() > VOLUMES_MAX {
            return Err(JobError::TooManyVolumes { vm, count: volumes.len() });
        }
        let (epoch, promised) = (Epoch(0), Epoch(0));
        Ok(Self { version: Self::VERSION, vm, epoch, promised, owner: None, unsettled: Vec::new(), job: None, volumes })
    }

    /// Reads the object.
    ///
    /// # Errors
    /// [`JobError::Unreadable`].
    pub fn read(value: &str) -> Result<Self, JobError> {
        let it: Self =
            serde_json::from_str(value).map_err(|source| JobError::Unreadable { what: "ownership", source })?;
        if it.version == Self::VERSION {
            Ok(it)
        } else {
            Err(JobError::Version { what: "ownership", version: it.version })
        }
    }

    /// Its key.
    #[must_use]
    pub fn key(vm: &VmName) -> Key {
        format!("/epoch/vm/{vm}").parse().expect("a name is a part of a key")
    }

    /// Everybody who might still have a QEMU of it.
    #[must_use]
    pub fn suspects(&self) -> Vec<HostKey> {
        let mut all: Vec<HostKey> = self.owner.iter().chain(&self.unsettled).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The same at a higher epoch, with another owner.
    ///
    /// # Panics
    /// If the epoch is not higher: nobody asks for that.
    #[must_use]
    pub fn moved(&self, epoch: Epoch, owner: Option<HostKey>, unsettled: Vec<HostKey>) -> Self {
        assert!(epoch > self.epoch, "an epoch only grows: {} after {}", epoch, self.epoch);
        Self { epoch, promised: self.promised.max(epoch), owner, unsettled, ..self.clone() }
    }

    /// The same with another set of hosts that are not known to be clear of it.
    #[must_use]
    pub fn with_unsettled(&self, unsettled: Vec<HostKey>) -> Self {
        Self { unsettled, ..self.clone() }
    }

    /// The same, free for the next job.
    #[must_use]
    pub fn released(&self) -> Self {
        Self { job: None, ..self.clone() }
    }

    /// The objects that make it: for the transaction that creates a VM.
    #[must_use]
    pub fn puts(&self) -> Vec<Op> {
        self.objects().into_iter().map(|(key, value)| Op::Put { key, value, lease: None }).collect()
    }

    /// What a transaction compares so that nobody else moved it.
    #[must_use]
    pub fn compares(&self) -> Vec<Compare> {
        self.objects().into_iter().map(|(key, value)| Compare::Value(key, value)).collect()
    }

    fn objects(&self) -> Vec<(Key, String)> {
        let floor = VolumeFloor { version: Self::VERSION, epoch: self.epoch, vm: &self.vm };
        let floor = serde_json::to_string(&floor).expect("plain data");
        let volume = |name: &VolumeName| {
            let key = format!("/epoch/volume/{name}").parse().expect("a name is a part of a key");
            (key, floor.clone())
        };
        let own = (Self::key(&self.vm), serde_json::to_string(self).expect("plain data"));
        std::iter::once(own).chain(self.volumes.iter().map(volume)).collect()
    }
}
