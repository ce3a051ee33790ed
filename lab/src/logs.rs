//! Logs of the programs that the lab starts.

use anyhow::Context;
use std::fs::File;
use std::path::Path;

/// How much of a program's log is shown when it went wrong.
const TAIL_LINES: usize = 20;

/// A log to go on with.
///
/// # Errors
/// When it cannot be opened.
pub fn open(path: &Path) -> anyhow::Result<File> {
    File::options().append(true).create(true).open(path).with_context(|| format!("opening {}", path.display()))
}

/// The end of a log.
pub fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
