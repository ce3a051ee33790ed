//! Which guests were stopped, by their folders' word; and by this process's own, where a folder could not be written to.
//!
//! Invariant: what was stopped here is known until it is let go on, also when its folder's file system is full: what is not in
//! the folder is in the record, for the next life.

use crate::guests::{Live, Mark, Marked, Who};
use crate::trouble::Troubles;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// All marks of this host.
#[derive(Default)]
pub struct Marks {
    /// By who a QEMU is: what its folder does not say.
    unsaved: RefCell<BTreeMap<String, Mark>>,
    troubles: Rc<Troubles>,
}

impl Marks {
    /// Marks, of which none is known yet.
    pub fn new(troubles: &Rc<Troubles>) -> Rc<Self> {
        Rc::new(Self { unsaved: RefCell::default(), troubles: Rc::clone(troubles) })
    }

    /// What a former life could not write.
    pub fn remember(&self, marks: &[(String, Mark)]) {
        self.unsaved.borrow_mut().extend(marks.iter().cloned());
    }

    /// Whether some are not where they belong.
    pub fn are_unsaved(&self) -> bool {
        !self.unsaved.borrow().is_empty()
    }

    /// What is not where it belongs, for the record.
    pub fn unsaved(&self) -> Vec<(String, Mark)> {
        self.unsaved.borrow().iter().map(|(who, mark)| (who.clone(), *mark)).collect()
    }

    /// How a guest was stopped, whoever of ours did it.
    pub fn of(&self, guest: &Live) -> Marked {
        let noted = Who::ALL.map(|who| Mark::of(&guest.folder, guest.identity(), who));
        let mut all = self.unsaved.borrow().get(&key(guest)).copied();
        for marked in noted {
            match marked {
                Marked::No => {}
                Marked::Yes(mark) => all = Some(all.unwrap_or_default().and(mark)),
                other @ (Marked::Foreign(_) | Marked::Unread(_)) => return other,
            }
        }
        all.map_or(Marked::No, Marked::Yes)
    }

    /// Notes what is done to a guest, before it is done.
    pub fn put(&self, guest: &Live, how: Mark) {
        match self.of(guest) {
            Marked::Yes(before) => self.write(guest, before.and(how)),
            Marked::No => self.write(guest, how),
            // It says more than we know; it is not written over.
            Marked::Foreign(_) => {}
            // What may stand there is undone too: a thaw of who is not frozen does nothing.
            Marked::Unread(_) => self.write(guest, how.and(Mark { stopped: false, frozen: true })),
        }
    }

    /// A guest that was stopped like this is not frozen any more.
    pub fn thawed(&self, guest: &Live, was: Mark) {
        if !was.stopped {
            return self.remove(guest);
        }
        self.write(guest, Mark { frozen: false, ..was });
        Mark::remove(&guest.folder, Who::Guard);
    }

    fn write(&self, guest: &Live, how: Mark) {
        match how.write(&guest.folder, guest.identity(), Who::Deadman) {
            Ok(()) => {
                self.unsaved.borrow_mut().remove(&key(guest));
                self.troubles.note(&about(guest), None);
            }
            Err(error) => {
                self.unsaved.borrow_mut().insert(key(guest), how);
                let text =
                    format!("that it was stopped here cannot be noted in '{}': {error}", guest.folder.path().display());
                self.troubles.note(&about(guest), Some(text));
            }
        }
    }

    /// Writes what could not be written before, if that is possible by now.
    pub fn save_again(&self, guests: &[Rc<Live>]) {
        for guest in guests {
            let unsaved = self.unsaved.borrow().get(&key(guest)).copied();
            if let Some(how) = unsaved {
                self.write(guest, how);
            }
        }
        let living: Vec<String> = guests.iter().map(|guest| key(guest)).collect();
        self.unsaved.borrow_mut().retain(|who, _| living.contains(who));
    }

    /// Nothing is to be undone any more.
    pub fn remove(&self, guest: &Live) {
        Who::ALL.iter().for_each(|who| Mark::remove(&guest.folder, *who));
        self.unsaved.borrow_mut().remove(&key(guest));
        self.troubles.note(&about(guest), None);
    }
}

fn key(guest: &Live) -> String {
    guest.identity().to_string().trim_end().to_owned()
}

fn about(guest: &Live) -> String {
    format!("VM '{}'", guest.name)
}
