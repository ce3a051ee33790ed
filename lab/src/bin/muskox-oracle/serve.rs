//! The loop: a line with a command, a line with what came of it.

use anyhow::Context;
use lab::interop::words::{Ask, OUTPUT_MAX, Said};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const OUT: &str = "/run/out";
const ERR: &str = "/run/err";
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Tools that would wait for udev, which does not run here, do without it. Sources: mdadm(8) ENVIRONMENT, lvm2's
/// `DM_DISABLE_UDEV` in libdm/libdm-common.c.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("LC_ALL", "C"),
    ("MDADM_NO_UDEV", "1"),
    ("DM_DISABLE_UDEV", "1"),
    ("LVM_SUPPRESS_FD_WARNINGS", "1"),
];

/// Obeys until the host is gone.
pub fn run(port: &Path) -> anyhow::Result<()> {
    let file =
        File::options().read(true).write(true).open(port).with_context(|| format!("opening {}", port.display()))?;
    let mut answers = file.try_clone()?;
    say(&mut answers, &Said::default())?;
    for line in BufReader::new(file).lines() {
        let line = line.context("reading from the host")?;
        let said = match serde_json::from_str::<Ask>(&line) {
            Ok(ask) => obey(&ask).unwrap_or_else(|error| failed(&error)),
            Err(error) => failed(&anyhow::Error::new(error).context("this is no command")),
        };
        say(&mut answers, &said)?;
    }
    Ok(())
}

fn failed(error: &anyhow::Error) -> Said {
    Said { status: 127, out: String::new(), err: format!("{error:#}\n") }
}

fn say(port: &mut File, said: &Said) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    port.write_all(&line).context("answering the host")
}

/// Output goes to files: what a command leaves behind in the background must not hold a pipe open.
fn obey(ask: &Ask) -> anyhow::Result<Said> {
    let (program, arguments) = ask.command.split_first().context("a command has no words")?;
    let create = |path: &str| File::create(path).with_context(|| format!("making {path}"));
    let mut command = Command::new(if program == "muskox-oracle" { "/proc/self/exe" } else { program });
    command
        .args(arguments)
        .env_clear()
        .envs(ENVIRONMENT)
        .stdin(Stdio::null())
        .stdout(create(OUT)?)
        .stderr(create(ERR)?);
    let mut child = command.spawn().with_context(|| format!("running {program}"))?;
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        }
        if begun.elapsed() > Duration::from_secs(ask.limit_secs) {
            child.kill()?;
            // One that waits for a disk in the kernel does not even die; it is left behind.
            break 128 + 9;
        }
        std::thread::sleep(LOOK_AGAIN);
    };
    Ok(Said { status, out: text(OUT)?, err: text(ERR)? })
}

fn text(path: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(OUTPUT_MAX as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
