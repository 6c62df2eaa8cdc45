//! A route with `tls_passthrough`: the name in the client's TLS handshake is judged, and then TLS goes through unseen.

use super::{
    Live, State,
    pool::Target,
    record::Record,
    relay::{Unseen, relay},
    tunnel::HANDSHAKE_TIME,
};
use anyhow::{Context, Result, bail};
use bottle_policy::{Denial, Route};
use std::{io::Cursor, sync::atomic::Ordering};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tokio_rustls::rustls::server::Acceptor;

/// A ClientHello is much shorter, even with the keys of a post-quantum exchange.
const MAX_HELLO: usize = 64 << 10;
/// The extension of Encrypted Client Hello (RFC 9849).
const ENCRYPTED_HELLO: u16 = 0xfe0d;

/// Connects a client with the host that its handshake names. One line of the log tells of it, at its end.
pub(super) async fn pass(
    state: &State,
    live: &Live,
    route: &Route,
    target: &Target,
    mut client: impl AsyncRead + AsyncWrite + Unpin,
) {
    let mut record = Record::begin(&state.feed, &state.secrets, &target.name, "CONNECT", "");
    let hello = match timeout(HANDSHAKE_TIME, hello(&mut client, &target.host)).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(error)) => return record.denied(&Denial::bad_request("tunnel", format!("{error:#}"))),
        Err(_) => return record.denied(&Denial::bad_request("tunnel", "the TLS handshake took too long")),
    };
    let mut host = match live.upstream.raw(&state.secrets, route, target).await {
        Ok(host) => host,
        Err(denial) => return record.denied(&denial),
    };
    record.allowed(&route.host, 200);
    if host.write_all(&hello).await.is_err() {
        return;
    }
    record.sent.store(hello.len() as u64, Ordering::Relaxed);
    relay(client, host, (Unseen, Unseen), record).await;
}

/// Reads a ClientHello that names `host`: its bytes, and what came with them.
async fn hello(client: &mut (impl AsyncRead + Unpin), host: &str) -> Result<Vec<u8>> {
    let (mut bytes, mut buffer) = (vec![], [0; 4096]);
    let mut acceptor = Acceptor::default();
    loop {
        let length = client.read(&mut buffer).await?;
        if length == 0 {
            bail!("not TLS: it closed before a handshake");
        }
        bytes.extend_from_slice(&buffer[..length]);
        if bytes.len() > MAX_HELLO {
            bail!("a TLS handshake that is too long");
        }
        let mut new = Cursor::new(&buffer[..length]);
        while new.position() < length as u64 {
            acceptor.read_tls(&mut new)?;
            let accepted = acceptor.accept().map_err(|(error, _)| error).context("not TLS")?;
            let Some(accepted) = accepted else { continue };
            match accepted.client_hello().server_name() {
                Some(name) if name.eq_ignore_ascii_case(host) => {}
                Some(_) => bail!("the TLS handshake names another host than the CONNECT"),
                None => bail!("the TLS handshake names no host, which a route with tls_passthrough wants"),
            }
            if has_extension(&bytes, ENCRYPTED_HELLO).unwrap_or(true) {
                bail!("the TLS handshake has an encrypted name beside the one that can be judged");
            }
            return Ok(bytes);
        }
    }
}

/// Does the ClientHello in these TLS records have an extension? `None` where it cannot be read.
fn has_extension(mut records: &[u8], wanted: u16) -> Option<bool> {
    let mut message = vec![];
    while let Some((&[_, _, _, high, low], rest)) = records.split_first_chunk() {
        let (part, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
        message.extend_from_slice(part);
        records = rest;
        if message.len() >= 4 + usize::from(message[2]) * 256 + usize::from(message[3]) {
            break;
        }
    }
    // Type and length of the message, version, random.
    let mut rest = message.get(4 + 2 + 32..)?;
    rest = rest.get(1 + usize::from(*rest.first()?)..)?; // session
    rest = rest.get(2 + usize::from(u16::from_be_bytes(*rest.first_chunk()?))..)?; // cipher suites
    rest = rest.get(1 + usize::from(*rest.first()?)..)?; // compression
    rest = rest.get(2..)?;
    while let Some((&[a, b, high, low], after)) = rest.split_first_chunk() {
        if u16::from_be_bytes([a, b]) == wanted {
            return Some(true);
        }
        rest = after.get(usize::from(u16::from_be_bytes([high, low]))..)?;
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::ring, pki_types::ServerName};

    /// What a client of this name says first.
    fn hello_to(name: &str) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client =
            ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned()).unwrap()).unwrap();
        let mut bytes = vec![];
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same with one more extension, its lengths put right.
    fn with_extension(mut hello: Vec<u8>, kind: u16) -> Vec<u8> {
        let extension = [&kind.to_be_bytes()[..], &[0, 1, 1]].concat(); // as an inner ClientHello has it
        let mut at = 5 + 4 + 2 + 32;
        at += 1 + usize::from(hello[at]);
        at += 2 + usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
        at += 1 + usize::from(hello[at]);
        for place in [3, 7, at] {
            let length = u16::from_be_bytes([hello[place], hello[place + 1]]) + 5;
            hello[place..place + 2].copy_from_slice(&length.to_be_bytes());
        }
        hello.splice(at + 2..at + 2, extension);
        hello
    }

    #[tokio::test]
    async fn only_a_handshake_that_names_the_host_and_nothing_beside_it_passes() {
        let good = hello_to("a.example");
        let cut = [&good[..], b"more"].concat();
        assert_eq!(hello(&mut &cut[..], "a.example").await.unwrap(), cut);
        assert!(hello(&mut &with_extension(good.clone(), 0xfff0)[..], "a.example").await.is_ok());
        for (bytes, word) in [
            (hello_to("b.example"), "another host"),
            (hello_to("198.51.100.1"), "names no host"),
            (with_extension(good.clone(), ENCRYPTED_HELLO), "encrypted name"),
            (good[..100].to_vec(), "closed"),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "not TLS"),
            (b"SSH-2.0-x\r\n".to_vec(), "not TLS"),
            (vec![], "not TLS"),
        ] {
            let error = format!("{:#}", hello(&mut &bytes[..], "a.example").await.unwrap_err());
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_handshake_that_cannot_be_read_has_every_extension() {
        let good = hello_to("a.example");
        assert_eq!(has_extension(&good, 0), Some(true));
        for end in 0..good.len() - 1 {
            assert_ne!(has_extension(&good[..end], ENCRYPTED_HELLO), Some(false), "{end}");
        }
    }
}
