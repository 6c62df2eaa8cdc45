//! Descriptors: none comes into a bottle but a process's three streams, and each process of a sidecar has its own alone.

use anyhow::{Context, Result};
use bottle_namespace::wire::{Bind, Launch};
use bottle_policy::Policy;
use bottle_tests::bare::{Bare, Who};
use rustix::{
    cmsg_space,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::AsFd,
        unix::{fs::PermissionsExt, net::UnixListener},
    },
    path::Path,
    thread,
};

/// Asks for a directory at a socket, and says what is in it.
const ASK: &str = "python3 -c \"
import os, socket
try:
    s = socket.socket(socket.AF_UNIX)
    s.connect('/run/lent/door')
    print(os.listdir(socket.recv_fds(s, 1, 1)[1][0]))
except OSError as error:
    print('no: ' + str(error.errno))
\"";
/// Sockets among what the process has, and among all files of the bottle.
const SOCKETS: &str = "python3 -c \"
import os, stat
def is_socket(n):
    try:
        return stat.S_ISSOCK(os.fstat(n).st_mode)
    except OSError:
        return False
print(sum(map(is_socket, range(65536))))
\"; find / -path /proc -prune -o -type s -print 2>/dev/null | wc -l";

#[test]
fn no_socket_of_the_machine_is_in_a_bottle_by_which_a_descriptor_could_come() -> Result<()> {
    let machine = tempfile::tempdir()?;
    let (door, foreign) = (machine.path().join("lent"), machine.path().join("foreign"));
    fs::create_dir(&door)?;
    fs::create_dir(&foreign)?;
    fs::write(foreign.join("file-of-the-machine"), "")?;
    let listener = UnixListener::bind(door.join("door"))?;
    for path in [machine.path(), &door, &door.join("door")] {
        fs::set_permissions(path, Permissions::from_mode(0o777))?;
    }
    let lending = File::open(&foreign)?;
    // As often as somebody gets through.
    thread::spawn(move || listener.incoming().flatten().for_each(|client| drop(lend(&client, &lending))));
    for who in Who::ALL {
        let closed = Bare::start(who, &[])?;
        assert_eq!(closed.sh(ASK)?.stdout, "no: 2\n", "{who:?}");
        assert_eq!(closed.sh(SOCKETS)?.stdout, "0\n0\n", "{who:?}");
        // What the backend refuses to bring along (`tools`) would be the way.
        let bind = Bind { from: door.display().to_string(), to: "/run/lent".into() };
        let launch = Launch { binds: vec![bind], pids: 200, files: 64 << 20, ..Launch::default() };
        let open = Bare::start_with(who, launch, &[])?;
        assert_eq!(open.sh(ASK)?.stdout, "['file-of-the-machine']\n", "{who:?}");
        assert_eq!(open.sh(SOCKETS)?.stdout, "0\n1\n", "{who:?}");
    }
    Ok(())
}

fn lend(to: impl AsFd, what: &File) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let lent = [what.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&lent));
    sendmsg(to, &[IoSlice::new(b"x")], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[test]
fn a_daemon_has_its_own_listeners_and_no_other_process_has_them() -> Result<()> {
    for who in Who::ALL {
        let bottle = Bare::start_beside_sidecar(who, &Policy::default())?;
        let own = fs::read_link("/proc/self/ns/net")?;
        let (sidecar, inside): (Vec<i32>, Vec<i32>) = bottle
            .processes()
            .into_iter()
            .filter(|pid| *pid != bottle.launcher.id().cast_signed())
            .partition(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|net| net == own));
        let ports = ports(*inside.first().context("a process in the bottle")?)?;
        assert_eq!(ports.len(), 3, "{who:?}: {ports:?}");
        let mut found: Vec<(String, Vec<u16>)> = vec![];
        for pid in sidecar {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
            let name = line.split('\0').skip(1).take(2).collect::<Vec<_>>().join(" ");
            found.push((name.trim().to_owned(), held(pid, &ports)?));
        }
        found.sort();
        let expected = [
            ("bundle", vec![53, 53, 9099]),
            ("daemon dns", vec![53, 53]),
            ("daemon egress", vec![9099]),
            ("keep dns", vec![]),
            ("keep egress", vec![]),
        ];
        assert_eq!(found, expected.map(|(name, ports)| (name.to_owned(), ports)), "{who:?}");
    }
    Ok(())
}

/// The sockets of a process's network that are bound, by inode.
fn ports(pid: i32) -> Result<BTreeMap<String, u16>> {
    let mut ports = BTreeMap::new();
    for table in ["tcp", "udp"] {
        for line in fs::read_to_string(format!("/proc/{pid}/net/{table}"))?.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (_, port) = words[1].split_once(':').context("an address")?;
            ports.insert(words[9].to_owned(), u16::from_str_radix(port, 16)?);
        }
    }
    Ok(ports)
}

/// The ports of those that a process has, each socket once.
fn held(pid: i32, ports: &BTreeMap<String, u16>) -> Result<Vec<u16>> {
    let mut inodes: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))?
        .flatten()
        .filter_map(|entry| {
            let link = fs::read_link(entry.path()).ok()?;
            let inode = Path::new(&link).to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    inodes.sort();
    inodes.dedup();
    let mut held: Vec<u16> = inodes.iter().filter_map(|inode| ports.get(inode).copied()).collect();
    held.sort_unstable();
    Ok(held)
}
