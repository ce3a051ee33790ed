//! Real conversations, damaged by a seeded mutator, on every decoder: nothing panics, nothing grows. The fuzz targets
//! in `fuzz/` do the same for longer. A failure prints seed and round, so that it can be had again.

use super::drive::{Client, Server, converse};
use crate::nbd::constant::{CMD_BLOCK_STATUS, CMD_READ, CMD_WRITE, OPTION_LEN_MAX, OPTION_REPLY_LEN_MAX};
use crate::nbd::{
    BlockSizes, ClientTls, Context, Contexts, ExportInfo, ExportName, Extent, Follows, Limits, NbdError, Pending,
    Ready, Request, TlsPolicy, TransmissionFlags, block_status, decode_extents, decode_reply, decode_request,
    encode_request, error_chunk, none_done, offset_data_head, offset_hole,
};
use units::{ByteLen, ByteOffset};

const SEED: u64 = 0x6d75_736b_6f78_0001;
const ROUNDS: u32 = 200_000;

/// xorshift64*, from S. Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled" (2016).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % end.max(1)
    }

    /// Damages `bytes` in one to four places; the buffer is the caller's and is reused.
    fn damage(&mut self, whole: &[u8], bytes: &mut Vec<u8>) {
        bytes.clear();
        bytes.extend_from_slice(whole);
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(6) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                2 => bytes.truncate(at),
                3 if at + 4 <= bytes.len() => {
                    let number = [0, 1, 0xffff_ffff, 0x8000_0000, 4097, 0x0001_0000][self.below(6)];
                    bytes[at..at + 4].copy_from_slice(&u32::to_be_bytes(number));
                }
                4 => {
                    let part = at..(at + self.below(40)).min(bytes.len());
                    bytes.extend_from_within(part);
                }
                _ => bytes.push(0),
            }
        }
    }
}

/// Runs `decode` on `ROUNDS` damaged copies of `wholes`, and says which round it was if it panics.
fn shake(wholes: &[Vec<u8>], mut decode: impl FnMut(&[u8])) {
    struct Where(u32);
    impl Drop for Where {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("seed {SEED:#x}, round {}", self.0);
            }
        }
    }
    let mut chance = Chance(SEED);
    let mut bytes = Vec::new();
    let mut place = Where(0);
    for round in 0..ROUNDS {
        place.0 = round;
        let whole = chance.below(wholes.len());
        chance.damage(&wholes[whole], &mut bytes);
        decode(&bytes);
    }
}

/// What each side says in good conversations, plain and over TLS (from STARTTLS on, decrypted).
fn conversations() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut from_server, mut from_client) = (Vec::new(), Vec::new());
    for (policy, tls) in [(TlsPolicy::Off, ClientTls::Off), (TlsPolicy::Required, ClientTls::Required)] {
        for name in ["disk", "stale;epoch=1;incarnation=1;mode=rw"] {
            let talk = converse(&mut Server::new(policy), &mut Client::new(name, tls), 4096);
            from_server.push(talk.from_server.concat());
            from_client.push(talk.from_client.concat());
        }
    }
    (from_server, from_client)
}

#[test]
fn noise_does_not_break_the_servers_handshake() {
    let (_, wholes) = conversations();
    let mut odd = false;
    shake(&wholes, |bytes| {
        odd = !odd;
        let mut server = Server::new(if odd { TlsPolicy::Off } else { TlsPolicy::Required });
        let mut input = bytes;
        let sent = server.feed(&mut input).len();
        assert!(sent < 64 << 10 && server.machine.held_bytes() <= OPTION_LEN_MAX as usize);
        assert!(input.is_empty() || server.end().is_some() || server.tls);
    });
}

#[test]
fn noise_does_not_break_the_clients_handshake() {
    let (wholes, _) = conversations();
    let mut odd = false;
    shake(&wholes, |bytes| {
        odd = !odd;
        let mut client = Client::new("disk", if odd { ClientTls::Off } else { ClientTls::Required });
        let sent = client.feed(&mut &*bytes).len();
        assert!(sent < 4096 && client.machine.held_bytes() <= OPTION_REPLY_LEN_MAX as usize);
    });
}

#[test]
fn noise_does_not_break_requests() {
    let export = super::drive::disk();
    let request = |command, at, len| Request { flags: 1, command, cookie: 1, at: ByteOffset(at), len };
    let wholes: Vec<Vec<u8>> =
        (0..9).map(|command| [encode_request(&request(command, 4096, 8192)); 2].concat()).collect();
    shake(&wholes, |mut bytes| {
        while let Ok(Some(request)) = decode_request(&mut bytes) {
            let _ = Limits::of(&export, true).check(&request);
        }
    });
}

#[test]
fn noise_does_not_break_replies() {
    let export = ExportInfo {
        size: ByteLen::mib(1),
        flags: TransmissionFlags::HAS_FLAGS,
        block: BlockSizes::DEFAULT,
        name: None,
        description: None,
    };
    let ready = Ready { export, structured: true, context: Some(1) };
    let at = ByteOffset(4096);
    let mut status = Vec::new();
    block_status(
        &mut status,
        0,
        Contexts::default().with(Context::BaseAllocation),
        &[Extent { len: 4096, state: 0 }, Extent { len: 4096, state: 3 }],
    );
    let mut failed = offset_hole(0, at, 4096, false).to_vec();
    error_chunk(&mut failed, 0, NbdError::Io, "the disk is gone");
    let whole = [&offset_data_head(0, at, 16, false)[..], &[7; 16], &none_done(0)].concat();
    let commands = [CMD_READ, CMD_WRITE, CMD_BLOCK_STATUS];
    let mut turn = 0;
    shake(&[status, failed, whole], |mut bytes| {
        turn += 1;
        let request = Request { flags: 0, command: commands[turn % 3], cookie: 0, at, len: 8192 };
        let mut pending = Pending::new(request, &ready);
        while let Ok(Some(mut head)) = decode_reply(&mut bytes, true) {
            head.cookie = 0;
            let Ok(progress) = pending.accept(&head) else { break };
            let skip = match progress.follows {
                Follows::Nothing | Follows::Zeroes { .. } => 0,
                Follows::Data { into, len } => {
                    assert!(into + len <= request.len, "data lands in the buffer");
                    len as usize
                }
                Follows::Extents { count } => {
                    let _ = decode_extents(&bytes[..bytes.len().min(count as usize * 8)], &request);
                    count as usize * 8
                }
                Follows::Text { len, skip } => usize::from(len) + skip as usize,
            };
            bytes = &bytes[skip.min(bytes.len())..];
            if progress.finished.is_some() {
                break;
            }
        }
    });
}

/// What is taken for a name comes back as the same name when it is written again.
#[test]
fn noise_does_not_break_names() {
    let wholes = ["v", "disk;epoch=18;incarnation=2;mode=rw", "disk;mode=ro;epoch=0;incarnation=1"];
    shake(&wholes.map(|name| name.as_bytes().to_vec()), |bytes| {
        if let Ok(Ok(name)) = std::str::from_utf8(bytes).map(str::parse::<ExportName>) {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
    });
}
