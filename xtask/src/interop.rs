//! `cargo xtask interop NAME`: has somebody else's implementation take over what muskox wrote, and hand back its own.

use crate::step::cargo;
use crate::{check, setup};
use anyhow::Context;

const NAMES: [&str; 1] = ["kernel"];

/// Tries one; what is not well is `Ok(false)`.
///
/// # Errors
/// When there is no such oracle, or the programs cannot be built.
pub fn run(name: &str, more: &[String]) -> anyhow::Result<bool> {
    anyhow::ensure!(NAMES.contains(&name), "no oracle '{name}', there are: {}", NAMES.join(", "));
    let wrong = setup::for_tests(false)?;
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // All of the lab's programs: `cargo run` builds only the one that it runs.
    for build in [&check::PROGRAM[..], &["build", "--quiet", "-p", "lab"]] {
        let built = cargo(build).status().context("running cargo")?;
        anyhow::ensure!(built.success(), "the programs could not be built");
    }
    let mut lab = cargo(&["run", "--quiet", "-p", "lab", "--", "interop-kernel"]);
    Ok(lab.args(more).status().context("running the lab")?.success())
}
