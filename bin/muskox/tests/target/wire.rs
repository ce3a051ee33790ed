//! A wire between a client and the target: a TCP proxy that can keep what the client sends, as a path does that goes
//! silent and comes back, and let through only so many bytes a second.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What passes at once.
const PIECE_BYTES: usize = 64 << 10;

/// A wire to a port of this machine. Its threads end with its connections.
pub struct Wire {
    /// Where clients connect.
    pub port: u16,
    held: Arc<AtomicBool>,
    bytes_per_second: Arc<AtomicU64>,
}

impl Wire {
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (held, bytes_per_second) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (holding, rate) = (Arc::clone(&held), Arc::clone(&bytes_per_second));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", target))) else { continue };
                let (client_back, server_back) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (held, rate) = (Arc::clone(&holding), Arc::clone(&rate));
                std::thread::spawn(move || pass(client, server, &held, &rate));
                std::thread::spawn(move || pass(server_back, client_back, &AtomicBool::new(false), &AtomicU64::new(0)));
            }
        });
        Self { port, held, bytes_per_second }
    }

    /// Whether what clients send is kept on the way instead of delivered. It is delivered later, in order.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    /// How many bytes of clients pass in a second; 0: all.
    pub fn throttle(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Ordering::SeqCst);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, held: &AtomicBool, rate: &AtomicU64) {
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        while held.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Some(nanos) = (count as u64 * 1_000_000_000).checked_div(rate.load(Ordering::SeqCst)) {
            std::thread::sleep(Duration::from_nanos(nanos));
        }
        if to.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
