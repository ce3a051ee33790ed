//! Steps: each prints a line with its time; failures are summed up at the end, and the last line of all is
//! `N passed, N failed` over every test that ran (a step that fails without a failed test counts as one).

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What ran so far.
#[derive(Default)]
pub struct Steps {
    passed: u64,
    failed: u64,
    broken: Vec<String>,
}

/// How many tests a command's output speaks of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

/// `cargo`, the very one that runs us. It reads no stdin.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What `cargo run` set for us would make cargo rebuild for others.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_PKG_")) {
        command.env_remove(name);
    }
    command.args(arguments).env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_MANIFEST_PATH").stdin(Stdio::null());
    command
}

impl Steps {
    /// Runs a command; its tests, if it prints any, are counted.
    pub fn command(&mut self, name: &str, command: &mut Command) -> bool {
        begin(name);
        let begun = Instant::now();
        let (ended_well, tally) = match run_counting(command) {
            Ok(answer) => answer,
            Err(error) => {
                println!("{}: {error}", command.get_program().to_string_lossy());
                (false, Tally::default())
            }
        };
        self.end(name, begun, ended_well, tally)
    }

    /// Runs a function that returns what is wrong, one line each; nothing wrong is one passed test.
    pub fn work(&mut self, name: &str, work: impl FnOnce() -> anyhow::Result<Vec<String>>) -> bool {
        begin(name);
        let begun = Instant::now();
        let wrong = work().unwrap_or_else(|error| vec![format!("{error:#}")]);
        wrong.iter().for_each(|line| println!("{line}"));
        let tally = Tally { passed: u64::from(wrong.is_empty()), failed: wrong.len() as u64 };
        self.end(name, begun, wrong.is_empty(), tally)
    }

    fn end(&mut self, name: &str, begun: Instant, ended_well: bool, tally: Tally) -> bool {
        let well = ended_well && tally.failed == 0;
        let seconds = begun.elapsed().as_secs_f64();
        let tests = if tally.passed > 0 { format!(", {} passed", tally.passed) } else { String::new() };
        println!("==> {name}: {} in {seconds:.1} s{tests}", if well { "ok" } else { "FAILED" });
        self.passed += tally.passed;
        self.failed += if well { 0 } else { tally.failed.max(1) };
        if !well {
            self.broken.push(name.to_owned());
        }
        well
    }

    /// Says what failed and prints the last line; whether all is well.
    pub fn finish(self) -> bool {
        if !self.broken.is_empty() {
            println!("\nfailed: {}", self.broken.join(", "));
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        self.failed == 0
    }
}

fn begin(name: &str) {
    println!("==> {name}");
    let _ = std::io::stdout().flush();
}

/// Passes the command's stdout on line by line and counts the tests in it.
fn run_counting(command: &mut Command) -> std::io::Result<(bool, Tally)> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().expect("stdout was piped above");
    let mut tally = Tally::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        if let Some(more) = count(&line) {
            tally.passed += more.passed;
            tally.failed += more.failed;
        }
    }
    Ok((child.wait()?.success(), tally))
}

/// Reads libtest's `test result: ok. 5 passed; 0 failed; …`.
fn count(line: &str) -> Option<Tally> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| -> Option<u64> {
        rest.split_once(word)?.0.rsplit([' ', ';']).find(|part| !part.is_empty())?.parse().ok()
    };
    Some(Tally { passed: number(" passed")?, failed: number(" failed")? })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn test_results_are_counted() {
        let check = |line: &str, expect| assert_eq!(count(line), expect, "{line}");
        let tally = |passed, failed| Some(Tally { passed, failed });
        check(
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            tally(5, 0),
        );
        check("test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out", tally(12, 3));
        check("test gate::test::raise ... ok", None);
    }

    /// Goal: a step that dies without a test result is a failure. Method: a command that fails, one that is missing.
    #[test]
    fn a_step_that_fails_counts() {
        let mut steps = Steps::default();
        assert!(!steps.command("fails", &mut Command::new("false")));
        assert!(!steps.command("is missing", &mut Command::new("no-such-program-here")));
        assert!(steps.command("works", &mut Command::new("true")));
        assert!(steps.work("is tidy", || Ok(Vec::new())));
        assert!(!steps.work("is not", || Ok(vec!["a".into(), "b".into()])));
        assert_eq!((steps.passed, steps.failed), (1, 4));
        assert!(!steps.finish());
    }
}
