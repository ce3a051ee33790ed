//! Starting, stopping and moving VMs.

use super::object::Wish;
use super::show::parse_vm;
use super::spec::Spec;
use crate::director::{Desk, Fit, POWER, RECOVERY_DEADLINE, View, admitted, memory, side, still_bound};
use crate::peer::{Ask, HostReport, Reply};
use api::{Begun, Code, Problem, VmMigrateRequest, VmStartRequest, VmStopRequest};
use cluster::ha::{NoRoom, Recovery};
use cluster::job::{Guest, Ownership, Task};
use cluster::migrate::{Fact, Migration, refusals};
use futures_util::future::join_all;
use host::runtime::now;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;
use units::{HostKey, Millis, NodeName};

/// A migration without a wished deadline: a minute, and what its memory takes at 100 MiB/s, a slow 1 GbE.
const MIGRATE_MS: u64 = 60_000;
const MIGRATE_MS_PER_MIB: u64 = 10;
/// A host that called just now answers soon.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// Deadlines that make sense.
const DEADLINE_MS: std::ops::RangeInclusive<u64> = 1_000..=86_400_000;
/// The longest that a guest may take to shut down.
const PATIENCE_MAX_MS: u64 = 3_600_000;

impl Desk {
    /// Wishes that a VM run, and starts it.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::InUse`], [`Code::NoRoom`], [`Code::NotPossible`]: nothing was changed.
    pub async fn vm_start(self: &Rc<Self>, name: &str, request: &VmStartRequest, by: &str) -> Result<Begun, Problem> {
        let vm = parse_vm(name)?;
        self.await_leave(request.host.as_ref()).await?;
        let _placing = self.placing.lock().await;
        self.refuse_if_behind(&vm).await?;
        let view = self.view().await?;
        let (object, owned) = (view.vm(&vm)?, view.ownership(&vm)?);
        if let Some(begun) = self.no_start(&view, owned, object.wished())? {
            return Ok(begun);
        }
        let spec = object.spec()?;
        let mut fits = self.fits(&view, &spec);
        if !request.overcommit {
            fits.iter_mut().for_each(|fit| fit.want_cpus(spec.vcpus));
        }
        let (to, spare) = choose(&view, &fits, &spec, request.host.as_ref())?;
        match admitted(&view, &self.hosts.borrow(), &spec, to, now()) {
            Err(NoRoom::AfterLosing { .. }) if request.overcommit => {}
            Err(no_room) => return Err(Problem::new(Code::NoRoom, self.in_names(&view, &no_room), ADD_MEMORY)),
            Ok(()) => {}
        }
        self.start_as_described(&vm).await?;
        let (plan, after) = Recovery::new(owned, to, spare, POWER);
        let new = self.wish(&vm, Wish::Running, None).await?;
        let begun = self.begin(Task::Recover(plan), (owned, &after), RECOVERY_DEADLINE).await;
        if begun.is_err() && new {
            // Nothing began: the wish is taken back, so that the answer is the truth.
            self.wish(&vm, Wish::Stopped, None).await?;
        }
        let job = begun?;
        self.note_wish(&vm, by, true);
        Ok(Begun { job: Some(job.to_string()), text: format!("VM '{vm}' is being started on '{}'", view.name(to)) })
    }

    /// Why nothing has to be started, or cannot be.
    fn no_start(&self, view: &View, owned: &Ownership, wished: bool) -> Result<Option<Begun>, Problem> {
        let vm = &owned.vm;
        if let Some(job) = &owned.job {
            let text = format!("job {job} works on VM '{vm}'");
            return Err(Problem::new(Code::InUse, text, "wait for it, or `muskox job cancel` it"));
        }
        let Some(owner) = owned.owner else { return Ok(None) };
        let host = view.name(owner);
        match self.hosts.borrow().guest(vm, owner, now()) {
            Some(Guest::Absent) => Ok(None),
            Some(_) if wished => Ok(Some(Begun { job: None, text: format!("VM '{vm}' runs on '{host}' already") })),
            Some(_) => {
                let text = format!("VM '{vm}' is being shut down on '{host}'");
                Err(Problem::new(Code::NotPossible, text, "start it when it is off"))
            }
            None if wished => {
                let text = format!("'{host}', which owns VM '{vm}', does not answer");
                let hint =
                    "it is started elsewhere when the witnesses have voted that host dead; see `muskox why vm NAME`";
                Err(Problem::new(Code::NotPossible, text, hint))
            }
            // Its old host is made sure of before it starts: by its answer, or by votes.
            None => Ok(None),
        }
    }

