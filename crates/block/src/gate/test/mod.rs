//! Tests of the whole gate: its rules as a table of scripts, a random walk under an oracle, and the volume in time.

mod script;
mod speed;
mod table;
mod volume;
mod walk;

use units::HostKey;

/// Hosts are letters: `A` is the key of 32 times 'A'.
fn host(letter: char) -> HostKey {
    HostKey([u8::try_from(letter).expect("an ASCII letter"); 32])
}
