//! `muskox image import`: an image file of this machine into a volume.
//!
//! ```text
//!  file, opened once ─▶ header ─▶ qemu-img info, check (sandbox) ─▶ volume, zeroed ─▶ claim: a new epoch for this machine
//!   ─▶ initiator ─▶ qemu-img convert (sandbox) ─▶ durable? ─▶ initiator ended ─▶ release: the next epoch, nobody's
//! ```
//! What is plainly no disk, is being written to, or changed while it was copied is refused, by name and before a volume is made where
//! that can be known then.
//!
//! Invariant: an image is a stranger's bytes: only a tool in a sandbox takes them apart, and no file that they name is
//! opened. The volume is written to only under a claim, through the gate like everything else.

mod attached;
mod header;
mod kinds;
mod tool;

pub use header::Format;
pub use tool::find as find_tool;

use crate::peer::{Ask, Claimed, Reply, to_the_store};
use crate::rights::Caller;
use crate::root::{unusable, unusable_given};
use crate::service::Node;
use crate::works::Ticket;
use api::{Call, Code, ImageImportRequest, Problem, Progress, Volume, VolumeCreateRequest, VolumeState, Work};
use attached::Attached;
use header::{HEAD_BYTES, check_qcow2, format_of};
use host::image::{Seen, is_written_to, seen};
use host::runtime::now;
use host::users::User;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;
use tool::Copy;
use units::{ByteLen, Epoch, PoolName, VolumeName};

/// O_NONBLOCK: who names a FIFO or a tape is answered, not waited for. Source: `include/uapi/asm-generic/fcntl.h`.
const NONBLOCK: i32 = 0o4000;
/// How often a volume is looked at that is not ready.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A claim is given back within this time, or stays visible until the next start of this node.
const RELEASE_TRIES: u32 = 6;
const RELEASE_PAUSE: Duration = Duration::from_secs(5);

/// An image that was looked at and can be copied.
pub struct Import {
    /// Its path, for people.
    pub path: String,
    /// Its form.
    pub format: Format,
    /// The volume to be filled.
    pub volume: VolumeName,
    file: File,
    /// As it was when it was looked at.
    seen: Seen,
    /// A BIOS finds something to start in it; none: that is not known.
    boots: Option<bool>,
    size: u64,
    pool: Option<PoolName>,
    volume_size: u64,
    /// Who reads it: nobody else is this user for as long as it goes on.
    user: Option<User>,
    /// Who asked for it.
    by: Caller,
}

impl Import {
    fn uid(&self) -> Option<u32> {
        self.user.as_ref().map(User::uid)
    }

    /// A copy of a file that changes meanwhile is neither the one nor the other.
    fn check_unchanged(&self) -> Result<(), Problem> {
        let path = &self.path;
        let now = seen(&self.file).map_err(|error| unusable(Path::new(path), "looked at", &error))?;
        if now == self.seen {
            return check_unused(path, &self.file);
        }
        let text = format!("'{path}' changed since the import began: what was copied may be a mixture");
        Err(Problem::new(Code::InUse, text, "let whoever writes to it finish, then import it again"))
    }
}

/// Looks at the image and begins to copy it.
///
/// # Errors
/// Why it cannot be copied; nothing was changed.
pub async fn begin(node: &Node, by: Caller, request: ImageImportRequest) -> Result<Work, Problem> {
    let ImageImportRequest { path, format, volume, pool, size: wished } = request;
    find_tool()?;
    let (file, len, head) = open(Path::new(&path))?;
    check_unused(&path, &file)?;
    let seen = seen(&file).map_err(|error| unusable(Path::new(&path), "looked at", &error))?;
    let told_raw = format.as_deref() == Some("raw");
    let no_user = |text| Problem::new(Code::NotPossible, text, "see `muskox doctor`");
    let user = node.agent.user(&format!("image {volume}")).map_err(no_user)?;
    let format = format_of(&head, format.as_deref())?;
    let size = match format {
        Format::Raw if told_raw => len,
        Format::Raw => {
            check_disk(&path, &file, len, &head)?;
            len
        }
        Format::Qcow2 => {
            check_qcow2(&head)?;
            tool::look(&file, user.as_ref().map(User::uid)).await?
        }
    };
    if size == 0 {
        return Err(Problem::new(Code::BadRequest, format!("the disk in '{path}' is 0 bytes long"), "check the file"));
    }
    let volume_size = wished.unwrap_or(size);
    if volume_size < size {
        return Err(too_small(&volume, volume_size, size));
    }
    match show(node, by, &volume).await {
        Ok(there) => check_volume(&there, size)?,
        Err(problem) if problem.code == Code::NotFound => {}
        Err(problem) => return Err(problem),
    }
    let boots = (format == Format::Raw).then(|| kinds::has_boot_code(&head));
    node.works.begin(Import { path, format, volume, file, seen, boots, size, pool, volume_size, user, by })
}