    /// Wishes that a VM not run; its host shuts it down when it hears of it, within a second.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::BadRequest`]; [`Code::NotPossible`]: the store is behind on it.
    pub async fn vm_stop(self: &Rc<Self>, name: &str, request: &VmStopRequest, by: &str) -> Result<Begun, Problem> {
        let vm = parse_vm(name)?;
        if let Some(ms) = request.patience_ms.filter(|ms| *ms > PATIENCE_MAX_MS) {
            let text = format!("a guest may take at most {PATIENCE_MAX_MS} ms to shut down, not {ms}");
            return Err(Problem::new(Code::BadRequest, text, "leave it out: then it is as described"));
        }
        self.refuse_if_behind(&vm).await?;
        let new = self.wish(&vm, Wish::Stopped, request.patience_ms.map(Millis)).await?;
        if new {
            self.note_wish(&vm, by, false);
        }
        let view = self.view().await?;
        let owned = view.ownership(&vm)?;
        let guest = owned.owner.and_then(|owner| self.hosts.borrow().guest(&vm, owner, now()));
        let text = match (owned.owner, &owned.job, guest) {
            (_, Some(job), _) => format!("VM '{vm}' is shut down when job {job} has ended"),
            (None, None, _) | (Some(_), None, Some(Guest::Absent)) => format!("VM '{vm}' is off"),
            (Some(owner), None, Some(_)) => format!("VM '{vm}' is being shut down on '{}'", view.name(owner)),
            (Some(owner), None, None) => {
                format!("'{}' does not answer; VM '{vm}' is shut down as soon as it does", view.name(owner))
            }
        };
        Ok(Begun { job: None, text })
    }

    /// Moves a VM to another host while it runs.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::BadRequest`]; [`Code::NotPossible`] with all reasons: nothing was changed.
    pub async fn vm_migrate(self: &Rc<Self>, name: &str, request: &VmMigrateRequest) -> Result<Begun, Problem> {
        let vm = parse_vm(name)?;
        if let Some(ms) = request.deadline_ms.filter(|ms| !DEADLINE_MS.contains(ms)) {
            let text = format!("a deadline is {} to {} ms, not {ms}", DEADLINE_MS.start(), DEADLINE_MS.end());
            return Err(Problem::new(Code::BadRequest, text, "leave it out: then it goes by the memory"));
        }
        self.await_leave(request.host.as_ref()).await?;
        let _placing = self.placing.lock().await;
        self.refuse_if_behind(&vm).await?;
        let view = self.view().await?;
        let (object, owned) = (view.vm(&vm)?, view.ownership(&vm)?);
        // Where it may be is as described now; what it needs is as it runs.
        let spec = Spec { hosts: object.spec()?.hosts, ..object.as_started()?.0 };
        let fits = self.fits(&view, &spec);
        let destinations = destinations(&view, owned, &fits, &spec, request.host.as_ref())?;
        let looks = self.look_at(&view, destinations.iter().copied().chain(owned.owner)).await;
        let judged = destinations.iter().map(|to| (*to, self.reasons(&view, owned, &spec, (&fits, &looks), *to)));
        let judged: Vec<(HostKey, Vec<String>)> = judged.collect();
        let good = judged.iter().find(|(_, reasons)| reasons.is_empty()).or(judged.first());
        let (destination, reasons) = good.expect("there is one, or it was refused above").clone();
        let from = match (owned.owner, reasons.is_empty()) {
            (Some(owner), true) => owner,
            _ => return Err(Problem::new(Code::NotPossible, reasons.join("; "), "nothing was changed")),
        };
        let long = Millis(MIGRATE_MS + MIGRATE_MS_PER_MIB * u64::from(spec.memory_mib));
        let deadline = request.deadline_ms.map_or(long, Millis);
        let (plan, after) = Migration::new(owned, destination, POWER);
        let job = self.begin(Task::Migrate(plan), (owned, &after), deadline).await?;
        let text = format!("VM '{vm}' moves from '{}' to '{}'", view.name(from), view.name(destination));
        Ok(Begun { job: Some(job.to_string()), text })
    }

    /// Why a VM cannot move there now; nothing: it can.
    fn reasons(&self, view: &View, owned: &Ownership, spec: &Spec, found: Found<'_>, to: HostKey) -> Vec<String> {
        let facts = self.facts(view, owned, spec, found, to);
        let mut reasons: Vec<String> = refusals(&owned.vm, &facts).iter().map(ToString::to_string).collect();
        reasons.extend(not_allowed(found.0, spec, to));
        let name = found.0.iter().find(|fit| fit.candidate.host == to).map(|fit| &fit.name);
        reasons.extend(name.zip(self.voted_dead(to)).map(|(name, left)| still_bound(name, left)));
        reasons.extend(name.and_then(|name| self.lets_none_start(name, to)));
        reasons
    }

