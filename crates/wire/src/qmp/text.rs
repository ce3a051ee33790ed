//! A monitor's words as they may be shown to people: bounded, without control characters.

/// The most that is kept of a text of the monitor's: a few lines of a terminal.
const SHOWN_MAX: usize = 1000;

/// `text`, bounded and printable.
pub(super) fn shown(text: &str) -> String {
    let text = &text[..text.floor_char_boundary(SHOWN_MAX)];
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
