//! Certificates and keys from PEM files, and what rustls makes of them.

use super::verify::{PinnedKey, host_key_of};
use super::{Expect, TlsError};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use units::HostKey;

/// Where a machine's own certificate, its key, and the CA that all peers must come from are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The machine's certificate, then intermediate ones if there are any.
    pub certificate: PathBuf,
    /// Its private key, readable by its owner only.
    pub key: PathBuf,
    /// The CA's certificate; several while it is being replaced.
    pub ca: PathBuf,
}

/// What the files hold.
pub(super) struct Loaded {
    files: TlsFiles,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
}

/// Keys, certificates and CAs are a few KiB; what is longer is something else.
const FILE_MAX_BYTES: u64 = 1 << 20;

impl TlsFiles {
    /// Who the certificate says that this machine is.
    ///
    /// # Errors
    /// [`TlsError`]: what is wrong with the file.
    pub fn host_key(&self) -> Result<HostKey, TlsError> {
        let chain = certificates("certificate", &self.certificate)?;
        host_key_of(&chain[0]).map_err(|error| bad("certificate", &self.certificate, &error))
    }

    pub(super) fn load(&self) -> Result<Loaded, TlsError> {
        let chain = certificates("certificate", &self.certificate)?;
        let key_text = read("key", &self.key, check_key_mode)?;
        let key = PrivateKeyDer::from_pem_slice(&key_text).map_err(|e| bad("key", &self.key, &e))?;
        let mut roots = RootCertStore::empty();
        for root in certificates("CA", &self.ca)? {
            roots.add(root).map_err(|e| bad("CA", &self.ca, &e))?;
        }
        Ok(Loaded { files: self.clone(), chain, key, roots: Arc::new(roots) })
    }
}

impl Loaded {
    /// A server for members of the cluster, and for `strangers` (clients that show no certificate) if it is said.
    pub(super) fn server(&self, files: &TlsFiles, strangers: bool) -> Result<ServerConfig, TlsError> {
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), provider());
        let clients = if strangers { clients.allow_unauthenticated() } else { clients }.build();
        let clients = clients.map_err(|e| bad("CA", &files.ca, &e))?;
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let builder = builder.expect("ring has TLS 1.3").with_client_cert_verifier(clients);
        let config = builder.with_single_cert(self.chain.clone(), self.key.clone_key());
        let mut config = config.map_err(|e| self.mismatch(&e))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    pub(super) fn client_for(&self, expect: &Expect) -> Result<ClientConfig, TlsError> {
        let pin = match expect {
            Expect::Key(key) => Some(*key),
            Expect::Name(_) => None,
        };
        self.client(&self.files, pin)
    }

    pub(super) fn client(&self, files: &TlsFiles, pin: Option<HostKey>) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let builder = builder.expect("ring has TLS 1.3");
        let builder = match pin {
            Some(key) => builder.dangerous().with_custom_certificate_verifier(Arc::new(PinnedKey::new(
                key,
                Arc::clone(&self.roots),
                &provider(),
            ))),
            None if self.roots.is_empty() => return Err(bad("CA", &files.ca, &"it holds no certificate")),
            None => builder.with_root_certificates(Arc::clone(&self.roots)),
        };
        let config = builder.with_client_auth_cert(self.chain.clone(), self.key.clone_key());
        let mut config = config.map_err(|e| self.mismatch(&e))?;
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    fn mismatch(&self, problem: &rustls::Error) -> TlsError {
        TlsError::Mismatch {
            certificate: self.files.certificate.clone(),
            key: self.files.key.clone(),
            problem: problem.to_string(),
        }
    }
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn bad(what: &'static str, path: &Path, problem: &dyn std::fmt::Display) -> TlsError {
    TlsError::BadFile { what, path: path.to_owned(), problem: problem.to_string() }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(what, path, |_, _| Ok(()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(bad(what, path, &"it holds no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(bad(what, path, &error)),
    }
}

/// Reads a file after `check` has seen the permissions of the very file that is read.
fn read(
    what: &'static str,
    path: &Path,
    check: impl FnOnce(&Path, u32) -> Result<(), TlsError>,
) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read { what, path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    check(path, file.metadata().map_err(failed)?.permissions().mode() & 0o7777)?;
    let mut text = Vec::new();
    file.take(FILE_MAX_BYTES).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

fn check_key_mode(path: &Path, mode: u32) -> Result<(), TlsError> {
    if mode & 0o077 == 0 { Ok(()) } else { Err(TlsError::KeyOpen { path: path.to_owned(), mode }) }
}
