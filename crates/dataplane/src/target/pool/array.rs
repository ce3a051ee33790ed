//! A pool's members, array and volume group: finding and opening them, and what the gates need of them.

use super::Start;
use block::gate::{Found, GrantStore, Laggards};
use block::raid::superblock::{SUPERBLOCK_AT, SUPERBLOCK_BYTES, Superblock};
use block::raid::{self, Array, AssembleOptions, CreateOptions, Member, MembershipWitness, RaidError, create};
use block::runtime::Rt;
use block::volume::{Existing, GroupIds, VolumeError, VolumeGroup};
use block::{DeviceError, IoFuture};
use host::disk::{DiskError, DiskErrorKind, Options, open as open_disk, open_when_free};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use units::{ArrayId, Millis, Moment, PoolName, VolumeId};
use wire::control::{Code, Refusal};

/// How long a start waits for disks that are not there yet (a machine that boots), and for the last requests of a
/// target that was killed.
const MEMBERS_WAIT: Millis = Millis(3000);
/// A disk that does not give its superblock within this is not there.
const PEEK_MAX: Duration = Duration::from_secs(5);
const PEEK_AGAIN: Duration = Duration::from_millis(200);
/// What an errno says when nobody knows better. Source: Linux `include/uapi/asm-generic/errno-base.h`.
pub const EIO: i32 = 5;

/// A running array.
pub struct PoolArray {
    /// Itself.
    pub array: Rc<Array>,
}

/// What a start ends in.
pub struct OpenedPool {
    /// The array.
    pub array: PoolArray,
    /// The volumes on it.
    pub group: VolumeGroup,
}

/// Opens what `start` names.
///
/// # Errors
/// Why not; nothing was changed, unless the text says so.
pub async fn open(
    rt: &Rt,
    name: &PoolName,
    start: Start,
    witness: Rc<dyn MembershipWitness>,
) -> Result<OpenedPool, Refusal> {
    match start {
        Start::Create { members, wipe } => make(rt, name, &members, wipe, witness).await,
        Start::Assemble { array, paths, degraded } => {
            let start = if degraded { raid::Start::Degraded } else { raid::Start::Witnessed };
            find(rt, name, array, &paths, start, witness).await
        }
    }
}

async fn make(
    rt: &Rt,
    name: &PoolName,
    paths: &[PathBuf],
    wipe: bool,
    witness: Rc<dyn MembershipWitness>,
) -> Result<OpenedPool, Refusal> {
    let twice = paths.iter().enumerate().find(|(index, path)| paths[..*index].contains(path));
    if let Some((_, path)) = twice {
        let text = format!("'{}' is named twice", path.display());
        return Err(Refusal::new(Code::Invalid, text, "a mirror needs different disks"));
    }
    let mut members = Vec::new();
    for path in paths {
        members.push(Member {
            disk: open_disk(path, Options::default()).map_err(|error| refuse_disk(&error))?,
            label: label(path),
        });
    }
    let options = CreateOptions {
        name: name.to_string(),
        id: ArrayId(random()?),
        unix_seconds: unix_seconds(),
        wipe,
        assume_clean: false,
    };
    let ids = GroupIds { group: random()?, physical: random()? };
    let mut fill = |bytes: &mut [u8]| getrandom::fill(bytes).expect("the kernel gave random bytes a moment ago");
    let array = create(options, members, rt, &mut fill).await.map_err(|error| refuse_raid(&error))?;
    array.watch_by(witness).await.map_err(|error| refuse_raid(&error))?;
    // What the disks held was looked at, or given up, a moment ago; the array itself is new.
    let made = VolumeGroup::create(rt, &array.disk(), name, ids, Existing::Wipe, unix_seconds()).await;
    match made {
        Ok(group) => Ok(OpenedPool { array: PoolArray { array }, group }),
        Err(error) => {
            let _ = array.stop().await;
            Err(refuse_volume(&error))
        }
    }
}

async fn find(
    rt: &Rt,
    name: &PoolName,
    id: Option<ArrayId>,
    paths: &[PathBuf],
    start: raid::Start,
    witness: Rc<dyn MembershipWitness>,
) -> Result<OpenedPool, Refusal> {
    let mine = wait_for_members(rt, name, id, paths).await;
    if mine.is_empty() {
        let text = format!("no member of the pool '{name}' is on {}", list(paths));
        let hint = "check the disks' cables and paths, then `muskox ctl pool start NAME DISK…`";
        return Err(Refusal::new(Code::NotFound, text, hint));
    }
    let opens = mine.iter().map(|path| open_when_free(path, Options::default(), MEMBERS_WAIT));
    let mut members = Vec::new();
    for (path, opened) in mine.iter().zip(futures_util::future::join_all(opens).await) {
        match opened {
            Ok(disk) => members.push(Member { disk, label: label(path) }),
            // Somebody else has it and may write to it: going on without it would split the mirror.
            Err(error) if error.is_busy() => return Err(refuse_disk(&error)),
            Err(error) => tracing::error!(pool = %name, "{error}"),
        }
    }
    let options = AssembleOptions { start, unix_seconds: unix_seconds() };
    let array = raid::assemble_witnessed(members, rt, options, witness).await.map_err(|error| refuse_raid(&error))?;
    if let Err(error) = array.facts().has_room() {
        let _ = array.stop().await;
        return Err(refuse_raid(&error));
    }
    let group = VolumeGroup::open(rt, &array.disk()).await;
    match group {
        Ok(group) => Ok(OpenedPool { array: PoolArray { array }, group }),
        Err(error) => {
            let _ = array.stop().await;
            Err(refuse_volume(&error))
        }
    }
}

