//! The NoCloud seed: a small disk by which a guest learns its name and who may log in.
//!
//! Source: cloud-init, "NoCloud" data source: a FAT or ISO 9660 file system labelled CIDATA with `meta-data`,
//! `user-data` and, if wanted, `network-config`. It is a disk that every guest may read: nothing secret belongs there.

use super::VmError;
use super::fat::floppy;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

/// A line of `authorized_keys`: an RSA key of 16384 bits has about 2800 characters.
const KEY_MAX: usize = 8192;
/// Keys in a seed.
const KEYS_MAX: usize = 64;

/// What a guest is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// When it changes, the guest takes itself for a new one. The machine's UUID.
    pub instance_id: String,
    /// The guest's host name (RFC 1123).
    pub hostname: String,
    /// Lines of `authorized_keys` of the guest's first user.
    pub ssh_keys: Vec<String>,
    /// The whole of `user-data`, if there is more to be done than the name and the keys, which go to `meta-data` then.
    pub user_data: Option<String>,
    /// The whole of `network-config`, if the guest is not to use DHCP.
    pub network_config: Option<String>,
    /// More files: name and text.
    pub files: Vec<(String, String)>,
}

impl Seed {
    /// The disk's bytes; the same seed gives the same bytes.
    ///
    /// # Errors
    /// If a name or a key cannot be, or there are too many.
    pub fn image(&self) -> Result<Vec<u8>, VmError> {
        let refuse = |what: String| Err(VmError::Description { what });
        if !is_hostname(&self.hostname) {
            return refuse(format!("'{}' is not a host name (letters, digits, dots and hyphens)", self.hostname));
        }
        if !is_plain(&self.instance_id, 64) || self.instance_id.contains([' ', '"', '\\']) {
            return refuse(format!("'{}' is no instance id", self.instance_id));
        }
        if let Some(key) = self.ssh_keys.iter().find(|key| !is_plain(key, KEY_MAX) || !key.contains(' ')) {
            return refuse(format!("'{key:.40}' is no line of authorized_keys"));
        }
        if self.ssh_keys.len() > KEYS_MAX {
            return refuse(format!("{} SSH keys: {KEYS_MAX} are possible", self.ssh_keys.len()));
        }
        let own = |name: &str| ["meta-data", "user-data", "network-config"].contains(&name);
        if let Some((name, _)) = self.files.iter().find(|(name, _)| !is_file_name(name) || own(name)) {
            return refuse(format!("'{name:.40}' cannot be the name of a seed's file"));
        }
        let (meta, user) = (self.meta_data(), self.user_data());
        let mut files = vec![("meta-data", meta.as_bytes()), ("user-data", user.as_bytes())];
        files.extend(self.network_config.as_ref().map(|text| ("network-config", text.as_bytes())));
        files.extend(self.files.iter().map(|(name, text)| (name.as_str(), text.as_bytes())));
        let volume_id = crc32(self.instance_id.as_bytes());
        let too_large = || VmError::Description { what: "the seed does not fit 1.4 MB".into() };
        floppy("CIDATA", volume_id, &files).ok_or_else(too_large)
    }

    /// Writes the disk to `path`, whole or not at all. It is for QEMU to read: not for its user to own.
    ///
    /// # Errors
    /// If it cannot be, or the disk refuses.
    pub fn write(&self, path: &Path) -> Result<(), VmError> {
        let image = self.image()?;
        let new = path.with_extension("new");
        let _ = std::fs::remove_file(&new);
        // In a folder of QEMU's user: `create_new` opens nothing that is there, and follows no link.
        let written = OpenOptions::new().write(true).create_new(true).open(&new).and_then(|mut file| {
            file.write_all(&image)?;
            file.sync_all()
        });
        let placed: io::Result<()> = written.and_then(|()| std::fs::rename(&new, path));
        placed.map_err(|source| VmError::io(format!("writing the seed {}", path.display()), source))
    }

    fn meta_data(&self) -> String {
        let mut text = format!("instance-id: \"{}\"\nlocal-hostname: {}\n", self.instance_id, self.hostname);
        if self.user_data.is_some() && !self.ssh_keys.is_empty() {
            text += &format!("public-keys:\n{}", self.keys());
        }
        text
    }

