//! The leanest client of a Docker engine: one connection a call, nothing between the bench and the socket.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::PathBuf,
};

/// An engine at a unix socket.
#[derive(Clone)]
pub(super) struct Engine {
    pub(super) socket: PathBuf,
}

impl Engine {
    /// A call with a JSON body, or none (`null`); its JSON answer, or `null`.
    pub(super) fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { vec![] } else { serde_json::to_vec(body)? };
        let answer = self.send(method, path, "application/json", &body)?;
        Ok(if answer.is_empty() { Value::Null } else { serde_json::from_slice(&answer)? })
    }

    pub(super) fn get(&self, path: &str) -> Result<Value> {
        self.call("GET", path, &Value::Null)
    }

    pub(super) fn delete(&self, path: &str) -> Result<()> {
        self.call("DELETE", path, &Value::Null).map(drop)
    }

    /// A call with any body; the whole answer, up to the end of a stream.
    pub(super) fn send(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket).context("connect to the engine")?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = BufReader::new(&stream);
        let (status, chunked) = read_head(&mut answer)?;
        let mut bytes = vec![];
        if chunked {
            read_chunks(&mut answer, &mut bytes)?;
        } else {
            answer.read_to_end(&mut bytes)?;
        }
        let _ = stream.shutdown(Shutdown::Both);
        if !(200..300).contains(&status) {
            bail!("{method} {path}: {status} {}", String::from_utf8_lossy(&bytes).trim());
        }
        Ok(bytes)
    }
}

/// The status, and whether the body comes in chunks.
fn read_head(from: &mut impl BufRead) -> Result<(u16, bool)> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).context("an HTTP status")?;
    let mut chunked = false;
    loop {
        line.clear();
        ensure!(from.read_line(&mut line)? > 0, "the engine hung up");
        if line.trim().is_empty() {
            return Ok((status, chunked));
        }
        chunked |= line.trim().eq_ignore_ascii_case("transfer-encoding: chunked");
    }
}

fn read_chunks(from: &mut impl BufRead, into: &mut Vec<u8>) -> Result<()> {
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let length = u64::from_str_radix(line.trim(), 16).context("a chunk's length")?;
        from.take(length).read_to_end(into)?;
        from.read_line(&mut line)?;
        if length == 0 {
            return Ok(());
        }
    }
}
