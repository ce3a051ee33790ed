//! Members that were only away come back by themselves: a disk that answers late, a cable that is put in again.
//!
//! Only a member that was not there at a start, never one that failed at work; only into an empty slot; only by bitmap; at
//! most three times an hour (`places`). Everything else waits for `pool add`, and why is said.

use super::array::{same_disk, unix_seconds};
use super::places::Places;
use super::search::{Seen, Wanted, content};
use super::thread::Pool;
use block::raid::{ArrayStatus, Member};
use block::runtime::sleep;
use host::disk::{Machine, Options, open as open_disk};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use units::{ArrayId, Millis};

/// Between two looks at the places where members were: a few stats and reads of 4 KiB.
const LOOK_EVERY: Millis = Millis(2000);
/// Every so many looks, all disks of the machine are looked at: that wakes disks that sleep.
const WIDE_EVERY: u32 = 5;

/// Why a disk was not taken back.
pub struct Remark {
    /// For people: `PATH: why`.
    why: String,
    /// What its superblock said when the array refused it: the same is refused again. None: nobody asked the array.
    refused: Option<(ArrayId, [u8; 16], u64)>,
}

impl Pool {
    /// Looks for members that are away, and takes them back, as long as the pool runs.
    pub async fn take_absent_back(self: Rc<Self>) {
        self.name_lost_superblocks().await;
        for look in 0_u32.. {
            sleep(&self.rt, LOOK_EVERY).await;
            let status = self.array.array.status();
            if status.members.len() == status.slots || !self.places.borrow().any_absent() {
                continue;
            }
            let wide = look % WIDE_EVERY == 0;
            let named: Vec<_> = self.named.iter().cloned().chain(self.places.borrow().paths()).collect();
            let survey = Wanted { name: self.name.clone(), array: Some(status.id) }.survey(&named, wide).await;
            if wide || !survey.unusable.is_empty() {
                self.left_out.replace(survey.notes());
            }
            self.remarks.borrow_mut().retain(|path, _| path.exists());
            for seen in survey.members.iter().filter(|seen| self.may_come(seen)) {
                self.take_back(seen).await;
            }
        }
    }

    fn may_come(&self, seen: &Seen) -> bool {
        let number = seen.superblock.number;
        let works = self.array.array.status().members.iter().any(|member| member.number == number);
        let remarks = self.remarks.borrow();
        let refused = remarks.get(&seen.path).is_some_and(|remark| remark.refused == Some(said(seen)));
        !works && !refused && self.places.borrow().is_absent(number)
    }

    async fn take_back(&self, seen: &Seen) {
        let _changing = self.changing.lock().await;
        let (number, path) = (seen.superblock.number, &seen.path);
        let label = path.display().to_string();
        // Whoever has it will let it go, or keep it: that is no try.
        let disk = match open_disk(path, Options::default()) {
            Ok(disk) => disk,
            Err(error) => return self.remark(path, format!("{label}: {error}"), None),
        };
        if !self.places.borrow_mut().may_return(number, unix_seconds()) {
            let why = format!(
                "{label}: it came back three times within an hour: see to its cable and power, then `pool add`"
            );
            return self.remark(path, why, None);
        }
        let outcome = self.array.array.take_back(Member { disk, label: label.clone() }).await;
        self.remember_places().await;
        match outcome {
            Ok(slot) => {
                self.found_again();
                self.remarks.borrow_mut().remove(path);
                let what = "it was away and is back: it gets what was written meanwhile";
                tracing::warn!(pool = %self.name, path = label, slot, "{what}");
            }
            Err(error) => self.remark(path, error.to_string(), Some(said(seen))),
        }
    }

    /// Keeps why a disk was not taken back for the pool's reason; the log has it once.
    fn remark(&self, path: &Path, why: String, refused: Option<(ArrayId, [u8; 16], u64)>) {
        let text = why.clone();
        let before = self.remarks.borrow_mut().insert(path.to_owned(), Remark { why, refused });
        if before.is_none_or(|before| before.why != text) {
            tracing::warn!(pool = %self.name, "not taken back: {text}");
        }
    }

    /// A disk that is where a member was and is none any more: firmware, or some tool, wrote over its superblock.
    async fn name_lost_superblocks(&self) {
        let status = self.array.array.status();
        let gone: Vec<PathBuf> = (0..status.slots)
            .filter_map(|slot| self.places.borrow().gone_from(slot, &status).map(|place| place.name().to_owned()))
            .filter(|path| path.exists())
            .collect();
        for path in gone {
            let outside = status.outsiders.iter().any(|(label, _)| Path::new(label) == path);
            let left_out = self.left_out.borrow().iter().any(|note| note.starts_with(&format!("{}: ", path.display())));
            if !outside && !left_out {
                let why = format!("{}; it has no superblock of this pool any more", content(&path).await);
                self.remark(&path, why, None);
            }
        }
    }

    /// Remembers on which disks the members are.
    pub async fn remember_places(&self) {
        let machine = Machine::default();
        let write = {
            let mut places = self.places.borrow_mut();
            places.note(&self.array.array.status(), |path| machine.lasting_name(path));
            places.to_write()
        };
        let _ = tokio::task::spawn_blocking(write).await;
    }

    /// Why slots are empty, and which disks were left out.
    pub fn why_not_whole(&self, status: &ArrayStatus) -> Vec<String> {
        let places = self.places.borrow();
        let empty = (0..status.slots).filter(|slot| !status.members.iter().any(|member| member.slot == *slot));
        let mut all: Vec<String> = empty.map(|slot| why_empty(slot, status, &places)).collect();
        if !all.is_empty() {
            let remarks = self.remarks.borrow();
            let machine = Machine::default();
            let works = |note: &&String| {
                let path = note.split_once(": ").map_or("", |(path, _)| path);
                !status.members.iter().any(|member| same_disk(&machine, Path::new(path), Path::new(&member.label)))
            };
            let more = self.left_out.borrow();
            all.extend(more.iter().filter(works).cloned().chain(remarks.values().map(|remark| remark.why.clone())));
        }
        all
    }
}

fn said(seen: &Seen) -> (ArrayId, [u8; 16], u64) {
    (seen.superblock.array, seen.superblock.device, seen.superblock.events)
}

fn why_empty(slot: usize, status: &ArrayStatus, places: &Places) -> String {
    match places.gone_from(slot, status) {
        Some(place) if place.absent => {
            format!("{} is missing: it is looked for, and taken back when it comes", place.name().display())
        }
        Some(place) => format!("{} is missing: it failed before it went", place.name().display()),
        None => format!("slot {slot} is empty"),
    }
}
