//! What a machine has that the cluster would lose with it.

use super::object::{ClaimObject, PoolObject};
use crate::registry::Record;
use crate::store::{failed, parse_object};
use api::{Code, Problem};
use cluster::job::Ownership;
use cluster::store::{Engine, Entry};
use serde_json::Value;
use units::NodeName;

/// Refuses to let a machine go that still has something. An object that cannot be read bars those whom it names.
///
/// # Errors
/// [`Code::InUse`] with everything that it has; [`Code::StoreFailed`].
pub fn check_free(engine: &mut dyn Engine, members: &[Record], name: &NodeName) -> Result<(), Problem> {
    let mut has = Vec::new();
    let mut range = |prefix| engine.range(prefix).map(|listing| listing.entries).map_err(|error| failed(&error));
    for entry in range("/pool/")? {
        match parse_object::<PoolObject>(&entry) {
            Ok(pool) => has.extend((pool.node == *name).then(|| format!("the pool '{}'", pool.name))),
            Err(problem) => has.extend(perhaps(&entry, name.as_str(), &problem.text)),
        }
    }
    if let Some(member) = members.iter().find(|member| member.name == *name) {
        for entry in range("/epoch/vm/")? {
            match Ownership::read(&entry.value) {
                Ok(owned) => {
                    has.extend(owned.suspects().contains(&member.key).then(|| format!("the VM '{}'", owned.vm)));
                }
                Err(error) => has.extend(perhaps(&entry, &member.key.to_string(), &error.to_string())),
            }
        }
    }
    for entry in range("/claim/")? {
        match parse_object::<ClaimObject>(&entry) {
            Ok(claim) if claim.machine == *name => has.push(format!("an import into the volume '{}'", claim.volume)),
            Ok(_) => {}
            Err(problem) => has.extend(perhaps(&entry, name.as_str(), &problem.text)),
        }
    }
    if has.is_empty() {
        return Ok(());
    }
    let hint = "migrate or delete its VMs, let its imports end (or restart its node), and keep a machine as long as the \
                cluster has a pool on it";
    Err(Problem::new(Code::InUse, format!("'{name}' still has {}", has.join(", ")), hint))
}

/// An object that cannot be read, unless it is certainly about others.
fn perhaps(entry: &Entry, whose: &str, why: &str) -> Option<String> {
    let others = serde_json::from_str::<Value>(&entry.value).is_ok_and(|value| !names(&value, whose));
    (!others).then(|| format!("perhaps {} ({why})", entry.key))
}

fn names(value: &Value, word: &str) -> bool {
    match value {
        Value::String(text) => text == word,
        Value::Array(values) => values.iter().any(|value| names(value, word)),
        Value::Object(fields) => fields.values().any(|value| names(value, word)),
        _ => false,
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::identity::Seat;
    use api::Role;
    use cluster::store::{Memory, Op, Txn};
    use units::HostKey;

    /// CA14. Goal: one object that cannot be read keeps only the machines that it names. Method: a newer version's pool, ownership
    /// and claim of the first of two machines.
    #[test]
    fn an_unreadable_object_bars_those_whom_it_names() {
        let mut engine = Memory::new();
        let record = |n: u8| {
            let (name, address) = (format!("m{n}").parse().unwrap(), format!("127.0.0.{n}:1").parse().unwrap());
            Record::new(Seat { name, address, portals: Vec::new(), roles: vec![Role::Host] }, HostKey([n; 32]), 0)
        };
        let members = [record(1), record(2)];
        let mut put = |key: &str, value: String| {
            let op = Op::Put { key: key.parse().unwrap(), value, lease: None };
            engine.txn(&Txn { then: vec![op], ..Txn::default() }).unwrap();
        };
        put("/pool/tank", r#"{"version":9,"name":"tank","node":"m1"}"#.to_owned());
        put("/epoch/vm/web1", format!(r#"{{"version":9,"owners":["{}"]}}"#, HostKey([1; 32])));
        put("/claim/v", r#"{"version":9,"by":{"machine":"m1"}}"#.to_owned());
        let why = check_free(&mut engine, &members, &members[0].name).unwrap_err();
        for what in ["perhaps /pool/tank", "perhaps /epoch/vm/web1", "perhaps /claim/v", "version is 9"] {
            assert!(why.text.contains(what), "{what}: {why:?}");
        }
        check_free(&mut engine, &members, &members[1].name).expect("it is in none of them");
    }
}
