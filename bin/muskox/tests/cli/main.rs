//! The command line as a process: what it asks, what it prints, its exit codes. The node is a script, so every answer
//! that a real one may give is tried, also those that take a failing cluster.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

mod support;
mod terminal;
mod words;

use serde_json::{Value, json};
use std::process::Stdio;
use support::{Came, Node, interrupt, problem};

fn job(stage: &str, outcome: Option<&str>, history: &[&str]) -> Value {
    let history: Vec<Value> =
        history.iter().enumerate().map(|(n, stage)| json!({"after_ms": n * 100, "stage": stage})).collect();
    json!({
        "id": "m1", "kind": "migrate", "vm": "web1", "stage": stage, "outcome": outcome, "cancel": false,
        "why": outcome.filter(|outcome| *outcome != "done").map(|_| "the deadline is over"),
        "spent_ms": 300, "history": history,
        "receipt": outcome.map(|_| json!({
            "total_ms": 4210, "bytes": 314_572_800, "rounds": 3, "cpu_blackout_ms": 87, "hand_over_ms": 40,
        })),
    })
}

/// A migration that goes through its stages while the store is away for a moment, and ends like this.
fn migration(outcome: Option<&'static str>) -> Node {
    let mut looks = 0;
    Node::new(Box::new(move |request, body| match request {
        "POST /v1/vms/web1/migrate" => {
            assert_eq!(body, &json!({"host": "host2", "deadline_ms": 60_000}));
            Some((200, json!({"job": "m1", "text": "'web1' moves to 'host2'"})))
        }
        "GET /v1/jobs/m1" => {
            looks += 1;
            match looks {
                1 => Some((200, job("copy", None, &["prepare", "copy"]))),
                2 => Some((503, problem("store_unreachable", "the store is away", ""))),
                3 => None,
                4 => Some((200, job("commit", None, &["prepare", "copy", "commit"]))),
                _ => Some((200, job("done", outcome, &["prepare", "copy", "commit", "done"]))),
            }
        }
        other => panic!("nobody should ask {other}"),
    }))
}

/// Goal: `vm migrate` waits, shows each stage once, outlives a store that is away, and ends with the receipt. Method: a
/// scripted job.
#[test]
fn a_migration_is_waited_for() {
    let node = migration(Some("done"));
    let came = node.run("vm migrate web1 host2 --deadline 60");
    assert_eq!(came.code, 0, "{came:?}");
    let expect = "'web1' has moved\ntotal:      4.2 s\nblackout:   87 ms\nhand-over:  40 ms\nbytes:      300 MiB\nrounds:     3\n";
    assert_eq!(came.out, expect);
    let lines: Vec<&str> = came.err.lines().map(str::trim).collect();
    assert_eq!(lines[0], "'web1' moves to 'host2'");
    assert_eq!(lines[1..3], ["0 ms  prepare", "100 ms  copy"]);
    assert!(lines[3].starts_with("no answer for now, still waiting: the store is away"), "{lines:?}");
    assert_eq!(lines[4..], ["200 ms  commit", "300 ms  done"]);
}

/// Goal: with `--json` the standard output is the final job alone. Method: the same job, done and undone.
#[test]
fn a_migration_as_json_is_one_document() {
    for (outcome, code) in [("done", 0), ("undone", 1)] {
        let came = migration(Some(outcome)).run("vm migrate web1 host2 --deadline 60 --json");
        assert_eq!((came.code, came.err.as_str()), (code, ""));
        let last: Value = serde_json::from_str(&came.out).expect("one document");
        assert_eq!((&last["outcome"], &last["receipt"]["rounds"]), (&json!(outcome), &json!(3)));
    }
}

#[test]
fn a_migration_that_is_undone_fails_with_the_jobs_reason() {
    let came = migration(Some("undone")).run("vm migrate web1 host2 --deadline 60");
    assert_eq!((came.code, came.out.as_str()), (1, ""));
    assert!(came.err.contains("error: 'web1' was not moved: the deadline is over\n"), "{came:?}");
    assert!(came.err.contains("muskox job show m1"), "{came:?}");
}

/// Goal: Ctrl-C leaves a migration alone and says so. Method: a job that never ends; nothing is asked but looks.
#[test]
fn ctrl_c_leaves_a_migration_alone() {
    let node = migration(None);
    let child = node.muskox("vm migrate web1 host2 --deadline 60").spawn().unwrap();
    node.wait_for("GET /v1/jobs/m1");
    interrupt(&child);
    let came = Came::of(child);
    assert_eq!((came.code, came.out.as_str()), (130, ""), "{came:?}");
    assert!(came.err.ends_with("job m1 goes on: muskox job show m1\n"), "{came:?}");
    assert!(node.heard()[1..].iter().all(|heard| heard == "GET /v1/jobs/m1"), "{:?}", node.heard());
}

