//! `/vm/NAME`: a VM's description, what it was given once (UUID, addresses), and whether it should run.

use super::spec::{Seed, Spec};
use crate::peer::{BriefNic, BriefSeed};
use crate::service::random;
use api::{Code, Problem};
use cluster::store::{Key, Revision, UnknownFields};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use units::{Millis, VmName};

/// Drawing an address that is taken is one in a million; this often means broken random numbers.
const DRAWS_MAX: u32 = 64;

/// Whether a VM should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// It should.
    Running,
    /// It should not.
    Stopped,
}

/// A description and the addresses that go with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// TOML, as given.
    pub spec: String,
    /// One for each network interface.
    pub macs: Vec<String>,
}

/// A VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// Of this object's form.
    pub version: u32,
    /// Its name.
    pub name: VmName,
    /// As it is to be from the next start on.
    #[serde(flatten)]
    pub shape: Shape,
    /// As it was when it was last started, if that is something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_as: Option<Shape>,
    /// Its UUID.
    pub uuid: String,
    /// Whether it should run.
    pub wish: Wish,
    /// A revision of the store from just before that was wished.
    #[serde(default)]
    pub wished_at: Revision,
    /// How long the last stop allows for shutting down, if that is not as described.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience_ms: Option<Millis>,
    /// When it was made, in seconds since 1970.
    pub created_s: u64,
    /// What a newer version wrote beside it.
    #[serde(flatten)]
    pub unknown_fields: UnknownFields,
}

impl Vm {
    /// The only form so far.
    pub const VERSION: u32 = 1;

    /// Its key.
    #[must_use]
    pub fn key(name: &VmName) -> Key {
        format!("/vm/{name}").parse().expect("a name is a part of a key")
    }

    /// Its description.
    ///
    /// # Errors
    /// [`Code::StoreFailed`]: a newer muskox wrote it.
    pub fn spec(&self) -> Result<Spec, Problem> {
        reread(&self.shape.spec)
    }

    /// Its description and addresses as it runs.
    ///
    /// # Errors
    /// As [`Self::spec`].
    pub fn as_started(&self) -> Result<(Spec, &[String]), Problem> {
        let shape = self.started_as.as_ref().unwrap_or(&self.shape);
        Ok((reread(&shape.spec)?, &shape.macs))
    }

    /// Whether it should run.
    #[must_use]
    pub fn wished(&self) -> bool {
        self.wish == Wish::Running
    }
}

impl Shape {
    /// The description with an address for each interface: as given, as it was before, or a new one.
    ///
    /// # Errors
    /// [`Code::BadRequest`]: an address is another VM's, or there twice.
    pub fn new(text: &str, spec: &Spec, before: &[String], taken: &BTreeSet<String>) -> Result<Self, Problem> {
        let mut macs: Vec<String> = Vec::new();
        for (place, nic) in spec.nics.iter().enumerate() {
            let kept = before.get(place).filter(|mac| !macs.contains(mac));
            let mac = match (&nic.mac, kept) {
                (Some(mac), _) => mac.clone(),
                (None, Some(mac)) => mac.clone(),
                (None, None) => fresh_mac(|mac| taken.contains(mac) || macs.contains(mac))?,
            };
            if taken.contains(&mac) || macs.contains(&mac) {
                let text = format!("nic.mac: the address {mac} belongs to another interface");
                return Err(Problem::new(Code::BadRequest, text, "choose another, or leave it out"));
            }
            macs.push(mac);
        }
        Ok(Self { spec: text.to_owned(), macs })
    }
}

/// Interfaces as a host is told of them.
#[must_use]
pub fn brief_nics(spec: &Spec, macs: &[String]) -> Vec<BriefNic> {
    let nics = spec.nics.iter().zip(macs);
    let brief = |(nic, mac): (&super::spec::Nic, &String)| {
        let (bridge, mac) = (nic.bridge.clone(), mac.clone());
        BriefNic { bridge, mac, unknown_fields: UnknownFields::default() }
    };
    nics.map(brief).collect()
}

/// A seed as a host is told of it.
#[must_use]
pub fn brief_seed(vm: &VmName, seed: &Seed) -> BriefSeed {
    BriefSeed {
        hostname: seed.hostname.clone().unwrap_or_else(|| vm.to_string()),
        ssh_keys: seed.ssh_keys.clone(),
        user_data: seed.user_data.clone(),
        network_config: seed.network_config.clone(),
        files: seed.files.clone(),
        unknown_fields: UnknownFields::default(),
    }
}

/// A random UUID. Source: RFC 9562 §5.4.
///
/// # Errors
/// [`Code::Failed`] if the kernel has no random bytes.
pub fn fresh_uuid() -> Result<String, Problem> {
    let mut bytes: [u8; 16] = random()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let groups = [&bytes[..4], &bytes[4..6], &bytes[6..8], &bytes[8..10], &bytes[10..]];
    Ok(groups.map(hex).join("-"))
}

/// An address under QEMU's prefix that nobody has.
fn fresh_mac(taken: impl Fn(&String) -> bool) -> Result<String, Problem> {
    for _ in 0..DRAWS_MAX {
        let [a, b, c] = random()?;
        let mac = format!("52:54:00:{a:02x}:{b:02x}:{c:02x}");
        if !taken(&mac) {
            return Ok(mac);
        }
    }
    Err(Problem::new(Code::Failed, "no free address was drawn for an interface", "give one with nic.mac"))
}

/// What was checked before it was stored.
fn reread(text: &str) -> Result<Spec, Problem> {
    Spec::stored(text).map_err(|problem| {
        let text = format!("a stored description is not understood: {}", problem.text);
        Problem::new(Code::StoreFailed, text, "run the muskox version that wrote it")
    })
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: addresses are kept over an edit, new ones are QEMU's and nobody's, a given one is checked. Method: two
    /// interfaces become three.
    #[test]
    fn addresses_are_made_once() {
        let text = |nics: &[&str]| {
            let nics: String = nics.iter().map(|mac| format!("[[nic]]\nbridge='lan'\n{mac}\n")).collect();
            format!("name='a'\nmemory=512\nvcpus=1\n[[disk]]\nvolume='a'\n{nics}")
        };
        let shape = |nics: &[&str], before: &[String], taken: &[String]| {
            let text = text(nics);
            Shape::new(&text, &Spec::parse(&text).expect("good"), before, &taken.iter().cloned().collect())
        };
        let first = shape(&["", ""], &[], &[]).expect("two");
        assert!(first.macs.iter().all(|mac| mac.starts_with("52:54:00:") && mac.len() == 17), "{:?}", first.macs);
        assert_ne!(first.macs[0], first.macs[1]);
        let more = shape(&["", "", "mac='02:00:00:00:00:01'"], &first.macs, &[]).expect("three");
        assert_eq!(more.macs[..2], first.macs[..]);
        assert_eq!(more.macs[2], "02:00:00:00:00:01");
        assert!(shape(&["mac='02:00:00:00:00:01'"], &[], &more.macs).is_err(), "another VM's");
        assert!(shape(&["mac='02:00:00:00:00:01'", "mac='02:00:00:00:00:01'"], &[], &[]).is_err(), "twice");
    }

    #[test]
    fn a_uuid_is_random_and_says_so() {
        let uuid = fresh_uuid().expect("random bytes");
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"), "{uuid}");
        assert!(matches!(&uuid[19..20], "8" | "9" | "a" | "b"), "{uuid}");
    }
}
