//! Asking a process of this machine over its control socket.

use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use wire::control::{Answer, Ask, Code, Decoder, Refusal, Reply, Request, VERSION, encode};

/// An answer of the usual size comes in one read.
const READ_BYTES: usize = 16 << 10;
/// A connection carries one question.
const ID: u64 = 1;

/// Asks the process behind `socket`; `who` it is, for people.
///
/// # Errors
/// What it refuses; [`Code::Failed`] if nobody answers, [`Code::Busy`] if not in time: then it may still do it.
pub async fn ask(who: &str, socket: &Path, request: Request, patience: Duration) -> Result<Reply, Refusal> {
    match tokio::time::timeout(patience, exchange(socket, request)).await {
        Ok(Ok(answer)) => answer.into_result(),
        Ok(Err(error)) => {
            let text = format!("the {who} of this machine does not answer at {}: {error}", socket.display());
            Err(Refusal::new(Code::Failed, text, format!("see var/log/muskox/{who}.log; the node starts it anew")))
        }
        Err(_) => {
            let text = format!("the {who} has not answered within {} s; it may still do it", patience.as_secs());
            Err(Refusal::new(Code::Busy, text, "ask for its status, then ask again"))
        }
    }
}

async fn exchange(socket: &Path, request: Request) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket).await?;
    let asked = encode(&Ask { version: VERSION, id: ID, request }).map_err(io::Error::other)?;
    stream.write_all(&asked).await?;
    let (mut decoder, mut bytes) = (Decoder::default(), vec![0; READ_BYTES]);
    loop {
        if let Some(answer) = decoder.take_message::<Answer>().map_err(io::Error::other)? {
            return Ok(answer);
        }
        match stream.read(&mut bytes).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => decoder.push(&bytes[..len]),
        }
    }
}
