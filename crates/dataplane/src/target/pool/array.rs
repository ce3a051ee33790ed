//! A pool's members, array and volume group: finding and opening them, and what the gates need of them.

use super::Start;
use super::search::{Survey, Wanted, content};
use block::gate::{Found, GrantStore, Laggards};
use block::raid::{
    self, Array, AssembleOptions, CreateOptions, Member, MemberStatus, MembershipWitness, RaidError, Standing, create,
};
use block::runtime::Rt;
use block::volume::{Existing, GroupIds, VolumeError, VolumeGroup};
use block::{DeviceError, IoFuture};
use host::disk::{DiskError, DiskErrorKind, Machine, Options, open as open_disk, open_when_free};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use units::{ArrayId, Millis, Moment, PoolName, VolumeId};
use wire::control::{Advice, Code, Refusal};

/// How long a start waits for disks that are not there yet (a machine that boots), and for the last requests of a
/// target that was killed.
const MEMBERS_WAIT: Millis = Millis(3000);
/// Between two looks at every disk of the machine, while the members are not where they were.
const LOOK_WIDE_EVERY: Millis = Millis(1000);
const PEEK_AGAIN: Duration = Duration::from_millis(200);
/// A member that failed lets its disk go when the last operation on it has ended: one that merely was slow has then, and
/// udev has looked at a disk that just came.
const LETS_GO_WITHIN: Millis = Millis(1000);
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
    /// Disks that were left out, and why: `PATH: why`.
    pub notes: Vec<String>,
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
        Start::Create { members, wipe, single } => {
            refuse_too_few(&members, single)?;
            make(rt, name, &members, wipe, witness).await
        }
        Start::Assemble { array, paths, degraded, everywhere } => {
            let start = if degraded { raid::Start::Degraded } else { raid::Start::Witnessed };
            let wanted = Wanted { name: name.clone(), array };
            find(rt, Assembly { wanted, named: &paths, everywhere, start }, witness).await
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
    if let Some((first, second)) = one_disk_twice(paths) {
        let text = if first == second {
            format!("'{}' is named twice", first.display())
        } else {
            format!("'{}' and '{}' are one disk", first.display(), second.display())
        };
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
        Ok(group) => Ok(OpenedPool { array: PoolArray { array }, group, notes: Vec::new() }),
        Err(error) => {
            let _ = array.stop().await;
            Err(refuse_volume(&error))
        }
    }
}

/// One disk is a pool like any other, and lost with that disk: only by a word.
fn refuse_too_few(paths: &[PathBuf], single: bool) -> Result<(), Refusal> {
    match paths {
        [only] if !single => {
            let text = format!("{} alone is no mirror: what is on the pool would be lost with it", only.display());
            Err(Refusal::new(Code::Invalid, text, "name two disks or more; say --single if one is meant"))
        }
        [_, _, ..] if single => {
            let text = format!("{} disks are not a single one", paths.len());
            Err(Refusal::new(Code::Invalid, text, "leave --single out: disks of one pool mirror each other"))
        }
        _ => Ok(()),
    }
}

/// Two of these paths that lead to one disk.
fn one_disk_twice(paths: &[PathBuf]) -> Option<(&Path, &Path)> {
    let machine = Machine::default();
    let same = |one: &Path, other: &Path| one == other || same_disk(&machine, one, other);
    let later = paths.iter().enumerate();
    later
        .flat_map(|(index, one)| paths[..index].iter().map(move |other| (other.as_path(), one.as_path())))
        .find(|(one, other)| same(one, other))
}

/// Whether two paths lead to one disk.
pub fn same_disk(machine: &Machine, one: &Path, other: &Path) -> bool {
    match (machine.identify(one), machine.identify(other)) {
        (Ok(one), Ok(other)) => one.is_same(&other),
        _ => one == other,
    }
}

/// What to assemble.
struct Assembly<'a> {
    wanted: Wanted,
    named: &'a [PathBuf],
    everywhere: bool,
    start: raid::Start,
}

async fn find(rt: &Rt, assembly: Assembly<'_>, witness: Rc<dyn MembershipWitness>) -> Result<OpenedPool, Refusal> {
    let Assembly { wanted, named, everywhere, start } = assembly;
    let survey = wait_for_members(rt, &wanted, named, everywhere).await;
    let notes = survey.notes();
    if let Some(unusable) = survey.unusable.iter().find(|it| it.forbids && start != raid::Start::Degraded) {
        let text = format!("{}: {}", unusable.path.display(), unusable.why);
        return Err(Refusal::new(Code::Failed, text, "the pool is left alone until that is done"));
    }
    if survey.members.is_empty() {
        return Err(nobody_here(&wanted.name, named, notes).await);
    }
    let mine: Vec<PathBuf> = survey.members.into_iter().map(|seen| seen.path).collect();
    let opens = mine.iter().map(|path| open_when_free(path, Options::default(), MEMBERS_WAIT));
    let mut members = Vec::new();
    for (path, opened) in mine.iter().zip(futures_util::future::join_all(opens).await) {
        match opened {
            Ok(disk) => members.push(Member { disk, label: label(path) }),
            // Somebody else has it and may write to it: going on without it would split the mirror.
            Err(error) if error.is_busy() => return Err(refuse_disk(&error)),
            Err(error) => tracing::error!(pool = %wanted.name, "{error}"),
        }
    }
    let options = AssembleOptions { start, unix_seconds: unix_seconds() };
    let array = raid::assemble_witnessed(members, rt, options, witness).await;
    let array = array.map_err(|error| with_notes(refuse_raid(&error), &notes))?;
    if let Err(error) = array.facts().has_room() {
        let _ = array.stop().await;
        return Err(refuse_raid(&error));
    }
    let group = VolumeGroup::open(rt, &array.disk()).await;
    match group {
        Ok(group) => Ok(OpenedPool { array: PoolArray { array }, group, notes }),
        Err(error) => {
            let _ = array.stop().await;
            Err(refuse_volume(&error))
        }
    }
}

