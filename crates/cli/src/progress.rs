//! How far something is, as one line: a bar, amounts, a rate, the time left. On a terminal the line is drawn again and
//! again in its place; elsewhere one is printed every ten seconds.

use api::Progress;
use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::Duration;
use units::table::printable;
use units::{ByteLen, Millis};

/// Cells of a bar.
const BAR_CELLS: u64 = 24;
/// The rate is that of the newest seconds: it follows a disk that becomes slow, and does not jump.
const RATE_OVER: Duration = Duration::from_secs(10);
/// Where nothing can be drawn again, a line this often.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// A terminal that does not say how wide it is.
const COLUMNS_DEFAULT: usize = 80;

/// A bar, and nothing about time: `[######..................]  25 %`.
pub fn bar(progress: &Progress) -> String {
    let cells = share(progress, BAR_CELLS);
    let bar: String = (0..BAR_CELLS).map(|cell| if cell < cells { '#' } else { '.' }).collect();
    format!("[{bar}] {:>3} %", share(progress, 100))
}

/// A bar with all that is known: amounts, rate, time left.
pub fn line(progress: &Progress, rate: Option<ByteLen>) -> String {
    let mut text = format!("{}  {} of {}", bar(progress), ByteLen(progress.done), ByteLen(progress.total));
    if let Some(rate) = rate {
        text.push_str(&format!("  {rate}/s"));
    }
    let guess = || {
        let left = progress.total.saturating_sub(progress.done);
        rate.and_then(|rate| left.saturating_mul(1000).checked_div(rate.0))
    };
    match progress.left_ms.or_else(guess) {
        Some(left_ms) if progress.done < progress.total => text.push_str(&format!("  {} left", Millis(left_ms))),
        _ => {}
    }
    text
}

/// How many of `whole` parts are done; never all of them before the end, and never more.
fn share(progress: &Progress, whole: u64) -> u64 {
    let done = u128::from(progress.done.min(progress.total)) * u128::from(whole);
    match done.checked_div(progress.total.into()) {
        Some(parts) => u64::try_from(parts).expect("a part of a u64"),
        None => whole,
    }
}

/// Measures a rate.
#[derive(Default)]
pub struct Meter(VecDeque<(Duration, u64)>);

impl Meter {
    /// Takes what is done by now; the rate, once there is one.
    pub fn rate(&mut self, now: Duration, done: u64) -> Option<ByteLen> {
        while self.0.len() > 2 && self.0.get(1).is_some_and(|(when, _)| now.saturating_sub(*when) >= RATE_OVER) {
            self.0.pop_front();
        }
        self.0.push_back((now, done));
        let (since, before) = self.0.front()?;
        let span_ms = u64::try_from(now.saturating_sub(*since).as_millis()).ok().filter(|span| *span >= 500)?;
        Some(ByteLen(done.saturating_sub(*before).saturating_mul(1000) / span_ms))
    }
}

/// Where progress is shown: the standard error output, so that results stay alone on the other one.
pub struct Screen<W> {
    out: W,
    /// Lines are drawn again in their place, this wide.
    columns: Option<usize>,
    drawn: bool,
    last: Option<Duration>,
}

impl Screen<std::io::Stderr> {
    /// The terminal, or the file behind it.
    pub fn stderr() -> Self {
        let out = std::io::stderr();
        let columns = out.is_terminal().then(|| columns(&out));
        Self { out, columns, drawn: false, last: None }
    }
}

fn columns(out: &std::io::Stderr) -> usize {
    let size = rustix::termios::tcgetwinsize(out).map(|size| usize::from(size.ws_col));
    size.ok().filter(|columns| *columns > 0).unwrap_or(COLUMNS_DEFAULT)
}

