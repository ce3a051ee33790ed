//! The table of calls: the server's router, the clients and the document all read it.

use crate::node::{
    Certificate, Done, JoinRequest, Joined, NodeList, RenewRequest, StoreBackupRequest, Token, TokenRequest,
};
use crate::openapi::CONSOLE_PATH;
use crate::storage::{
    Pool, PoolAddRequest, PoolCreateRequest, PoolList, PoolReplaceRequest, PoolStartRequest, Volume,
    VolumeCreateRequest, VolumeList,
};
use crate::vm::{
    Begun, Doctor, Job, JobList, StoreChanges, VmDetails, VmList, VmMigrateRequest, VmSpecRequest, VmStartRequest,
    VmStopRequest, Why,
};
use crate::work::{ImageImportRequest, Work, WorkList};
use percent_encoding::percent_decode_str;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use std::borrow::Cow;

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
    /// This machine's owner over the Unix socket; the machine itself answers, whoever holds the store.
    Owner,
}

/// A type of a call: how a generator comes to a reference to its schema.
pub type Shape = fn(&mut SchemaGenerator) -> Schema;

const fn of<T: JsonSchema>() -> Shape {
    SchemaGenerator::subschema_for::<T>
}

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

/// A call that members make and the machine with the store answers.
const fn members(
    name: &'static str,
    (method, path): (Method, &'static str),
    what: &'static str,
    request: Option<Shape>,
    reply: Shape,
) -> Call {
    Call { name, method, path, who: Who::Members, what, request, reply }
}

/// A call to the machine itself.
const fn owner(
    name: &'static str,
    (method, path): (Method, &'static str),
    what: &'static str,
    request: Option<Shape>,
    reply: Shape,
) -> Call {
    Call { name, method, path, who: Who::Owner, what, request, reply }
}

const DONE: Shape = of::<Done>();
const BEGUN: Shape = of::<Begun>();
const POOL: Shape = of::<Pool>();
const VOLUME: Shape = of::<Volume>();
const VM: Shape = of::<VmDetails>();
const JOB: Shape = of::<Job>();
const WORK: Shape = of::<Work>();
const SPEC: Option<Shape> = Some(of::<VmSpecRequest>());
use Method::{Delete, Get, Post};

/// Every call.
pub const CALLS: [Call; 37] = [
    members("node_list", (Get, "/v1/nodes"), "All machines of the cluster.", None, of::<NodeList>()),
    members(
        "node_remove",
        (Delete, "/v1/nodes/{name}"),
        "Removes a machine: its key is refused from then on and never comes back.",
        None,
        DONE,
    ),
    members(
        "token_create",
        (Post, "/v1/tokens"),
        "A token with which one machine may join, once.",
        Some(of::<TokenRequest>()),
        of::<Token>(),
    ),
    members("pool_list", (Get, "/v1/pools"), "All pools.", None, of::<PoolList>()),
    members(
        "pool_create",
        (Post, "/v1/pools"),
        "Makes a pool of disks of one machine.",
        Some(of::<PoolCreateRequest>()),
        POOL,
    ),
    members("pool_show", (Get, "/v1/pools/{name}"), "One pool with its members.", None, POOL),
    members(
        "pool_add",
        (Post, "/v1/pools/{name}/add"),
        "Puts a disk in the place of one that failed or is missing, or takes that one back; a resync follows.",
        Some(of::<PoolAddRequest>()),
        POOL,
    ),
    members(
        "pool_replace",
        (Post, "/v1/pools/{name}/replace"),
        "Puts a new disk in the place of another; a resync follows.",
        Some(of::<PoolReplaceRequest>()),
        POOL,
    ),
    members(
        "pool_start",
        (Post, "/v1/pools/{name}/start"),
        "Assembles a pool that was stopped, or lost too many members.",
        Some(of::<PoolStartRequest>()),
        POOL,
    ),
    members(
        "pool_stop",
        (Post, "/v1/pools/{name}/stop"),
        "Ends serving a pool and leaves its disks clean. Refused while a VM that runs uses it.",
        None,
        POOL,
    ),
    members("volume_list", (Get, "/v1/volumes"), "All volumes.", None, of::<VolumeList>()),
    members(
        "volume_create",
        (Post, "/v1/volumes"),
        "Makes a volume; it can be used when its zeroing is over.",
        Some(of::<VolumeCreateRequest>()),
        VOLUME,
    ),
    members("volume_show", (Get, "/v1/volumes/{name}"), "One volume.", None, VOLUME),
    members(
        "volume_remove",
        (Delete, "/v1/volumes/{name}"),
        "Removes a volume and what it holds. Refused while it belongs to a VM.",
        None,
        DONE,
    ),
    members("vm_list", (Get, "/v1/vms"), "All VMs.", None, of::<VmList>()),
    members("vm_create", (Post, "/v1/vms"), "Makes a VM from a description; it does not run yet.", SPEC, VM),
    members("vm_show", (Get, "/v1/vms/{name}"), "One VM with its description.", None, VM),
    members(
        "vm_edit",
        (Post, "/v1/vms/{name}"),
        "Gives a VM another description; it holds from the next start on.",
        SPEC,
        VM,
    ),
    members("vm_delete", (Delete, "/v1/vms/{name}"), "Deletes a VM that does not run; its volumes stay.", None, DONE),
    members(
        "vm_start",
        (Post, "/v1/vms/{name}/start"),
        "Wishes that a VM run, now and after whatever happens.",
        Some(of::<VmStartRequest>()),
        BEGUN,
    ),
    members(
        "vm_stop",
        (Post, "/v1/vms/{name}/stop"),
        "Shuts a VM down and wishes that it not run.",
        Some(of::<VmStopRequest>()),
        BEGUN,
    ),
    members(
        "vm_migrate",
        (Post, "/v1/vms/{name}/migrate"),
        "Moves a VM to another host while it runs.",
        Some(of::<VmMigrateRequest>()),
        BEGUN,
    ),
    members(
        "vm_adopt",
        (Post, "/v1/vms/{name}/adopt"),
        "Makes the store agree with the hosts and targets of a VM, after it was brought back from an older backup; a host that \
         cannot tell about the VM takes over what runs there.",
        None,
        DONE,
    ),
    members(
        "vm_forget",
        (Post, "/v1/vms/{name}/forget"),
        "Ends what runs of a VM on hosts that cannot tell about it, and what they kept of it.",
        None,
        DONE,
    ),
    members("vm_why", (Get, "/v1/vms/{name}/why"), "Why a VM is as it is, from recorded facts.", None, of::<Why>()),
    members("job_list", (Get, "/v1/jobs"), "Jobs that go on, and the newest that have ended.", None, of::<JobList>()),
    members("job_show", (Get, "/v1/jobs/{name}"), "One job with its history.", None, JOB),
    members(
        "job_cancel",
        (Post, "/v1/jobs/{name}/cancel"),
        "Wishes that a job be undone, as long as that is possible.",
        None,
        JOB,
    ),
    members(
        "doctor",
        (Get, "/v1/doctor"),
        "Looks at every machine and says what is wrong and what to do.",
        None,
        of::<Doctor>(),
    ),
    members(
        "store_changes",
        (Get, "/v1/store/changes/{name}"),
        "Changes of the store after a revision, for audits; zero: as far back as they are kept.",
        None,
        of::<StoreChanges>(),
    ),
    owner(
        "image_import",
        (Post, "/v1/images"),
        "Begins to copy an image file of this machine into a volume.",
        Some(of::<ImageImportRequest>()),
        WORK,
    ),
    owner(
        "store_backup",
        (Post, "/v1/store/backup"),
        "Writes the store's objects into a new file of this machine; only where the store is.",
        Some(of::<StoreBackupRequest>()),
        DONE,
    ),
    owner("work_list", (Get, "/v1/works"), "Long work of this machine, the newest first.", None, of::<WorkList>()),
    owner("work_show", (Get, "/v1/works/{name}"), "A piece of long work of this machine.", None, WORK),
    owner("work_cancel", (Post, "/v1/works/{name}/cancel"), "Ends a piece of long work before its time.", None, WORK),
    Call {
        name: "join",
        method: Method::Post,
        path: "/v1/join",
        who: Who::Anybody,
        what: "Makes the caller's machine a member. The token proves that it may. Asking again with the same key gives \
               the same answer, so a lost answer is no loss.",
        request: Some(of::<JoinRequest>()),
        reply: of::<Joined>(),
    },
    Call {
        name: "renew",
        method: Method::Post,
        path: "/v1/renew",
        who: Who::Anybody,
        what: "A new certificate for a member's key. The signature of the request proves that the caller has it.",
        request: Some(of::<RenewRequest>()),
        reply: of::<Certificate>(),
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

/// What a method and a path ask for.
#[derive(Clone, Debug)]
pub enum Found<'a> {
    /// A call, and what stands for `{name}`.
    Call(&'static Call, Cow<'a, str>),
    /// The console of the VM of this name: what follows the answer is no HTTP.
    Console(Cow<'a, str>),
    /// The path is one of a call's, and these are its methods, as HTTP writes them.
    Methods(Vec<&'static str>),
    /// No call has this path.
    Nothing,
    /// The path is one of a call's, but for `{name}`: it is not UTF-8.
    NotText,
}

/// Which call that is. HEAD asks as GET does (RFC 9110 §9.3.2); what stands for `{name}` may be percent-encoded (RFC 3986 §2.1).
#[must_use]
pub fn find<'a>(method: &str, path: &'a str) -> Found<'a> {
    if let Some(name) = name_in(CONSOLE_PATH, path) {
        return if method == "POST" { decoded(name, Found::Console) } else { Found::Methods(vec!["POST"]) };
    }
    let wanted = if method == "HEAD" { "GET" } else { method };
    let here: Vec<(&'static Call, &'a str)> =
        CALLS.iter().filter_map(|call| name_in(call.path, path).map(|name| (call, name))).collect();
    match here.iter().find(|(call, _)| call.method.as_str() == wanted) {
        Some(&(call, name)) => decoded(name, |name| Found::Call(call, name)),
        None if here.is_empty() => Found::Nothing,
        None => {
            let head = here.iter().any(|(call, _)| call.method == Method::Get).then_some("HEAD");
            Found::Methods(here.iter().map(|(call, _)| call.method.as_str()).chain(head).collect())
        }
    }
}

/// What stands for `{name}` in a path, as it was written; nothing where the path is another's.
fn name_in<'a>(template: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, after)) = template.split_once("{name}") else { return (template == path).then_some("") };
    let name = path.strip_prefix(before)?.strip_suffix(after)?;
    (!name.contains('/')).then_some(name)
}

fn decoded<'a>(name: &'a str, found: impl FnOnce(Cow<'a, str>) -> Found<'a>) -> Found<'a> {
    percent_decode_str(name).decode_utf8().map_or(Found::NotText, found)
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: D8: a call is found by method and path, and whoever errs learns in which of them. Method: one of each kind.
    #[test]
    fn calls_are_found_by_method_and_path() {
        let found = |method, path| match find(method, path) {
            Found::Call(call, name) => format!("{} {name}", call.name),
            Found::Console(name) => format!("console of {name}"),
            Found::Methods(methods) => methods.join(", "),
            Found::Nothing => "nothing".to_owned(),
            Found::NotText => "no text".to_owned(),
        };
        for (method, path, expect) in [
            ("GET", "/v1/nodes", "node_list "),
            ("HEAD", "/v1/nodes", "node_list "),
            ("DELETE", "/v1/nodes/beta", "node_remove beta"),
            ("POST", "/v1/vms/web1/migrate", "vm_migrate web1"),
            ("POST", "/v1/vms/web1", "vm_edit web1"),
            ("GET", "/v1/vms/web%31", "vm_show web1"),
            ("GET", "/v1/vms/a%2Fb", "vm_show a/b"),
            ("GET", "/v1/vms/%ff", "no text"),
            ("POST", "/v1/vms/web%31/console", "console of web1"),
            ("GET", "/v1/vms/web1/console", "POST"),
            ("PUT", "/v1/nodes", "GET, HEAD"),
            ("HEAD", "/v1/tokens", "POST"),
            ("PATCH", "/v1/vms/web1", "GET, POST, DELETE, HEAD"),
            ("GET", "/v1/node", "nothing"),
            ("DELETE", "/v1/nodes/a/b", "nothing"),
            ("GET", "", "nothing"),
        ] {
            assert_eq!(found(method, path), expect, "{method} {path}");
        }
        assert_eq!(Call::named("node_remove").path_for("beta"), "/v1/nodes/beta");
    }
}
