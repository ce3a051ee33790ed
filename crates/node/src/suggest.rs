//! "Did you mean": a name that nobody has is held against those that there are.

use crate::store::failed;
use api::{Call, Code, Problem};
use cluster::store::Engine;

/// As `clap` has it for words of the command line: below, a guess is a distraction.
const LIKE_MIN: f64 = 0.7;

/// Adds the most similar name to a problem that there is nothing of the name that was asked for.
pub fn suggest(engine: &mut dyn Engine, call: &Call, name: &str, problem: Problem) -> Problem {
    let unknown = problem.code == Code::NotFound && problem.text.contains(&format!("'{name}'"));
    let Some(prefix) = prefix(call).filter(|_| unknown) else { return problem };
    match nearest(engine, prefix, name) {
        // That a name was not found is the truth all the same.
        Ok(None) | Err(_) => problem,
        Ok(Some(near)) => {
            let rest = if problem.hint.is_empty() { String::new() } else { format!(" {}", problem.hint) };
            Problem { hint: format!("did you mean '{near}'?{rest}"), ..problem }
        }
    }
}

/// Where the store has the things that a call's name is one of.
fn prefix(call: &Call) -> Option<&'static str> {
    match call.path.split('/').nth(2)? {
        "nodes" => Some("/node/"),
        "pools" => Some("/pool/"),
        "volumes" => Some("/volume/"),
        "vms" => Some("/vm/"),
        "jobs" => Some("/job/"),
        _ => None,
    }
}

fn nearest(engine: &mut dyn Engine, prefix: &str, name: &str) -> Result<Option<String>, Problem> {
    let listing = engine.range(prefix).map_err(|error| failed(&error))?;
    let names = listing.entries.iter().filter_map(|entry| entry.key.as_str().strip_prefix(prefix));
    let scored = names.map(|known| (strsim::jaro(known, name), known)).filter(|(like, _)| *like > LIKE_MIN);
    Ok(scored.max_by(|one, two| one.0.total_cmp(&two.0)).map(|(_, known)| known.to_owned()))
}

#[cfg(test)]
mod test {
    use super::*;
    use cluster::store::{Memory, Op, Txn};

    /// Goal: a slip of the finger is answered with what was meant, anything else is not guessed at. Method: names of each kind.
    #[test]
    fn the_nearest_name_is_suggested() {
        let mut engine = Memory::new();
        let keys = ["/vm/web1", "/vm/database", "/volume/web2", "/node/host1", "/vms/webb"];
        let put = |key: &str| Op::Put { key: key.parse().unwrap(), value: "{}".to_owned(), lease: None };
        engine.txn(&Txn { then: Vec::from(keys.map(put)), ..Txn::default() }).unwrap();
        let mut hint = |call: &str, code, name: &str| {
            let problem = Problem::new(code, format!("there is no VM '{name}'"), "see `muskox vm list`");
            suggest(&mut engine, Call::named(call), name, problem).hint
        };
        assert_eq!(hint("vm_show", Code::NotFound, "wbe1"), "did you mean 'web1'? see `muskox vm list`");
        assert_eq!(hint("vm_start", Code::NotFound, "databse"), "did you mean 'database'? see `muskox vm list`");
        assert_eq!(hint("volume_show", Code::NotFound, "web1"), "did you mean 'web2'? see `muskox vm list`");
        assert_eq!(hint("node_remove", Code::NotFound, "hots1"), "did you mean 'host1'? see `muskox vm list`");
        for (call, code, name) in [
            ("vm_show", Code::NotFound, "mail"),
            ("vm_show", Code::InUse, "wbe1"),
            ("pool_show", Code::NotFound, "tnak"),
            ("vm_list", Code::NotFound, ""),
        ] {
            assert_eq!(hint(call, code, name), "see `muskox vm list`", "{call} {name}");
        }
    }
}
