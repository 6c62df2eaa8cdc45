//! The system calls that a process in a bottle has, and those of its sidecar.
//!
//! What is in no list does not exist (ENOSYS): a call that a later kernel brings is not there before somebody has thought
//! about it. What is refused says so (EPERM). Calls whose arguments lie in memory cannot be judged, and are in no list, too:
//! programs try `clone3` and `openat2`, and go on with the older call. Another architecture's calls end the process. Three
//! filters: of families of sockets, of other arguments, and of numbers; of their answers the one that allows least counts.

use crate::numbers;
use anyhow::{Context, Result};
use libc::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};
use std::{collections::BTreeMap, env::consts::ARCH};

/// Whom a filter is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    Bottle,
    Sidecar,
    /// Its git-gate has hooks and an agent, who are spoken with by sockets.
    GitSidecar,
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

#[rustfmt::skip]
const ALLOWED: &[i64] = &[
    SYS_accept, SYS_accept4, SYS_bind, SYS_brk, SYS_capget, SYS_capset, SYS_chdir, SYS_clock_getres, SYS_clock_gettime,
    SYS_clock_nanosleep, SYS_clone, SYS_close, SYS_close_range, SYS_connect, SYS_copy_file_range, SYS_dup, SYS_dup3,
    SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_eventfd2, SYS_execve, SYS_execveat,
    SYS_exit, SYS_exit_group, SYS_faccessat, SYS_faccessat2, SYS_fadvise64, SYS_fallocate, SYS_fchdir, SYS_fchmod,
    SYS_fchmodat, SYS_fchown, SYS_fchownat, SYS_fcntl, SYS_fdatasync, SYS_fgetxattr, SYS_flistxattr, SYS_flock,
    SYS_fremovexattr, SYS_fsetxattr, SYS_fstat, SYS_fstatfs, SYS_fsync, SYS_ftruncate, SYS_futex, SYS_futex_waitv,
    SYS_get_robust_list, SYS_getcpu, SYS_getcwd, SYS_getdents64, SYS_getegid, SYS_geteuid, SYS_getgid, SYS_getgroups,
    SYS_getitimer, SYS_getpeername, SYS_getpgid, SYS_getpid, SYS_getppid, SYS_getpriority, SYS_getrandom,
    SYS_getresgid, SYS_getresuid, SYS_getrlimit, SYS_getrusage, SYS_getsid, SYS_getsockname, SYS_getsockopt,
    SYS_gettid, SYS_gettimeofday, SYS_getuid, SYS_getxattr, SYS_inotify_add_watch, SYS_inotify_init1,
    SYS_inotify_rm_watch, SYS_io_cancel, SYS_io_destroy, SYS_io_getevents, SYS_io_setup, SYS_io_submit, SYS_ioctl,
    SYS_ioprio_get, SYS_ioprio_set, SYS_kill, SYS_landlock_add_rule, SYS_landlock_create_ruleset,
    SYS_landlock_restrict_self, SYS_lgetxattr, SYS_linkat, SYS_listen, SYS_listxattr, SYS_llistxattr,
    SYS_lremovexattr, SYS_lseek, SYS_lsetxattr, SYS_madvise, SYS_membarrier, SYS_memfd_create, SYS_mincore,
    SYS_mkdirat, SYS_mknodat, SYS_mlock, SYS_mlock2, SYS_mlockall, SYS_mmap, SYS_mprotect, SYS_mq_getsetattr,
    SYS_mq_notify, SYS_mq_open, SYS_mq_timedreceive, SYS_mq_timedsend, SYS_mq_unlink, SYS_mremap, SYS_msgctl,
    SYS_msgget, SYS_msgrcv, SYS_msgsnd, SYS_msync, SYS_munlock, SYS_munlockall, SYS_munmap, SYS_nanosleep,
    SYS_newfstatat, SYS_openat, SYS_personality, SYS_pidfd_open, SYS_pidfd_send_signal, SYS_pipe2, SYS_pkey_alloc,
    SYS_pkey_free, SYS_pkey_mprotect, SYS_ppoll, SYS_prctl, SYS_pread64, SYS_preadv, SYS_preadv2, SYS_prlimit64,
    SYS_process_vm_readv, SYS_process_vm_writev, SYS_pselect6, SYS_ptrace, SYS_pwrite64, SYS_pwritev, SYS_pwritev2,
    SYS_read, SYS_readahead, SYS_readlinkat, SYS_readv, SYS_recvfrom, SYS_recvmmsg, SYS_recvmsg, SYS_removexattr,
    SYS_renameat, SYS_renameat2, SYS_restart_syscall, SYS_rseq, SYS_rt_sigaction, SYS_rt_sigpending,
    SYS_rt_sigprocmask, SYS_rt_sigqueueinfo, SYS_rt_sigreturn, SYS_rt_sigsuspend, SYS_rt_sigtimedwait,
    SYS_rt_tgsigqueueinfo, SYS_sched_get_priority_max, SYS_sched_get_priority_min, SYS_sched_getaffinity,
    SYS_sched_getattr, SYS_sched_getparam, SYS_sched_getscheduler, SYS_sched_rr_get_interval, SYS_sched_setaffinity,
    SYS_sched_setattr, SYS_sched_setparam, SYS_sched_setscheduler, SYS_sched_yield, SYS_seccomp, SYS_semctl,
    SYS_semget, SYS_semop, SYS_semtimedop, SYS_sendfile, SYS_sendmmsg, SYS_sendmsg, SYS_sendto, SYS_set_robust_list,
    SYS_set_tid_address, SYS_setfsgid, SYS_setfsuid, SYS_setgid, SYS_setgroups, SYS_setitimer, SYS_setpgid,
    SYS_setpriority, SYS_setregid, SYS_setresgid, SYS_setresuid, SYS_setreuid, SYS_setrlimit, SYS_setsid,
    SYS_setsockopt, SYS_setuid, SYS_setxattr, SYS_shmat, SYS_shmctl, SYS_shmdt, SYS_shmget, SYS_shutdown,
    SYS_sigaltstack, SYS_signalfd4, SYS_socket, SYS_socketpair, SYS_splice, SYS_statfs, SYS_statx, SYS_symlinkat,
    SYS_sync, SYS_sync_file_range, SYS_syncfs, SYS_sysinfo, SYS_tee, SYS_tgkill, SYS_timer_create, SYS_timer_delete,
    SYS_timer_getoverrun, SYS_timer_gettime, SYS_timer_settime, SYS_timerfd_create, SYS_timerfd_gettime,
    SYS_timerfd_settime, SYS_times, SYS_tkill, SYS_truncate, SYS_umask, SYS_uname, SYS_unlinkat, SYS_utimensat,
    SYS_vmsplice, SYS_wait4, SYS_waitid, SYS_write, SYS_writev,
];