    /// Asks hosts what they are and have, all at once, for a short time; who does not answer is not in it.
    async fn look_at(&self, view: &View, hosts: impl Iterator<Item = HostKey>) -> Looks {
        let asked = hosts.collect::<BTreeSet<_>>().into_iter().map(|host| async move {
            let answer = tokio::time::timeout(LOOK_MAX, self.machines.ask(view.member(host)?, Ask::Look)).await;
            match answer {
                Ok(Ok(Reply::Look(report))) => Some((host, *report)),
                Ok(_) | Err(_) => None,
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    fn facts(&self, view: &View, owned: &Ownership, spec: &Spec, (fits, looks): Found<'_>, to: HostKey) -> Vec<Fact> {
        let (hosts, at) = (self.hosts.borrow(), now());
        let mut facts = vec![Fact::Memory(memory(spec))];
        for fit in fits {
            let host = fit.candidate.host;
            let side = || side(view, &hosts, spec, (fit, looks.get(&host)), at);
            if Some(host) == owned.owner {
                facts.push(Fact::Source(side()));
            }
            if host == to {
                facts.push(Fact::Destination(side()));
            }
        }
        if let Some(job) = &owned.job {
            facts.push(Fact::Busy(job.to_string()));
        }
        // Of a silent owner the fact is that it is silent.
        let guest = owned.owner.map_or(Some(Guest::Absent), |owner| hosts.guest(&owned.vm, owner, at));
        if guest.is_some_and(|guest| guest != Guest::Running) && owned.job.is_none() {
            facts.push(Fact::NotRunning);
        }
        facts
    }

    /// Keys as people's names.
    fn in_names(&self, view: &View, no_room: &NoRoom) -> String {
        let text = no_room.to_string();
        view.members
            .iter()
            .fold(text, |text, record| text.replace(&record.key.to_string(), &format!("'{}'", record.name)))
    }
}

/// What was found out about hosts: how a VM fits there, and what they said when asked just now.
type Found<'a> = (&'a [Fit], &'a Looks);
type Looks = BTreeMap<HostKey, HostReport>;

/// The host that was asked for; else all besides the owner, those with the most room first.
fn destinations(
    view: &View,
    owned: &Ownership,
    fits: &[Fit],
    spec: &Spec,
    wanted: Option<&NodeName>,
) -> Result<Vec<HostKey>, Problem> {
    if let Some(name) = wanted {
        return host_named(view, fits, name).map(|fit| vec![fit.candidate.host]);
    }
    let mut others: Vec<&Fit> = fits.iter().filter(|fit| Some(fit.candidate.host) != owned.owner).collect();
    others.sort_by_key(|fit| !fit.candidate.fits(memory(spec)));
    if others.is_empty() {
        let hint = "join another machine with the role host";
        return Err(Problem::new(Code::NotPossible, "there is no other host", hint));
    }
    Ok(others.into_iter().map(|fit| fit.candidate.host).collect())
}

/// What to do when there is no room.
const ADD_MEMORY: &str = "nothing was changed; with --overcommit a lost host may leave VMs without a place";

/// The host that was asked for, or the one with the most room; and without a wished host, the others that fit.
fn choose(
    view: &View,
    fits: &[Fit],
    spec: &Spec,
    wanted: Option<&NodeName>,
) -> Result<(HostKey, Vec<HostKey>), Problem> {
    let asked: Vec<&Fit> = match wanted {
        Some(name) => vec![host_named(view, fits, name)?],
        None => fits.iter().collect(),
    };
    let fit: Vec<HostKey> =
        asked.iter().filter(|it| it.candidate.fits(memory(spec))).map(|it| it.candidate.host).collect();
    if let Some((to, spare)) = fit.split_first() {
        return Ok((*to, spare.to_vec()));
    }
    let mut reasons = Vec::new();
    for fit in asked {
        reasons.extend(fit.objections.clone());
        if fit.objections.is_empty() {
            let (name, free, needs) = (&fit.name, fit.candidate.free, memory(spec));
            reasons.push(format!("'{name}' has {free} of memory free for guests of {needs}, QEMU's own share with it"));
        }
    }
    reasons.dedup();
    if reasons.is_empty() {
        reasons.push("there is no machine with the role host".to_owned());
    }
    let hint = "nothing was changed; see `muskox doctor`";
    Err(Problem::new(Code::NotPossible, format!("no host can take VM '{}': {}", spec.name, reasons.join("; ")), hint))
}

fn host_named<'a>(view: &View, fits: &'a [Fit], name: &NodeName) -> Result<&'a Fit, Problem> {
    if let Some(fit) = fits.iter().find(|fit| fit.name == *name) {
        return Ok(fit);
    }
    let known = view.members.iter().any(|record| record.name == *name);
    let text = if known { format!("'{name}' has not the role host") } else { format!("there is no machine '{name}'") };
    Err(Problem::new(Code::NotFound, text, "see `muskox node list`"))
}

/// The description may forbid a host.
fn not_allowed(fits: &[Fit], spec: &Spec, destination: HostKey) -> Option<String> {
    let fit = fits.iter().find(|fit| fit.candidate.host == destination)?;
    let forbidden = spec.hosts.as_ref().is_some_and(|hosts| !hosts.contains(&fit.name));
    forbidden.then(|| format!("the description does not allow '{}'", fit.name))
}
