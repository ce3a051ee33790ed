//! The target's configuration: TOML in, checked values out. A mistake names the file, the line, the key and the way out;
//! nothing is touched before all of it is right.

use crate::config::{ConfigError, Mistake, Page, RawTls, host_key, read, socket_path, tcp_address};
use host::net::TlsFiles;
use serde::Deserialize;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use units::HostKey;

const MANUAL: &str = "docs/runbooks/target.md";

/// What a target is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where `muskox ctl` and the control plane speak to it.
    pub control: PathBuf,
    /// Where it keeps which pools it knows.
    pub state_dir: PathBuf,
    /// Where to look for members that are not where they were.
    pub disks: Vec<PathBuf>,
    /// Where initiators come in.
    pub listeners: Vec<Listener>,
}

/// One place where NBD clients come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where.
    pub at: Endpoint,
    /// Who the clients are.
    pub trust: Trust,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// How a listener learns who a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// By the key of the client's certificate.
    Tls(TlsFiles),
    /// Everybody who reaches the listener is this host.
    Named(HostKey),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    control: Spanned<PathBuf>,
    state_dir: Spanned<PathBuf>,
    #[serde(default)]
    disks: Vec<PathBuf>,
    listen: Option<Vec<Spanned<RawListener>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawListener {
    nbd: Option<Spanned<String>>,
    nbd_unix: Option<Spanned<PathBuf>>,
    #[serde(default)]
    plaintext: bool,
    identity: Option<Spanned<String>>,
    tls: Option<RawTls>,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::parse(file, &read(file, MANUAL)?)
    }

    /// Checks a text. Paths in it are relative to the folder of `file`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let page = Page { file, text, manual: MANUAL };
        let complain = |mistake| page.complain(mistake);
        let raw: RawConfig = page.parse()?;
        let base = page.folder();
        let control = base.join(socket_path("control", &raw.control).map_err(complain)?);
        let listeners = raw.listen.as_deref().unwrap_or_default();
        let listeners: Result<Vec<_>, _> = listeners.iter().map(|raw| listener(base, raw)).collect();
        let listeners = listeners.and_then(distinct).map_err(complain)?;
        Ok(Self {
            control,
            state_dir: base.join(raw.state_dir.into_inner()),
            disks: raw.disks.iter().map(|disk| base.join(disk)).collect(),
            listeners: listeners.into_iter().map(|(_, listener)| listener).collect(),
        })
    }
}

type Placed = (Range<usize>, Listener);

fn distinct(listeners: Vec<Placed>) -> Result<Vec<Placed>, Mistake> {
    for (index, (place, later)) in listeners.iter().enumerate() {
        if listeners[..index].iter().any(|(_, earlier)| earlier.at == later.at) {
            let hint = "give every [[listen]] its own address".to_owned();
            return Err((place.clone(), "two listeners have the same address".to_owned(), hint));
        }
    }
    Ok(listeners)
}

fn listener(base: &Path, spanned: &Spanned<RawListener>) -> Result<Placed, Mistake> {
    let (place, raw) = (spanned.span(), spanned.get_ref());
    let wrong = |what: &str, hint: &str| (place.clone(), what.to_owned(), hint.to_owned());
    let at = match (&raw.nbd, &raw.nbd_unix) {
        (Some(address), None) => Endpoint::Tcp(tcp_address(address)?),
        (None, Some(path)) => Endpoint::Unix(base.join(socket_path("nbd_unix", path)?)),
        _ => {
            let hint = "write nbd = \"ADDRESS:PORT\" or nbd_unix = \"PATH\", one of them";
            return Err(wrong("a listener needs exactly one address", hint));
        }
    };
    let trust = match (&at, &raw.tls, &raw.identity) {
        (_, Some(tls), None) if !raw.plaintext => Trust::Tls(tls.beside(base)),
        (_, Some(_), _) => {
            let hint = "with tls every client is who its certificate says: remove 'plaintext' and 'identity'";
            return Err(wrong("a TLS listener has no identity of its own and is not plaintext", hint));
        }
        (Endpoint::Tcp(_), None, _) if !raw.plaintext => {
            let hint = "add tls = { certificate = \"…\", key = \"…\", ca = \"…\" }, or plaintext = true with \
                        identity = \"HOSTKEY\" on a network that nobody else reaches";
            return Err(wrong("a TCP listener without tls must say 'plaintext = true'", hint));
        }
        (_, None, None) => {
            let hint = "add identity = \"HOSTKEY\", the 64 hexadecimal digits that grants name";
            return Err(wrong("a listener without tls must name the identity its clients get", hint));
        }
        (_, None, Some(text)) => Trust::Named(host_key(text)?),
    };
    Ok((place, Listener { at, trust }))
}

