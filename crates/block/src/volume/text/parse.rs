//! Text into a tree. The text comes from a disk: its size and depth are bounded, nothing in it makes this panic.

use super::super::error::Damage;
use super::{Entry, Section, Value};
use std::collections::HashSet;
use winnow::Parser;
use winnow::combinator::{alt, cut_err, delimited, opt, preceded, repeat};
use winnow::error::{ContextError, ErrMode};
use winnow::token::{any, one_of, take_till, take_while};

/// More than any metadata area muskox opens; it bounds the memory a text can take.
pub const TEXT_MAX_BYTES: usize = 4 << 20;
/// LVM2's own metadata is five deep (group, volumes, volume, segment, policy settings).
const DEPTH_MAX: usize = 12;

type Input<'a> = &'a [u8];
type Answer<T> = Result<T, ErrMode<ContextError>>;

/// The tree of a whole text.
///
/// # Errors
/// [`Damage`] with the byte where the text stops being LVM2's.
pub fn parse(text: &[u8]) -> Result<Section, Damage> {
    if text.len() > TEXT_MAX_BYTES {
        return Err(damage(format!("it has {} bytes, more than any sound one", text.len())));
    }
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    let mut input = text;
    let parsed = entries(&mut input, 0);
    match parsed {
        Ok(section) if input.is_empty() => Ok(section),
        _ => Err(damage(format!("it makes no sense at byte {} of {}", text.len() - input.len(), text.len()))),
    }
}

/// Entries up to the end of the text or a closing brace.
fn entries(input: &mut Input<'_>, depth: usize) -> Answer<Section> {
    let (mut found, mut keys) = (Vec::new(), HashSet::new());
    loop {
        space(input)?;
        if matches!(input.first(), None | Some(b'}')) {
            return Ok(Section(found));
        }
        let before = *input;
        let key = key(input)?;
        if !keys.insert(key.clone()) {
            *input = before;
            return Err(ErrMode::Cut(ContextError::new()));
        }
        space(input)?;
        found.push((key, entry(input, depth)?));
    }
}

fn entry(input: &mut Input<'_>, depth: usize) -> Answer<Entry> {
    match one_of((b'=', b'{')).parse_next(input)? {
        b'=' => preceded(space, value).parse_next(input).map(Entry::Value),
        _ if depth >= DEPTH_MAX => Err(ErrMode::Cut(ContextError::new())),
        _ => {
            let section = entries(input, depth + 1)?;
            b'}'.parse_next(input)?;
            Ok(Entry::Section(section))
        }
    }
}

/// A name. A slash would be a path in LVM2's parser, quotes and brackets are never in a key it wrote.
fn key(input: &mut Input<'_>) -> Answer<String> {
    let allowed =
        |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.' | b'+' | b'#' | b'!' | b'@' | b':');
    let word = take_while(1.., move |c: u8| allowed(c) && c != b'#').parse_next(input)?;
    Ok(String::from_utf8(word.to_vec()).expect("only ASCII was taken"))
}

fn value(input: &mut Input<'_>) -> Answer<Value> {
    if input.first() != Some(&b'[') {
        return scalar(input);
    }
    any.void().parse_next(input)?;
    let mut items = Vec::new();
    loop {
        space(input)?;
        if opt(b']').parse_next(input)?.is_some() {
            return Ok(Value::List(items));
        }
        if !items.is_empty() {
            // LVM2 reads a list without commas too; it never writes one.
            (b',', space).void().parse_next(input)?;
        }
        items.push(scalar(input)?);
    }
}

fn scalar(input: &mut Input<'_>) -> Answer<Value> {
    alt((string, number)).parse_next(input)
}

fn number(input: &mut Input<'_>) -> Answer<Value> {
    let digits = || take_while(0.., |c: u8| c.is_ascii_digit());
    let shape = (opt(one_of((b'+', b'-'))), digits(), opt((b'.', digits())));
    let word = shape.take().parse_next(input)?;
    let word = std::str::from_utf8(word).expect("only ASCII was taken");
    if word.contains('.') && word.bytes().any(|c| c.is_ascii_digit()) {
        return Ok(Value::Fraction(word.to_owned()));
    }
    // A leading zero would be octal for LVM2 (strtoll with base 0), which never writes one.
    let digits = word.trim_start_matches(['+', '-']);
    if digits.len() > 1 && digits.starts_with('0') {
        return Err(ErrMode::Cut(ContextError::new()));
    }
    word.parse().map(Value::Number).map_err(|_| ErrMode::Cut(ContextError::new()))
}

