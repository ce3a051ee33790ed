//! The table of calls: the server's router, the clients and the document all read it.

use crate::node::{
    Certificate, Done, JoinRequest, Joined, NodeList, RenewRequest, StoreBackupRequest, Token, TokenRequest,
};
use crate::schema::Schema;
use crate::storage::{
    Pool, PoolAddRequest, PoolCreateRequest, PoolList, PoolReplaceRequest, PoolStartRequest, Volume,
    VolumeCreateRequest, VolumeList,
};
use crate::vm::{
    Begun, Doctor, Job, JobList, StoreChanges, VmDetails, VmList, VmMigrateRequest, VmSpecRequest, VmStartRequest,
    VmStopRequest, Why,
};
use crate::work::{ImageImportRequest, Work};
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
    /// This machine's owner over the Unix socket; the machine itself answers, whoever holds the store.
    Owner,
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

const DONE: Shape = ("Done", Done::schema);
const BEGUN: Shape = ("Begun", Begun::schema);
const POOL: Shape = ("Pool", Pool::schema);
const VOLUME: Shape = ("Volume", Volume::schema);
const VM: Shape = ("VmDetails", VmDetails::schema);
const JOB: Shape = ("Job", Job::schema);
const WORK: Shape = ("Work", Work::schema);
const SPEC: Option<Shape> = Some(("VmSpecRequest", VmSpecRequest::schema));
use Method::{Delete, Get, Post};

/// Every call.
pub const CALLS: [Call; 36] = [
    members("node_list", (Get, "/v1/nodes"), "All machines of the cluster.", None, ("NodeList", NodeList::schema)),
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
        Some(("TokenRequest", TokenRequest::schema)),
        ("Token", Token::schema),
    ),
    members("pool_list", (Get, "/v1/pools"), "All pools.", None, ("PoolList", PoolList::schema)),
    members(
        "pool_create",
        (Post, "/v1/pools"),
        "Makes a pool of disks of one machine.",
        Some(("PoolCreateRequest", PoolCreateRequest::schema)),
        POOL,
    ),
    members("pool_show", (Get, "/v1/pools/{name}"), "One pool with its members.", None, POOL),
    members(
        "pool_add",
        (Post, "/v1/pools/{name}/add"),
        "Puts a disk in the place of one that failed or is missing, or takes that one back; a resync follows.",
        Some(("PoolAddRequest", PoolAddRequest::schema)),
        POOL,
    ),
    members(
        "pool_replace",
        (Post, "/v1/pools/{name}/replace"),
        "Puts a new disk in the place of another; a resync follows.",
        Some(("PoolReplaceRequest", PoolReplaceRequest::schema)),
        POOL,
    ),
    members(
        "pool_start",
        (Post, "/v1/pools/{name}/start"),
        "Assembles a pool that was stopped, or lost too many members.",
        Some(("PoolStartRequest", PoolStartRequest::schema)),
        POOL,
    ),
    members(
        "pool_stop",
        (Post, "/v1/pools/{name}/stop"),
        "Ends serving a pool and leaves its disks clean. Refused while a VM that runs uses it.",
        None,
        POOL,
    ),
    members("volume_list", (Get, "/v1/volumes"), "All volumes.", None, ("VolumeList", VolumeList::schema)),
    members(
        "volume_create",
        (Post, "/v1/volumes"),
        "Makes a volume; it can be used when its zeroing is over.",
        Some(("VolumeCreateRequest", VolumeCreateRequest::schema)),
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
    members("vm_list", (Get, "/v1/vms"), "All VMs.", None, ("VmList", VmList::schema)),
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
        Some(("VmStartRequest", VmStartRequest::schema)),
        BEGUN,
    ),
    members(
        "vm_stop",
        (Post, "/v1/vms/{name}/stop"),
        "Shuts a VM down and wishes that it not run.",
        Some(("VmStopRequest", VmStopRequest::schema)),
        BEGUN,
    ),
    members(
        "vm_migrate",
        (Post, "/v1/vms/{name}/migrate"),
        "Moves a VM to another host while it runs.",
        Some(("VmMigrateRequest", VmMigrateRequest::schema)),
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
    members(
        "vm_why",
        (Get, "/v1/vms/{name}/why"),
        "Why a VM is as it is, from recorded facts.",
        None,
        ("Why", Why::schema),
    ),
    members(
        "job_list",
        (Get, "/v1/jobs"),
        "Jobs that go on, and the newest that have ended.",
        None,
        ("JobList", JobList::schema),
    ),
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
        ("Doctor", Doctor::schema),
    ),
    members(
        "store_changes",
        (Get, "/v1/store/changes/{name}"),
        "Changes of the store after a revision, for audits; zero: as far back as they are kept.",
        None,
        ("StoreChanges", StoreChanges::schema),
    ),
    owner(
        "image_import",
        (Post, "/v1/images"),
        "Begins to copy an image file of this machine into a volume.",
        Some(("ImageImportRequest", ImageImportRequest::schema)),
        WORK,
    ),
    owner(
        "store_backup",
        (Post, "/v1/store/backup"),
        "Writes the store's objects into a new file of this machine; only where the store is.",
        Some(("StoreBackupRequest", StoreBackupRequest::schema)),
        DONE,
    ),
    owner("work_show", (Get, "/v1/works/{name}"), "A piece of long work of this machine.", None, WORK),
    owner("work_cancel", (Post, "/v1/works/{name}/cancel"), "Ends a piece of long work before its time.", None, WORK),
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
    CALLS.iter().filter(|call| call.method.as_str() == method).find_map(|call| match call.path.split_once("{name}") {
        None => (call.path == path).then_some((call, "")),
        Some((before, after)) => {
            let name = path.strip_prefix(before)?.strip_suffix(after)?;
            (!name.contains('/')).then_some((call, name))
        }
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
        assert_eq!(found("POST", "/v1/vms/web1/migrate"), Some(("vm_migrate", "web1".into())));
        assert_eq!(found("POST", "/v1/vms/web1"), Some(("vm_edit", "web1".into())));
        for (method, path) in [("GET", "/v1/node"), ("PUT", "/v1/nodes"), ("DELETE", "/v1/nodes/a/b"), ("GET", "")] {
            assert_eq!(found(method, path), None, "{method} {path}");
        }
        assert_eq!(Call::named("node_remove").path_for("beta"), "/v1/nodes/beta");
    }
}
