//! A VM's description: TOML in, checked values out. A mistake names its line, its key and the way out.

use api::{Code, Problem};
use serde::Deserialize;
use std::ops::Range;
use toml::Spanned;
use units::{ByteLen, Millis, NodeName, VmName, VolumeName};

/// The page that lists every key.
const MANUAL: &str = "docs/runbooks/vm.md lists every key";
/// A VM's object holds its description twice (as given, as it runs) and is at most 64 KiB.
const TEXT_MAX_BYTES: usize = 24 << 10;
/// Below this no kernel of today boots; above it a guest is a typing mistake.
const MEMORY_MIB: std::ops::RangeInclusive<u64> = 16..=4 << 20;
/// QEMU's q35 machine takes 255 without an interrupt remapper. Source: QEMU 7.2 `hw/i386/pc_q35.c`, `max_cpus` 288.
const VCPUS_MAX: u64 = 255;
/// As many interfaces as a q35 root bus has room for beside the disks.
const NICS_MAX: usize = 8;
/// virtio-blk's serial number. Source: Linux `include/uapi/linux/virtio_blk.h`, `VIRTIO_BLK_ID_BYTES` 20.
const SERIAL_MAX_BYTES: usize = 20;
/// Source: Linux `include/uapi/linux/if.h`, `IFNAMSIZ` 16 with the closing zero.
const BRIDGE_MAX_BYTES: usize = 15;
/// An hour: who waits longer for a shutdown waits for somebody.
const SHUTDOWN_MAX_S: u64 = 3_600;
/// Without `shutdown_s`.
const SHUTDOWN_S: u64 = 60;
/// Seed files besides NoCloud's own.
const FILES_MAX: usize = 16;

/// A VM as described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its name.
    pub name: VmName,
    /// Its memory.
    pub memory_mib: u32,
    /// Its virtual CPUs.
    pub vcpus: u32,
    /// A CPU model of QEMU's.
    pub cpu: Option<String>,
    /// Whether it is brought back by itself after its QEMU, its host or everything died.
    pub autostart: bool,
    /// Lower ones are started first.
    pub order: u32,
    /// Where it may run; none: anywhere.
    pub hosts: Option<Vec<NodeName>>,
    /// How long it may take to shut down.
    pub shutdown_ms: Millis,
    /// Its disks, in order.
    pub disks: Vec<Disk>,
    /// Its network interfaces, in order.
    pub nics: Vec<Nic>,
    /// What its first boot is told.
    pub seed: Option<Seed>,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Which volume.
    pub volume: VolumeName,
    /// What the guest sees.
    pub serial: String,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// The host's bridge.
    pub bridge: String,
    /// Its address, if it is given.
    pub mac: Option<String>,
}

/// NoCloud's texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The guest's hostname; none: the VM's name.
    pub hostname: Option<String>,
    /// Who may log in.
    pub ssh_keys: Vec<String>,
    /// More `user-data`.
    pub user_data: Option<String>,
    /// `network-config`.
    pub network_config: Option<String>,
    /// More files: name and text.
    pub files: Vec<(String, String)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: Spanned<String>,
    memory: Spanned<Memory>,
    vcpus: Spanned<u64>,
    cpu: Option<Spanned<String>>,
    #[serde(default = "yes")]
    autostart: bool,
    #[serde(default)]
    order: u32,
    hosts: Option<Vec<Spanned<String>>>,
    shutdown_s: Option<Spanned<u64>>,
    #[serde(default)]
    disk: Vec<Spanned<RawDisk>>,
    #[serde(default)]
    nic: Vec<Spanned<RawNic>>,
    seed: Option<RawSeed>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "memory is a text as in \"512 MiB\", or a number of MiB")]
