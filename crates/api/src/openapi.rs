//! The API as an OpenAPI 3.1 document. `docs/openapi.json` is this, and a test compares them.

use crate::{CALLS, Call, JSON, PROBLEM_JSON, Problem, Schema, Who};
use serde_json::{Map, Value, json};

/// The document. Source of the form: OpenAPI Specification 3.1.0.
#[must_use]
pub fn document() -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    schemas.insert("Problem".to_owned(), Problem::schema());
    for call in &CALLS {
        let place = paths.entry(call.path).or_insert_with(|| json!({}));
        place[call.method.as_str().to_ascii_lowercase()] = operation(call);
        for (name, schema) in call.request.iter().chain([&call.reply]) {
            schemas.insert((*name).to_owned(), schema());
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "muskox",
            "version": crate::VERSION,
            "description": "A few ordinary servers become one redundant VM cluster. Between machines by mTLS, within one over a Unix socket.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "member": {"type": "mutualTLS", "description": "A certificate of the cluster's CA whose key is a member's."},
            },
        },
    })
}

fn operation(call: &Call) -> Value {
    let content = |kind: &str, name: &str| json!({kind: {"schema": {"$ref": format!("#/components/schemas/{name}")}}});
    let mut operation = json!({
        "operationId": call.name,
        "summary": call.what,
        "responses": {
            "200": {"description": "Done.", "content": content(JSON, call.reply.0)},
            "default": {"description": "Nothing was done.", "content": content(PROBLEM_JSON, "Problem")},
        },
        "security": if call.who == Who::Members { json!([{"member": []}]) } else { json!([]) },
    });
    if let Some((name, _)) = call.request {
        operation["requestBody"] = json!({"required": true, "content": content(JSON, name)});
    }
    if call.path.contains("{name}") {
        let name = json!({"name": "name", "in": "path", "required": true, "schema": {"type": "string"}});
        operation["parameters"] = json!([name]);
    }
    operation
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
        assert!(names.len() > 2 * CALLS.len() - 2);
        for name in names {
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
    }
}
