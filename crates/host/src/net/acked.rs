//! What a peer's TCP has acknowledged: it says that bytes arrive on its machine, not that a program there reads them.
#![allow(unsafe_code, reason = "getsockopt(TCP_INFO) has no safe call here")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// How far what was sent has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Bytes acknowledged since the connection was made; only grows.
    pub bytes: u64,
    /// Whether the kernel has nothing left to send, nor anything that is not acknowledged.
    pub all: bool,
}

/// `struct tcp_info` up to and including `tcpi_notsent_bytes`, as 8-byte words: the kernel fills in what it knows. Source:
/// Linux `include/uapi/linux/tcp.h`; the fields have kept their places since Linux 4.6.
const WORDS: usize = 19;
/// Where the fields are, in bytes.
const UNACKED: usize = 24;
const BYTES_ACKED: usize = 120;
const NOTSENT_BYTES: usize = 144;

/// What the peer of a TCP socket has acknowledged.
///
/// # Errors
/// What the kernel says; `Unsupported` from one that does not count.
pub(super) fn acknowledged(socket: BorrowedFd<'_>) -> io::Result<Acknowledged> {
    let mut info = [0_u64; WORDS];
    let size = size_of_val(&info);
    let mut len = libc::socklen_t::try_from(size).expect("152 bytes");
    // SAFETY: `info` is `len` writable bytes that live for the call, any content of which is valid; `len` is ours.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len)
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    if usize::try_from(len).is_ok_and(|len| len < NOTSENT_BYTES + 4) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let bytes: Vec<u8> = info.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let four = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let acked = u64::from_ne_bytes(bytes[BYTES_ACKED..BYTES_ACKED + 8].try_into().expect("eight bytes"));
    Ok(Acknowledged { bytes: acked, all: four(UNACKED) == 0 && four(NOTSENT_BYTES) == 0 })
}

#[cfg(test)]
mod test {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::{Duration, Instant};

    fn until(socket: &TcpStream, what: &str, done: impl Fn(Acknowledged) -> bool) -> Acknowledged {
        let begun = Instant::now();
        loop {
            let now = acknowledged(socket.as_fd()).unwrap();
            if done(now) {
                return now;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "{what}: {now:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Goal: bytes that the peer's kernel took are counted, whether its program reads or not; those it did not take are
    /// known to be under way. Method: a peer that does not read, a little, then more than fits, then it reads.
    #[test]
    fn acknowledged_bytes_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let before = acknowledged(sender.as_fd()).unwrap().bytes;
        sender.write_all(&[7; 100]).unwrap();
        let few = until(&sender, "a few bytes", |now| now.all);
        assert_eq!(few.bytes - before, 100);

        sender.set_nonblocking(true).unwrap();
        let mut sent = 100;
        while let Ok(count) = sender.write(&[7; 65_536]) {
            sent += count as u64;
        }
        let full = acknowledged(sender.as_fd()).unwrap();
        assert!(!full.all && full.bytes - before < sent, "{full:?}, {sent} sent");
        let reading = std::thread::spawn(move || {
            let mut taken = vec![0; usize::try_from(sent).unwrap()];
            peer.read_exact(&mut taken).unwrap();
            peer
        });
        let all = until(&sender, "all bytes", |now| now.all);
        assert_eq!(all.bytes - before, sent);
        drop(reading.join().unwrap());
    }
}
