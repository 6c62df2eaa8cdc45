//! Those who take their time, and those who break off.

use super::Storm;
use anyhow::Result;
use bottle_tests::wire::Tls;
use rustix::net::sockopt::set_socket_linger;
use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

/// Of each kind at once.
const MANY: usize = 50;
const MOMENT: Duration = Duration::from_millis(200);

/// Opens many, and gives each a byte at a time, round after round.
fn drip<T: Write>(storm: &Storm<'_>, open: impl Fn() -> Result<T>) {
    storm.again(|| {
        let mut all: Vec<T> = (0..MANY).filter_map(|_| storm.goes_on().then(|| open().ok()).flatten()).collect();
        for _ in 0..25 {
            all.retain_mut(|stream| stream.write_all(b"x").and_then(|()| stream.flush()).is_ok());
            storm.pause(MOMENT);
            if !storm.goes_on() {
                break;
            }
        }
        Ok(())
    });
}

pub(super) fn heads(storm: &Storm<'_>) {
    drip(storm, || {
        let mut stream = storm.connect()?;
        stream.write_all(b"GET http://open.example/")?;
        Ok(stream)
    });
}

pub(super) fn bodies(storm: &Storm<'_>) {
    drip(storm, || {
        let mut tls = storm.tls()?;
        tls.write_all(b"POST /x HTTP/1.1\r\nHost: open.example\r\nContent-Length: 1000000\r\n\r\n")?;
        Ok(tls)
    });
}

/// A byte of an endless record at a time.
pub(super) fn handshakes(storm: &Storm<'_>) {
    drip(storm, || {
        let mut tunnel = storm.client.tunnel(super::TARGET)?;
        tunnel.write_all(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03")?;
        Ok(tunnel)
    });
}

pub(super) fn readers(storm: &Storm<'_>) {
    storm.again(|| {
        let all = unread(|| storm.tls())?;
        storm.pause(Duration::from_secs(3));
        drop(all);
        Ok(())
    });
}

/// Many who ask for much, and take nothing.
pub(super) fn unread(open: impl Fn() -> Result<Tls>) -> Result<Vec<Tls>> {
    let ask = |_| {
        let mut tls = open()?;
        tls.write_all(b"GET /bytes?20000000 HTTP/1.1\r\nHost: open.example\r\n\r\n")?;
        Ok(tls)
    };
    (0..MANY).map(ask).collect()
}

/// Says that it has nothing more to say, in the middle of it, and stays.
pub(super) fn half_closed(storm: &Storm<'_>) {
    storm.again(|| {
        let mut all: Vec<TcpStream> = vec![];
        for said in [
            &b""[..],
            b"GET http://open.ex",
            b"\x16\x03",
            b"GET http://open.example/ HTTP/1.1\r\nHost: open.example\r\n",
        ] {
            let mut stream = storm.connect()?;
            stream.write_all(said)?;
            stream.shutdown(Shutdown::Write)?;
            all.push(stream);
            let tunnel = storm.client.tunnel(super::TARGET)?;
            (&tunnel).write_all(said)?;
            tunnel.shutdown(Shutdown::Write)?;
            all.push(tunnel);
        }
        storm.pause(MOMENT);
        Ok(())
    });
}

/// Is gone without a word, at every stage.
pub(super) fn resets(storm: &Storm<'_>) {
    storm.again(|| {
        let abort = |stream: &TcpStream| set_socket_linger(stream, Some(Duration::ZERO));
        abort(&storm.connect()?)?;
        abort(&storm.client.tunnel(super::TARGET)?)?;
        let mut tls = storm.tls()?;
        tls.write_all(b"GET /bytes?1000000 HTTP/1.1\r\nHost: open.example\r\n\r\n")?;
        tls.read_exact(&mut [0; 100])?;
        abort(&tls.sock)?;
        storm.pause(Duration::from_millis(5));
        Ok(())
    });
}

/// Ends within a handshake, within a record, within a request.
pub(super) fn truncated(storm: &Storm<'_>) {
    storm.again(|| {
        storm.client.tunnel(super::TARGET)?.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03truncated")?;
        let mut tls = storm.tls()?;
        tls.sock.write_all(b"\x17\x03\x03\x40\x00half a record")?;
        let mut tls = storm.tls()?;
        tls.write_all(b"POST /x HTTP/1.1\r\nHost: open.example\r\nContent-Length: 1000\r\n\r\nhalf a body")?;
        storm.pause(Duration::from_millis(5));
        Ok(())
    });
}
