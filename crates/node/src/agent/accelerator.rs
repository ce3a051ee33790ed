//! What runs guests' instructions here: found out once in a boot, because a probe of a KVM that hangs takes seconds and a
//! failover cannot wait for it.

use super::place::Place;
use crate::peer::Processor;
use host::vm::{Accelerator, MACHINE_TYPE, Offers, accelerator, offers};
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
        let when = found_when(&qemu, accelerator);
        // A node that was restarted knows it at once: guests move to and from here.
        if let Some(offers) = noted_offers(place, &when) {
            self.offers.replace(Some(offers));
            return Ok(());
        }
        let user = place.user("accelerator", None)?;
        let owner = place.owner(user.as_ref(), accelerator == Accelerator::Kvm);
        let offers = offers(&qemu, &place.run(""), accelerator, owner).await;
        let offers = offers.map_err(|error| error.to_string())?;
        note_offers(place, when, &offers);
        self.offers.replace(Some(offers));
        Ok(())
    }

    /// The machine type that is missing here; what guests see of the processor. Nothing, while that is not known.
    #[must_use]
    pub fn offered(&self) -> (Option<String>, Option<Processor>) {
        let offers = self.offers.borrow();
        let lacks = offers.as_ref().filter(|offers| !offers.has_machine_type).map(|_| MACHINE_TYPE.to_owned());
        (lacks, offers.as_ref().map(processor_of))
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

/// What guests get here, as it was found out in this boot.
#[derive(Serialize, Deserialize)]
struct Noted {
    /// See [`found_when`].
    when: String,
    has_machine_type: bool,
    processor: Processor,
}

/// Of what a note holds: this boot, this QEMU, this accelerator. An update of QEMU may offer something else.
fn found_when(qemu: &Path, accelerator: Accelerator) -> String {
    let changed = std::fs::metadata(qemu).map(|facts| (facts.mtime(), facts.mtime_nsec(), facts.len()));
    format!("{} {} {changed:?} {}", boot(), qemu.display(), accelerator.word())
}

fn noted_offers(place: &Place, when: &str) -> Option<Offers> {
    let text = std::fs::read_to_string(place.run("offers.json")).ok()?;
    let Noted { when: then, has_machine_type, processor } = serde_json::from_str(&text).ok()?;
    let Processor { vendor, flags, lacking } = processor;
    (then == when).then_some(Offers { has_machine_type, vendor, flags, lacking })
}

fn note_offers(place: &Place, when: String, offers: &Offers) {
    let noted = Noted { when, has_machine_type: offers.has_machine_type, processor: processor_of(offers) };
    // Lost, it is found out again.
    let _ = std::fs::write(place.run("offers.json"), serde_json::to_string(&noted).expect("plain data is JSON"));
}

fn processor_of(Offers { vendor, flags, lacking, .. }: &Offers) -> Processor {
    Processor { vendor: vendor.clone(), flags: flags.clone(), lacking: lacking.clone() }
}

fn file(place: &Place) -> PathBuf {
    place.run("accelerator")
}

/// Source: random(4), `boot_id`.
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::identity::{Identity, Seat};
    use crate::root::Root;

    /// Goal: what guests get is known at once after a restart of the node, and asked again of another QEMU, or of one with another
    /// accelerator. Method: a note, read by the same and by others; a spoilt one.
    #[test]
    fn offers_are_noted_for_one_qemu() {
        let base = std::env::temp_dir().join(format!("muskox-offers-{}", std::process::id()));
        let root = Root::new(&base);
        root.make_folders().unwrap();
        let (name, address) = ("box".parse().unwrap(), "127.0.0.1:1".parse().unwrap());
        let seat = Seat { name, address, portals: Vec::new(), roles: vec![api::Role::Host] };
        let place =
            Place::new(&root, &Identity::new(units::CaFingerprint([0; 32]), seat, None), units::HostKey([0; 32]));
        std::fs::create_dir_all(place.run("")).unwrap();
        let qemu = base.join("qemu");
        std::fs::write(&qemu, "one").unwrap();
        let set = |words: [&str; 2]| words.map(str::to_owned).into();
        let lacking = [("max".to_owned(), set(["hle", "rtm"]))].into();
        let offers =
            Offers { has_machine_type: true, vendor: "GenuineIntel".into(), flags: set(["lm", "nx"]), lacking };
        let when = found_when(&qemu, Accelerator::Tcg);
        assert_eq!(noted_offers(&place, &when), None);
        note_offers(&place, when.clone(), &offers);
        assert_eq!(noted_offers(&place, &when), Some(offers));
        assert_eq!(noted_offers(&place, &found_when(&qemu, Accelerator::Kvm)), None);
        std::fs::write(&qemu, "another").unwrap();
        assert_eq!(noted_offers(&place, &found_when(&qemu, Accelerator::Tcg)), None, "QEMU was updated");
        std::fs::write(place.run("offers.json"), "{").unwrap();
        assert_eq!(noted_offers(&place, &when), None);
        std::fs::remove_dir_all(base).unwrap();
    }
}
