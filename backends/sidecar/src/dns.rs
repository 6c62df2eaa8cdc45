//! The bottle's only resolver: it answers the sidecar's own names and refuses everything else at once.

use crate::{daemon::DaemonUp, feed::Feed, listeners};
use anyhow::Result;
use bottle_api::control::{DNS_DAEMON, SIDECAR_NAMES};
use bottle_policy::{
    message::LogLine,
    probe::{OUTSIDE_NAME, PROBE_RULE},
};
use simple_dns::{
    CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE,
    rdata::{A, RData},
};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

const TTL_SECONDS: u32 = 60;
const MAX_TCP_CONNECTIONS: usize = 64;
const TCP_IDLE: Duration = Duration::from_secs(5);

/// Serves UDP and TCP on port 53 of `bind` for ever, or what it is lent.
pub(crate) async fn serve(bind: IpAddr, lent: &[&str], feed: Feed) -> Result<()> {
    let (udp, tcp) = listeners::resolver(bind, lent).await?;
    feed.report(DaemonUp::Listening);
    let tcp_feed = feed.clone();
    tokio::spawn(async move { serve_tcp(tcp, bind, tcp_feed).await });
    let mut query = [0; 1232];
    loop {
        let Ok((len, from)) = udp.recv_from(&mut query).await else {
            continue;
        };
        if let Some(reply) = answer(&query[..len], bind, &feed) {
            let _ = udp.send_to(&reply, from).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, bind: IpAddr, feed: Feed) {
    let room = Arc::new(Semaphore::new(MAX_TCP_CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await; // out of descriptors: some will close
            continue;
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            continue;
        };
        let feed = feed.clone();
        tokio::spawn(async move {
            let _ = converse(stream, bind, &feed).await;
            drop(permit);
        });
    }
}

async fn converse(mut stream: TcpStream, bind: IpAddr, feed: &Feed) -> Result<()> {
    loop {
        let len = timeout(TCP_IDLE, stream.read_u16()).await??;
        let mut query = vec![0; len.into()];
        timeout(TCP_IDLE, stream.read_exact(&mut query)).await??;
        let Some(reply) = answer(&query, bind, feed) else {
            return Ok(());
        };
        stream.write_u16(u16::try_from(reply.len())?).await?;
        stream.write_all(&reply).await?;
    }
}

/// The reply to one query, or nothing where it cannot be read.
fn answer(query: &[u8], own: IpAddr, feed: &Feed) -> Option<Vec<u8>> {
    let (reply, line) = judge(query, own)?;
    feed.log(line);
    Some(reply)
}

fn judge(query: &[u8], own: IpAddr) -> Option<(Vec<u8>, LogLine)> {
    let query = Packet::parse(query).ok()?;
    if query.has_flags(PacketFlag::RESPONSE) {
        return None;
    }
    let mut reply = Packet::new_reply(query.id());
    let question = query.questions.first().filter(|_| query.questions.len() == 1);
    let name = question.map(|q| q.qname.to_string().to_ascii_lowercase()).unwrap_or_default();
    let known = SIDECAR_NAMES.contains(&name.as_str());
    if let Some(question) = question {
        reply.questions.push(question.clone());
        let wants_v4 = matches!(question.qtype, QTYPE::ANY | QTYPE::TYPE(TYPE::A));
        if let (true, true, IpAddr::V4(v4)) = (known, wants_v4, own) {
            let record = RData::A(A { address: Ipv4Addr::into(v4) });
            reply.answers.push(ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL_SECONDS, record));
        }
    }
    if !known {
        *reply.rcode_mut() = RCODE::Refused;
    }
    let line = LogLine {
        daemon: DNS_DAEMON.into(),
        decision: if known { "allow" } else { "deny" }.into(),
        rule: match name.as_str() {
            _ if known => "own-name",
            OUTSIDE_NAME => PROBE_RULE,
            _ => "dns",
        }
        .into(),
        host: escape(&name),
        method: question.map(|q| format!("{:?}", q.qtype)).unwrap_or_default(),
        ..LogLine::default()
    };
    Some((reply.build_bytes_vec().ok()?, line))
}

/// A label may hold any byte: keep the log readable and one line.
fn escape(name: &str) -> String {
    name.chars().take(255).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::{Name, QCLASS, Question};

    fn ask(name: &str, kind: TYPE) -> (RCODE, usize, String) {
        let mut query = Packet::new_query(7);
        let name = Name::new(name).unwrap();
        query.questions.push(Question::new(name, kind.into(), QCLASS::CLASS(CLASS::IN), false));
        let (reply, line) = judge(&query.build_bytes_vec().unwrap(), [10, 0, 0, 2].into()).unwrap();
        let reply = Packet::parse(&reply).unwrap();
        assert_eq!(reply.id(), 7);
        (reply.rcode(), reply.answers.len(), line.decision)
    }

    #[test]
    fn only_own_names_are_answered() {
        assert_eq!(ask("egress", TYPE::A), (RCODE::NoError, 1, "allow".into()));
        assert_eq!(ask("Git-Gate", TYPE::A), (RCODE::NoError, 1, "allow".into()));
        assert_eq!(ask("egress", TYPE::AAAA), (RCODE::NoError, 0, "allow".into()));
        for name in ["api.anthropic.com", "egress.evil.example", "localhost"] {
            assert_eq!(ask(name, TYPE::A), (RCODE::Refused, 0, "deny".into()), "{name}");
            assert_eq!(ask(name, TYPE::TXT), (RCODE::Refused, 0, "deny".into()), "{name}");
        }
    }

    #[test]
    fn junk_is_not_answered() {
        assert!(judge(b"", [10, 0, 0, 2].into()).is_none());
        assert!(judge(&[0xff; 40], [10, 0, 0, 2].into()).is_none());
    }
}
