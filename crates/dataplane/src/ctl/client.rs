//! One side of a control socket: send a request, wait for its answer, for a limited time.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use wire::control::{Answer, Ask, Code, Decoder, FrameError, Refusal, Reply, Request, VERSION, encode};

/// A connection to a process's control socket.
pub struct Client {
    stream: UnixStream,
    decoder: Decoder,
    patience: Duration,
    next_id: u64,
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens, or the connection broke.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// No answer within the patience given. The process may still do what was asked.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// What came is not the protocol.
    #[error("the answer cannot be read")]
    Frame(#[from] FrameError),
    /// The process closed the connection without an answer.
    #[error("the connection was closed before the answer")]
    Closed,
    /// The process said no.
    #[error("{}", .0.text)]
    Refused(Refusal),
}

const READ_BYTES: usize = 64 << 10;

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// [`CallError::Io`].
    pub fn connect(path: &Path, patience: Duration) -> Result<Self, CallError> {
        let stream = UnixStream::connect(path)?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream, decoder: Decoder::default(), patience, next_id: 1 })
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// [`CallError`]. After [`CallError::TimedOut`] this client is of no use: the late answer would be taken for the next.
    pub fn call(&mut self, request: Request) -> Result<Reply, CallError> {
        let id = self.next_id;
        self.next_id += 1;
        self.stream.write_all(&encode(&Ask { version: VERSION, id, request })?)?;
        let begun = Instant::now();
        loop {
            while let Some(answer) = self.decoder.take_message::<Answer>()? {
                if answer.id == id {
                    return answer.into_result().map_err(CallError::Refused);
                }
            }
            self.receive(begun)?;
        }
    }

    fn receive(&mut self, begun: Instant) -> Result<(), CallError> {
        let left = self.patience.checked_sub(begun.elapsed()).filter(|left| !left.is_zero());
        self.stream.set_read_timeout(Some(left.ok_or(CallError::TimedOut(self.patience))?))?;
        let mut buffer = [0; READ_BYTES];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(CallError::Closed),
            Ok(len) => {
                self.decoder.push(&buffer[..len]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                Err(CallError::TimedOut(self.patience))
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl CallError {
    /// In words for people, about the process at `socket`.
    #[must_use]
    pub fn into_refusal(self, socket: &Path) -> Refusal {
        let at = socket.display();
        match self {
            Self::Refused(refusal) => refusal,
            Self::Io(error) => Refusal::new(
                Code::Failed,
                format!("cannot talk to the target at {at}: {error}"),
                "check that `muskox target` runs, that --socket names its 'control' path, and that you may open it",
            ),
            Self::TimedOut(patience) => Refusal::new(
                Code::Busy,
                format!(
                    "the target at {at} has not answered within {} s; it may still do what was asked",
                    patience.as_secs()
                ),
                "look at `muskox ctl status`, then ask again with a longer --timeout",
            ),
            Self::Frame(_) | Self::Closed => Refusal::new(
                Code::Version,
                format!(
                    "the process at {at} does not speak this program's control protocol, version {VERSION}: {self}"
                ),
                "use the muskox program that the target runs, and check that --socket is a target's",
            ),
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn serve(answer: impl FnOnce(UnixStream) + Send + 'static) -> (std::path::PathBuf, std::thread::JoinHandle<()>) {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("muskox-ctl-{}-{count}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        (path, std::thread::spawn(move || answer(listener.accept().unwrap().0)))
    }

    fn call(answer: impl FnOnce(UnixStream) + Send + 'static) -> Result<Reply, CallError> {
        let (path, server) = serve(answer);
        let reply = Client::connect(&path, Duration::from_millis(300)).unwrap().call(Request::Status);
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
