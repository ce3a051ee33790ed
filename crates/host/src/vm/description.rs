//! What a machine's description and its seed may say: the one place that knows. Who takes a description in asks here before it is
//! stored; who starts a machine asks here again.
//!
//! Two grades. `Err` of a plain check: it cannot be started. `*_of_use`: it would start, and the text would do nothing in the guest; only
//! who takes a description in asks that, so that what was stored before a rule came still starts.

use data_encoding::BASE64;

/// Disks of one machine: PCI slots 0x0a to 0x19.
pub const DISKS_MAX: usize = 16;
/// Network interfaces of one machine: PCI slots 0x02 to 0x09.
pub const NICS_MAX: usize = 8;
/// Virtual CPUs. 255 are refused: "SMBIOS 2.0 doesn't support number of processor cores/threads more than 255". Source: QEMU 10.0
/// `hw/smbios/smbios.c`; tried with QEMU 10.0.2 and `pc-q35-7.2`: 255 does not start, 254 does.
pub const VCPUS_MAX: u32 = 254;
/// Below this no kernel of today boots.
pub const MEMORY_MIN_MIB: u32 = 16;
/// A serial number of virtio-blk. Source: Linux `include/uapi/linux/virtio_blk.h`, `VIRTIO_BLK_ID_BYTES` 20.
pub const SERIAL_MAX_BYTES: usize = 20;
/// The serial number of the seed's disk.
pub const SEED_SERIAL: &str = "cidata";
/// A line of `authorized_keys`: an RSA key of 16384 bits has about 2800 characters.
const KEY_MAX_BYTES: usize = 8192;
/// Keys in a seed.
pub const KEYS_MAX: usize = 64;
/// Files in a seed besides `meta-data`, `user-data` and `network-config`. With the longest names they fill half of the root folder.
pub const FILES_MAX: usize = 16;
/// A file's name in a seed.
const FILE_NAME_MAX_BYTES: usize = 63;
/// Source: Linux `include/uapi/linux/utsname.h`, `__NEW_UTS_LEN` 64.
const HOSTNAME_MAX_BYTES: usize = 64;
/// How a text begins that cloud-init does something with. Source: cloud-init 24.4, "User data formats" (`INCLUSION_TYPES_MAP` in
/// `cloudinit/handlers/__init__.py`), and MIME's own two.
const CLOUD_INIT: [&str; 8] = [
    "#!",
    "#cloud-config",
    "#cloud-boothook",
    "#include",
    "#part-handler",
    "## template: jinja",
    "mime-version:",
    "content-type:",
];
/// And what cloudbase-init does something with in Windows. Source: cloudbase-init's manual, "Userdata".
const CLOUDBASE_INIT: [&str; 2] = ["#ps1", "rem cmd"];

/// What is wrong, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// What.
    pub what: String,
    /// What to do.
    pub hint: &'static str,
    /// In which line of the text, from 0.
    pub line: usize,
}

fn wrong<T>(what: impl Into<String>, hint: &'static str) -> Result<T, Wrong> {
    Err(Wrong { what: what.into(), hint, line: 0 })
}

/// A CPU model as QEMU names them, with its options: `host,migratable=on`.
///
/// # Errors
/// It is none. Whether a host has it is that host's to say.
pub fn cpu(text: &str) -> Result<(), Wrong> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+,=".contains(&byte);
    if text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.len() <= 255 && text.bytes().all(fine) {
        return Ok(());
    }
    let what = format!("'{}' is not a CPU model's name", shown(text));
    wrong(what, "`qemu-system-x86_64 -cpu help` lists them; without it all hosts can take it")
}

/// A disk's serial number.
///
/// # Errors
/// It is none.
pub fn serial(text: &str) -> Result<(), Wrong> {
    if is_word(text, SERIAL_MAX_BYTES) {
        return Ok(());
    }
    let what = format!("'{}' is not 1 to {SERIAL_MAX_BYTES} of a-z A-Z 0-9 - _ . (no - first)", shown(text));
    wrong(what, "leave it out: then it is the volume's name")
}

/// The serial numbers of one machine's disks differ, and none is the seed's.
///
/// # Errors
/// The place of the disk that has another's.
pub fn serials<'a>(serials: impl Iterator<Item = &'a str>, has_seed: bool) -> Result<(), (usize, Wrong)> {
    let mut before: Vec<&str> = Vec::new();
    for (place, serial) in serials.enumerate() {
        let what = match () {
            () if before.contains(&serial) => format!("two disks have the serial number '{serial}'"),
            () if has_seed && serial == SEED_SERIAL => format!("'{serial}' is the serial number of the seed's disk"),
            () => String::new(),
        };
        if !what.is_empty() {
            let hint = "a serial number is the first 20 bytes of the volume's name unless it is given: give this disk `serial`";
            return wrong(what, hint).map_err(|wrong| (place, wrong));
        }
        before.push(serial);
    }
    Ok(())
}