enum Memory {
    Mib(u64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDisk {
    volume: Spanned<String>,
    serial: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNic {
    bridge: Spanned<String>,
    mac: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSeed {
    hostname: Option<Spanned<String>>,
    #[serde(default)]
    ssh_keys: Vec<Spanned<String>>,
    user_data: Option<String>,
    network_config: Option<String>,
    #[serde(default)]
    file: Vec<RawFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    name: Spanned<String>,
    text: String,
}

/// A mistake at a place in the text: what, and what to do.
type Mistake = (Range<usize>, String, String);

const fn yes() -> bool {
    true
}

impl Spec {
    /// Reads a description.
    ///
    /// # Errors
    /// [`Code::BadRequest`] with the line, the key and what to do.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let complain = |(place, what, hint): Mistake| {
            let line = 1 + text.bytes().take(place.start).filter(|&byte| byte == b'\n').count();
            Problem::new(Code::BadRequest, format!("the description, line {line}: {what}"), hint)
        };
        if text.len() > TEXT_MAX_BYTES {
            let what = format!("a description has at most {TEXT_MAX_BYTES} bytes, this one {}", text.len());
            return Err(complain((0..0, what, "move long seed files into an image".to_owned())));
        }
        let raw: Raw = toml::from_str(text).map_err(|error| {
            complain((error.span().unwrap_or(0..0), error.message().trim_end().to_owned(), MANUAL.to_owned()))
        })?;
        raw.checked().map_err(complain)
    }

    /// Its volumes, in the order of its disks.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeName> {
        self.disks.iter().map(|disk| disk.volume.clone()).collect()
    }
}

impl Raw {
    fn checked(self) -> Result<Spec, Mistake> {
        let hosts = self.hosts.map(|hosts| hosts.iter().map(|host| name("hosts", host)).collect::<Result<Vec<_>, _>>());
        let shutdown_s = match &self.shutdown_s {
            None => SHUTDOWN_S,
            Some(seconds) => within("shutdown_s", seconds.span(), *seconds.get_ref(), 1..=SHUTDOWN_MAX_S, "seconds")?,
        };
        let vcpus = within("vcpus", self.vcpus.span(), *self.vcpus.get_ref(), 1..=VCPUS_MAX, "virtual CPUs")?;
        Ok(Spec {
            name: name("name", &self.name)?,
            memory_mib: memory(&self.memory)?,
            vcpus: u32::try_from(vcpus).expect("at most 255"),
            cpu: self.cpu.as_ref().map(cpu).transpose()?,
            autostart: self.autostart,
            order: self.order,
            hosts: hosts.transpose()?,
            shutdown_ms: Millis(shutdown_s * 1_000),
            disks: disks(&self.disk)?,
            nics: nics(&self.nic)?,
            seed: self.seed.map(RawSeed::checked).transpose()?,
        })
    }
}

impl RawSeed {
    fn checked(self) -> Result<Seed, Mistake> {
        if let Some(hostname) = &self.hostname {
            name::<VmName>("seed.hostname", hostname)?;
        }
        for key in &self.ssh_keys {
            if key.get_ref().contains('\n') || key.get_ref().split_whitespace().count() < 2 {
                let what = "seed.ssh_keys: a key is one line: its type, then its text".to_owned();
                return Err((key.span(), what, "copy the line of a file as ~/.ssh/id_ed25519.pub".to_owned()));
            }
        }
        if let Some(file) = self.file.get(FILES_MAX) {
            let hint = "make one file of several".to_owned();
            return Err((file.name.span(), format!("seed.file: at most {FILES_MAX} files"), hint));
        }
        for file in &self.file {
            name::<VmName>("seed.file.name", &file.name)?;
            if matches!(file.name.get_ref().as_str(), "user-data" | "meta-data" | "network-config") {
                let what = format!("seed.file.name: '{}' is made from the other keys", file.name.get_ref());
                return Err((file.name.span(), what, "use seed.user_data or seed.network_config".to_owned()));
            }
        }
        Ok(Seed {
            hostname: self.hostname.map(Spanned::into_inner),
            ssh_keys: self.ssh_keys.into_iter().map(Spanned::into_inner).collect(),
            user_data: self.user_data,
            network_config: self.network_config,
            files: self.file.into_iter().map(|file| (file.name.into_inner(), file.text)).collect(),
        })
    }
}

fn name<T: std::str::FromStr<Err = units::IdentError>>(key: &str, text: &Spanned<String>) -> Result<T, Mistake> {
    text.get_ref().parse().map_err(|error: units::IdentError| {
        (text.span(), format!("{key}: {error}"), "names are lower case, as in \"web1\"".to_owned())
    })
}

fn within(
    key: &str,
    place: Range<usize>,
    value: u64,
    allowed: std::ops::RangeInclusive<u64>,
    unit: &str,
) -> Result<u64, Mistake> {
    if allowed.contains(&value) {
        return Ok(value);
    }
    let what = format!("{key}: {value} is not within {} to {} {unit}", allowed.start(), allowed.end());
    Err((place, what, MANUAL.to_owned()))
}

fn memory(memory: &Spanned<Memory>) -> Result<u32, Mistake> {
    let mib = match memory.get_ref() {
        Memory::Mib(mib) => *mib,
        Memory::Text(text) => {
            let wrong = |what: &str| {
                let what = format!("memory: '{text}' is not {what}");
                (memory.span(), what, "write it as in \"512 MiB\" or \"2G\"".to_owned())
            };
            let bytes = units::parse_size(text).map_err(|_| wrong("a size"))?;
            let whole = bytes.0.is_multiple_of(ByteLen::mib(1).0);
            whole.then_some(bytes.0 / ByteLen::mib(1).0).ok_or_else(|| wrong("a whole number of MiB"))?
        }
    };
    let mib = within("memory", memory.span(), mib, MEMORY_MIB, "MiB")?;
    Ok(u32::try_from(mib).expect("at most 4 TiB"))
}

fn cpu(text: &Spanned<String>) -> Result<String, Mistake> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !text.get_ref().is_empty() && text.get_ref().len() <= 63 && text.get_ref().chars().all(plain) {
        return Ok(text.get_ref().clone());
    }
    let what = format!("cpu: '{}' is not a CPU model's name", text.get_ref());
    Err((text.span(), what, "`qemu-system-x86_64 -cpu help` lists them; without it all hosts can take it".to_owned()))
}

