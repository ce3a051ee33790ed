//! Files and objects of other versions: which of them this program may read.
//!
//! The rule, for everything that outlives the process that wrote it: it carries a `version`; a higher one than is known is
//! refused by that number; a field that is not known is passed over and written back as it was
//! ([`cluster::store::UnknownFields`]); a field that is missing has a default or is named in the refusal. What was refused is
//! never taken for something that is not there. The test of this module tries all of them.

use serde::Deserialize;

/// Refuses a text of a newer form. One without a version is of the first.
///
/// # Errors
/// What it is, for people.
pub fn check_version(text: &str, known: u32) -> Result<(), String> {
    serde_json::from_str::<Form>(text).map_err(|error| error.to_string())?.check(known)
}

/// As [`check_version`], of a TOML text.
///
/// # Errors
/// What it is, for people.
pub fn check_toml_version(text: &str, known: u32) -> Result<(), String> {
    toml::from_str::<Form>(text).map_err(|error| toml_mistake(text, &error))?.check(known)
}

/// A mistake in TOML as one line, for people: `toml` cites the place over several.
#[must_use]
pub fn toml_mistake(text: &str, error: &toml::de::Error) -> String {
    let what = error.message().trim_end().replace('\n', "; ");
    match error.span() {
        Some(place) => {
            let before = text.get(..place.start).unwrap_or(text);
            format!("line {}: {what}", before.matches('\n').count() + 1)
        }
        None => what,
    }
}

#[derive(Deserialize)]
struct Form {
    #[serde(default = "first")]
    version: u64,
}

const fn first() -> u64 {
    1
}

impl Form {
    fn check(&self, known: u32) -> Result<(), String> {
        match self.version {
            version if version == u64::from(known) => Ok(()),
            version => {
                Err(format!("its version is {version}, this muskox knows {known}; run the muskox that wrote it"))
            }
        }
    }
}

#[cfg(test)]
mod test;
#[cfg(test)]
pub use test::{Kind, brief, object};
