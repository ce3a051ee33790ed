//! The cluster's CA and the machines' certificates. Thinking only: time and random bytes are handed in, files are the
//! caller's.
//!
//! Invariant: a certificate says what the CA decided; of a request only the key is used, after its signature has shown
//! that whoever asks has it. A certificate is no permission: who is a member, the store says.

use api::{Certificate, Code, Problem};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::net::SocketAddr;
use time::OffsetDateTime;
use units::{CaFingerprint, HostKey, NodeName};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Certificates begin this long before they are made: clocks of machines differ by seconds, a wrong time zone is worse.
pub const SKEW_S: u64 = 300;
/// The CA outlives the hardware. Its renewal is a procedure, not a timer (docs/rfd/0010-node.md).
const CA_LIFETIME_S: u64 = 20 * 365 * 86_400;

/// The CA as it signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
}

/// When a certificate is good, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// When it was made, in seconds since 1970.
    pub made_s: u64,
    /// When it ends.
    pub until_s: u64,
    /// Whose it is.
    pub key: HostKey,
}

impl Authority {
    /// A new CA: its certificate and its key, PEM.
    ///
    /// # Errors
    /// [`Code::Failed`].
    pub fn create(now_s: u64) -> Result<(String, String), Problem> {
        let key = KeyPair::generate().map_err(|error| failed(&error))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "muskox cluster CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = (date(now_s.saturating_sub(SKEW_S))?, date(now_s + CA_LIFETIME_S)?);
        let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// The CA of these files.
    ///
    /// # Errors
    /// [`Code::Files`].
    pub fn load(ca_pem: &str, key_pem: &str) -> Result<Self, Problem> {
        let unusable = |error: rcgen::Error| {
            Problem::new(
                Code::Files,
                format!("the CA cannot be used: {error}"),
                "bring back ca.crt and ca.key from a backup",
            )
        };
        let key = KeyPair::from_pem(key_pem).map_err(unusable)?;
        let issuer = Issuer::from_ca_cert_pem(ca_pem, key).map_err(unusable)?;
        Ok(Self { issuer, ca_pem: ca_pem.to_owned() })
    }

    /// The CA's certificate, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// A certificate for the request's key, with a name and an address that the CA chose.
    ///
    /// # Errors
    /// [`Code::BadRequest`].
    pub fn issue(
        &self,
        request_pem: &str,
        (name, address): (&NodeName, SocketAddr),
        (now_s, lifetime_s): (u64, u64),
        serial: [u8; 16],
    ) -> Result<Certificate, Problem> {
        let request = read_request(request_pem)?;
        let names = vec![name.to_string(), address.ip().to_string()];
        let mut params = CertificateParams::new(names).map_err(|error| failed(&error))?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let until_s = now_s + lifetime_s;
        (params.not_before, params.not_after) = (date(now_s.saturating_sub(SKEW_S))?, date(until_s)?);
        let certificate = params.signed_by(&request.public_key, &self.issuer).map_err(|error| failed(&error))?;
        Ok(Certificate { chain_pem: certificate.pem() + &self.ca_pem, until_s })
    }
}

/// A new key, PEM. Secret.
///
/// # Errors
/// [`Code::Failed`].
pub fn new_key() -> Result<String, Problem> {
    KeyPair::generate().map(|key| key.serialize_pem()).map_err(|error| failed(&error))
}

/// A signing request for a key, PEM.
///
/// # Errors
/// [`Code::Files`]: that is no key.
pub fn request_for(key_pem: &str) -> Result<String, Problem> {
    let unusable = |error: rcgen::Error| {
        Problem::new(Code::Files, format!("the machine's key cannot be used: {error}"), "bring it back from a backup")
    };
    let key = KeyPair::from_pem(key_pem).map_err(unusable)?;
    let request = CertificateParams::default().serialize_request(&key);
    request.and_then(|request| request.pem()).map_err(unusable)
}

/// Whose request it is, if its signature shows it.
///
/// # Errors
/// [`Code::BadRequest`].
pub fn key_of_request(request_pem: &str) -> Result<HostKey, Problem> {
    Ok(host_key(&read_request(request_pem)?.public_key.subject_public_key_info()))
}

/// The first certificate of a chain: when it is good and whose it is.
///
/// # Errors
/// [`Code::Files`].
pub fn validity(chain_pem: &str) -> Result<Validity, Problem> {
    let der = first_certificate(chain_pem)?;
    let unreadable = || Problem::new(Code::Files, "a certificate cannot be read", "bring it back from a backup");
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| unreadable())?;
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).map_err(|_| unreadable());
    Ok(Validity {
        made_s: seconds(parsed.validity().not_before)? + SKEW_S,
        until_s: seconds(parsed.validity().not_after)?,
        key: host_key(parsed.public_key().raw),
    })
}

