//! What is said to the oracle guest's first process and what it answers: JSON lines over a virtio serial port. One command at
//! a time.

use serde::{Deserialize, Serialize};

/// The port's name, on QEMU's command line and in the guest's `/sys/class/virtio-ports`.
pub const PORT: &str = "oracle";
/// More of what a command prints is cut off.
pub const OUTPUT_MAX: usize = 1 << 20;

/// A command to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// It is killed after this.
    pub limit_secs: u64,
}

/// What became of it; said once more at the begin, when the guest is ready, with status 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// The exit status; a signal counts 128 and its number, as in a shell. 127: it could not be run.
    pub status: i32,
    /// What it printed.
    pub out: String,
    /// What it complained.
    pub err: String,
}

impl Said {
    /// Whether it ended well.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.status == 0
    }

    /// All its words.
    #[must_use]
    pub fn words(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// The number behind `key=` in what it printed.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.out.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: figures are read out of a command's words. Method: some words.
    #[test]
    fn figures_are_found() {
        let said = Said { status: 0, out: "mismatch_cnt=2048\nlast=check x=y\n".into(), err: String::new() };
        assert_eq!(said.number("mismatch_cnt"), Some(2048));
        assert_eq!((said.number("x"), said.number("mismatch")), (None, None));
    }
}
