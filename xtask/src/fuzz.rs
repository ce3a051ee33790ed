//! Fuzz targets live in `fuzz/`, outside the workspace. Stable replays the corpus as tests; nightly searches for more.

use crate::in_steps;
use crate::step::{Steps, cargo};
use anyhow::Context;
use std::process::Command;

/// How much memory a target may take: a decoder that takes more on some bytes has no bound.
const RSS_MIB: u32 = 512;
/// How long one input may take, in seconds: one that takes longer hangs.
const HANG_SECONDS: u32 = 10;
/// No seed is longer: what is found beyond is found below.
const INPUT_BYTES_MAX: u32 = 8192;
/// Inputs that reach new code go here; only what crashed, and is mended, becomes a file of the corpus.
const FOUND: &str = "fuzz/target/found";

/// `cargo xtask fuzz [TARGET]`: one after the other, each on one core.
///
/// # Errors
/// When there is no such target, or the folder of what is found cannot be made.
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
            let found = format!("{FOUND}/{name}");
            std::fs::create_dir_all(&found).with_context(|| format!("making {found}"))?;
            steps.command(&format!("fuzz {name}"), &mut search(name, &found, seconds));
        }
        Ok(())
    })
}

/// Without a sanitizer: what is fuzzed has no unsafe code, debug assertions and overflow checks are on either way, and
/// it is several times faster.
fn search(name: &str, found: &str, seconds: u32) -> Command {
    let mut command = Command::new("cargo");
    // The toolchain that runs us is pinned in the environment; `+nightly` has to win.
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    command.args(["+nightly", "fuzz", "run", "--sanitizer", "none", "--features", "libfuzzer", name]);
    // The first folder is written to, the others are only read.
    command.args([found, &format!("fuzz/corpus/{name}"), "--", "-print_final_stats=1"]);
    command.args([format!("-max_total_time={seconds}"), format!("-rss_limit_mb={RSS_MIB}")]);
    command.args([format!("-timeout={HANG_SECONDS}"), format!("-max_len={INPUT_BYTES_MAX}")]);
    command
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
