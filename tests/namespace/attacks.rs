//! Out of a bottle of namespaces: each attempt ends as it must, made by root and by an ordinary user. Where a row names the
//! defences that it rests on, it is run without them, too, and ends otherwise: the row can fail.

use anyhow::{Context, Result, ensure};
use bottle_tests::{
    bare::{Bare, Who},
    bottle::report,
};
use libc::*;
use std::{
    collections::BTreeMap,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
};

/// One attempt.
struct Row {
    name: &'static str,
    /// A shell's script.
    script: String,
    /// All that it says.
    says: &'static str,
    /// Without these defences it says something else.
    rests_on: &'static [&'static str],
}

fn row(name: &'static str, script: impl Into<String>, says: &'static str) -> Row {
    Row { name, script: script.into(), says, rests_on: &[] }
}

impl Row {
    fn on(self, rests_on: &'static [&'static str]) -> Self {
        Self { rests_on, ..self }
    }
}

/// A call of the kernel, its arguments as perl has them: `ok`, or the error's number.
fn call(number: c_long, arguments: &str) -> String {
    format!(
        "perl -e 'my $b = \"\\0\" x 4096; my @a = ({arguments}); my $r = syscall({number}, @a); print $r < 0 ? \"E\".($!+0) : \"ok\"'"
    )
}

fn socket(family: i32, kind: i32, protocol: i32) -> String {
    call(SYS_socket, &format!("{family}, {kind}, {protocol}"))
}

/// Whether a file can be read, or written to.
fn reads(path: &str) -> String {
    format!("head -c 1 {path} >/dev/null 2>&1 && echo -n read || echo -n no")
}

fn writes(path: &str) -> String {
    format!("(echo x > {path}) 2>/dev/null && echo -n written || echo -n no")
}

/// Writes to a child's stack, which is in the bottle as its parent is.
const WRITE_TO_CHILD: &str = "perl -e 'my $c = fork; if (!$c) { sleep 60; exit } open M, \"<\", \"/proc/$c/maps\"; \
                              my ($at) = grep { /stack/ } <M>; $at =~ s/-.*//s; open F, \"+<\", \"/proc/$c/mem\" or die; \
                              sysseek F, hex $at, 0; print syswrite(F, \"x\") ? \"written\" : \"no\"; kill 9, $c'";
/// A call of the kernel as programs of 32 bits make it.
#[cfg(target_arch = "x86_64")]
const CALL_OF_32_BITS: &str = "printf 'int main(void) { int r = 20; __asm__ volatile(\"int $0x80\" : \"+a\"(r)); return r < 0; }' > c.c; \
                               cc -o c c.c; ./c 2>/dev/null; echo -n $?";
const SECCOMP: &[&str] = &["seccomp"];
const HIDE: &[&str] = &["hide"];
const NEWUSER: i32 = CLONE_NEWUSER;