impl<W: Write> Screen<W> {
    /// Shows how far it is.
    pub fn progress(&mut self, now: Duration, text: &str) {
        let text = printable(text);
        let shown = match self.columns {
            Some(columns) => {
                self.drawn = true;
                // One cell less: a full line makes some terminals go to the next one.
                let text: String = text.chars().take(columns.saturating_sub(1)).collect();
                write!(self.out, "\r{text}\x1b[K").and_then(|()| self.out.flush())
            }
            None if self.last.is_none_or(|last| now.saturating_sub(last) >= LINE_EVERY) => {
                self.last = Some(now);
                writeln!(self.out, "{text}")
            }
            None => Ok(()),
        };
        // Nobody looks: no reason to end.
        drop(shown);
    }

    /// Shows a line that stays.
    pub fn line(&mut self, text: &str) {
        self.clear();
        drop(writeln!(self.out, "{}", printable(text)));
    }

    /// Takes a drawn line away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            drop(write!(self.out, "\r\x1b[K").and_then(|()| self.out.flush()));
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn at(done: u64, total: u64, left_ms: Option<u64>) -> Progress {
        Progress { done, total, left_ms }
    }

    /// Goal: a bar is true at both ends and never full too early. Method: golden lines.
    #[test]
    fn bars() {
        assert_eq!(bar(&at(0, 100, None)), "[........................]   0 %");
        assert_eq!(bar(&at(999, 1000, None)), "[#######################.]  99 %");
        assert_eq!(bar(&at(u64::MAX, u64::MAX, None)), "[########################] 100 %");
        assert_eq!(bar(&at(7, 0, None)), "[########################] 100 %");
        assert_eq!(bar(&at(9, 3, None)), "[########################] 100 %");
    }

    /// Goal: amounts, rate and time left; the other side's guess before ours. Method: golden lines.
    #[test]
    fn lines() {
        let rate = Some(ByteLen(64 << 20));
        let half = "[############............]  50 %  1 GiB of 2 GiB";
        assert_eq!(line(&at(1 << 30, 2 << 30, None), None), half);
        assert_eq!(line(&at(1 << 30, 2 << 30, None), rate), format!("{half}  64 MiB/s  16.0 s left"));
        assert_eq!(line(&at(1 << 30, 2 << 30, Some(3_000)), rate), format!("{half}  64 MiB/s  3.0 s left"));
        assert_eq!(line(&at(1 << 30, 2 << 30, None), Some(ByteLen(0))), format!("{half}  0 B/s"));
        assert!(!line(&at(5, 5, Some(0)), rate).contains("left"));
    }

    #[test]
    fn the_rate_is_that_of_the_newest_seconds() {
        let mut meter = Meter::default();
        assert_eq!(meter.rate(Duration::ZERO, 0), None);
        assert_eq!(meter.rate(Duration::from_millis(200), 50), None, "too short to say");
        assert_eq!(meter.rate(Duration::from_secs(2), 2000), Some(ByteLen(1000)));
        for second in 3..30 {
            meter.rate(Duration::from_secs(second), 2000);
        }
        assert_eq!(meter.rate(Duration::from_secs(30), 2000), Some(ByteLen(0)), "it stalled");
        assert_eq!(meter.rate(Duration::from_secs(31), 1000), Some(ByteLen(0)), "it went back");
    }

    /// Goal: a terminal gets one line drawn again, a file a line every ten seconds. Method: both, with a minute's words.
    #[test]
    fn screens() {
        let mut terminal = Screen { out: Vec::new(), columns: Some(6), drawn: false, last: None };
        terminal.progress(Duration::ZERO, "ab\u{1b}[");
        terminal.progress(Duration::ZERO, "too long");
        terminal.line("stays");
        terminal.clear();
        assert_eq!(String::from_utf8(terminal.out).unwrap(), "\rab\u{fffd}[\x1b[K\rtoo l\x1b[K\r\x1b[Kstays\n");
        let mut file = Screen { out: Vec::new(), columns: None, drawn: false, last: None };
        for second in 0..25 {
            file.progress(Duration::from_secs(second), &second.to_string());
        }
        file.line("end");
        assert_eq!(String::from_utf8(file.out).unwrap(), "0\n10\n20\nend\n");
    }
}
