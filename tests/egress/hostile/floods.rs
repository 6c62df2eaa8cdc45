//! Those who send more than anybody can take.

use super::{CROWD, HOST, Storm};
use anyhow::Result;
use bottle_tests::{
    h2::{self, frame},
    wire::{Hello, ProxyClient, read_head},
};
use std::{io::Write, thread, time::Duration};

const GIGABYTE: usize = 1 << 30;
const BLOCK: usize = 64 << 10;

/// Ten thousand that are there and say nothing.
pub(super) fn connections(storm: &Storm<'_>) {
    storm.again(|| {
        let mut all = vec![];
        while all.len() < CROWD && storm.goes_on() {
            all.push(storm.connect()?);
        }
        storm.pause(Duration::from_secs(1));
        Ok(())
    });
}

/// Writes for as long as it is taken, a gigabyte at most.
fn pour(storm: &Storm<'_>, into: &mut impl Write, block: &[u8]) -> Result<()> {
    for _ in 0..GIGABYTE / block.len() {
        if !storm.goes_on() {
            break;
        }
        into.write_all(block)?;
    }
    Ok(())
}

fn header_lines() -> Vec<u8> {
    b"X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(BLOCK / 63)
}

pub(super) fn headers(storm: &Storm<'_>) {
    storm.again(|| {
        let mut stream = storm.connect()?;
        stream.write_all(b"GET http://open.example/ HTTP/1.1\r\nHost: open.example\r\n")?;
        pour(storm, &mut stream, &header_lines())
    });
}

/// One line, without end.
pub(super) fn headers_in_tls(storm: &Storm<'_>) {
    storm.again(|| {
        let mut tls = storm.tls()?;
        tls.write_all(b"GET / HTTP/1.1\r\nHost: open.example\r\nX-Filler: ")?;
        pour(storm, &mut tls, &[b'a'; BLOCK])
    });
}

/// Of one byte each, with an extension.
pub(super) fn chunks(storm: &Storm<'_>) {
    storm.again(|| {
        let mut tls = storm.tls()?;
        tls.write_all(b"POST /x HTTP/1.1\r\nHost: open.example\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        pour(storm, &mut tls, &b"1;extension=of-a-chunk\r\nx\r\n".repeat(BLOCK / 27))
    });
}

/// A certificate for each.
pub(super) fn hosts(storm: &Storm<'_>) {
    let mut n = 0;
    storm.again(|| {
        n += 1;
        certificate(storm.client, &format!("host-{n}.example"))
    });
}

/// Has so many certificates made.
pub(super) fn certificates(client: &ProxyClient, many: usize) {
    thread::scope(|scope| {
        for part in 0..4 {
            scope.spawn(move || {
                (0..many / 4).try_for_each(|n| certificate(client, &format!("first-{part}-{n}.example")))
            });
        }
    });
}

fn certificate(client: &ProxyClient, host: &str) -> Result<()> {
    client.tls(&format!("{host}:443"), host, Hello::default()).map(drop)
}

pub(super) fn resets(storm: &Storm<'_>) {
    storm.again(|| {
        let mut tls = storm.http2()?;
        let mut stream = 1;
        while storm.goes_on() {
            let mut all = vec![];
            for _ in 0..100 {
                all.extend(h2::request(stream, &h2::get(HOST, "/x")));
                all.extend(frame(h2::RESET, 0, stream, &[0, 0, 0, 8]));
                stream += 2;
            }
            tls.write_all(&all)?;
        }
        Ok(())
    });
}

/// A head that is never whole, and many of them.
pub(super) fn continuations(storm: &Storm<'_>) {
    storm.again(|| {
        let mut tls = storm.http2()?;
        tls.write_all(&frame(h2::HEADERS, 0, 1, &h2::block(&h2::get(HOST, "/x"))))?;
        let filler = "a".repeat(8000);
        pour(storm, &mut tls, &frame(h2::CONTINUATION, 0, 1, &h2::block(&[("x-filler", &filler)])))
    });
}

/// Each wants an answer, which nobody reads.
pub(super) fn pings(storm: &Storm<'_>) {
    storm.again(|| {
        let mut tls = storm.http2()?;
        let both = [frame(h2::PING, 0, 0, b"01234567"), frame(h2::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9])].concat();
        pour(storm, &mut tls, &both.repeat(1000))
    });
}

/// Small ones, each of which comes back, and nobody reads.
pub(super) fn frames(storm: &Storm<'_>) {
    storm.again(|| {
        let mut tls = storm.tls()?;
        tls.write_all(
            b"GET /x HTTP/1.1\r\nHost: open.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )?;
        read_head(&mut tls)?;
        pour(storm, &mut tls, &b"\x81\x81\0\0\0\0x\x89\x80\0\0\0\0".repeat(1000))
    });
}
