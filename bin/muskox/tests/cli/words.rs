//! Verbs that ask once, or that look at a VM instead of a job.

use crate::support::{Node, problem};
use serde_json::{Value, json};
use std::fs;
use std::sync::{Arc, Mutex};

const SPEC: &str = "name = \"web1\"\nmemory = \"1G\"\n";

fn vm(state: &str, wished: bool, spec: &str) -> Value {
    json!({
        "vm": {"name": "web1", "state": state, "wished": wished, "host": "host1", "epoch": 4, "memory": 1 << 30,
               "vcpus": 2, "volumes": ["web1-root"]},
        "spec": spec, "uuid": "6f1c", "macs": [], "history": [],
    })
}

/// Goal: a stop without a job is over when the VM is stopped, and not done if somebody starts it again. Method: both.
#[test]
fn a_stop_waits_for_the_vm() {
    for (again, code) in [(false, 0), (true, 1)] {
        let mut looks = 0;
        let node = Node::new(Box::new(move |request, body| {
            if request == "POST /v1/vms/web1/stop" {
                assert_eq!(body, &json!({"patience_ms": 30_000}));
                return Some((200, json!({"job": null, "text": "'web1' is being shut down"})));
            }
            assert_eq!(request, "GET /v1/vms/web1");
            looks += 1;
            let state = if looks < 3 { "stopping" } else { "stopped" };
            Some((200, vm(state, again && looks > 1, SPEC)))
        }));
        let came = node.run("vm stop web1 --patience 30");
        assert_eq!(came.code, code, "{came:?}");
        let expect = if again { "'web1' was started by somebody else meanwhile" } else { "stopping\n" };
        assert!(came.err.contains(expect), "{came:?}");
        assert_eq!(came.out, if again { "" } else { "'web1' is stopped\n" });
    }
}

/// Goal: `--no-wait` asks once. Method: a start.
#[test]
fn what_is_not_waited_for_is_asked_once() {
    let node = Node::new(Box::new(|_, _| Some((200, json!({"job": "s1", "text": "'web1' starts on 'host1'"})))));
    let came = node.run("vm start web1 --host host1 --no-wait");
    assert_eq!((came.code, came.out.as_str()), (0, "'web1' starts on 'host1' (job s1)\n"), "{came:?}");
    assert_eq!(node.heard(), ["POST /v1/vms/web1/start"]);
}

/// Goal: an error in a description names the file; what the node says cannot move the cursor. Method: a refusal.
#[test]
fn an_error_in_a_description_names_the_file() {
    let node = Node::new(Box::new(|_, body| {
        assert_eq!(body["spec"], SPEC);
        Some((400, problem("bad_request", "line 2: \u{1b}[2Jno", "see docs/runbooks/vm.md")))
    }));
    let file = node.root.join("web1.toml");
    fs::write(&file, SPEC).unwrap();
    let came = node.run(&format!("vm create {}", file.display()));
    assert_eq!((came.code, came.out.as_str()), (1, ""));
    let expect = format!("error: {}: line 2: \u{fffd}[2Jno\n hint: see docs/runbooks/vm.md\n", file.display());
    assert_eq!(came.err, expect);
}

/// Goal: an edit sends what was changed, does nothing for what was not, and keeps what was refused. Method: three
/// editors, a node that remembers what it was sent.
#[test]
fn an_edit_keeps_what_was_typed() {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&sent);
    let node = Node::new(Box::new(move |request, body| {
        if request.starts_with("GET") {
            return Some((200, vm("stopped", false, SPEC)));
        }
        let text = body["spec"].as_str().unwrap().to_owned();
        let refused = text.contains("bad");
        log.lock().unwrap().push(text);
        let refusal = problem("bad_request", "line 2: not a size", "write 1G");
        Some(if refused { (400, refusal) } else { (200, vm("stopped", false, SPEC)) })
    }));
    let edit = |editor: &str| {
        let mut command = node.muskox("vm edit web1");
        command.env_remove("VISUAL").env("EDITOR", editor);
        crate::support::Came::of(command.spawn().unwrap())
    };
    let left = || fs::read_dir(&node.root).unwrap().filter_map(Result::ok).filter(|it| it.path().is_file()).count();
    let came = edit("true");
    assert_eq!((came.code, came.out.as_str()), (0, "'web1' is left as it was\n"), "{came:?}");
    assert!(sent.lock().unwrap().is_empty());
    let came = edit("sed -i s/1G/2G/");
    assert_eq!(came.code, 0, "{came:?}");
    assert_eq!(*sent.lock().unwrap(), [SPEC.replace("1G", "2G")]);
    assert_eq!(left(), 0, "nothing lies around");
    let came = edit("sed -i s/1G/bad/");
    assert_eq!((came.code, left()), (1, 1), "{came:?}");
    let kept = fs::read_dir(&node.root).unwrap().filter_map(Result::ok).find(|it| it.path().is_file()).unwrap().path();
    assert!(came.err.contains(&format!("your text is kept: {}; write 1G", kept.display())), "{came:?}");
    assert_eq!(fs::read_to_string(kept).unwrap(), SPEC.replace("1G", "bad"));
}

