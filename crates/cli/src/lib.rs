//! The command line: turns words into a call of the API and its reply into a table or JSON.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage (clap's). A client of the API and nothing else: it does *not*
//! know files, stores or other machines; it speaks to this machine's node over its socket.

mod client;
mod node;
mod table;

pub use node::NodeVerb;

use api::Problem;
use std::io::Write;
use std::process::ExitCode;

/// Exit code of a call that was refused or failed; clap's own for wrong usage is 2.
const EXIT_REFUSED: u8 = 1;

/// Prints what a call came to: as JSON, or as `text` says it for people.
fn finish<T: serde::Serialize>(json: bool, outcome: Result<T, Problem>, text: impl FnOnce(&T) -> String) -> ExitCode {
    match outcome {
        Ok(reply) => {
            let text = if json { as_json(&reply) } else { text(&reply) };
            // A closed pipe (`muskox … | head`) is not worth a complaint: the call was done.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(problem) => {
            if json {
                let _ = std::io::stdout().write_all(as_json(&problem).as_bytes());
            } else {
                eprintln!("error: {}", printable(&problem.text));
                if !problem.hint.is_empty() {
                    eprintln!(" hint: {}", printable(&problem.hint));
                }
            }
            ExitCode::from(EXIT_REFUSED)
        }
    }
}

fn as_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("replies are JSON") + "\n"
}

/// What comes from elsewhere never moves the cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
