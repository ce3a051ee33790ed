//! Logs that are written as QEMU and `trim_log` write them.

use super::*;
use crate::demo::guest::words;
use crate::demo::lines;
use std::io::Write;
use std::time::Instant;

const A: Boot = Boot(0xa);
const B: Boot = Boot(0xb);

/// A folder that is gone in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("muskox-beacon-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn append(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// As `trim_log` of crates/host/src/vm/console.rs does it.
fn trim(path: &Path) {
    std::fs::copy(path, path.with_extension("old")).unwrap();
    File::options().write(true).open(path).unwrap().set_len(0).unwrap();
}

/// CA14, CA10: goal: no line is lost when a log is trimmed, however much had not been read by then and wherever the cut falls; what
/// cannot be read any more is said. Method: a tail that looks seldom, a log that is trimmed between its looks, within a
/// line and at a line's end; in the end twice without a look.
#[test]
fn a_trimmed_log_is_read_to_its_end() {
    let folder = Folder::new("trimmed");
    let log = folder.0.join("log");
    append(&log, "history\n");
    let mut tail = Tail::at_the_end(log.clone());
    append(&log, "one\ntw");
    assert_eq!(tail.lines(), ["one"]);
    append(&log, "o\nthree\nfo");
    trim(&log);
    append(&log, "ur\n");
    assert_eq!(tail.lines(), ["two", "three", "four"]);
    trim(&log);
    append(&log, "5\n");
    assert_eq!(tail.lines(), ["5"]);
    // Another file: what the old one said last is read too, and a line that was cut by it is nobody's.
    append(&log, "six\nse");
    std::fs::rename(&log, folder.0.join("away")).unwrap();
    append(&log, "ven\neight\n");
    assert_eq!(tail.lines(), ["six", "ven", "eight"]);
    assert!(!tail.lost);
    append(&log, &"long\n".repeat(100));
    tail.lines();
    trim(&log);
    trim(&log);
    assert_eq!(tail.lines(), Vec::<String>::new());
    assert!(tail.lost, "what the first trim took is gone");
}

/// Goal: a log is followed while it appears, is trimmed, is another file, and says half a line at a time; what it held
/// before is history. Method: a lookout on two files, written as QEMU and `trim_log` do.
#[test]
fn logs_are_followed_whatever_becomes_of_them() {
    let folder = Folder::new("followed");
    let path = |name: &str| folder.0.join(name);
    std::fs::write(path("one"), words::beacon(A, 0)).unwrap();
    let console = |host: &str, name: &str| Console { host: host.into(), log: path(name) };
    let consoles = vec![console("host1", "one"), console("host2", "two")];
    let lookout = Lookout::start(consoles, &path("beacons"), &path("errors")).unwrap();
    let append = |name: &str, text: &str| append(&path(name), text);
    let until = |host: &str, counter: u64| {
        let begun = Instant::now();
        while !lookout.moving().iter().any(|beacon| beacon.host == host && beacon.counter == counter) {
            assert!(begun.elapsed() < Duration::from_secs(5), "{host} {counter}: {:?}", lookout.moving());
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    append("one", &words::beacon(A, 1));
    until("host1", 1);
    append("one", "B 000000000000000a");
    std::thread::sleep(Duration::from_millis(20));
    append("one", " 2;\r\n[  1.0] noise\n");
    until("host1", 2);
    append("two", &words::beacon(B, 7));
    until("host2", 7);
    trim(&path("one"));
    append("one", &words::beacon(A, 3));
    until("host1", 3);
    std::fs::rename(path("one"), path("one.old")).unwrap();
    append("one", &(words::beacon(A, 4) + &words::error(A, "writing record 9: EIO")));
    until("host1", 4);
    let begun = Instant::now();
    while lookout.errors() == 0 && begun.elapsed() < Duration::from_secs(5) {}
    lookout.end().unwrap();
    let beacons: Vec<Beacon> = lines::read(&path("beacons")).unwrap();
    let errors: Vec<GuestError> = lines::read(&path("errors")).unwrap();
    let said: Vec<_> = beacons.iter().map(|beacon| (beacon.host.as_str(), beacon.counter)).collect();
    assert_eq!(said, [("host1", 1), ("host1", 2), ("host2", 7), ("host1", 3), ("host1", 4)]);
    assert_eq!(errors.iter().map(|error| error.text.as_str()).collect::<Vec<_>>(), ["writing record 9: EIO"]);
}
