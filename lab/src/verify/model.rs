//! What a disk may answer: thinking code, told when a write or read begins and ends.
//!
//! Per block a register with at most one write in flight, as a guest's page cache keeps it:
//!
//! ```text
//!            begin_write            end_write
//! settled: A ───────────▶ A, flying: B ───────────▶ settled: B
//!                           │ a read saw B: B has landed, A may not come back
//! ```
//! A read may return what was allowed when it began, or anything begun since. A write that is being repeated after a
//! reconnect is still the same write in flight. While a write is in flight its sectors may be mixed with the older
//! ones (a disk is atomic per sector); once it is answered they may not.

use super::stamp::{BLOCK, Found, SECTOR, Stamp, look};
use serde::Serialize;
use std::ops::Range;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    /// An answered write is not there, and nobody has ever seen it.
    LostWrite,
    /// An older value came back after a newer one was read (B-11).
    Overtaken,
    /// Sectors of different writes in a block that nobody is writing.
    Torn,
    /// What nobody wrote there.
    Foreign,
    /// An error was answered, or made up.
    Error,
    /// No answer within the bound.
    Silence,
}

/// Something that must never happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// What went wrong.
    pub wrong: Wrong,
    /// In which block; none if it is about a flush or the connection.
    pub block: Option<u64>,
    /// What would have been right.
    pub expected: String,
    /// What came.
    pub got: String,
    /// When, in milliseconds since the load began.
    pub at_ms: u64,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let wrong = match self.wrong {
            Wrong::LostWrite => "an answered write is lost",
            Wrong::Overtaken => "an older value came back",
            Wrong::Torn => "a block is torn",
            Wrong::Foreign => "a block holds what nobody wrote there",
            Wrong::Error => "an error was answered",
            Wrong::Silence => "no answer within the bound",
        };
        write!(formatter, "{wrong}: at {} ms", self.at_ms)?;
        if let Some(block) = self.block {
            write!(formatter, ", block {block} (byte {})", block * BLOCK as u64)?;
        }
        write!(formatter, ": expected {}, got {}", self.expected, self.got)
    }
}

/// One block's register. A sequence of zero means that nothing is known: any content is right.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    settled: u64,
    /// A read has returned the settled value.
    confirmed: bool,
    flying: Option<u64>,
    /// A read has returned the flying value.
    landed: bool,
}

/// The whole disk.
pub struct Model {
    run: u32,
    blocks: Vec<Block>,
    /// The sequence that the next write will get.
    next: u64,
    /// Writes in flight may land and be lost again.
    storms: bool,
}

/// A read in flight: what it may return.
pub struct Reading {
    first: u64,
    began: Vec<Block>,
    /// Writes from here on began after it.
    next: u64,
}

impl Model {
    /// A disk of `blocks` of which nothing is known.
    pub fn new(run: u32, blocks: usize) -> Self {
        Self { run, blocks: vec![Block::default(); blocks], next: 1, storms: false }
    }

    /// How many blocks it has.
    pub fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// While the storage dies, a write that nobody answered may be read once and be gone until it is repeated: no disk
    /// promises more, and no guest reads what it is writing. `false` when it is over.
    pub fn storm(&mut self, rages: bool) {
        self.storms = rages;
        self.blocks.iter_mut().for_each(|block| block.landed = false);
    }

    /// Whether nobody is writing there.
    pub fn may_write(&self, blocks: &Range<u64>) -> bool {
        self.blocks[range(blocks)].iter().all(|block| block.flying.is_none())
    }

    /// A write of these blocks begins; its sequence.
    pub fn begin_write(&mut self, blocks: &Range<u64>) -> u64 {
        assert!(self.may_write(blocks), "one write at a time in each block");
        let sequence = self.next;
        self.next += 1;
        for block in &mut self.blocks[range(blocks)] {
            (block.flying, block.landed) = (Some(sequence), false);
        }
        sequence
    }

    /// It was answered well. (One that was answered with an error stays in flight for ever: nobody knows.)
    pub fn end_write(&mut self, blocks: &Range<u64>) {
        for block in &mut self.blocks[range(blocks)] {
            let settled = block.flying.expect("this write is in flight");
            *block = Block { settled, confirmed: block.landed, flying: None, landed: false };
        }
    }