/// The paths that hold a member of this array: all that it had, or those that are there when the wait is over.
async fn wait_for_members(rt: &Rt, name: &PoolName, id: Option<ArrayId>, paths: &[PathBuf]) -> Vec<PathBuf> {
    let until = rt.now() + MEMBERS_WAIT;
    loop {
        let mut found = Vec::new();
        for path in paths {
            if let Some(superblock) = peek(path).await.filter(|found| is_of(found, name, id)) {
                found.push((path.clone(), superblock));
            }
        }
        let wanted = found.iter().max_by_key(|(_, superblock)| superblock.events);
        let wanted = wanted.map_or(1, |(_, newest)| usize::try_from(newest.slots).expect("usize has 64 bits"));
        if found.len() >= wanted || rt.now() >= until {
            return found.into_iter().map(|(path, _)| path).collect();
        }
        tokio::time::sleep(PEEK_AGAIN).await;
    }
}

fn is_of(superblock: &Superblock, name: &PoolName, id: Option<ArrayId>) -> bool {
    match id {
        Some(id) => superblock.array == id,
        // mdadm puts "HOST:" before a name.
        None => superblock.name.to_string().rsplit(':').next() == Some(name.as_str()),
    }
}

/// A disk's superblock, read without opening it for good: it may be another pool's.
async fn peek(path: &Path) -> Option<Superblock> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let kind = std::fs::metadata(&path).ok()?.file_type();
        // Opening a FIFO would wait for its other end.
        let file = (kind.is_file() || kind.is_block_device()).then(|| std::fs::File::open(&path).ok())??;
        let mut bytes = [0; SUPERBLOCK_BYTES];
        file.read_exact_at(&mut bytes, SUPERBLOCK_AT.0).ok()?;
        Superblock::decode(&bytes).ok()
    });
    tokio::time::timeout(PEEK_MAX, read).await.ok()?.ok()?
}

impl PoolArray {
    /// Stops the array; its members are clean afterwards.
    ///
    /// # Errors
    /// Why they are not.
    pub async fn stop(&self) -> Result<(), RaidError> {
        self.array.stop().await
    }

    /// A volume's grant as the members have it.
    pub fn found(&self, volume: VolumeId) -> Found {
        let facts = self.array.facts();
        Found { records: facts.load_all(volume), complete: facts.complete() }
    }

    /// Where the gates keep their grants.
    pub fn store(&self) -> Rc<dyn GrantStore> {
        Rc::new(Store(Rc::clone(&self.array)))
    }

    /// Opens a disk for the array.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn member(path: &str) -> Result<Member, Refusal> {
        let disk = open_disk(Path::new(path), Options::default()).map_err(|error| refuse_disk(&error))?;
        Ok(Member { disk, label: path.to_owned() })
    }

    /// The slot of the member that is called so.
    ///
    /// # Errors
    /// There is none.
    pub fn slot_of(&self, path: &str) -> Result<usize, Refusal> {
        let status = self.array.status();
        let found = status.members.iter().find(|member| member.label == path).map(|member| member.slot);
        found.ok_or_else(|| {
            let labels: Vec<&str> = status.members.iter().map(|member| member.label.as_str()).collect();
            let text = format!("'{path}' is not a member of the pool '{}'", status.name);
            Refusal::new(Code::NotFound, text, format!("its members are {}", labels.join(", ")))
        })
    }
}

/// The array's facts as a gate's store.
struct Store(Rc<Array>);

impl GrantStore for Store {
    fn store(&self, volume: VolumeId, record: &[u8]) -> IoFuture<()> {
        let (facts, record) = (self.0.facts(), record.to_vec());
        IoFuture::later(async move { facts.store(volume, &record).await.map_err(|error| not_stored(volume, &error)) })
    }

    fn fail_laggards(&self, older_than: Moment) -> IoFuture<Laggards> {
        let array = Rc::clone(&self.0);
        IoFuture::later(async move {
            match array.fail_laggards(older_than).await {
                Ok(()) => Ok(Laggards::Failed),
                Err(RaidError::LastMember(_)) => Ok(Laggards::LastMember),
                Err(RaidError::Unrecorded(_)) => Ok(Laggards::Unrecorded),
                Err(error) => Err(device_error(&error)),
            }
        })
    }
}

fn not_stored(volume: VolumeId, error: &RaidError) -> DeviceError {
    tracing::error!(%volume, "a grant was not stored: {error}");
    device_error(error)
}

fn device_error(error: &RaidError) -> DeviceError {
    match error {
        RaidError::Broken(error) => *error,
        RaidError::Closed => DeviceError::Closed,
        _ => DeviceError::Failed { errno: EIO },
    }
}