/// A guest's host name: labels of RFC 1123, for Linux.
///
/// # Errors
/// It is none.
pub fn hostname(name: &str) -> Result<(), Wrong> {
    let label = |label: &str| {
        let fine = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        (1..=63).contains(&label.len()) && fine && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.len() <= HOSTNAME_MAX_BYTES && name.split('.').all(label) {
        return Ok(());
    }
    let what = format!("'{}' is not a host name: a-z 0-9 and -, no - first or last, at most 64 bytes", shown(name));
    wrong(what, "give `seed.hostname`, as in \"web-1\"; the VM's own name may stay as it is")
}

/// A line of `authorized_keys` that can be written into a seed.
///
/// # Errors
/// It is more than a line, or has control characters.
pub fn ssh_key(line: &str) -> Result<(), Wrong> {
    let plain = !line.chars().any(|c| c.is_control() && c != '\t');
    if (1..=KEY_MAX_BYTES).contains(&line.len()) && plain && line.trim().contains([' ', '\t']) {
        return Ok(());
    }
    no_key(line)
}

/// A line of `authorized_keys` with a public key in it, perhaps after options.
///
/// # Errors
/// There is none.
pub fn ssh_key_of_use(line: &str) -> Result<(), Wrong> {
    ssh_key(line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    if words.windows(2).any(|pair| is_key_of_type(pair[0], pair[1])) { Ok(()) } else { no_key(line) }
}

fn no_key(line: &str) -> Result<(), Wrong> {
    let begin: String = shown(line).chars().take(40).collect();
    wrong(format!("'{begin}' is not an SSH public key"), "copy the whole line of a file as ~/.ssh/id_ed25519.pub")
}

/// A key's bytes are fields, each with its length before it, and the first one is the type. Source: RFC 4253 §6.6; a certificate has
/// numbers among them (OpenSSH `PROTOCOL.certkeys`).
fn is_key_of_type(kind: &str, key: &str) -> bool {
    let Ok(bytes) = BASE64.decode(key.as_bytes()) else { return false };
    let Some((first, rest)) = field(&bytes) else { return false };
    first == kind.as_bytes() && !rest.is_empty() && (kind.contains("-cert-") || is_whole(rest))
}

fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)
}

fn is_whole(mut bytes: &[u8]) -> bool {
    while let Some((_, rest)) = field(bytes) {
        bytes = rest;
    }
    bytes.is_empty()
}

/// The name of a file in a seed, besides the three that are made from other keys.
///
/// # Errors
/// It cannot be one.
pub fn file_name(name: &str) -> Result<(), Wrong> {
    if ["meta-data", "user-data", "network-config"].contains(&name) {
        let what = format!("'{name}' is made from the other keys");
        return wrong(what, "use seed.user_data or seed.network_config");
    }
    // A FAT keeps names apart without regard to case, and forgets a dot at the end.
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    let first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_one = (1..=FILE_NAME_MAX_BYTES).contains(&name.len()) && name.bytes().all(fine);
    if is_one && first(name.as_bytes()[0]) && !name.ends_with('.') {
        return Ok(());
    }
    let what =
        format!("'{}' is not a file's name: 1 to {FILE_NAME_MAX_BYTES} of a-z 0-9 - _ . are possible", shown(name));
    wrong(what, "begin it with a letter or digit, and end it with no dot")
}

/// `user-data` that something in a guest takes up.
///
/// # Errors
/// Nothing would, with the line.
pub fn user_data_of_use(text: &str) -> Result<(), Wrong> {
    let text = text_of_use(text)?;
    let first = text.lines().next().unwrap_or_default();
    if first.trim().is_empty() || first.starts_with([' ', '\t', '\u{feff}']) {
        let what = "the first line is empty, indented, or has a byte order mark before it";
        return wrong(what, "begin the text with `#cloud-config` or `#!`, at the very first byte");
    }
    let lower = first.to_ascii_lowercase();
    let known = |word: &&str| lower.starts_with(*word);
    if CLOUD_INIT.iter().chain(&CLOUDBASE_INIT).any(known) {
        return Ok(());
    }
    let what = format!("cloud-init does nothing with a text whose first line is '{}'", shown(first));
    wrong(what, "write `#cloud-config` as the first line, or `#!/bin/sh` if it is a script")
}

/// `network-config` that cloud-init takes up. Source: cloud-init, "Networking config": `version: 1` or `2`, perhaps below `network`.
///
/// # Errors
/// It would not.
pub fn network_config_of_use(text: &str) -> Result<(), Wrong> {
    let text = text_of_use(text)?;
    if text.contains("version") {
        return Ok(());
    }
    wrong("cloud-init does nothing with a network configuration without its version", "begin it with `version: 2`")
}