/// Those that later architectures do not have.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_OLD: &[i64] = &[
    SYS_access, SYS_alarm, SYS_arch_prctl, SYS_chmod, SYS_chown, SYS_creat, SYS_dup2, SYS_epoll_create,
    SYS_epoll_wait, SYS_eventfd, SYS_fork, SYS_futimesat, SYS_getdents, SYS_getpgrp, SYS_inotify_init, SYS_lchown,
    SYS_link, SYS_lstat, SYS_mkdir, SYS_mknod, SYS_open, SYS_pause, SYS_pipe, SYS_poll, SYS_readlink, SYS_rename,
    SYS_rmdir, SYS_select, SYS_signalfd, SYS_stat, SYS_symlink, SYS_time, SYS_unlink, SYS_utime, SYS_utimes, SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_OLD: &[i64] = &[];

#[rustfmt::skip]
const REFUSED: &[i64] = &[
    SYS_acct, SYS_add_key, SYS_adjtimex, SYS_bpf, SYS_chroot, SYS_clock_adjtime, SYS_clock_settime, SYS_delete_module,
    SYS_fanotify_init, SYS_finit_module, SYS_fsconfig, SYS_fsmount, SYS_fsopen, SYS_fspick, SYS_get_mempolicy,
    SYS_init_module, SYS_io_uring_enter, SYS_io_uring_register, SYS_io_uring_setup, SYS_kcmp, SYS_kexec_load,
    SYS_keyctl, SYS_mbind, SYS_migrate_pages, SYS_mount, SYS_mount_setattr, SYS_move_mount, SYS_move_pages,
    SYS_name_to_handle_at, SYS_open_by_handle_at, SYS_open_tree, SYS_perf_event_open, SYS_pidfd_getfd, SYS_pivot_root,
    SYS_process_madvise, SYS_quotactl, SYS_reboot, SYS_request_key, SYS_set_mempolicy, SYS_setdomainname,
    SYS_sethostname, SYS_setns, SYS_settimeofday, SYS_swapoff, SYS_swapon, SYS_syslog, SYS_umount2, SYS_unshare,
    SYS_userfaultfd, SYS_vhangup,
];

/// Flags of `clone` that make namespaces; the time's is not in its word.
const NAMESPACES: [i32; 7] =
    [CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWCGROUP];
/// What puts characters into a terminal's input, or another line discipline under it.
const TERMINAL_REQUESTS: [u64; 3] = [0x5412, 0x541C, 0x5423];
/// The execution domains that change nothing of importance: Linux, its 32 bit kind, both with the old layout, without
/// randomised addresses, and the question.
const PERSONALITIES: [u64; 6] = [0, 0x8, 0x2_0000, 0x2_0008, 0x4_0000, 0xffff_ffff];
const UNIX: u64 = AF_UNIX as u64;
const INET: u64 = AF_INET as u64;
const INET6: u64 = AF_INET6 as u64;
const NETLINK: u64 = AF_NETLINK as u64;

