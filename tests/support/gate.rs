//! A door before the lab's engine: it counts what is asked, answers some of it as an engine would that is in trouble, and
//! can be shut. For the rest it is the real engine.

use crate::{lab::Lab, wire::Authority};
use anyhow::{Context, Result};
use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
};
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixStream as AsyncStream};
use tokio_rustls::TlsAcceptor;

/// How a request begins (`POST /build`), and the status and body that it is answered with.
pub type Rule = (&'static str, u16, String);

/// A unix socket before the engine.
pub struct Gate {
    dir: TempDir,
    shared: Arc<Shared>,
}

struct Shared {
    engine: PathBuf,
    rules: Vec<Rule>,
    asked: Mutex<Vec<String>>,
    open: Mutex<Vec<UnixStream>>,
}

impl Gate {
    /// Opens it; anybody may use it, as far as the system goes.
    pub fn open(lab: &Lab, rules: Vec<Rule>) -> Result<Self> {
        let engine = socket(lab);
        let shared = Shared { engine, rules, asked: Mutex::default(), open: Mutex::default() };
        let gate = Self { dir: tempfile::tempdir()?, shared: Arc::new(shared) };
        fs::set_permissions(gate.dir.path(), fs::Permissions::from_mode(0o755))?;
        gate.reopen()?;
        Ok(gate)
    }

    /// Listens again after [`Gate::shut`].
    pub fn reopen(&self) -> Result<()> {
        let _ = fs::remove_file(self.path());
        let (listener, shared) = (UnixListener::bind(self.path())?, self.shared.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Ok(())
    }

    /// Cuts every connection, and takes no new one: the engine has gone away.
    pub fn shut(&self) -> Result<()> {
        fs::remove_file(self.path())?;
        drop(UnixListener::bind(self.path())?); // the file of a socket that nobody listens on
        for stream in self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        Ok(())
    }

    /// The socket's path.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    /// `unix://…`
    pub fn docker_host(&self) -> String {
        format!("unix://{}", self.path().display())
    }

    /// The first line of every request so far.
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    fn serve(&self, mut client: UnixStream) -> Result<()> {
        let mut head = vec![];
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            let mut chunk = [0; 4096];
            let n = client.read(&mut chunk)?;
            anyhow::ensure!(n > 0, "no request");
            head.extend_from_slice(&chunk[..n]);
        }
        let line = String::from_utf8_lossy(&head).lines().next().context("a request's line")?.to_owned();
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
        if let Some((_, status, body)) = self.rules.iter().find(|(start, ..)| line.starts_with(start)) {
            let length = body.len();
            write!(
                client,
                "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            )?;
            client.shutdown(Shutdown::Write)?;
            std::io::copy(&mut client, &mut std::io::sink())?;
            return Ok(());
        }
        let mut engine = UnixStream::connect(&self.engine)?;
        engine.write_all(&head)?;
        self.open.lock().unwrap_or_else(PoisonError::into_inner).extend([client.try_clone()?, engine.try_clone()?]);
        let (mut from, mut to) = (client.try_clone()?, engine.try_clone()?);
        let up = thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
        let _ = std::io::copy(&mut engine, &mut client);
        let _ = client.shutdown(Shutdown::Both);
        let _ = up.join();
        Ok(())
    }
}

fn socket(lab: &Lab) -> PathBuf {
    lab.docker_host.trim_start_matches("unix://").into()
}

/// The lab's engine behind TLS, as `dockerd --tlsverify` would be: who has no certificate of `authority` is sent away.
/// Returns its port on 127.0.0.1; `dir` gets the client's `ca.pem`, `cert.pem` and `key.pem`.
pub fn behind_tls(lab: &Lab, authority: &Authority, dir: &Path) -> Result<u16> {
    let acceptor = TlsAcceptor::from(authority.mutual_config("127.0.0.1")?);
    let (cert, key) = authority.client()?;
    for (name, text) in [("ca.pem", &authority.pem), ("cert.pem", &cert), ("key.pem", &key)] {
        fs::write(dir.join(name), text)?;
    }
    let (engine, listener) = (socket(lab), std::net::TcpListener::bind("127.0.0.1:0")?);
    let port = listener.local_addr()?.port();
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                let (acceptor, engine) = (acceptor.clone(), engine.clone());
                tokio::spawn(async move {
                    let mut client = acceptor.accept(stream).await?;
                    let mut engine = AsyncStream::connect(engine).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut engine).await
                });
            }
            #[allow(unreachable_code)] // the type of the block
            std::io::Result::Ok(())
        })
    });
    Ok(port)
}