/// Goal: nothing is removed that nobody confirmed. Method: no terminal; then `--yes`.
#[test]
fn what_is_gone_for_good_is_confirmed() {
    let node = Node::new(Box::new(|_, _| Some((200, json!({"text": "gone"})))));
    // D5: a machine like everything else; what goes with it is asked for, and only that.
    for (words, asked) in
        [("volume remove web1-root", 0), ("vm remove web1", 0), ("vm delete web1", 0), ("node remove host2", 1)]
    {
        let came = node.run(words);
        assert!(came.code == 1 && came.err.contains("--yes"), "{came:?}");
        assert_eq!(node.heard(), ["GET /v1/nodes"][..asked]);
    }
    assert_eq!(node.run("volume remove web1-root --yes").out, "gone\n");
    assert_eq!(node.heard(), ["GET /v1/nodes", "DELETE /v1/volumes/web1-root"]);
}

/// Goal: D14: with `--json` the standard output is one document, also for wrong words, with exit code 2; help stays help; a word
/// that is nearly one is answered with that. Method: one of each.
#[test]
fn wrong_words_are_a_problem_too() {
    let node = Node::new(Box::new(|request, _| panic!("nobody should ask {request}")));
    for words in ["vm start --json", "vm --json start WEB1", "vm lst --json", "nonsense --json"] {
        let came = node.run(words);
        assert_eq!((came.code, came.err.as_str()), (2, ""), "{words}: {came:?}");
        let problem: Value = serde_json::from_str(&came.out).expect("one document");
        assert_eq!(problem["code"], "bad_request", "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(!detail.is_empty() && !detail.starts_with("error") && problem["hint"] != "", "{problem}");
    }
    let came = node.run("vm lst");
    assert!(came.code == 2 && came.out.is_empty() && came.err.contains("'list'"), "{came:?}");
    let came = node.run("vm --help --json");
    assert!(came.code == 0 && came.out.contains("Usage:") && came.err.is_empty(), "{came:?}");
}

/// Goal: `doctor` is 1 only for what is bad. Method: each grade.
#[test]
fn doctors_exit_code_is_that_of_the_worst() {
    for (grade, code) in [("good", 0), ("warning", 0), ("bad", 1)] {
        let node = Node::new(Box::new(move |_, _| {
            let check =
                json!({"node": "alpha", "what": "clock", "grade": grade, "text": "2 s ahead", "hint": "set it"});
            Some((200, json!({"checks": [check]})))
        }));
        assert_eq!((node.run("doctor").code, node.run("doctor --json").code), (code, code), "{grade}");
    }
}

/// Goal: all pages of the store's changes, one JSON object a line. Method: three pages, one without a change.
#[test]
fn the_stores_changes_are_lines() {
    let change = |revision: u64| json!({"revision": revision, "key": "/vm/web1", "value": null});
    let node = Node::new(Box::new(move |request, _| {
        let (changes, next) = match request {
            "GET /v1/store/changes/5" => (vec![change(6), change(7)], 7),
            "GET /v1/store/changes/7" => (vec![], 9),
            "GET /v1/store/changes/9" => (vec![change(10)], 10),
            "GET /v1/store/changes/10" => (vec![], 10),
            other => panic!("nobody should ask {other}"),
        };
        Some((200, json!({"changes": changes, "next": next})))
    }));
    let came = node.run("store changes --from 5 --json");
    assert_eq!(came.code, 0, "{came:?}");
    let revisions: Vec<Value> =
        came.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["revision"].clone()).collect();
    assert_eq!(revisions, [6, 7, 10]);
}

/// Goal: nobody there is exit code 1 with what to do, wrong usage 2. Method: a folder without a socket, a wrong word.
#[test]
fn a_node_that_is_not_there_is_said() {
    let node = Node::new(Box::new(|_, _| None));
    fs::remove_file(node.root.join("run/muskox/node.sock")).unwrap();
    let came = node.run("vm list");
    assert!(came.code == 1 && came.err.contains("hint: start it with `muskox node install`"), "{came:?}");
    assert_eq!(node.run("vm lift").code, 2);
    let came = node.run("pool list --json");
    let said: Value = serde_json::from_str(&came.out).expect("a problem as JSON");
    assert_eq!((came.code, &said["code"]), (1, &json!("unreachable")));
}

/// Goal: shells can complete the words, and `--help` says what exit codes mean. Method: both, without a node.
#[test]
fn the_program_explains_itself() {
    let run = |words: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_muskox")).args(words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).contains("migrate"), "{shell}");
    }
    assert!(run(&["--help"]).contains("130  Ctrl-C while waiting"));
    assert!(run(&["vm", "migrate", "--help"]).contains("muskox vm migrate web1 host2"));
}
