//! What a call came to, on the terminal or as JSON, and as an exit code.
//!
//! Results go to the standard output, complaints and progress to the other one. What comes from elsewhere never moves
//! the cursor.

use api::{Code, Problem};
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;
use units::table::printable;

/// Exit code of a call that was refused or failed; clap's own for wrong usage is 2.
const EXIT_REFUSED: u8 = 1;
/// Exit code of a wait that was left by Ctrl-C: as shells say it of SIGINT.
const EXIT_LEFT: u8 = 130;

/// What `--help` says of exit codes.
pub const EXIT_CODES: &str = "Exit codes:
  0    done; of a verb that waits: it came to what was asked
  1    refused or failed; of 'doctor': something is bad
  2    wrong usage
  130  Ctrl-C while waiting: what was begun goes on";

/// What waiting for something came to.
pub enum Ended<T> {
    /// It came to what was asked.
    Done(T),
    /// It ended otherwise, and why.
    Failed(T, Problem),
    /// Somebody pressed Ctrl-C: what was seen last, and what goes on.
    Left(Option<T>, String),
}

/// Prints what a call came to: as JSON, or as `text` says it for people.
pub fn finish<T: Serialize>(json: bool, outcome: Result<T, Problem>, text: impl FnOnce(&T) -> String) -> ExitCode {
    ended(json, outcome.map(Ended::Done), text)
}

/// Prints what a wait came to; as JSON always one document.
pub fn ended<T: Serialize>(
    json: bool,
    outcome: Result<Ended<T>, Problem>,
    text: impl FnOnce(&T) -> String,
) -> ExitCode {
    match outcome {
        Ok(Ended::Done(reply)) => {
            say(&if json { as_json(&reply) } else { text(&reply) });
            ExitCode::SUCCESS
        }
        Ok(Ended::Failed(reply, problem)) => {
            if json {
                say(&as_json(&reply));
            } else {
                complain(&problem);
            }
            ExitCode::from(EXIT_REFUSED)
        }
        Ok(Ended::Left(reply, what)) => {
            match reply {
                Some(reply) if json => say(&as_json(&reply)),
                _ => eprintln!("{}", printable(&what)),
            }
            ExitCode::from(EXIT_LEFT)
        }
        Err(problem) => refused(json, &problem),
    }
}

/// Prints a problem.
pub fn refused(json: bool, problem: &Problem) -> ExitCode {
    if json {
        say(&as_json(problem));
    } else {
        complain(problem);
    }
    ExitCode::from(EXIT_REFUSED)
}

/// Prints what is wrong with the words of a command as a problem in JSON; `text` is the parser's: the error, then how to use it.
pub fn say_usage(text: &str) {
    let (what, hint) = text.split_once("\n\n").unwrap_or((text, ""));
    let what = what.trim().trim_start_matches("error: ");
    say(&as_json(&Problem::new(Code::BadRequest, what, hint.trim())));
}

/// Success, or not.
pub fn passed(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::from(EXIT_REFUSED) }
}

/// To the standard output. A closed pipe (`muskox … | head`) is not worth a complaint: the call was done.
pub fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// A value as JSON that people can read.
pub fn as_json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("replies are JSON") + "\n"
}

fn complain(problem: &Problem) {
    eprint!("{}", complaint(problem));
}

/// A text of several lines stays one; each is made harmless by itself.
fn complaint(problem: &Problem) -> String {
    let indented = |text: &str| text.lines().map(printable).collect::<Vec<_>>().join("\n       ");
    let mut text = format!("error: {}\n", indented(&problem.text));
    if !problem.hint.is_empty() {
        text.push_str(&format!(" hint: {}\n", indented(&problem.hint)));
    }
    text
}

/// Lines of text from elsewhere, each made harmless.
pub fn printable_lines(text: &str) -> String {
    text.lines().map(|line| printable(&line.replace('\t', "    ")) + "\n").collect()
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: a complaint of several lines is readable and harmless. Method: one with an escape sequence in it.
    #[test]
    fn complaints_keep_their_lines_and_lose_their_control_characters() {
        let problem = Problem::new(Code::NotPossible, "two reasons:\nno \u{1b}[2Jroom\r", "a\u{202e}b");
        assert_eq!(complaint(&problem), "error: two reasons:\n       no \u{fffd}[2Jroom\u{fffd}\n hint: a\u{fffd}b\n");
    }

    #[test]
    fn specs_keep_their_lines() {
        assert_eq!(printable_lines("a = 1\n\tb\u{7}\n"), "a = 1\n    b\u{fffd}\n");
    }
}
