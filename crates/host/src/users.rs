//! Numeric users for programs that a stranger may take over: a QEMU by its guest, a tool by the image it reads. Each has one of
//! its own, without an entry in `/etc/passwd`, so that none of them can reach another's files, sockets or memory.
//!
//! Invariant: a user is given out only while no process and no file that we can find has it.

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::process::{Gid, Uid};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::DirEntry;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tokio::net::UnixStream;

/// Numbers up to here are people's, the system's and `nobody`'s. Source: systemd's `docs/UIDS-GIDS.md`.
const FIRST_MIN: u32 = 65_536;
/// 0x7fffffff is where signed numbers end, which some programs use for users.
const LAST_MAX: u32 = i32::MAX as u32 - 1;
/// Where everybody may leave a file. Deeper down a folder of its own lies above it, and that one is found.
const SHARED_FOLDERS: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];
/// Folders of ours: a machine's folder, and what lies in it.
const DEPTH_MAX: u32 = 2;

/// A range of numeric users; the groups of the same numbers belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserRange {
    /// The first one.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

/// Nobody else's by default: above containers (systemd-nspawn to 1 879 048 191, shadow's `SUB_UID_MAX` 600 100 000) and domains
/// (sssd's `ldap_idmap_range_max` 2 000 200 000), below 2^31. Sources: systemd's `docs/UIDS-GIDS.md`, login.defs(5), sssd-ad(5).
impl Default for UserRange {
    fn default() -> Self {
        Self { first: 2_100_000_000, count: 10_000 }
    }
}

impl UserRange {
    /// Whether such a range can be.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn check(self) -> Result<(), String> {
        let last = self.first.checked_add(self.count.saturating_sub(1));
        if self.count > 0 && self.first >= FIRST_MIN && last.is_some_and(|last| last <= LAST_MAX) {
            return Ok(());
        }
        let (first, count) = (self.first, self.count);
        Err(format!("{count} users from {first} on are no range: it lies between {FIRST_MIN} and {LAST_MAX}"))
    }

    /// Whether this user is one of them.
    #[must_use]
    pub fn has(self, uid: u32) -> bool {
        uid.checked_sub(self.first).is_some_and(|offset| offset < self.count)
    }

    /// Entries of `/etc/passwd`, `/etc/group`, `/etc/subuid` and `/etc/subgid` that lie in it: their numbers are not given out.
    ///
    /// # Errors
    /// If such a file is there and cannot be read.
    pub fn conflicts(self) -> io::Result<Vec<String>> {
        let named = |(name, file, _): (String, &str, Self)| format!("'{name}' in {file}");
        Ok(self.others()?.into_iter().map(named).collect())
    }

    /// Who has numbers of it, by which file, and which numbers.
    fn others(self) -> io::Result<Vec<(String, &'static str, Self)>> {
        let mut found = Vec::new();
        for (file, column) in [("/etc/passwd", 2), ("/etc/group", 2), ("/etc/subuid", 1), ("/etc/subgid", 1)] {
            let listed = listed(&read_if_any(Path::new(file))?, column);
            let overlapping = listed.into_iter().filter(|(_, theirs)| self.overlaps(*theirs));
            found.extend(overlapping.map(|(name, theirs)| (name, file, theirs)));
        }
        Ok(found)
    }

    fn overlaps(self, other: Self) -> bool {
        self.has(other.first) || other.has(self.first)
    }
}

/// Who of a range is in use by this process.
#[derive(Debug, Default)]
pub struct Users {
    held: RefCell<BTreeSet<u32>>,
}

/// A user that nobody else has for as long as this lives.
#[derive(Debug)]
pub struct User {
    uid: u32,
    users: Rc<Users>,
}

impl Users {
    /// A user for `name`, the same as the last time if that one is free. `folders` are searched for files of users that are in use
    /// even without a process; `own` among them is the former folder of this very name, and does not count.
    ///
    /// # Errors
    /// All are in use; this user namespace does not have them; it cannot be found out who is in use.
    pub fn take(
        self: &Rc<Self>,
        range: UserRange,
        name: &str,
        own: Option<&Path>,
        folders: &[PathBuf],
    ) -> io::Result<User> {
        range.check().map_err(io::Error::other)?;
        let used = self.used(range, own, folders)?;
        let offset = start(name) % range.count;
        let order = (offset..range.count).chain(0..offset).map(|offset| range.first + offset);
        let Some(uid) = order.into_iter().find(|uid| !used.contains(uid)) else {
            return Err(io::Error::other(format!(
                "all {} users from {} on are in use, by processes or files",
                range.count, range.first
            )));
        };
        for map in ["/proc/self/uid_map", "/proc/self/gid_map"] {
            if !is_mapped(&std::fs::read_to_string(map)?, uid) {
                return Err(io::Error::other(format!("this machine's user namespace has no user {uid} ({map})")));
            }
        }
        self.held.borrow_mut().insert(uid);
        Ok(User { uid, users: Rc::clone(self) })
    }

