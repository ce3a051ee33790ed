//! Objects and files that another version wrote: what this version does not know of them is kept.
//!
//! Every object of the store and every file that outlives its process carries a `version`. A version is raised only when
//! an older program must not touch the object any more; it then refuses it by that number, and nothing is done with what
//! it belongs to. A new field does not raise it: an older program passes over the field, and writes it back unchanged.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The fields of an object that this version does not know, for `#[serde(flatten)]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnknownFields(Map<String, Value>);

impl UnknownFields {
    /// Their names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// Whether a stored text says what is expected of it: each field that is expected has that value. The order of fields and
/// fields that only another version knows do not count.
#[must_use]
pub fn agrees(stored: &str, expected: &str) -> bool {
    if stored == expected {
        return true;
    }
    match (serde_json::from_str(stored), serde_json::from_str(expected)) {
        (Ok(Value::Object(stored)), Ok(Value::Object(expected))) => {
            expected.iter().all(|(name, value)| stored.get(name) == Some(value))
        }
        (Ok(stored), Ok(expected)) => stored == expected,
        _ => false,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// CA2. Goal: what another version added or ordered differently makes no object another one; a field that differs or is
    /// missing does. Method: a table.
    #[test]
    fn unknown_fields_change_no_comparison() {
        let expected = r#"{"version":1,"epoch":7,"vm":null}"#;
        for stored in
            [expected, r#"{"vm":null, "epoch":7, "version":1}"#, r#"{"version":1,"x":{"y":1},"epoch":7,"vm":null}"#]
        {
            assert!(agrees(stored, expected), "{stored}");
        }
        for stored in [r#"{"version":1,"epoch":8,"vm":null}"#, r#"{"version":1,"epoch":7}"#, "7", "{", ""] {
            assert!(!agrees(stored, expected), "{stored}");
        }
        assert!(agrees("1", "1") && agrees(" 1", "1") && !agrees("1", "2"));
    }
}
