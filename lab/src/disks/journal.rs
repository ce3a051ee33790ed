//! The disks' own log: every write, flush and zeroing as it came and as it was answered, by the lab's clock
//! (`CLOCK_BOOTTIME`, nanoseconds). It is the referee's evidence of what reached a disk when, whoever lives or dies, so
//! each line is written at once, without a buffer in this process.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

/// How long a stamp is: the tag somebody watches for, and the 16 bytes behind it, whatever they say.
pub const TAG_BYTES: usize = 16;
const STAMP_BYTES: usize = 2 * TAG_BYTES;

/// One line of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// When, in nanoseconds of `CLOCK_BOOTTIME`.
    pub t_ns: u64,
    /// Which disk.
    pub disk: usize,
    /// Which operation; received and answered lines share it.
    pub id: u64,
    /// `received`, `applied` (the disk has it) or `failed`; `power_cut` and `vanished` have no operation.
    pub event: String,
    /// `write`, `flush` or `zero`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub what: Option<String>,
    /// Where it begins, in bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub at: Option<u64>,
    /// How long it is, in bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub len: Option<u64>,
    /// Whether it had to be durable when answered.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fua: Option<bool>,
    /// The watched stamps it carries, in hexadecimal.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub stamps: Vec<String>,
}

/// The log file.
pub struct Journal(Mutex<File>);

impl Journal {
    /// Opens it for appending.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self(Mutex::new(File::options().append(true).create(true).open(path)?)))
    }

    /// Appends a line, stamped with the moment under the lock, so that the order in the file is the order in time.
    ///
    /// # Panics
    /// When the log cannot be written: a lab without evidence proves nothing.
    pub fn write(&self, mut line: Line) {
        let mut file = self.0.lock().expect("no panic under this lock");
        line.t_ns = now_ns();
        let mut text = serde_json::to_vec(&line).expect("a line has no maps");
        text.push(b'\n');
        file.write_all(&text).expect("the disks' log can be written");
    }
}

/// Now, in nanoseconds of `CLOCK_BOOTTIME`.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let part = |number: i64| u64::try_from(number).expect("the boot clock is never negative");
    part(now.tv_sec) * 1_000_000_000 + part(now.tv_nsec)
}

/// A tag in hexadecimal, as commands carry it.
///
/// # Errors
/// When it is not 16 bytes of hexadecimal.
pub fn parse_tag(text: &str) -> anyhow::Result<[u8; TAG_BYTES]> {
    anyhow::ensure!(text.len() == 2 * TAG_BYTES && text.is_ascii(), "a tag is {} hexadecimal digits", 2 * TAG_BYTES);
    let mut tag = [0; TAG_BYTES];
    for (byte, at) in tag.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16)?;
    }
    Ok(tag)
}

/// The stamps in `data`: a watched tag at the start of a 512-byte sector, and what follows it.
/// Who stamps writes whole sectors, so nothing else needs to be searched.
pub fn stamps(data: &[u8], tags: &[[u8; TAG_BYTES]]) -> Vec<String> {
    if tags.is_empty() {
        return Vec::new();
    }
    let tagged = data.chunks(512).filter(|sector| tags.iter().any(|tag| sector.starts_with(tag)));
    tagged.map(|sector| hex(&sector[..STAMP_BYTES.min(sector.len())])).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn stamps_are_found_at_sectors() {
        let tag = parse_tag("000102030405060708090a0b0c0d0e0f").unwrap();
        let mut data = vec![0xEE; 1536];
        data[512..528].copy_from_slice(&tag);
        data[256..272].copy_from_slice(&tag);
        assert_eq!(stamps(&data, &[tag]), [format!("000102030405060708090a0b0c0d0e0f{}", "ee".repeat(16))]);
        assert!(stamps(&data, &[]).is_empty());
        assert!(parse_tag("00").is_err());
        assert!(parse_tag(&"zz".repeat(16)).is_err());
    }
}
