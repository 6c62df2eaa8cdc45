//! Bytes both ways, through a gate in each direction, until both sides have ended or one breaks.

use super::{guard::Noted, record::Record};
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
    fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Denial>;

    /// What was found in what passed.
    fn noted(&mut self) -> Noted {
        vec![]
    }
}

/// Lets everything pass.
pub(super) struct Unseen;

impl Gate for Unseen {
    fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Denial> {
        out.extend_from_slice(bytes);
        Ok(())
    }
}

/// Passes bytes; each direction is counted in the record's line, and what a gate refuses or finds stands there.
pub(super) async fn relay(
    client: impl AsyncRead + AsyncWrite,
    host: impl AsyncRead + AsyncWrite,
    mut gates: (impl Gate, impl Gate),
    mut record: Record,
) {
    let (from_client, to_client) = split(client);
    let (from_host, to_host) = split(host);
    let (sent, received) = (record.sent.clone(), AtomicU64::new(0));
    let ended = tokio::try_join!(
        pump(from_client, to_host, &mut gates.0, &sent),
        pump(from_host, to_client, &mut gates.1, &received)
    );
    record.received = received.into_inner();
    record.found([gates.0.noted(), gates.1.noted()].concat());
    if let Err(Ended::Refused(denial)) = ended {
        record.denied(&denial);
    }
}

/// Why bytes pass no more.
enum Ended {
    /// One side broke.
    Broken,
    Refused(Denial),
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    gate: &mut impl Gate,
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
