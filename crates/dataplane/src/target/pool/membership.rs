//! Who was in sync, remembered in the state folder: the superblock of a member that failed cannot say so, and alone at
//! the next start it would look right (docs/formats/md.md). One small file per array, on no member of it.
//!
//! Losing the file loses no data: the array then starts only with every member that its superblocks call active, or by
//! an operator's word. Fields of a newer muskox are kept; a higher version is refused by its number.

use block::raid::{Membership, MembershipWitness};
use block::{DeviceError, IoFuture};
use host::replace::{Outlives, replace, sync_folder_of};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use units::ArrayId;

/// The state folder as a witness.
pub struct Members {
    dir: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u16,
    events: u64,
    /// Each 32 hexadecimal digits, like an array's own.
    in_sync: Vec<ArrayId>,
    /// What a newer version wrote beside it.
    #[serde(flatten)]
    unknown: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Form {
    version: u64,
}

const VERSION: u16 = 1;

impl Members {
    /// The witness whose files are in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn path(&self, array: ArrayId) -> PathBuf {
        self.dir.join(format!("members-{array}.json"))
    }
}

impl MembershipWitness for Members {
    fn recall(&self, array: ArrayId) -> IoFuture<Option<Membership>> {
        let path = self.path(array);
        aside(move || match read_durably(&path) {
            Ok(bytes) => {
                let Document { events, in_sync, .. } = read(&bytes)?;
                Ok(Some(Membership { events, in_sync: in_sync.iter().map(|id| id.0).collect() }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
    }

    fn keep(&self, array: ArrayId, membership: &Membership) -> IoFuture<()> {
        let in_sync = membership.in_sync.iter().copied().map(ArrayId).collect();
        let mut document = Document { version: VERSION, events: membership.events, in_sync, unknown: <_>::default() };
        let path = self.path(array);
        aside(move || {
            // What cannot be read is of no use to anybody: an array that has it does not start without an operator's word.
            if let Some(before) = std::fs::read(&path).ok().and_then(|bytes| read(&bytes).ok()) {
                document.unknown = before.unknown;
            }
            let text = serde_json::to_vec(&document).expect("numbers and digits are text");
            replace(&path, &text, 0o644, Outlives::PowerLoss)
        })
    }
}

/// The content, once a power cut cannot take it back: its writer may have been killed before the renaming was durable.
fn read_durably(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = std::fs::read(path)?;
    sync_folder_of(path)?;
    Ok(bytes)
}

fn read(bytes: &[u8]) -> io::Result<Document> {
    let form: Form = serde_json::from_slice(bytes)?;
    if form.version != u64::from(VERSION) {
        return Err(io::Error::other(format!("version {} is not known here", form.version)));
    }
    Ok(serde_json::from_slice(bytes)?)
}

/// Files are touched beside the loop: a slow boot disk must not hold up guests.
fn aside<T: Send + Unpin + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> IoFuture<T> {
    IoFuture::later(async move {
        let done = tokio::task::spawn_blocking(work).await.map_err(|_| DeviceError::Closed)?;
        done.map_err(|error| {
            tracing::error!("the members' file in the state folder: {error}");
            DeviceError::Failed { errno: error.raw_os_error().unwrap_or(super::array::EIO) }
        })
    })
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: what was kept is recalled, and nothing else. Method: keep, recall, spoil, another array.
    #[tokio::test]
    async fn a_membership_is_kept_and_damage_is_an_error() {
        let dir = std::env::temp_dir().join(format!("muskox-members-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (members, id) = (Members::new(&dir), ArrayId([7; 16]));
        assert_eq!(members.recall(id).await, Ok(None));
        let membership = Membership { events: 9, in_sync: vec![[1; 16], [2; 16]] };
        members.keep(id, &membership).await.unwrap();
        assert_eq!(Members::new(&dir).recall(id).await, Ok(Some(membership)));
        assert_eq!(members.recall(ArrayId([8; 16])).await, Ok(None));
        std::fs::write(members.path(id), b"{\"version\":2}").unwrap();
        assert!(members.recall(id).await.is_err());
        assert!(read(b"{\"version\":2}").err().unwrap().to_string().contains("version 2"));
        // CA2, CA14: a field too many is read and kept, one too few is named.
        std::fs::write(members.path(id), br#"{"version":1,"events":3,"in_sync":[],"colour":"red"}"#).unwrap();
        assert_eq!(members.recall(id).await, Ok(Some(Membership { events: 3, in_sync: Vec::new() })));
        members.keep(id, &Membership { events: 4, in_sync: Vec::new() }).await.unwrap();
        let written = std::fs::read_to_string(members.path(id)).unwrap();
        assert!(written.contains(r#""events":4"#) && written.contains(r#""colour":"red""#), "{written}");
        for (field, text) in [("events", r#"{"version":1,"in_sync":[]}"#), ("version", r#"{"events":1,"in_sync":[]}"#)]
        {
            assert!(read(text.as_bytes()).err().unwrap().to_string().contains(field));
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
