//! The NoCloud seed: a small disk by which a guest learns its name and who may log in.
//!
//! Source: cloud-init, "NoCloud" data source: a FAT or ISO 9660 file system labelled CIDATA with `meta-data`,
//! `user-data` and, if wanted, `network-config`. It is a disk that every guest may read: nothing secret belongs there.

use super::VmError;
use super::description::{self, FILES_MAX, KEYS_MAX, Wrong};
use super::fat::floppy;
use crate::replace::{Outlives, replace};
use std::path::Path;

/// Of the file: for QEMU's user to read.
const READABLE: u32 = 0o644;
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
        self.check()?;
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
        let written = replace(path, &image, READABLE, Outlives::PowerLoss);
        written.map_err(|source| VmError::io(format!("writing the seed {}", path.display()), source))
    }

    /// Whether there can be such a seed.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), VmError> {
        let refuse = |what: String| Err(VmError::Description { what });
        let of = |part: &'static str| move |wrong: Wrong| VmError::of(part, &wrong);
        if !is_id(&self.instance_id) {
            return refuse(format!("'{}' is no instance id", self.instance_id));
        }
        description::hostname(&self.hostname).map_err(of("seed.hostname"))?;
        self.ssh_keys.iter().try_for_each(|key| description::ssh_key(key)).map_err(of("seed.ssh_keys"))?;
        if self.ssh_keys.len() > KEYS_MAX {
            return refuse(format!("seed.ssh_keys: {} keys, {KEYS_MAX} are possible", self.ssh_keys.len()));
        }
        if self.files.len() > FILES_MAX {
            return refuse(format!("seed.file: {} files, {FILES_MAX} are possible", self.files.len()));
        }
        for (place, (name, _)) in self.files.iter().enumerate() {
            description::file_name(name).map_err(of("seed.file.name"))?;
            if self.files[..place].iter().any(|(other, _)| other == name) {
                return refuse(format!("seed.file.name: two files have the name '{name}'"));
            }
        }
        Ok(())
    }

    fn meta_data(&self) -> String {
        let mut text = format!("instance-id: \"{}\"\nlocal-hostname: {}\n", self.instance_id, quoted(&self.hostname));
        if self.user_data.is_some() && !self.ssh_keys.is_empty() {
            text += &format!("public-keys:\n{}", self.keys());
        }
        text
    }

    fn user_data(&self) -> String {
        if let Some(text) = &self.user_data {
            // Linux starts no script whose first line ends in CR; MIME and YAML take both.
            return text.replace("\r\n", "\n");
        }
        let mut text = format!("#cloud-config\nhostname: {}\n", quoted(&self.hostname));
        if !self.ssh_keys.is_empty() {
            text += &format!("ssh_authorized_keys:\n{}", self.keys());
        }
        text
    }

    fn keys(&self) -> String {
        self.ssh_keys.iter().map(|key| format!("  - {}\n", quoted(key.trim()))).collect()
    }
}

/// A text in YAML's double quotes, in ASCII: without them a host name as `no` or `1234` would be no text. Source: YAML 1.1 §5.6.
fn quoted(text: &str) -> String {
    let escaped = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        ' '..='~' => c.to_string(),
        _ => format!("\\U{:08x}", u32::from(c)),
    };
    format!("\"{}\"", text.chars().map(escaped).collect::<String>())
}

fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
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
        assert_eq!(
            seed.meta_data(),
            "instance-id: \"4f7c9e3a-8d51-4c0e-9f00-0123456789ab\"\nlocal-hostname: \"web1\"\n"
        );
        assert_eq!(
            seed.user_data(),
            "#cloud-config\nhostname: \"web1\"\nssh_authorized_keys:\n  - \"ssh-ed25519 AAAAC3Nz me@\\\"home\\\"\"\n"
        );
        assert_eq!(seed.image().unwrap().len(), 1_474_560);
    }

    /// Goal: a user's own `user-data` is passed on as it is, and the keys are not lost by it. Method: exact texts.
    #[test]
    fn own_user_data_leaves_the_keys() {
        let seed = Seed { user_data: Some("#!/bin/sh\n".into()), files: vec![("x".into(), "y".into())], ..seed() };
        assert_eq!(seed.user_data(), "#!/bin/sh\n");
        assert!(seed.meta_data().ends_with("\"web1\"\npublic-keys:\n  - \"ssh-ed25519 AAAAC3Nz me@\\\"home\\\"\"\n"));
        seed.image().unwrap();
    }

    /// A05, A02. Goal: what people write is told to the guest as they mean it. Method: a name that YAML takes for something else, a key with
    /// letters, tabs and a CR, a script from Windows.
    #[test]
    fn texts_are_told_as_they_are_meant() {
        let keys = vec!["ssh-ed25519\tAAAA j\u{f6}rg ".into()];
        let script = Some("#!/bin/sh\r\necho\r\n".into());
        let seed = Seed { hostname: "no".into(), ssh_keys: keys, user_data: script, ..seed() };
        assert!(
            seed.meta_data()
                .ends_with("local-hostname: \"no\"\npublic-keys:\n  - \"ssh-ed25519\\U00000009AAAA j\\U000000f6rg\"\n")
        );
        assert_eq!(seed.user_data(), "#!/bin/sh\necho\n");
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
        check(|seed| seed.hostname = "a: b".into());
        check(|seed| seed.instance_id = "a\"b".into());
        check(|seed| seed.ssh_keys = vec!["ssh-rsa A\nruncmd: [x]".into()]);
        check(|seed| seed.ssh_keys = vec!["nospace".into()]);
        check(|seed| seed.ssh_keys = vec!["a b".into(); 65]);
        check(|seed| seed.files = vec![("user-data".into(), String::new())]);
        check(|seed| seed.files = vec![("../x".into(), String::new())]);
        check(|seed| seed.files = vec![("x".into(), String::new()), ("x".into(), "y".into())]);
        check(|seed| seed.network_config = Some("x".repeat(2 << 20)));
    }
}
