//! Bad input and accidents: a clear word that says what to do, and nothing changed.

use crate::support::Machines;

/// Goal: a second init is refused, says what is there, and changes nothing; so is one on the rests of another. Method:
/// init twice; take node.toml away; join on a machine that has a cluster.
#[test]
fn a_second_init_is_refused() {
    let machines = Machines::new();
    let alpha = machines.machine("alpha");
    alpha.init(&[]);
    let before = alpha.files();
    let words = ["omega", "--address", &alpha.address];
    let problem = alpha.refused("init", &words);
    assert_eq!(problem["code"], "exists");
    assert!(problem["detail"].as_str().unwrap().contains("'alpha'"), "{problem}");
    let hint = problem["hint"].as_str().unwrap();
    assert!(hint.contains("node.toml") && hint.contains("var/lib/muskox"), "{problem}");
    assert_eq!(alpha.files(), before);
    std::fs::remove_file(alpha.path("etc/muskox/node.toml")).unwrap();
    let problem = alpha.refused("init", &words);
    assert!(problem["code"] == "exists" && problem["detail"].as_str().unwrap().contains("ca.key"), "{problem}");
    let token = format!("mx1-{0}-{0}-127.0.0.1:1", "ab".repeat(32));
    assert_eq!(alpha.refused("join", &alpha.join_words(&token))["code"], "exists");
}

/// Goal: names and addresses belong to one machine. Method: join with each that is taken; the token is still good.
#[test]
fn taken_names_and_addresses_are_refused() {
    let machines = Machines::new();
    let (mut alpha, beta) = (machines.first(&[]), machines.machine("beta"));
    let token = alpha.token();
    let same_name = [token.as_str(), "--name", "alpha", "--address", &beta.address];
    assert_eq!(beta.refused("join", &same_name)["code"], "name_taken");
    assert_eq!(beta.refused("join", &[&token, "--name", "beta", "--address", &alpha.address])["code"], "bad_request");
    beta.join(&token);
    let gamma = machines.machine("gamma");
    let token = alpha.token();
    let same_address = [token.as_str(), "--name", "gamma", "--address", &beta.address];
    assert_eq!(gamma.refused("join", &same_address)["code"], "address_taken");
    gamma.join(&token);
    let again = gamma.refused("join", &gamma.join_words(&token));
    assert!(again["hint"].as_str().unwrap().contains("`muskox node remove gamma`"), "{again}");
    alpha.stop();
}

/// Goal: a token is never on a command line: it is refused there; a file that others may read is refused, one for its owner joins; how
/// long a token is good is said beside it. Method: each.
#[test]
fn a_token_is_read_from_a_file_or_the_standard_input() {
    let machines = Machines::new();
    let (alpha, beta) = (machines.first(&[]), machines.machine("beta"));
    let made = alpha.try_node("token", &["--lifetime", "7500"]);
    let note = String::from_utf8(made.stderr).unwrap();
    assert!(note.contains("for one machine, once, within 2 h 5 min"), "{note}");
    let token = String::from_utf8(made.stdout).unwrap();
    assert_eq!(token.lines().count(), 1, "nothing else on the standard output");
    let words = ["--name", "beta", "--address", &beta.address, "--json"];
    let said = |done: std::process::Output| {
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        serde_json::from_slice::<serde_json::Value>(&done.stdout).unwrap()["detail"].as_str().unwrap().to_owned()
    };
    let refused = said(beta.try_join(token.trim(), "", &words));
    assert!(refused.contains("stands on the command line") && !refused.contains(token.trim()), "{refused}");
    let file = beta.path("token");
    std::fs::write(&file, &token).unwrap();
    let mode = |mode| std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    mode(0o644);
    let path = file.to_str().unwrap();
    let refused = said(beta.try_join(path, "", &words));
    assert!(refused.contains("may be read by others"), "{refused}");
    let refused = said(beta.try_join("/nonexistent/token", "", &words));
    assert!(refused.contains("/nonexistent/token"), "{refused}");
    mode(0o600);
    let done = beta.try_join(path, "", &words);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(alpha.names(), ["alpha", "beta"]);
}

/// Goal: an address that does not do is heard of before anything is made. Method: in use, foreign, port 0, everybody's; a
/// foreign portal.
#[test]
fn addresses_are_tried_first() {
    let machines = Machines::new();
    let alpha = machines.machine("alpha");
    let problem = alpha.refused("init", &["alpha", "--address", &alpha.address, "--portals", "127.0.0.1,192.0.2.1"]);
    assert!(problem["code"] == "bad_request" && problem["hint"].as_str().unwrap().contains("--portals"), "{problem}");
    let _taken = std::net::TcpListener::bind(&alpha.address).unwrap();
    for address in [alpha.address.as_str(), "192.0.2.1:10811", "127.0.0.1:0", "0.0.0.0:10811", "224.0.0.1"] {
        let problem = alpha.refused("init", &["alpha", "--address", address]);
        assert_eq!(problem["code"], "bad_request", "{address}: {problem}");
    }
    assert!(alpha.files().is_empty());
    for (name, address) in [("../x", alpha.address.as_str()), ("alpha", "here"), ("", "127.0.0.1:5")] {
        let done = alpha.try_node("init", &[name, "--address", address]);
        assert_eq!(done.status.code(), Some(2), "wrong usage: {name} {address}");
    }
    let done = alpha.try_node("init", &["alpha", "--address", "127.0.0.1:5", "--roles", "king"]);
    assert!(String::from_utf8_lossy(&done.stderr).contains("storage, host, witness"));
}

