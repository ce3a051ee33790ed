//! `etc/muskox/host.toml`: which bridges this host keeps. A person may edit it; the node reads it again by itself.

use crate::root::{Root, write_public};
use api::{Code, Problem};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What `host.toml` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// The bridges.
    #[serde(default, rename = "bridge")]
    pub bridges: Vec<Bridge>,
}

/// A bridge that guests are plugged into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bridge {
    /// Its name; the same on all hosts that a VM may move between.
    pub name: String,
    /// Interfaces of this machine that lie on it.
    #[serde(default)]
    pub ports: Vec<String>,
}

impl HostConfig {
    /// Reads it; no file is no bridges.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load(path: &Path) -> Result<Self, String> {
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(format!("'{}' cannot be read: {error}", path.display())),
        }
    }

    /// Writes it for a machine that is being set up; without bridges a file that is there stays.
    ///
    /// # Errors
    /// [`Code::Files`].
    pub fn save_if_any(&self, root: &Root) -> Result<(), Problem> {
        if self.bridges.is_empty() {
            return Ok(());
        }
        let head =
            "# Bridges that this host keeps; see docs/runbooks/node.md. Edit it; the node reads it again by itself.\n";
        let text = toml::to_string(self).expect("plain values are TOML");
        write_public(&root.below("etc/muskox/host.toml"), &format!("{head}{text}"))
    }

    /// Bridges as on the command line: `NAME` or `NAME=PORT`, a name again for another port.
    ///
    /// # Errors
    /// [`Code::BadRequest`].
    pub fn from_words(words: &[String]) -> Result<Self, Problem> {
        let mut this = Self::default();
        for word in words {
            let (name, port) = word.split_once('=').map_or((word.as_str(), None), |(name, port)| (name, Some(port)));
            for part in [Some(name), port].into_iter().flatten() {
                check_interface(part)?;
            }
            let at = this.bridges.iter().position(|bridge| bridge.name == name).unwrap_or_else(|| {
                this.bridges.push(Bridge { name: name.to_owned(), ports: Vec::new() });
                this.bridges.len() - 1
            });
            this.bridges[at].ports.extend(port.map(str::to_owned));
        }
        Ok(this)
    }
}

/// Source: the kernel's `dev_valid_name`, `net/core/dev.c`: at most 15 bytes, no slash, colon or space.
fn check_interface(name: &str) -> Result<(), Problem> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if (1..=15).contains(&name.len()) && !name.contains(bad) && name != "." && name != ".." {
        return Ok(());
    }
    let text = format!("'{name}' cannot be the name of a network interface");
    Err(Problem::new(Code::BadRequest, text, "write --bridge NAME=PORT, as in --bridge br0=eth1"))
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: words become bridges, a file is read as it was written. Method: two ports on one bridge, there and back.
    #[test]
    fn bridges_are_read_as_written() {
        let words = ["br0=eth1", "br1", "br0=eth2"].map(str::to_owned);
        let config = HostConfig::from_words(&words).unwrap();
        assert_eq!(config.bridges[0], Bridge { name: "br0".into(), ports: vec!["eth1".into(), "eth2".into()] });
        assert_eq!(config.bridges[1].ports, [""; 0]);
        assert_eq!(toml::from_str::<HostConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
        for bad in ["", "a=", "a/b", "a b=c", "x123456789012345"] {
            assert_eq!(HostConfig::from_words(&[bad.to_owned()]).unwrap_err().code, Code::BadRequest, "{bad}");
        }
        assert_eq!(HostConfig::load(Path::new("/nonexistent/host.toml")), Ok(HostConfig::default()));
    }
}
