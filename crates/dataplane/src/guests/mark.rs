//! The note, in a machine's folder, that its guest was stopped, by whom and how: only who was stopped by us goes on. Dead-man and
//! guard have a note each, so that neither writes over the other's. A note outlives its writer; with the machine both end.
//!
//! ```text
//! PID START_TICKS BOOT_ID     whose mark it is: of another QEMU it means nothing
//! version 1
//! stopped                     `stop` was sent to a guest that ran
//! frozen                      QEMU itself was frozen
//! ```

use host::vm::{Folder, Identity};
use std::io;

/// The form of the text. One without this line is of the time before there was one, and says the same.
const VERSION: &str = "version 1";

/// Who stops guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The dead-man.
    Deadman,
    /// The guard.
    Guard,
}

impl Who {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Deadman, Self::Guard];

    /// The note's name.
    pub const fn file(self) -> &'static str {
        match self {
            Self::Deadman => "paused-by-deadman",
            Self::Guard => "frozen-by-guard",
        }
    }
}

/// How a guest was stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// `stop` was sent to a guest that ran.
    pub stopped: bool,
    /// QEMU itself was frozen: it did not answer, or nobody asked it.
    pub frozen: bool,
}

/// What a folder says of one who stops guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marked {
    /// This QEMU was not stopped by them.
    No,
    /// It was.
    Yes(Mark),
    /// It was, in a way that this muskox does not know.
    Foreign(String),
    /// It may have been: that cannot be read now.
    Unread(String),
}

impl Mark {
    /// What the folder says of this very QEMU.
    pub fn of(folder: &Folder, identity: &Identity, who: Who) -> Marked {
        let text = match folder.read_note(who.file()) {
            Ok(Some(text)) => text,
            Ok(None) => return Marked::No,
            Err(error) => return Marked::Unread(format!("'{}' cannot be read: {error}", who.file())),
        };
        let mut lines = text.lines();
        if lines.next().and_then(Identity::parse).as_ref() != Some(identity) {
            return Marked::No;
        }
        let mut mark = Self::default();
        for line in lines {
            match line {
                "stopped" => mark.stopped = true,
                "frozen" => mark.frozen = true,
                VERSION => {}
                other => return Marked::Foreign(format!("'{}' says '{}'", who.file(), harmless(other))),
            }
        }
        match mark {
            Self { stopped: false, frozen: false } => Marked::Foreign(format!("'{}' does not say how", who.file())),
            mark => Marked::Yes(mark),
        }
    }

    /// Notes it, in the place of an older note of the same writer's.
    ///
    /// # Errors
    /// What the system said.
    pub fn write(self, folder: &Folder, identity: &Identity, who: Who) -> io::Result<()> {
        let word = |said: bool, word: &'static str| if said { word } else { "" };
        let how = [word(self.stopped, "stopped\n"), word(self.frozen, "frozen\n")].concat();
        folder.write_note(who.file(), &format!("{identity}{VERSION}\n{how}"))
    }

    /// Takes a note away.
    pub fn remove(folder: &Folder, who: Who) {
        let _ = std::fs::remove_file(folder.path().join(who.file()));
    }

    /// What both together did.
    pub const fn and(self, other: Self) -> Self {
        Self { stopped: self.stopped || other.stopped, frozen: self.frozen || other.frozen }
    }
}

/// A line of a file that a guest which took QEMU over may have written.
fn harmless(line: &str) -> String {
    line.chars().take(40).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    fn folder(what: &str) -> (Folder, std::path::PathBuf) {
        let dir = std::env::temp_dir().join(format!("muskox-mark-{what}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        (Folder::new(&dir).unwrap(), dir)
    }

    fn identity() -> Identity {
        Identity { pid: 7, start_ticks: 9, boot_id: "b".into() }
    }

    /// Goal: a mark is found again for the QEMU and the writer it was made for, and nothing is read or written through what a
    /// guest that took QEMU over may lay there. Method: each mark both ways; another life; a link and a pipe in its place.
    #[test]
    fn a_mark_is_of_one_life_and_follows_no_link() {
        let ((folder, dir), identity) = (folder("life"), identity());
        let name = Who::Deadman.file();
        let read = |identity: &Identity| Mark::of(&folder, identity, Who::Deadman);
        assert_eq!(read(&identity), Marked::No);
        for (stopped, frozen) in [(true, false), (false, true), (true, true)] {
            let mark = Mark { stopped, frozen };
            mark.write(&folder, &identity, Who::Deadman).unwrap();
            assert_eq!(read(&identity), Marked::Yes(mark));
        }
        assert_eq!(Mark::of(&folder, &identity, Who::Guard), Marked::No, "the other's is another");
        assert_eq!(read(&Identity { start_ticks: 10, ..identity.clone() }), Marked::No);
        let (victim, link) = (dir.join("victim"), dir.join(format!("{name}.new")));
        std::fs::write(&victim, "whole").unwrap();
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        Mark { stopped: true, frozen: false }.write(&folder, &identity, Who::Deadman).unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "whole");
        Mark::remove(&folder, Who::Deadman);
        std::os::unix::fs::symlink(&victim, dir.join(name)).unwrap();
        assert_eq!(read(&identity), Marked::No);
        Mark::remove(&folder, Who::Deadman);
        assert!(std::process::Command::new("mkfifo").arg(dir.join(name)).status().unwrap().success());
        assert_eq!(read(&identity), Marked::No, "a pipe is not waited for");
        std::fs::remove_dir_all(dir).unwrap();
    }

    /// CA2. Goal: a mark of an older form is read, one with a word too many or too few is refused by name: its guest waits for a
    /// person, and is neither let go on half nor taken for one that was never stopped. Method: texts of each kind.
    #[test]
    fn a_mark_of_another_version_is_read_or_refused_by_name() {
        let ((folder, dir), identity) = (folder("version"), identity());
        let read = |how: &str| {
            folder.write_note(Who::Deadman.file(), &format!("{identity}{how}")).unwrap();
            Mark::of(&folder, &identity, Who::Deadman)
        };
        let stopped = Mark { stopped: true, frozen: false };
        assert_eq!(read("stopped\n"), Marked::Yes(stopped), "before there was a version");
        assert_eq!(read("version 1\nstopped\n"), Marked::Yes(stopped));
        for (how, word) in [
            ("version 2\nstopped\n", "version 2"),
            ("version 1\nstopped\nslowed\n", "slowed"),
            ("version 1\n", "does not say how"),
            ("", "does not say how"),
        ] {
            let Marked::Foreign(why) = read(how) else { panic!("{how} is taken for known") };
            assert!(why.contains(word) && why.contains("paused-by-deadman"), "{why}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
