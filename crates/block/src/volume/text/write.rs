//! A tree into text, in the shape LVM2 writes on disk: no indentation, a NUL behind it is the area's business.

use super::{Entry, Section, Value};

/// The text of `tree`, one entry a line.
#[must_use]
pub fn write(tree: &Section) -> Vec<u8> {
    let mut text = Vec::with_capacity(4096);
    put_section(&mut text, tree);
    text
}

fn put_section(text: &mut Vec<u8>, section: &Section) {
    for (key, entry) in &section.0 {
        text.extend_from_slice(key.as_bytes());
        match entry {
            Entry::Value(value) => {
                text.extend_from_slice(b" = ");
                put_value(text, value);
                text.push(b'\n');
            }
            Entry::Section(inner) => {
                text.extend_from_slice(b" {\n");
                put_section(text, inner);
                text.extend_from_slice(b"}\n");
            }
        }
    }
}

fn put_value(text: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Number(number) => text.extend_from_slice(number.to_string().as_bytes()),
        Value::Fraction(word) => text.extend_from_slice(word.as_bytes()),
        Value::Text(bytes) => put_string(text, bytes),
        Value::List(items) => {
            text.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.extend_from_slice(b", ");
                }
                put_value(text, item);
            }
            text.push(b']');
        }
    }
}

fn put_string(text: &mut Vec<u8>, bytes: &[u8]) {
    text.push(b'"');
    for &byte in bytes {
        if matches!(byte, b'"' | b'\\') {
            text.push(b'\\');
        }
        text.push(byte);
    }
    text.push(b'"');
}

#[cfg(test)]
mod test {
    use super::super::parse;
    use super::*;

    /// Goal: what is read is written back the same, whatever is in it. Method: one of everything, there and back.
    #[test]
    fn a_tree_survives_text() {
        let inner = Section::from([
            ("empty", Entry::from([])),
            ("odd", Entry::Value(Value::Text(vec![b'"', b'\\', b'\n', 0xff, b'#', b'}', b'\\']))),
            ("pair", Entry::from(["pv0".into(), Value::Number(7)])),
        ]);
        let tree = Section::from([
            ("small", i64::MIN.into()),
            ("big", i64::MAX.into()),
            ("share", Entry::Value(Value::Fraction("-0.5".into()))),
            ("nested", Entry::Section([("deeper", Entry::Section(inner))].into())),
            ("nothing", Entry::Section(Section::default())),
        ]);
        assert_eq!(parse(&write(&tree)), Ok(tree));
    }
}
