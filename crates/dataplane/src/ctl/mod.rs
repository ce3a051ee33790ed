//! `muskox ctl`: asks one target over its control socket and shows the answer. Until the cluster's API exists it is the
//! way to drive a target, later the way to rescue one. Does *not* know pools or gates: it turns words into a request
//! and a reply into a table.

mod arguments;
mod client;
mod deadman;
mod render;

pub use arguments::CtlArguments;
pub use client::{CallError, Client};

use std::io::Write;
use std::process::ExitCode;
use wire::control::{Refusal, Reply};

/// Exit code of a request that was refused or failed; clap's own for wrong usage is 2.
const EXIT_REFUSED: u8 = 1;

/// Does what the command line says and prints to the standard streams.
#[must_use]
pub fn run(arguments: &CtlArguments) -> ExitCode {
    let request = match arguments.request() {
        Ok(request) => request,
        Err(refusal) => return complain(arguments.json, &refusal),
    };
    let answer = Client::connect(&arguments.socket, arguments.patience())
        .and_then(|mut client| client.call(request))
        .map_err(|error| error.into_refusal(&arguments.socket));
    match answer {
        Ok(reply) => show(arguments.json, &reply),
        Err(refusal) => complain(arguments.json, &refusal),
    }
}

fn show(json: bool, reply: &Reply) -> ExitCode {
    let text = if json { as_json(reply) } else { render::reply(reply) };
    // A closed pipe (`muskox ctl … | head`) is not worth a complaint: the request was done.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn complain(json: bool, refusal: &Refusal) -> ExitCode {
    if json {
        let _ = std::io::stdout().write_all(as_json(refusal).as_bytes());
    } else {
        eprint!("{}", render::refusal(refusal));
    }
    ExitCode::from(EXIT_REFUSED)
}

fn as_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string_pretty(value).expect("reports have only text keys") + "\n"
}
