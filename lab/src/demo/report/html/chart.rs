//! The timeline: one row for each thing that was seen, the faults as bands through all of them.
//!
//! The rows' names stand in a picture of their own, so that they stay when a phone scrolls through the minutes.

use super::{clock, text};
use crate::demo::evidence::{Cause, Evidence, Outcome, RogueLine};
use crate::demo::report::faults::stale_writes;
use crate::demo::report::overlap::series;
use crate::demo::report::ownership::first_grants;
use crate::demo::report::timeline::{StepTime, Timeline};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A run of four minutes fills a screen, a longer one is scrolled.
const PIXELS_PER_SECOND: f64 = 4.4;
const WIDTH_MIN: f64 = 1080.0;
const NAMES_WIDTH: u32 = 88;
/// A probe every 10 ms: a longer time without an answer is a gap worth drawing.
const GAP_US: u64 = 100_000;
const COLOURS: usize = 5;
/// A label needs so much room.
const LABEL_WIDTH: f64 = 18.0;

/// Where rows begin and end, from the top.
const FAULTS: f64 = 14.0;
const STEPS: f64 = 36.0;
const AXIS: f64 = 70.0;
const HOSTS: f64 = 84.0;
const HOST_HEIGHT: f64 = 26.0;

struct Chart<'a> {
    timeline: &'a Timeline,
    evidence: &'a Evidence,
    scale: f64,
    svg: String,
}

struct Rows {
    records: f64,
    probe: f64,
    epochs: f64,
    rogue: f64,
    end: f64,
}

/// The timeline with its names and its legend.
pub fn draw(timeline: &Timeline, evidence: &Evidence) -> String {
    let seconds = seconds(timeline.end_us - timeline.begin_us).max(1.0);
    let width = (seconds * PIXELS_PER_SECOND).max(WIDTH_MIN);
    let hosts: Vec<&str> = timeline.hosts.keys().map(String::as_str).collect();
    let below = HOSTS + HOST_HEIGHT * f64::from(u32::try_from(hosts.len()).unwrap_or(0));
    let rows = Rows {
        records: below + 6.0,
        probe: below + 74.0,
        epochs: below + 102.0,
        rogue: below + 130.0,
        end: below + 152.0,
    };
    let mut chart = Chart { timeline, evidence, scale: (width - 16.0) / seconds, svg: String::new() };
    chart.bands(rows.end);
    chart.steps();
    chart.axis(rows.end);
    let boots = chart.hosts(&hosts);
    chart.moves(&hosts);
    let most = chart.records(rows.records);
    chart.probe(rows.probe);
    chart.epochs(rows.epochs);
    chart.rogue(rows.rogue);
    let (svg, height) = (chart.svg, rows.end + 6.0);
    let names = names(&hosts, &rows, most);
    let chips = (0..boots)
        .map(|boot| format!("<span><i style=\"background:var(--b{})\"></i>boot {}</span>", boot % COLOURS, boot + 1));
    let marks = [
        ("b0", "rogue, by right"),
        ("late", "rogue, refused"),
        ("bad", "rogue, applied after the fence"),
        ("band", "fault"),
    ];
    let marks = marks.map(|(colour, what)| format!("<span><i style=\"background:var(--{colour})\"></i>{what}</span>"));
    let legend: String = chips.chain(marks).collect();
    format!(
        "<div class=\"card\"><div class=\"chart\"><svg width=\"{NAMES_WIDTH}\" height=\"{height:.0}\">{names}</svg>\
         <div class=\"scroll\"><svg width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" aria-label=\"timeline\">\n{svg}</svg></div></div>\n\
         <div class=\"legend\">{legend}</div>{}</div>\n",
        step_list(timeline)
    )
}

fn names(hosts: &[&str], rows: &Rows, most: u64) -> String {
    let mut all = vec![("faults".to_owned(), FAULTS), ("steps".to_owned(), STEPS + 13.0)];
    for (host, y) in hosts.iter().zip(host_rows()) {
        all.push((text(host), y + 16.0));
    }
    all.push(("records/s".into(), rows.records + 34.0));
    all.push(("probe".into(), rows.probe + 12.0));
    all.push(("epoch".into(), rows.epochs + 12.0));
    all.push(("rogue".into(), rows.rogue + 12.0));
    let name = |(name, y): (String, f64)| format!("<text class=\"name\" x=\"14\" y=\"{y:.0}\">{name}</text>");
    let scale =
        format!("<text x=\"{}\" y=\"{:.0}\" text-anchor=\"end\">{most}</text>", NAMES_WIDTH - 4, rows.records + 10.0);
    all.into_iter().map(name).collect::<String>() + &scale
}