/// The fingerprint of a CA.
///
/// # Errors
/// [`Code::Files`].
pub fn fingerprint(ca_pem: &str) -> Result<CaFingerprint, Problem> {
    first_certificate(ca_pem).map(|der| host::net::fingerprint_of(&der))
}

fn first_certificate(pem: &str) -> Result<CertificateDer<'static>, Problem> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| Problem::new(Code::Files, format!("no certificate: {error}"), "bring it back from a backup"))
}

fn read_request(request_pem: &str) -> Result<CertificateSigningRequestParams, Problem> {
    CertificateSigningRequestParams::from_pem(request_pem).map_err(|error| {
        Problem::new(Code::BadRequest, format!("the signing request is not usable: {error}"), "use `muskox node join`")
    })
}

fn host_key(public_key_info: &[u8]) -> HostKey {
    let digest = ring::digest::digest(&ring::digest::SHA256, public_key_info);
    HostKey(digest.as_ref().try_into().expect("SHA-256 is 32 bytes"))
}

fn date(seconds: u64) -> Result<OffsetDateTime, Problem> {
    let date = i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    date.ok_or_else(|| Problem::new(Code::ClockSkew, "this machine's clock is centuries away", "set it"))
}

fn failed(error: &rcgen::Error) -> Problem {
    Problem::new(Code::Failed, format!("no certificate could be made: {error}"), "")
}

#[cfg(test)]
mod test {
    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    /// Goal: a certificate is for the request's key, for the time said, and says what the CA decided. Method: issue, read.
    #[test]
    fn certificates_say_what_the_ca_decided() {
        let (ca_pem, ca_key) = Authority::create(NOW_S).unwrap();
        let authority = Authority::load(&ca_pem, &ca_key).unwrap();
        let request = request_for(&new_key().unwrap()).unwrap();
        let who: (NodeName, SocketAddr) = ("alpha".parse().unwrap(), "192.0.2.1:1".parse().unwrap());
        let issued = authority.issue(&request, (&who.0, who.1), (NOW_S, 60), [1; 16]).unwrap();
        let read = validity(&issued.chain_pem).unwrap();
        let key = key_of_request(&request).unwrap();
        assert_eq!(read, Validity { made_s: NOW_S, until_s: NOW_S + 60, key });
        assert_eq!(host::net::host_key_of(&first_certificate(&issued.chain_pem).unwrap()).unwrap(), key);
        assert!(issued.chain_pem.ends_with(&ca_pem), "the CA stands behind, for who knows only its fingerprint");
        assert_ne!(fingerprint(&ca_pem).unwrap(), fingerprint(&Authority::create(NOW_S).unwrap().0).unwrap());
    }

    /// Goal: a request for a key that the asker does not have is refused. Method: spoil the signature.
    #[test]
    fn a_request_needs_its_keys_signature() {
        let mut der = rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(
            request_for(&new_key().unwrap()).unwrap().as_bytes(),
        )
        .unwrap()
        .to_vec();
        *der.last_mut().unwrap() ^= 1;
        assert!(CertificateSigningRequestParams::from_der(&der.into()).is_err());
        assert_eq!(key_of_request("nonsense").unwrap_err().code, Code::BadRequest);
    }
}
