//! A wire that can be slow: TCP forwarded between the initiator and the target, where what one connection has sent can be
//! kept and delivered later, when newer connections have already been used. No network on one machine does that by
//! itself; switches with deep queues and paths that come back do (reliability's B-11: a write overtaken by its older copy).

use crate::net::enter;
use anyhow::Context;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How long a connection to the target may take to come about.
const CONNECT_MAX: Duration = Duration::from_secs(2);
const PIECE: usize = 64 << 10;
/// What a connection may have on the way: more than the load has in flight.
const KEPT_MAX: usize = 4 << 20;

/// The wire.
pub struct Delay(Arc<State>);

#[derive(Default)]
struct State {
    /// The number of the next connection.
    next: AtomicU64,
    /// Connections below this number are kept back.
    kept_below: AtomicU64,
    /// How much was delivered late.
    late_bytes: AtomicU64,
}

impl Delay {
    /// Forwards from each first address to the second, in the namespace of this file.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub fn start(namespace: &Path, ways: &[(String, String)]) -> anyhow::Result<Self> {
        let state = Arc::new(State::default());
        for (from, to) in ways {
            let (ready, is_ready) = std::sync::mpsc::channel();
            let (namespace, from, to, state) = (namespace.to_owned(), from.clone(), to.clone(), Arc::clone(&state));
            std::thread::spawn(move || {
                let listener = enter(&namespace).and_then(|()| {
                    TcpListener::bind(&from).with_context(|| format!("listening on {from} on the first host"))
                });
                let (listener, answer) = match listener {
                    Ok(listener) => (Some(listener), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                // Whoever waits for it hears it, or has given up.
                let _ = ready.send(answer);
                for client in listener.iter().flat_map(TcpListener::incoming).flatten() {
                    let (to, state) = (to.clone(), Arc::clone(&state));
                    // A connection that breaks ends at both ends; that is all there is to say.
                    std::thread::spawn(move || forward(client, &to, &state).ok());
                }
            });
            is_ready.recv().context("the wire's thread ended")??;
        }
        Ok(Self(state))
    }

    /// From now on nothing passes on the connections that exist; what is sent is kept.
    pub fn keep(&self) {
        self.0.kept_below.store(self.0.next.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// What was kept is delivered.
    pub fn deliver(&self) {
        self.0.kept_below.store(0, Ordering::SeqCst);
    }

    /// How many bytes were delivered late so far.
    pub fn late_bytes(&self) -> u64 {
        self.0.late_bytes.load(Ordering::SeqCst)
    }
}

impl State {
    fn keeps(&self, number: u64) -> bool {
        number < self.kept_below.load(Ordering::SeqCst)
    }
}

fn forward(client: TcpStream, to: &str, state: &Arc<State>) -> anyhow::Result<()> {
    let number = state.next.fetch_add(1, Ordering::SeqCst);
    let server = TcpStream::connect_timeout(&to.parse()?, CONNECT_MAX)?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK_AGAIN))?;
    }
    let (from_server, to_client, back) = (server.try_clone()?, client.try_clone()?, Arc::clone(state));
    std::thread::spawn(move || carry(from_server, to_client, number, &back, false).ok());
    carry(client, server, number, state, true)
}

/// Carries one direction until its end. While it is kept, requests are taken in and answers are left where they are.
fn carry(mut from: TcpStream, mut to: TcpStream, number: u64, state: &State, requests: bool) -> anyhow::Result<()> {
    let (mut kept, mut piece, mut ended, mut late) = (Vec::new(), vec![0; PIECE], false, false);
    loop {
        let keeps = state.keeps(number);
        late |= keeps && requests;
        if !keeps && !kept.is_empty() {
            if late {
                state.late_bytes.fetch_add(kept.len() as u64, Ordering::SeqCst);
            }
            to.write_all(&kept)?;
            kept.clear();
            late = false;
        }
        if !keeps && ended {
            return Ok(to.shutdown(Shutdown::Write)?);
        }
        if ended || (keeps && !requests) || kept.len() > KEPT_MAX {
            std::thread::sleep(LOOK_AGAIN);
            continue;
        }
        match from.read(&mut piece) {
            Ok(0) => ended = true,
            Ok(many) => kept.extend_from_slice(&piece[..many]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // A reset is an end too: what came before it is still delivered.
            Err(_) => ended = true,
        }
    }
}
