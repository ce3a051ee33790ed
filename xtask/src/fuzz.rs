//! Fuzz targets live in `fuzz/`, outside the workspace. Stable replays the corpus as tests; nightly searches for more.

use crate::in_steps;
use crate::step::{Steps, cargo};
use anyhow::Context;
use std::process::Command;

/// How much memory a target may take: a decoder that takes more on some bytes has no bound.
const RSS_MIB: u32 = 512;

/// `cargo xtask fuzz [TARGET]`.
///
/// # Errors
/// When there is no such target.
pub fn run(target: Option<&str>, seconds: u32) -> anyhow::Result<bool> {
    let targets = targets()?;
    if let Some(name) = target {
        anyhow::ensure!(
            targets.iter().any(|known| known == name),
            "no fuzz target '{name}', there are: {}",
            targets.join(", ")
        );
    }
    in_steps(|steps| {
        for name in targets.iter().filter(|name| target.is_none_or(|target| target == *name)) {
            let mut command = Command::new("cargo");
            // The toolchain that runs us is pinned in the environment; `+nightly` has to win.
            command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").args(["+nightly", "fuzz", "run", name, "--"]);
            command.args([format!("-max_total_time={seconds}"), format!("-rss_limit_mb={RSS_MIB}")]);
            steps.command(&format!("fuzz {name}"), &mut command);
        }
        Ok(())
    })
}

/// Replays every saved input on stable.
pub fn replay(steps: &mut Steps) {
    steps.command("fuzz corpus", &mut cargo(&["test", "--manifest-path", "fuzz/Cargo.toml", "--no-fail-fast"]));
}

fn targets() -> anyhow::Result<Vec<String>> {
    let folder = std::fs::read_dir("fuzz/fuzz_targets").context("looking for fuzz/fuzz_targets")?;
    let mut names: Vec<String> = folder
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}