fn disks(raw: &[Spanned<RawDisk>]) -> Result<Vec<Disk>, Mistake> {
    let most = cluster::job::VOLUMES_MAX;
    let one_too_many = raw.get(most);
    if raw.is_empty() || one_too_many.is_some() {
        let what = format!("disk: a VM has 1 to {most} disks, this one {}", raw.len());
        let place = one_too_many.map_or(0..0, Spanned::span);
        return Err((place, what, "write [[disk]] and below it volume = \"NAME\"".to_owned()));
    }
    let mut disks: Vec<Disk> = Vec::new();
    for disk in raw.iter().map(Spanned::get_ref) {
        let volume: VolumeName = name("disk.volume", &disk.volume)?;
        if disks.iter().any(|other| other.volume == volume) {
            let what = format!("disk.volume: '{volume}' is there twice");
            return Err((disk.volume.span(), what, "a volume is one disk".to_owned()));
        }
        let serial = match &disk.serial {
            None => volume.as_str().chars().take(SERIAL_MAX_BYTES).collect(),
            Some(serial) => checked_serial(serial)?,
        };
        disks.push(Disk { volume, serial });
    }
    Ok(disks)
}

fn checked_serial(serial: &Spanned<String>) -> Result<String, Mistake> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let text = serial.get_ref();
    if (1..=SERIAL_MAX_BYTES).contains(&text.len()) && text.chars().all(plain) {
        return Ok(text.clone());
    }
    let what = format!("disk.serial: '{text}' is not 1 to {SERIAL_MAX_BYTES} of a-z A-Z 0-9 - _ .");
    Err((serial.span(), what, "leave it out: then it is the volume's name".to_owned()))
}

fn nics(raw: &[Spanned<RawNic>]) -> Result<Vec<Nic>, Mistake> {
    if let Some(one_too_many) = raw.get(NICS_MAX) {
        let what = format!("nic: a VM has at most {NICS_MAX} network interfaces, this one {}", raw.len());
        return Err((one_too_many.span(), what, "use VLANs in the guest".to_owned()));
    }
    raw.iter().map(|raw| nic(raw.get_ref())).collect()
}

fn nic(raw: &RawNic) -> Result<Nic, Mistake> {
    let bridge = raw.bridge.get_ref();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let named = bridge.starts_with(|c: char| c.is_ascii_alphanumeric()) && bridge.chars().all(plain);
    if !named || bridge.len() > BRIDGE_MAX_BYTES {
        let what = format!("nic.bridge: '{bridge}' is not the name of a bridge (1 to {BRIDGE_MAX_BYTES} bytes)");
        return Err((raw.bridge.span(), what, "as in `ip link show type bridge` on the hosts".to_owned()));
    }
    let mac = raw.mac.as_ref().map(|mac| {
        checked_mac(mac.get_ref()).ok_or_else(|| {
            let what = format!("nic.mac: '{}' is not an address of one interface", mac.get_ref());
            (mac.span(), what, "write it as in \"52:54:00:12:34:56\", or leave it out".to_owned())
        })
    });
    Ok(Nic { bridge: bridge.clone(), mac: mac.transpose()? })
}

