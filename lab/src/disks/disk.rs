//! One faulty disk: its content, the faults switched on, and what becomes of an operation.
//!
//! An operation belongs to the *insertion* it was opened under: pulling the disk, or cutting its power, ends that
//! insertion for good, as unplugging ends an open block device. Operations of an ended insertion fail and apply nothing,
//! however long they were held or delayed.

use super::cache::{Content, Survive};
use super::control::On;
use super::journal::TAG_BYTES;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What an operation does.
#[derive(Debug)]
pub enum Work {
    /// Read so many bytes.
    Read {
        /// From here.
        at: u64,
        /// So many.
        len: usize,
    },
    /// Write.
    Write {
        /// Here.
        at: u64,
        /// This.
        data: Vec<u8>,
        /// Durable when answered.
        fua: bool,
    },
    /// Make all durable.
    Flush,
    /// Make a range read as zeroes.
    Zero {
        /// From here.
        at: u64,
        /// So many bytes.
        len: u64,
    },
}

/// What becomes of an operation that has just arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Do it now.
    Go,
    /// Answer this errno and do nothing.
    Fail(i32),
    /// Keep it until the disk is released.
    Hold,
    /// Do it so many milliseconds later.
    Delay(u64),
}

/// Reads or writes in a range fail, always or so many times.
#[derive(Clone, Debug)]
pub struct Eio {
    /// Which operations.
    pub on: On,
    /// First byte and length; all if absent. A flush has no range and is not spared by one.
    pub range: Option<(u64, u64)>,
    /// How many times still; always if absent.
    pub left: Option<u64>,
}

/// What happened so far: a fault that was switched on but never hit proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Operations answered well.
    pub reads: u64,
    /// See `reads`.
    pub writes: u64,
    /// See `reads`.
    pub flushes: u64,
    /// Operations answered with EIO on command.
    pub failed: u64,
    /// Operations held or delayed on command.
    pub held: u64,
    /// Operations and opens refused because the disk was gone, or pulled since it was opened.
    pub gone: u64,
    /// Sectors lost in power cuts.
    pub sectors_lost: u64,
}

/// A disk.
pub struct Disk {
    /// What it holds.
    pub content: Content,
    /// Grows each time the disk is pulled or its power is cut.
    pub insertion: u64,
    /// Whether it is plugged in.
    pub present: bool,
    /// What happened so far.
    pub counters: Counters,
    folder: PathBuf,
    number: usize,
    block_bytes: u64,
    eio: Vec<Eio>,
    hang: Option<On>,
    delays: Vec<([u8; TAG_BYTES], u64)>,
}

impl Disk {
    /// Opens disk `number`, its content in `folder`.
    ///
    /// # Errors
    /// The backing file's.
    pub fn open(folder: &Path, number: usize, len: u64, block_bytes: u64) -> std::io::Result<Self> {
        let content = Content::open(&folder.join(format!("disk{number}.img")), len)?;
        let (insertion, present, counters) = (1, true, Counters::default());
        let folder = folder.to_owned();
        Ok(Self {
            content,
            insertion,
            present,
            counters,
            folder,
            number,
            block_bytes,
            eio: Vec::new(),
            hang: None,
            delays: Vec::new(),
        })
    }

    /// What becomes of `work`, opened under `insertion`; `direct` if it was opened with O_DIRECT.
    pub fn judge(&mut self, work: &Work, insertion: u64, direct: bool) -> Verdict {
        if self.is_gone(insertion) {
            self.counters.gone += 1;
            return Verdict::Fail(libc::ENODEV);
        }
        let (at, len) = work.range();
        if direct && (at % self.block_bytes != 0 || len % self.block_bytes != 0) {
            return Verdict::Fail(libc::EINVAL);
        }
        if at.checked_add(len).is_none_or(|end| end > self.content.len_bytes()) && !matches!(work, Work::Read { .. }) {
            return Verdict::Fail(libc::ENOSPC);
        }
        if self.hits_eio(work) {
            self.counters.failed += 1;
            return Verdict::Fail(libc::EIO);
        }
        if self.hang.is_some_and(|on| on.covers(work)) {
            self.counters.held += 1;
            return Verdict::Hold;
        }
        if let Some(delay_ms) = self.delay_of(work) {
            self.counters.held += 1;
            return Verdict::Delay(delay_ms);
        }
        Verdict::Go
    }

