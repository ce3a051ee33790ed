//! What runs guests' instructions here: found out once in a boot, because a probe of a KVM that hangs takes seconds and a
//! failover cannot wait for it.

use super::place::Place;
use crate::peer::Processor;
use host::vm::{Accelerator, MACHINE_TYPE, Offers, accelerator, offers};
use std::cell::{Cell, RefCell};
use std::path::PathBuf;

/// What was found.
#[derive(Default)]
pub struct Accelerators {
    found: Cell<Option<Accelerator>>,
    offers: RefCell<Option<Offers>>,
}

impl Accelerators {
    /// What was found so far.
    #[must_use]
    pub fn found(&self) -> Option<Accelerator> {
        self.found.get()
    }

    /// Finds out what guests get here.
    ///
    /// # Errors
    /// If QEMU does not say.
    pub async fn ask_offers(&self, place: &Place) -> Result<(), String> {
        let accelerator = self.get(place).await?;
        let qemu = place.qemu().ok_or("there is no QEMU on this host")?;
        let user = place.user("accelerator", None)?;
        let owner = place.owner(user.as_ref(), accelerator == Accelerator::Kvm);
        let offers = offers(&qemu, &place.run(""), accelerator, owner).await;
        self.offers.replace(Some(offers.map_err(|error| error.to_string())?));
        Ok(())
    }

    /// The machine type that is missing here; what guests see of the processor. Nothing, while that is not known.
    #[must_use]
    pub fn offered(&self) -> (Option<String>, Option<Processor>) {
        let offers = self.offers.borrow();
        let lacks = offers.as_ref().filter(|offers| !offers.has_machine_type).map(|_| MACHINE_TYPE.to_owned());
        let processor = offers.as_ref().map(|Offers { vendor, flags, lacking, .. }| Processor {
            vendor: vendor.clone(),
            flags: flags.clone(),
            lacking: lacking.clone(),
        });
        (lacks, processor)
    }

    /// What there is; found out if it is not known.
    ///
    /// # Errors
    /// If QEMU cannot be started.
    pub async fn get(&self, place: &Place) -> Result<Accelerator, String> {
        if let Some(found) = self.found.get() {
            return Ok(found);
        }
        let qemu = place.qemu().ok_or("there is no QEMU on this host")?;
        let found = match noted(place) {
            Some(found) => found,
            None => {
                let user = place.user("accelerator", None)?;
                let owner = place.owner(user.as_ref(), true);
                accelerator(&qemu, &place.run(""), owner).await.map_err(|error| error.to_string())?
            }
        };
        // Lost, it is found out again.
        let _ = std::fs::write(file(place), format!("{} {}\n", boot(), found.word()));
        self.found.set(Some(found));
        Ok(found)
    }
}

fn noted(place: &Place) -> Option<Accelerator> {
    let text = std::fs::read_to_string(file(place)).ok()?;
    let (when, word) = text.trim().split_once(' ')?;
    let known = [Accelerator::Kvm, Accelerator::Tcg];
    known.into_iter().find(|it| it.word() == word).filter(|_| when == boot())
}

fn file(place: &Place) -> PathBuf {
    place.run("accelerator")
}

/// Source: random(4), `boot_id`.
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
