//! Virtual machines as people describe them and as the store keeps them.
//!
//! Invariant: a description is checked whole before anything is changed; a VM's addresses and UUID are made once and
//! kept. It does *not* know where a VM runs: that is the director's.

mod adopt;
mod calls;
mod forget;
pub mod object;
mod run;
mod show;
pub mod spec;

use crate::client::Answer;
use crate::service::{Keeper, done, parse};
use api::{Call, Problem, VmSpecRequest};

/// Calls that are answered here.
const CALLS: [&str; 15] = [
    "vm_list",
    "vm_create",
    "vm_show",
    "vm_edit",
    "vm_delete",
    "vm_start",
    "vm_stop",
    "vm_migrate",
    "vm_adopt",
    "vm_forget",
    "vm_why",
    "job_list",
    "job_show",
    "job_cancel",
    "store_changes",
];

/// Whether [`answer`] answers this call.
#[must_use]
pub fn answers(call: &Call) -> bool {
    CALLS.contains(&call.name)
}

/// Answers a call about VMs or jobs; `by` is who asks, for people.
///
/// # Errors
/// The call's.
pub async fn answer(keeper: &Keeper, call: &Call, name: &str, body: &[u8], by: &str) -> Result<Answer, Problem> {
    let desk = keeper.director.desk()?;
    let spec = || parse::<VmSpecRequest>(body).map(|request| request.spec);
    match call.name {
        "vm_list" => desk.vm_list().await.map(|it| done(&it)),
        "vm_create" => desk.vm_create(&spec()?).await.map(|it| done(&it)),
        "vm_show" => desk.vm_show(name).await.map(|it| done(&it)),
        "vm_edit" => desk.vm_edit(name, &spec()?).await.map(|it| done(&it)),
        "vm_delete" => desk.vm_delete(name).await.map(|it| done(&it)),
        "vm_start" => desk.vm_start(name, &parse(body)?, by).await.map(|it| done(&it)),
        "vm_stop" => desk.vm_stop(name, &parse(body)?, by).await.map(|it| done(&it)),
        "vm_migrate" => desk.vm_migrate(name, &parse(body)?).await.map(|it| done(&it)),
        "vm_adopt" => desk.vm_adopt(name, by).await.map(|it| done(&it)),
        "vm_forget" => desk.vm_forget(name, by).await.map(|it| done(&it)),
        "vm_why" => desk.vm_why(name).await.map(|it| done(&it)),
        "job_list" => desk.job_list().await.map(|it| done(&it)),
        "job_show" => desk.job_show(name).await.map(|it| done(&it)),
        "job_cancel" => desk.job_cancel(name).await.map(|it| done(&it)),
        "store_changes" => desk.store_changes(name).await.map(|it| done(&it)),
        other => unreachable!("'{other}' is not answered here"),
    }
}
