//! What a machine has that the cluster would lose with it.

use super::object;
use crate::registry::Record;
use crate::store::failed;
use api::{Code, Problem};
use cluster::job::Ownership;
use cluster::store::Engine;
use units::NodeName;

/// Refuses to let a machine go that still has something.
///
/// # Errors
/// [`Code::InUse`] with everything that it has; [`Code::StoreFailed`].
pub fn check_free(engine: &mut dyn Engine, members: &[Record], name: &NodeName) -> Result<(), Problem> {
    let mut has = Vec::new();
    let pools = object::pools(engine)?.into_iter().filter(|pool| pool.node == *name);
    has.extend(pools.map(|pool| format!("the pool '{}'", pool.name)));
    let key = members.iter().find(|member| member.name == *name).map(|member| member.key);
    let unread = |error: cluster::job::JobError| Problem::new(Code::StoreFailed, error.to_string(), "");
    for entry in engine.range("/epoch/vm/").map_err(|error| failed(&error))?.entries {
        let owned = Ownership::read(&entry.value).map_err(unread)?;
        if key.is_some_and(|key| owned.suspects().contains(&key)) {
            has.push(format!("the VM '{}'", owned.vm));
        }
    }
    let claims = object::claims(engine)?.into_iter().filter(|claim| claim.machine == *name);
    has.extend(claims.map(|claim| format!("an import into the volume '{}'", claim.volume)));
    if has.is_empty() {
        return Ok(());
    }
    let hint = "migrate or delete its VMs, let its imports end (or restart its node), and keep a machine as long as the \
                cluster has a pool on it";
    Err(Problem::new(Code::InUse, format!("'{name}' still has {}", has.join(", ")), hint))
}