fn work(state: &str, done: u64) -> Value {
    let progress = json!({"done": done << 20, "total": 4u64 << 30, "left_ms": 5_000});
    json!({"id": "3", "what": "import", "state": state, "progress": progress, "text": "web1-root is as it was"})
}

/// An import that goes on until it is cancelled, and then for a while.
fn import(endless: bool) -> Node {
    let (mut done, mut cancelled) = (0, None::<u32>);
    Node::new(Box::new(move |request, body| {
        done += 512;
        match request {
            "POST /v1/images" => {
                assert!(body["path"].as_str().unwrap().ends_with("/disk.qcow2"), "{body}");
                assert!(body["path"].as_str().unwrap().starts_with('/'), "{body}");
                assert_eq!((&body["size"], &body["format"]), (&json!(4u64 << 30), &json!("qcow2")));
            }
            "POST /v1/works/3/cancel" => cancelled = Some(0),
            "GET /v1/works/3" => cancelled = cancelled.map(|looks| looks + 1),
            other => panic!("nobody should ask {other}"),
        }
        Some((
            200,
            match cancelled {
                Some(3..) => work("cancelled", 700),
                None if !endless && done >= 2048 => work("done", 4096),
                _ => work("running", done.min(4095)),
            },
        ))
    }))
}

const IMPORT: &str = "image import disk.qcow2 web1-root --size 4G --format qcow2";

/// Goal: Ctrl-C ends the import itself and waits for that. Method: a scripted import that takes a while to end.
#[test]
fn ctrl_c_cancels_an_import_and_waits_for_that() {
    let node = import(true);
    let child = node.muskox(IMPORT).spawn().unwrap();
    node.wait_for("GET /v1/works/3");
    interrupt(&child);
    let came = Came::of(child);
    assert_eq!((came.code, came.out.as_str()), (1, ""), "{came:?}");
    assert!(came.err.contains("cancelling …\n") && came.err.contains("error: cancelled: web1-root is as"), "{came:?}");
    let heard = node.heard();
    let cancels: Vec<usize> = (0..heard.len()).filter(|at| heard[*at] == "POST /v1/works/3/cancel").collect();
    assert_eq!(cancels.len(), 1, "{heard:?}");
    assert_eq!(heard.len() - cancels[0], 4, "it looked on until it was cancelled: {heard:?}");
}

/// Goal: an import's progress is a line with rate and time left, and not one a look where nothing can be drawn again.
/// Method: an import of a second.
#[test]
fn an_import_shows_how_far_it_is() {
    let came = import(false).run(IMPORT);
    assert_eq!((came.code, came.out.as_str()), (0, "web1-root is as it was\n"), "{came:?}");
    let bars: Vec<&str> = came.err.lines().filter(|line| line.starts_with('[')).collect();
    assert_eq!(bars, ["[######..................]  25 %  1 GiB of 4 GiB  5.0 s left"]);
}

/// Goal: bytes both ways at a console; Ctrl-] leaves. Method: a scripted guest, keys from a pipe.
#[test]
fn a_console_is_bytes_both_ways() {
    use std::io::Write;
    let node = Node::new(Box::new(|request, _| {
        assert_eq!(request, "POST /v1/vms/web1/console");
        Some((101, Value::Null))
    }));
    let mut child = node.muskox("vm console web1").stdin(Stdio::piped()).spawn().unwrap();
    let mut keys = child.stdin.take().unwrap();
    let mut shown = child.stdout.take().unwrap();
    keys.write_all(b"root\x03\n").unwrap();
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\n") {
        assert_eq!(std::io::Read::read(&mut shown, &mut byte).unwrap(), 1);
        text.push(byte[0]);
    }
    assert_eq!(text, b"login: ROOT\x03\n");
    keys.write_all(b"\x1dnever sent").unwrap();
    let came = Came::of(child);
    assert_eq!((came.code, came.err.as_str()), (0, "\nleft\n"));
    let came = Node::new(Box::new(|_, _| Some((404, problem("not_found", "there is no VM 'web1'", "")))))
        .run("vm console web1");
    assert_eq!((came.code, came.err.as_str()), (1, "error: there is no VM 'web1'\n"));
}
