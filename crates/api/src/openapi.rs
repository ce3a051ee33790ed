//! The API as an OpenAPI 3.1 document. `docs/openapi.json` is this, and a test compares them.

use crate::{CALLS, Call, JSON, PROBLEM_JSON, Problem, Who};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};
use units::{NodeName, PoolName, VmName, VolumeName};

/// Where a console is visited; no call of the table, for what follows the answer is not HTTP.
pub const CONSOLE_PATH: &str = "/v1/vms/{name}/console";
/// What the connection of a console becomes.
pub const CONSOLE_PROTOCOL: &str = "muskox-console";

/// The document. Source of the form: OpenAPI Specification 3.1.0.
///
/// # Panics
/// If a type is sent and received, and looks different: then it needs two names.
#[must_use]
pub fn document() -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for call in &CALLS {
        let place = paths.entry(call.path).or_insert_with(|| json!({}));
        place[call.method.as_str().to_ascii_lowercase()] = operation(call, &mut schemas);
    }
    paths.insert(CONSOLE_PATH.to_owned(), json!({"post": console(&mut schemas)}));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "muskox",
            "version": crate::VERSION,
            "description": "A few ordinary servers become one redundant VM cluster. Between machines by mTLS, within one over a Unix \
                            socket. GET is answered to HEAD likewise. Replies may get more members within a version.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas.all(),
            "securitySchemes": {
                "member": {"type": "mutualTLS", "description": "A certificate of the cluster's CA whose key is a member's."},
            },
        },
    })
}

/// The two views of types: as they are taken, and as they are given. A member that may be null may be left out of a request; a reply
/// has all of its members.
struct Schemas {
    taken: SchemaGenerator,
    given: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.meta_schema = None;
            })
        };
        Self {
            taken: settings().for_deserialize().into_generator(),
            given: settings().for_serialize().into_generator(),
        }
    }

    fn all(mut self) -> Map<String, Value> {
        let mut all = self.given.take_definitions(true);
        for (name, schema) in self.taken.take_definitions(true) {
            let other = all.insert(name.clone(), schema.clone());
            assert!(other.is_none_or(|other| other == schema), "'{name}' is taken otherwise than it is given");
        }
        all
    }

    /// Whether a request may leave everything out.
    fn may_be_empty(&self, reference: &Schema) -> bool {
        let name = reference.get("$ref").and_then(Value::as_str).and_then(|it| it.rsplit('/').next());
        let object = name.and_then(|name| self.taken.definitions().get(name));
        object.is_some_and(|object| object["required"].as_array().is_none_or(Vec::is_empty))
    }
}

fn content(kind: &str, schema: &Schema) -> Value {
    json!({kind: {"schema": schema}})
}

fn operation(call: &Call, schemas: &mut Schemas) -> Value {
    let mut operation = json!({
        "operationId": call.name,
        "summary": call.what,
        "responses": {
            "200": {"description": "Done.", "content": content(JSON, &(call.reply)(&mut schemas.given))},
            "default": refused(schemas),
        },
        "security": if call.who == Who::Members { json!([{"member": []}]) } else { json!([]) },
    });
    if let Some(request) = call.request {
        let schema = request(&mut schemas.taken);
        let required = !schemas.may_be_empty(&schema);
        operation["requestBody"] = json!({"required": required, "content": content(JSON, &schema)});
    }
    if call.path.contains("{name}") {
        operation["parameters"] = json!([parameter(call.path, schemas)]);
    }
    operation
}

fn refused(schemas: &mut Schemas) -> Value {
    json!({"description": "Nothing was done.", "content": content(PROBLEM_JSON, &schemas.given.subschema_for::<Problem>())})
}

/// What stands for `{name}`, by the thing that the path names before it.
fn parameter(path: &str, schemas: &mut Schemas) -> Value {
    fn of<T: JsonSchema>(schemas: &mut Schemas) -> Value {
        schemas.taken.subschema_for::<T>().into()
    }
    let schema = match path.trim_start_matches("/v1/").split('/').next() {
        Some("nodes") => of::<NodeName>(schemas),
        Some("pools") => of::<PoolName>(schemas),
        Some("volumes") => of::<VolumeName>(schemas),
        // Their ids are names as well.
        Some("vms" | "jobs" | "works") => of::<VmName>(schemas),
        Some("store") => json!({"type": "integer", "minimum": 0}),
        _ => panic!("nobody wrote down what stands for the name in {path}"),
    };
    json!({"name": "name", "in": "path", "required": true, "schema": schema})
}

/// OpenAPI has no words for what follows an upgrade; this is what leads to it.
fn console(schemas: &mut Schemas) -> Value {
    let upgrade = json!({"type": "string", "const": CONSOLE_PROTOCOL});
    json!({
        "operationId": "vm_console",
        "summary": "Visits a VM's serial console: after the answer the connection is its bytes both ways, until one side ends it.",
        "parameters": [
            parameter(CONSOLE_PATH, schemas),
            {"name": "Upgrade", "in": "header", "required": true, "schema": upgrade},
        ],
        "responses": {
            "101": {"description": "The connection is the console's now.", "headers": {"Upgrade": {"schema": upgrade}}},
            "default": refused(schemas),
        },
        "security": [{"member": []}],
    })
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: the document in the repository is the program's. Method: compare; `MUSKOX_BLESS=1` writes it.
    #[test]
    fn the_committed_document_is_ours() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        if std::env::var_os("MUSKOX_BLESS").is_some() {
            let text = serde_json::to_string_pretty(&document()).expect("a document is JSON") + "\n";
            std::fs::write(path, text).expect("docs can be written");
        }
        let committed = std::fs::read_to_string(path).expect("docs/openapi.json is there");
        let committed: Value = serde_json::from_str(&committed).expect("docs/openapi.json is JSON");
        assert!(
            committed == document(),
            "docs/openapi.json is not the program's API: run `MUSKOX_BLESS=1 cargo test -p api` and look at the difference"
        );
    }

    /// Goal: the document refers to nothing that it does not hold. Method: collect every `$ref`.
    #[test]
    fn every_reference_is_there() {
        let document = document();
        let text = document.to_string();
        let names: Vec<&str> =
            text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(names.len() > 2 * CALLS.len());
        for name in names {
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
    }
}
