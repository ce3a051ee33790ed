//! What lies in a process's memory: a key that was ever read into it is found there.

use crate::support::Machine;
use rcgen::KeyPair;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// A region is read in pieces of this length, which overlap by what is looked for.
const PIECE_BYTES: usize = 4 << 20;
/// Mappings of devices and of the kernel are not read. Source: proc_pid_maps(5).
const NOT_READ: [&str; 3] = ["[vvar", "[vsyscall]", "/dev/"];

/// Asserts that nothing of a machine's key is in the memory of this process: not its scalar, in either order of its bytes, and
/// no line of its file. What must be there (`known`) is found, so the search itself works.
pub fn holds_no_key_of(machine: &Machine, pid: i32, known: &str) {
    let pem = std::fs::read_to_string(machine.path("etc/muskox/node.key")).unwrap();
    let scalar = scalar(&KeyPair::from_pem(&pem).unwrap().serialize_der());
    let reversed: Vec<u8> = scalar.iter().rev().copied().collect();
    let line = pem.lines().nth(1).unwrap().as_bytes().to_vec();
    let needles = [known.as_bytes().to_vec(), scalar, reversed, line];
    let found = search(pid, &needles);
    assert!(found[0], "the search finds '{known}' in process {pid}");
    assert_eq!(found[1..], [false; 3], "process {pid} has the key of '{}': scalar, reversed, PEM", machine.name);
}

/// The 32 bytes of a P-256 key. Sources: RFC 5208 (PKCS #8), RFC 5915 (`ECPrivateKey`: version 1, then an octet string).
fn scalar(der: &[u8]) -> Vec<u8> {
    let head = [2, 1, 1, 4, 32];
    let at = der.windows(head.len()).position(|window| window == head).expect("a P-256 key") + head.len();
    der[at..at + 32].to_vec()
}

/// Which of these are anywhere in the memory of a process.
fn search(pid: i32, needles: &[Vec<u8>]) -> Vec<bool> {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let overlap = needles.iter().map(Vec::len).max().unwrap();
    let mut found = vec![false; needles.len()];
    let mut piece = vec![0; PIECE_BYTES];
    for line in maps.lines().filter(|line| !NOT_READ.iter().any(|name| line.contains(name))) {
        let (range, rest) = line.split_once(' ').unwrap();
        if !rest.starts_with('r') {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let [mut at, end] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        while at < end {
            let len = usize::try_from(end - at).unwrap().min(PIECE_BYTES);
            // A page that is not there (a file that became shorter) holds nothing.
            let Ok(read) = memory.read_at(&mut piece[..len], at) else { break };
            for (needle, found) in needles.iter().zip(&mut found) {
                *found |= contains(&piece[..read], needle);
            }
            if read <= overlap {
                break;
            }
            at += if at + (read as u64) < end { (read - overlap) as u64 } else { read as u64 };
        }
    }
    found
}

/// `windows` is too slow for a debug build: most places are passed over by their first byte.
fn contains(hay: &[u8], needle: &[u8]) -> bool {
    let mut from = 0;
    while let Some(at) = hay[from..].iter().position(|byte| *byte == needle[0]) {
        let at = from + at;
        if hay[at..].starts_with(needle) {
            return true;
        }
        from = at + 1;
    }
    false
}