/// Goal: D2, A22: an interface that this machine needs is refused as a bridge's port, by name, before anything is made. Method: the
/// loopback, which carries 127.0.0.1; one that there is not; one that is no bridge.
#[test]
fn an_interface_that_is_needed_is_no_port_of_a_bridge() {
    let machines = Machines::new();
    let alpha = machines.machine("alpha");
    for (bridge, says) in [
        ("mxlan=lo", "'lo' carries the address 127.0.0.1; on the bridge 'mxlan' this machine would lose that"),
        ("mxlan=mxeth9", "there is no interface 'mxeth9'"),
        ("lo", "'lo' is no bridge"),
    ] {
        for (verb, what) in [("init", "alpha"), ("join", "token")] {
            let problem = alpha.refused(verb, &[what, "--address", &alpha.address, "--bridge", bridge]);
            let text = problem["detail"].as_str().unwrap();
            assert!(problem["code"] == "bad_request" && text.contains(says), "{verb}: {problem}");
        }
    }
    assert!(alpha.files().is_empty() && !std::path::Path::new("/sys/class/net/mxlan").exists());
}

/// Goal: a store that is damaged or gone is never replaced by an empty one. Method: spoil it, take it away, start.
#[test]
fn a_damaged_store_is_not_served() {
    let machines = Machines::new();
    let mut alpha = machines.first(&[]);
    alpha.stop();
    let store = alpha.path("var/lib/muskox/store.db");
    let good = std::fs::read(&store).unwrap();
    for spoilt in
        [b"not a database, whatever its name says".to_vec(), [&good[..100], &vec![0xff; good.len() - 100]].concat()]
    {
        std::fs::write(&store, &spoilt).unwrap();
        let complaint = alpha.start_refused();
        assert!(complaint.contains("store.db") && complaint.contains("backup"), "{complaint}");
        assert_eq!(std::fs::read(&store).unwrap(), spoilt, "it is kept as it is");
    }
    std::fs::remove_file(&store).unwrap();
    let complaint = alpha.start_refused();
    assert!(complaint.contains("is gone") && !store.exists(), "{complaint}");
    std::fs::write(&store, &good).unwrap();
    alpha.start();
    assert_eq!(alpha.names(), ["alpha"]);
}

/// Goal: a daemon that cannot serve says why and leaves the running one alone. Method: no cluster, a second daemon, a
/// spoilt node.toml, files of two clusters, a key open to others, a folder that cannot be written.
#[test]
fn a_daemon_that_cannot_serve_says_why() {
    let machines = Machines::new();
    let mut alpha = machines.machine("alpha");
    assert!(alpha.start_refused().contains("muskox node init"));
    assert_eq!(alpha.refused("list", &[])["code"], "unreachable");
    alpha.init(&[]);
    alpha.start();
    assert!(alpha.start_refused().contains("is in use"));
    assert_eq!(alpha.names(), ["alpha"], "the first one serves on");
    alpha.stop();
    let toml = alpha.path("etc/muskox/node.toml");
    let good = std::fs::read_to_string(&toml).unwrap();
    std::fs::write(&toml, "name = 5\n").unwrap();
    assert!(alpha.start_refused().contains("node.toml"));
    std::fs::write(&toml, good.replace("version = 1", "version = 9")).unwrap();
    assert!(alpha.start_refused().contains("version is 9"));
    std::fs::write(&toml, good).unwrap();
    let other = machines.machine("other");
    other.init(&[]);
    let certificate = alpha.path("etc/muskox/node.crt");
    let own = std::fs::read(&certificate).unwrap();
    std::fs::copy(other.path("etc/muskox/node.crt"), &certificate).unwrap();
    assert!(alpha.start_refused().contains("node.crt is not for node.key"));
    std::fs::write(&certificate, own).unwrap();
    for secret in ["etc/muskox/node.key", "etc/muskox/ca.key"].map(|secret| alpha.path(secret)) {
        let mode =
            |mode| std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        mode(0o644);
        assert!(alpha.start_refused().contains("chmod 600"));
        mode(0o600);
    }
    alpha.start();

    let mut nowhere = machines.machine("nowhere");
    nowhere.root = alpha.path("log");
    let problem = nowhere.refused("init", &["nowhere", "--address", &nowhere.address]);
    assert!(problem["code"] == "files" && problem["detail"].as_str().unwrap().contains("log/etc"), "{problem}");
}
