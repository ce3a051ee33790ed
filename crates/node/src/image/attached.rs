//! An initiator of our own for the time of a copy: started, waited for, ended with everything that it made.

use crate::control;
use crate::peer::Claimed;
use crate::root::{Root, unusable, write_public};
use crate::service::Node;
use api::{Code, Problem};
use host::vm::{Identity, Process};
use serde_json::json;
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use units::{ByteLen, VolumeName};
use wire::control::{HeldReport, HeldState, Reply, Request};

/// Not the volume's name: a socket's path is at most 107 bytes long.
const SOCKET: &str = "disk.sock";
/// An attach takes milliseconds; a target that restarts, seconds.
const UP_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// This very program, also when an update has put another in its place. Source: proc(5), `/proc/pid/exe`.
const OWN_PROGRAM: &str = "/proc/self/exe";
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// What is answered and not yet durable after the tool's own flush is a matter of moments.
const DURABLE_WITHIN: Duration = Duration::from_secs(60);
/// After SIGKILL a process is gone in a moment; this node has only just started and serves nobody yet.
const GONE_TRIES: u32 = 200;
const GONE_PAUSE: Duration = Duration::from_millis(5);
/// Who may find the socket: the tool is another user, and starts in here.
const FOLDER_MODE: u32 = 0o711;

/// A volume that is attached here. Dropped, it is not any more.
pub struct Attached {
    volume: VolumeName,
    folder: PathBuf,
    child: Child,
}

