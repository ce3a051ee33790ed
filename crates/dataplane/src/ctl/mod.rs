//! `muskox ctl`: asks one target over its control socket and shows the answer. Until the cluster's API exists it is the
//! way to drive a target, later the way to rescue one. Does *not* know pools or gates: it turns words into a request
//! and a reply into a table.

mod arguments;
mod deadman;
mod render;

pub use arguments::CtlArguments;

use host::control::{CallError, ask};
use host::net::NetError;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use wire::control::{Code, Refusal, Reply, Request, VERSION};

/// Exit code of a request that was refused or failed; clap's own for wrong usage is 2.
const EXIT_REFUSED: u8 = 1;

/// Does what the command line says and prints to the standard streams.
#[must_use]
pub fn run(arguments: &CtlArguments) -> ExitCode {
    let request = match arguments.request() {
        Ok(request) => request,
        Err(refusal) => return complain(arguments.json, &refusal),
    };
    match answer(arguments, request) {
        Ok(reply) => show(arguments.json, &reply),
        Err(refusal) => complain(arguments.json, &refusal),
    }
}

fn answer(arguments: &CtlArguments, request: Request) -> Result<Reply, Refusal> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Refusal::new(Code::Failed, error.to_string(), "see `ulimit -a`"))?;
    let asked = runtime.block_on(ask(&arguments.socket, request, arguments.patience()));
    asked.map_err(|error| refusal_of(error, &arguments.socket))
}

/// In words for people, about the process at `socket`.
fn refusal_of(error: CallError, socket: &Path) -> Refusal {
    let at = socket.display();
    match error {
        CallError::Refused(refusal) => refusal,
        CallError::Net(NetError::Connect { source: error, .. }) | CallError::Io(error) => Refusal::new(
            Code::Failed,
            format!("cannot talk to the target at {at}: {error}"),
            "check that `muskox target` runs, that --socket names its 'control' path, and that you may open it",
        ),
        CallError::TimedOut(patience) => Refusal::new(
            Code::Busy,
            format!(
                "the target at {at} has not answered within {} s; it may still do what was asked",
                patience.as_secs()
            ),
            "look at `muskox ctl status`, then ask again with a longer --timeout",
        ),
        CallError::Net(error) => Refusal::new(Code::Failed, error.to_string(), "name the socket with --socket"),
        CallError::Frame(_) | CallError::Closed => Refusal::new(
            Code::Version,
            format!("the process at {at} does not speak this program's control protocol, version {VERSION}: {error}"),
            "use the muskox program that the target runs, and check that --socket is a target's",
        ),
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
