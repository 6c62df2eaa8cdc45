//! The launch probe's eyes: what the agent's user can see and reach, before the agent runs. The host judges.

use anyhow::{Context, Result, bail};
use bottle_api::control::{PROXY_PORT, read_frame};
use bottle_policy::probe::{
    Answer, FILES, Lookup, OUTSIDE_NAME, Question, RESOLVER, ROUTES, Report, resolvers, routes_v4,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with, sockopt::socket_error},
};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, Question as DnsQuestion, RCODE, TYPE};
use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    os::{fd::OwnedFd, unix::fs::FileTypeExt},
    thread,
    time::{Duration, Instant},
};

/// Of those who must not answer, nobody is waited for longer: a neighbour answers within a millisecond, and whoever is
/// further away only by a gateway's help, who is a neighbour.
const STRANGERS_TIME: Duration = Duration::from_millis(100);
/// The sidecar and the resolver must answer: they are given time on a busy machine.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// What must be answered with; further bytes are of no interest.
const HEAD: usize = 64;

/// Reads a question from standard input and writes the report, as JSON, to standard output.
pub(crate) fn run() -> Result<()> {
    let question: Question = read_frame(&mut io::stdin().lock())?.context("the host asked nothing")?;
    let report = report(&question)?;
    serde_json::to_writer(io::stdout(), &report)?;
    Ok(())
}

fn report(question: &Question) -> Result<Report> {
    let sidecar = (question.sidecar.as_str(), PROXY_PORT).to_socket_addrs();
    let sidecar = sidecar.ok().and_then(|mut found| found.next());
    let sidecar = sidecar.with_context(|| format!("the sidecar's name {} is not known", question.sidecar))?;
    let routes = fs::read_to_string(ROUTES).ok().and_then(|table| routes_v4(&table)).context(ROUTES)?;
    let gateways = routes.iter().filter_map(|route| route.gateway.map(IpAddr::V4));
    let targets = question.targets.iter().copied().chain(gateways);
    let targets = targets.flat_map(|ip| question.ports.iter().map(move |port| SocketAddr::new(ip, *port)));
    let resolvers = resolvers(&fs::read_to_string(RESOLVER).unwrap_or_default());
    thread::scope(|scope| {
        let ask = |authorization: Option<&str>| status(sidecar, authorization);
        let with = scope.spawn(move || ask(Some(&question.authorization)));
        let without = scope.spawn(move || ask(None));
        let lookups: Vec<_> = resolvers
            .into_iter()
            .flat_map(|resolver| [(resolver, false), (resolver, true)])
            .map(|(resolver, tcp)| scope.spawn(move || Lookup { resolver, tcp, answer: look_up(resolver, tcp) }))
            .collect();
        let answered = answering(targets.collect())?;
        let lookups = lookups.into_iter().map(|lookup| lookup.join().ok().context("a lookup panicked"));
        Ok(Report {
            sidecar: sidecar.ip(),
            with_capability: with.join().ok().context("a request panicked")?.context("ask the proxy")?,
            without_capability: without.join().ok().context("a request panicked")?.context("ask the proxy")?,
            lookups: lookups.collect::<Result<_>>()?,
            raw_socket: opens_raw_socket(),
            sockets: question.sockets.iter().filter(|path| is_socket(path)).cloned().collect(),
            answered,
            // Last: who has answered stands among the neighbours.
            files: FILES.into_iter().map(|path| Ok((path.to_owned(), read(path)?))).collect::<Result<_>>()?,
        })
    })
}

fn read(path: &str) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(path.to_owned()),
    }
}

fn is_socket(path: &str) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// Of any kind: for one's own packets, and for everybody's.
fn opens_raw_socket() -> bool {
    let kinds = [
        (AddressFamily::INET, Some(ipproto::ICMP)),
        (AddressFamily::INET, Some(ipproto::RAW)),
        (AddressFamily::PACKET, None),
    ];
    kinds
        .into_iter()
        .any(|(family, protocol)| socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol).is_ok())
}