fn rows(host: u32) -> Vec<Row> {
    let mut rows = vec![
        row("unshare(NEWUSER)", call(SYS_unshare, &NEWUSER.to_string()), "E1").on(SECCOMP),
        row("clone(NEWUSER)", call(SYS_clone, &format!("{}, 0, 0, 0, 0", NEWUSER | SIGCHLD)), "E1").on(SECCOMP),
        row("clone3(NEWUSER)", call(SYS_clone3, &format!("pack(\"Q11\", {NEWUSER}), 88")), "E38").on(SECCOMP),
        row("TIOCSTI", call(SYS_ioctl, "0, 0x5412, $b"), "E1").on(SECCOMP),
        row("TIOCSTI with high bits", call(SYS_ioctl, "0, 0x100005412, $b"), "E1").on(SECCOMP),
        row("TIOCLINUX", call(SYS_ioctl, "0, 0x541C, $b"), "E1").on(SECCOMP),
        row("TIOCSETD", call(SYS_ioctl, "0, 0x5423, $b"), "E1").on(SECCOMP),
        row("the memory of PID 1", reads("/proc/1/environ"), "no").on(HIDE),
        row("the program of PID 1", "readlink /proc/1/exe || echo -n no", "no").on(HIDE),
        row("the root of PID 1", "ls /proc/1/root/ 2>/dev/null || echo -n no", "no").on(HIDE),
        row("the descriptors of PID 1", "ls /proc/1/fd 2>/dev/null || echo -n no", "no").on(HIDE),
        row("PID 1 is not shown", "[ -e /proc/1 ] && echo -n shown || echo -n no", "no").on(HIDE),
        row("the memory of one's own child", WRITE_TO_CHILD, "written"),
        row("processes of others", "cat /proc/[0-9]*/status | grep ^Uid: | grep -vc 1000", "0\n"),
        row("ptrace of PID 1", call(SYS_ptrace, "0x4206, 1, 0, 0"), "E1").on(HIDE),
        row(
            "process_vm_readv of PID 1",
            call(SYS_process_vm_readv, "1, pack(\"PQ\", $b, 8), 1, pack(\"QQ\", 4096, 8), 1, 0"),
            "E1",
        )
        .on(HIDE),
        row(
            "descriptors at the start",
            "echo -n /proc/self/fd/*",
            "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3",
        ),
        row("none of them is a socket or a file", "readlink /proc/$$/fd/[012] | grep -vc ^pipe", "0\n"),
        row("su", "su -c id >/dev/null 2>&1 && echo -n root || echo -n no", "no"),
        row("setuid(0)", call(SYS_setuid, "0"), "E22"),
        row("setgroups", call(SYS_setgroups, "0, 0"), "E1"),
        row("chmod u+s", "cp /bin/true f; chmod 4755 f 2>/dev/null && echo -n set || echo -n no", "no").on(SECCOMP),
        row(
            "a new file with u+s",
            call(SYS_openat, &format!("-100, \"/workspace/s\", {}, 04755", O_CREAT | O_WRONLY)),
            "E1",
        )
        .on(SECCOMP),
        row("fchmodat2", call(452, "-100, \"/workspace\", 04755, 0"), "E38").on(SECCOMP),
        row("core_pattern", writes("/proc/sys/kernel/core_pattern"), "no"),
        row("ip_forward", writes("/proc/sys/net/ipv4/ip_forward"), "no"),
        row("the count of namespaces", writes("/proc/sys/user/max_user_namespaces"), "no"),
        row("sysrq", writes("/proc/sysrq-trigger"), "no"),
        row("the kernel's command line", "wc -c < /proc/cmdline", "0\n").on(&["masks"]),
        row("the kernel's keys", "wc -c < /proc/keys", "0\n"),
        row("mount", call(SYS_mount, "\"x\", \"/tmp\", \"tmpfs\", 0, 0"), "E1"),
        row("umount of a mask", call(SYS_umount2, "\"/proc/sys\", 2"), "E1"),
        row("the new calls for mounts", call(SYS_fsopen, "\"tmpfs\", 0"), "E1"),
        row("chroot", call(SYS_chroot, "\"/tmp\""), "E1"),
        row("open_by_handle_at", call(SYS_open_by_handle_at, "-100, $b, 0"), "E1").on(SECCOMP),
        row("setns", call(SYS_setns, "0, 0"), "E1").on(SECCOMP),
        row("keyctl", call(SYS_keyctl, "0, -4, 0"), "E1").on(SECCOMP),
        row("add_key", call(SYS_add_key, "\"user\", \"x\", \"y\", 1, -3"), "E1").on(SECCOMP),
        row("io_uring", call(SYS_io_uring_setup, "1, $b"), "E1").on(SECCOMP),
        row("userfaultfd", call(SYS_userfaultfd, "1"), "E1").on(SECCOMP),
        row("bpf", call(SYS_bpf, "0, $b, 64"), "E1"),
        row("perf_event_open", call(SYS_perf_event_open, "$b, 0, -1, -1, 0"), "E1").on(SECCOMP),
        row("the kernel's log", call(SYS_syslog, "3, $b, 10"), "E1"),
        row("personality(READ_IMPLIES_EXEC)", call(SYS_personality, "0x0400000"), "E1").on(SECCOMP),
        row("a call of the future", call(9999, ""), "E38"),
        row("a socket of the hypervisor", socket(AF_VSOCK, SOCK_STREAM, 0), "E97"),
        row("a socket of netlink's routes", socket(AF_NETLINK, SOCK_RAW, 0), "ok"),
        row("raw ICMP", socket(AF_INET, SOCK_RAW, 1), "E97").on(SECCOMP),
        row(
            "an address of one's own",
            "ip addr add 10.9.9.9/8 dev lo 2>/dev/null && echo -n added || echo -n no",
            "no",
        ),
        row("shared memory of the machine", "ls /dev/shm | wc -l", "0\n"),
        row("message queues of the machine", call(SYS_mq_open, &format!("\"bottle-test\", {O_RDONLY}, 0, 0")), "E2"),
        row("inotify on the system", call(SYS_inotify_init1, "0"), "ok"),
        row("the engine's socket", "ls /var/run/docker.sock /run/docker.sock 2>/dev/null | wc -l", "0\n"),
        row("processes of the machine", format!("kill -0 {host} 2>/dev/null && echo -n there || echo -n no"), "no"),
        row("the end of PID 1", "kill -9 1; kill -TERM 1; kill -STOP 1; echo -n alive", "alive"),
        row("a device of one's own", "mknod d c 1 3 2>/dev/null && echo -n made || echo -n no", "no"),
        row("a link to the system", "ln /usr/bin/true l 2>/dev/null && echo -n linked || echo -n no", "no"),
        row("the system is read-only", writes("/usr/bin/x"), "no"),
        row("its settings are read-only", writes("/etc/passwd"), "no"),
        row("the root is read-only", writes("/x"), "no"),
        row("the helper is read-only", writes("/usr/local/libexec/bottle-helper"), "no"),
        row("users of the machine", "ls /root /home | grep -v agent | grep -c .", "1\n"),
        row("secrets of the machine", "ls /etc/shadow /etc/ssh /etc/gitconfig 2>/dev/null | wc -l", "0\n"),
        row("/sys", "ls /sys | wc -l", "0\n"),
        row(
            "another address",
            "perl -MIO::Socket::INET -e 'for (qw(1.1.1.1 169.254.169.254 10.0.0.1 8.8.8.8)) { print IO::Socket::INET->new(PeerAddr=>$_,PeerPort=>80) ? \"there\" : \"E\".($!+0) }'",
            "E101E101E101E101",
        ),
        row(
            "an address of IPv6",
            "(echo > /dev/tcp/2606:4700:4700::1111/80) 2>/dev/null && echo -n there || echo -n no",
            "no",
        ),
        row("no route", "tail -n +2 /proc/net/route | wc -l", "0\n"),
        row(
            "an abstract socket of the machine",
            "perl -MSocket -e 'socket(my $s, AF_UNIX, SOCK_STREAM, 0); print connect($s, pack(\"Sa*\", AF_UNIX, \"\\0bottle-attack-test\")) ? \"there\" : \"E\".($!+0)'",
            "E111",
        ),
        row(
            "too many processes",
            "perl -e 'my @p; while (defined(my $p = fork)) { if (!$p) { sleep 60; exit } push @p, $p } my $e = $!+0; kill 9, @p; print \"E$e \", (@p <= 200 ? \"few\" : \"many\")'",
            "E11 few",
        ),
        row(
            "a full file system",
            "head -c 200M /dev/zero > /tmp/full 2>/dev/null && echo -n fits || echo -n no; rm -f /tmp/full",
            "no",
        ),
    ];
    let families = [
        ("AF_ALG", AF_ALG),
        ("AF_KEY", AF_KEY),
        ("AF_PACKET", AF_PACKET),
        ("AF_XDP", AF_XDP),
        ("AF_TIPC", AF_TIPC),
        ("AF_RDS", AF_RDS),
        ("AF_SMC", 43),
        ("AF_BLUETOOTH", AF_BLUETOOTH),
        ("AF_CAN", AF_CAN),
    ];
    rows.extend(families.map(|(name, family)| row(name, socket(family, SOCK_DGRAM, 0), "E97")));
    let netlink = [("netlink's filter", 12), ("netlink's audit", 9), ("netlink's events", 15)];
    rows.extend(netlink.map(|(name, protocol)| row(name, socket(AF_NETLINK, SOCK_RAW, protocol), "E97").on(SECCOMP)));
    #[cfg(target_arch = "x86_64")]
    rows.extend([
        row("a call of x32", call(0x4000_0000 | 39, ""), "E38"),
        row("int 0x80", CALL_OF_32_BITS, "159").on(SECCOMP),
    ]);
    rows
}

