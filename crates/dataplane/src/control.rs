//! A control socket: frames in, requests to whoever answers them, frames out. Only who may open the socket may ask.
//!
//! Requests of one connection are answered in order; several connections are served at once, so a raise that waits
//! for a drain does not keep `status` waiting.

use host::net::{Listener, Lobby, Place, Places, Transport};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::control::{
    Answer, Ask, Code, Decoder, FRAME_MAX_BYTES, FrameError, Refusal, Reply, Request, VERSION, encode,
};

/// Connections at once: a person, the node's loops, and room. One more, and the one that was silent the longest goes.
const PLACES: Places = Places { all: 32, of_one: 32 };
/// How long a client may take to receive an answer.
const SEND_MAX: Duration = Duration::from_secs(30);
/// The length before a frame.
const PREFIX_BYTES: usize = 4;

/// How long and how large a conversation may be.
pub struct Manners {
    /// Of a receive.
    pub read_bytes: usize,
    /// Of a request; what is longer ends the conversation.
    pub request_bytes_max: usize,
    /// Without a request; `None`: a person may think.
    pub silence_max: Option<Duration>,
    /// For taking an answer.
    pub send_max: Duration,
}

impl Manners {
    /// Of who may open the control socket.
    const LOCAL: Self =
        Self { read_bytes: 64 << 10, request_bytes_max: FRAME_MAX_BYTES, silence_max: None, send_max: SEND_MAX };
}

/// Who answers requests.
pub trait Answering: 'static {
    /// Does what is asked, or says why not.
    fn answer(&self, request: Request) -> impl Future<Output = Result<Reply, Refusal>>;
}

/// Serves the socket until the task is dropped.
pub async fn serve<A: Answering>(listener: Listener, answering: Rc<A>) {
    let lobby = Lobby::new(PLACES);
    let received = |stream, place| {
        let (answering, lobby) = (Rc::clone(&answering), Rc::clone(&lobby));
        async move {
            if let Err(error) = converse(stream, &*answering, &Manners::LOCAL, &place).await {
                lobby.say(|| format!("a control connection ended: {error}"));
            }
        }
    };
    lobby.let_in(&listener, received).await;
}

/// Why a conversation ended, other than by its end.
#[derive(Debug, thiserror::Error)]
pub enum ConverseError {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// What came is not the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Answers pile up.
    #[error("the client did not take its answer in time")]
    Slow,
    /// Nothing came for too long.
    #[error("the client said nothing for too long")]
    Silent,
    /// It said nothing for longer than the others.
    #[error("the client was silent the longest, and newer ones needed its place")]
    Displaced,
}

/// Answers what comes over a connection until it ends. Who loses the place has its answer first.
///
/// # Errors
/// [`ConverseError`]; the connection is gone in either case.
pub async fn converse(
    mut stream: Transport,
    answering: &impl Answering,
    manners: &Manners,
    place: &Place,
) -> Result<(), ConverseError> {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; manners.read_bytes];
    loop {
        while let Some(ask) = decoder.take_message::<serde_json::Value>()? {
            place.heard();
            let answer = encode(&answer(ask, answering).await)?;
            let sent = tokio::time::timeout(manners.send_max, send(&mut stream, &answer)).await;
            sent.map_err(|_elapsed| ConverseError::Slow)??;
            place.answered();
        }
        if decoder.waiting_bytes() > manners.request_bytes_max + PREFIX_BYTES {
            return Err(FrameError::TooLong { len: decoder.waiting_bytes() }.into());
        }
        let receiving = async {
            match manners.silence_max {
                None => Ok(stream.read(&mut buffer).await?),
                Some(limit) => {
                    let received = tokio::time::timeout(limit, stream.read(&mut buffer)).await;
                    Ok(received.map_err(|_elapsed| ConverseError::Silent)??)
                }
            }
        };
        let received = place.hold(receiving).await.ok_or(ConverseError::Displaced)?;
        let received: usize = match received {
            Ok(len) => len,
            Err(error) => return Err(error),
        };
        match received {
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
async fn answer(ask: serde_json::Value, answering: &impl Answering) -> Answer {
    let id = ask.get("id").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let version = ask.get("version").and_then(serde_json::Value::as_u64);
    if version != Some(u64::from(VERSION)) {
        let text = format!("this process speaks version {VERSION} of the control protocol");
        return Answer::new(id, Err(Refusal::new(Code::Version, text, "use the muskox program that it runs")));
    }
    let outcome = match serde_json::from_value::<Ask>(ask) {
        Ok(ask) => answering.answer(ask.request).await,
        Err(error) => {
            let hint = "see the protocol's words in `muskox ctl --help`";
            Err(Refusal::new(Code::Invalid, format!("not a request: {error}"), hint))
        }
    };
    Answer::new(id, outcome)
}
