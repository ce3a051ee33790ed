//! Where calls come in: TCP under TLS for machines, a Unix socket for this machine's owner. HTTP/1.1. A call has a connection
//! of its own, that ends with it and says so to both sides; between nodes connections are kept for the next question.

use crate::client::Answer;
use crate::console;
use crate::peer;
use crate::rights::Caller;
use crate::service::{Node, refusal};
use api::{Code, Found, JSON, PROBLEM_JSON, Problem};
use host::net::{Listener, Lobby, Peer, Place, Places, ServerTls, Source, TlsError, Transport};
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
use std::time::Duration;
use units::Millis;

/// Callers of which nothing is proven yet. Each costs a descriptor and a few KiB.
const STRANGERS: Places = Places { all: 4096, of_one: 2048 };
/// Callers without a certificate, once TLS is there: machines that are being set up.
const GUESTS: Places = Places { all: 64, of_one: 32 };
/// Members by their keys, or this machine's users: each has its calls, its node's and those of the people there.
const MEMBERS: Places = Places { all: 1024, of_one: 64 };
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

/// What TLS a door speaks; renewed while it is open.
pub type Tls = Rc<RefCell<ServerTls>>;

/// The places at one door.
struct Door {
    node: Rc<Node>,
    tls: Option<Tls>,
    strangers: Rc<Lobby>,
    guests: Rc<Lobby>,
    members: Rc<Lobby>,
}

/// Lets callers in for ever. Without `tls` every caller is this machine's owner: only for a socket that nobody else may
/// open.
pub async fn serve(node: Rc<Node>, listener: Listener, tls: Option<Tls>) {
    let [strangers, guests, members] = [STRANGERS, GUESTS, MEMBERS].map(Lobby::new);
    let door = Rc::new(Door { node, tls, strangers, guests, members });
    let receive = |plain, place| {
        let door = Rc::clone(&door);
        async move {
            if tokio::time::timeout(CONNECTION_MAX, door.receive(plain, place)).await.is_err() {
                tracing::debug!("a connection was cut off after {} s", CONNECTION_MAX.as_secs());
            }
        }
    };
    door.strangers.let_in(&listener, receive).await;
}

impl Door {
    async fn receive(&self, plain: Transport, place: Place) {
        let from = plain.peer();
        let away = |lobby: &Lobby| lobby.say(|| format!("{from} was sent away: newer ones needed its place"));
        let (transport, caller) = match place.hold(self.prove(plain, &place)).await {
            Some(Ok(proven)) => proven,
            Some(Err(error)) => return self.strangers.say(|| format!("{from} was not let in: {error}")),
            None => return away(&self.strangers),
        };
        drop(place);
        let (lobby, source) = match caller {
            Caller::Machine { key, .. } => (&self.members, Source::Key(key)),
            Caller::Local(user) => (&self.members, Source::User(user)),
            // As the node itself nobody comes in.
            Caller::Nobody | Caller::Itself => (&self.guests, Source::of(from)),
        };
        let place = Rc::new(lobby.enter(source));
        if place.hold(converse(&self.node, transport, caller, &place)).await.is_none() {
            away(lobby);
        }
    }

    /// Who it is, by TLS or by the kernel.
    async fn prove(&self, plain: Transport, place: &Place) -> Result<(Transport, Caller), TlsError> {
        let Some(tls) = &self.tls else {
            return match plain.peer() {
                Peer::Unix { user, .. } => Ok((plain, Caller::Local(user))),
                Peer::Tcp(from) => unreachable!("{from} came by TCP to a door without TLS, which is a Unix socket"),
            };
        };
        place.spoken_to_by(&plain, HANDSHAKE_MAX).await?;
        let tls = tls.borrow().clone();
        let transport = tls.accept(plain, HANDSHAKE_MAX).await?;
        let caller = transport.host_key().map_or(Caller::Nobody, |key| Caller::Machine { key, user: None });
        Ok((transport, caller))
    }
}

/// Calls over one connection, until it ends.
async fn converse(node: &Rc<Node>, transport: Transport, caller: Caller, place: &Rc<Place>) {
    let service = service_fn(move |request| {
        let (node, place) = (Rc::clone(node), Rc::clone(place));
        async move {
            place.heard();
            let stays = request.uri().path() == peer::PATH;
            let mut response = respond(&node, caller, request).await;
            if !stays && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            place.answered();
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
