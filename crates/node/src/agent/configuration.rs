//! The configuration of a process that the node keeps: the very program that will read it tries it before it takes the
//! place of what is there.
//!
//! Invariant: what is refused replaces nothing and ends nothing. The refused text stays beside the file, to be looked at.

use super::place::Place;
use crate::root::{read_text, write_public, write_secret};
use api::{Code, Problem};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Reading a configuration and a certificate takes milliseconds; a program that has to come from a busy disk takes longer.
const TRY_MAX: Duration = Duration::from_secs(10);
/// How often it is looked whether it has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// What is read of a refusal.
const SAID_MAX_BYTES: u64 = 4_000;

/// A process's configuration file.
pub struct Configuration {
    /// The role that reads it: `target`, `initiator` or `deadman`.
    pub role: &'static str,
    /// Where it is.
    pub file: PathBuf,
    /// Whether it is for its owner only.
    pub secret: bool,
}

impl Configuration {
    /// Replaces the file with this text, if that says something else and would be accepted; whether it was replaced.
    ///
    /// # Errors
    /// [`Code::Files`]; [`Code::BadRequest`]: the process would refuse it, and why. The file is as it was.
    pub async fn replace(&self, place: &Place, text: &str) -> Result<bool, Problem> {
        let offered = self.offered();
        if read_text(&self.file).is_ok_and(|held| held == text) {
            // Refused was something else, of which nobody speaks any more.
            let _ = std::fs::remove_file(offered);
            return Ok(false);
        }
        self.write(&offered, text)?;
        self.check(place, &offered).await?;
        // Whole and durable, as everything of a node.
        self.write(&self.file, text)?;
        let _ = std::fs::remove_file(offered);
        Ok(true)
    }

    /// Whether the process would start with the file as it is.
    ///
    /// # Errors
    /// [`Code::BadRequest`]: it would not, and why; [`Code::Failed`]: that cannot be found out.
    pub async fn is_accepted(&self, place: &Place) -> Result<(), Problem> {
        self.check(place, &self.file).await
    }

    async fn check(&self, place: &Place, file: &Path) -> Result<(), Problem> {
        let mut command = Command::new(&place.program);
        command.arg(self.role).arg("--config").arg(file).arg("--check");
        let asked = tokio::task::spawn_blocking(move || ask(command)).await;
        let unknown = |why: String| {
            let text = format!("whether '{}' would be accepted cannot be found out: {why}", file.display());
            Problem::new(Code::Failed, text, "see whether this machine has memory and processes left")
        };
        match asked {
            Ok(Ok((status, _))) if status.success() => Ok(()),
            Ok(Ok((status, said))) => Err(self.refusal(status, &said)),
            Ok(Err(error)) => Err(unknown(error.to_string())),
            Err(error) => Err(unknown(error.to_string())),
        }
    }

    /// What the process said of it, in its own words.
    fn refusal(&self, status: ExitStatus, said: &str) -> Problem {
        let after = |word: &str| said.lines().find_map(|line| line.trim().strip_prefix(word)).map(str::trim);
        let why = after("error:").map_or_else(|| format!("{status}, {}", said.trim()), str::to_owned);
        let text = format!("a new configuration of the {} is refused, the old one stays in use: {why}", self.role);
        Problem::new(Code::BadRequest, text, after("hint:").unwrap_or("see the file that it names"))
    }

    fn offered(&self) -> PathBuf {
        self.file.with_extension("toml.refused")
    }

    fn write(&self, file: &Path, text: &str) -> Result<(), Problem> {
        if self.secret { write_secret(file, text) } else { write_public(file, text) }
    }
}

/// Runs a short command to its end, at most for [`TRY_MAX`]; how it ended, and what it complained.
fn ask(mut command: Command) -> io::Result<(ExitStatus, String)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let begun = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if begun.elapsed() < TRY_MAX => std::thread::sleep(LOOK_AGAIN),
            None => {
                // Not waited for: one that hangs in a disk ends when the disk does.
                child.kill()?;
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {} s", TRY_MAX.as_secs()),
                ));
            }
        }
    };
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr {
        stderr.take(SAID_MAX_BYTES).read_to_end(&mut said)?;
    }
    Ok((status, String::from_utf8_lossy(&said).into_owned()))
}
