//! What a client sees, and what is on the disks afterwards.

use crate::support::{LOCAL, StorageBox, finish, have, nbd_script, pattern, tool, try_tool};

/// Goal: stock clients read and write a volume, in every way that NBD has. Method: nbdinfo, nbdcopy, which
/// would use four connections if they were offered, qemu-img convert and compare, a libnbd script for FUA, flush, trim, zeroes and block status.
#[test]
fn stock_clients_are_at_home() {
    if !["nbdinfo", "nbdcopy", "qemu-img", "qemu-nbd", "nbdsh"].into_iter().all(have) {
        return;
    }
    let storage = StorageBox::with_volume(2, 32);
    storage.ctl(&["grant", "raise", "web1", "1", "--owner", LOCAL]);
    let (uri, image) = (storage.uri("web1"), storage.text("image"));
    let info = tool(&["nbdinfo", "--json", &uri]);
    for fact in
        ["\"export-size\": 33554432", "\"can_multi_conn\": false", "\"can_fua\": true", "\"block_size_minimum\": 512"]
    {
        assert!(info.contains(fact), "{fact}: {info}");
    }
    let listed = tool(&["qemu-nbd", "--list", "-k", &storage.text("nbd.sock")]);
    assert!(listed.contains("exports available: 1") && listed.contains("web1"), "{listed}");

    pattern(&storage.path("image"), 32);
    tool(&["nbdcopy", "--connections=4", "--requests=32", &image, &uri]);
    tool(&["qemu-img", "compare", "-f", "raw", "-F", "raw", &image, &uri]);
    let back = storage.text("back");
    tool(&["nbdcopy", "--request-size=4096", "--requests=64", &uri, &back]);
    assert!(std::fs::read(&image).unwrap() == std::fs::read(&back).unwrap());
    tool(&["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", &image, &uri]);
    tool(&["qemu-img", "compare", "-f", "raw", "-F", "raw", &image, &uri]);

    let script = nbd_script(
        &uri,
        "assert h.get_structured_replies_negotiated()\n\
         h.pwrite(b'x' * 1048576, 4096, nbd.CMD_FLAG_FUA)\n\
         h.trim(65536, 0)\n\
         h.zero(16777216, 8388608, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)\n\
         h.flush()\n\
         assert h.pread(16777216, 8388608) == bytes(16777216)\n\
         assert h.pread(4096, 131072) == b'x' * 4096\n\
         extents = []\n\
         h.block_status(1048576, 0, lambda context, at, entries, error: extents.extend(entries))\n\
         assert extents == [1048576, 0], extents\n\
         h.set_strict_mode(0)\n\
         for wrong in (lambda: h.pread(512, 33554432), lambda: h.pwrite(b'x' * 512, 100), lambda: h.cache(512, 0)):\n\
         \ttry:\n\
         \t\twrong()\n\
         \t\tassert False\n\
         \texcept nbd.Error as error:\n\
         \t\tassert error.errno in ('EINVAL', 'ENOSPC', 'EOPNOTSUPP'), error\n\
         h.shutdown()",
    );
    finish(script);
}

/// Goal: a stopped pool is an ordinary md array with an ordinary volume group, and the target finds it again. Method:
/// write, stop, ask mdadm and pvck, read the volume's bytes out of a member, start again and compare.
#[test]
fn a_stopped_pool_is_what_stock_tools_expect() {
    if !["mdadm", "pvck", "qemu-img"].into_iter().all(have) {
        return;
    }
    let mut storage = StorageBox::with_volume(2, 16);
    storage.ctl(&["grant", "raise", "web1", "1", "--owner", LOCAL]);
    storage.wait_for_resync();
    let (uri, image) = (storage.uri("web1"), storage.text("image"));
    pattern(&storage.path("image"), 16);
    tool(&["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", &image, &uri]);
    assert!(storage.stop(), "{}", storage.log());

    for member in ["d0", "d1"] {
        let shown = tool(&["mdadm", "--examine", &storage.text(member)]);
        assert!(shown.contains("State : clean") && shown.contains("Array State : AA"), "{shown}");
    }
    let shown = tool(&["mdadm", "--examine", &storage.text("d1")]);
    let offset = shown.lines().find(|line| line.contains("Data Offset")).expect("it has one");
    let sectors: usize = offset.split_whitespace().nth(3).unwrap().parse().unwrap();
    let member = std::fs::read(storage.path("d1")).unwrap();
    std::fs::write(storage.path("pv"), &member[sectors * 512..]).unwrap();
    let metadata = tool(&["pvck", "--dump", "metadata", &storage.text("pv")]);
    assert!(metadata.contains("tank {") && metadata.contains("web1 {"), "{metadata}");
    let content = std::fs::read(&image).unwrap();
    assert!(member.windows(content.len()).step_by(512).any(|bytes| bytes == content), "the volume's raw bytes");

    storage.start();
    tool(&["qemu-img", "compare", "-f", "raw", "-F", "raw", &image, &uri]);
    let shown = storage.ctl(&["pool", "show", "tank"]);
    assert!(shown.contains("state   healthy"), "{shown}");
}

/// Goal: a member fails, another takes its place, the guest sees nothing. Method: a writer that never stops, `pool
/// replace` under it, then each member alone must hold what was written.
#[test]
fn a_member_is_replaced_under_a_writer() {
    if !["mdadm", "qemu-img"].into_iter().all(have) {
        return;
    }
    let mut storage = StorageBox::with_volume(3, 16);
    storage.ctl(&["grant", "raise", "web1", "1", "--owner", LOCAL]);
    let writer = nbd_script(
        &storage.uri("web1"),
        "import time\n\
         end = time.time() + 3\n\
         n = 0\n\
         while time.time() < end:\n\
         \th.pwrite(bytes([n % 251]) * 4096, n % 4096 * 4096)\n\
         \tn += 1\n\
         h.flush()\n\
         print(n)",
    );
    std::thread::sleep(std::time::Duration::from_millis(500));
    storage.ctl(&["pool", "replace", "tank", &storage.text("d1"), &storage.text("d2")]);
    let written: usize = finish(writer).trim().parse().unwrap();
    assert!(written > 100, "{written}");
    storage.wait_for_resync();
    let shown = storage.ctl(&["pool", "show", "tank"]);
    assert!(shown.contains("/d2") && !shown.contains("/d1"), "{shown}");
    let image = storage.text("image");
    tool(&["qemu-img", "convert", "-f", "raw", "-O", "raw", &storage.uri("web1"), &image]);
    assert!(storage.stop());
    let content = std::fs::read(&image).unwrap();
    for member in ["d0", "d2"] {
        let bytes = std::fs::read(storage.path(member)).unwrap();
        assert!(bytes.windows(content.len()).step_by(512).any(|bytes| bytes == content), "{member}");
    }
    storage.start();
    assert!(try_tool(&["qemu-img", "compare", "-f", "raw", "-F", "raw", &image, &storage.uri("web1")]).0);
}