    /// What such a write puts on the disk.
    pub fn payload(&self, blocks: &Range<u64>, sequence: u64, into: &mut Vec<u8>) {
        for block in blocks.clone() {
            let start = into.len();
            into.resize(start + BLOCK, 0);
            self.stamp(block, sequence).fill(&mut into[start..]);
        }
    }

    /// A read of these blocks begins.
    pub fn begin_read(&self, blocks: &Range<u64>) -> Reading {
        Reading { first: blocks.start, began: self.blocks[range(blocks)].to_vec(), next: self.next }
    }

    /// It returned `data`; what is wrong with that.
    pub fn end_read(&mut self, reading: &Reading, data: &[u8]) -> Vec<Violation> {
        assert_eq!(data.len(), reading.began.len() * BLOCK);
        let each = reading.began.iter().zip(data.chunks_exact(BLOCK)).zip(reading.first..);
        each.filter_map(|((began, data), block)| self.judge(block, began, reading.next, data)).collect()
    }

    fn judge(&mut self, number: u64, began: &Block, next: u64, data: &[u8]) -> Option<Violation> {
        if began.settled == 0 {
            return None;
        }
        let found = look(data);
        let run = self.run;
        let ours = |found: &Found| match found {
            Found::Stamp(stamp) if stamp.run == run && u64::from(stamp.block) == number => Some(stamp.sequence),
            _ => None,
        };
        let (storms, landed) = (self.storms, began.landed && !self.storms);
        let allowed = |sequence: u64| {
            (sequence == began.settled && !landed) || Some(sequence) == began.flying || sequence >= next
        };
        let now = &mut self.blocks[range(&(number..number + 1))][0];
        let whole = found.iter().all(|sector| *sector == found[0]);
        let is_written = began.flying.is_some() || now.flying.is_some() || now.settled != began.settled;
        if found.iter().all(|sector| ours(sector).is_some_and(allowed)) && (whole || is_written) {
            if whole {
                let sequence = ours(&found[0]);
                now.confirmed |= sequence == Some(now.settled);
                now.landed |= !storms && now.flying.is_some() && sequence == now.flying;
            }
            return None;
        }
        let older = found.iter().filter_map(ours).any(|sequence| !allowed(sequence));
        let wrong = match () {
            () if found.iter().any(|sector| ours(sector).is_none()) => Wrong::Foreign,
            () if !whole && !older => Wrong::Torn,
            () if landed || began.confirmed => Wrong::Overtaken,
            () => Wrong::LostWrite,
        };
        let expected = match began.flying {
            None => format!("write {}", began.settled),
            Some(flying) if landed => format!("write {flying}, which was read before"),
            Some(flying) => format!("write {} or write {flying}", began.settled),
        };
        Some(Violation { wrong, block: Some(number), expected, got: describe(&found), at_ms: 0 })
    }

    fn stamp(&self, block: u64, sequence: u64) -> Stamp {
        let block = u32::try_from(block).expect("the load's disk has fewer than 2^32 blocks");
        Stamp { run: self.run, block, sequence }
    }
}

