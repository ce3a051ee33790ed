//! Why a call did nothing: RFC 9457 problem details with a stable code, what is wrong, and what to do.

use crate::schema::words;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

words! {
    /// What kind of problem; programs decide by this word. A word never changes its meaning.
    pub enum Code {
        /// The request cannot be read or says something that is not allowed.
        BadRequest = "bad_request",
        /// The request is longer than any may be.
        TooLarge = "too_large",
        /// There is no such call.
        NoSuchCall = "no_such_call",
        /// There is a call of that path, with another method.
        WrongMethod = "wrong_method",
        /// There is nothing of that name.
        NotFound = "not_found",
        /// The request came from where this call is not allowed.
        Forbidden = "forbidden",
        /// The caller's key belongs to no member of this cluster.
        NotAMember = "not_a_member",
        /// The caller's machine was removed from the cluster.
        Removed = "removed",
        /// The join token is not one of this cluster's, or was used already.
        TokenUnknown = "token_unknown",
        /// The join token's time is over.
        TokenExpired = "token_expired",
        /// Another machine has this name.
        NameTaken = "name_taken",
        /// Another machine has this address.
        AddressTaken = "address_taken",
        /// The machine that holds the store stays as long as it holds it.
        HoldsStore = "holds_store",
        /// Something exists already and is not overwritten.
        Exists = "exists",
        /// This machine does not hold the store: ask the one that does.
        NotTheStore = "not_the_store",
        /// The machine that holds the store does not answer; nothing was decided.
        StoreUnreachable = "store_unreachable",
        /// The store does not work; nothing was decided.
        StoreFailed = "store_failed",
        /// Somebody else is changing the same thing; ask again.
        Busy = "busy",
        /// It is being used, or a job works on it.
        InUse = "in_use",
        /// There is no room for it.
        NoRoom = "no_room",
        /// A disk holds something; asked again with `wipe` it is overwritten.
        HoldsData = "holds_data",
        /// It cannot be done as things are; the text has all reasons.
        NotPossible = "not_possible",
        /// Two machines' clocks are too far apart for their certificates.
        ClockSkew = "clock_skew",
        /// The other machine is not who it should be.
        WrongPeer = "wrong_peer",
        /// The other machine does not answer.
        Unreachable = "unreachable",
        /// A file or folder of this machine cannot be used.
        Files = "files",
        /// An internal failure.
        Failed = "failed",
    }
}

impl Code {
    /// The HTTP status it comes with. Source: RFC 9110 §15.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Forbidden | Self::NotAMember | Self::Removed | Self::TokenUnknown | Self::TokenExpired => 403,
            Self::NotFound | Self::NoSuchCall => 404,
            Self::WrongMethod => 405,
            Self::TooLarge => 413,
            Self::NameTaken
            | Self::AddressTaken
            | Self::HoldsStore
            | Self::Exists
            | Self::InUse
            | Self::NoRoom
            | Self::HoldsData
            | Self::NotPossible => 409,
            Self::NotTheStore => 421,
            Self::StoreUnreachable | Self::StoreFailed | Self::Busy | Self::Unreachable => 503,
            Self::ClockSkew | Self::WrongPeer | Self::Files | Self::Failed => 500,
        }
    }
}

/// Why a call did nothing (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "Wire", into = "Wire")]
pub struct Problem {
    /// What kind.
    pub code: Code,
    /// What is wrong, and where.
    pub text: String,
    /// What to do.
    pub hint: String,
}

/// RFC 9457 §3.1's members, and two of ours: `code` and `hint`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
struct Wire {
    /// A URN that ends in the code.
    #[serde(rename = "type", default)]
    kind: String,
    /// What the code means.
    #[serde(default)]
    title: String,
    /// The HTTP status.
    #[serde(default)]
    status: u16,
    /// What is wrong, and where.
    detail: String,
    code: Code,
    /// What to do.
    #[serde(default)]
    hint: String,
}

impl Problem {
    /// A problem.
    #[must_use]
    pub fn new(code: Code, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, text: text.into(), hint: hint.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Problem {}

impl From<Problem> for Wire {
    fn from(problem: Problem) -> Self {
        Self {
            kind: format!("urn:muskox:problem:{}", problem.code),
            title: problem.code.meaning().to_owned(),
            status: problem.code.status(),
            detail: problem.text,
            code: problem.code,
            hint: problem.hint,
        }
    }
}

impl From<Wire> for Problem {
    fn from(wire: Wire) -> Self {
        Self { code: wire.code, text: wire.detail, hint: wire.hint }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use serde_json::json;

    /// Goal: what goes over the wire is RFC 9457 and comes back the same. Method: there and back.
    #[test]
    fn a_problem_survives_the_wire() {
        let problem = Problem::new(Code::TokenExpired, "the token expired", "make a new one");
        let wire = serde_json::to_value(&problem).expect("it serializes");
        assert_eq!(wire["type"], "urn:muskox:problem:token_expired");
        assert_eq!((&wire["status"], &wire["detail"]), (&json!(403), &json!("the token expired")));
        assert_eq!(serde_json::from_value::<Problem>(wire).expect("it is one"), problem);
    }

    /// Goal: codes are stable words. Method: each is snake case, its own, and found by its word.
    #[test]
    fn codes_are_words() {
        for code in Code::ALL {
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert!(code.as_str().bytes().all(|c| c.is_ascii_lowercase() || c == b'_'), "{code}");
            assert!((400..600).contains(&code.status()));
        }
        assert!("nonsense".parse::<Code>().expect_err("no code").contains("bad_request"));
    }
}
