//! Asking a process of this machine over its control socket: one connection a question, for a limited time.

use host::net::connect_unix;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::control::{Answer, Ask, Code, Decoder, Refusal, Reply, Request, VERSION, encode};

const READ_BYTES: usize = 64 << 10;

/// Asks the process behind `socket`; `who` it is, for people.
///
/// # Errors
/// What it refuses; [`Code::Failed`] if it cannot be asked, [`Code::Busy`] if it has not answered in time: it may still
/// do what was asked.
pub async fn ask(who: &str, socket: &Path, request: Request, patience: Duration) -> Result<Reply, Refusal> {
    let late = || {
        let text =
            format!("the {who} has not answered within {} s; it may still do what was asked", patience.as_secs());
        Refusal::new(Code::Busy, text, "look how it is, then ask again")
    };
    tokio::time::timeout(patience, exchange(socket, who, request)).await.unwrap_or_else(|_| Err(late()))
}

async fn exchange(socket: &Path, who: &str, request: Request) -> Result<Reply, Refusal> {
    let broken = |what: &dyn std::fmt::Display| {
        let hint = format!("check that it runs and answers at '{}'", socket.display());
        Refusal::new(Code::Failed, format!("the {who} of this machine does not answer: {what}"), hint)
    };
    let foreign = |what: &dyn std::fmt::Display| {
        Refusal::new(Code::Version, format!("the {who} speaks something else: {what}"), "run one muskox version")
    };
    let mut transport = connect_unix(socket).await.map_err(|error| broken(&error))?;
    let question = encode(&Ask { version: VERSION, id: 1, request }).map_err(|error| foreign(&error))?;
    transport.write_all(&question).await.map_err(|error| broken(&error))?;
    transport.flush().await.map_err(|error| broken(&error))?;
    let (mut decoder, mut buffer) = (Decoder::default(), vec![0; READ_BYTES]);
    loop {
        if let Some(answer) = decoder.take_message::<Answer>().map_err(|error| foreign(&error))? {
            return answer.into_result();
        }
        match transport.read(&mut buffer).await.map_err(|error| broken(&error))? {
            0 => return Err(broken(&"it closed the connection")),
            len => decoder.push(&buffer[..len]),
        }
    }
}