    fn user_data(&self) -> String {
        if let Some(text) = &self.user_data {
            return text.clone();
        }
        let mut text = format!("#cloud-config\nhostname: {}\n", self.hostname);
        if !self.ssh_keys.is_empty() {
            text += &format!("ssh_authorized_keys:\n{}", self.keys());
        }
        text
    }

    fn keys(&self) -> String {
        // YAML's double quotes know the two escapes that plain ASCII needs.
        let line = |key: &String| format!("  - \"{}\"\n", key.replace('\\', "\\\\").replace('"', "\\\""));
        self.ssh_keys.iter().map(line).collect()
    }
}

fn is_hostname(name: &str) -> bool {
    let label = |label: &str| {
        let fine = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (1..=63).contains(&label.len()) && fine && !label.starts_with('-') && !label.ends_with('-')
    };
    // A name of digits only would be a number to YAML.
    name.len() <= 253 && name.split('.').all(label) && name.bytes().any(|byte| byte.is_ascii_alphabetic())
}

/// What a floppy of ours can hold: see `fat`.
fn is_file_name(name: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    (1..=26).contains(&name.len()) && name.bytes().all(fine)
}

/// One line of printable ASCII.
fn is_plain(text: &str, len_max: usize) -> bool {
    (1..=len_max).contains(&text.len()) && text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

/// CRC-32 (IEEE 802.3), bit by bit: it only has to differ between machines.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
    !bytes.iter().fold(!0, |crc: u32, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod test {
    use super::*;

    fn seed() -> Seed {
        Seed {
            instance_id: "4f7c9e3a-8d51-4c0e-9f00-0123456789ab".into(),
            hostname: "web1".into(),
            ssh_keys: vec!["ssh-ed25519 AAAAC3Nz me@\"home\"".into()],
            user_data: None,
            network_config: None,
            files: Vec::new(),
        }
    }

    /// Goal: cloud-init's two files read as YAML has them. Method: exact texts.
    #[test]
    fn the_files_are_yaml() {
        let seed = seed();
        assert_eq!(seed.meta_data(), "instance-id: \"4f7c9e3a-8d51-4c0e-9f00-0123456789ab\"\nlocal-hostname: web1\n");
        assert_eq!(
            seed.user_data(),
            "#cloud-config\nhostname: web1\nssh_authorized_keys:\n  - \"ssh-ed25519 AAAAC3Nz me@\\\"home\\\"\"\n"
        );
        assert_eq!(seed.image().unwrap().len(), 1_474_560);
    }

    /// Goal: a user's own `user-data` is passed on as it is, and the keys are not lost by it. Method: exact texts.
    #[test]
    fn own_user_data_leaves_the_keys() {
        let seed = Seed { user_data: Some("#!/bin/sh\n".into()), files: vec![("x".into(), "y".into())], ..seed() };
        assert_eq!(seed.user_data(), "#!/bin/sh\n");
        assert!(seed.meta_data().ends_with("web1\npublic-keys:\n  - \"ssh-ed25519 AAAAC3Nz me@\\\"home\\\"\"\n"));
        seed.image().unwrap();
    }

    /// Goal: nothing a user gives becomes YAML of its own. Method: a table.
    #[test]
    fn what_is_no_name_and_no_key_is_refused() {
        let check = |spoil: fn(&mut Seed)| {
            let mut seed = seed();
            spoil(&mut seed);
            assert!(matches!(seed.image(), Err(VmError::Description { .. })), "{seed:?}");
        };
        for name in ["", "a b", "a\nruncmd: x", "-a", "a-", "a..b", "1234", "web_1"] {
            assert!(!is_hostname(name), "{name}");
        }
        check(|seed| seed.hostname = "a: b".into());
        check(|seed| seed.instance_id = "a\"b".into());
        check(|seed| seed.ssh_keys = vec!["ssh-rsa A\nruncmd: [x]".into()]);
        check(|seed| seed.ssh_keys = vec!["nospace".into()]);
        check(|seed| seed.ssh_keys = vec!["a b".into(); 65]);
        check(|seed| seed.files = vec![("user-data".into(), String::new())]);
        check(|seed| seed.files = vec![("../x".into(), String::new())]);
        check(|seed| seed.network_config = Some("x".repeat(2 << 20)));
    }
}