fn check_unused(path: &str, file: &File) -> Result<(), Problem> {
    if !is_written_to(file) {
        return Ok(());
    }
    let text = format!("'{path}' is open for writing in another program: a running VM, a download");
    Err(Problem::new(Code::InUse, text, format!("end that first; `fuser -v '{path}'` names it")))
}

/// Refuses what is plainly no disk.
fn check_disk(path: &str, file: &File, len: u64, head: &[u8]) -> Result<(), Problem> {
    let unread = |error| unusable(Path::new(path), "read", &error);
    let tail = host::image::read(file, len.saturating_sub(kinds::TAIL_BYTES)..len).map_err(unread)?;
    kinds::check(path, head, &tail)?;
    let content = host::image::content(file, ByteLen(len)).map_err(unread)?;
    kinds::check_content(path, head, content.as_deref())
}

fn open(path: &Path) -> Result<(File, u64, Vec<u8>), Problem> {
    let wrong =
        |text: &str, hint: &str| Err(Problem::new(Code::BadRequest, format!("'{}' {text}", path.display()), hint));
    if !path.is_absolute() {
        return wrong("is no absolute path", "write it from / on");
    }
    let opened = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path);
    let file = opened.map_err(|error| unusable_given(path, "read", &error))?;
    let facts = file.metadata().map_err(|error| unusable(path, "looked at", &error))?;
    if !facts.is_file() {
        return wrong("is not a file", "images are copied from plain files");
    }
    // Who is not root has opened it as itself, and so will the tool.
    if rustix::process::geteuid().is_root() && facts.permissions().mode() & 0o004 == 0 {
        let hint = "copy it to a place of its own and run `chmod o+r` on the copy; the folder may stay closed";
        return wrong("is not readable by others, and images are read as a user without rights", hint);
    }
    let head = host::image::read(&file, 0..HEAD_BYTES).map_err(|error| unusable(path, "read", &error))?;
    Ok((file, facts.len(), head))
}

fn too_small(volume: &VolumeName, has: u64, needs: u64) -> Problem {
    let text = format!("the image needs {}, and the volume '{volume}' has {}", ByteLen(needs), ByteLen(has));
    Problem::new(Code::NotPossible, text, "give a larger size, or another volume")
}

fn check_volume(volume: &Volume, size: u64) -> Result<(), Problem> {
    if let Some(vm) = &volume.vm {
        let text = format!("the volume '{}' belongs to the VM '{vm}'", volume.name);
        return Err(Problem::new(Code::InUse, text, "use another volume, or delete the VM first"));
    }
    if volume.size < size { Err(too_small(&volume.name, volume.size, size)) } else { Ok(()) }
}

async fn show(node: &Node, by: Caller, volume: &VolumeName) -> Result<Volume, Problem> {
    node.call(by, Call::named("volume_show"), volume.as_str(), None::<&()>).await
}

/// Copies; what was done, for people.
///
/// # Errors
/// Why it was not done. What was claimed is given back in any case.
pub async fn run(node: &Node, ticket: &Ticket, import: Import) -> Result<String, Problem> {
    let zeroed = tokio::select! {
        problem = ticket.cancelled() => return Err(problem),
        ready = make_ready(node, ticket, &import) => ready?,
    };
    let claimed = claim(node, &import).await?;
    let copied = tokio::select! {
        problem = ticket.cancelled() => Err(problem),
        copied = copy(node, ticket, &import, &claimed, zeroed) => copied,
    };
    let released = release(node, &import.volume, claimed.epoch).await;
    copied?;
    released?;
    let done = format!("'{}' holds the image: {}", import.volume, ByteLen(import.size));
    Ok(match import.boots {
        Some(false) => done + "; it has no boot code for a BIOS, so no VM starts from it: it can be a second disk",
        _ => done,
    })
}

