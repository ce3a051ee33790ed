//! Machines come, know each other, and go.

use crate::support::{Machines, mode_of, with_dawdlers};

/// Goal: three machines know each other, whichever is asked; a token admits once; with the store's machine killed
/// nothing is decided, and after its restart nothing is forgotten. Method: init, two joins (the second token made on a
/// machine without the store), kill -9, restart.
#[test]
fn three_machines_know_each_other() {
    let machines = Machines::new();
    let mut alpha = machines.first(&[]);
    let token = alpha.token();
    let mut beta = machines.machine("beta");
    beta.join(&token);
    beta.start();
    let gamma = machines.member("gamma", &beta);

    let all = ["alpha", "beta", "gamma"];
    for machine in [&alpha, &beta, &gamma] {
        assert_eq!(machine.names(), all, "asked on {}", machine.name);
        machine.wait_until_up("beta");
        machine.wait_until_up("gamma");
        assert_eq!(machine.listed("alpha")["state"], "store");
        assert_eq!(machine.list()["cluster"], alpha.list()["cluster"]);
    }
    assert!(alpha.node("list", &[]).starts_with("NAME   ADDRESS"));

    let delta = machines.machine("delta");
    assert_eq!(delta.refused("join", &delta.join_words(&token))["code"], "token_unknown");
    assert!(delta.files().is_empty(), "a refused machine keeps nothing");

    alpha.kill();
    assert_eq!(beta.refused("list", &[])["code"], "store_unreachable");
    assert_eq!(delta.refused("join", &delta.join_words(&token))["code"], "unreachable");
    alpha.start();
    assert_eq!(alpha.names(), all);
    alpha.wait_until_up("beta");
    assert_eq!(delta.refused("join", &delta.join_words(&token))["code"], "token_unknown", "used is used");
    beta.kill();
    beta.start();
    assert_eq!(beta.names(), all);
    alpha.stop();
}

/// Goal: a removed machine's calls are refused at once and for ever, also by hand with its real key; its name is free for
/// a machine with a new key. Method: remove it from another member, ask as it, join again with and without its files.
#[test]
fn a_removed_machine_is_out() {
    let machines = Machines::new();
    let (alpha, _beta) = {
        let alpha = machines.first(&[]);
        let beta = machines.member("beta", &alpha);
        (alpha, beta)
    };
    let mut gamma = machines.member("gamma", &alpha);
    assert!(gamma.get(&alpha, "/v1/nodes", true).unwrap().contains("200 OK"));
    assert!(alpha.node("remove", &["gamma", "--yes"]).contains("'gamma' is removed"));
    let refused = gamma.get(&alpha, "/v1/nodes", true).unwrap();
    assert!(refused.contains("403 Forbidden") && refused.contains("\"code\":\"removed\""), "{refused}");
    assert_eq!(gamma.refused("list", &[])["code"], "removed");
    assert_eq!(gamma.refused("token", &[])["code"], "removed");
    assert_eq!(alpha.names(), ["alpha", "beta"]);
    gamma.wait("word of it", |this| this.log().contains("was removed from the cluster"));

    gamma.stop();
    assert_eq!(gamma.refused("join", &gamma.join_words(&alpha.token()))["code"], "exists");
    std::fs::remove_dir_all(gamma.path("etc")).unwrap();
    gamma.join(&alpha.token());
    gamma.start();
    assert_eq!(gamma.names(), ["alpha", "beta", "gamma"]);
    assert_eq!(alpha.refused("remove", &["alpha", "--yes"])["code"], "holds_store");
    assert_eq!(alpha.refused("remove", &["nobody", "--yes"])["code"], "not_found");
}

/// Goal: who has no certificate, or asks a machine without the store, decides nothing; local doors and secrets are their
/// owner's. Method: raw requests and file modes.
#[test]
fn doors_are_closed_to_strangers() {
    let machines = Machines::new();
    let alpha = machines.first(&[]);
    let beta = machines.member("beta", &alpha);
    let stranger = beta.get(&alpha, "/v1/nodes", false).unwrap();
    assert!(stranger.contains("403") && stranger.contains("\"code\":\"forbidden\""), "{stranger}");
    let elsewhere = alpha.get(&beta, "/v1/nodes", true).unwrap();
    assert!(elsewhere.contains("421") && elsewhere.contains("not_the_store"), "{elsewhere}");
    let unknown = beta.get(&alpha, "/v2/nodes", true).unwrap();
    assert!(unknown.contains("404") && unknown.contains("application/problem+json"), "{unknown}");
    let foreign = machines.machine("foreign");
    foreign.init(&[]);
    let refused = foreign.get(&alpha, "/v1/nodes", true);
    assert!(refused.is_err(), "another CA's certificate: {refused:?}");
    for secret in ["run/muskox/node.sock", "etc/muskox/node.key", "etc/muskox/ca.key"] {
        assert_eq!(mode_of(&alpha.path(secret)), 0o600, "{secret}");
    }
    assert!(!beta.path("etc/muskox/ca.key").exists() && !beta.path("var/lib/muskox/store.db").exists());
    assert!(!alpha.log().contains("mx1-"), "no token in the log");
}