    fn used(&self, range: UserRange, own: Option<&Path>, folders: &[PathBuf]) -> io::Result<BTreeSet<u32>> {
        let mut used = self.held.borrow().clone();
        for (_, _, theirs) in range.others()? {
            let end = theirs.first.saturating_add(theirs.count).min(range.first + range.count);
            used.extend(theirs.first.max(range.first)..end);
        }
        of_processes(&mut used)?;
        of_taps(&mut used)?;
        for folder in SHARED_FOLDERS {
            of_files(Path::new(folder), 0, None, &mut used)?;
        }
        for folder in folders {
            of_files(folder, DEPTH_MAX, own, &mut used)?;
        }
        Ok(used)
    }
}

impl User {
    /// Its number; that of its group is the same.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.users.held.borrow_mut().remove(&self.uid);
    }
}

/// Gives a socket or plain file to another user. It may lie in a folder of a user whom we do not trust: no link is followed, and
/// what has a second name is not given away, for that name may be ours.
///
/// # Errors
/// It is something else; the kernel refuses.
pub fn give(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let facts = rustix::fs::fstat(&file)?;
    let kind = FileType::from_raw_mode(facts.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::Socket) || facts.st_nlink != 1 {
        return Err(io::Error::other("it is no plain file or socket of its own"));
    }
    if (facts.st_uid, facts.st_gid) == (uid, gid) {
        return Ok(());
    }
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    Ok(rustix::fs::chownat(&file, "", uid, gid, AtFlags::EMPTY_PATH)?)
}

/// Connects to a socket in a folder of a user whom we do not trust. Who answers has to be that user: a link may lead from there to
/// anybody's socket, which would hear it from us.
///
/// # Errors
/// Nobody answers, or somebody else.
pub async fn connect_to_owner(path: &Path) -> io::Result<UnixStream> {
    let folder = path.parent().ok_or_else(|| io::Error::other("a socket lies in a folder"))?;
    let stream = UnixStream::connect(path).await?;
    let (owner, answers) = (std::fs::symlink_metadata(folder)?.uid(), stream.peer_cred()?.uid());
    if owner == answers {
        return Ok(stream);
    }
    Err(io::Error::other(format!("user {answers} answers there, and the folder is user {owner}'s")))
}

/// FNV-1a of 32 bits (Fowler, Noll, Vo): where a name's search begins; nobody is kept out by it.
fn start(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Names with their numbers in a file of lines with colons: one number (passwd(5), group(5)) or a first one and a count (subuid(5)).
fn listed(text: &str, column: usize) -> Vec<(String, UserRange)> {
    let read = |line: &str| {
        let mut words = line.split(':');
        let name = words.next()?.to_owned();
        let mut numbers = words.skip(column - 1).map(|word| word.trim().parse().ok());
        let first = numbers.next()??;
        let count = if column == 1 { numbers.next()?? } else { 1 };
        Some((name, UserRange { first, count }))
    };
    text.lines().filter_map(read).collect()
}

fn read_if_any(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    }
}

/// Source: user_namespaces(7): first number inside, first outside, how many.
fn is_mapped(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_ascii_whitespace().map(|word| word.parse::<u32>());
        let (Some(Ok(first)), Some(_), Some(Ok(count))) = (numbers.next(), numbers.next(), numbers.next()) else {
            return false;
        };
        UserRange { first, count }.has(uid)
    })
}