impl Chart<'_> {
    fn x(&self, at_us: u64) -> f64 {
        8.0 + seconds(at_us.saturating_sub(self.timeline.begin_us)) * self.scale
    }

    fn put(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = self.svg.write_fmt(line);
        self.svg.push('\n');
    }

    fn bands(&mut self, bottom: f64) {
        let mut free = f64::MIN;
        for fault in &self.timeline.faults {
            let (from, to) = (self.x(fault.at_us), self.x(fault.end_us.unwrap_or(self.timeline.end_us)));
            let width = (to - from).max(2.0);
            let host = fault.host.as_ref().map(|host| format!(" {}", text(host))).unwrap_or_default();
            let what = format!("{}{host}", title(fault.cause));
            let since = clock((fault.at_us - self.timeline.begin_us) / 1_000_000);
            let lasts = seconds(fault.end_us.unwrap_or(fault.at_us) - fault.at_us);
            self.put(format_args!(
                "<g><title>{what} at {since}, for {lasts:.1} s</title>\
                 <rect class=\"band\" x=\"{from:.1}\" y=\"20\" width=\"{width:.1}\" height=\"{:.0}\"/>\
                 <line class=\"edge\" x1=\"{from:.1}\" x2=\"{from:.1}\" y1=\"20\" y2=\"{bottom:.0}\"/></g>",
                bottom - 20.0
            ));
            // Two faults close together: the second's name begins where the first's ends.
            let at = from.max(free);
            let letters = u32::try_from(what.chars().count()).unwrap_or(0);
            free = at + f64::from(letters) * 6.4 + 8.0;
            self.put(format_args!("<text class=\"fault\" x=\"{at:.1}\" y=\"{FAULTS}\">{what}</text>"));
        }
    }

    fn steps(&mut self) {
        for (number, step) in (1..).zip(&self.timeline.steps) {
            let (from, to) = (self.x(step.at_us), self.x(step.done_us.unwrap_or(self.timeline.end_us)));
            let (width, middle) = ((to - from).max(1.0), f64::midpoint(from, to));
            let what = format!("{number}. {} (round {}): {}", step.step.title(), step.round, fate(step));
            let label = if width > LABEL_WIDTH {
                format!(
                    "<text class=\"ink\" x=\"{middle:.1}\" y=\"{}\" text-anchor=\"middle\">{number}</text>",
                    STEPS + 13.0
                )
            } else {
                String::new()
            };
            self.put(format_args!(
                "<g><title>{what}</title>\
                 <rect class=\"step\" x=\"{from:.1}\" y=\"{STEPS}\" width=\"{width:.1}\" height=\"18\" rx=\"3\"/>{label}</g>"
            ));
        }
    }

    fn axis(&mut self, bottom: f64) {
        let last = (self.timeline.end_us - self.timeline.begin_us) / 1_000_000;
        for second in (0..=last).step_by(30) {
            let x = self.x(self.timeline.begin_us + second * 1_000_000);
            let label = clock(second);
            self.put(format_args!(
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{bottom:.0}\"/>\
                 <text x=\"{x:.1}\" y=\"{AXIS}\" text-anchor=\"{}\">{label}</text>",
                AXIS + 5.0,
                if second == 0 { "start" } else { "middle" }
            ));
        }
    }

    /// Where the guest ran, by its beacons; returns how many boots there were.
    fn hosts(&mut self, hosts: &[&str]) -> usize {
        let rows: BTreeMap<&str, f64> = hosts.iter().copied().zip(host_rows()).collect();
        for y in rows.values() {
            let end = self.x(self.timeline.end_us);
            let y = y + 12.0;
            self.put(format_args!("<line class=\"rail\" x1=\"8\" x2=\"{end:.1}\" y1=\"{y}\" y2=\"{y}\"/>"));
        }
        let mut boots = Vec::new();
        for one in series(&self.evidence.beacons) {
            let number = boots.iter().position(|boot| *boot == one.boot).unwrap_or_else(|| {
                boots.push(one.boot);
                boots.len() - 1
            });
            let Some(y) = rows.get(one.host.as_str()) else { continue };
            let (from, to) = (self.x(one.from_us), self.x(one.to_us));
            let width = (to - from).max(1.5);
            let label = if width > 52.0 {
                format!("<text class=\"on\" x=\"{:.1}\" y=\"{}\">boot {}</text>", from + 6.0, y + 16.0, number + 1)
            } else {
                String::new()
            };
            let (boot, host, lasts) = (one.boot, text(&one.host), seconds(one.to_us - one.from_us));
            self.put(format_args!(
                "<g><title>boot {} ({boot}) on {host} for {lasts:.2} s</title>\
                 <rect class=\"c{}\" x=\"{from:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"18\" rx=\"2\"/>{label}</g>",
                number + 1,
                number % COLOURS,
                y + 3.0
            ));
        }
        boots.len()
    }

    /// Migrations, as lines from host to host.
    fn moves(&mut self, hosts: &[&str]) {
        let rows: BTreeMap<&str, f64> = hosts.iter().copied().zip(host_rows()).collect();
        for one in &self.timeline.migrations {
            let (Some(end), Some(from), Some(to)) = (one.end, rows.get(&*one.from), rows.get(&*one.to)) else {
                continue;
            };
            let (x, blackout) = (self.x(end.at_us), end.blackout_ms);
            let (number, from_host, to_host) = (one.number, text(&one.from), text(&one.to));
            let what =
                format!("migration {number}: {from_host} to {to_host}, stopped for {blackout} ms by its receipt");
            self.put(format_args!(
                "<g><title>{what}</title><line class=\"move\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{}\"/>\
                 <circle class=\"arrive\" cx=\"{x:.1}\" cy=\"{}\" r=\"4\"/></g>",
                from + 12.0,
                to + 12.0,
                to + 12.0
            ));
        }
    }

    /// Records a second; returns the highest.
    fn records(&mut self, top: f64) -> u64 {
        let begin_us = self.timeline.begin_us;
        let last = (self.timeline.end_us - begin_us) / 1_000_000;
        let mut counts: BTreeMap<u64, u64> = (0..=last).map(|second| (second, 0)).collect();
        for line in &self.evidence.receipts {
            *counts.entry(line.at_us.saturating_sub(begin_us) / 1_000_000).or_default() += 1;
        }
        let most = counts.values().copied().max().unwrap_or(0).max(1);
        let bottom = top + 58.0;
        let mut points = String::new();
        for (second, count) in &counts {
            let (from, to) = (self.x(begin_us + second * 1_000_000), self.x(begin_us + (second + 1) * 1_000_000));
            let share =
                f64::from(u32::try_from(*count).unwrap_or(u32::MAX)) / f64::from(u32::try_from(most).unwrap_or(1));
            let y = bottom - 52.0 * share;
            let _ = write!(points, "{from:.1},{y:.1} {to:.1},{y:.1} ");
        }
        let (first, end) = (self.x(begin_us), self.x(begin_us + (last + 1) * 1_000_000));
        self.put(format_args!(
            "<polygon class=\"area\" points=\"{first:.1},{bottom} {points}{end:.1},{bottom}\"/><polyline class=\"curve\" points=\"{points}\"/>"
        ));
        most
    }

    /// When probes were answered, and the gaps.
    fn probe(&mut self, top: f64) {
        let lines = &self.evidence.probes;
        let Some(mut from_us) = lines.first().map(|line| line.at_us) else { return };
        let mut last_us = from_us;
        let mut spans = Vec::new();
        for line in lines {
            if line.at_us - last_us > GAP_US {
                spans.push((from_us, last_us, Some(line.at_us)));
                from_us = line.at_us;
            }
            last_us = line.at_us;
        }
        spans.push((from_us, last_us, None));
        for (from_us, to_us, next_us) in spans {
            let (from, to) = (self.x(from_us), self.x(to_us));
            let width = (to - from).max(0.5);
            self.put(format_args!(
                "<rect class=\"answered\" x=\"{from:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"6\"/>",
                top + 5.0
            ));
            if let Some(next_us) = next_us {
                let (width, gap_ms) = ((self.x(next_us) - to).max(2.0), (next_us - to_us) / 1000);
                self.put(format_args!(
                    "<rect class=\"gap\" x=\"{to:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"3\"><title>no answer for {gap_ms} ms</title></rect>",
                    top + 6.5
                ));
            }
        }
    }

    fn epochs(&mut self, top: f64) {
        // A migration takes two epochs within a moment: their numbers share a place.
        let mut groups: Vec<(f64, u64, u64)> = Vec::new();
        for (epoch, at_us) in first_grants(self.evidence) {
            let x = self.x(at_us);
            match groups.last_mut().filter(|(at, _, _)| x - *at < LABEL_WIDTH) {
                Some((_, _, last)) => *last = epoch,
                None => groups.push((x, epoch, epoch)),
            }
            self.put(format_args!(
                "<line class=\"epoch\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{}\"><title>epoch {epoch} granted</title></line>",
                top + 16.0
            ));
        }
        for (x, first, last) in groups {
            let label = if first == last { first.to_string() } else { format!("{first}–{last}") };
            self.put(format_args!("<text class=\"ink\" x=\"{:.1}\" y=\"{}\">{label}</text>", x + 4.0, top + 12.0));
        }
    }

    /// What the rogue tried; what reached a disk after the fence is judged by the disks and drawn last, over all.
    fn rogue(&mut self, top: f64) {
        let (timeline, evidence) = (self.timeline, self.evidence);
        let stale = timeline.faults.iter().map(|fault| (fault.number, stale_writes(fault, evidence)));
        let stale: BTreeMap<u32, _> = stale.collect();
        let is_stale = |line: &RogueLine| {
            line.seq.is_some_and(|seq| stale.get(&line.fault).is_some_and(|all| all.contains(&(line.epoch, seq))))
        };
        let (late, usual): (Vec<_>, Vec<_>) = evidence.rogue.iter().partition(|line| is_stale(line));
        for (line, late) in usual.into_iter().map(|line| (line, false)).chain(late.into_iter().map(|line| (line, true)))
        {
            let (class, what) = match line.outcome {
                _ if late => ("stale", "reached a disk after the fence"),
                Outcome::Applied => ("right", "applied"),
                Outcome::Refused => ("refused", "refused"),
                Outcome::Lost => ("refused", "lost"),
            };
            let (x, words, epoch) = (self.x(line.at_us), text(&line.text), line.epoch);
            self.put(format_args!(
                "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{}\"><title>epoch {epoch}, {what} {words}</title></line>",
                top + 16.0
            ));
        }
    }
}

