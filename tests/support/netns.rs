//! A network namespace of a test's own, in which every address is this machine's, and a capture of all that is sent.
//!
//! Whoever listens there on `[::]` is everywhere: a request that goes astray arrives, whichever address it goes to, and
//! nothing leaves the namespace. It is gone with its last thread, process and socket.

use crate::lab::output;
use anyhow::{Context, Result, anyhow, ensure};
use rustix::{
    net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with, sockopt},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
};

/// Makes every address local, says that it has, and waits to be looked up.
const MAKE: &str = "set -e
ip link set lo up
ip route add local 0.0.0.0/0 dev lo table local
ip -6 route add local ::/0 dev lo table local
echo made
exec cat";
/// Every protocol, in the network's byte order.
const ETH_P_ALL: u16 = 0x0003_u16.to_be();
const CAPTURE_BYTES: usize = 64 << 20;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// The namespace, and what was sent in it.
pub struct Namespace {
    handle: File,
    packets: OwnedFd,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    sent: BTreeSet<Sent>,
    /// Who has sent a datagram to whom.
    datagrams: BTreeSet<(SocketAddr, SocketAddr)>,
}

/// Somebody spoke to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sent {
    /// By which protocol: `tcp` for its first packet, `udp`, `other`.
    pub protocol: &'static str,
    /// To whom; without a port where the protocol has none.
    pub to: SocketAddr,
}

impl Namespace {
    /// A new one, its capture running.
    pub fn new() -> Result<Self> {
        let id = output(Command::new("id").arg("-u"))?;
        ensure!(id.trim() == "0", "a network namespace of the test's own needs root; run the tests as root");
        let mut maker = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", MAKE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare is missing; run `cargo xtask setup`")?;
        let mut said = String::new();
        BufReader::new(maker.stdout.take().context("its output")?).read_line(&mut said)?;
        let handle = File::open(format!("/proc/{}/ns/net", maker.id()));
        drop(maker.stdin.take());
        maker.wait()?;
        ensure!(said == "made\n", "the network namespace could not be made; run `cargo xtask setup`");
        let handle = handle?;
        let packets =
            thread::scope(|scope| scope.spawn(|| capture(&handle)).join()).map_err(|_| anyhow!("capture"))??;
        Ok(Self { handle, packets, heard: Mutex::default() })
    }

    /// Runs something in a thread that stands in the namespace. Its sockets, threads and processes stay there.
    pub fn run<T: Send>(&self, run: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.handle.as_fd(), Some(LinkNameSpaceType::Network))?;
                run()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// To whom anybody has spoken first, so far: every connection that was tried, every datagram.
    pub fn sent(&self) -> Result<BTreeSet<Sent>> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let mut packet = [0; 128];
        // What is sent on loopback is in the socket's queue before the sender's call returns.
        while let Ok((_, length)) = recv(&self.packets, &mut packet[..], RecvFlags::DONTWAIT) {
            let Some((from, sent)) = first_word(&packet[..length.min(packet.len())]) else { continue };
            if sent.protocol == "udp" {
                if heard.datagrams.contains(&(sent.to, from)) {
                    continue; // an answer
                }
                heard.datagrams.insert((from, sent.to));
            }
            heard.sent.insert(sent);
        }
        Ok(heard.sent.clone())
    }
}

fn capture(namespace: &File) -> Result<OwnedFd> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let protocol = Protocol::from_raw(u32::from(ETH_P_ALL).try_into()?);
    let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(protocol))?;
    sockopt::set_socket_recv_buffer_size_force(&socket, CAPTURE_BYTES)?;
    Ok(socket)
}

/// Who speaks to whom with a packet, if it is not an answer.
fn first_word(packet: &[u8]) -> Option<(SocketAddr, Sent)> {
    let v4 = |at| Some(IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let v6 = |at| Some(IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
    let (protocol, from, to, rest) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, v4(12)?, v4(16)?, packet.get(usize::from(packet[0] & 0xf) * 4..)?),
        6 => (*packet.get(6)?, v6(8)?, v6(24)?, packet.get(40..)?),
        _ => return None,
    };
    let port = |at| Some(u16::from_be_bytes(rest.get(at..at + 2)?.try_into().ok()?));
    let said = |protocol, (from_port, to_port)| {
        let to = SocketAddr::new(to, to_port);
        Some((SocketAddr::new(from, from_port), Sent { protocol, to }))
    };
    match protocol {
        TCP if rest.get(13)? & (SYN | ACK) == SYN => said("tcp", (port(0)?, port(2)?)),
        TCP => None,
        UDP => said("udp", (port(0)?, port(2)?)),
        // A router's advertisement and the like; an unreachable port's.
        _ => said("other", (0, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn everything_that_is_sent_is_seen_wherever_it_goes() -> Result<()> {
        let namespace = Namespace::new()?;
        namespace.run(|| {
            let listener = TcpListener::bind("[::]:443")?;
            for address in
                ["203.0.113.1:443", "10.1.2.3:443", "127.0.0.1:443", "[2001:db8::1]:443", "169.254.169.254:9"]
            {
                let stream = TcpStream::connect(address);
                assert_eq!(stream.is_ok(), address.ends_with("443"), "{address}");
                assert!(namespace.sent()?.contains(&Sent { protocol: "tcp", to: address.parse()? }), "{address}");
            }
            drop(listener);
            UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", "203.0.113.2:53")?;
            assert!(namespace.sent()?.contains(&Sent { protocol: "udp", to: "203.0.113.2:53".parse()? }));
            Ok(())
        })
    }
}
