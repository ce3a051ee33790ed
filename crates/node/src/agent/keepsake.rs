//! What this machine keeps of the cluster for a store that is brought back from a backup (`crate::past`).

use super::Agent;
use crate::past::{Kept, ToKeep};
use crate::root::Root;
use api::Problem;
use std::cell::{Cell, RefCell};

/// As it is on disk.
pub struct Keepsake {
    kept: RefCell<Result<Kept, Problem>>,
    /// The store asked for it.
    asked: Cell<bool>,
}

impl Keepsake {
    /// What a former life kept. What cannot be read is not replaced.
    pub fn load(root: &Root) -> Self {
        Self { kept: RefCell::new(Kept::load(root)), asked: Cell::new(false) }
    }
}

impl Agent {
    /// How many removed machines are kept, and everything that is, if the store asked for it.
    pub fn keeps(&self) -> (Option<usize>, Option<Kept>) {
        let kept = self.keepsake.kept.borrow();
        let Ok(kept) = kept.as_ref() else { return (None, None) };
        (Some(kept.removed.len()), self.keepsake.asked.get().then(|| kept.clone()))
    }

    /// Keeps what the store tells, before anything is done by it.
    pub(super) fn keep(&self, told: &ToKeep) {
        self.keepsake.asked.set(told.tell);
        let mut kept = self.keepsake.kept.borrow_mut();
        let fault = match kept.as_mut() {
            Err(problem) => Some(problem.clone()),
            Ok(kept) => {
                let next = kept.after(told);
                if next == *kept {
                    None
                } else {
                    let saved = next.save(self.shared.place.root());
                    if saved.is_ok() {
                        *kept = next;
                    }
                    saved.err()
                }
            }
        };
        self.fault("what is kept of the cluster", fault.as_ref());
    }
}