fn text_of_use(text: &str) -> Result<&str, Wrong> {
    if text.trim().is_empty() {
        return wrong("the text is empty", "leave the key out");
    }
    let control = |line: &str| line.trim_end_matches('\r').chars().any(|c| c.is_control() && c != '\t');
    match text.split('\n').position(control) {
        None => Ok(text),
        Some(line) => {
            let what = "there is a control character in this line".to_owned();
            Err(Wrong { what, hint: "remove it; only tabs and ends of lines are text", line })
        }
    }
}

/// A word of QEMU's, which no option can hide in.
pub(super) fn is_word(text: &str, len_max: usize) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=len_max).contains(&text.len()) && text.bytes().all(fine) && text.as_bytes()[0] != b'-'
}

/// Fit to be printed.
fn shown(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIE1vc3RseUhhcm1sZXNzTW9zdGx5SGFybWxlc3NPISEh";

    /// A05, D1. Goal: a line of which the guest can use a key is taken, whatever stands around it; any other is refused.
    #[test]
    fn keys_are_keys() {
        let good = [
            format!("ssh-ed25519 {KEY}"),
            format!("ssh-ed25519 {KEY} j\u{f6}rg@b\u{fc}ro"),
            format!(" ssh-ed25519\t{KEY}  you@there "),
            format!("from=\"10.0.0.0/8\",command=\"echo hello\" ssh-ed25519 {KEY} x"),
        ];
        for line in &good {
            assert_eq!(ssh_key_of_use(line), Ok(()), "{line}");
        }
        let bad = [
            "ssh-ed25519 AAAA\u{2026} you@there".to_owned(),
            "ssh-ed25519 AAAA you@there".to_owned(),
            format!("ssh-rsa {KEY}"),
            KEY.to_owned(),
            format!("ssh-ed25519 {}", &KEY[..20]),
            format!("ssh-ed25519 {}", &KEY[..60]),
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5".to_owned(),
            format!("ssh-ed25519 {KEY}\nruncmd: x"),
            format!("ssh-ed25519 {KEY}\r"),
            String::new(),
        ];
        for line in &bad {
            assert!(ssh_key_of_use(line).is_err(), "{line}");
        }
        // What was stored before this rule starts on.
        assert_eq!(ssh_key("ssh-ed25519 AAAA you@there"), Ok(()));
    }

    /// A01, A02. Goal: only a text that something takes up is taken. Method: first lines.
    #[test]
    fn user_data_begins_as_cloud_init_has_it() {
        for good in [
            "#cloud-config\npackages: [nginx]\n",
            "#cloud-config\r\npackages: [nginx]\r\n",
            "#!/bin/sh\necho\n",
            "## template: jinja\n#cloud-config\n",
            "#include\nhttps://example.org/x\n",
            "Content-Type: multipart/mixed; boundary=x\nMIME-Version: 1.0\n",
            "#ps1_sysnative\n",
        ] {
            assert_eq!(user_data_of_use(good), Ok(()), "{good:?}");
        }
        for bad in [
            "packages: [nginx]\n",
            "# cloud-config\n",
            "\n#cloud-config\n",
            "  #cloud-config\n",
            "\u{feff}#cloud-config\n",
            "",
            " \n",
        ] {
            assert_eq!(user_data_of_use(bad).unwrap_err().line, 0, "{bad:?}");
        }
        assert_eq!(user_data_of_use("#!/bin/sh\necho\u{0}\n").unwrap_err().line, 1);
        assert!(network_config_of_use("ethernets: {}\n").is_err() && network_config_of_use("version: 2\n").is_ok());
    }

    /// A05. Goal: names are what the guest's system takes, and what a FAT keeps apart.
    #[test]
    fn names_are_names() {
        for name in ["web1", "1234", "no", "a.b", "WEB", &"x".repeat(63)] {
            assert_eq!(hostname(name), Ok(()), "{name}");
        }
        for name in ["", "a b", "a\nruncmd: x", "-a", "a-", "a..b", "web_1", &"x".repeat(64), "\u{f6}"] {
            assert!(hostname(name).is_err(), "{name}");
        }
        for name in ["vendor-data", "cloud.cfg", "a", &"x".repeat(63)] {
            assert_eq!(file_name(name), Ok(()), "{name}");
        }
        for name in ["user-data", "meta-data", "../x", "", "A", "a.", "-a", &"x".repeat(64)] {
            assert!(file_name(name).is_err(), "{name}");
        }
    }

    /// A04, A05. Goal: serial numbers are words of their own.
    #[test]
    fn serial_numbers_differ() {
        assert!(serial("-a").is_err() && serial("a,b").is_err() && serial(&"x".repeat(21)).is_err());
        assert_eq!(serial("a_-.Z9"), Ok(()));
        let place = |these: &[&str], has_seed| serials(these.iter().copied(), has_seed).map_err(|(place, _)| place);
        assert_eq!(place(&["a", "b", "a"], false), Err(2));
        assert_eq!((place(&["a", "cidata"], true), place(&["a", "cidata"], false)), (Err(1), Ok(())));
    }
}
