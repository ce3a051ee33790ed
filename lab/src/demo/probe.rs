//! The probe: asks the guest every 10 ms from the client's namespace whether it answers. The longest time without an
//! answer is the blackout that a user of the guest sees.

use super::evidence::Answer;
use super::guest::words::{self, DATAGRAM_MAX};
use super::lines::Lines;
use super::now_us;
use super::task::{Ending, Task};
use anyhow::Context;
use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PERIOD_US: u64 = 10_000;
/// Probes whose answers are still waited for: ten seconds of them. What comes later is an answer to nobody.
const WAITING_MAX: usize = 1000;

/// A time without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Since when.
    pub begun_us: u64,
    /// For how long.
    pub len_us: u64,
}

/// The prober at work.
pub struct Prober {
    task: Task,
    heard: Arc<Mutex<Heard>>,
}

/// What the answers so far say.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    last: Option<Answer>,
    /// The longest time between two answers, since somebody asked for it.
    longest_us: u64,
}

impl Prober {
    /// Asks `guest` (its address and the echo's port) from `namespace`, and notes the answers in `log`.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or the log cannot be written.
    pub fn start(namespace: Option<&Path>, guest: SocketAddr, log: &Path) -> anyhow::Result<Self> {
        let lines = Lines::create(log)?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let latest = Arc::clone(&heard);
        let prepare = || {
            let any: SocketAddr = if guest.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
            let socket = UdpSocket::bind(any).context("opening the prober's socket")?;
            // Not connected: a refusal that was a moment late would count as an answer's error.
            Ok(socket)
        };
        let work = move |socket, ending: &Ending| ask(&socket, guest, lines, &latest, ending);
        Ok(Self { task: Task::begin("prober", namespace, prepare, work)?, heard })
    }

    /// The latest answer.
    pub fn last(&self) -> Option<Answer> {
        self.heard.lock().expect("no panic under this lock").last
    }

    /// The longest time between two answers since this was asked last; the one that goes on now counts.
    pub fn take_longest_us(&self) -> u64 {
        let mut heard = self.heard.lock().expect("no panic under this lock");
        let ongoing_us = heard.last.map_or(0, |last| now_us().saturating_sub(last.at_us));
        std::mem::take(&mut heard.longest_us).max(ongoing_us)
    }

    /// Ends it; the log is whole then.
    ///
    /// # Errors
    /// When the log could not be written.
    pub fn end(self) -> anyhow::Result<()> {
        self.task.end()
    }
}

fn ask(
    socket: &UdpSocket,
    guest: SocketAddr,
    mut lines: Lines,
    latest: &Mutex<Heard>,
    ending: &Ending,
) -> anyhow::Result<()> {
    // Of each probe in flight its number and when it left; numbers are consecutive.
    let mut waiting: VecDeque<(u64, u64)> = VecDeque::new();
    let mut datagram = [0; DATAGRAM_MAX];
    let mut next_us = now_us();
    for n in 0.. {
        if ending.is_near() {
            break;
        }
        waiting.push_back((n, now_us()));
        if waiting.len() > WAITING_MAX {
            waiting.pop_front();
        }
        // No route and no neighbour are what a dead guest looks like: no answer.
        let _ = socket.send_to(words::probe(n).as_bytes(), guest);
        next_us = (next_us + PERIOD_US).max(now_us());
        while let Some(left_us) = next_us.checked_sub(now_us()).filter(|left_us| *left_us > 0) {
            socket.set_read_timeout(Some(Duration::from_micros(left_us)))?;
            let Ok((len, from)) = socket.recv_from(&mut datagram) else { continue };
            let at_us = now_us();
            let said = words::read_answer(&datagram[..len]).filter(|_| from == guest);
            let Some((n, boot)) = said else { continue };
            let Some(index) = waiting.iter().position(|(number, _)| *number == n) else { continue };
            let (_, sent_us) = waiting.remove(index).expect("it was found there");
            let answer = Answer { at_us, sent_us, n, boot };
            lines.append(&answer)?;
            let mut heard = latest.lock().expect("no panic under this lock");
            let silent_us = heard.last.map_or(0, |last| at_us.saturating_sub(last.at_us));
            *heard = Heard { last: Some(answer), longest_us: heard.longest_us.max(silent_us) };
        }
        lines.tick()?;
    }
    Ok(())
}

