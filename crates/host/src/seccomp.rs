//! System calls that a tool on a stranger's file has no use for, refused by the kernel: looking into other processes, namespaces and
//! mounts, keys, kernel modules, io_uring. What is not listed stays possible: the tool is somebody else's program, and an update of
//! it must not break on a list of ours.
//!
//! Source: the kernel's `Documentation/userspace-api/seccomp_filter.rst`; `include/uapi/linux/{seccomp,filter,audit}.h`.
#![allow(unsafe_code, reason = "a filter is handed to the kernel by address")]

use std::io;

/// What is refused, with EPERM.
const REFUSED: [libc::c_long; 33] = [
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_bpf,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];
/// `AUDIT_ARCH_*` of `audit.h`: a number means another call to another architecture.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
/// Calls of x32, which x86-64 has beside its own, are numbered from here on (`__X32_SYSCALL_BIT`).
const X32: u32 = 0x4000_0000;
/// Where `struct seccomp_data` has the call's number and the architecture.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;

/// The filter, made before a fork.
pub struct Filter(Vec<libc::sock_filter>);

impl Filter {
    /// The filter for tools.
    pub fn for_tools() -> Self {
        let load = |at: u32| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0);
        let answer = |with: u32| step(libc::BPF_RET | libc::BPF_K, with, 0, 0);
        let refuse = || answer(libc::SECCOMP_RET_ERRNO | u32::try_from(libc::EPERM).expect("it is 1"));
        let equals = |value: u32, skip: u8| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, 0, skip);
        let mut steps = vec![
            load(ARCHITECTURE_AT),
            step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, ARCHITECTURE, 1, 0),
            answer(libc::SECCOMP_RET_KILL_PROCESS),
            load(NUMBER_AT),
            step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, X32, 0, 1),
            refuse(),
        ];
        for call in REFUSED {
            steps.extend([equals(u32::try_from(call).expect("the kernel's numbers are small"), 1), refuse()]);
        }
        steps.push(answer(libc::SECCOMP_RET_ALLOW));
        Self(steps)
    }

    /// Puts this process behind it, for good; it has to have no way to new privileges already. After a fork: one system call.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter(&self) -> io::Result<()> {
        let len = libc::c_ushort::try_from(self.0.len()).expect("a few dozen steps");
        let program = libc::sock_fprog { len, filter: self.0.as_ptr().cast_mut() };
        // SAFETY: the kernel reads `len` steps from `filter`, which live in `self`, and copies them before it returns.
        let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

fn step(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).expect("codes have 16 bits"), jt, jf, k }
}
