//! The table of calls: the server's router, the clients and the document all read it.

use crate::node::{Certificate, Done, JoinRequest, Joined, NodeList, RenewRequest, SyncRequest, Token, TokenRequest};
use crate::schema::Schema;
use serde_json::Value;

/// An HTTP method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Makes, or asks for something.
    Post,
    /// Removes.
    Delete,
}

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Members by mTLS, and this machine's owner over the Unix socket.
    Members,
    /// Anybody who reaches the port: the request itself proves what it has to.
    Anybody,
}

/// A type of a call: its name in the document, and how its schema is made.
pub type Shape = (&'static str, fn() -> Value);

/// A call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its name; also the `operationId`.
    pub name: &'static str,
    /// How.
    pub method: Method,
    /// Where; `{name}` is filled in.
    pub path: &'static str,
    /// Who may.
    pub who: Who,
    /// What it does.
    pub what: &'static str,
    /// What it takes.
    pub request: Option<Shape>,
    /// What it gives.
    pub reply: Shape,
}

/// Every call.
pub const CALLS: [Call; 6] = [
    Call {
        name: "node_list",
        method: Method::Get,
        path: "/v1/nodes",
        who: Who::Members,
        what: "All machines of the cluster.",
        request: None,
        reply: ("NodeList", NodeList::schema),
    },
    Call {
        name: "node_remove",
        method: Method::Delete,
        path: "/v1/nodes/{name}",
        who: Who::Members,
        what: "Removes a machine: its key is refused from then on and never comes back.",
        request: None,
        reply: ("Done", Done::schema),
    },
    Call {
        name: "token_create",
        method: Method::Post,
        path: "/v1/tokens",
        who: Who::Members,
        what: "A token with which one machine may join, once.",
        request: Some(("TokenRequest", TokenRequest::schema)),
        reply: ("Token", Token::schema),
    },
    Call {
        name: "join",
        method: Method::Post,
        path: "/v1/join",
        who: Who::Anybody,
        what: "Makes the caller's machine a member. The token proves that it may. Asking again with the same key gives \
               the same answer, so a lost answer is no loss.",
        request: Some(("JoinRequest", JoinRequest::schema)),
        reply: ("Joined", Joined::schema),
    },
    Call {
        name: "renew",
        method: Method::Post,
        path: "/v1/renew",
        who: Who::Anybody,
        what: "A new certificate for a member's key. The signature of the request proves that the caller has it.",
        request: Some(("RenewRequest", RenewRequest::schema)),
        reply: ("Certificate", Certificate::schema),
    },
    Call {
        name: "sync",
        method: Method::Post,
        path: "/v1/sync",
        who: Who::Members,
        what: "A member tells of itself and hears who the members are.",
        request: Some(("SyncRequest", SyncRequest::schema)),
        reply: ("NodeList", NodeList::schema),
    },
];

impl Method {
    /// As HTTP writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

impl Call {
    /// The call of this name.
    ///
    /// # Panics
    /// If there is none: names are written in the program, not given by people.
    #[must_use]
    pub fn named(name: &str) -> &'static Self {
        CALLS.iter().find(|call| call.name == name).expect("the program names only calls of the table")
    }

    /// The path with its `{name}` filled in.
    #[must_use]
    pub fn path_for(&self, name: &str) -> String {
        self.path.replace("{name}", name)
    }
}

/// Which call that is, and what stands for `{name}`.
#[must_use]
pub fn find<'a>(method: &str, path: &'a str) -> Option<(&'static Call, &'a str)> {
    CALLS.iter().filter(|call| call.method.as_str() == method).find_map(|call| match call.path.strip_suffix("{name}") {
        None => (call.path == path).then_some((call, "")),
        Some(folder) => path.strip_prefix(folder).filter(|name| !name.contains('/')).map(|name| (call, name)),
    })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn calls_are_found_by_method_and_path() {
        let found = |method, path| find(method, path).map(|(call, name)| (call.name, name.to_owned()));
        assert_eq!(found("GET", "/v1/nodes"), Some(("node_list", String::new())));
        assert_eq!(found("DELETE", "/v1/nodes/beta"), Some(("node_remove", "beta".into())));
        for (method, path) in [("GET", "/v1/node"), ("PUT", "/v1/nodes"), ("DELETE", "/v1/nodes/a/b"), ("GET", "")] {
            assert_eq!(found(method, path), None, "{method} {path}");
        }
        assert_eq!(Call::named("node_remove").path_for("beta"), "/v1/nodes/beta");
    }
}
