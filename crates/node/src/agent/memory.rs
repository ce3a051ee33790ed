//! What the agent keeps of each VM: the newest order, what the VM is, its epoch. Written before an order is obeyed.
//!
//! Invariant: what is on disk is never older than what was obeyed.

use super::place::Place;
use crate::peer::Brief;
use crate::root::{read_text, unusable, write_secret};
use api::Problem;
use cluster::job::Orders;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::ErrorKind;
use std::path::PathBuf;
use units::{Epoch, VmName};

/// Of one VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// The newest order heard.
    pub orders: Orders,
    /// What it is.
    pub brief: Brief,
    /// Which epoch it was last prepared for here.
    pub epoch: Option<Epoch>,
    /// The guest switched itself off in that life.
    pub powered_off: bool,
}

impl Memory {
    /// Nothing was heard yet.
    #[must_use]
    pub fn new(brief: Brief) -> Self {
        Self { orders: Orders::default(), brief, epoch: None, powered_off: false }
    }

    /// Keeps it, durably.
    ///
    /// # Errors
    /// [`api::Code::Files`].
    pub fn save(&self, place: &Place) -> Result<(), Problem> {
        let text = serde_json::to_string_pretty(self).expect("plain values are JSON");
        write_secret(&path(place, &self.brief.vm), &text)
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
            File::open(place.kept("vm"))?.sync_all()
        };
        remove().map_err(|error| unusable(&path, "removed", &error))
    }

    /// All that is kept, and complaints about files that cannot be used.
    #[must_use]
    pub fn load_all(place: &Place) -> (Vec<Self>, Vec<String>) {
        let (mut found, mut complaints) = (Vec::new(), Vec::new());
        let listed = std::fs::read_dir(place.kept("vm")).into_iter().flatten().filter_map(Result::ok);
        for path in listed.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "json")) {
            let read = read_text(&path).map_err(|problem| problem.to_string());
            let read = read.and_then(|text| serde_json::from_str::<Self>(&text).map_err(|error| error.to_string()));
            match read {
                Ok(memory) => found.push(memory),
                Err(error) => complaints.push(format!("'{}' cannot be used: {error}", path.display())),
            }
        }
        (found, complaints)
    }
}

fn path(place: &Place, vm: &VmName) -> PathBuf {
    place.kept("vm").join(format!("{vm}.json"))
}
