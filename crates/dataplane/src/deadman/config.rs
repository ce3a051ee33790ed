//! The dead-man's configuration: TOML in, checked values out, like the target's.

use crate::config::{ConfigError, Mistake, Page, RawTls, host_key, read, socket_path, tcp_address};
use cluster::lease::{ADDRESSES_MAX, LeaseTiming, Voter, check_roster};
use host::net::TlsFiles;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use toml::Spanned;
use units::{Millis, NodeName};

const MANUAL: &str = "docs/runbooks/deadman.md";

/// What a dead-man is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where this machine's node asks for votes and for the status.
    pub control: PathBuf,
    /// This machine's certificate, key and CA.
    pub tls: TlsFiles,
    /// Where the other machines come in, one on each network.
    pub listen: Vec<SocketAddr>,
    /// Where the folders of this host's VMs are; none on a machine without VMs.
    pub vms: Option<PathBuf>,
    /// The times of the lease.
    pub timing: LeaseTiming,
    /// All witnesses, this machine included.
    pub witnesses: Vec<Voter>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    control: Spanned<PathBuf>,
    tls: RawTls,
    listen: Spanned<Vec<Spanned<String>>>,
    vms: Option<PathBuf>,
    timing: Option<Spanned<LeaseTiming>>,
    witness: Spanned<Vec<Spanned<RawPeer>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPeer {
    key: Spanned<String>,
    name: Spanned<NodeName>,
    portals: Spanned<Vec<Spanned<String>>>,
}

/// Below this, the timers of a busy machine are the larger part of a heartbeat.
const HEARTBEAT_MIN: Millis = Millis(20);

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
        let listen = addresses("listen", &raw.listen).map_err(complain)?;
        let timing = timing(raw.timing.as_ref()).map_err(complain)?;
        let witnesses = witnesses(&raw.witness).map_err(complain)?;
        let vms = raw.vms.map(|vms| base.join(vms));
        if let Some(vms) = &vms
            && !vms.is_absolute()
        {
            let hint = "write vms = \"/run/muskox/vm\", or name the configuration by its whole path";
            return Err(complain((0..0, "vms: not an absolute path".to_owned(), hint.to_owned())));
        }
        Ok(Self { control, tls: raw.tls.beside(base), listen, vms, timing, witnesses })
    }

    /// Where a life leaves what the next one has to know: beside the control socket, in a folder that goes with the boot.
    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.control.with_extension("lease")
    }
}

fn addresses(key: &str, list: &Spanned<Vec<Spanned<String>>>) -> Result<Vec<SocketAddr>, Mistake> {
    let found: Vec<SocketAddr> = list.get_ref().iter().map(tcp_address).collect::<Result<_, _>>()?;
    if found.is_empty() || found.len() > ADDRESSES_MAX {
        let hint = "name one address on each network, as in [\"10.0.1.1:10812\", \"10.0.2.1:10812\"]";
        return Err((
            list.span(),
            format!("{key}: 1 to {ADDRESSES_MAX} addresses, not {}", found.len()),
            hint.to_owned(),
        ));
    }
    let twice = found.iter().enumerate().find(|(index, address)| found[..*index].contains(address));
    match twice {
        Some((_, address)) => {
            Err((list.span(), format!("{key}: {address} stands here twice"), "write it once".to_owned()))
        }
        None => Ok(found),
    }
}

fn timing(raw: Option<&Spanned<LeaseTiming>>) -> Result<LeaseTiming, Mistake> {
    let Some(raw) = raw else { return Ok(LeaseTiming::default()) };
    let timing = *raw.get_ref();
    let hint = "every machine needs the same times; docs/rfd/0007-witness.md says how they hang together".to_owned();
    if timing.heartbeat_ms < HEARTBEAT_MIN {
        let what = format!("heartbeat_ms {} is under {HEARTBEAT_MIN}: no timer keeps that", timing.heartbeat_ms);
        return Err((raw.span(), what, hint));
    }
    timing.check().map_err(|error| (raw.span(), error.to_string(), hint))?;
    Ok(timing)
}

