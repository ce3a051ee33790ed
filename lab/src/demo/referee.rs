//! The referee: hears in the client's namespace which records are durable. What it heard is what was acknowledged.

use super::evidence::Receipt;
use super::guest::words::{Ack, DATAGRAM_MAX};
use super::lines::Lines;
use super::now_us;
use super::task::{Ending, Task};
use anyhow::Context;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How soon it notices that it is to end.
const LOOK_UP: Duration = Duration::from_millis(50);

/// What was heard so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// How many acknowledgements.
    pub acked: u64,
    /// The first.
    pub first: Option<Receipt>,
    /// The latest.
    pub last: Option<Receipt>,
    /// Datagrams that were none.
    pub strange: u64,
}

/// The referee at work.
pub struct Referee {
    task: Task,
    heard: Arc<Mutex<Heard>>,
}

impl Referee {
    /// Listens on `address` in `namespace` and notes everything in `log`.
    ///
    /// # Errors
    /// When the port is in use, or the log cannot be written.
    pub fn start(namespace: Option<&Path>, address: SocketAddr, log: &Path) -> anyhow::Result<Self> {
        let lines = Lines::create(log)?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let counters = Arc::clone(&heard);
        let prepare = || {
            let socket = UdpSocket::bind(address).with_context(|| format!("listening on {address}"))?;
            socket.set_read_timeout(Some(LOOK_UP))?;
            Ok(socket)
        };
        let work = move |socket, ending: &Ending| listen(&socket, lines, &counters, ending);
        let task = Task::begin("referee", namespace, prepare, work)?;
        Ok(Self { task, heard })
    }

    /// What was heard so far.
    pub fn heard(&self) -> Heard {
        *self.heard.lock().expect("no panic under this lock")
    }

    /// Ends it; the log is whole then.
    ///
    /// # Errors
    /// When the log could not be written.
    pub fn end(self) -> anyhow::Result<Heard> {
        self.task.end()?;
        let heard = *self.heard.lock().expect("no panic under this lock");
        Ok(heard)
    }
}

fn listen(socket: &UdpSocket, mut lines: Lines, heard: &Mutex<Heard>, ending: &Ending) -> anyhow::Result<()> {
    let mut datagram = [0; DATAGRAM_MAX];
    while !ending.is_near() {
        // An error is a timeout, or the echo of something that was never ours.
        if let Ok(len) = socket.recv(&mut datagram) {
            let at_us = now_us();
            let ack = Ack::read(&datagram[..len]);
            let receipt = ack.map(|ack| Receipt { at_us, boot: ack.boot, n: ack.n, crc: ack.crc });
            if let Some(receipt) = &receipt {
                lines.append(receipt)?;
            }
            count(&mut heard.lock().expect("no panic under this lock"), receipt);
        }
        lines.tick()?;
    }
    Ok(())
}

fn count(heard: &mut Heard, receipt: Option<Receipt>) {
    match receipt {
        None => heard.strange += 1,
        Some(receipt) => {
            heard.acked += 1;
            heard.first.get_or_insert(receipt);
            heard.last = Some(receipt);
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::demo::guest::record::Boot;
    use crate::demo::lines;

    /// Goal: every acknowledgement is in the log, in order, and nothing else. Method: datagrams on loopback.
    #[test]
    fn what_was_heard_is_written() {
        let log = std::env::temp_dir().join(format!("muskox-referee-{}.jsonl", std::process::id()));
        let free = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let before_us = now_us();
        let referee = Referee::start(None, address, &log).unwrap();
        let guest = UdpSocket::bind("127.0.0.1:0").unwrap();
        let ack = |n| Ack { boot: Boot(5), n, crc: 9 };
        for n in 0..3 {
            guest.send_to(ack(n).to_string().as_bytes(), address).unwrap();
        }
        guest.send_to(b"A nonsense", address).unwrap();
        let begun = std::time::Instant::now();
        while referee.heard().strange == 0 {
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", referee.heard());
            std::thread::sleep(Duration::from_millis(2));
        }
        let heard = referee.end().unwrap();
        let receipts: Vec<Receipt> = lines::read(&log).unwrap();
        let text = std::fs::read_to_string(&log).unwrap();
        std::fs::remove_file(&log).unwrap();
        assert_eq!((heard.acked, heard.strange, heard.last), (3, 1, Some(receipts[2])));
        assert_eq!(receipts.iter().map(|receipt| receipt.n).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(receipts.iter().all(|receipt| receipt.at_us >= before_us && receipt.at_us <= now_us()));
        assert!(text.lines().next().unwrap().ends_with("\"boot\":\"0000000000000005\",\"n\":0,\"crc\":9}"), "{text}");
    }
}
