//! The beacon: a line every 5 ms on the serial console, which needs no disk and no network to be seen.

use crate::CONSOLE;
use anyhow::Context;
use lab::demo::guest::record::Boot;
use lab::demo::guest::words;
use lab::demo::report::PERIOD_US;
use std::io::Write;
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_micros(PERIOD_US);

/// Starts it in a thread of its own.
pub fn start(boot: Boot) -> anyhow::Result<()> {
    let mut console =
        std::fs::OpenOptions::new().write(true).open(CONSOLE).with_context(|| format!("opening {CONSOLE}"))?;
    std::thread::spawn(move || {
        let mut next = Instant::now();
        for counter in 0.. {
            // A console that refuses has nobody to tell it to.
            let _ = console.write_all(words::beacon(boot, counter).as_bytes());
            next += PERIOD;
            // After a pause it goes on from now: what was not said in time is not made up for.
            next = next.max(Instant::now());
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    });
    Ok(())
}
