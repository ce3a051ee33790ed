//! Stock LVM2 as the oracle: it reads what muskox wrote, muskox reads what it wrote. Nothing is activated, and with
//! `--driverloaded n` the tools do without device-mapper; they see one loop device and no other disk of the machine.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use block::Disk;
use block::IoBuf;
use block::device::Durability;
use block::volume::{EXTENT_LEN, Existing, GroupIds, LvmId, Volume, VolumeError, VolumeGroup, VolumeState};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use support::{Bench, FileDisk, Scratch, have, tool};
use units::{ByteLen, ByteOffset, VolumeId};

const NOW: u64 = 1_795_265_508;
const IDS: GroupIds = GroupIds { group: [0x1a; 16], physical: [0x2b; 16] };
const SIZE: ByteLen = ByteLen::mib(64);

/// A file behind a loop device, which is detached when this is dropped, also by a panic.
struct Loop {
    device: String,
    dir: PathBuf,
}

impl Loop {
    fn new(scratch: &Scratch, file: &Path) -> Self {
        let device = tool(Command::new("losetup").args(["--find", "--show"]).arg(file)).trim().to_owned();
        let dir = scratch.path("lvm");
        std::fs::create_dir_all(&dir).unwrap();
        Self { device, dir }
    }

    /// An LVM2 command that sees only this device and keeps its files in the scratch folder.
    fn command(&self, args: &[&str]) -> Command {
        let (device, dir) = (&self.device, self.dir.display());
        let config = format!(
            "devices {{ filter=[\"a|^{device}$|\",\"r|.*|\"] use_devicesfile=0 scan_lvs=0 hints=\"none\" }} \
             global {{ use_lvmpolld=0 event_activation=0 locking_dir=\"{dir}\" use_lvmlockd=0 }} \
             activation {{ udev_sync=0 udev_rules=0 monitoring=0 }} \
             backup {{ backup=0 archive=0 backup_dir=\"{dir}\" archive_dir=\"{dir}\" }}"
        );
        let mut command = Command::new(args[0]);
        command.env("PATH", format!("{}:/sbin:/usr/sbin", std::env::var("PATH").unwrap_or_default()));
        command
            .args(["--driverloaded", "n", "--config", &config])
            .args(&args[1..])
            .env("LVM_SUPPRESS_FD_WARNINGS", "1");
        command.env("LVM_SYSTEM_DIR", &self.dir);
        command
    }

    fn lvm(&self, args: &[&str]) -> String {
        let printed = tool(&mut self.command(args));
        let lines = printed.lines().filter(|line| !line.contains("Activation disabled"));
        lines.map(|line| format!("{line}\n")).collect()
    }

    /// The words of one report line: what `lvs` or `vgs` says without headings.
    fn report(&self, tool: &str, fields: &str) -> Vec<Vec<String>> {
        let separated = ["--noheadings", "--nosuffix", "--units", "b", "--separator", "|", "-o", fields];
        let printed = self.lvm(&[&[tool], &separated[..]].concat());
        let lines = printed.lines().filter(|line| line.contains('|') && !line.contains("WARNING"));
        lines.map(|line| line.trim().split('|').map(str::to_owned).collect()).collect()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("/sbin/losetup").args(["--detach", &self.device]).status();
    }
}

struct Site {
    bench: Rc<Bench>,
    scratch: Scratch,
    file: PathBuf,
    disk: Disk,
}

impl Site {
    fn new(name: &str) -> Self {
        let scratch = Scratch::new(name);
        let file = scratch.disk("disk", SIZE);
        let disk = FileDisk::open(&file);
        Self { bench: Bench::new(), scratch, file, disk }
    }

    fn attach(&self) -> Loop {
        Loop::new(&self.scratch, &self.file)
    }

    fn create(&self) -> VolumeGroup {
        let name = "pool-1.a_b".parse().unwrap();
        let rt = self.bench.rt();
        let work = VolumeGroup::create(&rt, &self.disk, &name, IDS, Existing::Refuse, NOW);
        self.bench.run(work).unwrap()
    }

