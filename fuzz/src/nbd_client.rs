//! NBD as a server may speak it: handshake, then replies to one request.
//!
//! First byte: bit 0 TLS required, bits 1 and 2 the request (read, write, block status, unfragmented read). The rest
//! is the stream, from the greeting on.

use crate::Seed;
use units::ByteOffset;
use wire::nbd::constant::{
    CMD_BLOCK_STATUS, CMD_FLAG_DF, CMD_READ, CMD_WRITE, EXTENTS_MAX, OPTION_REPLY_LEN_MAX, STRING_MAX,
};
use wire::nbd::{
    ClientCommand, ClientConfig, ClientHandshake, ClientTls, Context, Follows, Pending, Ready, Request, decode_extents,
    decode_reply,
};

/// Fed whole and byte by byte, the client says the same.
pub fn nbd_client(data: &[u8]) {
    let Some((&choice, stream)) = data.split_first() else { return };
    let whole = attach(choice, [stream].into_iter());
    let pieces = attach(choice, std::iter::once(&stream[..0]).chain(stream.chunks(1)));
    if choice & 1 == 0 {
        assert_eq!(whole, pieces);
    }
}

fn attach<'a>(choice: u8, parts: impl Iterator<Item = &'a [u8]>) -> Vec<ClientCommand> {
    let tls = if choice & 1 == 0 { ClientTls::Off } else { ClientTls::Required };
    let config =
        ClientConfig { export: "v;epoch=1;incarnation=1;mode=rw".to_owned(), tls, context: Some(Context::BaseAllocation) };
    let mut machine = ClientHandshake::new(config);
    let mut log = Vec::new();
    let mut replies = Vec::new();
    let mut ready = None;
    for mut part in parts {
        while ready.is_none() {
            let Some(command) = machine.step(&mut part) else { break };
            match &command {
                ClientCommand::StartTls if part.is_empty() => machine.tls_started(),
                ClientCommand::Ready(agreed) => ready = Some(agreed.clone()),
                _ => {}
            }
            assert!(log.len() < 16, "a handshake is short: {log:?}");
            log.push(command);
        }
        assert!(machine.held_bytes() <= OPTION_REPLY_LEN_MAX as usize);
        if ready.is_some() {
            replies.extend_from_slice(part);
        }
    }
    if let Some(ready) = ready {
        receive(&ready, choice, &replies);
    }
    log
}

fn receive(ready: &Ready, choice: u8, mut from: &[u8]) {
    let (command, flags) = match (choice >> 1) & 3 {
        0 => (CMD_READ, 0),
        1 => (CMD_WRITE, 0),
        2 => (CMD_BLOCK_STATUS, 0),
        _ => (CMD_READ, CMD_FLAG_DF),
    };
    let request = Request { flags, command, cookie: 0, at: ByteOffset(4096), len: 8192 };
    let mut pending = Pending::new(request, ready);
    let mut seen = [false; 8192];
    while let Ok(Some(head)) = decode_reply(&mut from, ready.structured) {
        if head.cookie != request.cookie {
            return; // unknown: the connection is closed
        }
        let Ok(progress) = pending.accept(&head) else { return };
        let skip = match progress.follows {
            Follows::Nothing => 0,
            Follows::Data { into, len } => {
                cover(&mut seen, into, len);
                len as usize
            }
            Follows::Zeroes { into, len } => {
                cover(&mut seen, into, len);
                0
            }
            Follows::Extents { count } => {
                assert!(count <= EXTENTS_MAX);
                let bytes = count as usize * 8;
                if let Some(bytes) = from.get(..bytes) {
                    let _ = decode_extents(bytes, &request);
                }
                bytes
            }
            Follows::Text { len, skip } => {
                assert!(usize::from(len) <= STRING_MAX && skip < 8192);
                usize::from(len) + skip as usize
            }
        };
        from = &from[from.len().min(skip)..];
        if let Some(end) = progress.finished {
            let all = command != CMD_READ || seen.iter().all(|&byte| byte);
            assert!(end.is_err() || all, "a read that misses bytes was reported as a success");
            return;
        }
    }
}

fn cover(seen: &mut [bool; 8192], into: u32, len: u32) {
    for byte in &mut seen[into as usize..(into + len) as usize] {
        assert!(!*byte, "a byte of a read was delivered twice");
        *byte = true;
    }
}

/// Written by hand, with what a peer says first.
pub fn seeds() -> Vec<Seed> {
    Vec::new()
}
