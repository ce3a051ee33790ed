//! Join tokens: `mx1-FINGERPRINT-SECRET-ADDRESS`. The fingerprint lets the joiner check the server before it says the
//! secret; the secret is 256 random bits, and the store keeps only its hash.

use crate::secret::Secret;
use api::{Code, Problem};
use std::net::SocketAddr;
use std::str::FromStr;
use units::CaFingerprint;

const PREFIX: &str = "mx1";

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Whose CA must stand behind the server.
    pub ca: CaFingerprint,
    /// What proves that the joiner may.
    pub secret: Secret,
    /// Where the server listens.
    pub address: SocketAddr,
}

impl JoinToken {
    /// The text to hand over. Secret.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}-{}-{}-{}", self.ca, self.secret.reveal(), self.address)
    }
}

impl FromStr for JoinToken {
    type Err = Problem;
    fn from_str(text: &str) -> Result<Self, Problem> {
        let parse = || {
            let mut parts = text.trim().splitn(4, '-');
            (parts.next()? == PREFIX).then_some(())?;
            let ca = parts.next()?.parse().ok()?;
            let secret = parts.next()?.parse().ok()?;
            Some(Self { ca, secret, address: parts.next()?.parse().ok()? })
        };
        let hint = "copy the whole text that `muskox node token` printed, or make a new one";
        parse().ok_or_else(|| Problem::new(Code::BadRequest, "this is no join token", hint))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: a token survives its text, and a spoilt one is refused without its secret in the complaint. Method: both.
    #[test]
    fn tokens_are_text() {
        for address in ["127.0.0.1:10811", "[2001:db8::1]:10811"] {
            let token = JoinToken {
                ca: CaFingerprint([0xab; 32]),
                secret: Secret::new([0xcd; 32]),
                address: address.parse().unwrap(),
            };
            let text = token.reveal();
            assert_eq!(format!(" {text}\n").parse::<JoinToken>().unwrap(), token);
            assert!(!format!("{token:?}").contains("cdcd"));
            for spoilt in [&text[1..], &text[..100], "", "mx1", &text.replace("mx1", "mx2"), &text.replace("cd", "zz")]
            {
                let problem = spoilt.parse::<JoinToken>().unwrap_err();
                assert!(problem.code == Code::BadRequest && !problem.text.contains("cdcd"), "{problem:?}");
            }
        }
    }
}
