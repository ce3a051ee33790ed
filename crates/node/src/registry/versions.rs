//! The registry's own objects, for the test of all that another version may have written (`crate::versions`). Each is written once.

use super::{Gone, Held, Waiting};
use crate::versions::{Kind, object};
use serde_json::json;

pub const HELD: Kind = Kind {
    name: "/address",
    sample: || json!({"version": 1, "name": "a"}),
    rewrite: object::<Held>,
    versioned: true,
    keeps: &[],
};

pub const WAITING: Kind = Kind {
    name: "/token",
    sample: || json!({"version": 1, "until_s": 7}),
    rewrite: object::<Waiting>,
    versioned: true,
    keeps: &[],
};

pub const GONE: Kind = Kind {
    name: "/removed",
    sample: || json!({"version": 1, "name": "a", "removed_s": 7}),
    rewrite: object::<Gone>,
    versioned: true,
    keeps: &[],
};
