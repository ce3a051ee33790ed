//! Samples to medians, medians to a table and to goals.

use serde::Serialize;
use std::collections::BTreeMap;

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Thousands of requests a second.
    pub kiops: f64,
    /// Millions of bytes a second.
    pub mb_per_s: f64,
    /// The server's CPU time per request, in microseconds.
    pub cpu_us: f64,
    /// Median latency.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
}

/// Medians over the rounds, as written to `target/bench/NAME.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Who.
    pub server: String,
    /// What.
    pub cell: String,
    /// Whether client and server shared one CPU.
    pub pinned: bool,
    kiops: f64,
    mb_per_s: f64,
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
}

/// A promise and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    name: String,
    got: Option<f64>,
    want: String,
    /// Whether it was kept; one that was not measured was not.
    pub ok: bool,
}

/// Who, what, pinned.
type Key = (String, String, bool);

/// All samples of a run.
#[derive(Default)]
pub struct Report {
    samples: BTreeMap<Key, Vec<Sample>>,
    goals: Vec<Goal>,
}

/// Which side a ratio must be on.
#[derive(Clone, Copy, Debug)]
pub enum Want {
    /// Not more.
    AtMost(f64),
    /// Not less.
    AtLeast(f64),
}

impl Report {
    /// Adds a sample.
    pub fn add(&mut self, server: &str, cell: &str, pinned: bool, sample: Sample) {
        self.samples.entry((server.into(), cell.into(), pinned)).or_default().push(sample);
    }

    /// Compares a figure of ours with a peer's.
    pub fn goal(&mut self, (ours, peer): (&str, &str), cell: &str, pinned: bool, what: &str, want: Want) {
        let figure = |sample: &Sample| if what == "kiops" { sample.kiops } else { sample.cpu_us };
        let of = |server: &str| {
            self.samples.get(&(server.into(), cell.into(), pinned)).map(|samples| median(samples, figure))
        };
        let got = of(ours).zip(of(peer)).map(|(ours, peer)| round(ours / peer));
        let (sign, limit, ok) = match want {
            Want::AtMost(limit) => ("<=", limit, got.is_some_and(|got| got <= limit)),
            Want::AtLeast(limit) => (">=", limit, got.is_some_and(|got| got >= limit)),
        };
        self.goals.push(Goal {
            name: format!("{ours}, {cell}: {what} / {peer}"),
            got,
            want: format!("{sign} {limit}"),
            ok,
        });
    }

    /// What was measured, in medians.
    pub fn rows(&self) -> Vec<Row> {
        let row = |((server, cell, pinned), samples): (&Key, &Vec<Sample>)| Row {
            server: server.clone(),
            cell: cell.clone(),
            pinned: *pinned,
            kiops: round(median(samples, |sample| sample.kiops)),
            mb_per_s: round(median(samples, |sample| sample.mb_per_s)),
            cpu_us: round(median(samples, |sample| sample.cpu_us)),
            p50_us: round(median(samples, |sample| sample.p50_us)),
            p99_us: round(median(samples, |sample| sample.p99_us)),
        };
        self.samples.iter().map(row).collect()
    }

    /// What was promised.
    pub fn goals(&self) -> &[Goal] {
        &self.goals
    }

    /// A table a cell: median and min–max.
    pub fn print(&self, title: &str, servers: &[&str], cells: &[&str], pinned: bool) {
        println!("\n## {title}\n");
        println!(
            "| {:<16} | {:<12} | {:>24} | {:>22} | {:>20} | p50/p99 µs |",
            "server", "cell", "kIOPS (min–max)", "MB/s (min–max)", "CPU µs/I/O (min–max)"
        );
        println!("|---|---|--:|--:|--:|--:|");
        for cell in cells {
            for server in servers {
                let Some(samples) = self.samples.get(&((*server).to_owned(), (*cell).to_owned(), pinned)) else {
                    continue;
                };
                let kiops = spread(samples, |sample| sample.kiops, 1);
                let mb_per_s = spread(samples, |sample| sample.mb_per_s, 0);
                let cpu_us = spread(samples, |sample| sample.cpu_us, 2);
                let (p50, p99) = (median(samples, |sample| sample.p50_us), median(samples, |sample| sample.p99_us));
                println!(
                    "| {server:<16} | {cell:<12} | {kiops:>24} | {mb_per_s:>22} | {cpu_us:>20} | {p50:.0}/{p99:.0} |"
                );
            }
        }
    }

    /// The goals, kept or missed.
    pub fn print_goals(&self) {
        println!("\n## Goals\n");
        for goal in &self.goals {
            let got = goal.got.map_or_else(|| "not measured".to_owned(), |got| got.to_string());
            println!("{} {}: {got} (want {})", if goal.ok { "ok    " } else { "MISSED" }, goal.name, goal.want);
        }
    }
}

fn spread(samples: &[Sample], figure: impl Fn(&Sample) -> f64, digits: usize) -> String {
    let least = samples.iter().map(&figure).fold(f64::INFINITY, f64::min);
    let most = samples.iter().map(&figure).fold(0.0, f64::max);
    format!("{:.digits$} ({least:.digits$}–{most:.digits$})", median(samples, figure))
}

fn median(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> f64 {
    let mut figures: Vec<f64> = samples.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 { figures[middle] } else { f64::midpoint(figures[middle - 1], figures[middle]) }
}

fn round(figure: f64) -> f64 {
    (figure * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod test {
    use super::*;

    fn sample(kiops: f64, cpu_us: f64) -> Sample {
        Sample { kiops, mb_per_s: 0.0, cpu_us, p50_us: 0.0, p99_us: 0.0 }
    }

    #[test]
    fn goals_compare_medians() {
        let mut report = Report::default();
        for (ours, theirs) in [(8.0, 10.0), (7.0, 10.0), (90.0, 10.0)] {
            report.add("ours", "cell", true, sample(100.0, ours));
            report.add("peer", "cell", true, sample(80.0, theirs));
        }
        report.goal(("ours", "peer"), "cell", true, "cpu_us", Want::AtMost(0.8));
        report.goal(("ours", "peer"), "cell", true, "cpu_us", Want::AtMost(0.79));
        report.goal(("ours", "peer"), "cell", true, "kiops", Want::AtLeast(1.25));
        report.goal(("ours", "peer"), "cell", false, "kiops", Want::AtLeast(0.0));
        let ok: Vec<bool> = report.goals().iter().map(|goal| goal.ok).collect();
        assert_eq!(ok, [true, false, true, false], "what was not measured was not reached");
        assert_eq!(report.rows().len(), 2);
    }
}
