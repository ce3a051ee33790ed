//! The note, in a machine's folder, that this dead-man stopped its guest, and how: only who was stopped here goes on.
//! It outlives this process; with the machine both end.

use host::vm::{Folder, Identity};
use std::io;

const NAME: &str = "paused-by-deadman";

/// How a guest was stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// `stop` was sent to a guest that ran.
    pub stopped: bool,
    /// QEMU itself was frozen: it did not answer.
    pub frozen: bool,
}

impl Mark {
    /// The mark of this very QEMU, if there is one.
    pub fn of(folder: &Folder, identity: &Identity) -> Option<Self> {
        let text = folder.read_note(NAME)?;
        let (who, how) = text.split_once('\n')?;
        let has = |word: &str| how.lines().any(|line| line == word);
        let same = Identity::parse(who).as_ref() == Some(identity);
        same.then(|| Self { stopped: has("stopped"), frozen: has("frozen") })
    }

    /// Notes it, in the place of an older note.
    ///
    /// # Errors
    /// What the system said.
    pub fn write(self, folder: &Folder, identity: &Identity) -> io::Result<()> {
        let word = |said: bool, word: &'static str| if said { word } else { "" };
        let how = [word(self.stopped, "stopped\n"), word(self.frozen, "frozen\n")].concat();
        folder.write_note(NAME, &format!("{identity}{how}"))
    }

    /// Takes the note away.
    pub fn remove(folder: &Folder) {
        let _ = std::fs::remove_file(folder.path().join(NAME));
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: a mark is found again for the QEMU it was made for, and nothing is read or written through what a guest
    /// that took QEMU over may lay there. Method: each mark both ways; another life; a link and a pipe in its place.
    #[test]
    fn a_mark_is_of_one_life_and_follows_no_link() {
        let dir = std::env::temp_dir().join(format!("muskox-mark-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let folder = Folder::new(&dir).unwrap();
        let identity = Identity { pid: 7, start_ticks: 9, boot_id: "b".into() };
        assert_eq!(Mark::of(&folder, &identity), None);
        for (stopped, frozen) in [(true, false), (false, true), (true, true)] {
            let mark = Mark { stopped, frozen };
            mark.write(&folder, &identity).unwrap();
            assert_eq!(Mark::of(&folder, &identity), Some(mark));
        }
        assert_eq!(Mark::of(&folder, &Identity { start_ticks: 10, ..identity.clone() }), None);
        let (victim, link) = (dir.join("victim"), dir.join(format!("{NAME}.new")));
        std::fs::write(&victim, "whole").unwrap();
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        Mark::default().write(&folder, &identity).unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "whole");
        Mark::remove(&folder);
        std::os::unix::fs::symlink(&victim, dir.join(NAME)).unwrap();
        assert_eq!(Mark::of(&folder, &identity), None);
        Mark::remove(&folder);
        assert!(std::process::Command::new("mkfifo").arg(dir.join(NAME)).status().unwrap().success());
        assert_eq!(Mark::of(&folder, &identity), None, "a pipe is not waited for");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
