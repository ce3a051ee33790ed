//! D8: what `docs/openapi.json` says and what a real node answers are the same: every call of the document, with what it asks for,
//! nulls, keys too many, names in other forms and other methods. Replies are held against their schemas.

use crate::storage::{pool_of, storage_machine, volume_of};
use crate::support::{Machine, Machines};
use serde_json::{Value, json};
use units::{HostKey, VmName};

const SPEC: &str = "name = \"web1\"\nmemory = 64\nvcpus = 1\n[[disk]]\nvolume = \"web1-root\"\n";
const DOCUMENT: &str = include_str!("../../../../docs/openapi.json");

/// Goal: D8: every reply is as the document says; a `null` is taken exactly where it is allowed, a key too many nowhere; nothing that a
/// caller can do wrong is an internal failure. Method: a machine that has one of each thing and one each that is broken or missing.
#[test]
fn every_call_is_answered_as_the_document_says() {
    let machines = Machines::new();
    let (alpha, _target) = storage_machine(&machines);
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let api = Api { machine: &alpha, document: &document };
    alpha.ask("POST", "/v1/pools", &pool_of(&alpha, &["d0", "d1"]));
    alpha.ask("POST", "/v1/volumes", &volume_of("web1-root", 8));
    alpha.ask("POST", "/v1/vms", &json!({ "spec": SPEC }));
    for (path, method, operation) in api.operations() {
        let name = known_name(path);
        let path = path.replace("{name}", name);
        api.a_request_is_taken_as_described(method, &path, operation);
        api.other_names_are_the_callers_mistake(method, &path, name, operation);
    }
    // What the requests above left is looked at once more, by every call that only reads.
    for (path, method, operation) in api.operations().into_iter().filter(|(_, method, _)| *method == "get") {
        let (status, answer) = api.machine.api("GET", &path.replace("{name}", known_name(path)), &Value::Null);
        api.check_answer(operation, &format!("{method} {path}"), status, &answer);
    }
    api.disks_that_are_wrong_are_the_callers_mistake();
}

/// Goal: D8: a known path with another method is 405 and lists what is possible (RFC 9110 §15.5.6); HEAD is GET without the body.
/// Method: every path of the document with every method, on a node of its own.
#[test]
fn other_methods_are_405_and_long_requests_413() {
    let machines = Machines::new();
    let alpha = machines.first(&[]);
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.replace("{name}", "0");
        for method in ["PUT", "PATCH", "TRACE", "OPTIONS", "GET", "POST", "DELETE", "HEAD"] {
            let lower = method.to_lowercase();
            let known = if method == "HEAD" { "get" } else { &lower };
            if methods.get(known).is_some() {
                continue;
            }
            let answer = alpha.raw(method, &path, "");
            assert!(answer.starts_with("HTTP/1.1 405 "), "{method} {path}: {answer}");
            let allow = answer.lines().find_map(|line| line.strip_prefix("allow: ")).expect("it lists the methods");
            for possible in methods.as_object().unwrap().keys() {
                assert!(allow.split(", ").any(|word| word.eq_ignore_ascii_case(possible)), "{path}: {allow}");
            }
        }
    }
    let head = alpha.raw("HEAD", "/v1/nodes", "");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(alpha.raw("GET", "/v2/nodes", "").starts_with("HTTP/1.1 404 "));
    let long = alpha.raw("POST", "/v1/vms", &format!("{{\"spec\":\"{}\"}}", "a".repeat(80 << 10)));
    assert!(long.starts_with("HTTP/1.1 413 ") && long.contains("too_large"), "{long}");
    let encoded = alpha.raw("DELETE", "/v1/nodes/%61lpha", "");
    assert!(encoded.contains("holds_store"), "it was decoded: {encoded}");
}

/// A thing that there is, for each noun.
fn known_name(path: &str) -> &'static str {
    match path.split('/').nth(2) {
        Some("nodes") => "alpha",
        Some("pools") => "tank",
        Some("volumes") => "web1-root",
        Some("vms") => "web1",
        Some("store") => "0",
        _ => "none-1",
    }
}

struct Api<'a> {
    machine: &'a Machine,
    document: &'a Value,
}

impl<'a> Api<'a> {
    /// Path, method and operation of all calls that are plain HTTP; what takes something away comes last.
    fn operations(&self) -> Vec<(&'a str, &'a str, &'a Value)> {
        let paths = self.document["paths"].as_object().unwrap();
        let mut all: Vec<_> = paths
            .iter()
            .flat_map(|(path, methods)| {
                methods.as_object().unwrap().iter().map(move |(method, it)| (path.as_str(), method.as_str(), it))
            })
            .filter(|(path, ..)| !path.ends_with("/console"))
            .collect();
        all.sort_by_key(|(_, method, _)| *method == "delete");
        assert!(all.len() >= 35);
        all
    }