    fn open(&self) -> Result<VolumeGroup, VolumeError> {
        self.bench.run(VolumeGroup::open(&self.bench.rt(), &self.disk))
    }

    fn add(&self, group: &mut VolumeGroup, name: &str, id: u8, extents: u64) -> VolumeId {
        let (name, id) = (name.parse().unwrap(), VolumeId([id; 16]));
        let size = ByteLen(extents * EXTENT_LEN.0);
        self.bench.run(group.create_volume(&name, id, size, NOW)).unwrap();
        id
    }

    fn finish(&self, group: &mut VolumeGroup, id: VolumeId) {
        let zeroed = self.bench.run(group.zeroing(id).unwrap().run(|_| ())).unwrap();
        self.bench.run(group.publish(zeroed, NOW)).unwrap();
    }

    /// A group with a volume in two pieces, one that is not zeroed, and a hole.
    fn fill(&self) -> VolumeGroup {
        let mut group = self.create();
        let (first, hole) = (self.add(&mut group, "web-1_b.c", 0xa1, 2), self.add(&mut group, "hole", 0xa2, 3));
        let last = self.add(&mut group, "last", 0xa3, 8);
        self.finish(&mut group, first);
        self.finish(&mut group, last);
        self.bench.run(group.remove_volume(hole, NOW)).unwrap();
        let split = self.add(&mut group, "split", 0xa4, 4);
        self.finish(&mut group, split);
        self.add(&mut group, "raw", 0xa5, 1);
        group
    }
}

fn ready(oracles: &[&str]) -> bool {
    oracles.iter().all(|oracle| have(oracle))
}

/// Goal: stock tools read our label, header, text and volumes, and find nothing to complain about.
#[test]
fn stock_tools_read_what_muskox_wrote() {
    if !ready(&["losetup", "pvck", "vgck", "lvs", "vgs", "pvs"]) {
        return;
    }
    let site = Site::new("oracle-lvm-read");
    let group = site.fill();
    let (seqno, free) = (group.seqno(), group.free());
    let stock = site.attach();

    let headers = stock.lvm(&["pvck", "--dump", "headers", &stock.device]);
    for line in ["label_header.id LABELONE", "pv_header_extension.flags 1", "mda_header_1.size 1044480"] {
        assert!(headers.contains(line), "{line}\n{headers}");
    }
    let all = stock.lvm(&["pvck", &stock.device]) + &stock.lvm(&["vgck", "pool-1.a_b"]) + &headers;
    for word in ["CHECK", "rror", "WARNING", "bad", "nvalid"] {
        assert!(!all.contains(word), "{word}\n{all}");
    }
    let text = stock.lvm(&["pvck", "--dump", "metadata", &stock.device]);
    assert!(text.contains(&format!("seqno = {seqno}")), "{text}");

    let group_id = LvmId::from_bytes(&IDS.group).to_string();
    let (seqno, free) = (seqno.to_string(), free.0.to_string());
    let expect = ["pool-1.a_b", &group_id, &seqno, "4194304", "15", &free, "wz--n-"];
    assert_eq!(
        stock.report("vgs", "vg_name,vg_uuid,vg_seqno,vg_extent_size,vg_extent_count,vg_free,vg_attr"),
        [expect]
    );
    let physical_id = LvmId::from_bytes(&IDS.physical).to_string();
    let expect = [stock.device.as_str(), &physical_id, "1048576", "67108864", "a--"];
    assert_eq!(stock.report("pvs", "pv_name,pv_uuid,pe_start,dev_size,pv_attr"), [expect]);

    let id = |byte: u8| LvmId::from(VolumeId([byte; 16])).to_string();
    let device = &stock.device;
    let line = |name: &str, byte, size: u64, tags: &str, ranges: &[&str]| {
        let ranges: Vec<String> = ranges.iter().map(|range| format!("{device}:{range}")).collect();
        let size = (size * EXTENT_LEN.0).to_string();
        ranges
            .iter()
            .map(|range| vec![name.into(), id(byte), size.clone(), tags.into(), range.clone()])
            .collect::<Vec<_>>()
    };
    let mut expect = [
        line("web-1_b.c", 0xa1, 2, "", &["0-1"]),
        line("last", 0xa3, 8, "", &["5-12"]),
        line("split", 0xa4, 4, "", &["2-4", "13-13"]),
        line("raw", 0xa5, 1, "muskox.zeroing", &["14-14"]),
    ]
    .concat();
    let mut found = stock.report("lvs", "lv_name,lv_uuid,lv_size,lv_tags,seg_pe_ranges");
    expect.sort();
    found.sort();
    assert_eq!(found, expect);
}

