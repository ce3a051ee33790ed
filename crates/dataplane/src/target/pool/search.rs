//! Where a pool's members are today: every disk is known by what is written on it, not by its name.
//!
//! Places that somebody named are looked at first, then every block device on which nobody sits. Only superblocks of the
//! one array count, so nothing of a stranger is ever taken; of two disks that say to be the same member none is. This
//! file opens nothing for good and decides nothing about who is in sync.

use block::probe::what_is_on;
use block::raid::superblock::{SUPERBLOCK_AT, SUPERBLOCK_BYTES, Superblock, SuperblockError};
use futures_util::future::join_all;
use host::disk::{Identity, Machine, Options, look_at, open as open_disk};
use std::path::{Path, PathBuf};
use std::time::Duration;
use units::{ArrayId, PoolName};

/// A disk that does not give its superblock within this is not there.
const PEEK_MAX: Duration = Duration::from_secs(5);
/// What a disk holds is 64 MiB to read, and only for a person.
const CONTENT_MAX: Duration = Duration::from_secs(10);

/// Whose members are looked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The pool.
    pub name: PoolName,
    /// Its array, if it is known; else the one of the pool's name.
    pub array: Option<ArrayId>,
}

/// A disk with a sound superblock of the array.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Where it is.
    pub path: PathBuf,
    /// What it says.
    pub superblock: Superblock,
}

/// A disk that has to do with the array and cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// Where it is.
    pub path: PathBuf,
    /// Why not, for people.
    pub why: String,
    /// Whether the array may not be started without a person's word: it uses something that muskox does not know.
    pub forbids: bool,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Each disk once, in the order of the places.
    pub members: Vec<Seen>,
    /// What is left out.
    pub unusable: Vec<Unusable>,
}

/// A disk, and what stands where its superblock would be.
struct Look {
    path: PathBuf,
    identity: Identity,
    bytes: Box<[u8; SUPERBLOCK_BYTES]>,
}

impl Wanted {
    fn is(&self, array: ArrayId, name: &str) -> bool {
        // mdadm puts "HOST:" before a name.
        self.array.map_or_else(|| name.rsplit(':').next() == Some(self.name.as_str()), |wanted| wanted == array)
    }

    /// Looks at the places that are named: disks, or folders of which every entry is one; and at every free block device,
    /// if that is wanted and the array is known by more than a name that anybody may have given.
    pub async fn survey(&self, named: &[PathBuf], everywhere: bool) -> Survey {
        let (named, everywhere) = (named.to_vec(), everywhere && self.array.is_some());
        let listed = tokio::task::spawn_blocking(move || {
            let free = if everywhere { Machine::default().free_disks() } else { Vec::new() };
            named.iter().flat_map(|place| entries(place)).chain(free).collect::<Vec<PathBuf>>()
        });
        let places = tokio::time::timeout(PEEK_MAX, listed).await.ok().and_then(Result::ok).unwrap_or_default();
        let mut distinct: Vec<PathBuf> = Vec::new();
        for place in places {
            if !distinct.contains(&place) {
                distinct.push(place);
            }
        }
        let looks = join_all(distinct.into_iter().map(look)).await;
        self.judge(looks.into_iter().flatten().collect())
    }

    fn judge(&self, looks: Vec<Look>) -> Survey {
        let mut survey = Survey::default();
        let mut disks: Vec<Identity> = Vec::new();
        for Look { path, identity, bytes } in looks {
            if disks.iter().any(|other| other.is_same(&identity)) {
                continue;
            }
            disks.push(identity);
            match Superblock::decode(&bytes) {
                Ok(superblock) if self.is(superblock.array, &superblock.name.to_string()) => {
                    survey.members.push(Seen { path, superblock });
                }
                Ok(_) | Err(SuperblockError::Absent) => {}
                Err(error) if Superblock::claims(&bytes).is_some_and(|(array, name)| self.is(array, &name)) => {
                    let forbids = matches!(error, SuperblockError::Unsupported(_));
                    survey.unusable.push(Unusable { path, why: error.to_string(), forbids });
                }
                Err(_) => {}
            }
        }
        survey.leave_out_twins();
        survey
    }
}