/// Seconds since 1970, for what other tools show.
pub fn unix_seconds() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

/// 16 random bytes: an identity.
///
/// # Errors
/// The kernel gave none.
pub fn random() -> Result<[u8; 16], Refusal> {
    let mut bytes = [0; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => {
            Err(Refusal::new(Code::Failed, format!("the kernel gives no random bytes: {error}"), "check /dev/urandom"))
        }
    }
}

fn label(path: &Path) -> String {
    path.display().to_string()
}

fn list(paths: &[PathBuf]) -> String {
    let texts: Vec<String> = paths.iter().map(|path| label(path)).collect();
    if texts.is_empty() { "any configured disk".to_owned() } else { texts.join(", ") }
}

fn refuse_disk(error: &DiskError) -> Refusal {
    let lsblk = "`lsblk` shows the disks of the machine that has them";
    let (code, hint) = match &error.kind {
        DiskErrorKind::Busy { .. } => (Code::Busy, "`muskox ctl pool show` says which disks a pool has"),
        DiskErrorKind::Open(cause) if is_the_requests(cause.kind()) => (Code::Invalid, lsblk),
        DiskErrorKind::NotADisk(_) | DiskErrorKind::Empty { .. } | DiskErrorKind::BlockSize(_) => {
            (Code::Invalid, lsblk)
        }
        DiskErrorKind::Open(_) | DiskErrorKind::Replaced | DiskErrorKind::Probe(_) | DiskErrorKind::Ring(_) => {
            (Code::Failed, lsblk)
        }
    };
    Refusal::new(code, error.to_string(), hint)
}

/// Whether another path would do, and the same will fail again.
const fn is_the_requests(kind: ErrorKind) -> bool {
    use ErrorKind::{
        InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
    };
    matches!(
        kind,
        NotFound
            | PermissionDenied
            | NotADirectory
            | IsADirectory
            | InvalidFilename
            | InvalidInput
            | ReadOnlyFilesystem
    )
}

/// What a failure of the array's administration is to who asked.
pub fn refuse_raid(error: &RaidError) -> Refusal {
    let (code, hint) = match error {
        RaidError::InUse { .. } => (Code::HoldsData, "look at it with `wipefs --no-act DISK`; --wipe overwrites it"),
        RaidError::RanElsewhere { .. } => {
            (Code::HoldsData, "say --wipe to overwrite it, if nobody needs what it holds")
        }
        RaidError::Split { .. } => (
            Code::Blocked,
            "`muskox ctl pool start NAME DISK --degraded` goes on with that disk alone; then `muskox ctl pool add NAME OTHER --wipe`",
        ),
        RaidError::MemberCount(_) | RaidError::BadName(_) | RaidError::BlockSize { .. } => (Code::Invalid, ""),
        RaidError::TooSmall { .. } => (Code::NoSpace, "use a larger disk"),
        RaidError::NoMember(_) => (Code::NotFound, "`muskox ctl pool show` lists the members"),
        RaidError::NoFreeSlot(_) => (Code::Busy, "fail the member that shall go first, or use `pool replace`"),
        RaidError::Incomplete { .. } | RaidError::Superseded { .. } => (
            Code::Blocked,
            "bring the missing disks, or `muskox ctl pool start NAME --degraded` if they are lost for good",
        ),
        RaidError::StillBusy { .. } => (Code::Busy, "wait until the disk has answered, or restart the target"),
        RaidError::AlreadyMember { .. } => (Code::Exists, "`muskox ctl pool show` lists the members"),
        RaidError::Superblock { .. } | RaidError::Unsupported { .. } => {
            (Code::Failed, "`mdadm --examine DISK` shows what it is; nothing was changed")
        }
        RaidError::NoFactsRoom(_) => (
            Code::Failed,
            "make a pool of other disks and copy the volumes: an array of stock mdadm needs --data-offset=16M to be served",
        ),
        RaidError::LastMember(_) => (Code::Busy, "add a disk and wait for its resync first"),
        _ => (Code::Failed, "look at `dmesg` and at `muskox ctl pool show`"),
    };
    Refusal::new(code, error.to_string(), hint)
}

/// What a failure of the volume group's administration is to who asked.
pub fn refuse_volume(error: &VolumeError) -> Refusal {
    let code = match error {
        VolumeError::NoSpace { .. }
        | VolumeError::TooSmall { .. }
        | VolumeError::MetadataFull { .. }
        | VolumeError::TooMany(_) => Code::NoSpace,
        VolumeError::NameTaken(_) | VolumeError::IdTaken(_) => Code::Exists,
        VolumeError::NameReserved { .. } | VolumeError::EmptyVolume => Code::Invalid,
        VolumeError::UnknownVolume(_) | VolumeError::NoGroup => Code::NotFound,
        VolumeError::InUse(_) | VolumeError::Unfinished(_) => Code::Busy,
        VolumeError::NotEmpty { .. } => Code::HoldsData,
        _ => Code::Failed,
    };
    Refusal::new(code, error.to_string(), "")
}