/// `write 5` if all sectors agree, else the sectors of each.
fn describe(found: &[Found]) -> String {
    let mut parts: Vec<(Found, Range<usize>)> = Vec::new();
    for (number, sector) in found.iter().enumerate() {
        match parts.last_mut().filter(|(last, _)| last == sector) {
            Some((_, sectors)) => sectors.end = number + 1,
            None => parts.push((*sector, number..number + 1)),
        }
    }
    let part = |(found, sectors): &(Found, Range<usize>)| match parts.len() {
        1 => found.to_string(),
        _ => format!("bytes {}..{} {found}", sectors.start * SECTOR, sectors.end * SECTOR),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(", ")
}

fn range(blocks: &Range<u64>) -> Range<usize> {
    let index = |number| usize::try_from(number).expect("usize has 64 bits");
    index(blocks.start)..index(blocks.end)
}

#[cfg(test)]
mod test {
    use super::*;

    const ALL: Range<u64> = 0..1;

    struct Disk {
        model: Model,
    }

    impl Disk {
        /// One block, on which write 1 is settled.
        fn new() -> Self {
            let mut model = Model::new(5, 1);
            assert_eq!(model.begin_write(&ALL), 1);
            model.end_write(&ALL);
            Self { model }
        }

        fn data(&self, sequence: u64) -> Vec<u8> {
            let mut data = Vec::new();
            self.model.payload(&ALL, sequence, &mut data);
            data
        }

        fn returns(&mut self, sequence: u64) -> Option<Wrong> {
            self.gives(&self.data(sequence))
        }

        fn gives(&mut self, data: &[u8]) -> Option<Wrong> {
            let reading = self.model.begin_read(&ALL);
            self.model.end_read(&reading, data).first().map(|violation| violation.wrong)
        }

        fn mixed(&self, first: u64, second: u64) -> Vec<u8> {
            [&self.data(first)[..2048], &self.data(second)[2048..]].concat()
        }
    }

    #[test]
    fn an_answered_write_is_what_is_read() {
        let mut disk = Disk::new();
        assert_eq!(disk.returns(1), None);
        disk.model.begin_write(&ALL);
        disk.model.end_write(&ALL);
        assert_eq!(disk.returns(1), Some(Wrong::LostWrite), "nobody has seen write 2");
        assert_eq!(disk.returns(2), None);
        assert_eq!(disk.returns(1), Some(Wrong::Overtaken), "write 2 was seen");
        assert_eq!(disk.gives(&[0; BLOCK]), Some(Wrong::Foreign));
        assert_eq!(disk.gives(&disk.mixed(1, 2)), Some(Wrong::Overtaken));
    }

    #[test]
    fn a_write_in_flight_may_be_there_or_not_until_it_was_seen() {
        let mut disk = Disk::new();
        disk.model.begin_write(&ALL);
        for _ in 0..3 {
            assert_eq!(disk.returns(1), None);
        }
        assert_eq!(disk.gives(&disk.mixed(1, 2)), None);
        assert_eq!(disk.returns(1), None, "a mixed block has not landed");
        assert_eq!(disk.returns(2), None);
        assert_eq!(disk.returns(1), Some(Wrong::Overtaken));
        disk.model.end_write(&ALL);
        assert_eq!(disk.returns(2), None);
    }

    #[test]
    fn in_a_storm_an_unanswered_write_may_come_and_go_but_an_answered_one_not() {
        let mut disk = Disk::new();
        disk.model.begin_write(&ALL);
        assert_eq!(disk.returns(2), None);
        disk.model.storm(true);
        for sequence in [1, 2, 1] {
            assert_eq!(disk.returns(sequence), None);
        }
        disk.model.end_write(&ALL);
        assert_eq!(disk.returns(1), Some(Wrong::LostWrite));
        disk.model.storm(false);
        assert_eq!(disk.returns(2), None);
        assert_eq!(disk.returns(1), Some(Wrong::Overtaken));
    }

    #[test]
    fn a_slow_read_may_return_what_was_written_meanwhile() {
        let mut disk = Disk::new();
        let reading = disk.model.begin_read(&ALL);
        for _ in 0..3 {
            disk.model.begin_write(&ALL);
            disk.model.end_write(&ALL);
        }
        for sequence in 1..=4 {
            let data = disk.data(sequence);
            assert_eq!(disk.model.end_read(&reading, &data), [], "write {sequence}");
        }
        let mixed = disk.mixed(2, 3);
        assert_eq!(disk.model.end_read(&reading, &mixed), []);
        assert_eq!(disk.returns(3), Some(Wrong::Overtaken));
    }

    #[test]
    fn a_block_at_rest_is_whole_and_nobody_elses() {
        let mut disk = Disk::new();
        disk.model.begin_write(&ALL);
        disk.model.end_write(&ALL);
        assert_eq!(disk.gives(&disk.mixed(2, 1)), Some(Wrong::LostWrite));
        let mut other = vec![0; BLOCK];
        for (run, block) in [(6, 0), (5, 1)] {
            Stamp { run, block, sequence: 2 }.fill(&mut other);
            assert_eq!(disk.gives(&other), Some(Wrong::Foreign));
        }
        let mut data = disk.data(2);
        data[700] ^= 1;
        assert_eq!(disk.gives(&data), Some(Wrong::Foreign));
        let text = disk.model.end_read(&disk.model.begin_read(&ALL), &data)[0].to_string();
        assert!(text.contains("bytes 512..1024 bytes that no write"), "{text}");
    }

    #[test]
    fn nothing_is_expected_of_what_was_never_written() {
        let mut model = Model::new(1, 2);
        let reading = model.begin_read(&(0..2));
        assert_eq!(model.end_read(&reading, &[9; 2 * BLOCK]), []);
        model.begin_write(&(1..2));
        assert!(model.may_write(&(0..1)) && !model.may_write(&(0..2)));
    }
}
