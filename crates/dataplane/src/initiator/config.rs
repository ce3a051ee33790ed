//! The initiator's configuration: TOML in, checked values out, like the target's.

use crate::config::{ConfigError, Mistake, Page, RawTls, host_key, read, socket_path, tcp_address};
use block::health::HealthTiming;
use block::hold::HoldOptions;
use cluster::lease::SEGMENTS_MAX;
use host::net::TlsFiles;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use toml::Spanned;
use units::{Epoch, HostKey, Millis, Mode, VolumeName};

const MANUAL: &str = "docs/runbooks/initiator.md";

/// What an initiator is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where it tells its status.
    pub control: PathBuf,
    /// Where its incarnation counters are.
    pub state_dir: PathBuf,
    /// This host's certificate, key and CA; none if every volume is plaintext.
    pub tls: Option<TlsFiles>,
    /// The VM's disks.
    pub volumes: Vec<Volume>,
}

/// One disk of the VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name.
    pub name: VolumeName,
    /// The epoch this VM was started for.
    pub epoch: Epoch,
    /// What it may do.
    pub mode: Mode,
    /// Where the target listens, on each storage segment.
    pub portals: Vec<SocketAddr>,
    /// The target's key; `None`: plaintext.
    pub target: Option<HostKey>,
    /// Where QEMU comes in.
    pub socket: PathBuf,
    /// How long the guest waits.
    pub hold: HoldOptions,
    /// When a path is dead.
    pub timing: HealthTiming,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    control: Spanned<PathBuf>,
    state_dir: PathBuf,
    tls: Option<RawTls>,
    volume: Spanned<Vec<Spanned<RawVolume>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVolume {
    name: Spanned<VolumeName>,
    epoch: Epoch,
    mode: Mode,
    portals: Spanned<Vec<Spanned<String>>>,
    target: Option<Spanned<String>>,
    #[serde(default)]
    plaintext: bool,
    socket: Spanned<PathBuf>,
    hold_ms: Option<Millis>,
    heartbeat_ms: Option<Millis>,
    dead_after_ms: Option<Millis>,
}

/// Disks of one VM.
const VOLUMES_MAX: usize = 64;

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
        let tls = raw.tls.as_ref().map(|tls| tls.beside(base));
        let volumes = raw.volume.get_ref().iter().map(|raw| volume(base, raw, tls.is_some()));
        let volumes = volumes.collect::<Result<Vec<_>, _>>().map_err(complain)?;
        let place = raw.volume.span();
        if volumes.is_empty() || volumes.len() > VOLUMES_MAX {
            let what = format!("a VM has 1 to {VOLUMES_MAX} volumes, not {}", volumes.len());
            return Err(complain((place, what, "write a [[volume]] for each disk".to_owned())));
        }
        for (index, later) in volumes.iter().enumerate() {
            if volumes[..index].iter().any(|earlier| earlier.name == later.name || earlier.socket == later.socket) {
                let what = format!("volume '{}' or its socket stands here twice", later.name);
                return Err(complain((place, what, "give each volume one [[volume]] and its own socket".to_owned())));
            }
        }
        let control = base.join(socket_path("control", &raw.control).map_err(complain)?);
        Ok(Self { control, state_dir: base.join(raw.state_dir), tls, volumes })
    }
}

