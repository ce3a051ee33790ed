//! One call to another node: connect, TLS, one request, one reply.

use crate::rights;
use api::{BODY_MAX_BYTES, Call, Code, JSON, Problem};
use host::net::{ClientTls, Expect, StrangerTls, TlsError, TlsFiles, Transport, connect_tcp};
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;
use units::{CaFingerprint, HostKey, Millis};

/// A node of the same network answers in milliseconds; a busy one gets its time.
const CONNECT_MAX: Millis = Millis(5_000);
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// What came back, not looked into.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// JSON, if the other is what it says.
    pub body: Bytes,
}

/// Connects as a member, to exactly this key.
///
/// # Errors
/// [`Code::Unreachable`], [`Code::WrongPeer`], [`Code::ClockSkew`], [`Code::Files`].
pub async fn as_member(files: &TlsFiles, address: SocketAddr, key: HostKey) -> Result<Transport, Problem> {
    let tls = ClientTls::load(files).map_err(|error| tls_problem(address, &error))?;
    let plain = reach(address).await?;
    tls.connect(plain, &Expect::Key(key), CONNECT_MAX).await.map_err(|error| tls_problem(address, &error))
}

/// Connects as nobody, to a member of the cluster with this CA.
///
/// # Errors
/// [`Code::Unreachable`], [`Code::WrongPeer`], [`Code::ClockSkew`].
pub async fn as_stranger(ca: CaFingerprint, address: SocketAddr) -> Result<Transport, Problem> {
    let plain = reach(address).await?;
    StrangerTls::new(ca).connect(plain, CONNECT_MAX).await.map_err(|error| tls_problem(address, &error))
}

async fn reach(address: SocketAddr) -> Result<Transport, Problem> {
    connect_tcp(address, CONNECT_MAX).await.map_err(|error| {
        let hint = "check that `muskox node run` runs there and that the network lets it through";
        Problem::new(Code::Unreachable, error.to_string(), hint)
    })
}

/// Calls and reads the reply.
///
/// # Errors
/// The other's problem, or ours with reaching it.
pub async fn call<T: DeserializeOwned>(
    transport: Transport,
    call: &Call,
    request: &impl Serialize,
) -> Result<T, Problem> {
    let body = serde_json::to_vec(request).expect("requests are JSON");
    let answer = exchange(transport, (call.method.as_str(), call.path), None, body.into()).await?;
    let foreign = |error: serde_json::Error| {
        let text = format!("the reply to '{}' is not understood: {error}", call.name);
        Problem::new(Code::Failed, text, "run the same muskox version on all machines")
    };
    if answer.status == 200 {
        return serde_json::from_slice(&answer.body).map_err(foreign);
    }
    Err(serde_json::from_slice::<Problem>(&answer.body).map_err(foreign)?)
}

/// Sends a request, marked as a user's words if they are, and takes the reply as it is; the connection ends with it.
///
/// # Errors
/// [`Code::Unreachable`], [`Code::ClockSkew`].
pub async fn exchange(
    transport: Transport,
    call: (&str, &str),
    user: Option<u32>,
    body: Bytes,
) -> Result<Answer, Problem> {
    send(&mut open(transport).await?, call, user, body).await
}

/// A connection to send requests on, one after the other. It ends when this is dropped.
pub type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

/// Begins HTTP on a connection.
///
/// # Errors
/// [`Code::Unreachable`].
pub async fn open(transport: Transport) -> Result<Sender, Problem> {
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(transport)).await;
    let (sender, connection) = shaken.map_err(|error| lost(&error))?;
    // It ends when the sender is gone; its own error comes out of the request as well.
    tokio::task::spawn_local(async move { drop(connection.await) });
    Ok(sender)
}

/// Sends a request and takes the reply as it is.
///
/// # Errors
/// [`Code::Unreachable`], [`Code::ClockSkew`].
pub async fn send(
    sender: &mut Sender,
    (method, path): (&str, &str),
    user: Option<u32>,
    body: Bytes,
) -> Result<Answer, Problem> {
    let request = Request::builder().method(method).uri(path).header("host", "muskox").header("content-type", JSON);
    let request = match user {
        Some(user) => request.header(rights::FOR_USER, rights::mark(user)),
        None => request,
    };
    let request = request.body(Full::new(body)).map_err(|error| lost(&error))?;
    let exchange = async {
        let reply = sender.send_request(request).await.map_err(|error| lost(&error))?;
        let status = reply.status().as_u16();
        let body = Limited::new(reply.into_body(), BODY_MAX_BYTES).collect().await;
        let cut = |error: Box<dyn Error + Send + Sync>| {
            Problem::new(Code::Unreachable, format!("the reply broke off: {error}"), "ask again")
        };
        Ok(Answer { status, body: body.map_err(cut)?.to_bytes() })
    };
    let silent = || {
        let text = format!("no answer within {} s; it may still do what was asked", ANSWER_MAX.as_secs());
        Problem::new(Code::Unreachable, text, "look with `muskox node list`, then ask again")
    };
    tokio::time::timeout(ANSWER_MAX, exchange).await.unwrap_or_else(|_| Err(silent()))
}

