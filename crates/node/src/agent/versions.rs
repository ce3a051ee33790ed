//! The agent's files, for the test of all that another version may have written (`crate::versions`).

use super::memory::Memory;
use super::sequence::Lives;
use crate::versions::Kind;
use serde_json::json;

pub const MEMORY: Kind = Kind {
    name: "vm/NAME.json",
    sample: || json!({"version": 1, "orders": 7, "brief": crate::versions::brief(), "epoch": 4, "powered_off": false}),
    rewrite: |text| Memory::parse(text).map(|read| serde_json::to_string(&read).unwrap()),
    versioned: true,
    keeps: &["", "/brief", "/brief/disks/0", "/brief/nics/0", "/brief/seed"],
};

/// `life` means the same in every version.
pub const LIVES: Kind = Kind {
    name: "agent-life",
    sample: || json!({"version": 1, "life": 7}),
    rewrite: |text| Lives::parse(text).map(|read| read.text()),
    versioned: false,
    keeps: &[""],
};
