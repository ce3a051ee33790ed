//! What a demo shows on the terminal: a line per step with the time, a live line below while it works, a table at the
//! end. Where stderr is no terminal there is no live line and no colour, and every line stands for itself.

use super::report::Report;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The live line is drawn so often: quicker than that nobody reads.
const REDRAW: Duration = Duration::from_millis(100);
/// From the line's begin, erased to its end, and what is longer than the terminal is cut off instead of wrapped.
const ERASE: &str = "\r\x1b[2K";
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const PLAIN: &str = "\x1b[0m";

/// What the live line tells. What is not known is left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Records that the referee received in the last second.
    pub records_per_s: Option<u32>,
    /// And in all.
    pub acked: u64,
    /// Where the guest runs.
    pub host: Option<String>,
    /// Its epoch.
    pub epoch: Option<u64>,
    /// The pool's state, for example `resync 43 %, 12 s left`.
    pub pool: Option<String>,
    /// How long the last probe's answer is ago.
    pub probe_ms: Option<u64>,
}

/// The terminal.
pub struct Screen {
    inner: Mutex<Inner>,
}

struct Inner {
    out: Box<dyn Write + Send>,
    live: bool,
    begun: Instant,
    step: Option<(String, Instant)>,
    status: Option<Status>,
    drawn: Option<Instant>,
}

impl Default for Screen {
    fn default() -> Self {
        Self::on(Box::new(std::io::stderr()), std::io::stderr().is_terminal())
    }
}

impl Screen {
    /// Draws on `out`; `live` if it is a terminal.
    #[must_use]
    pub fn on(out: Box<dyn Write + Send>, live: bool) -> Self {
        let inner = Inner { out, live, begun: Instant::now(), step: None, status: None, drawn: None };
        Self { inner: Mutex::new(inner) }
    }

    /// A step begins.
    pub fn step(&self, title: &str) {
        let mut inner = self.lock();
        inner.step = Some((title.to_owned(), Instant::now()));
        inner.line("▸", BOLD, title);
    }

    /// It is done; `result` is what is worth knowing of it.
    pub fn done(&self, result: &str) {
        self.lock().finish("✓", GREEN, result);
    }

    /// It could not be done.
    pub fn failed(&self, why: &str) {
        self.lock().finish("✗", RED, why);
    }

    /// Something worth a line within a step.
    pub fn note(&self, text: &str) {
        self.lock().line("·", DIM, text);
    }

    /// The live line says this from now on.
    pub fn status(&self, status: Status) {
        let mut inner = self.lock();
        inner.status = Some(status);
        if inner.drawn.is_none_or(|at| at.elapsed() >= REDRAW) {
            inner.draw();
        }
    }

