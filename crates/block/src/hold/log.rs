//! The un-flushed log: what the target has answered but may lose with its power.
//!
//! Newest content per range, no two entries overlap. Entries share the guest's buffers; one that needs a smaller buffer is
//! copied into it. What the log counts is at least what it keeps alive: each entry's whole buffer.

use crate::{IoBuf, IoData};
use std::collections::BTreeMap;
use units::{ByteLen, ByteOffset};

/// What stands in a range.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Data(IoData),
    /// This many zeroes.
    Zeroes(u64),
}

/// When an entry was answered, among the log's own events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// What an entry takes beside its data: its place in the tree, with room.
const ENTRY_BYTES: u64 = 128;

#[derive(Clone)]
struct Entry {
    content: Content,
    answered: Mark,
}

/// Answered, not yet durable writes of one volume.
#[derive(Default)]
pub struct UnflushedLog {
    entries: BTreeMap<u64, Entry>,
    clock: u64,
    data_bytes: u64,
    buffer_bytes: u64,
}

impl Content {
    /// How many bytes of the disk.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Zeroes(len) => *len,
        }
    }

    /// Whether it is nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn data_bytes(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Zeroes(_) => 0,
        }
    }

    fn memory(&self) -> u64 {
        match self {
            Self::Data(data) => data.memory(),
            Self::Zeroes(_) => 0,
        }
    }

    fn cut(&self, start: u64, len: u64) -> Self {
        match self {
            Self::Zeroes(_) => Self::Zeroes(len),
            Self::Data(data) => {
                let in_memory = |n: u64| usize::try_from(n).expect("a part of a buffer in memory");
                let part = data.slice(in_memory(start), in_memory(len));
                let wasteful = IoBuf::memory_of(part.len()) < data.memory();
                Self::Data(if wasteful { IoBuf::copy_of(&part).freeze() } else { part })
            }
        }
    }
}

impl UnflushedLog {
    /// A cached write was answered.
    pub fn answered(&mut self, at: ByteOffset, content: Content) {
        self.forget(at, ByteLen(content.len()));
        if content.is_empty() {
            return;
        }
        self.clock += 1;
        self.count(&content);
        self.entries.insert(at.0, Entry { content, answered: Mark(self.clock) });
    }

    /// The range is durable in a newer form, or its content is not needed any more.
    pub fn forget(&mut self, at: ByteOffset, len: ByteLen) {
        let (start, end) = (at.0, at.0 + len.0);
        let touched: Vec<u64> = self
            .entries
            .range(..end)
            .rev()
            .take_while(|(from, entry)| *from + entry.content.len() > start)
            .map(|(from, _)| *from)
            .collect();
        for from in touched {
            let entry = self.entries.remove(&from).expect("just seen");
            self.data_bytes -= entry.content.data_bytes();
            self.buffer_bytes -= entry.content.memory();
            let until = from + entry.content.len();
            if from < start {
                self.keep_part(&entry, from, 0, start - from);
            }
            if end < until {
                self.keep_part(&entry, end, end - from, until - end);
            }
        }
    }

    fn keep_part(&mut self, entry: &Entry, at: u64, start: u64, len: u64) {
        let content = entry.content.cut(start, len);
        self.count(&content);
        self.entries.insert(at, Entry { content, answered: entry.answered });
    }

    fn count(&mut self, content: &Content) {
        self.data_bytes += content.data_bytes();
        self.buffer_bytes += content.memory();
    }

    /// Everything answered so far is at or before this mark: taken when a flush starts.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.clock)
    }

    /// A flush that started at `mark` was answered: what was answered before it is durable.
    pub fn flushed(&mut self, mark: Mark) {
        self.entries.retain(|_, entry| entry.answered > mark);
        self.data_bytes = self.entries.values().map(|entry| entry.content.data_bytes()).sum();
        self.buffer_bytes = self.entries.values().map(|entry| entry.content.memory()).sum();
    }

    /// Bytes of the guest's buffers that it asks to keep.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Bytes of memory it takes, its own included: a range of zeroes has no data and is not free.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.buffer_bytes + self.entries.len() as u64 * ENTRY_BYTES
    }

    /// How many ranges it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether everything answered is durable.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What has to be written again, in order of place.
    #[must_use]
    pub fn contents(&self) -> Vec<(ByteOffset, Content)> {
        self.entries.iter().map(|(at, entry)| (ByteOffset(*at), entry.content.clone())).collect()
    }
}

#[cfg(test)]
mod test {
    #![expect(clippy::cast_possible_truncation, reason = "places of a 32-block picture")]
    use super::*;