    /// Does it; what was read, or an errno.
    ///
    /// # Errors
    /// ENODEV if the insertion is over, else what the backing file said.
    pub fn perform(&mut self, work: &Work, insertion: u64) -> Result<Vec<u8>, i32> {
        if self.is_gone(insertion) {
            self.counters.gone += 1;
            return Err(libc::ENODEV);
        }
        let done = match work {
            Work::Read { at, len } => {
                let left = self.content.len_bytes().saturating_sub(*at);
                let mut bytes = vec![0; (*len).min(usize::try_from(left).unwrap_or(usize::MAX))];
                self.counters.reads += 1;
                self.content.read(*at, &mut bytes).map(|()| bytes)
            }
            Work::Write { at, data, fua } => {
                self.counters.writes += 1;
                self.content.write(*at, data, *fua).map(|()| Vec::new())
            }
            Work::Zero { at, len } => {
                self.counters.writes += 1;
                self.content.zero(*at, *len).map(|()| Vec::new())
            }
            Work::Flush => {
                self.counters.flushes += 1;
                self.content.flush().map(|()| Vec::new())
            }
        };
        done.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// Switches an error on.
    pub fn fail(&mut self, eio: Eio) {
        self.eio.push(eio);
    }

    /// Holds operations from now on.
    pub fn hang(&mut self, on: On) {
        self.hang = Some(on);
    }

    /// Holds nothing any more.
    pub fn release(&mut self) {
        self.hang = None;
    }

    /// Delays writes that carry `tag`; zero ends it.
    pub fn delay(&mut self, tag: [u8; TAG_BYTES], delay_ms: u64) {
        self.delays.retain(|(known, _)| *known != tag);
        if delay_ms > 0 {
            self.delays.push((tag, delay_ms));
        }
    }

    /// Switches every fault off but for being gone.
    pub fn heal(&mut self) {
        self.eio.clear();
        self.hang = None;
        self.delays.clear();
    }

    /// Pulls the disk.
    pub fn vanish(&mut self) {
        self.present = false;
        self.insertion += 1;
    }

    /// Plugs the disk in again, perhaps with an older content.
    ///
    /// # Errors
    /// The snapshot's.
    pub fn come_back(&mut self, stale: Option<&str>) -> anyhow::Result<()> {
        if let Some(name) = stale {
            self.content.restore(&self.snapshot_path(name)?)?;
        }
        self.present = true;
        Ok(())
    }

    /// Keeps the content of now under a name.
    ///
    /// # Errors
    /// The files'.
    pub fn snapshot(&mut self, name: &str) -> anyhow::Result<()> {
        Ok(self.content.save(&self.snapshot_path(name)?)?)
    }

    /// Cuts the power: un-flushed writes are lost, every open handle is over. The power is back at once.
    ///
    /// # Errors
    /// The backing file's.
    pub fn power_cut(&mut self, survive: Survive) -> std::io::Result<usize> {
        self.insertion += 1;
        let lost = self.content.power_cut(survive)?;
        self.counters.sectors_lost += lost as u64;
        Ok(lost)
    }

    fn snapshot_path(&self, name: &str) -> anyhow::Result<PathBuf> {
        let is_plain = !name.is_empty() && name.chars().all(|char| char.is_ascii_alphanumeric() || char == '-');
        anyhow::ensure!(is_plain, "'{name}' is no name: use letters, digits and '-'");
        Ok(self.folder.join(format!("disk{}.{name}.snapshot", self.number)))
    }

    fn is_gone(&self, insertion: u64) -> bool {
        !self.present || insertion != self.insertion
    }

    fn hits_eio(&mut self, work: &Work) -> bool {
        let (at, len) = work.range();
        let hits = |eio: &Eio| {
            let overlaps = |(from, many): (u64, u64)| at < from.saturating_add(many) && from < at.saturating_add(len);
            eio.on.covers(work) && (matches!(work, Work::Flush) || eio.range.is_none_or(overlaps))
        };
        let Some(index) = self.eio.iter().position(hits) else { return false };
        if let Some(left) = &mut self.eio[index].left {
            *left -= 1;
            if *left == 0 {
                self.eio.remove(index);
            }
        }
        true
    }

    fn delay_of(&self, work: &Work) -> Option<u64> {
        let Work::Write { data, .. } = work else { return None };
        let carries = |tag: &[u8; TAG_BYTES]| data.chunks(512).any(|sector| sector.starts_with(tag));
        self.delays.iter().find(|(tag, _)| carries(tag)).map(|(_, delay_ms)| *delay_ms)
    }
}

impl Work {
    /// First byte and length; a flush has none.
    pub fn range(&self) -> (u64, u64) {
        match self {
            Self::Read { at, len } => (*at, *len as u64),
            Self::Write { at, data, .. } => (*at, data.len() as u64),
            Self::Zero { at, len } => (*at, *len),
            Self::Flush => (0, 0),
        }
    }
}

impl On {
    fn covers(self, work: &Work) -> bool {
        match self {
            Self::All => true,
            Self::Reads => matches!(work, Work::Read { .. }),
            Self::Writes => matches!(work, Work::Write { .. } | Work::Zero { .. }),
            Self::Flush => matches!(work, Work::Flush),
        }
    }
}
