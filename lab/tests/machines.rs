//! The lab's machines and cables, used as the lab uses them.

// A panic is the report, in helpers too.
#![allow(clippy::unwrap_used)]

use lab::ledger::{self, Ledger};
use lab::machine::{Machine, Role, Site};
use lab::net::{NETWORKS, Network, SEGMENTS, namespace_file};
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A site in a state folder of its own.
struct Lab {
    site: Site,
    ledger: Arc<Ledger>,
    state: PathBuf,
    settled: bool,
}

impl Lab {
    /// `None` if this is not root and that is allowed.
    fn start() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let allowed = std::env::var_os("MUSKOX_ALLOW_MISSING").is_some_and(|value| value == "1");
        if allowed && !rustix::process::geteuid().is_root() {
            eprintln!("SKIP: namespaces need root");
            return None;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // The ledger is named after the process, and names the run: tests in one process take turns in folders.
        let state = std::env::temp_dir().join(format!("muskox-machines-{}-{number}", std::process::id()));
        let ledger = Arc::new(Ledger::open(&state).unwrap());
        let site = Site::build(&ledger).unwrap_or_else(|error| {
            ledger.settle().unwrap();
            panic!("{error:#}");
        });
        Some(Self { site, ledger, state, settled: false })
    }

    fn machine(&self, role: Role) -> &Machine {
        self.site.machine(role)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let settled = if self.settled { Ok(()) } else { self.ledger.settle() };
        let _ = std::fs::remove_dir_all(&self.state);
        if !std::thread::panicking() {
            settled.unwrap();
        }
    }
}

const PORT: u16 = 7777;

/// A socket on a machine, on one network.
struct Plug {
    socket: UdpSocket,
    address: String,
}

impl Plug {
    fn new(machine: &Machine, network: Network) -> Self {
        let address = format!("{}:{PORT}", machine.address(network));
        let socket = machine.inside(|| UdpSocket::bind(&address)).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { socket, address }
    }

    /// Whether a word reaches `other`; `patience` is how often it is said.
    fn reaches(&self, other: &Self, patience: u32) -> bool {
        let mut heard = [0; 16];
        other.socket.set_nonblocking(true).unwrap();
        while other.socket.recv(&mut heard).is_ok() {}
        other.socket.set_nonblocking(false).unwrap();
        (0..patience).any(|_| {
            // An address that nobody answers for is an error of an earlier send.
            let _ = self.socket.send_to(b"word", &other.address);
            match other.socket.recv(&mut heard) {
                Ok(_) => true,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
                Err(error) => panic!("{error}"),
            }
        })
    }
}

const SURELY: u32 = 30;
const BRIEFLY: u32 = 3;

/// All tests are one: namespaces are named after the process, and building a site takes a second.
///
/// Goal: cuts cut what they say and nothing else, silently, and can be taken back; a machine's processes are where they
/// should be, and stop, go on and die together; nothing is left. Method: words over UDP between the machines, a shell
/// that counts, the ledger's folder and `/run/netns` in the end.
#[test]
fn machines_are_cut_frozen_and_powered_off() {
    let Some(mut lab) = Lab::start() else { return };
    cuts_are_silent_and_can_be_taken_back(&lab);
    one_way_cuts_have_a_direction(&lab);
    processes_stop_and_die_together(&lab);

    let namespaces = std::fs::read_dir("/run/netns").unwrap().flatten();
    let run = lab.ledger.run();
    assert_eq!(namespaces.filter(|entry| entry.file_name().to_string_lossy().starts_with(&run)).count(), 5);
    let cgroup = lab.machine(Role::Host1).cgroup();
    assert!(cgroup.exists());
    lab.ledger.settle().unwrap();
    lab.settled = true;
    assert!(!cgroup.exists());
    assert!(!namespace_file(&format!("{run}-switch")).exists());
    assert_eq!(ledger::clean(&lab.state).unwrap(), Vec::<String>::new());
}

fn cuts_are_silent_and_can_be_taken_back(lab: &Lab) {
    let (storage, host) = (lab.machine(Role::Storage), lab.machine(Role::Host1));
    let plugs = SEGMENTS.map(|segment| (Plug::new(storage, segment), Plug::new(host, segment)));
    for (storage, host) in &plugs {
        assert!(storage.reaches(host, SURELY) && host.reaches(storage, SURELY));
    }
    let switch = &lab.site.switch;
    switch.cut(&storage.ports(&[Network::Segment1])).unwrap();
    assert!(!plugs[0].0.reaches(&plugs[0].1, BRIEFLY) && !plugs[0].1.reaches(&plugs[0].0, BRIEFLY));
    assert!(plugs[1].0.reaches(&plugs[1].1, SURELY), "the other segment is whole");
    let link = storage.inside(|| Command::new("ip").args(["link", "show", "dev", "seg1"]).output().unwrap()).unwrap();
    let link = String::from_utf8_lossy(&link.stdout).into_owned();
    assert!(link.contains("LOWER_UP"), "the carrier stays up: {link}");

    switch.cut(&lab.site.ports()).unwrap();
    assert!(!plugs[1].1.reaches(&plugs[1].0, BRIEFLY), "the whole switch is silent");
    switch.put_back(&lab.site.ports()).unwrap();
    for (storage, host) in &plugs {
        assert!(storage.reaches(host, SURELY) && host.reaches(storage, SURELY));
    }
}

fn one_way_cuts_have_a_direction(lab: &Lab) {
    let (host, client) = (lab.machine(Role::Host2), lab.machine(Role::Client));
    // Hosts have no address on the guests' network.
    let (address, device) = (format!("{}/24", host.address(Network::Guest)), Network::Guest.name());
    let add = || Command::new("ip").args(["address", "add", &address, "dev", device]).status().unwrap();
    assert!(host.inside(add).unwrap().success());
    let (at_host, at_client) = (Plug::new(host, Network::Guest), Plug::new(client, Network::Guest));
    // Both know where the other is before the cut, as neighbours do.
    assert!(at_host.reaches(&at_client, SURELY) && at_client.reaches(&at_host, SURELY));
    lab.site.switch.deafen(&host.ports(&NETWORKS)).unwrap();
    assert!(!at_client.reaches(&at_host, BRIEFLY), "it is deaf");
    assert!(at_host.reaches(&at_client, BRIEFLY), "it is not dumb");
    lab.site.switch.put_back(&host.ports(&NETWORKS)).unwrap();
    assert!(at_client.reaches(&at_host, SURELY));
}

fn processes_stop_and_die_together(lab: &Lab) {
    let host = lab.machine(Role::Host1);
    let counter = lab.state.join("counter");
    std::fs::write(&counter, "").unwrap();
    let count = || std::fs::metadata(&counter).unwrap().len();
    let counts_on = || {
        let (begun, before) = (Instant::now(), count());
        while count() <= before {
            assert!(begun.elapsed() < Duration::from_secs(10), "it stands still");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let mut command = host.command("sh");
    command.args(["-c", "while :; do printf x >> \"$0\"; sleep 0.01; done"]).arg(&counter);
    let mut child = host.spawn(&mut command).unwrap();
    counts_on();
    let namespace = std::fs::read_link(format!("/proc/{}/ns/net", child.id())).unwrap();
    let expect = host.inside(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
    assert_eq!(namespace, expect, "it runs on the machine's networks");
    host.freeze().unwrap();
    let before = count();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(count(), before, "it is frozen");
    host.thaw().unwrap();
    counts_on();
    host.power_off(&lab.site.switch).unwrap();
    assert!(!child.wait().unwrap().success());
    host.power_on(&lab.site.switch).unwrap();
}
