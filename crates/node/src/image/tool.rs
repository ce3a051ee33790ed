//! `qemu-img` in its sandbox: it gets the image as an open file, and the way to one volume.

use super::header::Format;
use api::{Code, Problem};
use host::sandbox::{Confined, Confinement, Finished, Limits};
use serde::Deserialize;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;
use units::{SECTOR_BYTES, VolumeName};

const PROGRAM: &str = "qemu-img";
/// Where the sandbox looks for it.
const PATHS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// The image, as the tool opens it: its standard input, so neither its path nor what lies there can be exchanged.
const IMAGE: &str = "/dev/fd/0";
/// Threads' stacks and arenas in address space, a few caches; what it really uses is tens of megabytes.
const MEMORY_MAX_BYTES: u64 = 4 << 30;
/// Looking is done in milliseconds; an image that makes it longer is not meant well.
const LOOK_CPU_S: u64 = 10;
const LOOK_MAX: Duration = Duration::from_secs(20);
/// Unpacking is at least this fast: an image that takes more processor time is not meant well.
const COPY_CPU_S: u64 = 60;
const COPY_BYTES_A_CPU_SECOND: u64 = 8 << 20;
/// A tool's complaint, for people.
const COMPLAINT_MAX_CHARS: usize = 300;

/// What `qemu-img info` says, as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Info {
    virtual_size: u64,
    format: String,
    #[serde(default)]
    encrypted: bool,
    backing_filename: Option<String>,
    #[serde(default)]
    format_specific: Value,
}

/// How long the disk in a qcow2 image is.
///
/// # Errors
/// [`Code::BadRequest`]: it leads to other files, or cannot be read; [`Code::NotPossible`]: there is no tool.
pub async fn look(image: &File, user: Option<u32>) -> Result<u64, Problem> {
    let arguments = ["info", "--output=json", "-U", "-f", "qcow2", IMAGE].map(OsStr::new);
    let limits = Limits { memory_bytes: MEMORY_MAX_BYTES, cpu_s: LOOK_CPU_S };
    let tool = start(&arguments, image, limits, Confinement { user, folder: None })?;
    let late = || {
        let text = format!("{PROGRAM} has not understood the image within {} s", LOOK_MAX.as_secs());
        Problem::new(Code::BadRequest, text, "fetch it again and compare its checksum")
    };
    let looked = tokio::time::timeout(LOOK_MAX, tool.finish(|_| {})).await.map_err(|_| late())?;
    let looked = looked.map_err(|error| system(&error))?;
    let unread = |what: &str| {
        let hint = "fetch it again and compare its checksum";
        Problem::new(Code::BadRequest, format!("the image cannot be read as qcow2: {what}"), hint)
    };
    if !looked.status.success() {
        return Err(unread(&complaint(&looked)));
    }
    let info: Info = serde_json::from_slice(&looked.output).map_err(|error| unread(&error.to_string()))?;
    // The header said so already; what the tool says is the second opinion.
    let elsewhere = info.backing_filename.is_some() || !info.format_specific["data"]["data-file"].is_null();
    if elsewhere || info.encrypted || info.format != "qcow2" {
        return Err(unread("it is encrypted, or leads to other files"));
    }
    Ok(info.virtual_size)
}

/// What `qemu-img check` found.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Checked {
    #[serde(default)]
    corruptions: u64,
    check_errors: u64,
}

/// Refuses a qcow2 image that is torn: what its tables lead to and the file does not have would be read as zeroes, and the
/// copy would end well. (A loss of less than the last cluster is not noticed: whole files end there too.)
///
/// # Errors
/// [`Code::BadRequest`].
pub async fn check(image: &File, size: u64, user: Option<u32>) -> Result<(), Problem> {
    let arguments = ["check", "--output=json", "-U", "-f", "qcow2", IMAGE].map(OsStr::new);
    let tool = start(&arguments, image, copy_limits(size), Confinement { user, folder: None })?;
    let done = tool.finish(|_| {}).await.map_err(|error| system(&error))?;
    let wrong = |what: &str| {
        let hint = "fetch it again and compare its checksum";
        Problem::new(Code::BadRequest, format!("the image is damaged: {what}; nothing was copied"), hint)
    };
    // Unused space (status 3) is no damage. Source: qemu-img(1), "check".
    let found: Checked = serde_json::from_slice(&done.output).map_err(|_| wrong(&complaint(&done)))?;
    if found.check_errors == 0 && found.corruptions == 0 {
        return Ok(());
    }
    let (corruptions, errors) = (found.corruptions, found.check_errors);
    Err(wrong(&format!("{corruptions} clusters are missing or in use twice, {errors} tables cannot be read")))
}

fn copy_limits(size: u64) -> Limits {
    let cpu_s = COPY_CPU_S.saturating_add(size / COPY_BYTES_A_CPU_SECOND);
    Limits { memory_bytes: MEMORY_MAX_BYTES, cpu_s }
}

/// A copy to be made.
pub struct Copy<'a> {
    /// From this file.
    pub image: &'a File,
    /// In this form.
    pub format: Format,
    /// So long is the disk in it.
    pub size: u64,
    /// Into this volume.
    pub volume: &'a VolumeName,
    /// So long is that.
    pub volume_size: u64,
    /// Where it is served: in this folder, under this name.
    pub socket: (&'a Path, &'a str),
    /// Who the tool is.
    pub user: Option<u32>,
    /// It holds nothing but zeroes.
    pub zeroed: bool,
}