impl Attached {
    /// Attaches `volume` as `claimed`, for a tool of this user.
    ///
    /// # Errors
    /// [`Code::Files`], [`Code::Failed`]: why it is not attached.
    pub async fn start(
        node: &Node,
        id: &str,
        (volume, claimed): (&VolumeName, &Claimed),
        user: Option<u32>,
    ) -> Result<Self, Problem> {
        let folder = std::path::absolute(folders(&node.root).join(id)).map_err(|error| failed(&error))?;
        // Of a former life; `end_former` has ended who used it.
        remove(&folder).map_err(|error| unusable(&folder, "removed", &error))?;
        let made = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&folder);
        made.map_err(|error| unusable(&folder, "made", &error))?;
        let file = folder.join("initiator.toml");
        write_public(&file, &configuration(node, volume, claimed)?)?;
        let log = File::create(folder.join("log")).map_err(|error| unusable(&folder, "written to", &error))?;
        let mut command = Command::new(OWN_PROGRAM);
        command
            .arg0("muskox")
            .args(["initiator", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command.spawn().map_err(|error| failed(&error))?;
        let this = Self { volume: volume.clone(), folder, child };
        let pid = i32::try_from(this.child.id()).expect("a process id is one");
        // One that has ended by now is found to have, below.
        if let Some(identity) = Identity::of(pid).map_err(|error| failed(&error))? {
            write_public(&this.folder.join("pid"), &identity.to_string())?;
        }
        this.until_up(user).await
    }

    /// Where the volume is served: a folder, and the name in it.
    #[must_use]
    pub fn socket(&self) -> (&Path, &'static str) {
        (&self.folder, SOCKET)
    }

    async fn until_up(mut self, user: Option<u32>) -> Result<Self, Problem> {
        let begun = tokio::time::Instant::now();
        let mut why = "it has not said anything".to_owned();
        while begun.elapsed() < UP_WITHIN {
            if let Some(status) = self.child.try_wait().map_err(|error| failed(&error))? {
                let words = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                let last = words.lines().last().unwrap_or_default();
                return Err(not_attached(&self.volume, &format!("its initiator {status}: {last}")));
            }
            match self.report().await {
                Ok(report) if report.state == HeldState::Up && self.folder.join(SOCKET).exists() => {
                    self.open_to_the_tool(user)?;
                    return Ok(self);
                }
                Ok(report) if report.state == HeldState::Fenced => {
                    return Err(not_attached(&self.volume, "somebody else was granted a newer epoch"));
                }
                Ok(report) => why = report.reason.unwrap_or(why),
                Err(problem) => why = problem.text,
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(not_attached(&self.volume, &format!("not within {} s: {why}", UP_WITHIN.as_secs())))
    }

    /// Waits until everything that was written is durable at the target.
    ///
    /// # Errors
    /// [`Code::Failed`]: that is not known.
    pub async fn until_durable(&self) -> Result<(), Problem> {
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < DURABLE_WITHIN {
            let report = self.report().await?;
            match report.state {
                HeldState::Up if report.unflushed == ByteLen(0) => return Ok(()),
                HeldState::Fenced => break,
                _ => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
        let text = format!("it is not known whether what was written to '{}' is durable", self.volume);
        Err(Problem::new(Code::Failed, text, "see that its pool serves, then import the image again"))
    }

    async fn report(&self) -> Result<HeldReport, Problem> {
        let socket = self.folder.join("control.sock");
        let failed = |text: String| Problem::new(Code::Failed, text, "see the node's log");
        match control::ask("initiator of the import", &socket, Request::Status, ANSWER_WITHIN).await {
            Ok(Reply::Initiator(mut report)) if report.volumes.len() == 1 => Ok(report.volumes.remove(0)),
            Ok(other) => Err(failed(format!("the import's initiator answered something else: {other:?}"))),
            Err(refusal) => Err(failed(refusal.text)),
        }
    }

    /// The socket is its owner's only.
    fn open_to_the_tool(&self, user: Option<u32>) -> Result<(), Problem> {
        let socket = self.folder.join(SOCKET);
        let given = user.map_or(Ok(()), |user| std::os::unix::fs::chown(&socket, Some(user), Some(user)));
        given.map_err(|error| unusable(&socket, "given to the tool's user", &error))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Nothing is lost by the kill: what had to be durable was waited for. Our child is not collected before the wait.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Err(error) = remove(&self.folder) {
            tracing::warn!("'{}' could not be removed: {error}", self.folder.display());
        }
    }
}

/// Ends the initiators that a former life of this node left, and removes what they made.
pub fn end_former(root: &Root) {
    let Ok(left) = std::fs::read_dir(folders(root)) else { return };
    for folder in left.filter_map(Result::ok).map(|entry| entry.path()) {
        if let Err(error) = end_one(&folder) {
            tracing::warn!("what an import left in '{}' could not be cleared away: {error}", folder.display());
        }
    }
}

fn end_one(folder: &Path) -> io::Result<()> {
    let noted = std::fs::read_to_string(folder.join("pid")).unwrap_or_default();
    if let Some(identity) = Identity::parse(&noted)
        && let Some(process) = Process::find(&identity)?
    {
        process.end_at_once()?;
        for _ in 0..GONE_TRIES {
            if process.has_ended()?.is_some() {
                break;
            }
            std::thread::sleep(GONE_PAUSE);
        }
        tracing::info!("ended the initiator of an import that did not finish: process {}", identity.pid);
    }
    remove(folder)
}

fn folders(root: &Root) -> PathBuf {
    root.run().join("import")
}

fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn configuration(node: &Node, volume: &VolumeName, claimed: &Claimed) -> Result<String, Problem> {
    let files = node.tls_files();
    let path = |path: &Path| std::path::absolute(path).map_err(|error| failed(&error));
    let tls = json!({
        "certificate": path(&files.certificate)?, "key": path(&files.key)?, "ca": path(&files.ca)?,
    });
    let it = json!({
        "name": volume, "epoch": claimed.epoch, "mode": "rw", "portals": claimed.portals,
        "target": claimed.target, "socket": SOCKET,
    });
    let whole = json!({"control": "control.sock", "state_dir": "state", "tls": tls, "volume": [it]});
    toml::to_string(&whole).map_err(|error| failed(&error))
}

fn failed(error: &dyn std::fmt::Display) -> Problem {
    Problem::new(Code::Failed, format!("no initiator for the import: {error}"), "see the node's log and `ulimit -a`")
}

fn not_attached(volume: &VolumeName, why: &str) -> Problem {
    let text = format!("the volume '{volume}' cannot be attached here: {why}");
    Problem::new(Code::Failed, text, "see `muskox volume list`, and that this machine reaches the storage machine")
}