fn volume(base: &Path, spanned: &Spanned<RawVolume>, have_tls: bool) -> Result<Volume, Mistake> {
    let (place, raw) = (spanned.span(), spanned.get_ref());
    let wrong = |what: &str, hint: &str| (place.clone(), what.to_owned(), hint.to_owned());
    let portals: Vec<SocketAddr> = raw.portals.get_ref().iter().map(tcp_address).collect::<Result<_, _>>()?;
    if portals.is_empty() || portals.len() > SEGMENTS_MAX {
        let hint = "name the target's address on each storage segment, as in [\"10.0.1.1:10809\", \"10.0.2.1:10809\"]";
        return Err((raw.portals.span(), format!("a volume has 1 to {SEGMENTS_MAX} portals"), hint.to_owned()));
    }
    let target = match (&raw.target, raw.plaintext) {
        (Some(_), false) if !have_tls => {
            return Err(wrong("'target' needs TLS, but there is no [tls]", "add [tls] with certificate, key and ca"));
        }
        (Some(key), false) => Some(host_key(key)?),
        (None, true) => None,
        _ => {
            let hint = "write target = \"HOSTKEY\" (with [tls]), or plaintext = true on a network that nobody else \
                        reaches";
            return Err(wrong("a volume needs either its target's key or 'plaintext = true'", hint));
        }
    };
    let default = HealthTiming::default();
    let timing = HealthTiming {
        period: raw.heartbeat_ms.unwrap_or(default.period),
        dead_after: raw.dead_after_ms.unwrap_or(default.dead_after),
    };
    if timing.period.0 == 0 || timing.dead_after.0 < 2 * timing.period.0 {
        let hint = "use at least two heartbeats, as in heartbeat_ms = 250, dead_after_ms = 750";
        return Err(wrong("dead_after_ms is less than two heartbeats: one lost packet would end the session", hint));
    }
    let hold = HoldOptions::default();
    Ok(Volume {
        name: raw.name.get_ref().clone(),
        epoch: raw.epoch,
        mode: raw.mode,
        portals,
        target,
        socket: base.join(socket_path("socket", &raw.socket)?),
        hold: HoldOptions { bound: raw.hold_ms.unwrap_or(hold.bound), ..hold },
        timing,
    })
}

#[cfg(test)]
mod test {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(Path::new("/etc/muskox/web1.toml"), text)
    }

    const HEAD: &str = "control = \"c.sock\"\nstate_dir = \"state\"\n";
    const VOLUME: &str = "[[volume]]\nname = \"web1\"\nepoch = 7\nmode = \"rw\"\nportals = [\"10.0.1.1:10809\"]\n\
                          socket = \"web1.sock\"\n";

    #[test]
    fn a_whole_configuration() {
        let key = "ab".repeat(32);
        let tls = "[tls]\ncertificate = \"c\"\nkey = \"/k\"\nca = \"a\"\n";
        let config = parse(&format!("{HEAD}{tls}{VOLUME}target = \"{key}\"\nhold_ms = 5000\n")).expect("right");
        let volume = &config.volumes[0];
        assert_eq!((volume.epoch, volume.mode, volume.target), (Epoch(7), Mode::Rw, Some(HostKey([0xab; 32]))));
        assert_eq!((volume.hold.bound, volume.timing), (Millis(5_000), HealthTiming::default()));
        assert_eq!(volume.socket, Path::new("/etc/muskox/web1.sock"));
    }

    /// Goal: a mistake names its line and the way out. Method: one wrong text each.
    #[test]
    fn mistakes_say_where() {
        let key = "ab".repeat(32);
        let plain = format!("{VOLUME}plaintext = true\n");
        let cases = [
            (HEAD.to_owned(), 1, "volume"),
            (format!("{HEAD}volume = []\n"), 3, "1 to 64"),
            (format!("{HEAD}{VOLUME}"), 3, "plaintext = true"),
            (format!("{HEAD}{VOLUME}target = \"{key}\"\n"), 3, "no [tls]"),
            (format!("{HEAD}{plain}{plain}"), 3, "twice"),
            (format!("{HEAD}{plain}heartbeat_ms = 400\n"), 3, "two heartbeats"),
            (format!("{HEAD}{}", plain.replace("10.0.1.1:10809", "storage1")), 7, "'storage1'"),
            (format!("{HEAD}{}", plain.replace("web1\"\nepoch", "../x\"\nepoch")), 4, "not a name"),
        ];
        for (text, line, words) in cases {
            let error = parse(&text).expect_err(&text);
            assert_eq!(error.line, Some(line), "{text}: {error}");
            assert!(error.to_string().contains(words), "{text}: {error}");
            assert!(!error.hint.is_empty());
        }
    }
}
