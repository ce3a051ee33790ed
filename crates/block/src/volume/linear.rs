//! A linear volume: runs of the lower disk, one after the other, worn as a disk.
//!
//! Requests inside one run go straight to the lower disk: no copy, no allocation. A request over a border is split;
//! its parts run at the same time and all end before it is answered. Neighbouring runs are one, so borders are rare.

use crate::device::{BlockDevice, DeviceError, Disk, Durability, Geometry, IoFuture};
use crate::runtime::{Rt, run_to_end};
use crate::{IoBuf, IoData};
use futures_util::future::join_all;
use std::rc::Rc;
use units::{ByteLen, ByteOffset};

/// A piece of the volume that is in one piece on the lower disk too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins in the volume.
    pub at: ByteOffset,
    /// How long it is.
    pub len: ByteLen,
    /// Where it begins on the lower disk.
    pub lower: ByteOffset,
}

/// Where the volume's bytes are. Whoever holds one keeps the volume from being removed.
#[derive(Debug, PartialEq, Eq)]
pub struct Map {
    pieces: Vec<Piece>,
    size: ByteLen,
}

impl Map {
    /// The map of the lower ranges (start, length), in the order of the volume.
    pub fn new(lower: impl IntoIterator<Item = (ByteOffset, ByteLen)>) -> Self {
        let (mut pieces, mut size): (Vec<Piece>, ByteLen) = (Vec::new(), ByteLen(0));
        for (start, len) in lower {
            match pieces.last_mut() {
                Some(last) if last.lower + last.len == start => last.len = last.len + len,
                _ => pieces.push(Piece { at: ByteOffset(size.0), len, lower: start }),
            }
            size = size + len;
        }
        Self { pieces, size }
    }

    /// How long the volume is.
    pub fn size(&self) -> ByteLen {
        self.size
    }

    /// The parts of a request that lies inside the volume; one of no bytes has none.
    pub fn parts(&self, at: ByteOffset, len: ByteLen) -> impl Iterator<Item = Piece> + '_ {
        let first = self.pieces.partition_point(|piece| piece.at + piece.len <= at);
        let end = at + len;
        let touched = self.pieces[first..].iter().take_while(move |piece| piece.at < end && len.0 > 0);
        touched.map(move |piece| {
            let start = piece.at.max(at);
            let stop = (piece.at + piece.len).min(end);
            Piece { at: start, len: stop - start, lower: piece.lower + (start - piece.at) }
        })
    }

    /// The only part of a request, if it is in one piece.
    fn single(&self, at: ByteOffset, len: ByteLen) -> Option<Piece> {
        let mut parts = self.parts(at, len);
        let first = parts.next()?;
        (first.len == len).then_some(first)
    }
}

/// A linear volume as a disk.
pub struct Linear {
    rt: Rt,
    lower: Disk,
    map: Rc<Map>,
    writable: bool,
}

impl Linear {
    /// The volume `map` describes.
    pub fn new(rt: &Rt, lower: &Disk, map: Rc<Map>, writable: bool) -> Self {
        Self { rt: Rc::clone(rt), lower: Rc::clone(lower), map, writable }
    }

    fn check(&self, at: ByteOffset, len: ByteLen) -> Result<(), DeviceError> {
        self.geometry().check(at, len)
    }

    fn check_write(&self, at: ByteOffset, len: ByteLen) -> Result<(), DeviceError> {
        if self.writable { self.check(at, len) } else { Err(DeviceError::ReadOnly) }
    }

    /// Does `one` for every part at the same time and waits for all of them, whatever fails.
    fn each(&self, at: ByteOffset, len: ByteLen, one: impl Fn(&Disk, Piece) -> IoFuture<()>) -> IoFuture<()> {
        if let Some(piece) = self.map.single(at, len) {
            return one(&self.lower, piece);
        }
        let parts: Vec<IoFuture<()>> = self.map.parts(at, len).map(|piece| one(&self.lower, piece)).collect();
        run_to_end(&self.rt, async move { join_all(parts).await.into_iter().collect() })
    }
}

impl BlockDevice for Linear {
    fn geometry(&self) -> Geometry {
        Geometry { size: self.map.size(), ..self.lower.geometry() }
    }

    fn read(&self, at: ByteOffset, mut into: IoBuf) -> IoFuture<IoBuf> {
        if let Err(error) = self.check(at, into.byte_len()) {
            return IoFuture::ready(Err(error));
        }
        if let Some(piece) = self.map.single(at, into.byte_len()) {
            return self.lower.read(piece.lower, into);
        }
        let parts = self.map.parts(at, into.byte_len());
        let parts: Vec<IoFuture<IoBuf>> = parts.map(|piece| self.lower.read(piece.lower, buffer(piece.len))).collect();
        run_to_end(&self.rt, async move {
            let mut filled = 0;
            for part in join_all(parts).await {
                let part = part?;
                into[filled..filled + part.len()].copy_from_slice(&part);
                filled += part.len();
            }
            debug_assert_eq!(filled, into.len(), "the parts are the whole request");
            Ok(into)
        })
    }

    fn write(&self, at: ByteOffset, from: IoData, how: Durability) -> IoFuture<()> {
        if let Err(error) = self.check_write(at, from.byte_len()) {
            return IoFuture::ready(Err(error));
        }
        self.each(at, from.byte_len(), |lower, piece| {
            if piece.len == from.byte_len() {
                return lower.write(piece.lower, from.clone(), how);
            }
            let (start, len) = (in_memory((piece.at - at).0), in_memory(piece.len.0));
            lower.write(piece.lower, from.slice(start, len), how)
        })
    }

    fn flush(&self) -> IoFuture<()> {
        self.lower.flush()
    }

    fn discard(&self, at: ByteOffset, len: ByteLen) -> IoFuture<()> {
        if let Err(error) = self.check_write(at, len) {
            return IoFuture::ready(Err(error));
        }
        self.each(at, len, |lower, piece| lower.discard(piece.lower, piece.len))
    }

    fn write_zeroes(&self, at: ByteOffset, len: ByteLen, how: Durability, may_unmap: bool) -> IoFuture<()> {
        if let Err(error) = self.check_write(at, len) {
            return IoFuture::ready(Err(error));
        }
        self.each(at, len, |lower, piece| lower.write_zeroes(piece.lower, piece.len, how, may_unmap))
    }
}

fn buffer(len: ByteLen) -> IoBuf {
    IoBuf::new(in_memory(len.0))
}

fn in_memory(len: u64) -> usize {
    usize::try_from(len).expect("a part of a buffer in memory")
}

#[cfg(test)]
#[path = "linear_test.rs"]
mod test;
