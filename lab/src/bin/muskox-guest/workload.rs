//! The workload: record after record, first on the root disk, then on the canary, each flushed; then the referee hears
//! of it. Only what the referee heard counts as acknowledged, and it hears of nothing that is not durable.

use anyhow::Context;
use lab::demo::guest::config::Config;
use lab::demo::guest::record::{Boot, RECORD_BYTES, Record};
use lab::demo::guest::{CANARY_MAGIC, RECORDS_MAX, RECORDS_PATH, SLOTS_AT, slot_at, words};
use std::fs::{File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How far the workload may be behind its pace and still make up for it.
const MAKE_UP: Duration = Duration::from_millis(500);

/// Works until a disk refuses.
pub fn run(boot: Boot, config: &Config) -> anyhow::Result<()> {
    let mut records = Records::open(Path::new(RECORDS_PATH))?;
    let canary = find_canary(config.canary.as_deref())?.map(|path| open_canary(&path)).transpose()?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("opening a socket")?;
    let period = Duration::from_secs(1) / config.rate;
    let mut next = Instant::now();
    loop {
        let record = Record { n: records.next, boot };
        let (bytes, crc) = record.encode();
        records.append(&bytes)?;
        if let Some(canary) = &canary {
            let written = canary.write_all_at(&bytes, slot_at(record.n)).and_then(|()| canary.sync_data());
            written.with_context(|| format!("writing record {} to the canary", record.n))?;
        }
        let ack = words::Ack { boot, n: record.n, crc };
        // A record whose acknowledgement is lost was not acknowledged, that is all.
        let _ = socket.send_to(ack.to_string().as_bytes(), config.referee);
        // Paced; what a slow moment cost is made up for, a long pause is not.
        let now = Instant::now();
        next = (next + period).max(now.checked_sub(MAKE_UP).unwrap_or(now));
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// The file of records: record n is at byte n * 512. It grows by a chunk of zeroes at a time, so that most records cost
/// the guest's file system no transaction of its journal (several on an emulated CPU would be all it can do), and some do.
struct Records {
    file: File,
    next: u64,
    /// How many records the file has room for.
    room: u64,
}

/// More than one transaction a second at the usual rate.
const CHUNK_RECORDS: usize = 32;

impl Records {
    /// Opens it and cuts off what a crash left behind the last whole record: nobody was told of that.
    fn open(path: &Path) -> anyhow::Result<Self> {
        let folder = path.parent().expect("a file is in a folder");
        let existed = path.exists();
        std::fs::create_dir_all(folder)?;
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = opened.with_context(|| format!("opening {}", path.display()))?;
        let next = after_last_whole(&file).with_context(|| format!("reading {}", path.display()))?;
        file.set_len(next * RECORD_BYTES as u64)?;
        file.sync_all()?;
        if !existed {
            File::open(folder)?.sync_all()?;
        }
        Ok(Self { file, next, room: next })
    }

    fn append(&mut self, bytes: &[u8; RECORD_BYTES]) -> anyhow::Result<()> {
        anyhow::ensure!(self.next < RECORDS_MAX, "the file of records is full");
        if self.next == self.room {
            let zeroes = [0; RECORD_BYTES * CHUNK_RECORDS];
            let grown = self.file.write_all_at(&zeroes, self.room * RECORD_BYTES as u64);
            grown.and_then(|()| self.file.sync_data()).context("growing the file of records")?;
            self.room += CHUNK_RECORDS as u64;
        }
        let written = self.file.write_all_at(bytes, self.next * RECORD_BYTES as u64);
        written.and_then(|()| self.file.sync_data()).with_context(|| format!("writing record {}", self.next))?;
        self.next += 1;
        Ok(())
    }
}

fn after_last_whole(file: &File) -> io::Result<u64> {
    let mut next = file.metadata()?.len() / RECORD_BYTES as u64;
    let mut bytes = [0; RECORD_BYTES];
    while next > 0 {
        file.read_exact_at(&mut bytes, (next - 1) * RECORD_BYTES as u64)?;
        if Record::decode(&bytes).is_ok_and(|(record, _)| record.n == next - 1) {
            break;
        }
        next -= 1;
    }
    Ok(next)
}

/// The disk with this serial number; without one, the first that has neither partitions nor the seed.
fn find_canary(serial: Option<&str>) -> anyhow::Result<Option<PathBuf>> {
    let mut names: Vec<String> = std::fs::read_dir("/sys/block")?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("vd"))
        .collect();
    names.sort();
    let serial_of = |name: &str| std::fs::read_to_string(format!("/sys/block/{name}/serial")).unwrap_or_default();
    let is_bare = |name: &str| !Path::new(&format!("/sys/block/{name}/{name}1")).exists();
    let found = match serial {
        Some(serial) => Some(names.into_iter().find(|name| serial_of(name).trim() == serial))
            .map(|found| found.with_context(|| format!("no disk has the canary's serial number {serial}")))
            .transpose()?,
        None => names.into_iter().find(|name| is_bare(name) && serial_of(name).trim() != "cidata"),
    };
    Ok(found.map(|name| Path::new("/dev").join(name)))
}

/// Opens it, and marks it on the first time. A disk that holds something else is refused.
fn open_canary(path: &Path) -> anyhow::Result<File> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let disk = opened.with_context(|| format!("opening the canary {}", path.display()))?;
    let mut head = vec![0; usize::try_from(SLOTS_AT).expect("a page")];
    disk.read_exact_at(&mut head, 0).with_context(|| format!("reading the canary {}", path.display()))?;
    if head.starts_with(CANARY_MAGIC) {
        return Ok(disk);
    }
    anyhow::ensure!(head.iter().all(|byte| *byte == 0), "{} holds something: it is no canary", path.display());
    head[..CANARY_MAGIC.len()].copy_from_slice(CANARY_MAGIC);
    disk.write_all_at(&head, 0).and_then(|()| disk.sync_data()).context("marking the canary")?;
    Ok(disk)
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: after a crash the file goes on behind its last whole record, and loses nothing before it. Method: files
    /// with a torn, a blank, a foreign and half a record at their end.
    #[test]
    fn it_goes_on_behind_the_last_whole_record() {
        let path = std::env::temp_dir().join(format!("muskox-guest-{}/records", std::process::id()));
        let boot = Boot(7);
        let record = |n: u64| Record { n, boot }.encode().0;
        let whole = [record(0), record(1)].concat();
        let mut torn = record(2);
        torn[300] ^= 1;
        let ends: [&[u8]; 5] = [&[], &torn, &[0; 512], &record(9), &record(2)[..100]];
        for end in ends {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, [&whole, end].concat()).unwrap();
            let mut records = Records::open(&path).unwrap();
            assert_eq!(records.next, 2);
            records.append(&record(2)).unwrap();
            drop(records);
            let zeroes = vec![0; (CHUNK_RECORDS - 1) * RECORD_BYTES];
            assert_eq!(std::fs::read(&path).unwrap(), [&whole[..], &record(2), &zeroes].concat());
        }
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }

    /// Goal: a canary is marked once, and a disk with something on it is left alone. Method: files as disks.
    #[test]
    fn a_canary_overwrites_nobodys_disk() {
        let path = std::env::temp_dir().join(format!("muskox-canary-{}", std::process::id()));
        std::fs::write(&path, vec![0; 1 << 16]).unwrap();
        open_canary(&path).unwrap().write_all_at(&[1], SLOTS_AT).unwrap();
        open_canary(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[4096], 1);
        let foreign = [vec![0; 1000], vec![1; 1 << 16]].concat();
        std::fs::write(&path, &foreign).unwrap();
        assert!(open_canary(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), foreign);
        std::fs::remove_file(&path).unwrap();
    }
}