impl Survey {
    /// A copy of a member (`dd`, a snapshot of the disk) cannot be told from it: neither is taken.
    fn leave_out_twins(&mut self) {
        let all = std::mem::take(&mut self.members);
        let twin = |one: &Seen| {
            let mut others = all.iter().filter(|other| other.path != one.path);
            let is = |other: &&Seen| identity(&other.superblock) == identity(&one.superblock);
            others.find(is).map(|other| other.path.clone())
        };
        for one in &all {
            match twin(one) {
                None => self.members.push(one.clone()),
                Some(other) => self.unusable.push(Unusable {
                    path: one.path.clone(),
                    why: format!(
                        "it says to be the same member as {}: one is a copy of the other, and neither is taken; take one away",
                        other.display()
                    ),
                    forbids: false,
                }),
            }
        }
    }

    /// Whether every member is here that the newest of them calls active.
    pub fn is_complete(&self) -> bool {
        use block::raid::superblock::Role;
        let Some(newest) = self.members.iter().map(|seen| &seen.superblock).max_by_key(|it| it.events) else {
            return false;
        };
        let here = |number: usize| self.members.iter().any(|seen| seen.superblock.number as usize == number);
        let mut active = newest.roles.iter().enumerate().filter(|(_, role)| matches!(role, Role::Active(_)));
        active.all(|(number, _)| here(number))
    }

    /// What is left out, for people: `PATH: why`.
    pub fn notes(&self) -> Vec<String> {
        self.unusable.iter().map(|it| format!("{}: {}", it.path.display(), it.why)).collect()
    }
}

fn identity(one: &Superblock) -> (ArrayId, [u8; 16]) {
    (one.array, one.device)
}

/// A place, or what is in the folder there.
fn entries(place: &Path) -> Vec<PathBuf> {
    let Ok(folder) = std::fs::read_dir(place) else { return vec![place.to_owned()] };
    let mut all: Vec<PathBuf> = folder.flatten().map(|entry| entry.path()).collect();
    all.sort();
    all
}

async fn look(path: PathBuf) -> Option<Look> {
    let read = tokio::task::spawn_blocking(move || {
        let identity = Machine::default().identify(&path).ok()?;
        let mut bytes = Box::new([0; SUPERBLOCK_BYTES]);
        look_at(&path, SUPERBLOCK_AT.0, &mut bytes[..]).ok()?;
        Some(Look { path, identity, bytes })
    });
    tokio::time::timeout(PEEK_MAX, read).await.ok()?.ok()?
}

/// What a disk holds that is no member of the array, for people: `PATH: it holds …`. For a refusal, as it reads a lot.
pub async fn content(path: &Path) -> String {
    let what = async {
        let disk =
            open_disk(path, Options { read_only: true, ..Options::default() }).map_err(|error| error.to_string())?;
        match what_is_on(&disk).await {
            Ok(Some(what)) => Ok(format!("{}: it holds {what}", path.display())),
            Ok(None) => Ok(format!("{}: it is empty", path.display())),
            Err(error) => Ok(format!("{}: {error}", path.display())),
        }
    };
    let slow = || Err(format!("{}: it does not answer", path.display()));
    tokio::time::timeout(CONTENT_MAX, what).await.unwrap_or_else(|_| slow()).unwrap_or_else(|error: String| error)
}

#[cfg(test)]
mod test {
    use super::*;
    use block::raid::superblock::{ArrayName, Role};
    use units::Sectors;

    fn superblock(array: u8, number: u32) -> Superblock {
        Superblock {
            features: 0,
            array: ArrayId([array; 16]),
            name: ArrayName::new("tank").unwrap(),
            created: 0,
            level: 1,
            layout: 0,
            size: Sectors(2048),
            chunk: 0,
            slots: 2,
            bitmap_offset: 8,
            reshape: [0; 28],
            data_offset: Sectors(32_768),
            data_size: Sectors(2048),
            recovery_offset: 0,
            number,
            corrected_reads: 0,
            device: [u8::try_from(number).unwrap() + 1; 16],
            flags: 0,
            bad_block_shift: 0,
            bad_block_sectors: 0,
            bad_block_offset: 0,
            updated: 0,
            events: 1,
            resync_offset: 0,
            block_bytes: 512,
            roles: vec![Role::Active(0), Role::Active(1)],
        }
    }

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("muskox-search-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn disk(&self, name: &str, bytes: &[u8; SUPERBLOCK_BYTES]) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, [&[0; SUPERBLOCK_BYTES][..], bytes].concat()).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    async fn survey(array: Option<ArrayId>, named: &[PathBuf]) -> Survey {
        Wanted { name: "tank".parse().unwrap(), array }.survey(named, false).await
    }