/// Goal: guest bytes are raw, at the offsets stock tools say. Method: write through a volume in two pieces, ask
/// `lvs` and `pvs` where its extents are, look into the file there.
#[test]
fn content_is_where_stock_tools_say() {
    if !ready(&["losetup", "lvs", "pvs"]) {
        return;
    }
    let site = Site::new("oracle-lvm-content");
    let mut group = site.fill();
    let volume = group.volume(VolumeId([0xa4; 16])).unwrap();
    for extent in 0..4_u64 {
        let stamp = [u8::try_from(extent).unwrap() + 1; 4096];
        let across = ByteOffset((extent + 1) * EXTENT_LEN.0 - 4096);
        site.bench.run(volume.write(across, IoBuf::copy_of(&stamp).freeze(), Durability::Fua)).unwrap();
    }
    let stock = site.attach();
    let start: u64 = stock.report("pvs", "pe_start,pv_name")[0][0].parse().unwrap();
    let bytes = std::fs::read(&site.file).unwrap();
    let mut stamp = 1;
    for line in stock.report("lvs", "lv_name,seg_start,seg_pe_ranges").iter().filter(|line| line[0] == "split") {
        let (_, range) = line[2].split_once(':').unwrap();
        let (first, last) = range.split_once('-').unwrap();
        for extent in first.parse::<u64>().unwrap()..=last.parse().unwrap() {
            let end = usize::try_from(start + (extent + 1) * EXTENT_LEN.0).unwrap();
            assert_eq!(bytes[end - 4096..end], [stamp; 4096], "{line:?}");
            stamp += 1;
        }
    }
    assert_eq!(stamp, 5);
}

