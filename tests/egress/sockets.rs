//! Rows: WebSocket, after whose handshake frames pass, and nothing else.

use crate::world::{Outcome, World};
use anyhow::{Result, bail};
use bottle_tests::wire::{Answer, Hello, read_answer, read_head, status_of};
use std::{
    io::{Read, Write},
    time::Duration,
};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
const TEXT: u8 = 0x81;

fn handshake(host: &str, path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n")
}

/// A frame as a client masks it, with a mask that changes nothing.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap_or(125);
    [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

/// Opens one, and says something in it. What comes back, but for the words of the handshake.
fn socket<'w>(world: &'w World, host: &str, opening: &str, said: &[u8]) -> Outcome<'w> {
    let sent = [opening.as_bytes(), said].concat();
    world.outcome(format!("websocket {host}"), &sent, || {
        let mut tls = world.client().tls(&format!("{host}:443"), host, Hello::default())?;
        tls.write_all(opening.as_bytes())?;
        let head = read_head(&mut tls)?;
        if status_of(&head)? != 101 {
            return read_answer(&mut head.as_bytes().chain(&mut tls));
        }
        tls.write_all(said)?;
        tls.sock.set_read_timeout(Some(Duration::from_secs(2)))?;
        let (mut heard, mut buffer) = (vec![], [0; 4096]);
        while let Ok(read @ 1..) = tls.read(&mut buffer) {
            heard.extend_from_slice(&buffer[..read]);
            if heard.windows(4).any(|word| word == b"fine") {
                return Ok(Answer { status: 0, head, body: "fine".into() });
            }
        }
        if heard.is_empty() || heard[0] == 0x88 {
            bail!("closed");
        }
        Ok(Answer { status: 0, head, body: String::from_utf8_lossy(&heard).into_owned() })
    })
}

fn whole(host: &str, path: &str) -> String {
    handshake(host, path, &[UPGRADE, KEY, VERSION].concat())
}

fn fine(world: &World) -> Result<()> {
    let said = [masked(TEXT, b"hello"), masked(0x89, b""), masked(TEXT, b"fine")].concat();
    socket(world, "open.example", &whole("open.example", "/fine"), &said).passes().map(drop)
}

rows! {
    handshakes_that_are_none: |w| {
        for lines in [
            [UPGRADE, VERSION].concat(),
            [UPGRADE, KEY].concat(),
            [UPGRADE, KEY, "Sec-WebSocket-Version: 8\r\n"].concat(),
            [UPGRADE, KEY, KEY, VERSION].concat(),
            [UPGRADE, "Sec-WebSocket-Key: evil\r\n", VERSION].concat(),
            [UPGRADE, KEY, VERSION, "Content-Length: 4\r\n"].concat(),
            ["Upgrade: websocket\r\n", KEY, VERSION].concat(),
            ["Connection: Upgrade\r\n", KEY, VERSION].concat(),
            ["Connection: Upgrade\r\nUpgrade: websocket, evil\r\n", KEY, VERSION].concat(),
            ["Connection: Upgrade\r\nUpgrade: h2c\r\n", KEY, VERSION].concat(),
        ] {
            socket(w, "open.example", &handshake("open.example", "/evil", &lines), &masked(TEXT, b"evil")).stopped()?;
        }
        let post = whole("open.example", "/evil").replace("GET", "POST");
        socket(w, "open.example", &post, &masked(TEXT, b"evil")).stopped()?;
        let old = whole("open.example", "/evil").replace("HTTP/1.1", "HTTP/1.0");
        socket(w, "open.example", &old, &masked(TEXT, b"evil")).stopped()?;
        fine(w)
    };
    /// It is judged as the request that it is.
    handshakes_without_a_grant: |w| {
        let said = masked(TEXT, b"evil");
        socket(w, "evil.example", &whole("evil.example", "/"), &said).refused(403, "host")?;
        socket(w, "api.example", &whole("api.example", "/evil"), &said).refused(403, "path")?;
        socket(w, "open.example", &whole("other.example", "/evil"), &said).refused(400, "host-mismatch")?;
        socket(w, "open.example", &whole("open.example", "/../evil"), &said).refused(400, "path-ambiguous")?;
        socket(w, "private.example", &whole("private.example", "/evil"), &said).refused(403, "address")?;
        fine(w)
    };
    raw_bytes_behind_the_handshake: |w| {
        for bytes in ["GET /evil HTTP/1.1\r\nHost: evil.example\r\n\r\n", "SSH-2.0-evil\r\n", "evil", "\u{16}\u{3}\u{1}\0\u{4}evil", "\r\n\r\nevil"] {
            socket(w, "open.example", &whole("open.example", "/x"), bytes.as_bytes()).cut()?;
        }
        fine(w)
    };
    frames_that_are_none: |w| {
        for frame in [
            [&[TEXT, 4][..], b"evil"].concat(),                                    // not masked
            masked(0xc1, b"evil"),                                                 // of an extension
            masked(0xa1, b"evil"),
            masked(0x91, b"evil"),
            masked(0x83, b"evil"),                                                 // of no kind
            masked(0x8f, b"evil"),
            masked(0x09, b"evil"),                                                 // control, in pieces
            masked(0x80, b"evil"),                                                 // the rest of nothing
            [masked(0x01, b"a"), masked(TEXT, b"evil")].concat(),                  // a message within one
            [&[TEXT, 0xfe, 0, 4, 0, 0, 0, 0][..], b"evil"].concat(),               // a length that is longer than needed
            [&[TEXT, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0][..], b"evil"].concat(),
            [&[0x89, 0xfe, 0, 200, 0, 0, 0, 0][..], &b"evil".repeat(50)].concat(), // a long ping
        ] {
            socket(w, "open.example", &whole("open.example", "/x"), &frame).cut()?;
        }
        fine(w)
    };
    /// Nothing comes after the end.
    frames_behind_the_end: |w| {
        let said = [masked(0x88, &[0x03, 0xe8]), masked(TEXT, b"evil")].concat();
        socket(w, "open.example", &whole("open.example", "/x"), &said).defused()?;
        fine(w)
    };
    /// An extension would make frames that nobody can read but the two.
    extensions: |w| {
        let lines = [UPGRADE, KEY, VERSION, "Sec-WebSocket-Extensions: permessage-deflate, x-evil\r\n"].concat();
        let answer = socket(w, "open.example", &handshake("open.example", "/x", &lines), &masked(0xc1, b"evil")).defused()?;
        anyhow::ensure!(answer.is_none_or(|answer| !answer.head.to_ascii_lowercase().contains("extensions")), "agreed on");
        fine(w)
    };
    an_answer_that_is_another_protocols: |w| {
        for lines in ["X-Answer-Upgrade: h2c\r\n", "X-Answer-Sec-WebSocket-Accept: other\r\n", "X-Answer-Sec-WebSocket-Extensions: x\r\n",
            "X-Answer-Sec-WebSocket-Protocol: other\r\n"] {
            let lines = [UPGRADE, KEY, VERSION, lines].concat();
            socket(w, "open.example", &handshake("open.example", "/x", &lines), &masked(TEXT, b"evil")).stopped()?;
        }
        fine(w)
    };
}
