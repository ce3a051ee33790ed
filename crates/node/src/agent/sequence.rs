//! The order of this host's words: which life of the agent said them, and the how-manieth in it.
//!
//! A life's number is one more than that of the life before, which is kept on disk. Not a time of day: a clock that is set back
//! between two lives would make all that the later one says older than what the earlier one said. If the file is lost, whoever
//! hears us goes by the new numbers as soon as the old ones have been silent for long (`director::hosts`).
//!
//! The file is JSON; before, it was the number alone. `life` means the same in every version, so that a newer one's file is
//! counted on and otherwise left as it is.

use super::place::Place;
use crate::peer::Sequence;
use crate::root::{read_text, write_secret};
use cluster::store::UnknownFields;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, OnceCell};
use std::path::PathBuf;

/// The file.
#[derive(Serialize, Deserialize)]
pub struct Lives {
    version: u32,
    life: u64,
    #[serde(flatten)]
    unknown_fields: UnknownFields,
}

impl Default for Lives {
    fn default() -> Self {
        Self { version: 1, life: 0, unknown_fields: UnknownFields::default() }
    }
}

impl Lives {
    /// Reads it, also as it was written before.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim().parse() {
            Ok(life) => Ok(Self { life, ..Self::default() }),
            Err(_) => serde_json::from_str(text).map_err(|error| error.to_string()),
        }
    }

    /// As it is written.
    #[must_use]
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("plain values are JSON")
    }
}

/// The counter. Its life begins with its first number.
pub struct Sequences {
    file: PathBuf,
    life: OnceCell<u64>,
    number: Cell<u64>,
}

impl Sequences {
    /// Of the agent of this machine.
    #[must_use]
    pub fn new(place: &Place) -> Self {
        Self { file: place.kept("agent-life"), life: OnceCell::new(), number: Cell::new(0) }
    }

    /// The next one: for what is said right now.
    pub fn next(&self) -> Sequence {
        let number = self.number.get() + 1;
        self.number.set(number);
        Sequence { life: *self.life.get_or_init(|| self.begin()), number }
    }

    /// A life begins: kept before anything is said in it.
    fn begin(&self) -> u64 {
        let before = match self.file.try_exists() {
            Ok(false) => Ok(Lives::default()),
            _ => read_text(&self.file).map(|text| self.read(&text)),
        };
        let kept = before.and_then(|mut lives| {
            lives.life = lives.life.saturating_add(1);
            write_secret(&self.file, &lives.text()).map(|()| lives.life)
        });
        kept.unwrap_or_else(|problem| {
            tracing::error!("{problem}; for a minute this host may not be believed; hint: {}", problem.hint);
            1
        })
    }

    fn read(&self, text: &str) -> Lives {
        Lives::parse(text).unwrap_or_else(|error| {
            tracing::error!(
                "'{}' begins anew: {error}; for a minute this host may not be believed",
                self.file.display()
            );
            Lives::default()
        })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: whatever is said later has the greater sequence, also in the next life, and a file that is torn
    /// is made anew; one of an older or newer version is counted on. Method: three lives on one file, two on a torn one, one on
    /// each of the others.
    #[test]
    fn sequences_grow_over_lives() {
        let file = std::env::temp_dir().join(format!("muskox-agent-life-{}", std::process::id()));
        let _ = std::fs::remove_file(&file);
        let life = || Sequences { file: file.clone(), life: OnceCell::new(), number: Cell::new(0) };
        let mut said = Vec::new();
        for _ in 0..3 {
            let life = life();
            said.extend([life.next(), life.next()]);
        }
        assert!(said.is_sorted() && said[0] < said[1] && said[1] < said[2], "{said:?}");
        assert_eq!(said[5], Sequence { life: 3, number: 2 });
        std::fs::write(&file, "x").unwrap();
        assert_eq!(life().next(), Sequence { life: 1, number: 1 });
        assert_eq!(life().next(), Sequence { life: 2, number: 1 });
        std::fs::write(&file, "41\n").unwrap();
        assert_eq!(life().next().life, 42);
        std::fs::write(&file, r#"{"version":9,"life":7,"x":"y"}"#).unwrap();
        assert_eq!(life().next().life, 8);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), r#"{"version":9,"life":8,"x":"y"}"#);
        std::fs::remove_file(&file).unwrap();
    }
}
