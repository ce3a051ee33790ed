//! Bridges and taps by ioctl, in a network namespace of the test's own, seen by `ip`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use host::net::{bridges, keep_bridge, keep_tap, remove_tap};
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
    let name = format!("mxbr{}", std::process::id());
    tool(Command::new("ip").args(["netns", "add", &name]));
    let _namespace = RemoveNamespace(&name);
    let mut again = Command::new("ip");
    again.args(["netns", "exec", &name]).arg(std::env::current_exe().unwrap());
    tool(again.args(["--exact", "bridges_and_taps_are_kept", "--nocapture"]).env(INSIDE, "1"));
}

fn inside() {
    let ip = |words: &str| tool(Command::new("ip").args(words.split(' ')));
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

    let refused = |done: std::io::Result<()>, words: &str| {
        let error = done.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(keep_tap("mxtap", "br9", None), "no bridge 'br9'");
    refused(keep_bridge("br0", &["eth9".to_owned()]), "no interface 'eth9'");
    refused(keep_bridge("far1", &[]), "'far1' is no bridge");
    keep_bridge("br1", &[]).unwrap();
    refused(keep_bridge("br1", &ports), "on 'br0' already");
}

struct RemoveNamespace<'a>(&'a str);

impl Drop for RemoveNamespace<'_> {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", self.0]).status();
    }
}
