//! The one place where benches start our own target: a pool of fresh images, one volume, granted to one host.

use super::servers::{Place, Server};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The volume, which is also the export's name: a stock client says no more.
const VOLUME: &str = "bench";
/// Room for superblock, bitmap, grants and LVM metadata beside the volume.
const METADATA_BYTES: u64 = 64 << 20;
/// A target that does not answer by then is broken.
const START_LIMIT: Duration = Duration::from_secs(20);
/// A new mirror of a bench's size is in sync long before.
const RESYNC_LIMIT: Duration = Duration::from_secs(300);

/// Our target with `members` in its pool, in plaintext on loopback. `None`, with a printed line, if the program has no target.
///
/// # Errors
/// When the target does not start, or refuses what a bench needs.
pub fn start(place: &Place<'_>, name: &'static str, members: usize, port: u16) -> anyhow::Result<Option<Server>> {
    let mut help = Command::new(place.program);
    help.args(["target", "--help"]).stdin(Stdio::null()).stderr(Stdio::null());
    if !help.output().is_ok_and(|done| done.status.success() && !done.stdout.is_empty()) {
        println!("{name}: skipped, {} has no target", place.program.display());
        return Ok(None);
    }
    let folder = place.folder.join(name.replace(' ', "-"));
    std::fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
    let images = (0..members).map(|member| image(place, &folder, member)).collect::<anyhow::Result<Vec<_>>>()?;
    let config = folder.join("target.toml");
    let socket = folder.join("control");
    std::fs::write(&config, configuration(&folder, &socket, port))?;
    let arguments = ["target", "--config", &config.display().to_string()].map(str::to_owned);
    let server = Server::spawn(place, name, port, VOLUME, place.program, &arguments)?;

    let begun = Instant::now();
    while !socket.exists() {
        anyhow::ensure!(begun.elapsed() < START_LIMIT, "{name} has no control socket after {START_LIMIT:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let ctl = |arguments: &[&str]| ctl(place.program, &socket, arguments);
    let images: Vec<String> = images.iter().map(|image| image.display().to_string()).collect();
    let single: &[&str] = if images.len() == 1 { &["--single"] } else { &[] };
    let disks: Vec<&str> = images.iter().map(String::as_str).collect();
    ctl(&[&["pool", "create", "pool"], &disks[..], single].concat())?;
    ctl(&["volume", "create", "pool", VOLUME, &place.image_bytes.to_string()])?;
    // A new volume is zeroed first, and grants nothing until then.
    while let Err(refusal) = ctl(&["grant", "raise", VOLUME, "1", "--owner", &identity()]) {
        anyhow::ensure!(begun.elapsed() < RESYNC_LIMIT, "{name} does not grant its volume: {refusal}");
        std::thread::sleep(Duration::from_millis(100));
    }
    wait_for_sync(&ctl)?;
    Ok(Some(server))
}

/// A resync beside the load would be measured with it.
fn wait_for_sync(ctl: &impl Fn(&[&str]) -> anyhow::Result<String>) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let status: serde_json::Value = serde_json::from_str(&ctl(&["--json", "pool", "show", "pool"])?)?;
        if !resyncs(&status) {
            return Ok(());
        }
        anyhow::ensure!(begun.elapsed() < RESYNC_LIMIT, "the new mirror is not in sync after {RESYNC_LIMIT:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Whether a `resync` that is not null stands anywhere in the reply.
fn resyncs(reply: &serde_json::Value) -> bool {
    match reply {
        serde_json::Value::Object(fields) => {
            fields.get("resync").is_some_and(|work| !work.is_null()) || fields.values().any(resyncs)
        }
        serde_json::Value::Array(values) => values.iter().any(resyncs),
        _ => false,
    }
}

fn image(place: &Place<'_>, folder: &Path, member: usize) -> anyhow::Result<PathBuf> {
    let path = folder.join(format!("member{member}.img"));
    std::fs::File::create(&path)?.set_len(place.image_bytes + METADATA_BYTES)?;
    Ok(path)
}

fn configuration(folder: &Path, socket: &Path, port: u16) -> String {
    let state = folder.join("state");
    let (socket, state) = (socket.display(), state.display());
    let identity = identity();
    format!(
        "control = \"{socket}\"\nstate_dir = \"{state}\"\n\n\
         [[listen]]\nnbd = \"127.0.0.1:{port}\"\nplaintext = true\nidentity = \"{identity}\"\n"
    )
}

/// Who the bench is: 64 hexadecimal digits of its choice.
fn identity() -> String {
    "be".repeat(32)
}

fn ctl(program: &Path, socket: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.arg("ctl").arg("--socket").arg(socket).args(arguments).stdin(Stdio::null());
    let done = command.output().context("running muskox ctl")?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    anyhow::ensure!(
        done.status.success(),
        "muskox ctl {}: {said}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(said)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_resync_is_seen_wherever_it_stands() {
        let check = |text: &str, expect| assert_eq!(resyncs(&serde_json::from_str(text).unwrap()), expect, "{text}");
        check(r#"{"pool":{"resync":{"done":1}}}"#, true);
        check(r#"[{"name":"a","resync":null}]"#, false);
        check(r#"{"resync":null,"members":[{"resync":{"left_ms":5}}]}"#, true);
    }
}
