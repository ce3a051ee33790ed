//! `muskox why vm NAME`: why something is as it is.

use crate::client::Ask;
use crate::print::finish;
use api::{Call, Why};
use clap::{Args, Subcommand};
use std::process::ExitCode;
use units::VmName;
use units::table::printable;

/// What can be asked about.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Why a VM is as it is: sentences, each from a recorded fact, the newest first.
    Vm {
        /// Its name.
        name: VmName,
    },
}

impl Arguments {
    /// Asks and prints the answer.
    pub fn run(&self) -> ExitCode {
        let What::Vm { name } = &self.what;
        let why = self.ask.call::<Why>(Call::named("vm_why"), name.as_str(), None::<&()>);
        finish(self.ask.json, why, text)
    }
}

fn text(why: &Why) -> String {
    if why.sentences.is_empty() {
        return format!("nothing is recorded of '{}'\n", why.vm);
    }
    why.sentences.iter().map(|sentence| printable(sentence) + "\n").collect()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_sentence_a_line() {
        let mut why = Why {
            vm: "web1".parse().unwrap(),
            sentences: vec!["It runs.".into(), "It\nmoved.".into()],
            events: Vec::new(),
        };
        assert_eq!(text(&why), "It runs.\nIt\u{fffd}moved.\n");
        why.sentences.clear();
        assert_eq!(text(&why), "nothing is recorded of 'web1'\n");
    }
}