/// Those of the addresses at which somebody answers a TCP connection, be it with a refusal. All are tried at once.
fn answering(targets: Vec<SocketAddr>) -> Result<Vec<SocketAddr>> {
    let (mut answered, mut waiting): (Vec<SocketAddr>, Vec<(SocketAddr, OwnedFd)>) = (vec![], vec![]);
    for target in targets {
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match socket_with(family, SocketType::STREAM, flags, None) {
            Err(Errno::AFNOSUPPORT) => continue, // no such network at all
            socket => socket?,
        };
        match connect(&socket, &target) {
            Err(Errno::INPROGRESS) => waiting.push((target, socket)),
            Ok(()) | Err(Errno::CONNREFUSED) => answered.push(target),
            Err(_) => {}
        }
    }
    let deadline = Instant::now() + STRANGERS_TIME;
    while !waiting.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        let mut fds: Vec<PollFd<'_>> = waiting.iter().map(|(_, fd)| PollFd::new(fd, PollFlags::OUT)).collect();
        match poll(&mut fds, Some(&left)) {
            Ok(0) => break,
            Err(Errno::INTR) => continue,
            result => result?,
        };
        let ended: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut ended = ended.into_iter();
        waiting.retain(|(target, fd)| {
            let over = ended.next().unwrap_or(false);
            if over && matches!(socket_error(fd), Ok(Ok(()) | Err(Errno::CONNREFUSED | Errno::CONNRESET))) {
                answered.push(*target);
            }
            !over
        });
    }
    Ok(answered)
}

/// What the proxy answers to a request for its own list of routes.
fn status(proxy: SocketAddr, authorization: Option<&str>) -> Result<u16> {
    let mut stream = TcpStream::connect_timeout(&proxy, ANSWER_TIME)?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    let header = authorization.map(|value| format!("Proxy-Authorization: {value}\r\n")).unwrap_or_default();
    let host = "_egress.local";
    write!(stream, "GET http://{host}/allowlist HTTP/1.1\r\nHost: {host}\r\n{header}Connection: close\r\n\r\n")?;
    let mut head = vec![];
    stream.take(HEAD as u64).read_to_end(&mut head)?;
    let head = String::from_utf8_lossy(&head);
    let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    status.with_context(|| format!("no answer of a proxy: {:?}", head))
}

fn look_up(resolver: IpAddr, tcp: bool) -> Answer {
    match exchange((resolver, 53).into(), tcp) {
        Ok(RCODE::Refused | RCODE::ServerFailure) => Answer::Refused,
        Ok(_) => Answer::Answered,
        Err(error) => match error.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(ErrorKind::ConnectionRefused | ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable) => {
                Answer::Nobody
            }
            Some(ErrorKind::WouldBlock | ErrorKind::TimedOut) => Answer::Silent,
            // Cut short, or not to be read: whoever that is has been reached.
            _ => Answer::Answered,
        },
    }
}

fn exchange(resolver: SocketAddr, tcp: bool) -> Result<RCODE> {
    let mut query = Packet::new_query(std::process::id() as u16);
    query.set_flags(PacketFlag::RECURSION_DESIRED);
    query.questions.push(DnsQuestion::new(Name::new(OUTSIDE_NAME)?, TYPE::A.into(), QCLASS::CLASS(CLASS::IN), false));
    let query = query.build_bytes_vec()?;
    let mut reply = vec![0; 1500];
    let length = if tcp {
        let mut stream = TcpStream::connect_timeout(&resolver, ANSWER_TIME)?;
        stream.set_read_timeout(Some(ANSWER_TIME))?;
        stream.write_all(&[&u16::try_from(query.len())?.to_be_bytes()[..], &query].concat())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let length = usize::from(u16::from_be_bytes(length));
        stream.read_exact(reply.get_mut(..length).context("a long reply")?)?;
        length
    } else {
        let unspecified: IpAddr = if resolver.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((unspecified, 0))?;
        socket.connect(resolver)?;
        socket.set_read_timeout(Some(ANSWER_TIME))?;
        socket.send(&query)?;
        socket.recv(&mut reply)?
    };
    let reply = Packet::parse(&reply[..length])?;
    if !reply.has_flags(PacketFlag::RESPONSE) {
        bail!("no reply");
    }
    Ok(reply.rcode())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn whoever_answers_is_found_be_it_with_a_refusal() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // No connection leads to everybody.
        let nobody = ["255.255.255.255:443", "224.0.0.1:443"].map(|address| address.parse().unwrap());
        let mut found = answering([open, refused].into_iter().chain(nobody).collect()).unwrap();
        found.sort();
        let mut expected = vec![open, refused];
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_resolver_that_is_not_there_is_nobody() {
        assert_eq!(look_up([127, 0, 0, 99].into(), true), Answer::Nobody);
        assert_eq!(look_up([127, 0, 0, 99].into(), false), Answer::Nobody);
    }
}
