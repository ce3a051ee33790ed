//! `cargo xtask bench NAME`: builds the programs in release and lets the lab measure them beside their peers.

use crate::step::cargo;
use anyhow::Context;
use std::process::Command;

const NAMES: [&str; 1] = ["nbd"];

/// Runs one bench; with `check` a missed goal is a failure.
///
/// # Errors
/// When there is no such bench or the programs cannot be built.
pub fn run(name: &str, check: bool, more: &[String]) -> anyhow::Result<bool> {
    anyhow::ensure!(NAMES.contains(&name), "no bench '{name}', there are: {}", NAMES.join(", "));
    let built =
        cargo(&["build", "--release", "--quiet", "-p", "muskox", "-p", "lab"]).status().context("running cargo")?;
    anyhow::ensure!(built.success(), "the programs could not be built");
    let mut lab = Command::new("target/release/muskox-lab");
    lab.args(["bench", name, "--program", "target/release/muskox"]).args(more);
    if check {
        lab.arg("--check");
    }
    Ok(lab.status().context("running the lab")?.success())
}