/// Goal: stock tools back up, restore and change our group, and muskox opens what they left. Method: `vgcfgbackup`,
/// `vgcfgrestore`, tags, a rename, a removal, a new and a grown volume by stock tools, muskox's changes between them.
#[test]
fn muskox_and_stock_tools_take_turns() {
    if !ready(&["losetup", "vgcfgbackup", "vgcfgrestore", "lvchange", "lvrename", "lvcreate", "lvremove", "vgck"]) {
        return;
    }
    let site = Site::new("oracle-lvm-turns");
    let before: Vec<Volume> = site.fill().list();
    let stock = site.attach();
    let backup = site.scratch.path("backup.vg").display().to_string();
    stock.lvm(&["vgcfgbackup", "-f", &backup, "pool-1.a_b"]);
    stock.lvm(&["vgcfgrestore", "-f", &backup, "pool-1.a_b"]);
    assert_eq!(site.open().unwrap().list(), before, "restored by stock tools");

    stock.lvm(&["vgchange", "--addtag", "by-stock", "pool-1.a_b"]);
    let mut group = site.open().unwrap();
    site.finish(&mut group, VolumeId([0xa5; 16]));
    site.bench.run(group.remove_volume(VolumeId([0xa3; 16]), NOW)).unwrap();
    let seqno = group.seqno();
    assert_eq!(stock.report("vgs", "vg_tags,vg_seqno"), [["by-stock".to_owned(), seqno.to_string()]]);
    stock.lvm(&["vgck", "pool-1.a_b"]);
    assert_eq!(site.open().unwrap().find("raw").unwrap().state, VolumeState::Ready);

    stock.lvm(&["lvchange", "--addtag", "tagged", "pool-1.a_b/split"]);
    stock.lvm(&["lvrename", "pool-1.a_b", "split", "renamed"]);
    stock.lvm(&["lvremove", "-y", "pool-1.a_b/raw"]);

    stock.lvm(&["lvcreate", "-an", "-Zn", "-Wn", "-y", "-l", "3", "-n", "Stock", "pool-1.a_b"]);
    stock.lvm(&["lvextend", "-l", "+1", "pool-1.a_b/Stock"]);
    let mut group = site.open().unwrap();
    let names: Vec<String> = group.list().into_iter().map(|volume| volume.name).collect();
    assert_eq!(names, ["web-1_b.c", "renamed", "Stock"]);
    let made = group.find("Stock").unwrap();
    assert_eq!((made.size, &made.state), (ByteLen::mib(16), &VolumeState::Ready));
    assert_eq!(group.volume(made.id).unwrap().geometry().size, made.size);
    let seqno = group.seqno();

    // Many turns of both, so that the ring of texts goes round under both.
    for turn in 0..12 {
        let mut group = site.open().unwrap();
        for _ in 0..25 {
            let id = site.add(&mut group, "turn", 0xb0, 1);
            site.bench.run(group.remove_volume(id, NOW)).unwrap();
        }
        let flag = if turn % 2 == 0 { "--addtag" } else { "--deltag" };
        stock.lvm(&["vgchange", flag, "turned", "pool-1.a_b"]);
    }
    let tags = stock.report("lvs", "lv_name,lv_tags");
    assert!(tags.contains(&vec!["renamed".into(), "tagged".into()]), "{tags:?}");
    let group = site.open().unwrap();
    assert_eq!(u64::from(group.seqno()), u64::from(seqno) + 12 * 51);
    stock.lvm(&["vgck", "pool-1.a_b"]);
}

/// Goal: muskox makes no volume whose name stock tools keep to themselves. Method: `lvcreate` with every name that
/// might be reserved; what it refuses, muskox refuses.
#[test]
fn names_stock_tools_reserve_are_refused() {
    if !ready(&["losetup", "lvcreate", "lvremove"]) {
        return;
    }
    let site = Site::new("oracle-lvm-names");
    let mut group = site.create();
    let stock = site.attach();
    let parts = "cdata cmeta corig cpool cvol imeta iorig mimage mlog pmspare rimage rmeta tdata tmeta vdata vorigin \
                 wcorig extracted mimagetmp edata plain";
    let names = parts.split_whitespace().map(|part| format!("a_{part}"));
    let names = names.chain(["snapshot", "snapshot-1", "pvmove0", "web.1", "0"].map(str::to_owned));
    let (mut refused, mut made) = (0, 0);
    for name in names {
        let options = ["-an", "-Zn", "-Wn", "-y", "-l", "1", "-n", &name, "pool-1.a_b"];
        let stock_refuses = !stock.command(&[&["lvcreate"], &options[..]].concat()).output().unwrap().status.success();
        if !stock_refuses {
            made += 1;
            stock.lvm(&["lvremove", "-y", &format!("pool-1.a_b/{name}")]);
            continue;
        }
        refused += 1;
        let ours = name.parse().unwrap();
        let work = group.create_volume(&ours, VolumeId([9; 16]), EXTENT_LEN, NOW);
        assert!(matches!(site.bench.run(work), Err(VolumeError::NameReserved { .. })), "{name}");
    }
    assert!(refused >= 15 && made >= 3, "{refused} refused, {made} made: the tool did not run");
}

