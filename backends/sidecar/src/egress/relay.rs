//! Bytes both ways, through a gate in each direction, until both sides have ended or one breaks.

use super::{frames::Frames, record::Record};
use bottle_policy::Denial;
use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};

const BUFFER: usize = 16 << 10;

/// What stands in one direction.
pub(super) trait Gate {
    /// Appends to `out` what of `bytes` may pass. An error ends both directions, after that.
    fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str>;
}

/// Lets everything pass.
pub(super) struct Unseen;

impl Gate for Unseen {
    fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
        out.extend_from_slice(bytes);
        Ok(())
    }
}

impl Gate for Frames {
    fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
        Frames::pass(self, bytes, out)
    }
}

/// Passes bytes; each direction is counted in the record's line, and what a gate refuses stands there under `rule`.
pub(super) async fn relay(
    client: impl AsyncRead + AsyncWrite,
    host: impl AsyncRead + AsyncWrite,
    gates: (impl Gate, impl Gate),
    rule: &'static str,
    mut record: Record,
) {
    let (from_client, to_client) = split(client);
    let (from_host, to_host) = split(host);
    let (sent, received) = (record.sent.clone(), AtomicU64::new(0));
    let ended =
        tokio::try_join!(pump(from_client, to_host, gates.0, &sent), pump(from_host, to_client, gates.1, &received));
    record.received = received.into_inner();
    if let Err(Ended::Refused(what)) = ended {
        record.denied(&Denial::forbidden(rule, what));
    }
}

/// Why bytes pass no more.
enum Ended {
    /// One side broke.
    Broken,
    Refused(&'static str),
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut gate: impl Gate,
    count: &AtomicU64,
) -> Result<(), Ended> {
    let (mut buffer, mut passed) = (vec![0; BUFFER], Vec::with_capacity(BUFFER));
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(to.shutdown().await?);
        }
        let verdict = gate.pass(&buffer[..length], &mut passed);
        to.write_all(&passed).await?;
        to.flush().await?;
        count.fetch_add(passed.len() as u64, Ordering::Relaxed);
        passed.clear();
        verdict.map_err(Ended::Refused)?;
    }
}
