//! The control socket: one JSON command a line, one JSON answer a line. A command for `disk` absent means every disk.

use super::disk::Counters;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Which operations a fault is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// Reads.
    Reads,
    /// Writes and zeroing.
    Writes,
    /// Flushes.
    Flush,
    /// Everything.
    #[default]
    All,
}

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Operations fail with EIO.
    Eio {
        /// Which disk.
        disk: Option<usize>,
        /// Which operations.
        #[serde(default)]
        on: On,
        /// How many times; always if absent.
        count: Option<u64>,
        /// Only where they touch this first byte and length.
        range: Option<(u64, u64)>,
    },
    /// Operations wait for a release.
    Hang {
        /// Which disk.
        disk: Option<usize>,
        /// Which operations.
        #[serde(default)]
        on: On,
    },
    /// Held operations go on, in their order.
    Release {
        /// Which disk.
        disk: Option<usize>,
    },
    /// The disk is pulled: its name is gone, open handles answer ENODEV for ever.
    Vanish {
        /// Which disk.
        disk: Option<usize>,
    },
    /// The disk is plugged in again.
    Return {
        /// Which disk.
        disk: Option<usize>,
        /// With the content of this snapshot.
        stale: Option<String>,
    },
    /// Keeps the content a reader sees now.
    Snapshot {
        /// Which disk.
        disk: Option<usize>,
        /// Under this name.
        name: String,
    },
    /// Loses every un-flushed write; open handles answer ENODEV for ever.
    PowerCut {
        /// Which disk.
        disk: Option<usize>,
        /// Lets a random part of the un-flushed sectors survive.
        seed: Option<u64>,
    },
    /// Delays writes that carry this tag at the start of a sector.
    Delay {
        /// Which disk.
        disk: Option<usize>,
        /// 16 bytes in hexadecimal.
        tag: String,
        /// How long; zero ends it.
        ms: u64,
    },
    /// Logs the stamps that begin with this tag.
    Watch {
        /// 16 bytes in hexadecimal.
        tag: String,
    },
    /// Delays every rogue-stamped write on every disk so long; zero ends it. Needs disks started with `--applied`.
    DelayStamped {
        /// How long.
        ms: u64,
    },
    /// Ends errors, hangs and delays; not the delay of stamped writes, which is no fault but a measuring device.
    Heal {
        /// Which disk.
        disk: Option<usize>,
    },
    /// Tells what happened so far.
    Status,
}

/// What is answered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it was done.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// For `status`, one a disk.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub disks: Vec<DiskStatus>,
}

/// What a disk tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Whether it is plugged in.
    pub present: bool,
    /// How many sectors would be lost now.
    pub volatile_sectors: usize,
    /// How many operations wait for a release now.
    pub waiting: usize,
    /// What happened so far.
    #[serde(flatten)]
    pub counters: Counters,
}

/// A connection to the control socket of `lab disks`.
pub struct Control(BufReader<UnixStream>);

impl Control {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// When it was refused, with the reason, or the connection broke.
    pub fn send(&mut self, command: &Command) -> anyhow::Result<Answer> {
        self.send_text(&serde_json::to_string(command)?)
    }

    /// The same for a command that is JSON already.
    ///
    /// # Errors
    /// When it was refused, with the reason, or the connection broke.
    pub fn send_text(&mut self, command: &str) -> anyhow::Result<Answer> {
        self.0.get_mut().write_all(format!("{}\n", command.trim()).as_bytes())?;
        let mut line = String::new();
        anyhow::ensure!(self.0.read_line(&mut line)? > 0, "the lab's disks are gone");
        let answer: Answer = serde_json::from_str(&line)?;
        match answer.error {
            None => Ok(answer),
            Some(error) => anyhow::bail!("{error}"),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn commands_read_as_people_write_them() {
        let good = |text: &str| assert!(serde_json::from_str::<Command>(text).is_ok(), "{text}");
        good(r#"{"do":"eio","disk":0,"on":"writes","count":3,"range":[0,4096]}"#);
        good(r#"{"do":"eio"}"#);
        good(r#"{"do":"power_cut","seed":7}"#);
        good(r#"{"do":"return","disk":1,"stale":"before"}"#);
        good(r#"{"do":"status"}"#);
        let bad = |text: &str| assert!(serde_json::from_str::<Command>(text).is_err(), "{text}");
        bad(r#"{"do":"explode"}"#);
        bad(r#"{"do":"eio","dsik":0}"#);
        bad(r#"{"do":"snapshot"}"#);
    }
}
