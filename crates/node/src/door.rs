//! Where calls come in: TCP under TLS for machines, a Unix socket for this machine's owner. HTTP/1.1. A call has a connection
//! of its own, that ends with it and says so to both sides; between nodes connections are kept for the next question.

use crate::client::Answer;
use crate::console;
use crate::peer;
use crate::rights::Caller;
use crate::service::{Node, refusal};
use api::{Code, Found, JSON, PROBLEM_JSON, Problem};
use host::net::{Listener, Peer, ServerTls, Transport};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use units::Millis;

/// Connections at a time, at each door: every machine of a large cluster, with some to spare.
const CONNECTIONS_MAX: usize = 300;
/// Of these, callers without a certificate: machines that are being set up. So strangers that dawdle leave room for
/// members, apart from the seconds of their handshakes.
const STRANGERS_MAX: usize = 32;
/// A request is a name or a certificate request.
const REQUEST_MAX_BYTES: usize = 64 << 10;
/// A machine's report of all its guests.
const PEER_MAX_BYTES: usize = api::BODY_MAX_BYTES;
/// HTTP/1.1 headers of a client that means well.
const HEADERS_MAX: usize = 32;
/// Who does not finish the handshake or the headers by then is cut off.
const HANDSHAKE_MAX: Millis = Millis(5_000);
const HEADERS_WITHIN: Duration = Duration::from_secs(5);
/// A whole connection; longer than a call that is passed on waits.
const CONNECTION_MAX: Duration = Duration::from_secs(30);
/// After a failed accept (too many open files) the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What TLS a door speaks; renewed while it is open.
pub type Tls = Rc<RefCell<ServerTls>>;

/// Lets callers in for ever. Without `tls` every caller is this machine's owner: only for a socket that nobody else may
/// open.
pub async fn serve(node: Rc<Node>, listener: Listener, tls: Option<Tls>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let strangers = Rc::new(Semaphore::new(STRANGERS_MAX));
    loop {
        let place = Arc::clone(&free).acquire_owned().await.expect("nobody closes it");
        match listener.accept().await {
            Ok(plain) => {
                let (node, tls) = (Rc::clone(&node), tls.as_ref().map(|tls| tls.borrow().clone()));
                let strangers = Rc::clone(&strangers);
                tokio::task::spawn_local(async move {
                    let served = tokio::time::timeout(CONNECTION_MAX, connection(node, plain, tls, &strangers)).await;
                    if served.is_err() {
                        tracing::debug!("a connection was cut off after {} s", CONNECTION_MAX.as_secs());
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("no connection could be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(node: Rc<Node>, plain: Transport, tls: Option<ServerTls>, strangers: &Semaphore) {
    let (transport, caller) = match tls {
        None => match plain.peer() {
            Peer::Unix { user, .. } => (plain, Caller::Local(user)),
            // No door of ours is like that.
            Peer::Tcp(from) => return tracing::error!("{from} came by TCP without TLS"),
        },
        Some(tls) => {
            let from = plain.peer();
            match tls.accept(plain, HANDSHAKE_MAX).await {
                Ok(transport) => {
                    let caller = transport.host_key().map_or(Caller::Nobody, |key| Caller::Machine { key, user: None });
                    (transport, caller)
                }
                Err(error) => return tracing::info!("{from:?} was not let in: {error}"),
            }
        }
    };
    let _place = match caller {
        Caller::Nobody => match strangers.try_acquire() {
            Ok(place) => Some(place),
            Err(_) => return tracing::warn!("a stranger was sent away: {STRANGERS_MAX} others are here already"),
        },
        _ => None,
    };
    let service = service_fn(move |request| {
        let node = Rc::clone(&node);
        async move {
            let stays = request.uri().path() == peer::PATH;
            let mut response = respond(&node, caller, request).await;
            if !stays && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    // Peers ask again soon; everybody else is told that the connection ends.
    http.keep_alive(true).max_headers(HEADERS_MAX).timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN);
    if let Err(error) = http.serve_connection(TokioIo::new(transport), service).with_upgrades().await {
        tracing::debug!("a connection broke: {error}");
    }
}

async fn respond(node: &Node, caller: Caller, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let caller = caller.of_request(&head.headers);
    let path = head.uri.path();
    let answer = match api::find(head.method.as_str(), path) {
        Found::Console(name) => {
            let name = name.into_owned();
            return console::answer(node, caller, &name, Request::from_parts(head, body)).await;
        }
        Found::Call(call, name) => match read(body, REQUEST_MAX_BYTES).await {
            Ok(body) => node.answer(caller, call, path, &name, body).await,
            Err(problem) => refusal(&problem),
        },
        Found::Nothing if head.method == "POST" && path == peer::PATH => match read(body, PEER_MAX_BYTES).await {
            Ok(body) => node.peer(caller, body).await,
            Err(problem) => refusal(&problem),
        },
        Found::Methods(methods) => return wrong_method(&head, &methods.join(", ")),
        Found::Nothing => {
            let text = format!("there is no call {} {path}", head.method);
            refusal(&Problem::new(Code::NoSuchCall, text, "docs/openapi.json has them all"))
        }
        Found::NotText => {
            let text = format!("the name in {path} is not UTF-8 when it is percent-decoded");
            refusal(&Problem::new(Code::BadRequest, text, "names are made of a-z 0-9 - _ ."))
        }
    };
    to_http(answer)
}

/// A body to its end.
async fn read(body: Incoming, most: usize) -> Result<Bytes, Problem> {
    let read = Limited::new(body, most).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let text = format!("the request is longer than {most} bytes");
            return Problem::new(Code::TooLarge, text, "docs/openapi.json says what the call takes");
        }
        Problem::new(Code::BadRequest, format!("the request cannot be read: {error}"), "send it again")
    });
    read.map(http_body_util::Collected::to_bytes)
}

/// Source: RFC 9110 §15.5.6: the answer lists what is possible.
fn wrong_method(head: &Parts, methods: &str) -> Response<Full<Bytes>> {
    let text = format!("there is no call {} {}", head.method, head.uri.path());
    let mut response = to_http(refusal(&Problem::new(Code::WrongMethod, text, format!("this path takes {methods}"))));
    response.headers_mut().insert(ALLOW, HeaderValue::from_str(methods).expect("methods are plain words"));
    response
}

/// An answer as HTTP has it.
pub fn to_http(answer: Answer) -> Response<Full<Bytes>> {
    let kind = if answer.status == 200 { JSON } else { PROBLEM_JSON };
    let response = Response::builder().status(answer.status).header(CONTENT_TYPE, kind);
    response.body(Full::new(answer.body)).expect("a status of ours or a peer's, and a plain header")
}
