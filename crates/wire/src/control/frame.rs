//! Frames: bytes in, messages out, in any pieces.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest frame either side accepts: a status of thousands of volumes fits, a hostile length does not.
pub const FRAME_MAX_BYTES: usize = 1 << 20;

const PREFIX_BYTES: usize = 4;

/// Why a stream of frames cannot go on. After either the connection is closed: nobody knows where the next frame starts
/// or what the peer speaks.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than anything muskox sends.
    #[error("a frame of {len} bytes is over the limit of {FRAME_MAX_BYTES}")]
    TooLong {
        /// What the peer announced.
        len: usize,
    },
    /// Not a message of this version of the protocol.
    #[error("not a control message")]
    NotAMessage(#[source] serde_json::Error),
}

/// Collects received bytes and cuts them into messages.
#[derive(Debug, Default)]
pub struct Decoder {
    received: Vec<u8>,
}

/// The bytes of one frame that carries `message`.
///
/// # Errors
/// [`FrameError::TooLong`] if the message does not fit one frame.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; PREFIX_BYTES];
    serde_json::to_writer(&mut bytes, message).map_err(FrameError::NotAMessage)?;
    let len = bytes.len() - PREFIX_BYTES;
    let prefix = u32::try_from(len).ok().filter(|_| len <= FRAME_MAX_BYTES).ok_or(FrameError::TooLong { len })?;
    bytes[..PREFIX_BYTES].copy_from_slice(&prefix.to_be_bytes());
    Ok(bytes)
}

impl Decoder {
    /// Takes what was received.
    pub fn push(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// How many received bytes wait to become a message.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.received.len()
    }

    /// The next whole message, or `None` until more bytes have come.
    ///
    /// # Errors
    /// [`FrameError`]; the connection is of no use any more.
    pub fn take_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some((prefix, rest)) = self.received.split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let len = usize::try_from(u32::from_be_bytes(*prefix)).expect("usize has 64 bits");
        if len > FRAME_MAX_BYTES {
            return Err(FrameError::TooLong { len });
        }
        let Some(body) = rest.get(..len) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(body).map_err(FrameError::NotAMessage)?;
        self.received.drain(..PREFIX_BYTES + len);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::control::{Ask, Request, VERSION};

    fn ask(id: u64) -> Ask {
        Ask { version: VERSION, id, request: Request::Status }
    }

    /// Goal: every split of a stream gives the same messages. Method: cut two frames at each place.
    #[test]
    fn a_stream_may_be_cut_anywhere() {
        let stream = [encode(&ask(1)).unwrap(), encode(&ask(2)).unwrap()].concat();
        for cut in 0..=stream.len() {
            let (mut decoder, mut seen) = (Decoder::default(), Vec::new());
            for piece in [&stream[..cut], &stream[cut..]] {
                decoder.push(piece);
                while let Some(message) = decoder.take_message::<Ask>().unwrap() {
                    seen.push(message.id);
                }
            }
            assert_eq!((seen, decoder.waiting_bytes()), (vec![1, 2], 0), "cut at {cut}");
        }
    }

    /// Goal: a hostile length costs nothing. Method: announce 4 GiB; the refusal comes with the prefix alone.
    #[test]
    fn a_huge_frame_is_refused_before_it_is_collected() {
        let mut decoder = Decoder::default();
        decoder.push(&[0xff; 4]);
        assert!(matches!(decoder.take_message::<Ask>(), Err(FrameError::TooLong { .. })));
        let long = "x".repeat(FRAME_MAX_BYTES);
        assert!(matches!(encode(&long), Err(FrameError::TooLong { .. })));
    }

    /// Goal: no bytes make the decoder panic. Method: every single byte changed in a good frame, and broken JSON.
    #[test]
    fn damaged_frames_are_errors_or_wait_for_more() {
        let good = encode(&ask(7)).unwrap();
        for place in 0..good.len() {
            for value in [0, 1, b'"', b'{', 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[place] = value;
                let mut decoder = Decoder::default();
                decoder.push(&bad);
                let _ = decoder.take_message::<Ask>();
            }
        }
        let deep = "[".repeat(100_000);
        let mut decoder = Decoder::default();
        decoder.push(&[&u32::try_from(deep.len()).unwrap().to_be_bytes()[..], deep.as_bytes()].concat());
        assert!(matches!(decoder.take_message::<Ask>(), Err(FrameError::NotAMessage(_))));
    }
}
