//! A request as a client of a proxy sends it, byte by byte: in absolute form, or in TLS inside a tunnel. And its answer.

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_tests::wire::{Hello, ProxyClient, Tls, read_head, status_of};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
};
use tokio_rustls::rustls::pki_types::ServerName;

/// A URL, not normalised: the proxy must cope with what is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) tls: bool,
    /// As it is written, in brackets if it is one of IPv6.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    /// `user:password`
    pub(crate) user: Option<String>,
    /// Path and query.
    pub(crate) path: String,
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").with_context(|| format!("no URL: {text}"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" | "wss" => true,
            "http" | "ws" => false,
            other => bail!("no way to send a request by {other}: {text}"),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user.to_owned()), place),
            None => (None, authority),
        };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().context("its port")?)),
            _ => (place, None),
        };
        ensure!(host.is_ascii() && !host.is_empty(), "no host that a client could ask for: {text}");
        // What no client puts on the wire as it is.
        let sent = |byte: u8| match byte {
            0x21..=0x7e if byte != b'"' && byte != b'<' && byte != b'>' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        };
        let path: String = path.bytes().map(sent).collect();
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        Ok(Self { tls, host: host.to_owned(), port, user, path })
    }

    fn authority(&self) -> String {
        self.port.map_or_else(|| self.host.clone(), |port| format!("{}:{port}", self.host))
    }
}

/// A request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// In chunks of so many bytes, one after the other; 0: whole.
    pub(crate) chunk: usize,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// It ended before it was whole.
    pub(crate) cut: bool,
}

impl Reply {
    /// The rule by which the proxy itself refused.
    pub(crate) fn rule(&self) -> Option<String> {
        let json: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        (json["error"]["type"] == "bottle_egress_denied").then(|| json["error"]["rule"].as_str().map(str::to_owned))?
    }
}

/// A client's side of a connection through the proxy.
pub(crate) enum Wire {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buf),
            Self::Tls(tls) => tls.read(buf),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buf),
            Self::Tls(tls) => tls.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

impl Wire {
    /// The connection below.
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => &tls.sock,
        }
    }
}

impl Request {
    pub(crate) fn get(url: &str) -> Self {
        Self { method: "GET".into(), url: url.into(), ..Self::default() }
    }

    pub(crate) fn post(url: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("Content-Type".into(), content_type.into())];
        Self { method: "POST".into(), url: url.into(), headers, body: body.into(), chunk: 0 }
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Connects, and writes the head.
    pub(crate) fn open(&self, client: &ProxyClient, framing: &str) -> Result<Wire> {
        let url = Url::parse(&self.url)?;
        let (mut wire, target) = if url.tls {
            let target = format!("{}:{}", url.host, url.port.unwrap_or(443));
            let name = url.host.trim_matches(['[', ']']);
            if ServerName::try_from(name).is_err() {
                // No client can go on from there; the proxy may yet refuse the tunnel.
                client.tunnel(&target)?;
                bail!("{name} is no name for TLS, and the proxy opens a tunnel to it");
            }
            (Wire::Tls(Box::new(client.tls(&target, name, Hello::default())?)), url.path.clone())
        } else {
            (Wire::Plain(client.connect()?), format!("http://{}{}", url.authority(), url.path))
        };
        let mut head = format!("{} {target} HTTP/1.1\r\nHost: {}\r\n", self.method, url.authority());
        if !url.tls {
            head += &format!("Proxy-Authorization: Basic {}\r\n", client.password());
        }
        if let Some(user) = url.user {
            head += &format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(user));
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        wire.write_all(format!("{head}{framing}\r\n").as_bytes())?;
        Ok(wire)
    }

    /// Sends it, and waits for its answer.
    pub(crate) fn send(&self, client: &ProxyClient) -> Result<Reply> {
        let framing = match (self.chunk, self.body.len()) {
            (0, 0) if matches!(self.method.as_str(), "GET" | "HEAD" | "DELETE") => String::new(),
            (0, length) => format!("Content-Length: {length}\r\n"),
            _ => "Transfer-Encoding: chunked\r\n".into(),
        };
        let mut wire = self.open(client, &framing)?;
        // One that refuses need not read all of it.
        let _ = self.write_body(&mut wire);
        read_reply(&mut wire, &self.method)
    }

    fn write_body(&self, wire: &mut Wire) -> io::Result<()> {
        if self.chunk == 0 {
            wire.write_all(&self.body)?;
        } else {
            for chunk in self.body.chunks(self.chunk) {
                wire.write_all(&[format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat())?;
            }
            wire.write_all(b"0\r\n\r\n")?;
        }
        wire.flush()
    }
}

/// Reads an answer.
pub(crate) fn read_reply(from: &mut impl Read, method: &str) -> Result<Reply> {
    let head = read_head(from)?;
    let lines = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    let headers: Vec<(String, String)> =
        lines.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    let field = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let status = status_of(&head)?;
    let (mut body, mut cut) = (vec![], false);
    if method != "HEAD" && status != 204 && status != 304 {
        match field("content-length").map(str::parse::<u64>) {
            Some(length) => {
                let length = length?;
                cut = from.take(length).read_to_end(&mut body).is_err() || body.len() as u64 != length;
            }
            None if field("transfer-encoding").is_some() => cut = chunks(from, &mut body).is_err(),
            None => cut = from.read_to_end(&mut body).is_err(),
        }
    }
    Ok(Reply { status, headers, body, cut })
}

fn chunks(from: &mut impl Read, body: &mut Vec<u8>) -> Result<()> {
    loop {
        let line = line(from)?;
        let length = u64::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)?;
        let before = body.len();
        from.take(length).read_to_end(body)?;
        ensure!((body.len() - before) as u64 == length, "cut");
        if length == 0 {
            while !self::line(from)?.is_empty() {}
            return Ok(());
        }
        self::line(from)?;
    }
}

fn line(from: &mut impl Read) -> Result<String> {
    let (mut line, mut byte) = (vec![], [0]);
    while !line.ends_with(b"\r\n") {
        ensure!(from.read(&mut byte)? == 1 && line.len() < 4096, "cut");
        line.push(byte[0]);
    }
    line.truncate(line.len() - 2);
    Ok(String::from_utf8(line)?)
}