/// The steps by name: a phone shows no titles.
fn step_list(timeline: &Timeline) -> String {
    let line = |(number, step): (usize, &StepTime)| {
        let class = if step.done_us.is_some() && step.failed.is_none() { "" } else { " class=\"bad\"" };
        format!("<li><b>{number}</b><span>{}</span><i{class}>{}</i></li>\n", step.step.title(), fate(step))
    };
    format!("<ol class=\"steps\">\n{}</ol>", (1..).zip(&timeline.steps).map(line).collect::<String>())
}

/// What became of a step.
fn fate(step: &StepTime) -> String {
    match (&step.failed, step.done_us) {
        (Some(why), _) => format!("failed: {}", text(why)),
        (None, Some(done_us)) => format!("{:.1} s", seconds(done_us.saturating_sub(step.at_us))),
        (None, None) => "not done".to_owned(),
    }
}

fn host_rows() -> impl Iterator<Item = f64> {
    (0u32..).map(|row| HOSTS + HOST_HEIGHT * f64::from(row))
}

fn title(cause: Cause) -> &'static str {
    match cause {
        Cause::Poweroff => "power off",
        Cause::Freeze => "freeze",
        Cause::Cut => "cut off",
        Cause::Switch => "switch off",
        Cause::Storage => "storage off",
        Cause::Disk => "disk",
    }
}

/// For drawing only: hours are exact to far below a pixel.
fn seconds(us: u64) -> f64 {
    f64::from(u32::try_from(us / 1000).unwrap_or(u32::MAX)) / 1000.0
}