#[cfg(test)]
mod test {
    use super::*;

    const HEAD: &str = "control = \"c.sock\"\nstate_dir = \"state\"\n";

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/etc/muskox/target.toml"), text)
    }

    #[test]
    fn a_whole_configuration() {
        let key = "ab".repeat(32);
        let text = format!(
            "{HEAD}disks = [\"/dev/sda\"]\n[[listen]]\nnbd = \"127.0.0.1:10809\"\n\
             tls = {{ certificate = \"s.pem\", key = \"/k.pem\", ca = \"ca.pem\" }}\n\
             [[listen]]\nnbd_unix = \"/run/n.sock\"\nidentity = \"{key}\"\n"
        );
        let config = parse(&text).unwrap();
        assert_eq!(config.control, Path::new("/etc/muskox/c.sock"));
        assert_eq!(config.disks, [PathBuf::from("/dev/sda")]);
        let Trust::Tls(files) = &config.listeners[0].trust else { panic!("the first has tls") };
        assert_eq!(
            (files.certificate.as_path(), files.key.as_path()),
            (Path::new("/etc/muskox/s.pem"), Path::new("/k.pem"))
        );
        assert_eq!(config.listeners[1].trust, Trust::Named(HostKey([0xab; 32])));
    }

    /// Goal: a mistake names its line and what is wrong. Method: one wrong text each.
    #[test]
    fn mistakes_say_where() {
        let key = "ab".repeat(32);
        let cases = [
            ("control = 1\n", 1, "invalid type"),
            ("control = \"a\"\n", 1, "state_dir"),
            (&format!("{HEAD}colour = 1\n"), 3, "colour"),
            (&format!("{HEAD}[[listen]]\n"), 3, "exactly one address"),
            (&format!("{HEAD}[[listen]]\nnbd = \"1.2.3.4:1\"\n"), 3, "plaintext = true"),
            (&format!("{HEAD}[[listen]]\nnbd = \"1.2.3.4:1\"\nplaintext = true\n"), 3, "identity"),
            (&format!("{HEAD}[[listen]]\nnbd = \"storage1\"\nplaintext = true\n"), 4, "'storage1'"),
            (&format!("{HEAD}[[listen]]\nnbd_unix = \"s\"\nidentity = \"abc\"\n"), 5, "64 hexadecimal"),
            (
                &format!(
                    "{HEAD}[[listen]]\nnbd_unix = \"s\"\nidentity = \"{key}\"\ntls = {{certificate=\"a\",key=\"b\",ca=\"c\"}}\n"
                ),
                3,
                "TLS listener",
            ),
            (&format!("{HEAD}[[listen]]\nnbd_unix = \"{}\"\nidentity = \"{key}\"\n", "x".repeat(108)), 4, "107"),
        ];
        for (text, line, words) in cases {
            let error = parse(text).expect_err(text);
            assert_eq!(error.line, Some(line), "{text}: {error}");
            assert!(error.to_string().contains(words), "{text}: {error}");
            assert!(!error.hint.is_empty());
        }
        let twice = format!("[[listen]]\nnbd_unix = \"s\"\nidentity = \"{key}\"\n").repeat(2);
        assert!(parse(&format!("{HEAD}{twice}")).unwrap_err().to_string().contains("same address"));
    }
}
