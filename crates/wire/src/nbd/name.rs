//! The export name: which volume, and as whom it is attached.
//!
//! A stock client asks for `VOLUME`. A muskox initiator says which attachment its connection belongs to:
//! `VOLUME;epoch=E;incarnation=I;mode=rw|ro`. The three keys come together, in any order, each once; numbers are
//! decimal without sign or leading zero, so that one attachment has one number. A volume's name holds no `;`.
//! Who the initiator *is* does not stand here: that is its TLS key.

use super::constant::STRING_MAX;
use super::error::shown;
use std::fmt;
use std::str::FromStr;
use units::{Epoch, IdentError, Incarnation, Mode, VolumeName};

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportName {
    /// Which volume.
    pub volume: VolumeName,
    /// As whom; a stock client does not say.
    pub attach: Option<AttachAs>,
}

/// The attachment a connection belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachAs {
    /// The epoch it writes under.
    pub epoch: Epoch,
    /// Which life of the initiator.
    pub incarnation: Incarnation,
    /// What it wants to do.
    pub mode: Mode,
}

/// Why a text is not an export name; the server answers with the words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Longer than the protocol allows.
    #[error("the export name has {0} bytes, at most {STRING_MAX} are allowed")]
    TooLong(usize),
    /// The part before the first `;` is no volume's name.
    #[error("{0}; an export name is VOLUME or VOLUME;epoch=E;incarnation=I;mode=rw|ro")]
    Volume(#[from] IdentError),
    /// Not one of the three keys.
    #[error("'{0}' in the export name is not epoch=E, incarnation=I or mode=rw|ro; remove it")]
    UnknownKey(String),
    /// A key given twice.
    #[error("the export name has '{0}' twice; give it once")]
    Twice(&'static str),
    /// A key with a value that is none.
    #[error("'{value}' is no value for {key} in the export name; use {want}")]
    BadValue {
        /// Which key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What it takes.
        want: &'static str,
    },
    /// Some of the keys, but not all three.
    #[error("the export name lacks {0}=; give epoch, incarnation and mode together or none of them")]
    Missing(&'static str),
}

impl FromStr for ExportName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > STRING_MAX {
            return Err(NameError::TooLong(text.len()));
        }
        let Some((volume, keys)) = text.split_once(';') else {
            return Ok(Self { volume: text.parse()?, attach: None });
        };
        Ok(Self { volume: volume.parse()?, attach: Some(parse_keys(keys)?) })
    }
}

fn parse_keys(keys: &str) -> Result<AttachAs, NameError> {
    let (mut epoch, mut incarnation, mut mode) = (None, None, None);
    for part in keys.split(';') {
        match part.split_once('=') {
            Some(("epoch", value)) => once(&mut epoch, "epoch", Epoch(number("epoch", value)?))?,
            Some(("incarnation", value)) => {
                once(&mut incarnation, "incarnation", Incarnation(number("incarnation", value)?))?;
            }
            Some(("mode", value)) => once(&mut mode, "mode", parse_mode(value)?)?,
            _ => return Err(NameError::UnknownKey(shown(short(part)))),
        }
    }
    Ok(AttachAs {
        epoch: epoch.ok_or(NameError::Missing("epoch"))?,
        incarnation: incarnation.ok_or(NameError::Missing("incarnation"))?,
        mode: mode.ok_or(NameError::Missing("mode"))?,
    })
}

fn once<T>(slot: &mut Option<T>, key: &'static str, value: T) -> Result<(), NameError> {
    if slot.replace(value).is_some() { Err(NameError::Twice(key)) } else { Ok(()) }
}

fn number(key: &'static str, value: &str) -> Result<u64, NameError> {
    let canonical = value == "0" || (!value.starts_with('0') && value.bytes().all(|c| c.is_ascii_digit()));
    let bad = || NameError::BadValue { key, value: shown(short(value)), want: "a decimal number below 2^64" };
    if canonical { value.parse().map_err(|_| bad()) } else { Err(bad()) }
}

fn parse_mode(value: &str) -> Result<Mode, NameError> {
    match value {
        "rw" => Ok(Mode::Rw),
        "ro" => Ok(Mode::Ro),
        _ => Err(NameError::BadValue { key: "mode", value: shown(short(value)), want: "rw or ro" }),
    }
}

/// The start of a text, long enough to recognise it in a message.
fn short(text: &str) -> &[u8] {
    &text.as_bytes()[..text.floor_char_boundary(80)]
}

impl fmt::Display for ExportName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.volume.as_str())?;
        match self.attach {
            None => Ok(()),
            Some(AttachAs { epoch, incarnation, mode }) => {
                write!(f, ";epoch={};incarnation={};mode={mode}", epoch.0, incarnation.0)
            }
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// What is written is read back the same, at both ends of the numbers.
    #[test]
    fn a_name_survives_text_both_ways() {
        let volume: VolumeName = "web-1.data".parse().unwrap();
        let mut names = vec![ExportName { volume: volume.clone(), attach: None }];
        for (epoch, incarnation, mode) in [(0, 0, Mode::Ro), (1, 2, Mode::Rw), (u64::MAX, u64::MAX, Mode::Rw)] {
            let attach = Some(AttachAs { epoch: Epoch(epoch), incarnation: Incarnation(incarnation), mode });
            names.push(ExportName { volume: volume.clone(), attach });
        }
        for name in names {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        let swapped: ExportName = "v;mode=rw;incarnation=2;epoch=1".parse().unwrap();
        assert_eq!(swapped.to_string(), "v;epoch=1;incarnation=2;mode=rw");
    }

    /// Every way to get a name wrong is refused with a text that names the part.
    #[test]
    fn a_wrong_name_is_refused_with_words() {
        let table = [
            ("", "is not a name"),
            ("../x", "is not a name"),
            ("V;epoch=1;incarnation=1;mode=rw", "is not a name"),
            ("v;", "remove it"),
            ("v;epoch=1;incarnation=1;mode=rw;", "remove it"),
            ("v;epoch=1;incarnation=1;mode=rw;host=a", "'host=a'"),
            ("v;epoch=1;epoch=1;incarnation=1;mode=rw", "'epoch' twice"),
            ("v;epoch=1", "lacks incarnation="),
            ("v;incarnation=1;mode=rw", "lacks epoch="),
            ("v;epoch=1;incarnation=1", "lacks mode="),
            ("v;epoch=;incarnation=1;mode=rw", "'' is no value for epoch"),
            ("v;epoch=+1;incarnation=1;mode=rw", "'+1'"),
            ("v;epoch=01;incarnation=1;mode=rw", "'01'"),
            ("v;epoch=18446744073709551616;incarnation=1;mode=rw", "below 2^64"),
            ("v;epoch=1;incarnation=-1;mode=rw", "'-1'"),
            ("v;epoch=1;incarnation=1;mode=RW", "use rw or ro"),
            ("v; epoch=1;incarnation=1;mode=rw", "' epoch=1'"),
        ];
        for (text, part) in table {
            let error = text.parse::<ExportName>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let long = format!("v;{}", "x".repeat(STRING_MAX));
        assert_eq!(long.parse::<ExportName>(), Err(NameError::TooLong(STRING_MAX + 2)));
        let longest = format!("v;{}", "x".repeat(STRING_MAX - 2));
        assert!(longest.parse::<ExportName>().unwrap_err().to_string().len() < 300);
    }
}
