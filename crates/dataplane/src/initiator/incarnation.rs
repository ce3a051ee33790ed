//! The durable counter behind every connection: one small file per volume, replaced whole.
//!
//! Invariant: a number that was given out is never given out again, whatever crashes in between; the file is synced,
//! with its folder, before the number is returned. A gate refuses a lower one for ever.

use host::replace::{Outlives, replace};
use std::cell::Cell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use units::{Incarnation, VolumeName};

/// The counter of one volume.
pub struct Incarnations {
    path: PathBuf,
    last: Cell<u64>,
}

/// Why there is no next number. Nothing is attached then.
#[derive(Debug, thiserror::Error)]
pub enum CounterError {
    /// The file cannot be read or written.
    #[error("the incarnation counter {}: {source}: check the folder and its free space", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It holds something else.
    #[error(
        "the incarnation counter {} holds '{text}', not a number: write a number higher than the one `muskox ctl \
         grant show` prints for this host",
        path.display()
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What it holds, cut.
        text: String,
    },
}

impl Incarnations {
    /// The counter of `volume` in `dir`; zero if there is none yet.
    ///
    /// # Errors
    /// [`CounterError`].
    pub fn open(dir: &Path, volume: &VolumeName) -> Result<Self, CounterError> {
        let path = dir.join(format!("{volume}.incarnation"));
        let last = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| CounterError::Damaged {
                path: path.clone(),
                text: text.chars().take(40).filter(|c| !c.is_control()).collect(),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(source) => return Err(CounterError::Io { path, source }),
        };
        Ok(Self { path, last: Cell::new(last) })
    }

    /// The next number, durable.
    ///
    /// # Errors
    /// [`CounterError::Io`]; the number is not used then.
    pub fn next(&self) -> Result<Incarnation, CounterError> {
        let next = self.last.get() + 1;
        replace(&self.path, format!("{next}\n").as_bytes(), 0o644, Outlives::PowerLoss)
            .map_err(|source| CounterError::Io { path: self.path.clone(), source })?;
        self.last.set(next);
        Ok(Incarnation(next))
    }

    /// The last number given out.
    #[must_use]
    pub fn last(&self) -> Incarnation {
        Incarnation(self.last.get())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    struct Dir(PathBuf);
    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("muskox-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).expect("a scratch folder");
            Self(dir)
        }
    }
    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn numbers_only_grow_over_restarts() {
        let dir = Dir::new("counter-grows");
        let volume: VolumeName = "web1".parse().expect("a name");
        let open = || Incarnations::open(&dir.0, &volume).expect("readable");
        let counter = open();
        assert_eq!((counter.next().expect("1"), counter.next().expect("2")), (Incarnation(1), Incarnation(2)));
        fs::write(dir.0.join("web1.incarnation.new"), "999").expect("what a crash left");
        assert_eq!(open().next().expect("3"), Incarnation(3));
    }

    #[test]
    fn a_damaged_counter_is_not_guessed_at() {
        let dir = Dir::new("counter-damaged");
        let volume: VolumeName = "web1".parse().expect("a name");
        fs::write(dir.0.join("web1.incarnation"), "7\u{1b}x").expect("writable");
        let Err(error) = Incarnations::open(&dir.0, &volume) else { panic!("it was taken") };
        assert!(error.to_string().contains("holds '7x'"), "{error}");
    }

    /// Goal: no number without durability. Method: the folder is gone.
    #[test]
    fn a_number_that_cannot_be_stored_is_not_given_out() {
        let dir = Dir::new("counter-gone");
        let volume: VolumeName = "web1".parse().expect("a name");
        let counter = Incarnations::open(&dir.0, &volume).expect("readable");
        fs::remove_dir_all(&dir.0).expect("our own");
        assert!(counter.next().is_err());
        assert_eq!(counter.last(), Incarnation(0));
    }
}
