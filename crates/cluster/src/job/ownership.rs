//! Who owns a VM, at which epoch: one object `/epoch/vm/NAME`, and one `/epoch/volume/NAME` for each of its volumes with
//! the target's floor. They only ever move together, in one transaction, by compare and swap.

use super::{JobError, JobId};
use crate::store::{Compare, Key, Op, UnknownFields};
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
    /// What a newer version wrote beside them.
    #[serde(flatten)]
    pub unknown_fields: UnknownFields,
}

/// The epoch below which nobody may write to a volume, `/epoch/volume/NAME`: of a VM's volume, moved by its [`Ownership`];
/// of a volume without a VM, by whoever fills it. It stays when the volume goes, so that no name ever begins anew. It is
/// written whole from what it follows: a newer version that has more to say says it there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeFloor {
    /// Of this object's form.
    pub version: u32,
    /// What the target must know as its floor.
    pub epoch: Epoch,
    /// The VM that it belongs to.
    pub vm: Option<VmName>,
}

impl VolumeFloor {
    /// Of a volume that belongs to this VM, or to nobody.
    #[must_use]
    pub const fn new(epoch: Epoch, vm: Option<VmName>) -> Self {
        Self { version: Ownership::VERSION, epoch, vm }
    }

    /// Its key.
    #[must_use]
    pub fn key(volume: &VolumeName) -> Key {
        format!("/epoch/volume/{volume}").parse().expect("a name is a part of a key")
    }

    /// Reads the object.
    ///
    /// # Errors
    /// [`JobError::Unreadable`], [`JobError::Version`].
    pub fn read(value: &str) -> Result<Self, JobError> {
        let what = "volume floor";
        let it: Self = serde_json::from_str(value).map_err(|source| JobError::Unreadable { what, source })?;
        if it.version == Ownership::VERSION { Ok(it) } else { Err(JobError::Version { what, version: it.version }) }
    }

    /// As the store keeps it; one text for one value, so that it can be compared.
    #[must_use]
    pub fn value(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }
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
        let (owner, unsettled, job, unknown_fields) = (None, Vec::new(), None, UnknownFields::default());
        Ok(Self { version: Self::VERSION, vm, epoch, promised, owner, unsettled, job, volumes, unknown_fields })
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
        let floor = VolumeFloor::new(self.epoch, Some(self.vm.clone())).value();
        let volume = |name: &VolumeName| (VolumeFloor::key(name), floor.clone());
        let own = (Self::key(&self.vm), serde_json::to_string(self).expect("plain data"));
        std::iter::once(own).chain(self.volumes.iter().map(volume)).collect()
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: floors are compared by their text, so the text never changes by accident. Method: golden texts, both ways.
    #[test]
    fn floors_have_a_fixed_spelling() {
        let owned = VolumeFloor::new(Epoch(7), Some("web1".parse().expect("a name")));
        let nobodys = VolumeFloor::new(Epoch(7), None);
        for (floor, text) in
            [(owned, r#"{"version":1,"epoch":7,"vm":"web1"}"#), (nobodys, r#"{"version":1,"epoch":7,"vm":null}"#)]
        {
            assert_eq!(floor.value(), text);
            assert_eq!(VolumeFloor::read(text).expect("it is one"), floor);
        }
        assert!(VolumeFloor::read(r#"{"version":2,"epoch":7,"vm":null}"#).is_err());
    }
}
