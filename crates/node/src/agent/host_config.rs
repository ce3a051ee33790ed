//! `etc/muskox/host.toml`: which bridges this host keeps. A person may edit it; the node reads it again by itself.

use crate::root::{Root, write_public};
use crate::versions::toml_mistake;
use api::{Code, Problem};
use host::net::check_bridge;
use host::users::UserRange;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How many ranges are looked at for one that is nobody's.
const RANGES_TRIED: u32 = 4;
const USERS_HEAD: &str =
    "\n# Users that QEMUs and image tools run as, one each. They have no entry in /etc/passwd, and must not get one.\n";

/// What `host.toml` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConfig {
    /// The bridges.
    #[serde(default, rename = "bridge")]
    pub bridges: Vec<Bridge>,
    /// Numeric users of QEMUs and of the tools that read images; none: the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    users: Option<UsersConfig>,
}

/// A range of numeric users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsersConfig {
    first: u32,
    count: u32,
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
    /// The users that QEMUs and tools run as, one each.
    #[must_use]
    pub fn users(&self) -> UserRange {
        let given = |UsersConfig { first, count }| UserRange { first, count };
        self.users.map_or_else(UserRange::default, given)
    }

    /// Writes the users down where the file names none: the default, or the next range that has no entry in this machine's files.
    ///
    /// # Errors
    /// [`Code::Files`]; [`Code::NotPossible`]: no range is free.
    pub fn settle_users(root: &Root) -> Result<UserRange, Problem> {
        let path = root.below("etc/muskox/host.toml");
        let unread = |text| Problem::new(Code::Files, text, format!("correct '{}'", path.display()));
        let config = Self::load(&path).map_err(unread)?;
        if config.users.is_some() {
            let range = config.users();
            return range.check().map(|()| range).map_err(unread);
        }
        let UserRange { first, count } = UserRange::default();
        let wished = (0..RANGES_TRIED).map(|n| UserRange { first: first + n * count, count });
        for range in wished {
            let conflicts = range.conflicts().map_err(|error| unread(error.to_string()))?;
            if conflicts.is_empty() {
                let before = std::fs::read_to_string(&path).unwrap_or_default();
                let UserRange { first, count } = range;
                write_public(&path, &format!("{before}{USERS_HEAD}[users]\nfirst = {first}\ncount = {count}\n"))?;
                return Ok(range);
            }
        }
        let text = "no range of users is free of entries in /etc/passwd, /etc/group, /etc/subuid and /etc/subgid";
        let hint = format!("write [users] with first and count into '{}'", path.display());
        Err(Problem::new(Code::NotPossible, text, hint))
    }

    /// Reads it; no file is no bridges.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn load(path: &Path) -> Result<Self, String> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let wrong = |error| format!("'{}', {}", path.display(), toml_mistake(&text, &error));
                toml::from_str(&text).map_err(wrong)
            }
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

    /// Whether this machine could keep these bridges, as it is now; nothing is changed.
    ///
    /// # Errors
    /// [`Code::BadRequest`]: a port is missing, is somebody else's, or carries what this machine needs, by name.
    pub fn check_bridges(&self) -> Result<(), Problem> {
        let checked = self.bridges.iter().try_for_each(|bridge| check_bridge(&bridge.name, &bridge.ports));
        let hint = "give the bridge an interface of its own, or first make it yourself and move the addresses to it \
                    (docs/runbooks/node.md, Bridges); nothing was changed";
        checked.map_err(|error| Problem::new(Code::BadRequest, format!("--bridge: {error}"), hint))
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

    /// Goal: D15: what is wrong with the file is one line, with its number. Method: a torn line, a key that nobody knows.
    #[test]
    fn a_mistake_is_a_line_with_its_number() {
        let path = std::env::temp_dir().join(format!("muskox-host-config-{}", std::process::id()));
        for (text, what) in [("# bridges\n garbage = [\n", "line 2: "), ("[[bridge]]\nnaem = \"lan\"\n", "line 2: ")] {
            std::fs::write(&path, text).unwrap();
            let error = HostConfig::load(&path).unwrap_err();
            assert!(error.contains(what) && !error.contains('\n') && error.starts_with('\''), "{error:?}");
        }
        std::fs::remove_file(&path).unwrap();
    }

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

    /// Goal: CA3: the users of QEMUs are written down once, beside what a person wrote, and kept. Method: a file with a bridge and a
    /// comment; twice; then another range, and one that cannot be.
    #[test]
    fn users_are_settled_once() {
        let base = std::env::temp_dir().join(format!("muskox-users-{}", std::process::id()));
        let root = Root::new(&base);
        root.make_folders().unwrap();
        let path = root.below("etc/muskox/host.toml");
        std::fs::write(&path, "# mine\n[[bridge]]\nname = \"br0\"\n").unwrap();
        let settled = HostConfig::settle_users(&root).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# mine\n"), "{text}");
        let config = HostConfig::load(&path).unwrap();
        assert_eq!((config.users(), config.bridges.len()), (settled, 1));
        assert!(settled.conflicts().unwrap().is_empty());
        assert_eq!(HostConfig::settle_users(&root).unwrap(), settled);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        std::fs::write(&path, "[users]\nfirst = 300000\ncount = 5\n").unwrap();
        assert_eq!(HostConfig::settle_users(&root).unwrap(), UserRange { first: 300_000, count: 5 });
        std::fs::write(&path, "[users]\nfirst = 0\ncount = 5\n").unwrap();
        let refused = HostConfig::settle_users(&root).unwrap_err();
        assert!(refused.code == Code::Files && refused.text.contains("5 users from 0 on are no range"), "{refused:?}");
        std::fs::remove_dir_all(base).unwrap();
    }
}
