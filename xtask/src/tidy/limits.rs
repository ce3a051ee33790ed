//! Files of at most 600 lines, functions of at most 70: what fits a screen is checked, what scrolls is trusted.
//! `#[cfg(test)]` modules are not counted. Exceptions stand in `xtask/ratchet.txt`; their numbers may only fall.

use super::{Finding, SourceFile};

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;

/// A line of the ratchet: what is too long, and by how much it was.
#[derive(Debug, PartialEq, Eq)]
pub struct Exception {
    what: String,
    lines: usize,
    at_line: usize,
}

/// Reads `path:NUMBER` and `path::function:NUMBER` lines; `#` begins a comment.
///
/// # Errors
/// A line that is neither.
pub fn read_ratchet(text: &str) -> Result<Vec<Exception>, Finding> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(at_line, line)| {
            let parsed = line.rsplit_once(':').and_then(|(what, lines)| Some((what, lines.trim().parse().ok()?)));
            let (what, lines) = parsed.ok_or_else(|| {
                Finding::new(
                    "xtask/ratchet.txt",
                    at_line,
                    format!("'{line}': write PATH:LINES or PATH::FUNCTION:LINES"),
                )
            })?;
            Ok(Exception { what: what.to_owned(), lines, at_line })
        })
        .collect()
}

/// What is too long and not excused, and what is excused without need.
pub fn check(files: &[SourceFile], ratchet: &[Exception]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut used = vec![false; ratchet.len()];
    for file in files {
        let code = without_tests(&file.masked);
        let mut found = vec![(file.path.clone(), 1, code.lines().count(), FILE_LINES)];
        for function in functions(&code) {
            found.push((format!("{}::{}", file.path, function.name), function.line, function.lines, FUNCTION_LINES));
        }
        for (what, line, lines, limit) in found.into_iter().filter(|(_, _, lines, limit)| lines > limit) {
            let excuse = ratchet.iter().position(|exception| exception.what == what);
            if let Some(index) = excuse {
                used[index] = true;
            }
            match excuse.map(|index| ratchet[index].lines) {
                Some(allowed) if lines == allowed => {}
                Some(allowed) if lines < allowed => findings.push(Finding::new(
                    "xtask/ratchet.txt",
                    ratchet[excuse.expect("matched above")].at_line,
                    format!("{what} shrank from {allowed} to {lines} lines: write the new number"),
                )),
                _ => findings.push(Finding::new(
                    &file.path,
                    line,
                    format!("{what} has {lines} lines, split it (at most {limit})"),
                )),
            }
        }
    }
    let stale = ratchet.iter().zip(used).filter(|(_, used)| !used);
    findings.extend(stale.map(|(exception, _)| {
        Finding::new(
            "xtask/ratchet.txt",
            exception.at_line,
            format!("{} is within the limits: remove the line", exception.what),
        )
    }));
    findings
}

/// The source with `#[cfg(test)] mod … { … }` cut out, lines above it unmoved.
pub fn without_tests(masked: &str) -> String {
    let mut code = masked.to_owned();
    while let Some(begin) = code.find("#[cfg(test)]\nmod ") {
        let Some(open) = code[begin..].find(['{', ';']).map(|open| begin + open) else {
            break;
        };
        let end = if code.as_bytes()[open] == b';' { open + 1 } else { close_of(&code, open) + 1 };
        code.replace_range(begin..end.min(code.len()), "");
    }
    code.trim_end().to_owned()
}

struct Function {
    name: String,
    line: usize,
    lines: usize,
}

/// Every `fn` with a body, nested ones too: from its `fn` line to its closing brace.
fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let is_keyword = at == 0 || !code.as_bytes()[at - 1].is_ascii_alphanumeric() && code.as_bytes()[at - 1] != b'_';
        let name: String = code[at + 3..].chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect();
        let Some(open) = body_of(code, at) else {
            continue;
        };
        if is_keyword && !name.is_empty() {
            let line = code[..at].matches('\n').count() + 1;
            let lines = code[at..close_of(code, open)].matches('\n').count() + 1;
            found.push(Function { name, line, lines });
        }
    }
    found
}

/// The brace that opens the body of the function at `at`; `None` for a declaration.
/// A `;` inside brackets belongs to an array type.
fn body_of(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (index, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b';' if depth == 0 => return None,
            b'{' if depth == 0 => return Some(index),
            _ => {}
        }
    }
    None
}

/// Where the brace at `open` is closed.
fn close_of(code: &str, open: usize) -> usize {
    let mut depth = 0_i32;
    for (index, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    code.len()
}

#[cfg(test)]
mod test {
    use super::*;

    fn file(source: &str) -> Vec<SourceFile> {
        vec![SourceFile::new("a.rs", source.to_owned())]
    }

    fn long_function(lines: usize) -> String {
        format!("fn long(at: [u8; 2]) {{\n{}}}\n", "    work();\n".repeat(lines - 2))
    }

    #[test]
    fn a_long_function_is_found_and_a_test_is_not() {
        assert!(check(&file(&long_function(70)), &[]).is_empty());
        let findings = check(&file(&long_function(71)), &[]);
        assert_eq!(findings[0].to_string(), "a.rs:1: a.rs::long has 71 lines, split it (at most 70)");
        let in_test = format!("#[cfg(test)]\nmod test {{\n{}}}\n", long_function(400));
        assert!(check(&file(&in_test), &[]).is_empty());
    }

    #[test]
    fn a_long_file_is_found_without_its_tests() {
        let tests = format!("#[cfg(test)]\nmod test {{\n{}}}\n", "use a;\n".repeat(50));
        assert!(check(&file(&("use a;\n".repeat(600) + &tests)), &[]).is_empty());
        let findings = check(&file(&("use a;\n".repeat(601) + &tests)), &[]);
        assert!(findings[0].to_string().contains("601 lines"), "{}", findings[0]);
    }

    #[test]
    fn the_ratchet_only_falls() {
        let check = |ratchet: &str| {
            let ratchet = read_ratchet(ratchet).unwrap();
            check(&file(&long_function(80)), &ratchet).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(check("# why\na.rs::long:80\n").is_empty());
        assert!(check("a.rs::long:79")[0].contains("split it"));
        assert!(check("a.rs::long:81")[0].contains("write the new number"));
        assert!(check("a.rs::long:80\nb.rs:900")[0].contains("remove the line"));
        assert!(read_ratchet("a.rs 80").is_err());
    }
}