/// A string in double quotes. A backslash makes a quote or a backslash plain, before any other byte it stands for
/// itself (source: lvm2 `libdm/libdm-string.c`, `dm_unescape_double_quotes`).
fn string(input: &mut Input<'_>) -> Answer<Value> {
    let plain = take_till(1.., (b'"', b'\\')).map(<[u8]>::to_vec);
    let escaped = preceded(b'\\', any).map(|c: u8| if matches!(c, b'"' | b'\\') { vec![c] } else { vec![b'\\', c] });
    let pieces = repeat(0.., alt((plain, escaped))).fold(Vec::new, |mut whole: Vec<u8>, piece: Vec<u8>| {
        whole.extend_from_slice(&piece);
        whole
    });
    delimited(b'"', pieces, cut_err(b'"')).map(Value::Text).parse_next(input)
}

/// Blanks and comments.
fn space(input: &mut Input<'_>) -> Answer<()> {
    loop {
        take_while(0.., |c: u8| c.is_ascii_whitespace() || c == 0x0b).void().parse_next(input)?;
        if input.first() != Some(&b'#') {
            return Ok(());
        }
        take_till(0.., b'\n').void().parse_next(input)?;
    }
}

fn damage(what: impl Into<String>) -> Damage {
    Damage::new("the LVM2 text", what)
}

#[cfg(test)]
mod test {
    use super::*;

    fn check(text: &str, expect: &Section) {
        assert_eq!(parse(text.as_bytes()).as_ref(), Ok(expect), "{text}");
    }

    fn refuse(text: &[u8]) -> String {
        parse(text).expect_err(&String::from_utf8_lossy(&text[..text.len().min(80)])).to_string()
    }

    #[test]
    fn every_kind_of_entry_is_read() {
        check("", &Section::default());
        check("# only a comment", &Section::default());
        check("a = 1 b=-2\nc = +3", &[("a", 1.into()), ("b", (-2).into()), ("c", 3.into())].into());
        check(r#"a = "x\"y\\z\w" # tail"#, &[("a", r#"x"y\z\w"#.into())].into());
        check("a = 1.50", &[("a", Entry::Value(Value::Fraction("1.50".into())))].into());
        check("a = []", &[("a", Entry::from([]))].into());
        check(
            r#"a = ["b", 0, "c", 9,]"#.replace(",]", "]").as_str(),
            &[("a", Entry::from(["b".into(), Value::Number(0), "c".into(), Value::Number(9)]))].into(),
        );
        let inner = Section::from([("id", Entry::from("x"))]);
        check("1.vg-a_b {\n\tid = \"x\"\n}\n\0trailing", &[("1.vg-a_b", Entry::Section(inner))].into());
    }

    #[test]
    fn broken_text_is_refused_with_the_place() {
        for text in [
            "a",
            "a =",
            "a = }",
            "a = [",
            "a = [1",
            "a = [1 2]",
            "a = [,]",
            "a = \"x",
            "a = 1.2.3",
            "a = .",
            "a = -",
            "a { b = 1",
            "a = 1 }",
            "a/b = 1",
            "= 1",
            "{}",
            "a = 010",
            "a = 99999999999999999999",
            "a = bare",
            "a = 'x'",
            "a = [[1]]",
            "\"a\" = 1",
        ] {
            refuse(text.as_bytes());
        }
        assert_eq!(refuse(b"abc = 1\nabc = 2"), "the LVM2 text is damaged: it makes no sense at byte 8 of 15");
    }

    /// Goal: no text exhausts the stack or the memory. Method: nest, repeat and lengthen far past what LVM2 writes.
    #[test]
    fn hostile_text_is_bounded() {
        refuse("a{".repeat(1 << 20).as_bytes());
        refuse("a=[".repeat(1 << 20).as_bytes());
        refuse(&vec![b' '; TEXT_MAX_BYTES + 1]);
        let long = format!("a = \"{}\"", "x".repeat(1 << 20));
        assert!(parse(long.as_bytes()).is_ok());
        let deep = format!("{}{}", "a{".repeat(DEPTH_MAX), "}".repeat(DEPTH_MAX));
        assert!(parse(deep.as_bytes()).is_ok());
        for byte in 0..=255 {
            let _ = parse(&[byte; 64]);
            let _ = parse(&[b'a', b'=', byte, byte, b'"']);
        }
    }
}
