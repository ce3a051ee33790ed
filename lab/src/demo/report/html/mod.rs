//! `report.html`: one page that carries everything it needs, for a screen or a phone, by day or by night. No scripts:
//! what the marks mean is in their titles.

mod chart;
mod close;

use super::timeline::Timeline;
use super::{Goal, Report};
use crate::demo::evidence::Evidence;
use std::fmt::{Display, Write};

const STYLE: &str = include_str!("style.css");

/// The page.
pub fn page(report: &Report, timeline: &Timeline, evidence: &Evidence) -> String {
    let verdict = if report.ok { ("good", "safe and complete") } else { ("bad", "not ok") };
    let (class, words) = verdict;
    let took = clock(timeline.end_us.saturating_sub(timeline.begin_us) / 1_000_000);
    let rounds = if timeline.rounds == 1 { "one round".to_owned() } else { format!("{} rounds", timeline.rounds) };
    let bug = report.sabotage.as_ref().map(|bug| format!(", sabotaged: <b>{}</b>", text(bug))).unwrap_or_default();
    let vm = text(&timeline.vm);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>muskox demo: {words}</title>\n<style>\n{STYLE}</style></head>\n<body><main>\n\
         <header><h1>muskox demo</h1><span class=\"chip {class}\">{words}</span></header>\n\
         <p class=\"soft\">VM {vm}, {rounds}, {took} minutes{bug}</p>\n"
    );
    page += &violations(report);
    page += &tiles(report);
    page += "<h2>What happened</h2>\n";
    page += &chart::draw(timeline, evidence);
    if !report.failovers.is_empty() {
        page += "<h2>Failovers up close</h2>\n";
        page += &close::draw(&report.failovers);
        page += &failovers(report);
    }
    page += "<div class=\"two\"><section><h2>Migrations</h2>\n";
    page += &migrations(report);
    page += "</section><section><h2>Outages</h2>\n";
    page += &outages(report);
    page += "</section></div>\n<h2>Goals</h2>\n";
    page += &goals(&report.goals);
    page += "<footer><p>Everything here is computed from the folder <code>evidence</code> beside this page, and from nothing \
             else. <code>cargo xtask demo --verify</code> with that folder computes it anew.</p></footer>\n\
             </main></body></html>\n";
    page
}

fn violations(report: &Report) -> String {
    if report.violations.is_empty() {
        return String::new();
    }
    let line = |it: &super::Violation| format!("<li><b>{}</b> {}</li>\n", text(&it.invariant), text(&it.detail));
    let lines: String = report.violations.iter().map(line).collect();
    let count = report.violations.len();
    let title = if count == 1 { "One promise was broken".to_owned() } else { format!("{count} promises were broken") };
    format!("<div class=\"violations\"><strong>{title}</strong><ul>\n{lines}</ul></div>\n")
}

fn tiles(report: &Report) -> String {
    let slowest = report.failovers.iter().map(|it| it.vcpus_running_ms).collect::<Option<Vec<_>>>();
    let slowest = slowest.and_then(|all| all.into_iter().max()).map(|ms| format!("{} s", tenths_of_seconds(ms)));
    let blackout =
        report.goals.iter().find(|goal| goal.name.contains("CPU blackout, median")).and_then(|goal| goal.got);
    let stale = report.failovers.iter().map(|it| it.stale_applied).reduce(|one, other| one + other);
    let refused: u64 = report.failovers.iter().map(|it| it.stale_refused).sum();
    let lost = report.records.missing + report.records.torn;
    let kept = report.goals.iter().filter(|goal| goal.ok).count();
    let all = report.goals.len();
    let tiles = [
        (report.records.acked.to_string(), "records acknowledged", false),
        (lost.to_string(), "of them lost or torn", lost > 0),
        (stale.map_or_else(|| "–".into(), |stale| stale.to_string()), "stale writes applied", stale > Some(0)),
        (refused.to_string(), "stale writes refused", false),
        (slowest.unwrap_or_else(|| "–".into()), "slowest start elsewhere", false),
        (blackout.map_or_else(|| "–".into(), |ms| format!("{ms} ms")), "CPU blackout, median", false),
        (format!("{kept} of {all}"), "goals kept", kept < all),
    ];
    let tile = |(figure, what, bad): (String, &str, bool)| {
        let class = if bad { "tile bad" } else { "tile" };
        format!("<div class=\"{class}\"><strong>{figure}</strong><span>{what}</span></div>\n")
    };
    format!("<div class=\"tiles\">\n{}</div>\n", tiles.into_iter().map(tile).collect::<String>())
}

