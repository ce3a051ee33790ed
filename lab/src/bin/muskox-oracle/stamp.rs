//! Writes blocks that say who wrote them around the page cache, one after the other, and looks for them later.

use anyhow::Context;
use lab::verify::stamp::{BLOCK, Found, Stamp, look};
use rustix::fs::OFlags;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// A write is so many blocks: what a page cache writes at once.
const BLOCKS: usize = 16;
const WRITE: usize = BLOCKS * BLOCK;

/// Memory as O_DIRECT wants it: at an address that is a multiple of a block.
struct Aligned(Vec<u8>);

impl Aligned {
    fn new() -> Self {
        Self(vec![0; WRITE + BLOCK])
    }

    fn bytes(&mut self) -> &mut [u8] {
        let shift = self.0.as_ptr().align_offset(BLOCK);
        &mut self.0[shift..shift + WRITE]
    }
}

fn open(device: &str, write: bool) -> anyhow::Result<File> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).context("a flag of the kernel's")?;
    let opened = File::options().read(true).write(write).custom_flags(direct).open(device);
    opened.with_context(|| format!("opening {device}"))
}

fn number<T: std::str::FromStr>(text: &str) -> anyhow::Result<T> {
    text.parse().map_err(|_| anyhow::anyhow!("'{text}' is no number"))
}

/// Writes from number `first` to `count`; prints `acked=N`: all below N are acknowledged. Ends badly at the first error.
pub fn write(device: &str, run: &str, first: &str, count: &str) -> anyhow::Result<()> {
    let (file, run, first, count) = (open(device, true)?, number(run)?, number::<u64>(first)?, number::<u64>(count)?);
    let mut memory = Aligned::new();
    for write in first..count {
        for (block, bytes) in memory.bytes().chunks_exact_mut(BLOCK).enumerate() {
            stamp(run, write, block)?.fill(bytes);
        }
        if let Err(error) = file.write_all_at(memory.bytes(), write * WRITE as u64) {
            println!("acked={write}");
            return Err(error).with_context(|| format!("writing number {write}"));
        }
    }
    println!("acked={count}");
    Ok(())
}

fn stamp(run: u32, write: u64, block: usize) -> anyhow::Result<Stamp> {
    let block = u32::try_from(write * BLOCKS as u64 + block as u64).context("fewer writes")?;
    Ok(Stamp { run, block, sequence: write + 1 })
}

/// Reads numbers 0 to `count`; prints `wrong=N`, and ends badly if there are any.
pub fn check(device: &str, run: &str, count: &str) -> anyhow::Result<()> {
    let (file, run, count) = (open(device, false)?, number(run)?, number::<u64>(count)?);
    let mut memory = Aligned::new();
    let mut wrong = 0;
    for write in 0..count {
        file.read_exact_at(memory.bytes(), write * WRITE as u64).with_context(|| format!("reading number {write}"))?;
        for (block, bytes) in memory.bytes().chunks_exact(BLOCK).enumerate() {
            let expect = Found::Stamp(stamp(run, write, block)?);
            wrong += u64::from(look(bytes).iter().any(|found| *found != expect));
        }
    }
    println!("wrong={wrong}");
    anyhow::ensure!(wrong == 0, "{wrong} blocks do not hold what was acknowledged");
    Ok(())
}
