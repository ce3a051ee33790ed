//! `muskox doctor`: what is wrong, machine by machine, and what to do.

use crate::client::Ask;
use crate::print::{as_json, passed, refused, say};
use api::{Call, Check, Doctor, Grade};
use clap::Args;
use std::process::ExitCode;
use units::table::{self, printable};

/// How to ask.
#[derive(Args, Debug)]
#[command(after_help = "Exit codes: 0 all is well or only warnings, 1 something is bad, or there was no answer.")]
pub struct Arguments {
    #[command(flatten)]
    ask: Ask,
}

impl Arguments {
    /// Asks and prints the answer.
    pub fn run(&self) -> ExitCode {
        match self.ask.call::<Doctor>(Call::named("doctor"), "", None::<&()>) {
            Ok(doctor) => {
                say(&if self.ask.json { as_json(&doctor) } else { text(&doctor) });
                passed(well(&doctor))
            }
            Err(problem) => refused(self.ask.json, &problem),
        }
    }
}

fn well(doctor: &Doctor) -> bool {
    doctor.checks.iter().all(|check| check.grade != Grade::Bad)
}

fn text(doctor: &Doctor) -> String {
    let mut nodes: Vec<_> = doctor.checks.iter().map(|check| &check.node).collect();
    nodes.sort();
    nodes.dedup();
    let mut text = String::new();
    for node in nodes {
        let mut checks: Vec<&Check> = doctor.checks.iter().filter(|check| check.node == *node).collect();
        checks.sort_by_key(|check| std::cmp::Reverse(check.grade));
        text.push_str(&format!("{node}\n{}", machine(&checks)));
    }
    let count = |grade| doctor.checks.iter().filter(|check| check.grade == grade).count();
    let (warnings, s) = match count(Grade::Warning) {
        1 => (1, ""),
        many => (many, "s"),
    };
    text + &format!("{} good, {warnings} warning{s}, {} bad\n", count(Grade::Good), count(Grade::Bad))
}

/// The worst first; what to do in a line below.
fn machine(checks: &[&Check]) -> String {
    // A finding is a line, whatever it cites.
    let line = |text: &str| text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let row = |check: &&Check| [format!("  {}", check.grade), check.what.clone(), line(&check.text)];
    let table = table::plain(&checks.iter().map(row).collect::<Vec<_>>());
    let mut text = String::new();
    for (line, check) in table.lines().zip(checks) {
        text.push_str(&format!("{line}\n"));
        if check.grade != Grade::Good && !check.hint.is_empty() {
            text.push_str(&format!("           do: {}\n", printable(&check.hint)));
        }
    }
    text
}

#[cfg(test)]
mod test {
    use super::*;

    fn check(node: &str, what: &str, grade: Grade, text: &str, hint: &str) -> Check {
        Check { node: node.parse().unwrap(), what: what.into(), grade, text: text.into(), hint: hint.into() }
    }

    /// Goal: machines in order, the worst first, with what to do. Method: golden text.
    #[test]
    fn findings_are_grouped_by_machine() {
        let mut doctor = Doctor {
            checks: vec![
                check("beta", "clock", Grade::Warning, "2 s\n  ahead\n", "set it with chrony"),
                check("alpha", "node", Grade::Good, "it answers", "nothing"),
                check("alpha", "dead-man", Grade::Bad, "it does not run\u{1b}", "see its log"),
            ],
        };
        let expect = "\
alpha
  bad   dead-man  it does not run\u{fffd}
           do: see its log
  good  node      it answers
beta
  warning  clock  2 s; ahead
           do: set it with chrony
1 good, 1 warning, 1 bad
";
        assert_eq!(text(&doctor), expect);
        assert!(!well(&doctor));
        doctor.checks.pop();
        assert!(well(&doctor), "warnings are no failure");
        assert!(well(&Doctor { checks: Vec::new() }));
    }
}