/// Goal: strangers that dawdle at the door keep no member out. Method: more of them than there is room for; members call
/// meanwhile; those over the limit were sent away, and a machine joins when they are gone.
#[test]
fn dawdling_strangers_keep_no_member_out() {
    let machines = Machines::new();
    let alpha = machines.first(&[]);
    let beta = machines.member("beta", &alpha);
    let away = with_dawdlers(&alpha, 40, || assert_eq!(beta.names(), ["alpha", "beta"]));
    assert!((8..40).contains(&away), "{away} of 40 were sent away");
    machines.member("gamma", &alpha);
}

/// Goal: an answer that got lost is no loss: joining again finishes it, with the same token. Method: a member's files are
/// put back to where a lost answer leaves them.
#[test]
fn a_lost_answer_is_no_loss() {
    let machines = Machines::new();
    let alpha = machines.first(&[]);
    let beta = machines.machine("beta");
    let token = alpha.token();
    beta.join(&token);
    let etc = beta.path("etc/muskox");
    std::fs::rename(etc.join("node.key"), etc.join("join.key")).unwrap();
    for file in ["node.toml", "node.crt", "ca.crt"] {
        std::fs::remove_file(etc.join(file)).unwrap();
    }
    let as_another = beta.refused("join", &[&token, "--name", "better", "--address", &beta.address]);
    assert!(
        as_another["code"] == "exists" && as_another["detail"].as_str().unwrap().contains("'beta'"),
        "{as_another}"
    );
    beta.join(&token);
    assert!(!etc.join("join.key").exists());
    assert_eq!(alpha.names(), ["alpha", "beta"]);
}

/// Goal: a token admits one machine also when many use it in the same moment, and the store forgets none of what it
/// answered to. Method: eight join at once with one token, eight more with one each, the store's node killed right after.
#[test]
fn many_at_once_are_admitted_one_a_token() {
    let machines = Machines::new();
    let mut alpha = machines.first(&[]);
    let shared = alpha.token();
    let names: Vec<String> = (0..16).map(|n| format!("m{n:02}")).collect();
    let joiners: Vec<_> = names.iter().map(|name| machines.machine(name)).collect();
    let own: Vec<String> = joiners[8..].iter().map(|_| alpha.token()).collect();
    let tokens = std::iter::repeat_n(&shared, 8).chain(&own);
    let joined = std::thread::scope(|scope| {
        let join = |(machine, token): (&'_ crate::support::Machine, &'_ String)| {
            machine.try_node("join", &machine.join_words(token)).status.success()
        };
        let running: Vec<_> = joiners.iter().zip(tokens).map(|pair| scope.spawn(move || join(pair))).collect();
        running.into_iter().map(|joining| joining.join().unwrap()).collect::<Vec<bool>>()
    });
    alpha.kill();
    alpha.start();
    assert_eq!(joined[..8].iter().filter(|joined| **joined).count(), 1, "{joined:?}");
    assert!(joined[8..].iter().all(|joined| *joined), "{joined:?}");
    let admitted = names.iter().zip(&joined).filter(|(_, joined)| **joined).map(|(name, _)| name.clone());
    let expected: Vec<String> = std::iter::once("alpha".to_owned()).chain(admitted).collect();
    assert_eq!(alpha.names(), expected);
}

/// D13, CA4. Goal: strangers who connect and say nothing keep no member out. Method: 10 000 of them from the member's own address; it
/// calls while they come, and when all are there.
#[test]
fn silent_strangers_keep_no_member_out() {
    let machines = Machines::new();
    let alpha = machines.first(&[]);
    let beta = machines.member("beta", &alpha);
    let logged = alpha.log().len();
    let took =
        crate::flood::beside_strangers(alpha.address.parse().unwrap(), || beta.try_node("list", &[]).status.success());
    assert!(took.iter().all(|took| *took <= crate::flood::IN_WITHIN), "{took:?}");
    let of_strangers = alpha.log()[logged..].lines().filter(|line| line.contains("was sent away")).count();
    assert!((1..100).contains(&of_strangers), "{of_strangers} lines for strangers:\n{}", alpha.log());
}

/// A21. Goal: a node whose address is not there yet does what else it does, says so, and listens when it comes. Method: the address
/// is another program's at the start, which leaves later.
#[test]
fn an_address_that_comes_late_is_listened_on() {
    let machines = Machines::new();
    let mut alpha = machines.first(&[]);
    let beta = machines.member("beta", &alpha);
    alpha.stop();
    let other = std::net::TcpListener::bind(&alpha.address).unwrap();
    alpha.start();
    assert_eq!(alpha.names(), ["alpha", "beta"]);
    assert!(alpha.log().contains(&format!("cannot listen on {}", alpha.address)), "{}", alpha.log());
    drop(other);
    beta.wait("the store", |this| this.try_node("list", &[]).status.success());
}
