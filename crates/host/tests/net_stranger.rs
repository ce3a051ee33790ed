//! The door for machines that have no certificate yet: who gets in without one, and whom such a machine believes.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

mod support;

use host::net::{Listener, ServerTls, StrangerTls, TlsError, TlsFiles, Transport, connect_tcp, fingerprint_of};
use host::runtime::block_on;
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use std::os::unix::fs::PermissionsExt;
use support::Scratch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use units::{CaFingerprint, Millis};

const LIMIT: Millis = Millis(5000);

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

impl Authority {
    fn new() -> Self {
        let (mut params, key) = (CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// A server of this CA, good until `year`, that shows the CA `shown` behind itself.
    fn server(&self, scratch: &Scratch, shown: &Certificate, year: i32) -> TlsFiles {
        let (mut params, key) = (CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
        params.not_after = date_time_ymd(year, 12, 31);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |name: &str| scratch.path(name);
        let files = TlsFiles { certificate: path("node.crt"), key: path("node.key"), ca: path("ca.crt") };
        std::fs::write(&files.certificate, certificate.pem() + &shown.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&files.ca, self.certificate.pem()).unwrap();
        files
    }

    fn fingerprint(&self) -> CaFingerprint {
        fingerprint_of(self.certificate.der())
    }
}

/// A stranger and the server, after their handshake.
fn meet(server: &ServerTls, ca: CaFingerprint) -> (Result<Transport, TlsError>, Result<Transport, TlsError>) {
    let meeting = async |_| {
        let listener = Listener::tcp(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.tcp_address().unwrap().unwrap();
        let (client, accepted) = tokio::join!(connect_tcp(address, LIMIT), listener.accept());
        let tls = StrangerTls::new(ca);
        let (mut client, mut accepted) =
            tokio::join!(tls.connect(client.unwrap(), LIMIT), server.accept(accepted.unwrap(), LIMIT));
        if let (Ok(client), Ok(accepted)) = (&mut client, &mut accepted) {
            client.write_all(b"hello").await.unwrap();
            client.flush().await.unwrap();
            let mut heard = [0; 5];
            accepted.read_exact(&mut heard).await.unwrap();
            assert_eq!(&heard, b"hello");
        }
        (client, accepted)
    };
    block_on(meeting).unwrap()
}

/// Goal: who shows no certificate gets in only where that is said, and is nobody there. Method: both kinds of server.
#[test]
fn a_stranger_gets_in_only_where_it_is_said() {
    let (scratch, authority) = (Scratch::new("stranger"), Authority::new());
    let files = authority.server(&scratch, &authority.certificate, 2099);
    let (client, accepted) = meet(&ServerTls::load_for_strangers_too(&files).unwrap(), authority.fingerprint());
    assert!(client.unwrap().host_key().is_some(), "the server has shown its key");
    assert_eq!(accepted.unwrap().host_key(), None);
    let (_, refused) = meet(&ServerTls::load(&files).unwrap(), authority.fingerprint());
    assert!(matches!(refused, Err(TlsError::Refused(_))));
}

/// Goal: a stranger believes only a server that the CA with the fingerprint has signed, and that is good now. Method: a
/// foreign CA; a forger who shows the real CA behind a certificate that it did not sign; one that has ended.
#[test]
fn a_stranger_believes_only_its_ca() {
    let (scratch, authority, forger) = (Scratch::new("forged"), Authority::new(), Authority::new());
    let refused = |files: &TlsFiles, words: &str| {
        let server = ServerTls::load_for_strangers_too(files).unwrap();
        let (client, accepted) = meet(&server, authority.fingerprint());
        assert!(client.is_err() && accepted.is_err(), "{words}");
        let client = client.map(drop).unwrap_err().to_string();
        assert!(client.contains(words), "{client}");
    };
    refused(&forger.server(&scratch, &forger.certificate, 2099), "UnknownIssuer");
    refused(&forger.server(&scratch, &authority.certificate, 2099), "BadSignature");
    refused(&authority.server(&scratch, &authority.certificate, 2020), "xpired");
}