    /// Goal: DA8, A42: a member is found under any name, once, and nobody else's is. Method: a folder with both members,
    /// another array's, a text and a FIFO; one of them named twice more, by a link.
    #[tokio::test]
    async fn members_are_found_by_what_they_say() {
        let folder = Folder::new("found");
        let (a, b) = (superblock(7, 0), superblock(7, 1));
        let path = folder.disk("z", &a.encode());
        folder.disk("y", &b.encode());
        folder.disk("x", &superblock(8, 0).encode());
        std::fs::write(folder.0.join("text"), "no disk").unwrap();
        let made = std::process::Command::new("mkfifo").arg(folder.0.join("fifo")).status().unwrap();
        assert!(made.success());
        let link = folder.0.join("a-link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let found = survey(Some(ArrayId([7; 16])), &[path.clone(), link, folder.0.clone()]).await;
        let paths: Vec<&Path> = found.members.iter().map(|seen| seen.path.as_path()).collect();
        assert_eq!(paths, [path.as_path(), &folder.0.join("y")]);
        assert!(found.is_complete() && found.unusable.is_empty());
        assert!(!survey(Some(ArrayId([7; 16])), &[path]).await.is_complete(), "one of two");
        assert_eq!(
            survey(None, std::slice::from_ref(&folder.0)).await.members.len(),
            3,
            "by name alone, all of that name"
        );
    }

    /// Goal: of two disks with one identity neither is taken, and both are named. Method: a copy beside the member.
    #[tokio::test]
    async fn of_a_member_and_its_copy_neither_is_taken() {
        let folder = Folder::new("twins");
        let (a, b) = (superblock(7, 0), superblock(7, 1));
        let (first, second) =
            (folder.disk("a", &a.encode()), folder.disk("copy", &Superblock { events: 9, ..a }.encode()));
        folder.disk("b", &b.encode());
        let found = survey(Some(ArrayId([7; 16])), std::slice::from_ref(&folder.0)).await;
        let paths: Vec<&Path> = found.members.iter().map(|seen| seen.path.as_path()).collect();
        assert_eq!(paths, [folder.0.join("b")]);
        let notes = found.notes().join("; ");
        for path in [&first, &second] {
            assert!(notes.contains(&format!("{}: it says to be the same member", path.display())), "{notes}");
        }
    }

    /// Goal: OD3: a superblock that is refused is no missing disk; its words are kept. Method: features and levels that are
    /// not served, a wrong checksum, and the same of another array.
    #[tokio::test]
    async fn what_cannot_be_used_is_named_with_its_reason() {
        let folder = Folder::new("unusable");
        let of = |features, level, array| Superblock { features, level, ..superblock(array, 0) }.encode();
        for (bytes, words, forbids) in [
            (of(1024, 5, 7), "a partial parity log", true),
            (of(512, 5, 7), "a journal device", true),
            (of(16, 1, 7), "a replacement in progress", true),
            (of(0, 0, 7), "RAID 0", true),
            (of(0, -1, 7), "the linear level", true),
            (std::array::from_fn(|at| of(0, 1, 7)[at] ^ u8::from(at == 100)), "checksum", false),
        ] {
            let path = folder.disk("one", &bytes);
            let found = survey(Some(ArrayId([7; 16])), std::slice::from_ref(&path)).await;
            let [only] = &found.unusable[..] else { panic!("{words}: {found:?}") };
            assert!(only.why.contains(words) && only.path == path && only.forbids == forbids, "{only:?}");
            assert!(found.members.is_empty());
            assert!(survey(Some(ArrayId([8; 16])), &[path]).await.unusable.is_empty(), "{words}: another array's");
        }
    }
}
