//! `check`, `fix`, `test`: what must hold, from the quickest to the slowest.

use crate::step::{Steps, cargo};
use crate::{fuzz, in_steps, setup, tidy};
use std::path::Path;
use std::process::Command;

/// The rooms that hold planted bugs. `sim` always has them; with it in one build every room would.
const SABOTAGED: [&str; 5] = ["units", "block", "cluster", "dataplane", "sim"];

/// Builds the program that the lab drives.
pub const PROGRAM: [&str; 4] = ["build", "--quiet", "-p", "muskox"];
/// Of each kind: under a minute in all. `cargo xtask lab kills --rounds 100` is the long run.
const KILL_ROUNDS: &str = "3";
/// Migrations with a fault, and deaths of every node: under 100 s in all. `cargo xtask lab migrate --rounds 50` is the long run.
const MIGRATIONS: [&str; 6] = ["--rounds", "2", "--nodes", "1", "--node-kills", "1"];
/// Cases of the kernel oracle, half a minute with the guest's boot, where its image is in the cache (`cargo xtask interop kernel`
/// makes it, two minutes). All of them are the long run.
const KERNEL_CASES: [&str; 5] =
    ["--if-cached", "--only", "md: a clean mirror", "--only", "OD1: muskox ran a, the kernel b, the state"];
/// How long the simulator looks for new trouble, at most; its tests run fixed seeds besides.
const SIM_MINUTES: &str = "1";

/// `cargo xtask check`.
///
/// # Errors
/// When a step could not even be described; a failed step is `Ok(false)`.
pub fn check(advisories: bool) -> anyhow::Result<bool> {
    in_steps(|steps| {
        look(steps);
        let unit = ["test", "--workspace", "--exclude", "sim", "--lib", "--bins", "--no-fail-fast", "--quiet"];
        steps.command("unit tests", &mut cargo(&unit));
        document(steps);
        licences(steps, advisories);
        Ok(())
    })
}

/// `cargo xtask fix`.
///
/// # Errors
/// When a step could not even be described; a failed step is `Ok(false)`.
pub fn fix() -> anyhow::Result<bool> {
    in_steps(|steps| {
        steps.command(
            "clippy --fix",
            &mut cargo(&["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"]),
        );
        steps.command("fmt", &mut cargo(&["fmt", "--all"]));
        Ok(())
    })
}

/// `cargo xtask test`.
///
/// # Errors
/// When a step could not even be described; a failed step is `Ok(false)`.
pub fn test(allow_missing: bool) -> anyhow::Result<bool> {
    in_steps(|steps| {
        steps.work("setup", || setup::for_tests(allow_missing));
        look(steps);
        document(steps);
        licences(steps, false);
        // Without `sim`: it switches the planted bugs on, and these tests are about the program we ship.
        tests(steps, "tests, oracles, lab", &["--workspace", "--exclude", "sim"], allow_missing);
        let mut sabotaged: Vec<&str> = SABOTAGED.iter().flat_map(|room| ["-p", room]).collect();
        sabotaged.extend(["--features", "sabotage"]);
        tests(steps, "tests with planted bugs", &sabotaged, allow_missing);
        let panics = ["-p", "muskox", "--features", "sabotage", "--test", "panics"];
        tests(steps, "a panic in each daemon", &panics, allow_missing);
        if Path::new("sim/src/main.rs").exists() {
            steps.command("sim", &mut cargo(&["run", "--quiet", "-p", "sim", "--", "run", "--minutes", SIM_MINUTES]));
        }
        short_lab_run(steps, allow_missing);
        if Path::new("fuzz/Cargo.toml").exists() {
            fuzz::replay(steps);
        }
        Ok(())
    })
}

/// Target, initiator, power and cables fail three times each under a verifying load; then a guest moves under faults.
fn short_lab_run(steps: &mut Steps, allow_missing: bool) {
    if !steps.command("the program", &mut cargo(&PROGRAM)) {
        return;
    }
    // Whole, so that the guest's program lies beside the lab's own.
    if !steps.command("the lab", &mut cargo(&["build", "--quiet", "-p", "lab"])) {
        return;
    }
    let lab = |more: &[&str]| {
        let mut command = cargo(&["run", "--quiet", "-p", "lab", "--"]);
        command.args(more);
        if allow_missing {
            command.env("MUSKOX_ALLOW_MISSING", "1");
        }
        command
    };
    steps.command("lab: kills", &mut lab(&["kills", "--rounds", KILL_ROUNDS]));
    let mut migrate = lab(&["migrate"]);
    steps.command("lab: migrations and nodes", migrate.args(MIGRATIONS));
    let mut kernel = lab(&["interop-kernel"]);
    steps.command("lab: the kernel as oracle", kernel.args(KERNEL_CASES));
}

fn tests(steps: &mut Steps, name: &str, what: &[&str], allow_missing: bool) {
    let mut command = cargo(&["test", "--no-fail-fast"]);
    command.args(what);
    if allow_missing {
        command.env("MUSKOX_ALLOW_MISSING", "1");
    }
    steps.command(name, &mut command);
}

/// What can be seen without running anything.
fn look(steps: &mut Steps) {
    steps.command("fmt", &mut cargo(&["fmt", "--all", "--check"]));
    steps.work("tidy", || tidy::run(Path::new(".")));
    steps.command("clippy", &mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]));
}

/// With private items: these pages are for who works on the house.
fn document(steps: &mut Steps) {
    let mut command = cargo(&["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"]);
    let flags = "-D warnings -A rustdoc::private_intra_doc_links";
    steps.command("doc", command.env("RUSTDOCFLAGS", flags));
}

/// Licences, sources and forbidden crates need no network; advisories do.
fn licences(steps: &mut Steps, advisories: bool) {
    let Some(deny) = setup::tools::cargo_deny() else {
        println!("==> cargo-deny is not installed: `cargo xtask setup` builds it");
        steps.work("licences", || Ok(vec!["cargo-deny is missing".into()]));
        return;
    };
    // It looks at what any platform would build, which is more than was downloaded for this one.
    steps.command("download", &mut cargo(&["fetch", "--locked", "--quiet"]));
    let mut command = Command::new(deny);
    command.args(["--offline", "--log-level", "error", "check", "bans", "licenses", "sources"]);
    steps.command("licences", &mut command);
    if advisories {
        steps.command("advisories", Command::new(setup::tools::DENY).args(["check", "advisories"]));
    }
}
