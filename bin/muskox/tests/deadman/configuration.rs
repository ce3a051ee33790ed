//! Wrong configurations, and changed ones.

use crate::support::{Cluster, MUSKOX, TIMING, peer, runs};
use std::process::Command;
use wire::control::{Refusal, Reply, Request, StandingReport};

/// Goal: a dead-man that cannot be right does not start, and says why. Method: a table of texts.
#[test]
fn mistakes_end_it_at_the_start() {
    let cluster = Cluster::new(3);
    let start = |text: &str| {
        cluster.write(0, text);
        let run = |more: &[&str]| {
            let mut command = Command::new(MUSKOX);
            command.args(["deadman", "--config"]).arg(cluster.path(0, "deadman.toml")).args(more).output().unwrap()
        };
        let (done, checked) = (run(&[]), run(&["--check"]));
        assert_eq!((done.status.code(), checked.status.code()), (Some(1), Some(1)), "{text}");
        assert_eq!(done.stderr, checked.stderr, "who only checks says the same");
        String::from_utf8(done.stderr).unwrap()
    };
    let all = cluster.witnesses(&[0, 1, 2]);
    let check =
        Command::new(MUSKOX).args(["deadman", "--check", "--config"]).arg(cluster.path(0, "deadman.toml")).status();
    assert!(check.unwrap().success());
    for (text, words) in [
        (format!("{TIMING}{}", cluster.witnesses(&[1, 2])), "is not among the witnesses"),
        (format!("[timing]\ndetect_ms = 2600\n{all}"), "use at least 2904"),
        (format!("{all}{}", cluster.witnesses(&[1])), "have the same key"),
        ("colour = 1\n".to_owned() + &all, "colour"),
    ] {
        let said = start(&text);
        assert!(said.contains(words) && said.contains("hint:"), "{said}");
    }
    std::fs::remove_file(cluster.path(0, "host.pem")).unwrap();
    assert!(start(&all).contains("host.pem"));
}

/// Goal: the file may change while it runs: witnesses come and go and the kept ones' evidence stays; a bad file, and
/// what cannot change, is refused and changes nothing. Method: reloads, one after the other.
#[test]
fn the_configuration_is_read_again() {
    let mut cluster = Cluster::running(3);
    let reload = |cluster: &Cluster| cluster.ask(0, Request::Reload);
    let refused = |answer: Result<Reply, Refusal>, words: &str| {
        let refusal = answer.expect_err(words);
        assert!(refusal.text.contains(words), "{refusal:?}");
    };
    let all = cluster.witnesses(&[0, 1, 2]);
    for (text, words) in [
        ("nonsense".to_owned(), "deadman.toml:5"),
        (format!("{TIMING}{}", cluster.witnesses(&[1, 2])), "not among the witnesses"),
        (all.clone(), "[timing] does not change"),
        (format!("{TIMING}{}", all.replace("[\"127", "[\"327")), "is not an address"),
    ] {
        cluster.write(0, &text);
        refused(reload(&cluster), words);
    }
    let report = cluster.try_status(0).unwrap();
    assert!(runs(&report) && report.peers.len() == 3, "{report:?}");

    // CA1: an address that is not there yet is no reason to refuse the rest, nor to end; the status says so until it comes.
    let text = std::fs::read_to_string(cluster.path(0, "deadman.toml")).unwrap();
    let absent = text.replacen("listen = [", "listen = [\"192.0.2.1:10812\", ", 1).replace("[\"327", "[\"127");
    std::fs::write(cluster.path(0, "deadman.toml"), absent).unwrap();
    assert_eq!(reload(&cluster), Ok(Reply::Done));
    let listens =
        |report: &wire::control::DeadmanReport| report.troubles.iter().all(|it| !it.contains("192.0.2.1:10812"));
    cluster.wait(0, "the trouble", |report| !listens(report) && runs(report));
    cluster.configure(0, &[0, 1, 2], "");
    assert_eq!(reload(&cluster), Ok(Reply::Done));
    assert!(listens(&cluster.try_status(0).unwrap()));

    cluster.add();
    for n in 0..4 {
        cluster.configure(n, &[0, 1, 2, 3], "");
    }
    cluster.start(3);
    let pauses = |cluster: &Cluster, n| cluster.log(n).matches("guests are paused").count();
    for n in 0..3 {
        let before = pauses(&cluster, n);
        assert_eq!(cluster.ask(n, Request::Reload), Ok(Reply::Done));
        cluster.wait(n, "the fourth", |report| peer(report, "host3").heard.is_some() && runs(report));
        assert_eq!(pauses(&cluster, n), before, "the kept witnesses' grants count on");
    }
    cluster.wait(0, "the fourth's grant", |report| peer(report, "host3").granted.is_some());
    cluster.configure(0, &[0, 1], "");
    assert_eq!(reload(&cluster), Ok(Reply::Done));
    assert_eq!(cluster.wait(0, "two witnesses", |_| true).peers.len(), 2);
    cluster.wait(0, "its standing", |report| report.standing == StandingReport::Unwatched);
}

/// Goal: one machine has one dead-man, and `muskox ctl` shows it. Method: a second one with the same configuration.
#[test]
fn a_second_one_does_not_start() {
    let mut cluster = Cluster::new(1);
    cluster.start(0);
    cluster.wait(0, "its standing", |report| report.standing == StandingReport::Unwatched);
    let config = cluster.path(0, "deadman.toml");
    let second = Command::new(MUSKOX).args(["deadman", "--config"]).arg(&config).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8(second.stderr).unwrap().contains("is in use"));
    let mut ctl = Command::new(MUSKOX);
    let shown = ctl.args(["ctl", "--socket"]).arg(cluster.path(0, "deadman.sock")).arg("status").output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("unwatched") && shown.contains("host0 (this)"), "{shown}");
}

/// Goal: whoever reads its log cannot keep it from its work. Method: its standard error is a pipe that is full already.
#[test]
fn a_full_log_does_not_stop_it() {
    use std::io::Write;
    let mut cluster = Cluster::new(1);
    let (_reader, mut full) = std::io::pipe().unwrap();
    // The usual capacity of a pipe (`pipe(7)`); one byte more would wait for ever.
    full.write_all(&[b'x'; 65_536]).unwrap();
    cluster.start_logging_to(0, full.into());
    let report = cluster.wait(0, "its standing", |report| report.standing == StandingReport::Unwatched);
    assert_eq!(report.peers.len(), 1);
}
