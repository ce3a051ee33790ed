//! `muskox store changes`: what was changed in the cluster's store, for audits.

use crate::client::{Ask, block_on};
use crate::print::{passed, refused, say};
use api::{Call, Problem, StoreChange, StoreChanges};
use clap::{Args, Subcommand};
use std::process::ExitCode;
use units::table::printable;

/// The store's words.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Changes, oldest first; with --json one object a line. What is secret is left out.
    #[command(after_help = "Examples:
  muskox store changes
  muskox store changes --from 1042 --json | jq -r .key")]
    Changes {
        /// Only those after this revision; 0: as far back as they are kept.
        #[arg(long, value_name = "REVISION", default_value_t = 0)]
        from: u64,
    },
}

impl Arguments {
    /// Asks and prints the answer.
    pub fn run(&self) -> ExitCode {
        let Verb::Changes { from } = self.verb;
        match block_on(changes(&self.ask, from)) {
            Ok(()) => passed(true),
            Err(problem) => refused(self.ask.json, &problem),
        }
    }
}

/// Page by page, until there is nothing newer.
async fn changes(ask: &Ask, mut from: u64) -> Result<(), Problem> {
    loop {
        let page: StoreChanges = ask.ask(Call::named("store_changes"), &from.to_string(), None::<&()>).await?;
        say(&page.changes.iter().map(|change| line(change, ask.json)).collect::<String>());
        // A page without a change may have left out secret ones: only `next` says that this is the end.
        if page.next <= from {
            return Ok(());
        }
        from = page.next;
    }
}

fn line(change: &StoreChange, json: bool) -> String {
    if json {
        return serde_json::to_string(change).expect("replies are JSON") + "\n";
    }
    let value = change.value.as_ref().map_or_else(|| "(removed)".to_owned(), ToString::to_string);
    format!("{:>8}  {}  {}\n", change.revision, printable(&change.key), printable(&value))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_change_a_line() {
        let change = |value: Option<serde_json::Value>| StoreChange { revision: 7, key: "/vm/web1".into(), value };
        let object = serde_json::json!({"a": "\u{9b}"});
        assert_eq!(line(&change(Some(object.clone())), false), "       7  /vm/web1  {\"a\":\"\u{fffd}\"}\n");
        // D19: a value is JSON, not a text with JSON in it.
        let expect = "{\"revision\":7,\"key\":\"/vm/web1\",\"value\":{\"a\":\"\u{9b}\"}}\n";
        assert_eq!(line(&change(Some(object)), true), expect);
        assert_eq!(line(&change(None), false), "       7  /vm/web1  (removed)\n");
        assert_eq!(line(&change(None), true), "{\"revision\":7,\"key\":\"/vm/web1\",\"value\":null}\n");
    }
}
