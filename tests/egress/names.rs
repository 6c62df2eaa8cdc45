//! The names of the tests' world: a resolver that answers as it is told, one answer after another, and knows every name.

use anyhow::{Context, Result};
use simple_dns::{
    CLASS, Packet, QTYPE, ResourceRecord, TYPE,
    rdata::{A, AAAA, RData},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

/// Where it answers.
pub(crate) const RESOLVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 53));
/// Where every name is that nobody has told it of.
pub(crate) const ELSEWHERE: &str = "203.0.113.99";

/// The addresses of a name, answer by answer; the last one stands.
pub(crate) type Answers = Vec<Vec<IpAddr>>;

/// The resolver.
pub(crate) struct Names {
    asked: Arc<Mutex<Vec<String>>>,
}

impl Names {
    /// Serves from the calling thread's network namespace.
    pub(crate) fn start(known: BTreeMap<&'static str, Answers>) -> Result<Self> {
        let socket = UdpSocket::bind((RESOLVER, 53)).context("listen for DNS")?;
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = asked.clone();
        thread::spawn(move || {
            let (mut known, mut query) = (known, [0; 1500]);
            while let Ok((length, from)) = socket.recv_from(&mut query) {
                if let Some((name, reply)) = answer(&query[..length], &mut known) {
                    log.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                    let _ = socket.send_to(&reply, from);
                }
            }
        });
        Ok(Self { asked })
    }

    /// Every name that was asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn answer(query: &[u8], known: &mut BTreeMap<&'static str, Answers>) -> Option<(String, Vec<u8>)> {
    let query = Packet::parse(query).ok()?;
    let question = query.questions.first()?;
    let name = question.qname.to_string().to_ascii_lowercase();
    let mut reply = Packet::new_reply(query.id());
    let elsewhere = vec![ELSEWHERE.parse().ok()?];
    let v6 = question.qtype == QTYPE::TYPE(TYPE::AAAA);
    let addresses = match known.get_mut(name.as_str()) {
        // A name's next answer begins with the next question for IPv4.
        Some(answers) if answers.len() > 1 && !v6 => answers.remove(0),
        Some(answers) => answers.first().cloned().unwrap_or_default(),
        None => elsewhere,
    };
    for address in addresses {
        let data = match (address, question.qtype) {
            (IpAddr::V4(v4), QTYPE::TYPE(TYPE::A)) => RData::A(A { address: v4.into() }),
            (IpAddr::V6(v6), QTYPE::TYPE(TYPE::AAAA)) => RData::AAAA(AAAA { address: v6.into() }),
            _ => continue,
        };
        reply.answers.push(ResourceRecord::new(question.qname.clone(), CLASS::IN, 0, data));
    }
    reply.questions.push(question.clone());
    Some((name, reply.build_bytes_vec().ok()?))
}
