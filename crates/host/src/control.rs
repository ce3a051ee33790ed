//! Asking a process of this machine over its control socket: one connection a question, for a limited time.

use crate::net::{NetError, Transport, connect_unix};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::control::{Answer, Ask, Decoder, FrameError, Refusal, Reply, Request, VERSION, encode};

const READ_BYTES: usize = 64 << 10;
/// The one question of its connection.
const ID: u64 = 1;

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody is there.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The connection broke.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// No answer within the patience given. The process may still do what was asked.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// What came is not the protocol.
    #[error("the answer cannot be read: {0}")]
    Frame(#[from] FrameError),
    /// The process closed the connection without an answer.
    #[error("the connection was closed before the answer")]
    Closed,
    /// The process said no.
    #[error("{}", .0.text)]
    Refused(Refusal),
}

/// Asks the process behind `socket` and waits for its answer.
///
/// # Errors
/// [`CallError`].
pub async fn ask(socket: &Path, request: Request, patience: Duration) -> Result<Reply, CallError> {
    let asked = async { exchange(connect_unix(socket).await?, request).await };
    tokio::time::timeout(patience, asked).await.unwrap_or(Err(CallError::TimedOut(patience)))
}

async fn exchange(mut transport: Transport, request: Request) -> Result<Reply, CallError> {
    transport.write_all(&encode(&Ask { version: VERSION, id: ID, request })?).await?;
    transport.flush().await?;
    let (mut decoder, mut buffer) = (Decoder::default(), vec![0; READ_BYTES]);
    loop {
        while let Some(answer) = decoder.take_message::<Answer>()? {
            if answer.id == ID {
                return answer.into_result().map_err(CallError::Refused);
            }
        }
        match transport.read(&mut buffer).await? {
            0 => return Err(CallError::Closed),
            len => decoder.push(&buffer[..len]),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use wire::control::Code;

    fn call(answer: impl FnOnce(UnixStream) + Send + 'static) -> Result<Reply, CallError> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("muskox-control-{}-{count}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || answer(listener.accept().unwrap().0));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let reply = runtime.block_on(ask(&path, Request::Status, Duration::from_millis(300)));
        std::fs::remove_file(path).unwrap();
        server.join().unwrap();
        reply
    }

    /// Stays until the client goes: one that went first might close before it is asked.
    fn hang_on(mut stream: UnixStream) {
        let _ = stream.read_to_end(&mut Vec::new());
    }

    /// Goal: the answer to another question is not taken for ours. Method: a server that answers id 99 first, in pieces.
    #[test]
    fn an_answer_is_found_by_its_id_however_it_is_cut() {
        let reply = call(|mut stream| {
            let wrong = encode(&Answer::new(99, Err(Refusal::new(Code::Failed, "x", "y")))).unwrap();
            let right = encode(&Answer::new(1, Ok(Reply::Done))).unwrap();
            for byte in [wrong, right].concat() {
                stream.write_all(&[byte]).unwrap();
            }
            hang_on(stream);
        });
        assert_eq!(reply.unwrap(), Reply::Done);
    }

    #[test]
    fn a_silent_or_foreign_server_is_an_error_in_time() {
        let silent = call(hang_on);
        assert!(matches!(silent, Err(CallError::TimedOut(_))), "{silent:?}");
        let foreign = call(|mut stream| {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap();
            hang_on(stream);
        });
        assert!(matches!(foreign, Err(CallError::Frame(_))), "{foreign:?}");
        let gone = call(drop);
        assert!(matches!(gone, Err(CallError::Closed | CallError::Io(_))), "{gone:?}");
    }
}
