//! A TLS connection's state, driven by a socket that never blocks. It owns no socket, so it can move to another thread.
//!
//! Invariant: bytes the application handed over are either all sent or reported by `has_unsent`.

use super::TlsError;
use super::verify::host_key_of;
use crate::net::transport::Socket;
use rustls::{Connection, Error};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use tokio::io::Interest;
use units::HostKey;

/// Plaintext that rustls may hold while its ciphertext waits for the socket: a large answer and a few small ones.
const HELD_MAX_BYTES: usize = 512 << 10;

/// An authenticated TLS connection.
pub(in crate::net) struct Session {
    connection: Connection,
    /// None: a client that showed no certificate, where that is allowed.
    peer: Option<HostKey>,
    /// The next read finds something without the socket: decrypted bytes, or an end or error that was put off.
    plaintext_waits: bool,
}

/// A socket as rustls wants it.
struct Io<'a>(&'a Socket);

impl Read for Io<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl Write for Io<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.try_write_vectored(&[IoSlice::new(from)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn unless_it_would_block(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        done => done,
    }
}

/// Sends ciphertext until there is none left.
fn send(connection: &mut Connection, socket: &Socket) -> io::Result<()> {
    while connection.wants_write() {
        connection.write_tls(&mut Io(socket))?;
    }
    Ok(())
}

/// Works off received ciphertext. A peer that has to be refused is told so, as far as that goes without waiting.
fn process(connection: &mut Connection, socket: &Socket) -> Result<usize, Error> {
    match connection.process_new_packets() {
        Ok(state) => Ok(state.plaintext_bytes_to_read()),
        Err(error) => {
            let _ = send(connection, socket);
            Err(error)
        }
    }
}

impl Session {
    pub(super) async fn shake_hands(
        socket: &Socket,
        mut connection: Connection,
        early: Vec<u8>,
    ) -> Result<Self, TlsError> {
        let (mut early, mut held) = (early.as_slice(), 0);
        while !early.is_empty() {
            connection.read_tls(&mut early)?;
            held = process(&mut connection, socket).map_err(TlsError::Refused)?;
        }
        loop {
            match send(&mut connection, socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    socket.ready(Interest::WRITABLE).await?;
                    continue;
                }
                sent => sent?,
            }
            if !connection.is_handshaking() {
                break;
            }
            socket.ready(Interest::READABLE).await?;
            match connection.read_tls(&mut Io(socket)) {
                Ok(0) => return Err(TlsError::Broken(ErrorKind::UnexpectedEof.into())),
                Ok(_) => held = process(&mut connection, socket).map_err(TlsError::Refused)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        connection.set_buffer_limit(Some(HELD_MAX_BYTES));
        let certificate = connection.peer_certificates().and_then(|chain| chain.first());
        let peer = certificate.map(host_key_of).transpose().map_err(TlsError::Refused)?;
        Ok(Self { connection, peer, plaintext_waits: held > 0 })
    }

    pub(in crate::net) fn peer_key(&self) -> Option<HostKey> {
        self.peer
    }

    pub(in crate::net) fn holds_plaintext(&self) -> bool {
        self.plaintext_waits
    }

    pub(in crate::net) fn has_unsent(&self) -> bool {
        self.connection.wants_write()
    }

    /// Takes what is decrypted, and receives and decrypts until `into` is full or the socket is empty.
    pub(in crate::net) fn try_read(&mut self, socket: &Socket, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.read_some(socket, &mut into[done..]) {
                Ok(0) => break,
                Ok(count) => done += count,
                // What came before an end or an error is given out first; the end or error is found again.
                Err(error) if done == 0 => return Err(error),
                Err(error) => {
                    // `readable` must not wait for a socket that has said everything.
                    self.plaintext_waits = error.kind() != ErrorKind::WouldBlock;
                    break;
                }
            }
        }
        Ok(done)
    }

    fn read_some(&mut self, socket: &Socket, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.plaintext_waits = false,
                // The plaintext, or the peer's closing word; or the end without one, which is an error.
                read => {
                    self.plaintext_waits = read.is_ok();
                    return read;
                }
            }
            // At the end of the stream `read_tls` gives 0, and the reader then says which end it was.
            self.connection.read_tls(&mut Io(socket))?;
            let held = process(&mut self.connection, socket);
            let held = held.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            self.plaintext_waits = held > 0;
            // Answers to the peer's own words (a new key) go out by the way.
            unless_it_would_block(send(&mut self.connection, socket))?;
        }
    }

    /// Encrypts as much as may be held, and sends it as far as the socket takes it.
    pub(in crate::net) fn try_write_vectored(&mut self, socket: &Socket, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        // While ciphertext waits nothing new is taken: the caller is to feel it.
        send(&mut self.connection, socket)?;
        if pieces.iter().all(|piece| piece.is_empty()) {
            return Ok(0);
        }
        let taken = self.connection.writer().write_vectored(pieces)?;
        assert!(taken > 0, "an empty buffer takes something");
        unless_it_would_block(send(&mut self.connection, socket))?;
        Ok(taken)
    }

    pub(in crate::net) fn say_goodbye(&mut self, socket: &Socket) {
        self.connection.send_close_notify();
        let _ = send(&mut self.connection, socket);
    }
}
