//! Stock clients, one after the other and beside one another: what a lost path still delivers never lands.

use crate::support::{LOCAL, StorageBox, finish, have, nbd_script, pattern, tool, try_tool};
use crate::wire::Wire;
use std::net::TcpListener;
use std::time::Duration;

/// A box that serves `web1` over TCP to [`LOCAL`], and the port.
fn storage() -> (StorageBox, u16) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut storage = StorageBox::new(2);
    storage.configure(&format!("[[listen]]\nnbd = \"127.0.0.1:{port}\"\nplaintext = true\nidentity = \"{LOCAL}\"\n"));
    storage.start();
    storage.ctl(&["pool", "create", "tank", &storage.text("d0"), &storage.text("d1")]);
    storage.ctl(&["volume", "create", "tank", "web1", "16M"]);
    storage.wait_for_volume();
    storage.ctl(&["grant", "raise", "web1", "1", "--owner", LOCAL]);
    (storage, port)
}

/// DA1. Goal: a write that waits on a path that went silent never lands after a newer one that was answered. Method: a
/// client whose path keeps its second write; the same client over another path is refused while it is in use, then
/// admitted, and writes newer bytes; then the first path delivers.
#[test]
fn what_a_silent_path_delivers_late_is_refused() {
    if !have("nbdsh") {
        return;
    }
    let (storage, port) = storage();
    let wire = Wire::to(port);
    let (sent, go) = (storage.text("sent"), storage.text("go"));
    let older = nbd_script(
        &format!("nbd://127.0.0.1:{}/web1", wire.port),
        &format!(
            "import os, time\n\
             h.pwrite(b'a' * 4096, 0)\n\
             open('{sent}', 'w').close()\n\
             while not os.path.exists('{go}'):\n\
             \ttime.sleep(0.005)\n\
             try:\n\
             \th.pwrite(b'old!' * 1024, 0)\n\
             \tprint('landed')\n\
             except nbd.Error as error:\n\
             \tprint('refused')"
        ),
    );
    storage.wait("a first write", |storage| storage.path("sent").exists());
    wire.hold(true);
    std::fs::write(&go, "").unwrap();
    let direct = format!("nbd://127.0.0.1:{port}/web1");
    let (worked, printed) = try_tool(&["qemu-io", "-f", "raw", "-c", "write -P 0x6e 0 4k", &direct]);
    assert!(!worked && printed.contains("is attached for writing by a client of this host already"), "{printed}");
    std::thread::sleep(Duration::from_secs(2));
    tool(&["qemu-io", "-f", "raw", "-c", "write -f -P 0x6e 0 4k", "-c", "write -f -P 0x6e 4k 4k", &direct]);
    wire.hold(false);
    assert_eq!(finish(older).trim(), "refused");
    tool(&["qemu-io", "-f", "raw", "-c", "read -P 0x6e 0 8k", &direct]);
}

/// DA1. Goal: a look touches nothing; who has left is replaced at once; many connections are not offered, and clients that
/// would use them copy over one. Method: an idle client, beside it nbdinfo (NBD_OPT_INFO); then copies, one after another.
#[test]
fn a_look_beside_a_client_and_copies_after_it() {
    if !["nbdinfo", "nbdcopy", "qemu-img"].into_iter().all(have) {
        return;
    }
    let storage = StorageBox::with_volume(2, 16);
    storage.ctl(&["grant", "raise", "web1", "1", "--owner", LOCAL]);
    let (uri, image, go) = (storage.uri("web1"), storage.text("image"), storage.text("go"));
    let idle = nbd_script(
        &uri,
        &format!(
            "import os, time\n\
             h.pwrite(b'x' * 4096, 0)\n\
             open('{go}.in', 'w').close()\n\
             while not os.path.exists('{go}'):\n\
             \ttime.sleep(0.005)\n\
             h.pwrite(b'y' * 4096, 0)\n\
             print('still attached')"
        ),
    );
    storage.wait("a client", |storage| storage.path("go.in").exists());
    // Beyond the silence after which another client would replace this one.
    std::thread::sleep(Duration::from_millis(2_200));
    let listed = tool(&["nbdinfo", "--list", "--json", &storage.uri("")]);
    assert!(listed.contains("\"can_multi_conn\": false") && listed.contains("16777216"), "{listed}");
    let sessions = storage.ctl(&["--json", "status"]);
    assert_eq!(sessions.matches("\"incarnation\"").count(), 1, "{sessions}");
    std::fs::write(&go, "").unwrap();
    assert_eq!(finish(idle).trim(), "still attached");

    pattern(&storage.path("image"), 16);
    tool(&["nbdcopy", "--connections=4", "--requests=32", &image, &uri]);
    tool(&["qemu-img", "compare", "-f", "raw", "-F", "raw", &image, &uri]);
    tool(&["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", &image, &uri]);
    tool(&["qemu-img", "compare", "-f", "raw", "-F", "raw", &image, &uri]);
}
