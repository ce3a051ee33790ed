//! Control messages: frames of JSON. First byte: 0 requests, 1 answers; bit 1: the rest is one body without its
//! frame, so that a change does not break the length.

use crate::Seed;
use std::fmt::Debug;
use wire::control::{
    Answer, Ask, Code, Decoder, FRAME_MAX_BYTES, FrameError, Owner, Refusal, Reply, Request, VERSION, encode,
};
use units::{ByteLen, Epoch, HostKey, Mode};

/// Fed whole and in pieces the messages are the same, and each survives being sent on.
pub fn control_frame(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else { return };
    let stream = if choice & 2 == 0 { rest.to_vec() } else { framed(rest) };
    if choice & 1 == 0 { check::<Ask>(&stream) } else { check::<Answer>(&stream) }
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes()[..], body].concat()
}

/// What a message has to be.
trait Message: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug {}
impl<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug> Message for T {}

fn check<T: Message>(stream: &[u8]) {
    let (whole, broke) = receive::<T>([stream].into_iter());
    let (pieces, pieces_broke) = receive::<T>(stream.chunks(7));
    assert_eq!((&whole, broke), (&pieces, pieces_broke));
    for message in whole {
        // What is said in fewest words may be longer when all is spelled out.
        let Ok(bytes) = encode(&message) else { continue };
        let (again, broke) = receive::<T>([bytes.as_slice()].into_iter());
        assert_eq!((again, broke), (vec![message], false));
    }
}

fn receive<'a, T: Message>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<T>, bool) {
    let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.take_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(FrameError::TooLong { len }) => {
                    assert!(len > FRAME_MAX_BYTES);
                    return (messages, true);
                }
                Err(FrameError::NotAMessage(_)) => return (messages, true),
            }
        }
    }
    (messages, false)
}

pub fn seeds() -> Vec<Seed> {
    let ask = |request| Ask { version: VERSION, id: 7, request };
    let name = || "web1".parse().expect("a volume's name");
    let pool = || "tank".parse().expect("a pool's name");
    let create = Request::PoolCreate { pool: pool(), members: vec!["/dev/a".into(), "/dev/b".into()], wipe: true, single: false };
    let owners = vec![Owner { host: HostKey([0xaa; 32]), mode: Mode::Rw }];
    let raise = Request::Raise { volume: name(), epoch: Epoch(7), owners, shared: false };
    let volume = Request::VolumeCreate { pool: pool(), volume: name(), size: ByteLen::mib(64) };
    let frame = |choice: u8, bytes: Vec<u8>| [&[choice][..], &bytes].concat();
    let framed = |request| encode(&ask(request)).expect("a short message");
    let body = |request| framed(request)[4..].to_vec();
    let answer = |outcome| encode(&Answer::new(7, outcome)).expect("a short message")[4..].to_vec();
    vec![
        ("two_frames", frame(0, [framed(Request::Status), framed(create)].concat())),
        ("raise", frame(2, body(raise))),
        ("volume_create", frame(2, body(volume))),
        ("done", frame(3, answer(Ok(Reply::Done)))),
        ("pools", frame(3, answer(Ok(Reply::Pools(Vec::new()))))),
        ("refusal", frame(3, answer(Err(Refusal::new(Code::Busy, "it is in use", "detach it first"))))),
    ]
}