/// The longest time without an answer between `from_us` and `to_us`. The time from the span's begin to the first answer
/// in it counts, and that after the last one; a gap that began before the span is seen from its begin only.
pub fn longest_gap(answers: &[Answer], from_us: u64, to_us: u64) -> Gap {
    let mut times: Vec<u64> = answers.iter().map(|answer| answer.at_us).collect();
    times.retain(|at_us| (from_us..=to_us).contains(at_us));
    times.sort_unstable();
    times.push(to_us);
    let mut longest = Gap { begun_us: from_us, len_us: 0 };
    let mut before_us = from_us;
    for at_us in times {
        let len_us = at_us.saturating_sub(before_us);
        if len_us > longest.len_us {
            longest = Gap { begun_us: before_us, len_us };
        }
        before_us = at_us;
    }
    longest
}

/// When the guest answered first after `from_us`.
pub fn first_answer_us(answers: &[Answer], from_us: u64) -> Option<u64> {
    answers.iter().map(|answer| answer.at_us).filter(|at_us| *at_us > from_us).min()
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::demo::guest::record::Boot;
    use crate::demo::lines;

    fn at(at_us: u64) -> Answer {
        Answer { at_us, sent_us: at_us - 1, n: at_us, boot: Boot(1) }
    }

    /// Goal: the longest gap is found, also at the span's ends. Method: a made-up series, in no order.
    #[test]
    fn the_longest_gap_is_found() {
        let answers = [at(30), at(10), at(20), at(70), at(80)];
        let gap = |from_us, to_us| {
            let gap = longest_gap(&answers, from_us, to_us);
            (gap.begun_us, gap.len_us)
        };
        assert_eq!(gap(10, 80), (30, 40));
        assert_eq!(gap(10, 30), (10, 10));
        assert_eq!(gap(40, 60), (40, 20));
        assert_eq!(gap(0, 500), (80, 420));
        assert_eq!(gap(75, 76), (75, 1));
        assert_eq!(longest_gap(&[], 5, 9), Gap { begun_us: 5, len_us: 4 });
        assert_eq!(first_answer_us(&answers, 30), Some(70));
        assert_eq!(first_answer_us(&answers, 80), None);
    }

    /// Goal: a guest that pauses is seen as a gap of that length. Method: an echo on loopback that is silent for a
    /// while, and answers somebody else's numbers.
    #[test]
    fn a_pause_is_a_gap() {
        let log = std::env::temp_dir().join(format!("muskox-probe-{}.jsonl", std::process::id()));
        let guest = UdpSocket::bind("127.0.0.1:0").unwrap();
        let prober = Prober::start(None, guest.local_addr().unwrap(), &log).unwrap();
        let begun_us = now_us();
        let mut datagram = [0; DATAGRAM_MAX];
        let (mut answered, mut paused) = (0, false);
        while answered < 60 {
            let (len, from) = guest.recv_from(&mut datagram).unwrap();
            if answered == 30 && !paused {
                std::thread::sleep(Duration::from_millis(200));
                // What was asked meanwhile is never answered, as by a guest whose host died.
                guest.set_nonblocking(true).unwrap();
                while guest.recv_from(&mut datagram).is_ok() {}
                guest.set_nonblocking(false).unwrap();
                paused = true;
                continue;
            }
            guest.send_to(b"P 999999 0000000000000007", from).unwrap();
            guest.send_to(words::answer(&datagram[..len], Boot(7)).unwrap().as_bytes(), from).unwrap();
            answered += 1;
        }
        let wait = std::time::Instant::now();
        while prober.last().is_none_or(|last| last.at_us < now_us() - 200_000) && wait.elapsed().as_secs() < 1 {}
        prober.end().unwrap();
        let answers: Vec<Answer> = lines::read(&log).unwrap();
        std::fs::remove_file(&log).unwrap();
        let last_us = answers.last().unwrap().at_us;
        let gap = longest_gap(&answers, begun_us, last_us);
        assert!((190_000..600_000).contains(&gap.len_us), "{gap:?}");
        assert!(answers.len() >= 55 && answers.iter().all(|answer| answer.boot == Boot(7) && answer.n < 9999));
        assert!(answers.iter().all(|answer| answer.sent_us <= answer.at_us));
    }
}