/// Goal: a group made by stock tools is opened, its volumes served under ids derived from theirs, and kept as they
/// were. Method: `pvcreate`, `vgcreate`, and by `vgcfgrestore` of an edited backup volumes that `lvcreate` would not
/// make on one disk.
#[test]
fn muskox_reads_what_stock_tools_wrote() {
    if !ready(&["losetup", "pvcreate", "vgcreate", "vgcfgbackup", "vgcfgrestore", "lvs"]) {
        return;
    }
    let site = Site::new("oracle-lvm-stock");
    let stock = site.attach();
    stock.lvm(&["pvcreate", "-y", &stock.device]);
    assert_eq!(site.open().map(|_| ()), Err(VolumeError::NoGroup), "a physical volume without a group");
    stock.lvm(&["vgcreate", "-s", "1m", "vg0", &stock.device]);
    assert!(site.open().unwrap().list().is_empty());

    let backup = site.scratch.path("vg0.vg").display().to_string();
    stock.lvm(&["vgcfgbackup", "-f", &backup, "vg0"]);
    let text = std::fs::read_to_string(&backup).unwrap();
    let end = text.rfind('}').unwrap();
    std::fs::write(&backup, format!("{}{STOCK_VOLUMES}{}", &text[..end], &text[end..])).unwrap();
    stock.lvm(&["vgcfgrestore", "-f", &backup, "vg0"]);

    let mut group = site.open().unwrap();
    let root = group.find("Root+1").unwrap();
    assert_eq!((root.size, &root.state), (ByteLen::mib(6), &VolumeState::Ready));
    assert!(matches!(group.find("wide").unwrap().state, VolumeState::Foreign(_)));
    assert_eq!(group.free(), group.capacity() - ByteLen::mib(16));
    let disk = group.volume(root.id).unwrap();
    site.bench.run(disk.write(ByteOffset(0), IoBuf::copy_of(&[5; 512]).freeze(), Durability::Fua)).unwrap();
    assert_eq!(std::fs::read(&site.file).unwrap()[(1 << 20) + (3 << 20)], 5, "its first extent is extent 3");

    let before = stock.report("lvs", "lv_name,lv_uuid,lv_size,lv_tags,stripes,seg_pe_ranges");
    site.add(&mut group, "ours", 0xc1, 1);
    let after = stock.report("lvs", "lv_name,lv_uuid,lv_size,lv_tags,stripes,seg_pe_ranges");
    assert_eq!(after.iter().filter(|line| line[0] != "ours").cloned().collect::<Vec<_>>(), before);
    assert_eq!(after.len(), before.len() + 1);
    drop(disk);
    site.bench.run(group.remove_volume(root.id, NOW)).unwrap();
    assert_eq!(stock.report("lvs", "lv_name,lv_size").len(), 2);
}

/// A linear volume in two segments and a striped one, as `vgcfgbackup` writes them.
const STOCK_VOLUMES: &str = r#"
    logical_volumes {
        Root+1 {
            id = "Zz1W1y-SP3R-OLeA-BVbG-iERY-Qri8-TtMxVi"
            status = ["READ", "WRITE", "VISIBLE"]
            flags = []
            tags = ["keep", "me"]
            creation_time = 1700000000
            creation_host = "old"
            segment_count = 2
            segment1 {
                start_extent = 0
                extent_count = 2
                type = "striped"
                stripe_count = 1
                stripes = [ "pv0", 3 ]
            }
            segment2 {
                start_extent = 2
                extent_count = 4
                type = "striped"
                stripe_count = 1
                stripes = [ "pv0", 9 ]
            }
        }
        wide {
            id = "Yz1W1y-SP3R-OLeA-BVbG-iERY-Qri8-TtMxVi"
            status = ["READ", "WRITE", "VISIBLE"]
            flags = []
            segment_count = 1
            segment1 {
                start_extent = 0
                extent_count = 10
                type = "striped"
                stripe_count = 2
                stripe_size = 128
                stripes = [ "pv0", 20, "pv0", 30 ]
            }
        }
    }
"#;
