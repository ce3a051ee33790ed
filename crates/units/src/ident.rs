//! Identities and names. An identity never depends on an address, a hostname or a device path.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Why a text is not an identity or a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentError {
    /// Not the right number of hexadecimal digits.
    #[error("'{text}' is not {want} hexadecimal digits")]
    NotHex {
        /// What was given, cut to a printable length.
        text: String,
        /// How many digits it takes.
        want: usize,
    },
    /// A name with a character or a length that is not allowed.
    #[error("'{0}' is not a name: use 1 to 63 of a-z 0-9 - _ . and start with a letter or digit")]
    BadName(String),
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
        impl FromStr for $name {
            type Err = IdentError;
            fn from_str(text: &str) -> Result<Self, IdentError> {
                let mut bytes = [0; $bytes];
                parse_hex(text, &mut bytes).map(|()| Self(bytes))
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let digits = 2 * $bytes;
                schemars::json_schema!({"type": "string", "pattern": format!("^[0-9a-fA-F]{{{digits}}}$")})
            }
        }
    };
}

hex_id!(
    /// Who a machine is: the SHA-256 of its TLS public key (SubjectPublicKeyInfo, DER). A renewed certificate
    /// keeps the key and so the identity.
    HostKey,
    32
);
hex_id!(
    /// Which cluster: the SHA-256 of its CA's certificate (DER).
    CaFingerprint,
    32
);
hex_id!(
    /// Which volume, for ever. Its 32 hexadecimal digits are also the LVM2 id of its logical volume.
    VolumeId,
    16
);
hex_id!(
    /// Which array: the md `set_uuid`.
    ArrayId,
    16
);

/// A name a person gave: 1 to 63 of `a-z 0-9 - _ .`, starting with a letter or digit, so that it is safe as a
/// file name, a DNS label part, an LVM2 name and an NBD export name.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl FromStr for $name {
            type Err = IdentError;
            fn from_str(text: &str) -> Result<Self, IdentError> {
                check_name(text).map(|()| Self(text.to_owned()))
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
        #[cfg(feature = "schema")]
        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let pattern = format!("^[a-z0-9][a-z0-9._-]{{0,{}}}$", NAME_MAX - 1);
                schemars::json_schema!({"type": "string", "pattern": pattern})
            }
        }
    };
}

name!(
    /// A volume's name within the cluster.
    VolumeName
);
name!(
    /// A machine's name within the cluster.
    NodeName
);
name!(
    /// A pool's name: also the LVM2 volume group's and the md array's.
    PoolName
);
name!(
    /// A VM's name within the cluster.
    VmName
);

const NAME_MAX: usize = 63;
const SHOWN_MAX: usize = 80;

fn check_name(text: &str) -> Result<(), IdentError> {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let allowed = |c: u8| plain(c) || matches!(c, b'-' | b'_' | b'.');
    let bytes = text.as_bytes();
    match bytes.first() {
        Some(&first) if plain(first) && bytes.len() <= NAME_MAX && bytes.iter().copied().all(allowed) => Ok(()),
        _ => Err(IdentError::BadName(shown(text))),
    }
}

fn parse_hex(text: &str, into: &mut [u8]) -> Result<(), IdentError> {
    let bad = || IdentError::NotHex { text: shown(text), want: into.len() * 2 };
    if text.len() != into.len() * 2 || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
        return Err(bad());
    }
    for (byte, digits) in into.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).expect("checked to be ASCII above");
        *byte = u8::from_str_radix(digits, 16).expect("checked to be hexadecimal above");
    }
    Ok(())
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn names_keep_path_tricks_out() {
        for good in ["a", "web1", "web-1_b.c", "0", &"x".repeat(63)] {
            assert!(good.parse::<VolumeName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "../x", "a/b", "A", "-a", "_a", "a b", "a\0", "ä", "a\n", &"x".repeat(64)] {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_survive_text_both_ways() {
        let id = VolumeId([0xab; 16]);
        assert_eq!(id.to_string(), "ab".repeat(16));
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "zz", &"ab".repeat(15), &"ab".repeat(17), &"+1".repeat(16)] {
            assert!(bad.parse::<VolumeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_shows_no_control_characters() {
        let error = "a\u{1b}[31m".parse::<VolumeName>().expect_err("an escape is no name");
        assert!(!error.to_string().contains('\u{1b}'));
    }
}
