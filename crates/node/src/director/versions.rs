//! The director's own objects, for the test of all that another version may have written (`crate::versions`).

use super::facts::Facts;
pub use super::witnesses::Object as Witnesses;
use crate::versions::{Kind, object};
use serde_json::json;

pub const FACTS: Kind = Kind {
    name: "/fact",
    sample: || json!({"version": 1, "facts": [{"at_ms": 1, "kind": "paused", "host": "a"}, {"at_ms": 2, "kind": "dreamt"}]}),
    rewrite: object::<Facts>,
    versioned: true,
    keeps: &["", "/facts/0", "/facts/1"],
};
