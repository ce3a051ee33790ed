//! What the configurations of all roles have in common: TOML in, checked values out. A mistake names the file, the line,
//! the key and the way out; nothing is touched before all of it is right.

use host::net::TlsFiles;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use units::HostKey;

/// What is wrong with a configuration, for people.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {text}", file.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct ConfigError {
    /// Which file.
    pub file: PathBuf,
    /// Which line, counted from one, where there is one.
    pub line: Option<usize>,
    /// What is wrong there.
    pub text: String,
    /// What to do.
    pub hint: String,
}

/// A mistake at a place in the text: what, and what to do.
pub type Mistake = (Range<usize>, String, String);

/// A file with its text.
pub struct Page<'a> {
    /// Which.
    pub file: &'a Path,
    /// What it says.
    pub text: &'a str,
    /// The page that lists every key.
    pub manual: &'static str,
}

/// The files of a certificate, as they are written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTls {
    certificate: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

/// The longest path of a Unix socket. Source: `include/uapi/linux/un.h`, `UNIX_PATH_MAX` 108 with the closing zero.
const UNIX_PATH_MAX_BYTES: usize = 107;

/// The text of a file.
///
/// # Errors
/// [`ConfigError`].
pub fn read(file: &Path, manual: &str) -> Result<String, ConfigError> {
    std::fs::read_to_string(file).map_err(|error| ConfigError {
        file: file.to_owned(),
        line: None,
        text: format!("cannot be read: {error}"),
        hint: format!("name a readable file after --config; {manual} has one to copy"),
    })
}

impl Page<'_> {
    /// The text as TOML of this shape.
    ///
    /// # Errors
    /// [`ConfigError`] with the line.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(self.text).map_err(|error| {
            let hint = format!("{} lists every key", self.manual);
            self.complain((error.span().unwrap_or(0..0), error.message().to_owned(), hint))
        })
    }

    /// A mistake, with its line.
    pub fn complain(&self, (place, text, hint): Mistake) -> ConfigError {
        ConfigError { file: self.file.to_owned(), line: Some(line_of(self.text, place.start)), text, hint }
    }

    /// Where relative paths start.
    pub fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }
}

impl RawTls {
    /// The files, relative to a folder.
    pub fn beside(&self, base: &Path) -> TlsFiles {
        TlsFiles { certificate: base.join(&self.certificate), key: base.join(&self.key), ca: base.join(&self.ca) }
    }
}

/// An address and a port.
///
/// # Errors
/// A [`Mistake`].
pub fn tcp_address(text: &Spanned<String>) -> Result<SocketAddr, Mistake> {
    text.get_ref().parse().map_err(|_| {
        let what = format!("nbd: '{}' is not an address and a port", text.get_ref());
        (text.span(), what, "write numbers, as in \"10.0.0.1:10809\" or \"[fd00::1]:10809\"".to_owned())
    })
}

/// A host's identity.
///
/// # Errors
/// A [`Mistake`].
pub fn host_key(text: &Spanned<String>) -> Result<HostKey, Mistake> {
    text.get_ref().parse().map_err(|error| {
        let hint = "an identity is the SHA-256 of a host's public key in hexadecimal, or 64 digits of your choice";
        (text.span(), format!("identity: {error}"), hint.to_owned())
    })
}

/// The path of a Unix socket, not too long to be one.
///
/// # Errors
/// A [`Mistake`].
pub fn socket_path<'a>(key: &str, path: &'a Spanned<PathBuf>) -> Result<&'a Path, Mistake> {
    let len = path.get_ref().as_os_str().len();
    if len == 0 || len > UNIX_PATH_MAX_BYTES {
        let what = format!("{key}: a socket's path has 1 to {UNIX_PATH_MAX_BYTES} bytes, this one {len}");
        return Err((path.span(), what, "choose a shorter path, as in /run/muskox/target.sock".to_owned()));
    }
    Ok(path.get_ref())
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}