/// Six octets, in lower case; none if they are not those of one interface (the lowest bit of the first one tells).
fn checked_mac(text: &str) -> Option<String> {
    let octets: Vec<u8> = text
        .split(':')
        // `from_str_radix` takes a sign.
        .map(|octet| octet.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(octet))
        .map(|octet| octet.filter(|octet| octet.len() == 2).and_then(|octet| u8::from_str_radix(octet, 16).ok()))
        .collect::<Option<_>>()?;
    let single = octets.len() == 6 && octets[0] & 1 == 0 && octets.iter().any(|octet| *octet != 0);
    single.then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod test {
    use super::*;

    const GOOD: &str = r#"
name = "web1"
memory = "1 GiB"
vcpus = 2
order = 3
hosts = ["host1", "host2"]
shutdown_s = 5

[[disk]]
volume = "web1-root"
[[disk]]
volume = "web1-data-with-a-long-name"
serial = "data"

[[nic]]
bridge = "lan"
[[nic]]
bridge = "br0"
mac = "52:54:00:AA:bb:01"

[seed]
ssh_keys = ["ssh-ed25519 AAAA you@there"]
[[seed.file]]
name = "vendor-data"
text = "x"
"#;

    /// Goal: a whole description is read, with what it leaves out filled in. Method: one of everything.
    #[test]
    fn a_description_is_read() {
        let spec = Spec::parse(GOOD).expect("it is good");
        assert_eq!((spec.memory_mib, spec.vcpus, spec.order, spec.autostart), (1024, 2, 3, true));
        assert_eq!(spec.shutdown_ms, Millis(5_000));
        assert_eq!(spec.disks[0].serial, "web1-root");
        assert_eq!(spec.nics[1].mac.as_deref(), Some("52:54:00:aa:bb:01"));
        assert_eq!(spec.hosts.as_ref().map(Vec::len), Some(2));
        assert_eq!(spec.seed.as_ref().map(|seed| seed.files.len()), Some(1));
        let small = Spec::parse("name='a'\nmemory=512\nvcpus=1\n[[disk]]\nvolume='a'\n").expect("the least");
        assert_eq!((small.memory_mib, small.shutdown_ms, small.seed), (512, Millis(60_000), None));
        for (text, mib) in [("2G", 2048), ("512M", 512), ("1.5 GiB", 1536), ("4 TiB", 4 << 20)] {
            let spec = Spec::parse(&GOOD.replacen("1 GiB", text, 1)).expect(text);
            assert_eq!(spec.memory_mib, mib, "{text}");
        }
    }

    /// Goal: every mistake is refused with its line and its key. Method: one change of the good description each.
    #[test]
    fn mistakes_are_named_with_their_line() {
        let cases = [
            ("name = \"web1\"", "name = \"Web1\"", "line 2: name:"),
            ("memory = \"1 GiB\"", "memory = \"1 GB\"", "line 3: memory:"),
            ("memory = \"1 GiB\"", "memory = \"512\"", "line 3: memory: '512' is not a whole number of MiB"),
            ("memory = \"1 GiB\"", "memory = 8", "line 3: memory: 8 is not within"),
            ("memory = \"1 GiB\"", "memory = true", "line 3: memory is a text"),
            ("vcpus = 2", "vcpus = 0", "line 4: vcpus:"),
            ("vcpus = 2", "vcpu = 2", "line 4: unknown field `vcpu`"),
            ("\"host2\"", "\"host 2\"", "line 6: hosts:"),
            ("shutdown_s = 5", "shutdown_s = 0", "line 7: shutdown_s:"),
            ("volume = \"web1-data-with-a-long-name\"", "volume = \"web1-root\"", "line 12: disk.volume:"),
            ("serial = \"data\"", "serial = \"a,b\"", "line 13: disk.serial:"),
            ("bridge = \"lan\"", "bridge = \"a/b\"", "line 16: nic.bridge:"),
            ("52:54", "53:54", "line 19: nic.mac:"),
            ("52:54:00", "52:54", "line 19: nic.mac:"),
            ("52:54:00", "52:54:+1", "line 19: nic.mac:"),
            ("ssh-ed25519 AAAA you@there", "AAAA", "line 22: seed.ssh_keys:"),
            ("vendor-data", "user-data", "line 24: seed.file.name:"),
            ("vendor-data", "../etc", "line 24: seed.file.name:"),
        ];
        for (good, bad, want) in cases {
            let problem = Spec::parse(&GOOD.replacen(good, bad, 1)).expect_err(bad);
            assert!(problem.text.contains(want), "{bad}: {}", problem.text);
            assert!(problem.code == Code::BadRequest && !problem.hint.is_empty(), "{problem:?}");
        }
        let none = Spec::parse("name='a'\nmemory=512\nvcpus=1\n").expect_err("no disk");
        assert!(none.text.contains("disk: a VM has 1 to 16"), "{}", none.text);
        assert!(Spec::parse(&"#".repeat(TEXT_MAX_BYTES + 1)).is_err());
    }
}
