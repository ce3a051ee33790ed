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
        let done = Command::new(MUSKOX).args(["deadman", "--config"]).arg(cluster.path(0, "deadman.toml")).output();
        let done = done.unwrap();
        assert_eq!(done.status.code(), Some(1), "{text}");
        String::from_utf8(done.stderr).unwrap()
    };
    let all = cluster.witnesses(&[0, 1, 2]);
    for (text, words) in [
        (format!("{TIMING}{}", cluster.witnesses(&[1, 2])), "is not among the witnesses"),
        (format!("[timing]\ndetect_ms = 2600\n{all}"), "use at least 2904"),
        (format!("{all}{}", cluster.witnesses(&[1])), "is another's too"),
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

    cluster.add();
    for n in 0..4 {
        cluster.configure(n, &[0, 1, 2, 3], "");
    }
    cluster.start(3);
    for n in 0..3 {
        assert_eq!(cluster.ask(n, Request::Reload), Ok(Reply::Done));
        let report = cluster.try_status(n).unwrap();
        assert!(runs(&report), "the kept witnesses' grants count on: {report:?}");
    }
    cluster.wait(0, "the fourth", |report| peer(report, "host3").granted.is_some());
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
