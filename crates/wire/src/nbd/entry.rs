//! Why an attach was refused, for the initiator to read: a refusal's text ends with a mark in brackets.
//!
//! The protocol has one error for "policy" and a text for people. An initiator must know when there is no point in
//! trying again (its epoch is over) without guessing from words: `… [epoch-over held=5 current=7]`.

use super::{OptionError, Refusal};
use units::Epoch;

/// A refusal that a machine understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEntry {
    /// The attachment's epoch is over for good.
    EpochOver {
        /// What the initiator holds.
        held: Epoch,
        /// What the volume is at.
        current: Epoch,
    },
}

impl NoEntry {
    /// The refusal that says so, after `text` for people.
    #[must_use]
    pub fn refusal(self, text: &str) -> Refusal {
        let Self::EpochOver { held, current } = self;
        // A cut text would lose the mark at its end.
        let text: String = text.chars().take(TEXT_MAX_CHARS).collect();
        Refusal::policy(format!("{text} [epoch-over held={} current={}]", held.0, current.0))
    }

    /// What a refusal says, if a machine can know. A mark that does not parse, or whose numbers make no sense, is none.
    #[must_use]
    pub fn of(refusal: &Refusal) -> Option<Self> {
        if refusal.kind != OptionError::Policy {
            return None;
        }
        let (_, mark) = refusal.text.strip_suffix(']')?.rsplit_once(" [epoch-over held=")?;
        let (held, current) = mark.split_once(" current=")?;
        let number = |text: &str| text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        let (held, current) = (Epoch(number(held)?), Epoch(number(current)?));
        (held < current).then_some(Self::EpochOver { held, current })
    }
}

/// Leaves room for the mark within the protocol's 4096 bytes, four bytes a character.
const TEXT_MAX_CHARS: usize = 900;

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_mark_survives_the_wire_and_nothing_else_is_one() {
        let over = NoEntry::EpochOver { held: Epoch(5), current: Epoch(7) };
        for text in ["volume web1 is at epoch 7", "", "[x]", &"ä".repeat(5000)] {
            assert_eq!(NoEntry::of(&over.refusal(text)), Some(over), "{text}");
        }
        for text in [
            "volume web1 is at epoch 7",
            "x [epoch-over held=5 current=5]",
            "x [epoch-over held=7 current=5]",
            "x [epoch-over held=+5 current=7]",
            "x [epoch-over held=5 current=99999999999999999999]",
            "x [epoch-over held=5 current=7] y",
        ] {
            assert_eq!(NoEntry::of(&Refusal::policy(text)), None, "{text}");
        }
        let unknown = Refusal::unknown(over.refusal("x").text);
        assert_eq!(NoEntry::of(&unknown), None);
    }
}