/// Rows with the same missing defences share a bottle.
fn said(who: Who, without: &[&str], rows: &[&Row]) -> Result<Vec<String>> {
    let bottle = Bare::start(who, without).with_context(|| format!("{who:?} without {without:?}"))?;
    rows.iter().map(|row| Ok(bottle.sh(&row.script).with_context(|| row.name)?.stdout)).collect()
}

#[test]
fn every_attempt_ends_as_it_must_and_otherwise_without_its_defence() -> Result<()> {
    let address = SocketAddr::from_abstract_name("bottle-attack-test")?;
    let _machines_own = UnixListener::bind_addr(&address)?;
    let rows = rows(std::process::id());
    let mut wrong = vec![];
    for who in Who::ALL {
        let all: Vec<&Row> = rows.iter().collect();
        for (row, said) in all.iter().zip(said(who, &[], &all)?) {
            if said != row.says {
                wrong.push(format!("{who:?}: {}: {said:?}, not {:?}", row.name, row.says));
            }
        }
        let mut open: BTreeMap<&[&str], Vec<&Row>> = BTreeMap::new();
        all.iter()
            .filter(|row| !row.rests_on.is_empty())
            .for_each(|row| open.entry(row.rests_on).or_default().push(row));
        for (without, rows) in open {
            for (row, said) in rows.iter().zip(said(who, without, &rows)?) {
                if said == row.says {
                    wrong.push(format!("{who:?}: {} ends the same without {without:?}", row.name));
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    report(format!("{} attempts, twice", rows.len()));
    Ok(())
}

#[test]
fn without_its_filter_a_bottle_still_makes_no_namespaces() -> Result<()> {
    for who in Who::ALL {
        let unshare = call(SYS_unshare, &NEWUSER.to_string());
        // The count of them is what holds then; without that, too, nothing does.
        for (without, says) in [(&["seccomp"][..], "E28"), (&["seccomp", "counts"], "ok")] {
            let bottle = Bare::start(who, without)?;
            assert_eq!(bottle.sh(&unshare)?.stdout, says, "{who:?} without {without:?}");
        }
    }
    Ok(())
}