impl Copy<'_> {
    /// Makes it; `heard` is told the part that is done, from 0 to 1.
    ///
    /// # Errors
    /// [`Code::Failed`] with what the tool complained.
    pub async fn run(&self, heard: impl FnMut(f64)) -> Result<(), Problem> {
        // "backing": null: whatever the file says by now, no other one is opened.
        let file = json!({"driver": "file", "filename": IMAGE});
        let from = match self.format {
            Format::Raw => json!({"driver": "raw", "file": file}),
            Format::Qcow2 => json!({"driver": "qcow2", "backing": null, "file": file}),
        };
        self.convert(&from, &json!({"driver": "raw", "file": self.target()}), heard).await?;
        let rest = self.volume_size.saturating_sub(self.end());
        if self.zeroed || rest == 0 {
            return Ok(());
        }
        // What the volume held behind the image's end, a table of partitions perhaps, is not the new disk's.
        let zeroes = json!({"driver": "null-co", "read-zeroes": true, "size": rest});
        let behind = json!({"driver": "raw", "offset": self.end(), "size": rest, "file": self.target()});
        self.convert(&zeroes, &behind, |_| {}).await
    }

    /// The tool fills the last sector with zeroes.
    fn end(&self) -> u64 {
        self.size.next_multiple_of(SECTOR_BYTES)
    }

    fn target(&self) -> Value {
        let server = json!({"type": "unix", "path": self.socket.1});
        json!({"driver": "nbd", "server": server, "export": self.volume.as_str()})
    }

    async fn convert(&self, from: &Value, to: &Value, mut heard: impl FnMut(f64)) -> Result<(), Problem> {
        let (from, to) = (format!("json:{from}"), format!("json:{to}"));
        // Without -t writeback the tool flushes nothing.
        let mut arguments = vec!["convert", "-p", "-n", "-t", "writeback", "-O", "raw"];
        if self.zeroed {
            arguments.push("--target-is-zero");
        }
        arguments.extend([from.as_str(), to.as_str()]);
        let arguments: Vec<&OsStr> = arguments.into_iter().map(OsStr::new).collect();
        let own = Confinement { user: self.user, folder: Some(self.socket.0) };
        let tool = start(&arguments, self.image, copy_limits(self.volume_size.max(self.size)), own)?;
        let done = tool.finish(|new| part_done(new).into_iter().for_each(&mut heard)).await;
        let done = done.map_err(|error| system(&error))?;
        if done.status.success() {
            return Ok(());
        }
        let text = format!("{PROGRAM} did not finish ({}): {}", done.status, complaint(&done));
        Err(Problem::new(Code::Failed, text, "the volume holds a part of the image: import it again"))
    }
}

/// Whether there is a tool on this machine.
///
/// # Errors
/// [`Code::NotPossible`] with its package's name.
pub fn find() -> Result<(), Problem> {
    if PATHS.iter().any(|folder| Path::new(folder).join(PROGRAM).is_file()) { Ok(()) } else { Err(missing()) }
}

fn missing() -> Problem {
    let hint = "install it: package qemu-utils (Debian, Ubuntu), qemu-img (Fedora, RHEL, Alpine), qemu-tools (SUSE)";
    Problem::new(
        Code::NotPossible,
        format!("there is no {PROGRAM} on this machine: no image can be imported here"),
        hint,
    )
}

fn start(
    arguments: &[&OsStr],
    image: &File,
    limits: Limits,
    confinement: Confinement<'_>,
) -> Result<Confined, Problem> {
    let image = image.try_clone().map_err(|error| system(&error))?;
    Confined::start(PROGRAM, arguments, image, limits, confinement).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => missing(),
        _ => system(&error),
    })
}

fn system(error: &io::Error) -> Problem {
    Problem::new(Code::Failed, format!("{PROGRAM} cannot be run: {error}"), "see the node's log and `ulimit -a`")
}

fn complaint(finished: &Finished) -> String {
    let last = finished.errors.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    // The tool knows the image by this name only, and nobody else does.
    let named = last.trim_start_matches("qemu-img: ").replace(IMAGE, "the image");
    let plain = named.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(COMPLAINT_MAX_CHARS).collect()
}

/// The newest of `    (12.34/100%)\r`.
fn part_done(printed: &[u8]) -> Option<f64> {
    let text = String::from_utf8_lossy(printed);
    let number = text.rsplit_once("/100%)")?.0.rsplit_once('(')?.1;
    number.trim().parse::<f64>().ok().map(|percent| (percent / 100.0).clamp(0.0, 1.0))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn progress_is_read_from_what_is_printed() {
        assert_eq!(part_done(b"    (0.00/100%)\r    (50.00/100%)\r"), Some(0.5));
        assert_eq!(part_done(b"(100.00/100%)\r\n"), Some(1.0));
        for torn in [&b""[..], b"    (50.0", b"/100%)", b"(x/100%)", b"\xff\xfe"] {
            assert_eq!(part_done(torn), None);
        }
    }
}
