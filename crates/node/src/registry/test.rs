//! The registry's promises, on the store in memory.

use super::*;
use cluster::store::Memory;

const NOW_S: u64 = 1_000;
const HASH: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OTHER: &str = "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn record(name: &str, at: u8) -> Record {
    let address = format!("192.0.2.{at}:10811").parse().unwrap();
    let seat = Seat { name: name.parse().unwrap(), address, portals: Vec::new(), roles: vec![Role::Host] };
    Record::new(seat, HostKey([at; 32]), NOW_S)
}

fn cluster_of_one() -> Memory {
    let mut engine = Memory::new();
    found(&mut engine, &record("alpha", 1), Settings::new(60)).unwrap();
    engine
}

fn refused<T: std::fmt::Debug>(done: Result<T, Problem>) -> Code {
    done.unwrap_err().code
}

/// Goal: a token admits one machine, once, in its time. Method: unknown, expired, good, used, and the same machine again.
#[test]
fn a_token_admits_one_machine() {
    let mut engine = cluster_of_one();
    assert_eq!(refused(admit(&mut engine, HASH, &record("beta", 2))), Code::TokenUnknown);
    add_token(&mut engine, OTHER, NOW_S, NOW_S - 1).unwrap();
    assert_eq!(refused(admit(&mut engine, OTHER, &record("beta", 2))), Code::TokenExpired);
    add_token(&mut engine, HASH, NOW_S + 1, NOW_S).unwrap();
    assert!(engine.get(&token_key(OTHER)).unwrap().is_none(), "expired tokens are cleared away");
    admit(&mut engine, HASH, &record("beta", 2)).unwrap();
    assert_eq!(refused(admit(&mut engine, HASH, &record("gamma", 3))), Code::TokenUnknown);
    assert_eq!(admit(&mut engine, HASH, &record("beta", 2)).unwrap(), record("beta", 2), "a lost answer is no loss");
    let names: Vec<String> = members(&mut engine).unwrap().iter().map(|member| member.name.to_string()).collect();
    assert_eq!(names, ["alpha", "beta"]);
}

/// Goal: a name, an address and a key are one machine's; a refused join leaves the token. Method: take each twice.
#[test]
fn nothing_belongs_to_two_machines() {
    let mut engine = cluster_of_one();
    add_token(&mut engine, HASH, NOW_S + 1, NOW_S).unwrap();
    let before = engine.range("/").unwrap();
    let (mut same_name, mut same_address, mut same_key) = (record("alpha", 2), record("beta", 2), record("beta", 2));
    same_name.joined_s = NOW_S;
    same_address.address = record("alpha", 1).address;
    same_key.key = record("alpha", 1).key;
    assert_eq!(refused(admit(&mut engine, HASH, &same_name)), Code::NameTaken);
    assert_eq!(refused(admit(&mut engine, HASH, &same_address)), Code::AddressTaken);
    assert_eq!(refused(admit(&mut engine, HASH, &same_key)), Code::Exists);
    assert_eq!(engine.range("/").unwrap(), before, "nothing was changed");
    admit(&mut engine, HASH, &record("beta", 2)).unwrap();
}

/// Goal: a removed key never comes back, its name and address may. Method: remove, and join again both ways.
#[test]
fn a_removed_key_stays_out() {
    let mut engine = cluster_of_one();
    add_token(&mut engine, HASH, NOW_S + 1, NOW_S).unwrap();
    let beta = admit(&mut engine, HASH, &record("beta", 2)).unwrap();
    assert_eq!(standing(&mut engine, beta.key).unwrap(), Standing::Member(beta.clone()));
    let alpha: NodeName = "alpha".parse().unwrap();
    assert_eq!(refused(remove(&mut engine, &alpha, &alpha, NOW_S)), Code::HoldsStore);
    remove(&mut engine, &beta.name, &alpha, NOW_S).unwrap();
    assert_eq!(refused(remove(&mut engine, &beta.name, &alpha, NOW_S)), Code::NotFound);
    assert_eq!(standing(&mut engine, beta.key).unwrap(), Standing::Removed(beta.name.clone()));
    assert_eq!(standing(&mut engine, HostKey([9; 32])).unwrap(), Standing::Stranger);
    add_token(&mut engine, OTHER, NOW_S + 1, NOW_S).unwrap();
    assert_eq!(refused(admit(&mut engine, OTHER, &beta)), Code::Removed);
    let mut anew = beta.clone();
    anew.key = HostKey([7; 32]);
    admit(&mut engine, OTHER, &anew).unwrap();
}

/// Goal: a store that holds a cluster is not made another; a newer object is not guessed at. Method: both.
#[test]
fn what_is_there_is_not_overwritten_or_guessed_at() {
    let mut engine = cluster_of_one();
    assert_eq!(refused(found(&mut engine, &record("beta", 2), Settings::new(60))), Code::Exists);
    assert_eq!(settings(&mut engine).unwrap(), Settings::new(60));
    let mut zeta = record("zeta", 9);
    zeta.version = 2;
    let newer = put(&made_key("/node/zeta"), &zeta);
    engine.txn(&Txn { then: vec![newer], ..Txn::default() }).unwrap();
    let problem = members(&mut engine).unwrap_err();
    assert!(problem.code == Code::StoreFailed && problem.text.contains("/node/zeta"), "{problem:?}");
}

/// Goal: every address has its own key in the store. Method: addresses of both families.
#[test]
fn addresses_have_keys() {
    let key = |text: &str| address_key(text.parse().unwrap());
    assert_eq!(key("192.0.2.1:10811").as_str(), "/address/at-192.0.2.1-10811");
    assert_ne!(key("[::1]:1"), key("[::]:11"));
    assert_ne!(key("[fe80::1%3]:1"), key("[fe80::1]:1"));
}
