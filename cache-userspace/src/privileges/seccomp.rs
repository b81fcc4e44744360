//! The system calls that a running node makes, and nothing else.
//!
//! Three filters, of which the kernel takes the strictest answer:
//!
//! | system call | answer |
//! |---|---|
//! | in [`ALLOWED`], and as [`rules`] wants its arguments | done |
//! | in [`FATAL`]: what only a program that was taken over asks for | the process is killed (SIGSYS) |
//! | `clone3` | ENOSYS, so that libc takes `clone`, whose flags a filter can see: threads, no processes |
//! | any other | EPERM |
//!
//! What an io_uring does is not seen by seccomp; it opens no file that the user could not open.

use std::collections::BTreeMap;

use anyhow::Context as _;
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Compare,
    SeccompCondition, SeccompFilter, SeccompRule, apply_filter,
};

/// What becomes of a system call that is not expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seccomp {
    /// It fails, or ends the process.
    On,
    /// It is done, and the kernel logs it (audit): to find out what a change needs.
    Log,
    Off,
}

/// Made by a node at any time after its start. By area: memory, threads, time, files, sockets, waiting, io_uring,
/// process.
const ALLOWED: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_membarrier,
    libc::SYS_mbind,
    libc::SYS_get_mempolicy,
    libc::SYS_set_mempolicy,
    //
    libc::SYS_futex,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_set_tid_address,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    //
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    //
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_statfs,
    libc::SYS_openat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_pipe2,
    libc::SYS_ioctl,
    //
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    //
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_eventfd2,
    //
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    //
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrusage,
    libc::SYS_getrandom,
    libc::SYS_prlimit64,
    libc::SYS_prctl,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Forms of the above that newer instruction sets do not have.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_mkdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_dup2,
    libc::SYS_time,
    libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[c_long] = &[];

/// A cache executes no program, traces none, and changes neither its user nor what the machine is made of.
const FATAL: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_setuid,
    libc::SYS_setresuid,
    libc::SYS_capset,
    libc::SYS_open_by_handle_at,
];

/// Commands of bpf(2) on maps that are there: reading, writing, deleting and walking their entries, single or in
/// batches, and asking what a descriptor is. None that makes a map, loads a program or attaches one.
const BPF_ON_MAPS: [u64; 10] = [1, 2, 3, 4, 15, 21, 24, 25, 26, 27];

const FAMILIES: [i32; 3] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];

/// Filters this thread and those that it will start.
///
/// # Errors
/// The kernel has no seccomp filters, or this process may not use them.
pub fn apply(how: Seccomp) -> anyhow::Result<()> {
    let unexpected = match how {
        Seccomp::Off => return Ok(()),
        Seccomp::Log => SeccompAction::Log,
        Seccomp::On => SeccompAction::Errno(libc::EPERM as u32),
    };
    let filters = match how {
        Seccomp::On => vec![
            only(
                &[libc::SYS_clone3],
                SeccompAction::Errno(libc::ENOSYS as u32),
            )?,
            only(FATAL, SeccompAction::KillProcess)?,
            allowing(unexpected)?,
        ],
        Seccomp::Log | Seccomp::Off => vec![allowing(unexpected)?],
    };
    for filter in &filters {
        apply_filter(filter)
            .context("cannot filter system calls (server.seccomp = \"off\" does without)")?;
    }
    Ok(())
}

/// `action` for these, and anything goes for the others.
fn only(calls: &[c_long], action: SeccompAction) -> anyhow::Result<BpfProgram> {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    compile(rules, SeccompAction::Allow, action)
}

fn allowing(otherwise: SeccompAction) -> anyhow::Result<BpfProgram> {
    compile(rules()?, otherwise, SeccompAction::Allow)
}

fn compile(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    action: SeccompAction,
) -> anyhow::Result<BpfProgram> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, otherwise, action, architecture)?;
    Ok(filter.try_into()?)
}

