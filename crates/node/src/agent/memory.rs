//! What the agent keeps of each VM: the newest order, what the VM is, its epoch. Written before an order is obeyed.
//!
//! Invariant: what is on disk is never older than what was obeyed. A file that cannot be read is not a file that is not
//! there: its VM is unknown here (`super::unknown`).

use super::place::Place;
use crate::peer::Brief;
use crate::root::{read_text, unusable, write_secret};
use crate::versions::check_version;
use api::{Code, Problem};
use cluster::job::{Order, Orders};
use cluster::store::{Revision, UnknownFields};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use units::{Epoch, VmName};

/// The only form so far; a file without a version has it too.
const VERSION: u32 = 1;

/// Of one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Of this file's form.
    #[serde(default = "first_version")]
    version: u32,
    /// The newest order heard.
    pub orders: Orders,
    /// What it is.
    pub brief: Brief,
    /// Which epoch it was last prepared for here.
    #[serde(deserialize_with = "present")]
    pub epoch: Option<Epoch>,
    /// The guest switched itself off in that life.
    pub powered_off: bool,
    /// What a newer version wrote beside it.
    #[serde(flatten)]
    unknown_fields: UnknownFields,
}

const fn first_version() -> u32 {
    VERSION
}

/// May be null, but must be there: a file that has lost it is damaged.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Epoch>, D::Error> {
    Option::deserialize(from)
}

impl Memory {
    /// Nothing was heard yet.
    #[must_use]
    pub fn new(brief: Brief) -> Self {
        let (orders, unknown_fields) = (Orders::default(), UnknownFields::default());
        Self { version: VERSION, orders, brief, epoch: None, powered_off: false, unknown_fields }
    }

    /// Of a VM that is taken over as it runs: by the store's word of this revision, at this epoch.
    #[must_use]
    pub fn adopted(brief: Brief, at: Revision, epoch: Epoch) -> Self {
        let mut this = Self { epoch: Some(epoch), ..Self::new(brief) };
        let order = Order { vm: this.brief.vm.clone(), job: "adopt".parse().expect("a word of letters is an id"), at };
        let _ = this.orders.admit(&order);
        this
    }

    /// Keeps it, durably.
    ///
    /// # Errors
    /// [`api::Code::Files`].
    pub fn save(&self, place: &Place) -> Result<(), Problem> {
        let text = serde_json::to_string_pretty(self).expect("plain values are JSON");
        write_secret(&path(place, &self.brief.vm), &text)
    }

    /// What is kept of a VM, from its text.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn parse(text: &str) -> Result<Self, String> {
        check_version(text, VERSION)?;
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// What is kept of a VM.
    ///
    /// # Errors
    /// [`api::Code::Files`]: it cannot be read, is damaged, or a newer version wrote it.
    pub fn load(place: &Place, vm: &VmName) -> Result<Self, Problem> {
        let path = path(place, vm);
        let wrong =
            |what: String| Problem::new(Code::Files, format!("'{}' cannot be used: {what}", path.display()), "");
        let this = Self::parse(&read_text(&path)?).map_err(wrong)?;
        if this.brief.vm == *vm { Ok(this) } else { Err(wrong(format!("it is of VM '{}'", this.brief.vm))) }
    }

    /// Keeps it no longer, durably.
    ///
    /// # Errors
    /// [`api::Code::Files`]; it may come back with the next start.
    pub fn remove(place: &Place, vm: &VmName) -> Result<(), Problem> {
        let path = path(place, vm);
        let remove = || {
            match std::fs::remove_file(&path) {
                // Nothing was kept of it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                removed => removed?,
            }
            sync(&place.kept("vm"))
        };
        remove().map_err(|error| unusable(&path, "removed", &error))
    }

    /// Sets a file aside that cannot be used, so that another can take its place; nothing, if there is none.
    ///
    /// # Errors
    /// [`api::Code::Files`].
    pub fn set_aside(place: &Place, vm: &VmName) -> Result<(), Problem> {
        let path = path(place, vm);
        let rename = || match std::fs::rename(&path, path.with_extension("unreadable")) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            renamed => renamed.and_then(|()| sync(&place.kept("vm"))),
        };
        rename().map_err(|error| unusable(&path, "set aside", &error))
    }

    /// The VMs that something is kept of, and the files that are no VM's.
    ///
    /// # Errors
    /// [`api::Code::Files`]: nobody knows of which VMs.
    pub fn list(place: &Place) -> Result<(BTreeSet<VmName>, Vec<PathBuf>), Problem> {
        let folder = place.kept("vm");
        let (mut vms, mut strangers) = (BTreeSet::new(), Vec::new());
        for path in entries(&folder).map_err(|error| unusable(&folder, "listed", &error))? {
            if path.extension().is_none_or(|end| end != "json") {
                continue;
            }
            match path.file_stem().and_then(|stem| stem.to_str()?.parse().ok()) {
                Some(vm) => drop(vms.insert(vm)),
                None => strangers.push(path),
            }
        }
        Ok((vms, strangers))
    }
}

/// What lies in a folder; nothing in one that is not there.
///
/// # Errors
/// What the system said, also about a single entry: what is not listed might be anything.
pub fn entries(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed?.map(|entry| entry.map(|entry| entry.path())).collect(),
    }
}

fn sync(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

fn path(place: &Place, vm: &VmName) -> PathBuf {
    place.kept("vm").join(format!("{vm}.json"))
}
