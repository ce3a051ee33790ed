//! The client that is nobody yet: it has no certificate, and of the cluster it knows only its CA's fingerprint.
//!
//! Invariant: the handshake succeeds only if the server shows the CA with that fingerprint behind its own certificate,
//! which that CA signed and which is valid now. So nothing secret is said to anybody else.

use super::files::provider;
use super::verify::SignatureChecks;
use super::{TlsError, Transport, shake_hands};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};
use std::sync::Arc;
use units::{CaFingerprint, Millis};

/// What a machine without a certificate needs to speak TLS to a member of the cluster with this CA.
#[derive(Clone, Debug)]
pub struct StrangerTls {
    config: Arc<ClientConfig>,
}

/// SHA-256 of a CA's certificate, in DER.
#[must_use]
pub fn fingerprint_of(ca: &CertificateDer<'_>) -> CaFingerprint {
    let digest = ring::digest::digest(&ring::digest::SHA256, ca);
    CaFingerprint(digest.as_ref().try_into().expect("SHA-256 is 32 bytes"))
}

impl StrangerTls {
    /// For the cluster with this CA.
    #[must_use]
    pub fn new(ca: CaFingerprint) -> Self {
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let checks = SignatureChecks::new(&provider());
        let verifier = Arc::new(PinnedCa { ca, checks });
        let builder = builder.expect("ring has TLS 1.3").dangerous().with_custom_certificate_verifier(verifier);
        let mut config = builder.with_no_client_auth();
        config.resumption = Resumption::disabled();
        Self { config: Arc::new(config) }
    }

    /// Makes `plain` a TLS connection, within `limit`, if the peer belongs to the cluster.
    ///
    /// # Errors
    /// [`TlsError`]; the connection is gone.
    pub async fn connect(&self, plain: Transport, limit: Millis) -> Result<Transport, TlsError> {
        let name = ServerName::try_from("muskox").expect("a plain word is a name");
        let connection = ClientConnection::new(Arc::clone(&self.config), name).map_err(TlsError::Refused)?;
        shake_hands(plain, Connection::Client(connection), limit).await
    }
}

/// Accepts a server behind which stands the CA with this fingerprint.
#[derive(Debug)]
struct PinnedCa {
    ca: CaFingerprint,
    checks: SignatureChecks,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ca = intermediates.iter().find(|shown| fingerprint_of(shown) == self.ca);
        let ca = ca.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone())?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.checks.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.checks.tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.checks.tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.checks.schemes()
    }
}