    /// The log as a picture: one letter a block of 512 bytes, `0` zeroes, `.` nothing.
    fn picture(log: &UnflushedLog, blocks: usize) -> String {
        let mut shown = vec!['.'; blocks];
        for (at, content) in log.contents() {
            let first = usize::try_from(at.0 / 512).expect("small");
            for n in 0..usize::try_from(content.len() / 512).expect("small") {
                assert_eq!(shown[first + n], '.', "entries overlap");
                shown[first + n] = match &content {
                    Content::Data(data) => char::from(data[n * 512]),
                    Content::Zeroes(_) => '0',
                };
            }
        }
        shown.into_iter().collect()
    }

    fn write(log: &mut UnflushedLog, block: u64, blocks: usize, letter: u8) {
        log.answered(ByteOffset(block * 512), Content::Data(IoBuf::copy_of(&vec![letter; blocks * 512]).freeze()));
    }

    #[test]
    fn the_newest_content_of_each_range_stands() {
        let mut log = UnflushedLog::default();
        write(&mut log, 1, 6, b'a');
        write(&mut log, 3, 2, b'b');
        assert_eq!(picture(&log, 8), ".aabbaa.");
        log.answered(ByteOffset(0), Content::Zeroes(1024));
        assert_eq!(picture(&log, 8), "00abbaa.");
        log.forget(ByteOffset(5 * 512), ByteLen(512));
        assert_eq!(picture(&log, 8), "00abb.a.");
        write(&mut log, 0, 8, b'c');
        assert_eq!(picture(&log, 8), "cccccccc");
        assert_eq!((log.len(), log.data_bytes()), (1, 4096));
    }

    #[test]
    fn a_flush_covers_what_was_answered_before_it_started() {
        let mut log = UnflushedLog::default();
        write(&mut log, 0, 4, b'a');
        let mark = log.mark();
        write(&mut log, 2, 1, b'b');
        log.flushed(mark);
        assert_eq!(picture(&log, 4), "..b.");
        assert_eq!(log.data_bytes(), 512);
    }

    /// DA12. Goal: the bound is on memory, not on what the guest wrote: a block of 512 bytes takes a page. Method: a thousand blocks, each
    /// counted at what its buffer takes; cut again and again, no buffer is kept that is larger than it has to be.
    #[test]
    fn memory_is_what_the_buffers_take() {
        let mut log = UnflushedLog::default();
        for block in 0..1000 {
            write(&mut log, 2 * block, 1, b'a');
        }
        assert_eq!((log.data_bytes(), log.memory()), (512_000, 1000 * (4096 + ENTRY_BYTES)));
        let mut log = UnflushedLog::default();
        write(&mut log, 0, 64, b'a');
        for blocks in [40, 24, 16, 10, 6] {
            log.forget(ByteOffset(blocks * 512), ByteLen(64 * 512));
            let kept = IoBuf::memory_of(usize::try_from(blocks * 512).expect("small"));
            assert_eq!(log.memory(), kept + ENTRY_BYTES, "{blocks} blocks");
        }
    }

    /// Goal: small remains do not keep large buffers alive. Method: a cut under half must have its own memory.
    #[test]
    fn small_remains_are_copied() {
        let mut log = UnflushedLog::default();
        let data = IoBuf::copy_of(&[7; 8192]).freeze();
        log.answered(ByteOffset(0), Content::Data(data.clone()));
        log.forget(ByteOffset(512), ByteLen(7680));
        let Content::Data(kept) = &log.contents()[0].1 else { panic!("data was written") };
        assert_eq!(kept.len(), 512);
        assert_ne!(kept.as_ptr(), data.as_ptr());
    }

    /// Goal: the log equals a byte-wise model. Method: seeded random events, compared after each.
    #[test]
    fn random_events_agree_with_a_block_wise_model() {
        const BLOCKS: u64 = 32;
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        for _ in 0..200 {
            let mut log = UnflushedLog::default();
            let mut model: Vec<(char, u64)> = vec![('.', 0); BLOCKS as usize];
            let mut flushing: Option<(Mark, u64)> = None;
            for step in 1..60_u64 {
                let at = next(BLOCKS);
                let len = 1 + next(BLOCKS - at);
                let place = at as usize..(at + len) as usize;
                match next(6) {
                    0..=2 => {
                        let letter = b'a' + (step % 26) as u8;
                        write(&mut log, at, len as usize, letter);
                        model[place].fill((char::from(letter), step));
                    }
                    3 => {
                        log.answered(ByteOffset(at * 512), Content::Zeroes(len * 512));
                        model[place].fill(('0', step));
                    }
                    4 => {
                        log.forget(ByteOffset(at * 512), ByteLen(len * 512));
                        model[place].fill(('.', 0));
                    }
                    _ => match flushing.take() {
                        None => flushing = Some((log.mark(), step)),
                        Some((mark, before)) => {
                            log.flushed(mark);
                            model.iter_mut().filter(|block| block.1 < before).for_each(|block| *block = ('.', 0));
                        }
                    },
                }
                let expect: String = model.iter().map(|block| block.0).collect();
                assert_eq!(picture(&log, BLOCKS as usize), expect, "step {step}");
            }
        }
    }
}
