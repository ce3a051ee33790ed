//! Developer tools that come from crates.io: cargo-deny is built once into `target/tools`, cargo-fuzz
//! where cargo finds it as a subcommand.

use crate::step;
use anyhow::Context;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where our own cargo-deny is put.
pub const DENY: &str = "target/tools/bin/cargo-deny";
const DENY_VERSION: &str = "0.20.2";

/// A cargo-deny that can be run: ours, or the one on the path.
pub fn cargo_deny() -> Option<&'static str> {
    if Path::new(DENY).exists() {
        return Some(DENY);
    }
    answers("cargo-deny", &["--version"]).then_some("cargo-deny")
}

/// Builds cargo-deny if there is none. Unoptimised, because it checks a lock file in a second either way and would
/// take minutes more to build.
///
/// # Errors
/// When cargo cannot be run.
pub fn install_cargo_deny() -> anyhow::Result<Vec<String>> {
    if cargo_deny().is_some() {
        println!("cargo-deny is installed");
        return Ok(Vec::new());
    }
    println!("building cargo-deny {DENY_VERSION} into target/tools");
    let mut install = step::cargo(&[
        "install",
        "cargo-deny",
        "--version",
        DENY_VERSION,
        "--locked",
        "--no-default-features",
        "--quiet",
    ]);
    install.args(["--root", "target/tools", "--target-dir", "target/tools/build"]);
    install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0").env("CARGO_PROFILE_RELEASE_LTO", "off");
    install.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "64").env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    let ended = install.status().context("running cargo install")?;
    // A gigabyte of intermediate files that nobody needs again.
    let _ = std::fs::remove_dir_all("target/tools/build");
    Ok(if ended.success() { Vec::new() } else { vec!["cargo-deny could not be built (no network?)".into()] })
}

/// Builds cargo-fuzz if there is none, and says what else `cargo xtask fuzz` needs: the nightly toolchain and a C++
/// compiler. No sanitizer is used, so neither `rust-src` nor the sanitizers' runtimes are.
///
/// # Errors
/// Never; the shape is a step's.
pub fn prepare_fuzz() -> anyhow::Result<Vec<String>> {
    let mut wrong = Vec::new();
    if !answers("cargo", &["+nightly", "--version"]) {
        wrong.push("no nightly toolchain: run `rustup toolchain install nightly`".into());
    }
    if !answers("c++", &["--version"]) {
        wrong.push("no C++ compiler, which libFuzzer is built with: run `apt-get install g++`".into());
    }
    if !answers("cargo", &["fuzz", "--version"]) {
        println!("building cargo-fuzz");
        let built =
            step::cargo(&["install", "cargo-fuzz", "--locked", "--quiet"]).status().context("running cargo install")?;
        if !built.success() {
            wrong.push("cargo-fuzz could not be built: run `cargo install cargo-fuzz`".into());
        }
    }
    Ok(wrong)
}

fn answers(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // `cargo +nightly` is rustup's cargo, not the one that runs us.
    command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    command.status().is_ok_and(|ended| ended.success())
}
