//! Volume groups that stock LVM2 changed while muskox was away.

use crate::support::{LOCAL, StorageBox, finish, have, nbd_script, tool, try_tool};

/// Where a small member's data begins; docs/formats/md.md.
const DATA_OFFSET: usize = 16 << 20;
/// The group's label and metadata area; docs/formats/lvm2.md.
const METADATA: usize = 1 << 20;

/// A member's data behind a loop device, which is detached when this is dropped, also by a panic.
struct Loop(String);

impl Loop {
    fn new(member: &str) -> Self {
        let offset = DATA_OFFSET.to_string();
        Self(tool(&["losetup", "--find", "--show", "--offset", &offset, member]).trim().to_owned())
    }

    /// An LVM2 command that sees only this device; nothing is activated.
    fn lvm(&self, words: &[&str]) {
        let config = format!(
            "devices {{ filter=[\"a|^{}$|\",\"r|.*|\"] use_devicesfile=0 scan_lvs=0 hints=\"none\" }} \
             global {{ use_lvmpolld=0 event_activation=0 use_lvmlockd=0 }} \
             activation {{ udev_sync=0 udev_rules=0 monitoring=0 }} backup {{ backup=0 archive=0 }}",
            self.0
        );
        tool(&[&[words[0], "--driverloaded", "n", "--config", &config], &words[1..]].concat());
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = try_tool(&["losetup", "--detach", &self.0]);
    }
}

/// What stock tools do to the group of a stopped pool: on one member, and the same on the other as the kernel's md would.
fn by_stock_tools(storage: &StorageBox, commands: &[&[&str]]) {
    {
        let stock = Loop::new(&storage.text("d0"));
        commands.iter().for_each(|words| stock.lvm(words));
    }
    let from = std::fs::read(storage.path("d0")).unwrap();
    let mut to = std::fs::read(storage.path("d1")).unwrap();
    to[DATA_OFFSET..DATA_OFFSET + METADATA].copy_from_slice(&from[DATA_OFFSET..DATA_OFFSET + METADATA]);
    std::fs::write(storage.path("d1"), to).unwrap();
}

/// OD9, A19: goal: a read-only volume is offered read-only and cannot be attached for writing; a volume that muskox
/// cannot serve is listed with its reason. Method: `lvchange --permission r`, `lvcreate` of an odd name, stock clients.
#[test]
fn what_stock_tools_made_of_volumes_is_shown_and_honoured() {
    if !["losetup", "lvchange", "lvcreate", "nbdinfo", "qemu-img"].into_iter().all(have) {
        return;
    }
    let mut storage = StorageBox::with_volume(2, 16);
    storage.ctl(&["grant", "raise", "web1", "1", "--owner", LOCAL]);
    storage.wait_for_resync();
    assert!(storage.stop(), "{}", storage.log());
    let odd = ["lvcreate", "-an", "-Zn", "-Wn", "-y", "-l", "2", "-n", "Root+1", "tank"];
    by_stock_tools(&storage, &[&["lvchange", "--permission", "r", "tank/web1"], &odd]);
    storage.start();
    storage.wait_for_volume();

    let listed = storage.ctl(&["volume", "list"]);
    let line = |name: &str| listed.lines().find(|line| line.starts_with(name)).expect(name).to_owned();
    assert!(line("Root+1").contains("offline") && line("Root+1").contains("lvrename"), "{listed}");
    assert!(line("web1").contains("serving") && line("web1").contains("read-only in LVM2"), "{listed}");

    let info = tool(&["nbdinfo", "--json", &storage.uri("web1")]);
    assert!(info.contains("\"is_read_only\": true"), "{info}");
    let reader = nbd_script(
        &storage.uri("web1"),
        "assert h.is_read_only()\n\
         assert len(h.pread(4096, 0)) == 4096\n\
         try:\n\
         \th.set_strict_mode(0)\n\
         \th.pwrite(b'x' * 512, 0)\n\
         \tassert False\n\
         except nbd.Error as error:\n\
         \tassert error.errno == 'EPERM', error\n",
    );
    finish(reader);
    let exact = |mode: &str| storage.uri(&format!("web1;epoch=1;incarnation=9;mode={mode}"));
    let (let_in, printed) = try_tool(&["nbdinfo", &exact("ro")]);
    assert!(let_in, "{printed}");
    let script = nbd_script(&exact("ro"), "assert h.is_read_only()\n");
    finish(script);
    // libnbd does not print what the server says.
    let (let_in, printed) = try_tool(&["qemu-img", "info", &exact("rw")]);
    assert!(!let_in && printed.contains("read-only in LVM2"), "{printed}");
}

/// A19: goal: a group that LVM2 gives to another host is not served, and the host is named. Method: `vgchange --systemid`.
#[test]
fn a_group_of_another_host_is_not_served() {
    if !["losetup", "vgchange"].into_iter().all(have) {
        return;
    }
    let mut storage = StorageBox::with_volume(2, 16);
    storage.wait_for_resync();
    assert!(storage.stop(), "{}", storage.log());
    by_stock_tools(&storage, &[&["vgchange", "--yes", "--systemid", "backup7", "tank"]]);
    storage.start();
    storage.wait("a reason", |this| this.ctl(&["pool", "show", "tank"]).contains("'backup7'"));
    assert!(storage.ctl(&["pool", "show", "tank"]).contains("failed"));
}
