//! Which pools this target serves: a small file in the state folder, replaced whole.
//!
//! Invariant: after a crash at any moment the file is the old or the new one. It only says *where to look*: what a pool
//! holds and who may use it stands on its members, so losing this file loses no data (`muskox ctl pool start`).

use host::replace::{Outlives, replace};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use units::{ArrayId, PoolName};

const VERSION: u16 = 1;
const FILE: &str = "pools.json";
const LOCK: &str = "lock";

/// The pools of one state folder. While it lives no other target uses the folder.
pub struct Known {
    dir: PathBuf,
    document: Document,
    _lock: File,
}

/// What is remembered of one pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPool {
    /// Its array: members are known by this, not by their paths.
    pub array: ArrayId,
    /// Where its members were last seen.
    pub members: Vec<PathBuf>,
    /// It was stopped by hand and stays so.
    pub stopped: bool,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Document {
    version: u16,
    pools: BTreeMap<PoolName, KnownPool>,
    #[serde(flatten)]
    more: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Form {
    version: u64,
}

/// Why the state folder is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KnownError {
    /// The system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Another target uses it.
    #[error("{}: another muskox target uses this state folder", .0.display())]
    Locked(PathBuf),
    /// Not what a target of this version writes.
    #[error("{}: not a list of pools of version {VERSION}: {what}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

impl Known {
    /// Opens the folder, makes it if it is not there, and locks it.
    ///
    /// # Errors
    /// [`KnownError`]. A damaged list is not overwritten: a person should look at it.
    pub fn open(dir: &Path) -> Result<Self, KnownError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| KnownError::Io { path, source }
        };
        std::fs::create_dir_all(dir).map_err(failed(dir))?;
        let lock_path = dir.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(failed(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(KnownError::Locked(dir.to_owned())),
            Err(std::fs::TryLockError::Error(source)) => return Err(KnownError::Io { path: lock_path, source }),
        }
        let path = dir.join(FILE);
        let document = match std::fs::read(&path) {
            Ok(bytes) => parse(&path, &bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Document { version: VERSION, pools: BTreeMap::new(), more: BTreeMap::new() }
            }
            Err(error) => return Err(failed(&path)(error)),
        };
        Ok(Self { dir: dir.to_owned(), document, _lock: lock })
    }

    /// All of them.
    pub fn pools(&self) -> &BTreeMap<PoolName, KnownPool> {
        &self.document.pools
    }

    /// Remembers a pool durably, in place of what was known under its name.
    ///
    /// # Errors
    /// [`KnownError::Io`]; then the old list stands.
    pub fn remember(&mut self, name: &PoolName, mut pool: KnownPool) -> Result<(), KnownError> {
        let before = self.document.pools.get(name);
        if let Some(before) = before {
            pool.more.clone_from(&before.more);
        }
        if before == Some(&pool) {
            return Ok(());
        }
        let mut document = self.document.clone();
        document.pools.insert(name.clone(), pool);
        let text = serde_json::to_vec_pretty(&document).expect("names and paths in UTF-8 are text");
        let path = self.dir.join(FILE);
        replace(&path, &text, 0o644, Outlives::PowerLoss).map_err(|source| KnownError::Io { path, source })?;
        self.document = document;
        Ok(())
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Document, KnownError> {
    let unreadable = |what: String| KnownError::Unreadable { path: path.to_owned(), what };
    let form: Form = serde_json::from_slice(bytes).map_err(|error| unreadable(error.to_string()))?;
    if form.version != u64::from(VERSION) {
        return Err(unreadable(format!("it has version {}", form.version)));
    }
    serde_json::from_slice(bytes).map_err(|error| unreadable(error.to_string()))
}

impl KnownError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Io { .. } => {
                "check the path 'state_dir' of the configuration, its permissions and the room left on it"
            }
            Self::Locked(_) => "give each target its own state_dir, or stop the other one",
            Self::Unreadable { .. } => {
                "move the file away and start pools again with `muskox ctl pool start NAME DISK…`: their data and grants \
                 are on their disks"
            }
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("muskox-known-{name}-{}", std::process::id()));
            Self(dir)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn pool(stopped: bool) -> KnownPool {
        KnownPool {
            array: ArrayId([7; 16]),
            members: vec!["/dev/a".into(), "/dev/b".into()],
            stopped,
            more: BTreeMap::new(),
        }
    }

    #[test]
    fn pools_are_remembered_across_a_restart() {
        let folder = Folder::new("restart");
        let name: PoolName = "tank".parse().unwrap();
        Known::open(&folder.0).unwrap().remember(&name, pool(false)).unwrap();
        let mut known = Known::open(&folder.0).unwrap();
        assert_eq!(known.pools().get(&name), Some(&pool(false)));
        known.remember(&name, pool(true)).unwrap();
        drop(known);
        assert_eq!(Known::open(&folder.0).unwrap().pools().get(&name), Some(&pool(true)));
    }

    /// Goal: a newer version's fields outlive an older one's writing. Method: a field too many at both places; what lacks one
    /// that is needed is refused.
    #[test]
    fn unknown_fields_are_kept() {
        let folder = Folder::new("fields");
        let name: PoolName = "tank".parse().unwrap();
        Known::open(&folder.0).unwrap().remember(&name, pool(false)).unwrap();
        let path = folder.0.join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        let more = text.replace("\"version\": 1", "\"version\": 1, \"colour\": \"red\"");
        std::fs::write(&path, more.replace("\"stopped\"", "\"shelf\": 7, \"stopped\"")).unwrap();
        Known::open(&folder.0).unwrap().remember(&name, pool(true)).unwrap();
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(kept.contains("\"colour\": \"red\"") && kept.contains("\"shelf\": 7"), "{kept}");
        assert!(kept.contains("\"stopped\": true"), "{kept}");
        std::fs::write(&path, text.replace("\"stopped\"", "\"stood\"")).unwrap();
        assert!(matches!(Known::open(&folder.0), Err(KnownError::Unreadable { .. })));
    }

    /// CA2, CA14. Goal: fields of a newer version are kept where the list is written again, a field too few is named, a newer version is
    /// refused by its number and not overwritten. Method: lists of each kind.
    #[test]
    fn a_list_of_another_version_is_read_or_refused_by_name() {
        let folder = Folder::new("version");
        let name: PoolName = "tank".parse().unwrap();
        Known::open(&folder.0).unwrap().remember(&name, pool(false)).unwrap();
        let file = folder.0.join(FILE);
        let good: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let mut more = good.clone();
        (more["colour"], more["pools"]["tank"]["colour"]) = ("red".into(), "blue".into());
        std::fs::write(&file, more.to_string()).unwrap();
        Known::open(&folder.0).unwrap().remember(&name, pool(true)).unwrap();
        more["pools"]["tank"]["stopped"] = true.into();
        let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(written, more);
        let refused = |text: &serde_json::Value| {
            std::fs::write(&file, text.to_string()).unwrap();
            let why = Known::open(&folder.0).err().expect("it is spoilt").to_string();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text.to_string());
            why
        };
        for field in ["version", "pools"] {
            let mut less = good.clone();
            less.as_object_mut().unwrap().remove(field);
            assert!(refused(&less).contains(field));
        }
        for field in ["array", "members", "stopped"] {
            let mut less = good.clone();
            less["pools"]["tank"].as_object_mut().unwrap().remove(field);
            assert!(refused(&less).contains(field));
        }
        let mut newer = more;
        (newer["version"], newer["pools"]) = (9.into(), "elsewhere".into());
        assert!(refused(&newer).contains("it has version 9"));
    }

    #[test]
    fn two_targets_do_not_share_a_folder() {
        let folder = Folder::new("locked");
        let _first = Known::open(&folder.0).unwrap();
        assert!(matches!(Known::open(&folder.0), Err(KnownError::Locked(_))));
    }

    /// Goal: a half-written or foreign list is neither trusted nor overwritten. Method: cut and change a good one.
    #[test]
    fn a_damaged_list_is_left_alone() {
        let folder = Folder::new("damaged");
        Known::open(&folder.0).unwrap().remember(&"tank".parse().unwrap(), pool(false)).unwrap();
        let path = folder.0.join(FILE);
        let good = std::fs::read(&path).unwrap();
        let newer = String::from_utf8(good.clone()).unwrap().replace("\"version\": 1", "\"version\": 2").into_bytes();
        for bad in [good[..good.len() / 2].to_vec(), Vec::new(), newer] {
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(Known::open(&folder.0), Err(KnownError::Unreadable { .. })));
            assert_eq!(std::fs::read(&path).unwrap(), bad);
        }
    }
}
