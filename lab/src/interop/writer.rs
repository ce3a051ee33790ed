//! Writes stamped blocks to a volume until the target dies, and knows what was acknowledged: later every member, read as a file,
//! has to hold that, or a newer write that was on its way.

use crate::disks::cache::Dice;
use crate::verify::client::{Ask, Client};
use crate::verify::stamp::{BLOCK, Found, Stamp, look};
use anyhow::Context;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// In flight at once.
const DEPTH: usize = 16;
/// How long a write may be, in blocks.
const LENGTHS: [u64; 5] = [1, 1, 1, 2, 16];
/// One in so many is durable when it is answered.
const FUA_EVERY: u64 = 8;
/// Some blocks are written again and again.
const HOT_BLOCKS: u64 = 256;
const WAIT: Duration = Duration::from_millis(50);

/// A write that was not answered yet.
struct Flying {
    sequence: u64,
    first: u64,
    count: u64,
}

/// What was written to one volume, over several lives of its target.
pub struct Writer {
    run: u32,
    dice: Dice,
    sequence: u64,
    /// The newest acknowledged write of each block.
    acked: BTreeMap<u64, u64>,
    /// Newer ones that were never answered.
    doubtful: BTreeMap<u64, Vec<u64>>,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Blocks that were acknowledged.
    pub blocks: usize,
    /// Those that do not hold it, and what they hold: the first few.
    pub wrong: Vec<String>,
}

impl Writer {
    /// Nothing was written yet.
    #[must_use]
    pub fn new(run: u32) -> Self {
        let (acked, doubtful) = (BTreeMap::new(), BTreeMap::new());
        Self { run, dice: Dice::new(u64::from(run)), sequence: 0, acked, doubtful }
    }

    /// How many blocks were acknowledged.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.acked.len()
    }

    /// Writes for a time, or until the server is gone.
    ///
    /// # Errors
    /// When there is no server, or it answers an error.
    pub fn write(&mut self, socket: &Path, volume: &str, time: Duration) -> anyhow::Result<()> {
        let mut client = Client::connect(socket, volume)?;
        let blocks = client.size() / BLOCK as u64;
        let (mut flying, mut busy) = (BTreeMap::<u64, Flying>::new(), BTreeSet::<u64>::new());
        let begun = Instant::now();
        loop {
            while flying.len() < DEPTH && begun.elapsed() < time {
                self.ask(&mut client, blocks, &mut flying, &mut busy);
            }
            if flying.is_empty() {
                return Ok(());
            }
            if client.pump(WAIT).is_err() {
                break;
            }
            while let Some(answer) = client.next_answer(|_| Ok(0))? {
                let done = flying.remove(&answer.cookie).context("an answer to nothing")?;
                anyhow::ensure!(answer.error == 0, "write {} was answered with error {}", done.sequence, answer.error);
                for block in done.first..done.first + done.count {
                    self.acked.insert(block, done.sequence);
                    self.doubtful.remove(&block);
                    busy.remove(&block);
                }
            }
        }
        for lost in flying.into_values() {
            for block in lost.first..lost.first + lost.count {
                self.doubtful.entry(block).or_default().push(lost.sequence);
            }
        }
        Ok(())
    }

    fn ask(&mut self, client: &mut Client, blocks: u64, flying: &mut BTreeMap<u64, Flying>, busy: &mut BTreeSet<u64>) {
        let lengths = LENGTHS.len() as u64;
        let (first, count) = loop {
            let span = if self.dice.below(3) == 0 { HOT_BLOCKS.min(blocks) } else { blocks };
            let first = self.dice.below(span);
            let length = usize::try_from(self.dice.below(lengths)).expect("below a length");
            let count = LENGTHS[length].min(blocks - first);
            if !(first..first + count).any(|block| busy.contains(&block)) {
                break (first, count);
            }
        };
        self.sequence += 1;
        let sequence = self.sequence;
        busy.extend(first..first + count);
        flying.insert(sequence, Flying { sequence, first, count });
        let fua = sequence.is_multiple_of(FUA_EVERY);
        let len = u32::try_from(count * BLOCK as u64).expect("a write is short");
        let run = self.run;
        client.ask(Ask::Write { fua }, sequence, first * BLOCK as u64, len, |out| {
            for block in first..first + count {
                let mut bytes = [0; BLOCK];
                Stamp { run, block: u32::try_from(block).expect("a small volume"), sequence }.fill(&mut bytes);
                out.extend(bytes);
            }
        });
    }

    /// Looks for everything in a file that holds the volume from byte `base` on.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn check(&self, file: &Path, base: u64) -> anyhow::Result<Checked> {
        const SHOWN: usize = 4;
        let disk = File::open(file).with_context(|| format!("opening {}", file.display()))?;
        let mut bytes = vec![0; BLOCK];
        let mut wrong = Vec::new();
        for (block, sequence) in &self.acked {
            disk.read_exact_at(&mut bytes, base + block * BLOCK as u64)?;
            let doubtful = self.doubtful.get(block).map(Vec::as_slice).unwrap_or_default();
            let may_be = |found: &Found| match found {
                Found::Stamp(stamp) => {
                    let newer = doubtful.contains(&stamp.sequence);
                    (stamp.run, u64::from(stamp.block)) == (self.run, *block) && (stamp.sequence == *sequence || newer)
                }
                Found::Zeroes | Found::Garbage => false,
            };
            let found = look(&bytes);
            if let Some(other) = found.iter().find(|found| !may_be(found))
                && wrong.len() < SHOWN
            {
                wrong.push(format!("block {block}: write {sequence} was acknowledged, found {other}"));
            }
        }
        Ok(Checked { blocks: self.acked.len(), wrong })
    }
}
