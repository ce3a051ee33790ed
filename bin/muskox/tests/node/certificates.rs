//! Certificates renew themselves, and a token's secret goes to no other cluster.

use crate::support::Machines;
use std::time::Duration;

/// Goal: a machine tells its secret only to the cluster that made the token. Method: a token with a forged fingerprint,
/// and one that leads to another cluster's machine: refused, nothing kept, and the real token is still good.
#[test]
fn a_forged_fingerprint_is_refused() {
    let machines = Machines::new();
    let alpha = machines.first(&[]);
    let mut other = machines.machine("other");
    other.init(&[]);
    other.start();
    let token = alpha.token();
    let beta = machines.machine("beta");
    let mut parts: Vec<String> = token.splitn(4, '-').map(str::to_owned).collect();
    let real = parts[1].clone();
    parts[1] = "ab".repeat(32);
    assert_eq!(beta.refused("join", &beta.join_words(&parts.join("-")))["code"], "wrong_peer");
    (parts[1], parts[3]) = (real, other.address.clone());
    assert_eq!(beta.refused("join", &beta.join_words(&parts.join("-")))["code"], "wrong_peer");
    assert!(beta.files().is_empty());
    assert_eq!(beta.refused("join", &beta.join_words("mx1-nonsense"))["code"], "bad_request");
    beta.join(&token);
}

/// Goal: a token's time ends. Method: one of a second.
#[test]
fn an_expired_token_is_refused() {
    let machines = Machines::new();
    let alpha = machines.first(&[]);
    let token = alpha.node("token", &["--lifetime", "1"]).trim().to_owned();
    std::thread::sleep(Duration::from_millis(2_100));
    let beta = machines.machine("beta");
    let problem = beta.refused("join", &beta.join_words(&token));
    assert_eq!(problem["code"], "token_expired");
    assert!(problem["hint"].as_str().unwrap().contains("muskox node token"));
    assert_eq!(alpha.refused("token", &["--lifetime", "99999999"])["code"], "bad_request");
}

/// Goal: certificates are renewed before they end, on both sides, without a restart; one that ended while its machine was
/// off is renewed at its start; the key stays. Method: certificates of a few seconds.
#[test]
fn certificates_renew_themselves() {
    let machines = Machines::new();
    let alpha = machines.first(&["--certificate-lifetime", "8s"]);
    let mut beta = machines.member("beta", &alpha);
    alpha.wait_until_up("beta");
    let until = |name: &str| alpha.listed(name)["certificate_until_s"].as_u64().unwrap_or(0);
    let (first_alpha, first_beta, key) = (until("alpha"), until("beta"), alpha.listed("beta")["key"].clone());
    alpha.wait("both renewed twice", |_| until("alpha") > first_alpha + 8 && until("beta") > first_beta + 8);
    assert!(beta.get(&alpha, "/v1/nodes", true).unwrap().contains("200 OK"), "the doors use the new ones");
    assert!(alpha.log().matches("certificate renewed").count() >= 2);
    assert!(!beta.log().contains("is not valid"), "{}", beta.log());

    beta.stop();
    std::thread::sleep(Duration::from_secs(9));
    let ended = beta.get(&alpha, "/v1/nodes", true);
    assert!(ended.as_ref().is_err_and(|error| error.contains("CertificateExpired")), "{ended:?}");
    beta.start();
    assert_eq!(beta.names(), ["alpha", "beta"]);
    assert_eq!(alpha.listed("beta")["key"], key);
}