/// The filters, in the order in which they are set: the one that allows least is last.
pub(crate) fn compile(whom: For) -> Result<Vec<BpfProgram>> {
    let arch = TargetArch::try_from(ARCH)?;
    let by_arguments = |rules, found| {
        Ok::<BpfProgram, anyhow::Error>(SeccompFilter::new(rules, SeccompAction::Allow, found, arch)?.try_into()?)
    };
    Ok(vec![
        by_arguments(families(whom)?, refuse(EAFNOSUPPORT))?,
        by_arguments(arguments()?, refuse(EPERM))?,
        numbers::compile(&answers(whom), refuse(ENOSYS))?,
    ])
}

/// Of calls that are judged by their numbers.
fn answers(whom: For) -> BTreeMap<i64, SeccompAction> {
    let allowed = ALLOWED.iter().chain(ALLOWED_OLD).map(|call| (*call, SeccompAction::Allow));
    let mut answers: BTreeMap<_, _> = allowed.chain(REFUSED.iter().map(|call| (*call, refuse(EPERM)))).collect();
    if whom != For::Bottle {
        // It takes its listeners by it, of itself.
        answers.insert(SYS_pidfd_getfd, SeccompAction::Allow);
    }
    answers
}

/// Sets them, for this process and all that it will start.
pub(crate) fn set(filters: &[BpfProgram]) -> Result<()> {
    filters.iter().try_for_each(|filter| apply_filter(filter)).context("set a filter of system calls")
}

fn refuse(errno: i32) -> SeccompAction {
    SeccompAction::Errno(errno as u32)
}

/// Only the low half of an argument is what the kernel reads.
fn when(index: u8, op: Op, value: u64) -> Result<SeccompCondition> {
    Ok(SeccompCondition::new(index, Length::Dword, op, value)?)
}

fn bit(index: u8, mask: u64) -> Result<SeccompCondition> {
    when(index, Op::MaskedEq(mask), mask)
}

fn rule(conditions: impl IntoIterator<Item = Result<SeccompCondition>>) -> Result<SeccompRule> {
    Ok(SeccompRule::new(conditions.into_iter().collect::<Result<_>>()?)?)
}

/// What is refused of calls that are allowed otherwise.
fn arguments() -> Result<Rules> {
    let mut refused = Rules::new();
    let mut add = |call: i64, rule: SeccompRule| refused.entry(call).or_default().push(rule);
    for flag in NAMESPACES {
        add(SYS_clone, rule([bit(0, u64::from(flag as u32))])?);
    }
    for request in TERMINAL_REQUESTS {
        add(SYS_ioctl, rule([when(1, Op::Eq, request)])?);
    }
    add(SYS_personality, rule(PERSONALITIES.map(|domain| when(0, Op::Ne, domain)))?);
    // No file may get a bit by which it runs as its owner: not even where it would change nothing here.
    for mode in [0o4000, 0o2000] {
        add(SYS_fchmod, rule([bit(1, mode)])?);
        add(SYS_fchmodat, rule([bit(2, mode)])?);
        add(SYS_mknodat, rule([bit(2, mode)])?);
        for makes in [O_CREAT, O_TMPFILE & !O_DIRECTORY] {
            add(SYS_openat, rule([bit(2, makes as u64), bit(3, mode)])?);
        }
        #[cfg(target_arch = "x86_64")]
        {
            add(SYS_chmod, rule([bit(1, mode)])?);
            add(SYS_creat, rule([bit(1, mode)])?);
            add(SYS_mknod, rule([bit(1, mode)])?);
            for makes in [O_CREAT, O_TMPFILE & !O_DIRECTORY] {
                add(SYS_open, rule([bit(1, makes as u64), bit(2, mode)])?);
            }
        }
    }
    Ok(refused)
}

/// Sockets of other families reach the kernel's rarer parts, and some of them the machine below this one.
fn families(whom: For) -> Result<Rules> {
    let allowed: &[u64] = match whom {
        For::Bottle | For::GitSidecar => &[UNIX, INET, INET6, NETLINK],
        // It speaks with nobody on this machine.
        For::Sidecar => &[INET, INET6, NETLINK],
    };
    let raw = SOCK_RAW as u64;
    let kind = |family| rule([when(0, Op::Eq, family), when(1, Op::MaskedEq(0xf), raw)]);
    let sockets = vec![
        rule(allowed.iter().map(|family| when(0, Op::Ne, *family)))?,
        rule([when(0, Op::Eq, NETLINK), when(2, Op::Ne, 0)])?,
        kind(INET)?,
        kind(INET6)?,
    ];
    Ok(Rules::from([(SYS_socket, sockets), (SYS_socketpair, vec![rule([when(0, Op::Ne, UNIX)])?])]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_filter_compiles_and_no_call_is_in_two_lists() {
        for whom in [For::Bottle, For::Sidecar, For::GitSidecar] {
            assert_eq!(compile(whom).unwrap().len(), 3);
        }
        let mut all: Vec<i64> = [ALLOWED, ALLOWED_OLD, REFUSED].concat();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
