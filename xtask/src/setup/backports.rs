//! The backports source of this machine's own Debian mirror.
//!
//! An image may carry `qemu-utils` from backports while its sources lack them; then the rest of QEMU cannot be
//! installed (a version conflict). The missing source is derived from the machine's own Debian entry, same URI and key,
//! so that a mirror stays a mirror. Both of apt's formats are read: deb822 `.sources` and one-line `.list`
//! (sources.list(5)).

use anyhow::Context;
use std::path::{Path, PathBuf};

const OWN_FILE: &str = "apt/sources.list.d/muskox-backports.sources";

/// One enabled binary source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Source {
    uris: Vec<String>,
    suites: Vec<String>,
    signed_by: Option<String>,
    trusted: bool,
}

/// Sees to it that there is a backports source, and returns its suite.
///
/// # Errors
/// When the machine has no Debian source to derive one from, or the file cannot be written.
pub fn ensure_source(etc: &Path) -> anyhow::Result<String> {
    let codename = codename(&std::fs::read_to_string(etc.join("os-release")).context("reading os-release")?)?;
    let suite = format!("{codename}-backports");
    let sources = read_all(etc)?;
    if sources.iter().any(|source| source.suites.contains(&suite)) {
        return Ok(suite);
    }
    let own = sources.iter().find(|source| source.suites.contains(&codename));
    let own =
        own.with_context(|| format!("no apt source with suite {codename}: add {suite} by hand, then run setup again"))?;
    let path = etc.join(OWN_FILE);
    println!("adding {} ({} from {})", path.display(), suite, own.uris.join(" "));
    std::fs::write(&path, derived(own, &suite)).with_context(|| format!("writing {}", path.display()))?;
    Ok(suite)
}

fn codename(os_release: &str) -> anyhow::Result<String> {
    let line = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(line.context("os-release has no VERSION_CODENAME")?.trim_matches('"').to_owned())
}

fn derived(own: &Source, suite: &str) -> String {
    let mut text = format!(
        "# Written by `cargo xtask setup`: QEMU from backports.\nTypes: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n",
        own.uris.join(" ")
    );
    if let Some(key) = &own.signed_by {
        text += &format!("Signed-By: {key}\n");
    }
    if own.trusted {
        text += "Trusted: yes\n";
    }
    text
}

fn read_all(etc: &Path) -> anyhow::Result<Vec<Source>> {
    let mut paths: Vec<PathBuf> = vec![etc.join("apt/sources.list")];
    if let Ok(folder) = std::fs::read_dir(etc.join("apt/sources.list.d")) {
        paths.extend(folder.flatten().map(|entry| entry.path()));
    }
    paths.sort();
    let mut sources = Vec::new();
    for path in paths.iter().filter(|path| path.exists()) {
        let read = || std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(read()?.lines().filter_map(one_line)),
            Some("sources") => sources.extend(deb822(&read()?)),
            _ => {}
        }
    }
    Ok(sources)
}

/// `deb [signed-by=KEY trusted=yes] URI SUITE COMPONENT…`
fn one_line(line: &str) -> Option<Source> {
    let line = line.split('#').next().unwrap_or_default().trim().strip_prefix("deb ")?.trim();
    let (options, rest) = match line.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", line),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    let (uri, suite) = (words.next()?, words.next()?);
    let option =
        |name: &str| options.split_whitespace().find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
    Some(Source {
        uris: vec![uri],
        suites: vec![suite],
        signed_by: option("signed-by").map(str::to_owned),
        trusted: option("trusted") == Some("yes"),
    })
}

/// Stanzas of `Field: value`, continued by indented lines; an embedded key is such a continuation.
fn deb822(text: &str) -> Vec<Source> {
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    text.split(|line| line.trim().is_empty()).filter_map(stanza).collect()
}

fn stanza(lines: &[&str]) -> Option<Source> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in lines {
        match (line.starts_with([' ', '\t']), fields.last_mut()) {
            (true, Some((_, value))) => *value += &format!("\n{line}"),
            _ => {
                let (name, value) = line.split_once(':')?;
                fields.push((name.trim().to_lowercase(), value.trim().to_owned()));
            }
        }
    }
    let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.clone());
    let words = |name: &str| field(name).map(|value| value.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let enabled = field("enabled").is_none_or(|value| value != "no");
    let binary = words("types")?.contains(&"deb".to_owned());
    let source = Source {
        uris: words("uris")?,
        suites: words("suites")?,
        signed_by: field("signed-by"),
        trusted: field("trusted").as_deref() == Some("yes"),
    };
    (enabled && binary).then_some(source)
}

#[cfg(test)]
mod test {
    use super::*;

    const DEB822: &str = "Types: deb\n# a remark\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\nTypes: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\n";

    /// Goal: the derived source keeps mirror and key, is added once, and nothing is touched where one is.
    /// Method: an `/etc` of our own with each of apt's formats.
    fn check(name: &str, text: &str, expect: Option<&str>) {
        let etc = std::env::temp_dir().join(format!("muskox-setup-{}-{name}", std::process::id()));
        std::fs::create_dir_all(etc.join("apt/sources.list.d")).unwrap();
        std::fs::write(etc.join("os-release"), "NAME=\"Debian GNU/Linux\"\nVERSION_CODENAME=bookworm\n").unwrap();
        std::fs::write(etc.join("apt/sources.list.d").join(name), text).unwrap();
        let suite = ensure_source(&etc);
        let again = ensure_source(&etc);
        let written = std::fs::read_to_string(etc.join(OWN_FILE)).ok();
        std::fs::remove_dir_all(&etc).unwrap();
        assert_eq!(suite.unwrap(), "bookworm-backports");
        assert_eq!(again.unwrap(), "bookworm-backports");
        let fields =
            written.map(|text| text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n"));
        assert_eq!(fields.as_deref(), expect);
    }

    #[test]
    fn a_source_is_derived_from_deb822() {
        let expect = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg";
        check("debian.sources", DEB822, Some(expect));
    }

    #[test]
    fn a_source_is_derived_from_one_line() {
        let text = "# deb http://other.example/debian bookworm main\ndeb-src http://other.example/debian bookworm main\ndeb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib # ours\n";
        check(
            "debian.list",
            text,
            Some(
                "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm-backports\nComponents: main\nSigned-By: /k.gpg",
            ),
        );
    }

    #[test]
    fn a_present_source_is_left_alone() {
        check("a.sources", &DEB822.replace("bookworm-updates", "bookworm-backports"), None);
        check("b.list", "deb http://mirror.example/debian bookworm-backports main\n", None);
    }

    #[test]
    fn a_disabled_source_is_none() {
        let off = DEB822
            .replace(
                "Types: deb\nURIs: http://mirror.example/debian-security",
                "Enabled: no\nTypes: deb\nURIs: http://x/",
            )
            .replace("bookworm-security", "bookworm-backports");
        assert_eq!(deb822(&off).len(), 1);
    }

    /// Goal: without a Debian source nothing is written. Method: an `/etc` without any.
    #[test]
    fn nothing_to_derive_from_is_said() {
        assert!(one_line("deb-src http://a b c").is_none());
        assert_eq!(deb822("Types: deb-src\nURIs: http://a\nSuites: bookworm\n"), Vec::new());
    }
}
