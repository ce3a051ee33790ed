//! Connections to other nodes that are kept for the next question: a hand-over asks several times within milliseconds, and
//! a TLS handshake costs more than all of a question.
//!
//! A line is used by one question at a time and given up when it is old, was idle, or broke. What was sent on a line that
//! broke is not sent again: it may have been heard; whoever asked asks again.

use crate::client::{self, Answer, Sender};
use api::Problem;
use host::net::TlsFiles;
use host::runtime::now;
use hyper::body::Bytes;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use units::{HostKey, Millis, Moment};

/// Lines kept to one machine: questions that go on at the same time.
const KEPT_MAX: usize = 8;
/// The other end closes a connection that was idle for 5 s: ours is given up before, so that no question meets that end.
const IDLE_MAX: Millis = Millis(3_000);
/// The other end cuts any connection off after 30 s, an answer may take 20 s. Also how long a certificate that was renewed
/// meanwhile is still shown.
const AGE_MAX: Millis = Millis(8_000);

/// All lines.
#[derive(Default)]
pub struct Lines(RefCell<BTreeMap<HostKey, Vec<Line>>>);

struct Line {
    sender: Sender,
    address: SocketAddr,
    opened: Moment,
    used: Moment,
}

impl Lines {
    /// Posts to exactly this machine.
    ///
    /// # Errors
    /// What stands between.
    pub async fn post(
        &self,
        files: &TlsFiles,
        (address, key): (SocketAddr, HostKey),
        path: &str,
        body: Bytes,
    ) -> Result<Answer, Problem> {
        let mut line = match self.take(address, key) {
            Some(line) => line,
            None => {
                let sender = client::open(client::as_member(files, address, key).await?).await?;
                Line { sender, address, opened: now(), used: now() }
            }
        };
        let answer = client::send(&mut line.sender, ("POST", path), None, body).await?;
        line.used = now();
        let mut lines = self.0.borrow_mut();
        let kept = lines.entry(key).or_default();
        if kept.len() < KEPT_MAX {
            kept.push(line);
        }
        Ok(answer)
    }

    /// A line that can be used; those that cannot be are given up.
    fn take(&self, address: SocketAddr, key: HostKey) -> Option<Line> {
        let mut lines = self.0.borrow_mut();
        let at = now();
        lines.values_mut().for_each(|kept| kept.retain(|line| line.is_good(at)));
        lines.retain(|_, kept| !kept.is_empty());
        let kept = lines.get_mut(&key)?;
        let place = kept.iter().rposition(|line| line.address == address)?;
        Some(kept.remove(place))
    }
}

impl Line {
    fn is_good(&self, at: Moment) -> bool {
        self.sender.is_ready() && at.since(self.opened) < AGE_MAX && at.since(self.used) < IDLE_MAX
    }
}
