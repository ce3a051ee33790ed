//! Strangers that connect and say nothing.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the product promises to withstand: docs/runbooks/target.md.
pub const STRANGERS: usize = 10_000;
/// How soon somebody with a right gets in beside them.
pub const IN_WITHIN: Duration = Duration::from_secs(2);
/// A door that accepts takes microseconds; one that does not is given up.
const CONNECT_MAX: Duration = Duration::from_millis(200);
/// One of three tries counts: the machine may be busy with other tests.
const TRIES: usize = 3;

/// Connections to a door, made as quickly as it accepts them and kept until this is dropped.
pub struct Flood {
    opened: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Begins.
    pub fn of(to: SocketAddr) -> Self {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
        let (opened, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ended) = (Arc::clone(&opened), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            let mut kept = Vec::with_capacity(STRANGERS);
            while !ended.load(Ordering::Relaxed) {
                if kept.len() >= STRANGERS {
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                }
                match TcpStream::connect_timeout(&to, CONNECT_MAX) {
                    Ok(stream) => {
                        kept.push(stream);
                        count.store(kept.len(), Ordering::Relaxed);
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Self { opened, over, thread: Some(thread) }
    }

    /// Waits until this many are connected, or until no more of them get in.
    pub fn wait_for(&self, count: usize) -> usize {
        let (mut last, mut changed) = (0, Instant::now());
        loop {
            let opened = self.opened.load(Ordering::Relaxed);
            if opened >= count || changed.elapsed() > Duration::from_secs(2) {
                return opened;
            }
            if opened > last {
                (last, changed) = (opened, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().expect("it runs").join().unwrap();
    }
}

/// Has `get_in` done while strangers come and when all are there; how long it took at best in each case.
pub fn beside_strangers(door: SocketAddr, mut get_in: impl FnMut() -> bool) -> [Duration; 2] {
    let flood = Flood::of(door);
    [300, STRANGERS].map(|count| {
        let there = flood.wait_for(count);
        let tries = (0..TRIES).map(|_| {
            let begun = Instant::now();
            if get_in() { begun.elapsed() } else { Duration::MAX }
        });
        let best = tries.min().expect("there are tries");
        println!("beside {there} strangers: {best:?}");
        best
    })
}
