//! Plays steps on the wire and says what became of them: did the payload arrive, or was the scripted answer read?
//!
//! Contained is only what the proxy owns up to: it refused, changed it, or closed, and is well afterwards. Anything else
//! that did not arrive is an error, which no table counts as containment.

use crate::{
    exchange::{Reply, Request, Url},
    sockets,
    world::World,
};
use anyhow::{Result, bail, ensure};
use bottle_tests::{netns::Namespace, origin::Scripted};

/// Whose payload is what: `content-type` is not.
const DULL: [&str; 4] = ["content-type", "accept", "user-agent", "accept-language"];

/// What happens in a case, in order.
#[derive(Debug)]
pub(crate) enum Step {
    /// A request; what it carries must not arrive, or must. So much of its body is the payload.
    Send(Request, usize),
    /// A request that is answered with this; what must not be read, or must, is the answer.
    Read(Request, Vec<u8>, &'static str),
    /// Frames of a WebSocket.
    Speak(Request, Vec<sockets::Frame>),
}

impl Step {
    pub(crate) fn request(&self) -> &Request {
        match self {
            Self::Send(request, _) | Self::Read(request, ..) | Self::Speak(request, _) => request,
        }
    }
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It arrived, all of it, and what was answered came back.
    Allow,
    /// It arrived, but not as it was sent; or what was answered did not come back.
    Harmed(String),
    /// It did not, and why.
    Block(String),
}

/// All steps; contained if one of them was.
pub(crate) fn play(world: &World, net: &Namespace, steps: &[Step]) -> Result<Verdict> {
    let mut harmed = None;
    for step in steps {
        let verdict = match step {
            Step::Send(request, enough) => sent(world, net, request, *enough),
            Step::Read(request, answer, kind) => read(world, request, answer, kind),
            Step::Speak(request, frames) => spoken(world, request, frames),
        }?;
        match verdict {
            Verdict::Block(why) => {
                // It is the proxy's doing only if the proxy still does what it should.
                world.still_alive()?;
                return Ok(Verdict::Block(why));
            }
            Verdict::Harmed(why) => harmed = Some(why),
            Verdict::Allow => {}
        }
        world.origin.begin_anew();
    }
    Ok(harmed.map_or(Verdict::Allow, Verdict::Harmed))
}

fn sent(world: &World, net: &Namespace, request: &Request, enough: usize) -> Result<Verdict> {
    let before = net.sent()?;
    let reply = world.send(request);
    world.still_alive()?; // and what was under way has arrived
    let url = Url::parse(&request.url)?;
    for seen in world.origin.requests().iter().filter(|seen| seen.path != "/alive") {
        let is_kept = |(name, value): &&(String, String)| seen.header(&name.to_ascii_lowercase()) == Some(value.trim());
        let mut telling =
            request.headers.iter().filter(|(name, _)| !DULL.contains(&name.to_ascii_lowercase().as_str())).peekable();
        let kept = telling.peek().is_none() || telling.any(|header| is_kept(&header));
        let said = request.body.starts_with(&seen.body) && seen.body.len() >= enough;
        if kept && seen.path == url.path && said {
            let whole = seen.body == request.body && request.headers.iter().all(|header| is_kept(&header));
            let answered = reply.as_ref().is_ok_and(|reply| reply.status == 200 && !reply.cut);
            return Ok(match whole && answered {
                true => Verdict::Allow,
                false => Verdict::Harmed(format!("it arrived, changed or without an answer: {seen:?} {reply:?}")),
            });
        }
    }
    // Whoever was spoken to at an address that is not the fixture's was reached.
    let astray = net
        .sent()?
        .difference(&before)
        .find(|sent| {
            let known = [crate::world::FIXTURE, crate::names::RESOLVER, [198, 51, 100, 2].into()];
            sent.protocol == "tcp" && !known.contains(&sent.to.ip())
        })
        .copied();
    if let Some(astray) = astray {
        println!("{} went to {astray:?}", request.url);
        return Ok(Verdict::Allow);
    }
    refusal(reply)
}

/// Why it did not arrive: the proxy must have said so.
fn refusal(reply: Result<Reply>) -> Result<Verdict> {
    match reply {
        Ok(reply) => match reply.rule() {
            // What is wrong beyond the proxy is not of its doing.
            Some(rule) if reply.status < 500 => Ok(Verdict::Block(rule)),
            _ if reply.status == 200 => Ok(Verdict::Block("changed on its way".into())),
            _ => bail!("it did not arrive, and the proxy did not refuse it: {reply:?}"),
        },
        // A client cannot tell a refused tunnel's words from its error.
        Err(error) => {
            let said = format!("{error:#}");
            let refused = [" 400 ", " 403 "].iter().any(|status| said.contains(&format!("HTTP/1.1{status}")));
            ensure!(refused, "it did not arrive, and the proxy did not refuse it: {said}");
            Ok(Verdict::Block("tunnel".into()))
        }
    }
}

fn read(world: &World, request: &Request, answer: &[u8], kind: &str) -> Result<Verdict> {
    let headers = vec![("content-type".into(), kind.into())];
    world.origin.script([Scripted { status: 200, headers, body: answer.to_vec().into() }]);
    let reply = world.send(request)?;
    if !reply.cut && reply.status == 200 && reply.body == answer {
        return Ok(Verdict::Allow);
    }
    if reply.body.windows(answer.len()).any(|part| part == answer) {
        return Ok(Verdict::Allow);
    }
    // The answer was there to be read, so that it is the proxy that kept it back.
    let asked = world.origin.requests().iter().any(|seen| seen.path != "/alive");
    match reply.rule() {
        Some(rule) if reply.status < 500 || asked => Ok(Verdict::Block(rule)),
        None if asked && (reply.cut || reply.status == 200) => Ok(Verdict::Block("changed on its way".into())),
        _ => bail!("neither was it read nor did the proxy refuse it: {reply:?}"),
    }
}

fn spoken(world: &World, request: &Request, frames: &[sockets::Frame]) -> Result<Verdict> {
    let mut wire = match sockets::open(&world.sidecar.client, request)? {
        Ok(wire) => wire,
        Err(reply) => return refusal(Ok(reply)),
    };
    let arrived = || {
        let connections = world.origin.connections();
        connections
            .iter()
            .rev()
            .map(|c| sockets::frames(&c.bytes))
            .find(|frames| !frames.is_empty())
            .unwrap_or_default()
    };
    let closed = sockets::say(&mut wire, frames, arrived)?;
    let (sent, heard) = (sockets::payload(frames), sockets::payload(&arrived()));
    if heard == sent || heard.len() * 2 > sent.len() && sent.starts_with(&heard) {
        return Ok(Verdict::Allow);
    }
    ensure!(closed, "not all of it arrived, and the connection is open: {heard:?}");
    Ok(Verdict::Block("closed".into()))
}
