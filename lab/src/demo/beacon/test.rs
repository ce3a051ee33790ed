//! Overlaps of made-up series, and logs that are written as QEMU and `trim_log` write them.

use super::*;
use crate::demo::guest::words;
use crate::demo::lines;
use std::io::Write;
use std::time::Instant;

const A: Boot = Boot(0xa);
const B: Boot = Boot(0xb);

/// Beacons of one boot on one host, every 50 ms from `from_ms` to `to_ms`; the first one's counter.
fn run(host: &str, boot: Boot, counter: u64, (from_ms, to_ms): (u64, u64)) -> Vec<Beacon> {
    let times = (from_ms..=to_ms).step_by(50);
    times
        .zip(counter..)
        .map(|(at_ms, counter)| Beacon { at_us: at_ms * 1000, host: host.into(), boot, counter })
        .collect()
}

fn overlap_ms(runs: &[Vec<Beacon>]) -> u64 {
    overlap_us(&series(&runs.concat()), 0, u64::MAX) / 1000
}

/// Goal: the overlap is what its definition says. Method: the demo's cases, made up.
#[test]
fn the_overlap_is_as_defined() {
    let one = run("host1", A, 0, (1000, 3000));
    // A restart elsewhere, seconds later.
    assert_eq!(overlap_ms(&[one.clone(), run("host2", B, 0, (7000, 9000))]), 0);
    // A migration: the counter goes on at the other host, 70 ms after the last beacon here; or read at once with it.
    assert_eq!(overlap_ms(&[one.clone(), run("host2", A, 41, (3070, 5000))]), 0);
    assert_eq!(overlap_ms(&[one.clone(), run("host2", A, 41, (3000, 5000))]), 0);
    // One boot on two hosts for 400 ms.
    assert_eq!(overlap_ms(&[one.clone(), run("host2", A, 31, (2600, 5000))]), 400);
    // Two boots on two hosts, or on one.
    assert_eq!(overlap_ms(&[one.clone(), run("host2", B, 0, (2800, 5000))]), 200);
    assert_eq!(overlap_ms(&[one.clone(), run("host1", B, 0, (2800, 5000))]), 200);
    // Thawed after 30 s: two late beacons, 50 ms apart, beside the new boot.
    let new = run("host2", B, 0, (8000, 40_000));
    assert_eq!(overlap_ms(&[one.clone(), new.clone(), run("host1", A, 41, (33_000, 33_050))]), 90);
    // A single late beacon is no nothing.
    assert_eq!(overlap_ms(&[one, new, run("host1", A, 41, (33_000, 33_000))]), 40);
    // Three at once count once.
    let three = [run("host1", A, 0, (0, 1000)), run("host2", A, 0, (0, 1000)), run("host2", B, 0, (500, 1000))];
    assert_eq!(overlap_ms(&three), 1000);
}

/// Goal: a pause ends a series, and a span cuts the overlap. Method: a series with a hole.
#[test]
fn a_pause_ends_a_series() {
    let beacons =
        [run("host1", A, 0, (1000, 2000)), run("host1", A, 21, (2250, 3000)), run("host1", A, 40, (3251, 4001))];
    let found = series(&beacons.concat());
    let spans: Vec<_> = found.iter().map(|series| (series.from_us / 1000, series.to_us / 1000)).collect();
    assert_eq!(spans, [(1000, 3000), (3211, 4001)]);
    let found = series(&[run("host1", A, 0, (0, 1000)), run("host2", B, 0, (0, 1000))].concat());
    assert_eq!(overlap_us(&found, 300_000, 500_000), 200_000);
    assert_eq!(overlap_us(&found, 1_000_001, 2_000_000), 0);
}

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
