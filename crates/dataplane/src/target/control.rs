//! The control socket: frames in, requests to the director, frames out. Only who may open the socket may ask.
//!
//! Requests of one connection are answered in order; several connections are served at once, so a raise that waits
//! for a drain does not keep `status` waiting.

use crate::target::director::Director;
use host::net::{Listener, Transport};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use wire::control::{Answer, Ask, Code, Decoder, FrameError, Refusal, VERSION, encode};

/// Connections at once: a person, the node's loops, and room. More wait in the listener's queue.
const CONNECTIONS_MAX: usize = 32;
/// How long a client may take to receive an answer.
const SEND_MAX: Duration = Duration::from_secs(30);
/// After a failed `accept` (no descriptors left): long enough to close some, short enough not to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const READ_BYTES: usize = 64 << 10;

/// Serves the socket until the task is dropped.
pub async fn serve(listener: Listener, director: Rc<Director>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&room).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok(stream) => {
                let director = Rc::clone(&director);
                tokio::task::spawn_local(async move {
                    let _place = place;
                    if let Err(error) = converse(stream, &director).await {
                        tracing::warn!(%error, "a control connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ConverseError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the client did not take its answer within {} s", SEND_MAX.as_secs())]
    Slow,
}

async fn converse(mut stream: Transport, director: &Rc<Director>) -> Result<(), ConverseError> {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        while let Some(ask) = decoder.take_message::<serde_json::Value>()? {
            let answer = encode(&answer(ask, director).await)?;
            let sent = tokio::time::timeout(SEND_MAX, send(&mut stream, &answer)).await;
            sent.map_err(|_elapsed| ConverseError::Slow)??;
        }
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            len => decoder.push(&buffer[..len]),
        }
    }
}

async fn send(stream: &mut Transport, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// A frame that is JSON but not a request of this version gets a refusal, not a closed connection.
async fn answer(ask: serde_json::Value, director: &Rc<Director>) -> Answer {
    let id = ask.get("id").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let version = ask.get("version").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(VERSION)) {
        let text = format!("this target speaks version {VERSION} of the control protocol");
        return Answer::new(id, Err(Refusal::new(Code::Version, text, "use the muskox program that the target runs")));
    }
    let outcome = match serde_json::from_value::<Ask>(ask) {
        Ok(ask) => director.answer(ask.request).await,
        Err(error) => {
            let hint = "see the protocol's words in `muskox ctl --help`";
            Err(Refusal::new(Code::Invalid, format!("not a request: {error}"), hint))
        }
    };
    Answer::new(id, outcome)
}
