//! What strangers at the door can do, and addresses that come late.

use crate::flood::{IN_WITHIN, beside_strangers};
use crate::support::{StorageBox, have, tool, try_tool};
use crate::tls::{Authority, tls_box};
use std::net::TcpListener;

/// DA10, CA4, D13. Goal: strangers who connect and say nothing keep nobody out who was granted a volume, and fill no log. Method:
/// 10 000 of them from one address, the client's own; it attaches while they come, and when all are there.
#[test]
fn silent_strangers_keep_nobody_out() {
    if !have("nbdinfo") {
        return;
    }
    let authority = Authority::new();
    let (storage, port) = tls_box(&authority);
    let granted = authority.machine(&storage.path("one"), "client");
    storage.ctl(&["pool", "create", "tank", &storage.text("d0"), &storage.text("d1")]);
    storage.ctl(&["volume", "create", "tank", "web1", "16M"]);
    storage.wait_for_volume();
    storage.ctl(&["grant", "raise", "web1", "1", "--owner", &granted]);
    let uri = format!("nbds://localhost:{port}/web1?tls-certificates={}", storage.text("one"));
    tool(&["nbdinfo", "--size", &uri]);
    let logged = storage.log().len();
    let took = beside_strangers(format!("127.0.0.1:{port}").parse().unwrap(), || {
        try_tool(&["timeout", "20", "nbdinfo", "--size", &uri]).0
    });
    assert!(took.iter().all(|took| *took <= IN_WITHIN), "{took:?}");
    let more = storage.log().len() - logged;
    assert!(more < 16 << 10, "{more} bytes of log for strangers:\n{}", storage.log());
}

/// A21. Goal: an address that cannot be had keeps the others from nothing, and is listened on when it comes. Method: one of two
/// addresses is another program's at the start, which leaves later; `status` says so meanwhile.
#[test]
fn an_address_that_comes_late_is_served() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let late = other.local_addr().unwrap();
    let mut storage = StorageBox::new(2);
    let identity = crate::support::LOCAL;
    storage.configure(&format!("[[listen]]\nnbd = \"{late}\"\nidentity = \"{identity}\"\nplaintext = true\n"));
    storage.start();
    assert!(storage.path("nbd.sock").exists(), "the other address is served: {}", storage.log());
    let status = storage.ctl(&["--json", "status"]);
    assert!(status.contains(&format!("cannot listen on {late}")), "{status}");
    drop(other);
    storage.wait("the late address", |this| this.log().contains(&format!("serving on {late}")));
    assert!(!storage.ctl(&["--json", "status"]).contains("cannot listen"));
    assert_eq!(storage.log().matches("cannot listen on").count(), 1, "said once: {}", storage.log());
    std::net::TcpStream::connect(late).unwrap();
}

/// A21. Goal: the same for an address of an interface that comes up late. Method: a network of its own, in which the address is
/// added after the target has started; needs root, and is passed over without.
#[test]
fn an_interface_that_comes_late_is_served() {
    if !rustix::process::geteuid().is_root() || !have("ip") {
        return;
    }
    let mut storage = StorageBox::new(2);
    let identity = crate::support::LOCAL;
    storage.configure(&format!("[[listen]]\nnbd = \"192.0.2.7:10809\"\nidentity = \"{identity}\"\nplaintext = true\n"));
    storage.start_in_own_network();
    assert!(!storage.log().contains("serving on 192.0.2.7"), "{}", storage.log());
    let process = storage.process_id().to_string();
    let inside = |words: &[&str]| tool(&[&["nsenter", "--net", "--target", &process][..], words].concat());
    inside(&["ip", "address", "add", "192.0.2.7/32", "dev", "lo"]);
    storage.wait("the late address", |this| this.log().contains("serving on 192.0.2.7:10809"));
    inside(&["bash", "-c", "exec 3<>/dev/tcp/192.0.2.7/10809; head -c 8 <&3 | grep -q NBDMAGIC"]);
}
