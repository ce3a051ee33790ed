//! Admission: a VM starts only if, afterwards, any one host could still be lost.

use units::{ByteLen, HostKey, VmName};

/// What a VM costs beside its memory: QEMU and the initiator themselves. QEMU 10.0.2 without a guest's work has 50 MiB resident (measured);
/// its block layer, the virtio queues' buffers and the initiator's un-flushed writes come on top.
const QEMU_SHARE: ByteLen = ByteLen::mib(128);
/// A vCPU's thread: its stack, at most. Source: setrlimit(2), `RLIMIT_STACK`, whose usual value a thread's stack has (pthread_create(3)).
const VCPU_SHARE: ByteLen = ByteLen::mib(8);
/// The second level of page tables has 8 bytes for each 4096 of a guest's memory. Source: Intel SDM volume 3, 29.3 (EPT).
const PAGE_TABLES: u64 = 512;

/// What a host needs for a VM, QEMU's own share with it.
#[must_use]
pub fn cost(memory: ByteLen, vcpus: u32) -> ByteLen {
    ByteLen(memory.0 + memory.0 / PAGE_TABLES + QEMU_SHARE.0 + VCPU_SHARE.0 * u64::from(vcpus))
}

/// A host's room for guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Which host.
    pub host: HostKey,
    /// Memory for guests, used or not.
    pub memory: ByteLen,
}

/// A VM that must survive the loss of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Which.
    pub vm: VmName,
    /// What it needs.
    pub memory: ByteLen,
    /// Where it runs, or is to run.
    pub host: HostKey,
}

/// Why it may not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// Not even now.
    #[error("host {host} has {free} of memory free for guests and VM '{vm}' needs {needs}, QEMU's own share with it")]
    Here {
        /// Which VM.
        vm: VmName,
        /// Where.
        host: HostKey,
        /// Left there.
        free: ByteLen,
        /// Needed.
        needs: ByteLen,
    },
    /// After a host was lost.
    #[error(
        "with VM '{vm}' running, VM '{stranded}' would fit nowhere if host {lost} died; add memory, or start it with \
         --overcommit"
    )]
    AfterLosing {
        /// Which VM was to start.
        vm: VmName,
        /// Which host.
        lost: HostKey,
        /// Which VM would be left out.
        stranded: VmName,
    },
}

/// Whether `new` may start beside `loads`. Placing is by size, largest first, each where most is free: it may refuse what a
/// cleverer packing would admit, never the other way round.
///
/// # Errors
/// [`NoRoom`]; the operator may overrule [`NoRoom::AfterLosing`].
pub fn admit(hosts: &[Capacity], loads: &[Load], new: &Load) -> Result<(), NoRoom> {
    let all: Vec<&Load> = loads.iter().chain([new]).collect();
    let memory = |host: HostKey| hosts.iter().find(|it| it.host == host).map_or(ByteLen(0), |it| it.memory);
    let used = |host: HostKey, loads: &[&Load]| -> u64 {
        loads.iter().filter(|load| load.host == host).map(|load| load.memory.0).sum()
    };
    let others: Vec<&Load> = loads.iter().collect();
    let free = ByteLen(memory(new.host).0.saturating_sub(used(new.host, &others)));
    if free < new.memory {
        return Err(NoRoom::Here { vm: new.vm.clone(), host: new.host, free, needs: new.memory });
    }
    for lost in hosts.iter().map(|it| it.host) {
        let rest = hosts.iter().filter(|it| it.host != lost);
        let mut room: Vec<u64> = rest.map(|it| it.memory.0.saturating_sub(used(it.host, &all))).collect();
        let mut homeless: Vec<&&Load> = all.iter().filter(|load| load.host == lost).collect();
        homeless.sort_unstable_by_key(|load| std::cmp::Reverse(load.memory));
        for load in homeless {
            match room.iter_mut().max().filter(|free| **free >= load.memory.0) {
                Some(free) => *free -= load.memory.0,
                None => {
                    let (vm, stranded) = (new.vm.clone(), load.vm.clone());
                    return Err(NoRoom::AfterLosing { vm, lost, stranded });
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    fn key(n: u8) -> HostKey {
        HostKey([n; 32])
    }

    fn load(name: &str, mib: u64, host: u8) -> Load {
        Load { vm: name.parse().expect("a name"), memory: ByteLen::mib(mib), host: key(host) }
    }

    /// Goal: A34: QEMU's own share is counted. Method: figures by hand.
    #[test]
    fn a_vm_costs_more_than_its_memory() {
        assert_eq!(cost(ByteLen::mib(512), 1), ByteLen::mib(512 + 1 + 128 + 8));
        assert_eq!(cost(ByteLen::mib(65_536), 16), ByteLen::mib(65_536 + 128 + 128 + 128));
    }

    /// Goal: two hosts of 1 GiB carry 1 GiB of guests, not more. Method: fill them up.
    #[test]
    fn the_loss_of_one_host_is_survived() {
        let host = |n| Capacity { host: key(n), memory: ByteLen::mib(1024) };
        let hosts = [host(1), host(2)];
        let running = [load("a", 512, 1)];
        assert_eq!(admit(&hosts, &running, &load("b", 512, 2)), Ok(()));
        let refused = admit(&hosts, &running, &load("b", 513, 2)).expect_err("no room for both on one");
        assert!(matches!(refused, NoRoom::AfterLosing { .. }), "{refused}");
        let refused = admit(&hosts, &running, &load("b", 513, 1)).expect_err("not even here");
        assert!(matches!(refused, NoRoom::Here { free, .. } if free == ByteLen::mib(512)));
        let hosts = [host(1), host(2), host(3)];
        assert_eq!(admit(&hosts, &running, &load("b", 1024, 2)), Ok(()), "a third host takes it");
        assert!(admit(&hosts[..1], &[], &load("a", 1, 1)).is_err(), "one host survives nothing");
    }
}
