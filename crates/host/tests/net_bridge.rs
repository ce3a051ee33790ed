//! Bridges and taps by ioctl, in a network namespace of the test's own, seen by `ip`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use host::net::{bridges, check_bridge, check_uplink, duties, keep_bridge, keep_tap, remove_tap};
use std::process::Command;
use support::{have, tool};

/// Set in the process that runs inside the namespace.
const INSIDE: &str = "MUSKOX_TEST_INSIDE";

/// Goal: a bridge is made once, without delay, with its port; a tap is made for its user, plugged in, kept, removed; what
/// cannot be is said. Method: this test again within a namespace; `ip` says what there is.
#[test]
fn bridges_and_taps_are_kept() {
    assert!(have("ip"));
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    again_in_a_namespace("bridges_and_taps_are_kept");
}

fn again_in_a_namespace(test: &str) {
    let name = format!("mx{}{}", test.len(), std::process::id());
    tool(Command::new("ip").args(["netns", "add", &name]));
    let _namespace = RemoveNamespace(&name);
    let mut again = Command::new("ip");
    again.args(["netns", "exec", &name]).arg(std::env::current_exe().unwrap());
    tool(again.args(["--exact", test, "--nocapture"]).env(INSIDE, "1"));
}

fn ip(words: &str) -> String {
    tool(Command::new("ip").args(words.split(' ')))
}

fn refused(done: std::io::Result<()>, words: &str) {
    let error = done.unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}

fn inside() {
    ip("link add eth1 type veth peer name far1");
    let ports = ["eth1".to_owned()];
    for _ in 0..2 {
        keep_bridge("br0", &ports).unwrap();
    }
    assert_eq!(bridges().unwrap(), ["br0"]);
    let details = ip("-d link show br0");
    assert!(details.contains("forward_delay 0 ") && details.contains("stp_state 0 "), "{details}");
    assert!(details.contains(",UP") || details.contains("<UP") || details.contains("UP,"), "{details}");
    assert!(ip("link show eth1").contains("master br0"));

    for _ in 0..2 {
        keep_tap("mx0123456789ab", "br0", Some(65_534)).unwrap();
    }
    let tap = ip("-d link show mx0123456789ab");
    assert!(tap.contains("master br0") && tap.contains("persist on") && tap.contains("user nobody"), "{tap}");
    assert!(tap.contains("vnet_hdr on") && tap.contains("pi off"), "as QEMU opens it: {tap}");
    remove_tap("mx0123456789ab").unwrap();
    remove_tap("mx0123456789ab").unwrap();
    assert!(!ip("link").contains("mx0123456789ab"));

    refused(keep_tap("mxtap", "br9", None), "no bridge 'br9'");
    refused(keep_bridge("br0", &["eth9".to_owned()]), "no interface 'eth9'");
    refused(keep_bridge("far1", &[]), "'far1' is no bridge");
    keep_bridge("br1", &[]).unwrap();
    refused(keep_bridge("br1", &ports), "on 'br0' already");
}

/// Goal: D2, A22: an interface that carries an address or a route of this machine is never put on a bridge, and is named with what it
/// carries; one that is free is, whatever else is refused; one that was given an address on the bridge is named too. Method: IPv4
/// and IPv6, addresses and routes alone, each beside a free interface.
#[test]
fn an_interface_that_is_needed_is_no_port() {
    if std::env::var_os(INSIDE).is_none() {
        return again_in_a_namespace("an_interface_that_is_needed_is_no_port");
    }
    for (n, (make, says)) in [
        ("addr add 192.0.2.1/24 dev PORT", "the address 192.0.2.1, the route to 192.0.2.0/24"),
        ("route add default dev PORT", "the default route"),
        ("-6 addr add 2001:db8::1/64 dev PORT nodad", "the address 2001:db8::1"),
        ("-6 route add 2001:db8:5::/48 dev PORT", "the route to 2001:db8:5::/48"),
    ]
    .into_iter()
    .enumerate()
    {
        let (needed, free, bridge) = (format!("need{n}"), format!("free{n}"), format!("br{n}"));
        for port in [&needed, &free] {
            ip(&format!("link add {port} type veth peer name far{port}"));
            ip(&format!("link set {port} up"));
            ip(&format!("link set far{port} up"));
            assert_eq!(duties(port).unwrap(), [""; 0], "a link-local address is nobody's need");
        }
        ip(&make.replace("PORT", &needed));
        let ports = [needed.clone(), free.clone()];
        let words = format!("'{needed}' carries {says}");
        refused(check_bridge(&bridge, &ports), &words);
        assert!(!ip("-o link").contains(&format!(" {bridge}:")), "nothing is made by a look");
        refused(keep_bridge(&bridge, &ports), &words);
        assert!(!ip(&format!("link show {needed}")).contains("master"));
        assert!(ip(&format!("link show {free}")).contains(&format!("master {bridge}")));
        if n % 2 == 0 {
            ip(&make.replace("PORT", &free).replace(".1/", ".2/").replace("::1/", "::2/"));
            refused(keep_bridge(&bridge, &ports), &format!("'{free}' is on a bridge and carries the address"));
        }
    }
}

/// Goal: A23: a bridge leads out of this machine only where one of its ports is on it and has a carrier. Method: the cable is pulled and
/// plugged in again, the port taken off, two ports, a bridge of somebody else, one without ports, one with a guest's tap only.
#[test]
fn a_bridge_without_a_carrier_leads_nowhere() {
    if std::env::var_os(INSIDE).is_none() {
        return again_in_a_namespace("a_bridge_without_a_carrier_leads_nowhere");
    }
    for port in ["eth1", "eth2"] {
        ip(&format!("link add {port} type veth peer name far{port}"));
    }
    let (one, two) = (["eth1".to_owned()], ["eth1".to_owned(), "eth2".to_owned()]);
    assert_eq!(check_uplink("br0", &one), Err("there is none".to_owned()));
    keep_bridge("br0", &one).unwrap();
    assert_eq!(check_uplink("br0", &one), Err("its port 'eth1' has no carrier".to_owned()));
    ip("link set fareth1 up");
    assert_eq!((check_uplink("br0", &one), check_uplink("br0", &[])), (Ok(()), Ok(())));
    assert_eq!(check_uplink("br0", &two), Ok(()), "one of two will do");
    ip("link set fareth1 down");
    assert_eq!(
        check_uplink("br0", &two),
        Err("its port 'eth1' has no carrier, its port 'eth2' is not on it".to_owned())
    );
    assert!(check_uplink("br0", &[]).is_err(), "one that somebody else keeps");
    ip("link set fareth1 up");
    ip("link set eth1 nomaster");
    assert_eq!(check_uplink("br0", &one), Err("its port 'eth1' is not on it".to_owned()));
    assert_eq!(check_uplink("br0", &[]), Ok(()), "for guests of this machine alone");
    keep_tap("mxtap", "br0", None).unwrap();
    assert_eq!(check_uplink("br0", &[]), Ok(()), "a guest's tap is no way out, and not missed");
}

struct RemoveNamespace<'a>(&'a str);

impl Drop for RemoveNamespace<'_> {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", self.0]).status();
    }
}
