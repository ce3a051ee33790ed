//! Logs that are written as QEMU and `trim_log` write them.

use super::*;
use crate::demo::guest::words;
use crate::demo::lines;
use std::io::Write;
use std::time::Instant;

const A: Boot = Boot(0xa);
const B: Boot = Boot(0xb);

/// Goal: a log is followed while it appears, is cut, is another file, and says half a line at a time; what it held
/// before is history. Method: a lookout on two files, written as QEMU and `trim_log` do.
#[test]
fn logs_are_followed_whatever_becomes_of_them() {
    let folder = std::env::temp_dir().join(format!("muskox-beacon-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| folder.join(name);
    std::fs::write(path("one"), words::beacon(A, 0)).unwrap();
    let console = |host: &str, name: &str| Console { host: host.into(), log: path(name) };
    let consoles = vec![console("host1", "one"), console("host2", "two")];
    let lookout = Lookout::start(consoles, &path("beacons"), &path("errors")).unwrap();
    let append = |name: &str, text: &str| {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    };
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
    std::fs::File::options().write(true).open(path("one")).unwrap().set_len(0).unwrap();
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
    std::fs::remove_dir_all(&folder).unwrap();
    let said: Vec<_> = beacons.iter().map(|beacon| (beacon.host.as_str(), beacon.counter)).collect();
    assert_eq!(said, [("host1", 1), ("host1", 2), ("host2", 7), ("host1", 3), ("host1", 4)]);
    assert_eq!(errors.iter().map(|error| error.text.as_str()).collect::<Vec<_>>(), ["writing record 9: EIO"]);
}