/// By system call: one of the rules must hold; none means any arguments.
fn rules() -> anyhow::Result<BTreeMap<c_long, Vec<SeccompRule>>> {
    let any = ALLOWED.iter().chain(ALLOWED_HERE);
    let mut rules: BTreeMap<_, _> = any.map(|call| (*call, Vec::new())).collect();
    let threads = libc::CLONE_THREAD as u64;
    let is_thread = SeccompCondition::new(0, Width::Qword, Compare::MaskedEq(threads), threads)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![is_thread])?]);
    rules.insert(libc::SYS_clone3, Vec::new());
    rules.insert(libc::SYS_bpf, one_of(&BPF_ON_MAPS)?);
    rules.insert(
        libc::SYS_socket,
        one_of(&FAMILIES.map(|family| family as u64))?,
    );
    Ok(rules)
}

/// The first argument has one of these values.
fn one_of(values: &[u64]) -> anyhow::Result<Vec<SeccompRule>> {
    let rule = |value: &u64| {
        let condition = SeccompCondition::new(0, Width::Dword, Compare::Eq, *value)?;
        Ok(SeccompRule::new(vec![condition])?)
    };
    values.iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    /// What a child does once it is filtered: this test binary again, told by the environment.
    const CHILD: &str = "POPCACHE_TEST_SECCOMP";

    /// Runs `work` in a process of its own whose system calls are filtered, and returns how it ended.
    fn filtered(test: &str, how: Seccomp, work: impl FnOnce()) -> Option<std::process::ExitStatus> {
        if std::env::var_os(CHILD).is_some() {
            nix::sys::prctl::set_no_new_privs().expect("no_new_privs");
            apply(how).expect("filtered");
            work();
            return None;
        }
        let name = format!("privileges::seccomp::tests::{test}");
        let mut child = Command::new(std::env::current_exe().expect("this test"));
        child.args(["--exact", &name, "--test-threads=1"]);
        Some(child.env(CHILD, "1").output().expect("a child").status)
    }

    #[test]
    fn executing_a_program_ends_the_process() {
        let work = || drop(Command::new("true").status());
        // Command forks before it executes: that alone is refused, and what remains is to execute in place.
        let work = || {
            work();
            let error = std::os::unix::process::CommandExt::exec(&mut Command::new("true"));
            unreachable!("still here: {error}");
        };
        if let Some(status) = filtered("executing_a_program_ends_the_process", Seccomp::On, work) {
            assert_eq!(status.signal(), Some(libc::SIGSYS), "{status}");
        }
    }

    #[test]
    fn becoming_another_user_ends_the_process() {
        let work = || {
            let root = nix::unistd::Uid::from_raw(0);
            unreachable!("still here: {:?}", nix::unistd::setresuid(root, root, root));
        };
        if let Some(status) = filtered("becoming_another_user_ends_the_process", Seccomp::On, work)
        {
            assert_eq!(status.signal(), Some(libc::SIGSYS), "{status}");
        }
    }

    #[test]
    fn what_is_not_expected_is_refused() {
        let work = || {
            let refused = |result: io::Result<()>, what: &str| {
                let error = result.expect_err(what);
                assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{what}: {error}");
            };
            let start = Command::new("true").spawn().map(drop);
            refused(start, "a process");
            let program = std::os::unix::fs::chown("/", Some(0), None);
            refused(program, "chown");
            use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
            let raw = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::empty(),
                None,
            );
            refused(raw.map(drop).map_err(io::Error::from), "a packet socket");
            // What a node goes on doing: files, sockets, threads.
            std::fs::read("/proc/self/status").expect("a file");
            std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
            std::thread::spawn(|| ()).join().expect("a thread");
        };
        if let Some(status) = filtered("what_is_not_expected_is_refused", Seccomp::On, work) {
            assert!(status.success(), "{status}");
        }
    }

    #[test]
    fn logging_refuses_nothing() {
        let work = || {
            let status = Command::new("true").status();
            assert!(status.expect("a process").success());
        };
        if let Some(status) = filtered("logging_refuses_nothing", Seccomp::Log, work) {
            assert!(status.success(), "{status}");
        }
    }

    #[test]
    fn nothing_is_both_allowed_and_fatal() {
        let rules = rules().expect("rules");
        for call in FATAL {
            assert!(!rules.contains_key(call), "{call}");
        }
    }
}