/// The volume, made if it was missing, and whether it holds nothing but zeroes: it was seen being zeroed, and nobody was
/// granted it since.
async fn make_ready(node: &Node, ticket: &Ticket, import: &Import) -> Result<bool, Problem> {
    import.check_unchanged()?;
    if import.format == Format::Qcow2 {
        node.works.tell(ticket, "the image is being checked", None);
        tool::check(&import.file, import.size, import.uid()).await?;
    }
    let mut volume = match show(node, import.by, &import.volume).await {
        Err(problem) if problem.code == Code::NotFound => {
            let (name, pool) = (import.volume.clone(), import.pool.clone());
            let request = VolumeCreateRequest { name, pool, size: import.volume_size };
            node.call(import.by, Call::named("volume_create"), "", Some(&request)).await?
        }
        shown => shown?,
    };
    let mut zeroing = false;
    loop {
        check_volume(&volume, import.size)?;
        match volume.state {
            VolumeState::Serving => return Ok(zeroing && volume.epoch == 0),
            VolumeState::Zeroing => {
                zeroing = true;
                node.works.tell(ticket, "the new volume is zeroed first", volume.zeroing.take());
            }
            VolumeState::Raising => {}
            VolumeState::Blocked | VolumeState::Down | VolumeState::Unknown => {
                let why = volume.reason.unwrap_or_else(|| volume.state.to_string());
                let text = format!("the volume '{}' is not served: {why}", import.volume);
                return Err(Problem::new(Code::NotPossible, text, "see `muskox pool list` and `muskox doctor`"));
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
        volume = show(node, import.by, &import.volume).await?;
    }
}

async fn claim(node: &Node, import: &Import) -> Result<Claimed, Problem> {
    match to_the_store(node, Ask::Claim { volume: import.volume.clone(), user: import.by.user() }).await? {
        Reply::Claimed(claimed) => Ok(claimed),
        other => Err(astray(&other)),
    }
}

async fn copy(node: &Node, ticket: &Ticket, import: &Import, claimed: &Claimed, zeroed: bool) -> Result<(), Problem> {
    node.works.tell(ticket, "the volume is being attached", None);
    let user = import.uid();
    let attached = Attached::start(node, ticket.id(), (&import.volume, claimed), user).await?;
    let (begun, socket) = (now(), attached.socket());
    let Import { file: image, format, size, volume, .. } = import;
    let volume_size = claimed.size.0;
    let copy = Copy { image, format: *format, size: *size, volume, volume_size, socket, zeroed, user };
    let heard = |part| {
        let progress = progress(*size, part, now().since(begun).0);
        node.works.tell(ticket, "the image is being copied", Some(progress));
    };
    copy.run(heard).await?;
    attached.until_durable().await?;
    import.check_unchanged()
}

/// How far it is; how long it will still take once a hundredth is done.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people")]
fn progress(total: u64, part: f64, spent_ms: u64) -> Progress {
    let left_ms = (part >= 0.01).then(|| (spent_ms as f64 * (1.0 - part) / part) as u64);
    Progress { done: (total as f64 * part) as u64, total, left_ms }
}

async fn release(node: &Node, volume: &VolumeName, epoch: Epoch) -> Result<(), Problem> {
    let ask = || Ask::Release { volume: volume.clone(), epoch };
    for _ in 1..RELEASE_TRIES {
        match to_the_store(node, ask()).await {
            Ok(_) => return Ok(()),
            Err(problem) => tracing::warn!("the volume '{volume}' is not given back yet: {problem}"),
        }
        tokio::time::sleep(RELEASE_PAUSE).await;
    }
    to_the_store(node, ask()).await.map(drop).map_err(|problem| {
        let text = format!("the volume '{volume}' was filled, and could not be given back: {problem}");
        Problem::new(problem.code, text, "see to that, then restart this machine's node: it gives it back")
    })
}

/// Ends the initiators that a former life of this node left.
pub fn end_former(node: &Node) {
    attached::end_former(&node.root);
}

/// Gives back what a former life of this node had claimed.
///
/// # Errors
/// What stands in the way; to be tried again.
pub async fn release_former(node: &Node) -> Result<(), Problem> {
    let claims = match to_the_store(node, Ask::Claims).await? {
        Reply::Claims { claims } => claims,
        other => return Err(astray(&other)),
    };
    let mut last = Ok(());
    for (volume, epoch) in claims.into_iter().filter(|(volume, _)| !node.works.fills(volume)) {
        let released = to_the_store(node, Ask::Release { volume, epoch }).await;
        last = released.map(drop).or_else(|problem| if last.is_ok() { Err(problem) } else { last });
    }
    last
}

fn astray(reply: &Reply) -> Problem {
    let text = format!("the machine with the store answered something else: {reply:?}");
    Problem::new(Code::Failed, text, "run the same muskox version on all machines")
}