    /// Takes the live line away, for the end.
    pub fn clear(&self) {
        let mut inner = self.lock();
        inner.status = None;
        inner.erase();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic under this lock")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Inner {
    fn finish(&mut self, mark: &str, colour: &str, text: &str) {
        let took = self.step.take().map(|(title, at)| format!("{title}, {}", seconds(at.elapsed())));
        let text = match took {
            Some(took) if text.is_empty() => took,
            Some(took) => format!("{took}: {text}"),
            None => text.to_owned(),
        };
        self.line(mark, colour, &text);
    }

    /// A line that stays.
    fn line(&mut self, mark: &str, colour: &str, text: &str) {
        self.erase();
        let clock = clock(self.begun.elapsed());
        let line = if self.live {
            format!("{DIM}{clock}{PLAIN} {colour}{mark} {text}{PLAIN}\n")
        } else {
            format!("{clock} {mark} {text}\n")
        };
        self.print(&line);
        self.draw();
    }

    fn draw(&mut self) {
        let Some(status) = self.status.as_ref().filter(|_| self.live) else { return };
        let clock = clock(self.begun.elapsed());
        let text = format!("{ERASE}{NO_WRAP}{DIM}{clock}   {}{PLAIN}{WRAP}", status.text());
        self.drawn = Some(Instant::now());
        self.print(&text);
    }

    fn erase(&mut self) {
        if self.drawn.take().is_some() {
            self.print(ERASE);
        }
    }

    fn print(&mut self, text: &str) {
        // A terminal that is gone must not end a demo: its report is the result.
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }
}

impl Status {
    fn text(&self) -> String {
        let mut parts = Vec::new();
        if let Some(host) = &self.host {
            let epoch = self.epoch.map(|epoch| format!(" at epoch {epoch}")).unwrap_or_default();
            parts.push(format!("on {host}{epoch}"));
        }
        let rate = self.records_per_s.map(|rate| format!(", {rate}/s")).unwrap_or_default();
        parts.push(format!("{} records{rate}", self.acked));
        parts.extend(self.probe_ms.map(|ms| match ms {
            0..=999 => format!("probe {ms} ms"),
            _ => format!("probe silent for {}", seconds(Duration::from_millis(ms))),
        }));
        parts.extend(self.pool.as_ref().map(|pool| format!("pool {pool}")));
        parts.join(" · ")
    }
}

/// The table at the end.
#[must_use]
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    for violation in &report.violations {
        let _ = writeln!(text, "VIOLATED {}: {}", violation.invariant, violation.detail);
    }
    if !report.violations.is_empty() {
        text.push('\n');
    }
    let number = |value: Option<u64>| value.map_or_else(|| "–".to_owned(), |value| value.to_string());
    let tenths = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value}"));
    let migrations = report.migrations.iter().map(|it| {
        let network = tenths(it.network_blackout_ms);
        vec![
            "migration".into(),
            it.total_ms.to_string(),
            tenths(it.cpu_blackout_ms),
            it.receipt_blackout_ms.to_string(),
            network,
            it.bytes.to_string(),
        ]
    });
    section(
        &mut text,
        &["", "total ms", "CPU blackout ms", "by receipt ms", "network blackout ms", "bytes"],
        migrations.collect(),
    );
    let failovers = report.failovers.iter().map(|it| {
        let moments = [it.detect_ms, it.fence_ms, it.vcpus_running_ms, it.guest_answers_ms].map(number);
        let counts = [it.overlap_ms, it.stale_refused, it.stale_applied].map(|count| count.to_string());
        [it.cause.clone()].into_iter().chain(moments).chain(counts).collect()
    });
    let head =
        ["failover", "detect ms", "fence ms", "vCPUs ms", "answers ms", "overlap ms", "refused", "stale applied"];
    section(&mut text, &head, failovers.collect());
    let outages = report.outages.iter().map(|it| {
        let counts = [it.restarts, it.epoch_changes, it.guest_errors].map(|count| count.to_string());
        [it.cause.clone()].into_iter().chain(counts).chain([number(it.resumed_ms)]).collect()
    });
    section(&mut text, &["outage", "restarts", "epoch changes", "guest errors", "goes on after ms"], outages.collect());
    let goals = report.goals.iter().map(|goal| {
        let kept = if goal.ok { "kept" } else { "MISSED" };
        vec![goal.name.clone(), tenths(goal.got), goal.want.clone(), kept.to_owned()]
    });
    section(&mut text, &["goal", "got", "want", ""], goals.collect());
    let records = report.records;
    let _ =
        writeln!(text, "{} records acknowledged, {} missing, {} torn", records.acked, records.missing, records.torn);
    if let Some(bug) = &report.sabotage {
        let _ = writeln!(text, "sabotaged: {bug}");
    }
    let verdict = if report.ok { "ok: safe and complete" } else { "NOT OK" };
    let _ = writeln!(text, "{verdict}");
    text
}

/// Columns as wide as their widest cell: the first to the left, figures to the right.
fn section(text: &mut String, head: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    let all: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let widths: Vec<usize> =
        (0..all[0].len()).map(|at| all.iter().map(|row| row[at].chars().count()).max().unwrap_or(0)).collect();
    for row in &all {
        let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| match at {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text.push('\n');
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{:>2}:{:02}", seconds / 60, seconds % 60)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod test {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn play(live: bool) -> String {
        let paper = Paper::default();
        let screen = Screen::on(Box::new(paper.clone()), live);
        screen.step("live migration to host2");
        screen.status(Status { acked: 40, host: Some("host1".into()), epoch: Some(7), ..Status::default() });
        screen.done("blackout 41 ms");
        screen.failed("no disk");
        drop(screen);
        let bytes = paper.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// Goal: a log file gets plain lines, a terminal gets a live line that is taken away. Method: both, to paper.
    #[test]
    fn a_live_line_is_for_terminals() {
        assert_eq!(
            play(false),
            " 0:00 ▸ live migration to host2\n 0:00 ✓ live migration to host2, 0.0 s: blackout 41 ms\n 0:00 ✗ no disk\n"
        );
        let live = play(true);
        assert!(live.contains("on host1 at epoch 7 · 40 records"), "{live}");
        assert!(live.ends_with(ERASE), "nothing is left below the last line: {live:?}");
    }

    /// Goal: figures stand below each other. Method: cells of different lengths, with letters that are two bytes.
    #[test]
    fn columns_are_aligned() {
        let mut text = String::new();
        section(&mut text, &["a", "b"], vec![vec!["–".into(), "1000".into()], vec!["long".into(), "–".into()]]);
        assert_eq!(text, "a        b\n–     1000\nlong     –\n\n");
    }
}