    fn ask(&self, method: &str, path: &str, body: &Value, operation: &Value) -> (u16, Value) {
        let (status, answer) = self.machine.api(&method.to_uppercase(), path, body);
        self.check_answer(operation, &format!("{method} {path} {body}"), status, &answer);
        (status, answer)
    }

    /// Either the reply that is described, or a problem that is not our own failure.
    fn check_answer(&self, operation: &Value, what: &str, status: u16, answer: &Value) {
        assert_ne!(status, 500, "{what}: {answer}\nthe log:\n{}", self.machine.log());
        let responses = &operation["responses"];
        let (kind, response) = match status {
            200 => ("application/json", &responses["200"]),
            _ => ("application/problem+json", &responses["default"]),
        };
        let complaint = self.mismatch(&response["content"][kind]["schema"], answer);
        assert_eq!(complaint, None, "{what}: {status} {answer}");
    }

    /// Every property as null, as something else, and one that nobody knows. A request is `bad_request` if and only if the document
    /// forbids it, unless something that is allowed in form cannot be meant.
    fn a_request_is_taken_as_described(&self, method: &str, path: &str, operation: &Value) {
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        if schema.is_null() {
            self.ask(method, path, &Value::Null, operation);
            return;
        }
        let schema = self.resolved(schema);
        assert_eq!(schema["additionalProperties"], false, "{path}: requests say which keys there are");
        let empty = self.machine.raw(&method.to_uppercase(), path, "");
        let required = schema["required"].as_array().is_some_and(|required| !required.is_empty());
        assert_eq!(empty.contains("missing field"), required, "{method} {path} without a body: {empty}");
        assert_eq!(operation["requestBody"]["required"], required);
        let mut whole = json!({});
        for (key, property) in schema["properties"].as_object().unwrap() {
            whole[key] = self.example(key, property);
        }
        let not_understood = |body: &Value| {
            let (_, answer) = self.ask(method, path, body, operation);
            answer["detail"].as_str().is_some_and(|text| text.starts_with("the request is not understood"))
        };
        for key in schema["properties"].as_object().unwrap().keys() {
            for wrong in [Value::Null, json!([[]]), json!(-1), json!("\u{0}")] {
                let mut body = whole.clone();
                body[key] = wrong;
                let forbidden = self.mismatch(&schema, &body);
                assert_eq!(not_understood(&body), forbidden.is_some(), "{method} {path} {body}: {forbidden:?}");
            }
            let mut body = whole.clone();
            body.as_object_mut().unwrap().remove(key);
            assert_eq!(not_understood(&body), self.mismatch(&schema, &body).is_some(), "{path} without {key}");
        }
        whole["a_key_too_many"] = json!(1);
        assert!(self.mismatch(&schema, &whole).is_some() && not_understood(&whole), "{method} {path} {whole}");
    }

    /// Names that are none, and one that nobody has.
    fn other_names_are_the_callers_mistake(&self, method: &str, path: &str, name: &str, operation: &Value) {
        if operation.get("parameters").is_none() {
            return;
        }
        for other in ["%00", "%C3%A4", "A%20b", "..%2f..", "-", "%25", "nobody-9"] {
            let path = path.replacen(&format!("/{name}"), &format!("/{other}"), 1);
            let (status, answer) = self.ask(method, &path, &Value::Null, operation);
            assert!((400..500).contains(&status), "{method} {path}: {status} {answer}");
        }
    }

    fn disks_that_are_wrong_are_the_callers_mistake(&self) {
        let path = |name: &str| self.machine.path(name).to_str().unwrap().to_owned();
        for disk in [path("none"), path("etc"), "/dev/null".into(), path("d2/x"), "d2".into()] {
            let body = json!({"name": "other", "members": [disk, path("d2")]});
            let (status, answer) = self.machine.api("POST", "/v1/pools", &body);
            assert_eq!((status, &answer["code"]), (400, &json!("bad_request")), "{disk}: {answer}");
        }
        for (call, body) in [
            ("/v1/images", json!({"path": path("none"), "volume": "other"})),
            ("/v1/images", json!({"path": path("log/x"), "volume": "other"})),
            ("/v1/store/backup", json!({"path": path("none/x")})),
        ] {
            let (status, answer) = self.machine.api("POST", call, &body);
            assert_eq!((status, &answer["code"]), (400, &json!("bad_request")), "{body}: {answer}");
        }
    }