/// All four users of every process: real, effective, saved, file system. Source: proc_pid_status(5).
fn of_processes(used: &mut BTreeSet<u32>) -> io::Result<()> {
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        match std::fs::read_to_string(format!("/proc/{pid}/status")) {
            Ok(status) => {
                let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
                used.extend(line.split_ascii_whitespace().filter_map(|word| word.parse::<u32>().ok()));
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whoever owns a tap may open it. Source: the kernel's `drivers/net/tun.c`, `owner` in sysfs; -1 is nobody.
fn of_taps(used: &mut BTreeSet<u32>) -> io::Result<()> {
    for entry in std::fs::read_dir("/sys/class/net")? {
        match std::fs::read_to_string(entry?.path().join("owner")) {
            Ok(owner) => used.extend(owner.trim().parse::<u32>()),
            // No tap, or gone; the file of a bonding device's list of names is no folder.
            Err(error) if is_gone(&error) || error.kind() == ErrorKind::NotADirectory => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The owners of what lies in a folder, this deep; `except` and what lies in it does not count. Links are not followed.
fn of_files(folder: &Path, depth: u32, except: Option<&Path>, used: &mut BTreeSet<u32>) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if is_gone(&error) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry: DirEntry = entry?;
        let path = entry.path();
        if Some(path.as_path()) == except {
            continue;
        }
        // Not followed: `DirEntry::metadata` is of the entry itself.
        let facts = match entry.metadata() {
            Err(error) if is_gone(&error) => continue,
            facts => facts?,
        };
        used.insert(facts.uid());
        if facts.is_dir() && depth > 0 {
            of_files(&path, depth - 1, except, used)?;
        }
    }
    Ok(())
}

/// Whether a process or file is gone that was just listed.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod test {
    use super::*;
    use std::os::unix::fs::{chown, lchown};
    use std::process::Command;

    const RANGE: UserRange = UserRange { first: 2_100_500_000, count: 4 };

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("muskox-users-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Goal: CA3: a user is nobody else's: not while it is held, while a process has it, or while a file has it; then it is given
    /// out again, and to the same name first. Method: a range of four, each taken in another way, by root.
    #[test]
    fn a_user_is_given_out_once() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let base = folder("once");
        let users = Rc::new(Users::default());
        let take = |name: &str| users.take(RANGE, name, Some(&base.join(name)), std::slice::from_ref(&base));
        let held = take("a").unwrap();
        assert!(RANGE.has(held.uid()));
        let rest: Vec<u32> = (RANGE.first..RANGE.first + 4).filter(|uid| *uid != held.uid()).collect();
        std::fs::create_dir_all(base.join("vm/deep")).unwrap();
        lchown(base.join("vm/deep"), Some(rest[0]), None).unwrap();
        let mut sleeper = Command::new("sleep");
        std::os::unix::process::CommandExt::uid(&mut sleeper, rest[1]);
        let mut sleeper = sleeper.arg("60").spawn().unwrap();
        let last = take("b").unwrap();
        assert_eq!(last.uid(), rest[2], "the only one that is free");
        let none = take("c").unwrap_err().to_string();
        assert!(none.contains("all 4 users from 2100500000 on are in use"), "{none}");
        drop(last);
        assert_eq!(take("c").unwrap().uid(), rest[2]);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        let again = held.uid();
        drop(held);
        // Its own former folder does not keep a name from its user.
        std::fs::create_dir(base.join("a")).unwrap();
        chown(base.join("a"), Some(again), None).unwrap();
        assert_eq!(take("a").unwrap().uid(), again);
        assert_ne!(take("z").unwrap().uid(), again);
        std::fs::remove_dir_all(base).unwrap();
    }

    /// Goal: ranges that are others' are refused or passed over, and said. Method: texts.
    #[test]
    fn others_numbers_are_theirs() {
        for (first, count) in [(65_535, 4), (0, 1), (65_536, 0), (u32::MAX, 2), (LAST_MAX, 2)] {
            UserRange { first, count }.check().unwrap_err();
        }
        UserRange::default().check().unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbad\n+::::::\nsvc:x:2100500002:7::/:\n";
        let found = listed(passwd, 2);
        assert_eq!(found.len(), 2);
        assert!(!RANGE.overlaps(found[0].1) && RANGE.overlaps(found[1].1));
        let containers = listed("lxc:100000:65536\nbig:1:2147480000\n", 1);
        assert!(!RANGE.overlaps(containers[0].1) && RANGE.overlaps(containers[1].1));
        assert!(is_mapped("         0          0 4294967295\n", RANGE.first));
        assert!(!is_mapped("         0     100000      65536\n", RANGE.first) && !is_mapped("", 0));
    }
}
