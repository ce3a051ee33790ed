//! A VM's description: TOML in, checked values out. A mistake names its line, its key and the way out.
//!
//! Two grades of reading. [`Spec::parse`] takes in a new description: whatever it asks for starts ([`admit`]). [`Spec::stored`] reads
//! one that was taken in before, perhaps under fewer rules: only its form is looked at, and the host says at a start what cannot be.

mod admit;
#[cfg(test)]
mod test;

use api::{Code, Problem};
use host::vm::description::SERIAL_MAX_BYTES;
use serde::Deserialize;
use std::ops::Range;
use toml::Spanned;
use units::{ByteLen, Millis, NodeName, VmName, VolumeName};

/// The page that lists every key.
const MANUAL: &str = "docs/runbooks/vm.md lists every key";
/// A VM's object holds its description twice (as given, as it runs) and is at most 64 KiB.
const TEXT_MAX_BYTES: usize = 24 << 10;
/// Without `shutdown_s`.
const SHUTDOWN_S: u64 = 60;

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
    hosts: Option<Spanned<Vec<Spanned<String>>>>,
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
    user_data: Option<Spanned<String>>,
    network_config: Option<Spanned<String>>,
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
    /// Takes in a new description.
    ///
    /// # Errors
    /// [`Code::BadRequest`] with the line, the key and what to do.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        Self::read(text, |raw, spec| admit::check(text, raw, spec))
    }

    /// Reads a description that was taken in before.
    ///
    /// # Errors
    /// As [`Self::parse`], if a newer version wrote it.
    pub fn stored(text: &str) -> Result<Self, Problem> {
        Self::read(text, |_, _| Ok(()))
    }

    fn read(text: &str, more: impl FnOnce(&Raw, &Self) -> Result<(), Mistake>) -> Result<Self, Problem> {
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
        let spec = raw.spec().map_err(complain)?;
        more(&raw, &spec).map_err(complain)?;
        Ok(spec)
    }

    /// Its volumes, in the order of its disks.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeName> {
        self.disks.iter().map(|disk| disk.volume.clone()).collect()
    }
}

impl Raw {
    /// Values of the right types.
    fn spec(&self) -> Result<Spec, Mistake> {
        let names = |hosts: &Spanned<Vec<_>>| hosts.get_ref().iter().map(|host| name("hosts", host)).collect();
        let shutdown_s = self.shutdown_s.as_ref().map_or(SHUTDOWN_S, |seconds| *seconds.get_ref());
        Ok(Spec {
            name: name("name", &self.name)?,
            memory_mib: memory(&self.memory)?,
            vcpus: number("vcpus", self.vcpus.span(), *self.vcpus.get_ref())?,
            cpu: self.cpu.as_ref().map(|cpu| cpu.get_ref().clone()),
            autostart: self.autostart,
            order: self.order,
            hosts: self.hosts.as_ref().map(names).transpose()?,
            shutdown_ms: Millis(shutdown_s.saturating_mul(1_000)),
            disks: self.disk.iter().map(|disk| disk.get_ref().disk()).collect::<Result<_, _>>()?,
            nics: self.nic.iter().map(|nic| nic.get_ref().nic()).collect::<Result<_, _>>()?,
            seed: self.seed.as_ref().map(RawSeed::seed),
        })
    }
}

impl RawDisk {
    fn disk(&self) -> Result<Disk, Mistake> {
        let volume: VolumeName = name("disk.volume", &self.volume)?;
        let serial = match &self.serial {
            None => volume.as_str().chars().take(SERIAL_MAX_BYTES).collect(),
            Some(serial) => serial.get_ref().clone(),
        };
        Ok(Disk { volume, serial })
    }
}

impl RawNic {
    fn nic(&self) -> Result<Nic, Mistake> {
        let mac = self.mac.as_ref().map(|mac| {
            checked_mac(mac.get_ref()).ok_or_else(|| {
                let what = format!("nic.mac: '{}' is not an address of one interface", mac.get_ref());
                (mac.span(), what, "write it as in \"52:54:00:12:34:56\", or leave it out".to_owned())
            })
        });
        Ok(Nic { bridge: self.bridge.get_ref().clone(), mac: mac.transpose()? })
    }
}

impl RawSeed {
    fn seed(&self) -> Seed {
        let text = |text: &Option<Spanned<String>>| text.as_ref().map(|text| text.get_ref().clone());
        Seed {
            hostname: text(&self.hostname),
            ssh_keys: self.ssh_keys.iter().map(|key| key.get_ref().clone()).collect(),
            user_data: text(&self.user_data),
            network_config: text(&self.network_config),
            files: self.file.iter().map(|file| (file.name.get_ref().clone(), file.text.clone())).collect(),
        }
    }
}

fn name<T: std::str::FromStr<Err = units::IdentError>>(key: &str, text: &Spanned<String>) -> Result<T, Mistake> {
    text.get_ref().parse().map_err(|error: units::IdentError| {
        (text.span(), format!("{key}: {error}"), "names are lower case, as in \"web1\"".to_owned())
    })
}

fn number(key: &str, place: Range<usize>, value: u64) -> Result<u32, Mistake> {
    u32::try_from(value).map_err(|_| (place, format!("{key}: {value} is too large"), MANUAL.to_owned()))
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
    number("memory", memory.span(), mib)
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
