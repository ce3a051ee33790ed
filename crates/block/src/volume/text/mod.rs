//! LVM2's text metadata as a tree, kept whole: what muskox does not know is written back as it was read.
//!
//! Grammar (source: lvm2 `libdm/libdm-config.c`): `key = value`, `key { … }`, values are numbers, strings in double
//! quotes, or lists in brackets; `#` begins a comment. A NUL ends the text. Comments are not kept: LVM2 itself drops
//! them at every change. Invariant: `parse(write(tree)) == tree`.

mod parse;
mod write;

pub use parse::{TEXT_MAX_BYTES, parse};
pub use write::write;

/// The entries of a section, in the order of the text. Keys are unique.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section(pub Vec<(String, Entry)>);

/// What a key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// `key = value`.
    Value(Value),
    /// `key { … }`.
    Section(Section),
}

/// The right side of `=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A whole number.
    Number(i64),
    /// A number with a point, as it was written: LVM2 metadata computes with none.
    Fraction(String),
    /// A string; LVM2 allows any bytes but NUL.
    Text(Vec<u8>),
    /// A list of the above.
    List(Vec<Value>),
}

impl Section {
    /// What `key` stands for.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, entry)| entry)
    }

    /// The value of `key`, if it is one.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        match self.get(key)? {
            Entry::Value(value) => Some(value),
            Entry::Section(_) => None,
        }
    }

    /// The section `key`, if it is one.
    #[must_use]
    pub fn section(&self, key: &str) -> Option<&Section> {
        match self.get(key)? {
            Entry::Section(section) => Some(section),
            Entry::Value(_) => None,
        }
    }

    /// The section `key`, to change it.
    pub fn section_mut(&mut self, key: &str) -> Option<&mut Section> {
        self.0.iter_mut().find(|(name, _)| name == key).and_then(|(_, entry)| match entry {
            Entry::Section(section) => Some(section),
            Entry::Value(_) => None,
        })
    }

    /// All sections in here.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.0.iter().filter_map(|(name, entry)| match entry {
            Entry::Section(section) => Some((name.as_str(), section)),
            Entry::Value(_) => None,
        })
    }

    /// Sets `key`, in its place if it is there, else at the end.
    pub fn set(&mut self, key: &str, entry: Entry) {
        match self.0.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = entry,
            None => self.0.push((key.to_owned(), entry)),
        }
    }

    /// Sets `key` behind the entry `after` if it is new and `after` is there.
    pub fn set_after(&mut self, after: &str, key: &str, entry: Entry) {
        let place = self.0.iter().position(|(name, _)| name == after);
        match place {
            Some(place) if self.get(key).is_none() => self.0.insert(place + 1, (key.to_owned(), entry)),
            _ => self.set(key, entry),
        }
    }

    /// Removes `key`, if it is there.
    pub fn remove(&mut self, key: &str) {
        self.0.retain(|(name, _)| name != key);
    }
}

impl Value {
    /// The number, if it is one.
    #[must_use]
    pub fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The string, if it is one and readable.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The items of a list; any other value is a list of itself.
    #[must_use]
    pub fn items(&self) -> &[Value] {
        match self {
            Self::List(items) => items,
            single => std::slice::from_ref(single),
        }
    }
}

impl From<&str> for Entry {
    fn from(text: &str) -> Self {
        Self::Value(text.into())
    }
}

impl From<i64> for Entry {
    fn from(number: i64) -> Self {
        Self::Value(Value::Number(number))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.as_bytes().to_vec())
    }
}

impl<const N: usize> From<[Value; N]> for Entry {
    fn from(items: [Value; N]) -> Self {
        Self::Value(Value::List(items.into()))
    }
}

impl<const N: usize> From<[(&str, Entry); N]> for Section {
    fn from(entries: [(&str, Entry); N]) -> Self {
        Self(entries.into_iter().map(|(key, entry)| (key.to_owned(), entry)).collect())
    }
}
