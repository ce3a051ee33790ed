//! Failovers up close: where the time went, one bar each on one scale.

use super::tenths_of_seconds;
use crate::demo::report::Failover;
use std::fmt::Write;

/// The parts of a failover, in their order.
const PARTS: [(&str, &str); 4] =
    [("noticed", "b3"), ("fenced", "b2"), ("vCPUs started", "b0"), ("the guest booted and answered", "b1")];

/// The bars.
pub fn draw(failovers: &[Failover]) -> String {
    let whole = failovers.iter().filter_map(|one| moments(one).into_iter().flatten().max()).max().unwrap_or(1).max(1);
    let mut html = "<div class=\"card close\">\n".to_owned();
    for one in failovers {
        let (mut begin, mut bars) = (0, String::new());
        for (end, (what, colour)) in moments(one).into_iter().zip(PARTS) {
            let Some(end) = end.filter(|end| *end >= begin) else { break };
            // Thousandths of the longest.
            let width = (end - begin) * 1000 / whole;
            let (from, to) = (tenths_of_seconds(begin), tenths_of_seconds(end));
            let _ = write!(
                bars,
                "<span title=\"{what}: {from} to {to} s\" style=\"width:{}.{}%;background:var(--{colour})\"></span>",
                width / 10,
                width % 10
            );
            begin = end;
        }
        let (cause, total) = (super::text(&one.cause), tenths_of_seconds(begin));
        let _ = writeln!(
            html,
            "<div class=\"row\"><span>{cause}</span><div class=\"bar\">{bars}</div><span class=\"soft\">{total} s</span></div>"
        );
    }
    html + &legend() + "</div>\n"
}

fn legend() -> String {
    let part =
        |(what, colour): &(&str, &str)| format!("<span><i style=\"background:var(--{colour})\"></i>{what}</span>");
    format!("<div class=\"legend\">{}</div>\n", PARTS.iter().map(part).collect::<String>())
}

fn moments(one: &Failover) -> [Option<u64>; 4] {
    [one.detect_ms, one.fence_ms, one.vcpus_running_ms, one.guest_answers_ms]
}