    /// Something that the schema allows and that does nothing: nobody has it.
    fn example(&self, key: &str, schema: &Value) -> Value {
        let schema = self.resolved(schema);
        if let Some(choices) = schema["anyOf"].as_array() {
            return self.example(key, &choices[0]);
        }
        if let Some(words) = schema["enum"].as_array() {
            return words[0].clone();
        }
        let kind = schema["type"].as_array().map_or(&schema["type"], |kinds| &kinds[0]);
        match kind.as_str().unwrap() {
            "string" if schema["format"] == "ip:port" => json!("192.0.2.1:1"),
            "string" if schema["format"] == "ip" => json!("192.0.2.1"),
            "string" => json!("nobody-9"),
            "boolean" => json!(false),
            "integer" => json!(1),
            "array" => json!([self.example(key, &schema["items"])]),
            other => panic!("{key}: an example of {other}"),
        }
    }

    fn resolved(&self, schema: &Value) -> Value {
        match schema["$ref"].as_str() {
            Some(place) => self.document.pointer(place.trim_start_matches('#')).expect("a reference is there").clone(),
            None => schema.clone(),
        }
    }

    /// Where a value is not as its schema wants it. Whatever a schema says that is not known here fails the test.
    fn mismatch(&self, schema: &Value, value: &Value) -> Option<String> {
        let wrong = |what: String| Some(format!("{value}: {what}"));
        for (word, wanted) in schema.as_object().expect("a schema is an object") {
            let complaint = match word.as_str() {
                "description" | "default" | "examples" => None,
                "$ref" => self.mismatch(&self.resolved(schema), value),
                "anyOf" => {
                    let none = wanted.as_array().unwrap().iter().all(|it| self.mismatch(it, value).is_some());
                    none.then(|| format!("{value} is none of {wanted}"))
                }
                "type" => match wanted.as_array() {
                    Some(kinds) if kinds.iter().any(|kind| is_a(kind, value)) => None,
                    None if is_a(wanted, value) => None,
                    _ => wrong(format!("no {wanted}")),
                },
                "enum" if wanted.as_array().unwrap().contains(value) => None,
                "minimum" if value.as_i64().is_none_or(|it| it >= wanted.as_i64().unwrap()) => None,
                "maximum" if value.as_u64().is_none_or(|it| it <= wanted.as_u64().unwrap()) => None,
                "format" if has_format(wanted, value) => None,
                "pattern" if value.is_null() || fits(wanted, value) => None,
                "items" => value.as_array().and_then(|list| list.iter().find_map(|it| self.mismatch(wanted, it))),
                "required" => value.as_object().and_then(|object| {
                    let missing =
                        wanted.as_array().unwrap().iter().find(|key| !object.contains_key(key.as_str().unwrap()));
                    missing.map(|key| format!("{value} has no {key}"))
                }),
                "properties" => wanted.as_object().unwrap().iter().find_map(|(key, schema)| {
                    let value = value.as_object()?.get(key)?;
                    self.mismatch(schema, value).map(|what| format!("{key}: {what}"))
                }),
                "additionalProperties" if *wanted == false => value.as_object().and_then(|object| {
                    let unknown = object.keys().find(|key| schema["properties"].get(key.as_str()).is_none());
                    unknown.map(|key| format!("nobody knows {key}"))
                }),
                "enum" | "minimum" | "maximum" | "format" | "pattern" => wrong(format!("not {word} {wanted}")),
                other => panic!("this test does not know '{other}' of {schema}"),
            };
            if complaint.is_some() {
                return complaint;
            }
        }
        None
    }
}

fn is_a(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        other => panic!("this test does not know the type '{other}'"),
    }
}

fn has_format(format: &Value, value: &Value) -> bool {
    match format.as_str().unwrap() {
        "uint64" | "uint16" => value.is_null() || value.is_u64(),
        "ip" => value.as_str().is_some_and(|text| text.parse::<std::net::IpAddr>().is_ok()),
        "ip:port" => value.as_str().is_some_and(|text| text.parse::<std::net::SocketAddr>().is_ok()),
        other => panic!("this test does not know the format '{other}'"),
    }
}

/// The patterns of names and keys, which have parsers of their own.
fn fits(pattern: &Value, value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    match pattern.as_str().unwrap() {
        "^[a-z0-9][a-z0-9._-]{0,62}$" => text.parse::<VmName>().is_ok(),
        "^[0-9a-fA-F]{64}$" => text.parse::<HostKey>().is_ok(),
        other => panic!("this test does not know the pattern '{other}'"),
    }
}
