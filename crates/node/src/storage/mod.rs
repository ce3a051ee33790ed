//! Pools and volumes of the cluster: what the store says of them, and what their targets do.
//!
//! ```text
//!  make:    intent into the store ─▶ target makes it ─▶ outcome into the store      a refusal takes the intent back,
//!                                                                                   a crash between is mended by asking again
//!  look:    names from the store, state from every target at once, for a short time; who does not answer is `unknown`
//!  fill:    claim ─▶ epoch + 1, granted to the filler ─▶ … ─▶ release: epoch + 2, granted to nobody
//! ```
//! Invariant: a volume's floor in the store is raised before its target hears of the epoch; nobody's volume is granted to
//! nobody or to the machine with the claim. It does *not* know VMs.

pub mod claims;
mod holds;
pub mod object;
mod pools;
mod targets;
mod volumes;

pub use holds::check_free;
pub use targets::look_at_all;

use crate::client::Answer;
use crate::service::{Keeper, Node, done, parse};
use api::{Call, Code, Problem};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Names of pools and volumes that something is being done to right now, by this process: the only one that decides.
#[derive(Default)]
pub struct Names(RefCell<BTreeSet<String>>);

/// A name that is kept until it is dropped.
pub struct Taken<'a>(&'a Names, String);

impl Names {
    /// Keeps a name for one deed at a time.
    ///
    /// # Errors
    /// [`Code::Busy`].
    pub fn take(&self, kind: &str, name: &impl std::fmt::Display) -> Result<Taken<'_>, Problem> {
        let name = format!("{kind} '{name}'");
        if self.0.borrow_mut().insert(name.clone()) {
            return Ok(Taken(self, name));
        }
        Err(Problem::new(Code::Busy, format!("something is being done to the {name} already"), "ask again in a moment"))
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.0.borrow_mut().remove(&self.1);
    }
}

/// Whether a call is about pools or volumes.
#[must_use]
pub fn answers(call: &Call) -> bool {
    call.name.starts_with("pool_") || call.name.starts_with("volume_")
}

/// Answers a call about pools or volumes.
///
/// # Errors
/// Why nothing was done.
pub async fn answer(node: &Node, keeper: &Keeper, call: &Call, name: &str, body: &[u8]) -> Result<Answer, Problem> {
    match call.name {
        "pool_list" => pools::list(node, keeper).await.map(|it| done(&it)),
        "pool_create" => pools::create(node, keeper, parse(body)?).await.map(|it| done(&it)),
        "pool_show" => pools::show(node, keeper, &named(name)?).await.map(|it| done(&it)),
        "pool_add" => pools::add(node, keeper, named(name)?, parse(body)?).await.map(|it| done(&it)),
        "pool_replace" => pools::replace(node, keeper, named(name)?, parse(body)?).await.map(|it| done(&it)),
        "pool_start" => pools::start(node, keeper, named(name)?, parse(body)?).await.map(|it| done(&it)),
        "pool_stop" => pools::stop(node, keeper, &named(name)?).await.map(|it| done(&it)),
        "volume_list" => volumes::list(node, keeper).await.map(|it| done(&it)),
        "volume_create" => volumes::create(node, keeper, parse(body)?).await.map(|it| done(&it)),
        "volume_show" => volumes::show(node, keeper, &named(name)?).await.map(|it| done(&it)),
        "volume_remove" => volumes::remove(node, keeper, &named(name)?).await.map(|it| done(&it)),
        other => unreachable!("'{other}' is in the table of calls and nobody answers it"),
    }
}

fn named<T: std::str::FromStr<Err = units::IdentError>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error: units::IdentError| Problem::new(Code::BadRequest, error.to_string(), "check the name"))
}
