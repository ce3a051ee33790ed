//! Who may ask what. A member's key may be in a stranger's hands, so by itself a machine may ask for little: whatever is not listed
//! here is refused. A person's words that a member passes on are marked with that person's number; the mark is the member's own
//! word, so it shows who claims to have asked (`audit`), and does not hold off whoever has taken a member over.
//!
//! ```text
//!                        user here   passed on for a user   machine by itself   removed, stranger, nobody
//!  members' calls            yes             yes               BY_ITSELF only            no
//!  consoles                  yes         of this host             no                     no
//!  own calls (images …)      yes             no                   no                     no
//!  join, renew               yes             yes                  yes                   yes: the request proves it
//!  /peer: orders             –               –            the one with the store         no
//!  /peer: reports            –               –                    yes                    no
//!  /peer: claim              –        with a user's number        no                     no
//! ```

use crate::peer::Ask;
use api::{Call, Code, Problem, Who};
use hyper::header::{HeaderMap, HeaderValue};
use units::HostKey;

/// The mark of words that a member passes on: the number of its user who said them.
pub const FOR_USER: &str = "muskox-for-user";
/// Members' calls that a machine makes by itself: a console's host asks who is a member.
const BY_ITSELF: [&str; 1] = ["node_list"];

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A user of this machine, over the Unix socket, which only its owner may open.
    Local(u32),
    /// This node itself.
    Itself,
    /// The machine that has this key, by TLS.
    Machine {
        /// Its key.
        key: HostKey,
        /// For which user of its own, as it says; none: by itself.
        user: Option<u32>,
    },
    /// Somebody by TLS without a certificate.
    Nobody,
}

impl Caller {
    /// The caller of a request on this connection.
    #[must_use]
    pub fn of_request(self, headers: &HeaderMap) -> Self {
        let said = || headers.get(FOR_USER)?.to_str().ok()?.parse().ok();
        match self {
            Self::Machine { key, .. } => Self::Machine { key, user: said() },
            other => other,
        }
    }

    /// Which user asks, here or there.
    #[must_use]
    pub const fn user(self) -> Option<u32> {
        match self {
            Self::Local(user) => Some(user),
            Self::Machine { user, .. } => user,
            Self::Itself | Self::Nobody => None,
        }
    }
}

/// The mark for words of this user.
#[must_use]
pub fn mark(user: u32) -> HeaderValue {
    HeaderValue::from(user)
}

/// Whether a caller may make a call that is decided here. Who is a member is asked elsewhere.
///
/// # Errors
/// [`Code::Forbidden`].
pub fn check_call(caller: Caller, call: &Call) -> Result<(), Problem> {
    match (call.who, caller) {
        (Who::Anybody, _) | (_, Caller::Local(_)) | (Who::Members, Caller::Machine { user: Some(_), .. }) => Ok(()),
        (Who::Members, Caller::Itself | Caller::Machine { user: None, .. }) if BY_ITSELF.contains(&call.name) => Ok(()),
        (Who::Members, Caller::Itself | Caller::Machine { user: None, .. }) => Err(by_itself(call.name)),
        (Who::Members, Caller::Nobody) => {
            let text = "this call needs a member's certificate";
            Err(Problem::new(Code::Forbidden, text, "use the node's own socket on a member"))
        }
        (Who::Owner, _) => {
            let text = "this call is for the machine's own owner";
            Err(Problem::new(Code::Forbidden, text, "ask on that machine, over its node's socket"))
        }
    }
}

/// Whether a caller may visit a console; the user who does.
///
/// # Errors
/// [`Code::Forbidden`].
pub fn check_console(caller: Caller) -> Result<u32, Problem> {
    match caller {
        Caller::Local(user) | Caller::Machine { user: Some(user), .. } => Ok(user),
        Caller::Itself | Caller::Machine { user: None, .. } => Err(by_itself("console")),
        Caller::Nobody => {
            let text = "this call needs a member's certificate";
            Err(Problem::new(Code::Forbidden, text, "use the node's own socket on a member"))
        }
    }
}

/// Whether a machine may say this to another one. Who is a member is asked elsewhere.
///
/// # Errors
/// [`Code::Forbidden`].
pub fn check_peer(from: HostKey, store: HostKey, ask: &Ask) -> Result<(), Problem> {
    if ask.is_the_stores() && from != store {
        tracing::warn!("the machine {from} gave an order, which only the machine with the store may");
        return Err(Problem::new(Code::Forbidden, "only the machine with the store may ask for this", ""));
    }
    match ask {
        Ask::Claim { user: None, .. } => Err(by_itself("claim of a volume")),
        _ => Ok(()),
    }
}

fn by_itself(what: &str) -> Problem {
    let text = format!("a machine may not ask for this by itself ({what}): it did not say for which of its users");
    let hint = "use the node's own socket on a member; if that member runs an older muskox, update it";
    Problem::new(Code::Forbidden, text, hint)
}

#[cfg(test)]
mod test;