fn witnesses(raw: &Spanned<Vec<Spanned<RawPeer>>>) -> Result<Vec<Voter>, Mistake> {
    let voter = |raw: &RawPeer| {
        let (key, name) = (host_key(&raw.key)?, raw.name.get_ref().clone());
        Ok(Voter { key, name, portals: addresses("portals", &raw.portals)? })
    };
    let found: Vec<Voter> = raw.get_ref().iter().map(|raw| voter(raw.get_ref())).collect::<Result<_, _>>()?;
    check_roster(&found).map_err(|error| {
        // The later one of two that clash.
        let at = error.machine().and_then(|name| found.iter().rposition(|voter| voter.name == *name));
        let place = at.map_or_else(|| raw.span(), |at| raw.get_ref()[at].span());
        (place, format!("witnesses: {error}"), "write one [[witness]] for each machine, this one included".to_owned())
    })?;
    Ok(found)
}

#[cfg(test)]
mod test {
    use super::*;
    use units::HostKey;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/etc/muskox/deadman.toml"), text)
    }

    const HEAD: &str = "control = \"/run/muskox/deadman.sock\"\nlisten = [\"10.0.1.1:10812\"]\n";
    const TLS: &str = "[tls]\ncertificate = \"c\"\nkey = \"/k\"\nca = \"a\"\n";

    fn witness(n: u8) -> String {
        let key = HostKey([n; 32]);
        format!("[[witness]]\nkey = \"{key}\"\nname = \"host{n}\"\nportals = [\"10.0.1.{n}:10812\"]\n")
    }

    #[test]
    fn a_whole_configuration() {
        let timing = "[timing]\nheartbeat_ms = 500\nlease_ms = 5000\ndetect_ms = 5500\nvote_hold_ms = 11000\n";
        let text = format!("{HEAD}vms = \"/run/muskox/vm\"\n{TLS}{timing}{}{}", witness(1), witness(2));
        let config = parse(&text).expect("right");
        assert_eq!(config.tls.certificate, Path::new("/etc/muskox/c"));
        assert_eq!(config.record(), Path::new("/run/muskox/deadman.lease"));
        assert_eq!((config.timing.lease_ms, config.timing.stop_cost_ms), (Millis(5_000), Millis(400)));
        assert_eq!((config.witnesses.len(), config.witnesses[1].key), (2, HostKey([2; 32])));
        assert_eq!(parse(&format!("{HEAD}{TLS}{}", witness(1))).expect("right").timing, LeaseTiming::default());
    }

    /// Goal: a mistake names its line and the way out. Method: one wrong text each.
    #[test]
    fn mistakes_say_where() {
        let one = witness(1);
        let cases = [
            (format!("{HEAD}{TLS}"), 1, "witness"),
            (format!("{HEAD}{one}"), 1, "tls"),
            (format!("{HEAD}witness = []\n{TLS}"), 3, "1 to 32 machines"),
            (format!("{HEAD}{TLS}{one}{one}"), 11, "the same key"),
            (format!("{HEAD}{TLS}{}", one.replace("10.0.1.1:10812", "host1")), 10, "'host1'"),
            (format!("{HEAD}{TLS}{}", one.replace("\"10.0.1.1:10812\"", "")), 10, "1 to 9"),
            (format!("{HEAD}{TLS}{}", one.replace("host1", "../x")), 9, "not a name"),
            (format!("{}{TLS}{one}", HEAD.replace(":10812\"]", ":10812\", \"10.0.1.1:10812\"]")), 2, "twice"),
            (format!("{HEAD}colour = 1\n{TLS}{one}"), 3, "colour"),
            (format!("{HEAD}{TLS}[timing]\ndetect_ms = 2600\n{one}"), 7, "use at least 2904"),
            (format!("{HEAD}{TLS}[timing]\nheartbeat_ms = 0\n{one}"), 7, "no timer"),
        ];
        for (text, line, words) in cases {
            let error = parse(&text).expect_err(&text);
            assert_eq!(error.line, Some(line), "{text}: {error}");
            assert!(error.to_string().contains(words), "{text}: {error}");
            assert!(!error.hint.is_empty());
        }
    }
}
