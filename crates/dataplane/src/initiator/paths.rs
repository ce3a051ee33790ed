//! What is known of each way to a target: of the one in use by its session, of the others by a knock now and then. So a segment that is
//! cut is noticed while the other one still serves, not when that is cut too.
//!
//! A knock is a connection on which the target's greeting is read; nobody is let in by it. It finds cables, switches, addresses and
//! targets that hang; not what only large packets or a wrong clock run into: that is said by the session that tries.

use host::net::connect_tcp;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use units::Millis;
use wire::control::PathReport;

/// Between two knocks at a portal that is not in use.
const KNOCK_EVERY: Duration = Duration::from_secs(15);
/// A storage segment answers within milliseconds or not at all.
const CONNECT_MAX: Millis = Millis(500);
/// A target greets at once; a busy one gets its time.
const GREETING_MAX: Duration = Duration::from_secs(2);
/// NBDMAGIC, with which every target begins. Source: NBD doc/proto.md, "Newstyle negotiation".
const GREETING: &[u8; 8] = b"NBDMAGIC";

/// The portals of a target, tried in turn.
pub struct Paths {
    portals: Vec<SocketAddr>,
    /// Which portal is tried next.
    next: Cell<usize>,
    /// Which one the session goes over, or went last.
    used: Cell<Option<usize>>,
    /// Why each could not be used when it was tried last.
    reasons: RefCell<Vec<Option<String>>>,
}

impl Paths {
    /// Ways that nobody has tried.
    pub fn new(portals: Vec<SocketAddr>) -> Self {
        let reasons = RefCell::new(vec![None; portals.len()]);
        Self { portals, next: Cell::new(0), used: Cell::new(None), reasons }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.portals.len()
    }

    /// In turn: when a session is lost, its segment is suspect and the next one is tried first.
    pub fn take(&self) -> (usize, SocketAddr) {
        let turn = self.next.get();
        self.next.set((turn + 1) % self.portals.len());
        (turn, self.portals[turn])
    }

    /// A session is wanted: the one before, if there was one, was lost on its way.
    pub fn lost(&self) {
        if let Some(used) = self.used.take() {
            self.note(used, Some("the last session over it was lost".to_owned()));
        }
    }

    /// What became of a try to get a session.
    pub fn tried(&self, path: usize, failed: Option<String>) {
        if failed.is_none() {
            self.used.set(Some(path));
        }
        self.note(path, failed);
    }

    /// How they are.
    pub fn report(&self) -> Vec<PathReport> {
        let reasons = self.reasons.borrow();
        let report = |(path, portal): (usize, &SocketAddr)| PathReport {
            portal: *portal,
            used: self.used.get() == Some(path),
            reason: reasons[path].clone(),
        };
        self.portals.iter().enumerate().map(report).collect()
    }

    /// Knocks at the portals that are not in use, for ever.
    pub async fn knock(&self) {
        loop {
            for (path, portal) in self.portals.iter().enumerate() {
                if self.used.get().is_some_and(|used| used != path) {
                    let answer = knock_at(*portal).await;
                    // A session may have taken it meanwhile, and knows better.
                    if self.used.get() != Some(path) {
                        self.note(path, answer.err());
                    }
                }
            }
            tokio::time::sleep(KNOCK_EVERY).await;
        }
    }

    fn note(&self, path: usize, reason: Option<String>) {
        let before = std::mem::replace(&mut self.reasons.borrow_mut()[path], reason.clone());
        let portal = self.portals[path];
        match (before, reason) {
            (None, Some(why)) => tracing::warn!("the path to {portal} is down: {why}"),
            (Some(_), None) => tracing::info!("the path to {portal} is back"),
            _ => {}
        }
    }
}

async fn knock_at(portal: SocketAddr) -> Result<(), String> {
    let mut transport = connect_tcp(portal, CONNECT_MAX).await.map_err(|error| error.to_string())?;
    let mut greeting = [0; GREETING.len()];
    match tokio::time::timeout(GREETING_MAX, transport.read_exact(&mut greeting)).await {
        Ok(Ok(_)) if greeting == *GREETING => Ok(()),
        Ok(Ok(_)) => Err("what listens there is no target".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the target has not answered within {} s", GREETING_MAX.as_secs())),
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    /// Goal: A24: each path is known by itself: the one in use by its session, the others by knocks. Method: a target that greets, one
    /// that is gone, one that is none; a session that is lost.
    #[test]
    fn each_path_is_known_by_itself() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listening = |greeting: &'static [u8]| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let at = listener.local_addr().unwrap();
            std::thread::spawn(move || {
                listener.incoming().for_each(|stream| stream.unwrap().write_all(greeting).unwrap());
            });
            at
        };
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let paths =
            Paths::new(vec![listening(b"NBDMAGICIHAVEOPT"), listening(b"SSH-2.0-x"), gone, listening(b"NBDMAGIC")]);
        let (first, _) = paths.take();
        paths.tried(first, None);
        let settled = async {
            tokio::select! {
                () = paths.knock() => unreachable!("for ever"),
                () = async {
                    while paths.reasons.borrow()[2].is_none() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                } => {}
            }
        };
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), settled).await.unwrap() });
        let report = paths.report();
        assert!(report[0].used && report[0].reason.is_none(), "{report:?}");
        assert!(report[1].reason.as_ref().is_some_and(|why| why.contains("no target")), "{report:?}");
        assert!(report[2].reason.is_some() && report[3].reason.is_none(), "{report:?}");
        paths.lost();
        assert!(paths.report()[0].reason.as_ref().is_some_and(|why| why.contains("lost")));
        assert_eq!(paths.take().0, 1, "the next one is tried first");
        paths.tried(1, None);
        assert!(paths.report()[1].used && paths.report()[1].reason.is_none());
    }
}
