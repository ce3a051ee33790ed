//! Dead children that nobody waits for. A test program of its own: it collects every child of its process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use host::vm::Strays;
use std::process::{Command, Stdio};

fn state_of(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.split(' ').next().map(str::to_owned)
}

/// Goal: D7: a child that has ended and that nobody waits for does not stay as a zombie; one that lives, or has just ended, is left to
/// whoever waits for it. Method: three children, two looks.
#[test]
fn nobodys_children_are_collected() {
    let start = |program: &str| Command::new(program).arg("60").stdin(Stdio::null()).spawn().unwrap();
    let (dropped, mut alive) = (start("true").id(), start("sleep"));
    while state_of(dropped).as_deref() != Some("Z") {
        std::thread::yield_now();
    }
    let mut strays = Strays::default();
    assert_eq!(strays.collect().unwrap(), 0, "whoever waits for it has until the next look");
    assert_eq!(state_of(dropped).as_deref(), Some("Z"));
    let mut late = start("true");
    while state_of(late.id()).as_deref() != Some("Z") {
        std::thread::yield_now();
    }
    assert_eq!(strays.collect().unwrap(), 1);
    assert_eq!(state_of(dropped), None);
    assert!(late.wait().unwrap().success(), "one that has just ended is its waiter's");
    assert!(alive.try_wait().unwrap().is_none());
    alive.kill().unwrap();
    alive.wait().unwrap();
    assert_eq!((strays.collect().unwrap(), strays.collect().unwrap()), (0, 0));
}