/// What is found: all members that the array had, or those that are there when the wait is over.
async fn wait_for_members(rt: &Rt, wanted: &Wanted, named: &[PathBuf], everywhere: bool) -> Survey {
    let until = rt.now() + MEMBERS_WAIT;
    let mut look_wide_at = rt.now();
    loop {
        let survey = wanted.survey(named, false).await;
        let late = rt.now() >= until;
        if survey.is_complete() || (late && !everywhere) {
            return survey;
        }
        if everywhere && (late || rt.now() >= look_wide_at) {
            let wide = wanted.survey(named, true).await;
            if wide.is_complete() || late {
                return wide;
            }
            look_wide_at = rt.now() + LOOK_WIDE_EVERY;
        }
        tokio::time::sleep(PEEK_AGAIN).await;
    }
}

/// Why a pool has no member here: what each place that was named holds instead.
async fn nobody_here(name: &PoolName, named: &[PathBuf], mut notes: Vec<String>) -> Refusal {
    for path in named.iter().filter(|path| !path.is_dir()) {
        if !notes.iter().any(|note| note.starts_with(&format!("{}: ", path.display()))) {
            notes.push(content(path).await);
        }
    }
    let text = format!("none of the disks that were looked at is of the pool '{name}'");
    with_notes(Refusal::advised(Code::NotFound, text, Advice::CheckDisks), &notes)
}

fn with_notes(mut refusal: Refusal, notes: &[String]) -> Refusal {
    if !notes.is_empty() {
        refusal.text = format!("{}; {}", refusal.text, notes.join("; "));
    }
    refusal
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

    /// Opens a disk for the array. One of a member that failed is waited for a moment: what runs on it may just be ending.
    ///
    /// # Errors
    /// Why not, for people; what still runs on it, if it is a failed member's.
    pub async fn member(&self, path: &str) -> Result<Member, Refusal> {
        let label = path.to_owned();
        let status = self.array.status();
        let machine = Machine::default();
        let is = |other: &str| same_disk(&machine, Path::new(path), Path::new(other));
        let works = |member: &&MemberStatus| member.standing != Standing::Faulty && is(&member.label);
        if let Some(member) = status.members.iter().find(works) {
            return Err(refuse_raid(&RaidError::AlreadyMember(member.label.clone())));
        }
        match open_when_free(Path::new(path), Options::default(), LETS_GO_WITHIN).await {
            Ok(disk) => Ok(Member { disk, label }),
            Err(error) if error.is_busy() => {
                let busy = self.array.status().still_busy.into_iter().find(|busy| is(&busy.label));
                Err(busy.map_or_else(|| refuse_disk(&error), |busy| refuse_raid(&RaidError::StillBusy(busy))))
            }
            Err(error) => Err(refuse_disk(&error)),
        }
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
    match error {
        // Whoever asked is told; a stop in that moment is nobody's failure.
        RaidError::Closed => tracing::info!(%volume, "a grant was not stored: {error}"),
        error => tracing::error!(%volume, "a grant was not stored: {error}"),
    }
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

fn refuse_disk(error: &DiskError) -> Refusal {
    let code = match &error.kind {
        DiskErrorKind::Busy { .. } => return Refusal::advised(Code::Busy, error.to_string(), Advice::ShowPool),
        DiskErrorKind::Open(cause) if is_the_requests(cause.kind()) => Code::Invalid,
        DiskErrorKind::NotADisk(_) | DiskErrorKind::Empty { .. } | DiskErrorKind::BlockSize(_) => Code::Invalid,
        DiskErrorKind::Open(_) | DiskErrorKind::Replaced | DiskErrorKind::Probe(_) | DiskErrorKind::Ring(_) => {
            Code::Failed
        }
    };
    Refusal::new(code, error.to_string(), "`lsblk` shows the disks of the machine that has them")
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
    let text = error.to_string();
    let say = |code, hint: &str| Refusal::new(code, text.clone(), hint);
    let advise = |code, advice| Refusal::advised(code, text.clone(), advice);
    match error {
        RaidError::InUse { .. } => say(Code::HoldsData, "look at it with `wipefs --no-act DISK`; --wipe overwrites it"),
        RaidError::RanElsewhere { .. } => {
            say(Code::HoldsData, "say --wipe to overwrite it, if nobody needs what it holds")
        }
        RaidError::Split { .. } => advise(Code::Blocked, Advice::ChooseHalf),
        RaidError::MemberCount(_) | RaidError::BadName(_) | RaidError::BlockSize { .. } => say(Code::Invalid, ""),
        RaidError::TooSmall { .. } => say(Code::NoSpace, "use a larger disk"),
        RaidError::NoMember(_) => advise(Code::NotFound, Advice::ShowPool),
        RaidError::NoFreeSlot(_) => advise(Code::Busy, Advice::ReplaceDisk),
        RaidError::Incomplete { .. } | RaidError::Superseded { .. } => advise(Code::Blocked, Advice::BringDisks),
        RaidError::StillBusy { .. } => say(Code::Busy, "wait until the disk has answered, or restart the target"),
        RaidError::AlreadyMember { .. } => advise(Code::Exists, Advice::ShowPool),
        RaidError::NoFactsRoom(_) => say(
            Code::Failed,
            "make a pool of other disks and copy the volumes: a target serves an array of stock mdadm with --data-offset=16M",
        ),
        RaidError::LastMember(_) => say(Code::Busy, "add a disk and wait for its resync first"),
        _ => advise(Code::Failed, Advice::LookAtDisks),
    }
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
