//! The guest's words, one line each, all ASCII.
//!
//! ```text
//! to the referee (UDP)    A BOOT N CRC         record N is durable; CRC in hexadecimal
//! to the guest (UDP)      P NUMBER             a probe
//! from the guest (UDP)    P NUMBER BOOT        its answer
//! on the serial console   B BOOT COUNTER;      it runs; the kernel may write in between, so the end is marked
//!                         E BOOT TEXT;         its disk refused
//! ```

use super::record::Boot;
use std::fmt;

/// The longest datagram that is anybody's.
pub const DATAGRAM_MAX: usize = 64;

/// A record is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Who wrote it.
    pub boot: Boot,
    /// Its number.
    pub n: u64,
    /// Its checksum.
    pub crc: u32,
}

impl fmt::Display for Ack {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "A {} {} {:08x}", self.boot, self.n, self.crc)
    }
}

impl Ack {
    /// Reads one.
    pub fn read(datagram: &[u8]) -> Option<Self> {
        let words = words::<4>(std::str::from_utf8(datagram).ok()?)?;
        let [kind, boot, n, crc] = words;
        let crc = (crc.len() == 8).then(|| u32::from_str_radix(crc, 16).ok())??;
        (kind == "A").then_some(Self { boot: boot.parse().ok()?, n: number(n)?, crc })
    }
}

/// Asks the guest.
pub fn probe(number: u64) -> String {
    format!("P {number}")
}

/// The guest's answer to a datagram, if that is a probe.
pub fn answer(datagram: &[u8], boot: Boot) -> Option<String> {
    let [kind, n] = words::<2>(std::str::from_utf8(datagram).ok()?)?;
    (kind == "P").then_some(format!("P {} {boot}", number(n)?))
}

/// Reads an answer: which probe, and which boot said it.
pub fn read_answer(datagram: &[u8]) -> Option<(u64, Boot)> {
    let [kind, n, boot] = words::<3>(std::str::from_utf8(datagram).ok()?)?;
    (kind == "P").then_some((number(n)?, boot.parse().ok()?))
}

/// What the serial console said in a line of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The guest runs.
    Beacon {
        /// Which boot of it.
        boot: Boot,
        /// How often it has said so.
        counter: u64,
    },
    /// A disk of the guest's refused: the program says so, or the kernel.
    Error(String),
}

/// The line of a beacon.
pub fn beacon(boot: Boot, counter: u64) -> String {
    format!("B {boot} {counter};\n")
}

/// The line of an error.
pub fn error(boot: Boot, text: &str) -> String {
    format!("E {boot} {};\n", text.replace(['\n', ';'], ","))
}

/// What the kernel says when a disk refuses or a file system is damaged.
const KERNEL_ERRORS: [&str; 4] = ["I/O error", "EXT4-fs error", "EXT4-fs warning", "Aborting journal"];

/// Reads a line of the console, without its end; everything else that a kernel or a boot loader says is `None`.
pub fn read_console(line: &str) -> Option<Said> {
    let line = line.trim_end_matches('\r');
    if let Some(text) = line.strip_prefix("B ").and_then(|text| text.strip_suffix(';')) {
        let [boot, counter] = words::<2>(text)?;
        return Some(Said::Beacon { boot: boot.parse().ok()?, counter: number(counter)? });
    }
    if let Some((boot, text)) = line.strip_prefix("E ").and_then(|text| text.strip_suffix(';')?.split_once(' ')) {
        return boot.parse::<Boot>().is_ok().then(|| Said::Error(text.to_owned()));
    }
    KERNEL_ERRORS.iter().any(|error| line.contains(error)).then(|| Said::Error(line.to_owned()))
}

fn words<const MANY: usize>(text: &str) -> Option<[&str; MANY]> {
    text.split(' ').collect::<Vec<_>>().try_into().ok()
}

/// Digits only: Rust's own parser takes a plus sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod test {
    use super::*;

    const BOOT: Boot = Boot(0x0123_4567_89ab_cdef);

    /// Goal: every word comes back as it was said. Method: both ways.
    #[test]
    fn words_come_back() {
        let ack = Ack { boot: BOOT, n: u64::MAX, crc: 0xbeef };
        assert_eq!(ack.to_string(), "A 0123456789abcdef 18446744073709551615 0000beef");
        assert_eq!(Ack::read(ack.to_string().as_bytes()), Some(ack));
        assert!(ack.to_string().len() < DATAGRAM_MAX);
        let answered = answer(probe(7).as_bytes(), BOOT).unwrap();
        assert_eq!(read_answer(answered.as_bytes()), Some((7, BOOT)));
        let said = read_console(beacon(BOOT, 9).trim_end());
        assert_eq!(said, Some(Said::Beacon { boot: BOOT, counter: 9 }));
        let said = read_console(error(BOOT, "a;b\nc").trim_end());
        assert_eq!(said, Some(Said::Error("a,b,c".into())));
    }

    /// Goal: what is cut short, or has the kernel's words in its middle, is nobody's. Method: every beginning of a
    /// beacon, a table of strange datagrams.
    #[test]
    fn what_is_not_whole_is_nothing() {
        let line = beacon(BOOT, 123);
        let line = line.trim_end();
        for end in 0..line.len() {
            assert_eq!(read_console(&line[..end]), None, "{end}");
            let mixed = format!("{}[    1.0] virtio{}", &line[..end], &line[end..]);
            assert_eq!(read_console(&mixed), None, "{mixed}");
        }
        assert_eq!(read_console(&format!("{line}\r")), Some(Said::Beacon { boot: BOOT, counter: 123 }));
        for text in ["", "A", "A 0123456789abcdef 1", "A 0123456789abcdef +1 0000beef", "A 0123456789abcdef 1 beef"] {
            assert_eq!(Ack::read(text.as_bytes()), None, "{text}");
        }
        assert_eq!(answer(b"P x", BOOT), None);
        assert_eq!(answer(&[0xff; 9], BOOT), None);
        assert_eq!(read_answer(b"P 1"), None);
    }

    /// Goal: a refusing disk is seen although the program may not be able to say so. Method: the kernel's own lines.
    #[test]
    fn the_kernels_errors_count() {
        for line in [
            "[   12.3] I/O error, dev vda, sector 8 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2",
            "[   12.3] EXT4-fs error (device vda2): ext4_journal_check_start:83",
        ] {
            assert_eq!(read_console(line), Some(Said::Error(line.to_owned())));
        }
        assert_eq!(read_console("[    1.1] EXT4-fs (vda2): mounted filesystem with ordered data mode."), None);
    }
}
