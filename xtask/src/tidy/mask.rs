//! Rust source with comments and literals blanked out, so that rules about code look at code only.
//! Lines and columns stay where they are. Not a parser: it knows just enough of the lexical grammar
//! (The Rust Reference, "Comments" and "Tokens") not to be fooled by a brace in a string.

/// `source` with the insides of comments, strings and characters replaced by spaces.
pub fn mask(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        match end {
            Some(end) => {
                blank(&mut out[at..end]);
                at = end;
            }
            // A word is skipped as a whole: the `r` of `for"` is no raw string.
            None if is_word(bytes[at]) => at += bytes[at..].iter().take_while(|byte| is_word(**byte)).count(),
            None => at += 1,
        }
    }
    String::from_utf8(out).expect("whole literals and comments were replaced by ASCII")
}

/// Where the comment or literal that begins at `at` ends, if one does.
fn literal_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return Some(at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(b"/*") {
        return Some(at + block_comment_len(rest));
    }
    let prefix = rest.iter().take(2).take_while(|byte| b"bcr".contains(byte)).count();
    let (before, quoted) = rest.split_at(prefix);
    if before.ends_with(b"r") {
        let hashes = quoted.iter().take_while(|byte| **byte == b'#').count();
        if quoted.get(hashes) == Some(&b'"') {
            let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
            let body = hashes + 1;
            let len = quoted[body..].windows(close.len()).position(|window| window == close);
            return Some(at + prefix + len.map_or(quoted.len(), |len| body + len + close.len()));
        }
        return None;
    }
    match quoted.first() {
        Some(b'"') => Some(at + prefix + escaped_len(quoted, b'"')),
        // A lifetime has no closing quote two characters on.
        Some(b'\'') if before.is_empty() || before == b"b" => {
            let is_char = quoted.get(1) == Some(&b'\\') || closes_after_one_char(quoted);
            is_char.then(|| at + prefix + escaped_len(quoted, b'\''))
        }
        _ => None,
    }
}

fn closes_after_one_char(quoted: &[u8]) -> bool {
    let width = match quoted.get(1) {
        Some(0xF0..) => 4,
        Some(0xE0..) => 3,
        Some(0xC0..) => 2,
        _ => 1,
    };
    quoted.get(1 + width) == Some(&b'\'')
}

fn escaped_len(quoted: &[u8], close: u8) -> usize {
    let mut at = 1;
    while at < quoted.len() && quoted[at] != close {
        at += if quoted[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(quoted.len())
}

fn block_comment_len(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn blank(bytes: &mut [u8]) {
    bytes.iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_code_is_left() {
        let check = |source: &str, expect: &str| assert_eq!(mask(source), expect, "{source}");
        check("a // {\nb", "a     \nb");
        check("a /* { /* } */ */ b", "a                 b");
        check(r#"f("{ \" }", b"{")"#, "f(        ,     )");
        check(r##"f(r#"{ " }"#)"##, "f(          )");
        check(r"match c { '{' => 1, '\'' => 2, 'ä' => 3 }", "match c {     => 1,      => 2,      => 3 }");
        check("fn f<'a>(x: &'a str) -> &'a str { x }", "fn f<'a>(x: &'a str) -> &'a str { x }");
    }
}
