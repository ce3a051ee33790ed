//! 32 random bytes that open something: a token's secret, the key of one move. They are shown only where they are handed over.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use units::HostKey;

/// 256 random bits.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// From random bytes.
    #[must_use]
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// As it is handed over: 64 hexadecimal digits.
    #[must_use]
    pub fn reveal(&self) -> String {
        HostKey(self.0).to_string()
    }

    /// The hash, in hexadecimal. A plain hash is enough: nobody guesses 256 random bits.
    #[must_use]
    pub fn hash(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.0);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Never the secret itself: it must not end up in a log.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl FromStr for Secret {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse::<HostKey>().map(|bytes| Self(bytes.0)).map_err(drop)
    }
}

/// For messages between machines, over mTLS.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.reveal())
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The text itself is not repeated in the error.
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|()| serde::de::Error::custom("a secret of 64 hexadecimal digits is expected"))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: a secret crosses a message whole, and neither a log nor a complaint shows it. Method: both.
    #[test]
    fn a_secret_is_shown_to_nobody_else() {
        let secret = Secret::new([0xcd; 32]);
        let text = serde_json::to_string(&secret).unwrap();
        assert_eq!(serde_json::from_str::<Secret>(&text).unwrap(), secret);
        assert!(!format!("{secret:?}").contains("cd"));
        let refused = serde_json::from_str::<Secret>(&text.replacen("cd", "zz", 1)).unwrap_err().to_string();
        assert!(!refused.contains("cdcd"), "{refused}");
        assert_ne!(secret.hash(), Secret::new([2; 32]).hash());
    }
}