fn failovers(report: &Report) -> String {
    let head = [
        "cause",
        "detected, ms",
        "fenced, ms",
        "vCPUs run, ms",
        "guest answers, ms",
        "overlap, ms",
        "refused",
        "stale applied",
    ];
    let row = |it: &super::Failover| {
        let moments = [it.detect_ms, it.fence_ms, it.vcpus_running_ms, it.guest_answers_ms].map(figure);
        let stale = if it.stale_applied > 0 { bad(it.stale_applied) } else { "0".to_owned() };
        let counts = [it.overlap_ms.to_string(), it.stale_refused.to_string(), stale];
        [text(&it.cause)].into_iter().chain(moments).chain(counts).collect()
    };
    table(&head, report.failovers.iter().map(row))
}

fn migrations(report: &Report) -> String {
    let head = ["", "total, ms", "CPU blackout, ms", "by its receipt, ms", "network blackout, ms", "MB"];
    let row = |(number, it): (usize, &super::Migration)| {
        let megabytes = it.bytes / 1_000_000;
        vec![
            number.to_string(),
            it.total_ms.to_string(),
            figure(it.cpu_blackout_ms),
            it.receipt_blackout_ms.to_string(),
            figure(it.network_blackout_ms),
            megabytes.to_string(),
        ]
    };
    table(&head, (1..).zip(&report.migrations).map(row))
}

fn outages(report: &Report) -> String {
    let head = ["cause", "restarts", "epoch changes", "guest errors", "goes on after, ms"];
    let row = |it: &super::Outage| {
        let counts = [it.restarts, it.epoch_changes, it.guest_errors];
        let counts = counts.map(|count| if count > 0 { bad(count) } else { "0".to_owned() });
        [text(&it.cause)].into_iter().chain(counts).chain([figure(it.resumed_ms)]).collect()
    };
    table(&head, report.outages.iter().map(row))
}

fn goals(goals: &[Goal]) -> String {
    let row = |goal: &Goal| {
        let (class, mark) = if goal.ok { ("good", "kept") } else { ("bad", "missed") };
        let mark = format!("<span class=\"{class}\">{mark}</span>");
        vec![text(&goal.name), figure(goal.got), text(&goal.want), mark]
    };
    table(&["", "got", "want", ""], goals.iter().map(row))
}

/// A table of cells that are HTML already.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return "<p class=\"soft\">None were seen.</p>\n".to_owned();
    }
    let head: String = head.iter().map(|name| format!("<th>{name}</th>")).collect();
    let mut html = format!("<div class=\"card table\"><table><thead><tr>{head}</tr></thead><tbody>\n");
    for row in rows {
        let cells: String = row.iter().map(|cell| format!("<td>{cell}</td>")).collect();
        let _ = writeln!(html, "<tr>{cells}</tr>");
    }
    html + "</tbody></table></div>\n"
}

fn figure(value: Option<impl Display>) -> String {
    value.map_or_else(|| bad("–"), |value| value.to_string())
}

fn bad(what: impl Display) -> String {
    format!("<span class=\"bad\">{what}</span>")
}

fn tenths_of_seconds(ms: u64) -> String {
    let tenths = ms.div_ceil(100);
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn clock(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// Words from the evidence as text and as the value of an attribute: whatever a guest or a host called itself.
fn text(words: &str) -> String {
    let mut safe = String::with_capacity(words.len());
    for letter in words.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            letter => safe.push(letter),
        }
    }
    safe
}
