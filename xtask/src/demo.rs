//! `cargo xtask demo`: installs what is missing, builds the program as it is shipped, and lets the lab play the main job
//! on it, with faults. With `--sabotage` a bug is planted, and the demo must notice.

use crate::setup;
use crate::step::cargo;
use anyhow::Context;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Bugs that the demo has to notice, and what each violates.
const BUGS: [(&str, &str); 4] =
    [("no-gate", "I1"), ("ack-before-drain", "I1"), ("no-deadman", "I2"), ("cas-skip", "I9")];
/// The program with planted bugs lies elsewhere: the one that is shipped never has them.
const SABOTAGED: &str = "target/sabotaged";
const FOLDER: &str = "target/demo";
/// Always both: what one alone needs of their dependencies differs, and would be built again.
const PROGRAMS: [&str; 4] = ["-p", "muskox", "-p", "lab"];

/// What can be asked for.
#[derive(clap::Args)]
pub struct Options {
    /// How often the migrations and faults are gone through.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Plant this bug (no-gate, ack-before-drain, no-deadman, cas-skip) or one after the other (all); well is what is noticed.
    #[arg(long, value_name = "NAME", conflicts_with = "verify")]
    sabotage: Option<String>,
    /// Only compute the report again, from the evidence in this folder.
    #[arg(long, value_name = "DIR")]
    verify: Option<std::path::PathBuf>,
    /// Passed on to `muskox-lab demo`.
    #[arg(last = true)]
    more: Vec<String>,
}

/// Plays the demo.
///
/// # Errors
/// When something cannot be built or run; a demo that is not well is `Ok(false)`.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    if let Some(folder) = &options.verify {
        build(&PROGRAMS)?;
        return lab(Command::new("target/release/muskox-lab").args(["report", "--verify"]).arg(folder));
    }
    let bugs: Vec<&str> = match options.sabotage.as_deref() {
        None => Vec::new(),
        Some("all") => BUGS.iter().map(|(name, _)| *name).collect(),
        Some(name) => {
            let names = BUGS.map(|(name, _)| name);
            anyhow::ensure!(names.contains(&name), "no bug '{name}', there are: {}, all", names.join(", "));
            vec![name]
        }
    };
    let begun = Instant::now();
    let wrong = setup::for_tests(false)?;
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    build(&PROGRAMS)?;
    println!("ready after {} s", begun.elapsed().as_secs());
    if bugs.is_empty() {
        return play(options, "target/release/muskox", FOLDER, None);
    }
    build(&["-p", "muskox", "--features", "sabotage", "--target-dir", SABOTAGED])?;
    let program = format!("{SABOTAGED}/release/muskox");
    let mut all_noticed = true;
    for (bug, invariant) in BUGS.into_iter().filter(|(name, _)| bugs.contains(name)) {
        let folder = format!("{FOLDER}-{bug}");
        play(options, &program, &folder, Some(bug))?;
        let noticed = is_noticed(Path::new(&folder), invariant)?;
        println!("{bug}: {}", if noticed { "noticed" } else { "NOT NOTICED" });
        all_noticed &= noticed;
    }
    Ok(all_noticed)
}

fn play(options: &Options, program: &str, folder: &str, bug: Option<&str>) -> anyhow::Result<bool> {
    let mut command = Command::new("target/release/muskox-lab");
    command.args(["demo", "--program", program, "--folder", folder, "--rounds", &options.rounds.to_string()]);
    if let Some(bug) = bug {
        command.args(["--sabotage", bug]);
    }
    lab(command.args(&options.more))
}

/// Whether the report of a run with a planted bug says so: not ok, and the very invariant among the violations.
fn is_noticed(folder: &Path, invariant: &str) -> anyhow::Result<bool> {
    let path = folder.join("report.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let report: serde_json::Value = serde_json::from_str(&text).context("reading the report")?;
    let violations = report["violations"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(report["ok"] == false && violations.iter().any(|it| it["invariant"] == invariant))
}

fn build(what: &[&str]) -> anyhow::Result<()> {
    let mut command = cargo(&["build", "--release"]);
    let built = command.args(what).status().context("running cargo")?;
    anyhow::ensure!(built.success(), "the programs could not be built");
    Ok(())
}

fn lab(command: &mut Command) -> anyhow::Result<bool> {
    Ok(command.status().context("running the lab")?.success())
}