/// A connection that broke, for people.
fn lost(error: &(dyn Error + 'static)) -> Problem {
    match tls_cause(error) {
        Some(cause) => tls_problem("the other machine", &TlsError::Refused(cause.clone())),
        None => Problem::new(Code::Unreachable, format!("the connection broke: {error}"), "ask again"),
    }
}

/// The TLS error in a chain of causes: after a TLS 1.3 handshake the server's refusal shows at the first read.
fn tls_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref::<rustls::Error>() {
        return Some(found);
    }
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let inner = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner.or_else(|| error.source().and_then(tls_cause))
}

/// TLS that did not come to be, for people.
#[must_use]
pub fn tls_problem(peer: impl std::fmt::Display, error: &TlsError) -> Problem {
    use rustls::CertificateError as Bad;
    use rustls::{AlertDescription, Error as Tls};
    let clocks = "compare `date -u` on both machines and set the clocks (chrony does it); a node whose certificate has \
                  ended renews it when it is started";
    match error {
        TlsError::Refused(Tls::InvalidCertificate(
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. },
        )) => {
            let now = crate::clock::now_s();
            let text =
                format!("the certificate of {peer} is not valid at this machine's time ({now} s since 1970): {error}");
            Problem::new(Code::ClockSkew, text, clocks)
        }
        TlsError::Refused(Tls::AlertReceived(AlertDescription::CertificateExpired)) => {
            let text = format!("{peer} says that this machine's certificate is not valid at its time");
            Problem::new(Code::ClockSkew, text, clocks)
        }
        TlsError::Refused(Tls::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature)) => {
            let text = format!("{peer} does not belong to this cluster: another CA stands behind its certificate");
            Problem::new(
                Code::WrongPeer,
                text,
                "check the address and where the token came from; nothing was told to it",
            )
        }
        TlsError::Refused(Tls::InvalidCertificate(Bad::ApplicationVerificationFailure)) => {
            let text = format!("{peer} belongs to this cluster, but it is not the machine that should be there");
            Problem::new(Code::WrongPeer, text, "check which machine has this address")
        }
        TlsError::Broken(_) | TlsError::TooSlow(_) => {
            Problem::new(Code::Unreachable, format!("{peer}: {error}"), "check that `muskox node run` runs there")
        }
        TlsError::Refused(_) => Problem::new(Code::WrongPeer, format!("{peer}: {error}"), "check what listens there"),
        _ => Problem::new(Code::Files, error.to_string(), "the text says what to do"),
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use rustls::pki_types::UnixTime;
    use rustls::{AlertDescription, CertificateError};

    /// Goal: what went wrong with TLS is told apart, also when it shows only at the first read. Method: each cause, bare
    /// and wrapped as it comes out of a connection.
    #[test]
    fn tls_failures_are_told_apart() {
        let time = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let early = CertificateError::NotValidYetContext { time: time(1), not_before: time(2) };
        let cases = [
            (rustls::Error::InvalidCertificate(early), Code::ClockSkew),
            (rustls::Error::InvalidCertificate(CertificateError::Expired), Code::ClockSkew),
            (rustls::Error::AlertReceived(AlertDescription::CertificateExpired), Code::ClockSkew),
            (rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer), Code::WrongPeer),
            (rustls::Error::HandshakeNotComplete, Code::WrongPeer),
        ];
        for (error, code) in cases {
            let wrapped = std::io::Error::new(std::io::ErrorKind::InvalidData, error.clone());
            assert_eq!(tls_cause(&wrapped), Some(&error));
            let problem = tls_problem("beta", &TlsError::Refused(error));
            assert!(problem.code == code && !problem.hint.is_empty(), "{problem:?}");
        }
        assert!(tls_cause(&std::io::Error::other("else")).is_none());
    }
}
