//! Processes in a container, their streams pumped between the engine and the host's pipes.
//!
//! An exec with a terminal is *created* with one but *started* without: the engine then frames the terminal's bytes.
//! Started with one, its answer is a raw stream, which bollard 0.21 takes for frames: a chunk that begins with byte
//! 0, 1 or 2 would be lost.
//!
//! An engine looks for keys in a terminal's input that detach from it, ^P ^Q where it is told no others, and ends the
//! session there. It holds back what may be the first of them. They cannot be switched off: ours begin with a byte that
//! is seldom typed and changes nothing on a screen, and go on with what nobody can know.
//!
//! The engine cannot send a process a signal. Each is marked when it is started, and the in-bottle helper, run beside
//! it, sends the signal to whatever has the mark.

use crate::engine::{Engine, Stop, block_on, runtime};
use bollard::{
    container::LogOutput,
    exec::{StartExecOptions, StartExecResults},
    models::ExecConfig,
    query_parameters::ResizeExecOptionsBuilder,
};
use bottle_api::{
    Cancel, Error, ErrorKind, ExitStatus, HELPER_PATH, Process, ResizeRequest, Result, SignalRequest, StartRequest,
    Stdio, control::MARK_ENV, error::Context,
};
use futures_util::{Stream, StreamExt};
use std::{os::fd::OwnedFd, pin::Pin, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::unix::pipe,
    sync::watch,
};

type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;
type Input = Pin<Box<dyn AsyncWrite + Send>>;
type Ended = Option<Result<ExitStatus>>;

/// A process in a container.
pub struct Exec {
    engine: Engine,
    id: String,
    container: String,
    user: String,
    mark: String,
    ended: watch::Receiver<Ended>,
}

/// Starts a process. Its terminal, if it has one, has its size when this returns.
pub async fn start(engine: &Engine, container: &str, req: &StartRequest, io: Stdio) -> Result<Exec> {
    let (mark, user) = (new_mark()?, format!("{}:{}", req.uid, req.gid));
    let env = req.env.iter().map(|(k, v)| format!("{k}={v}"));
    let config = ExecConfig {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(req.tty.is_some()),
        detach_keys: Some(mark.chars().fold("ctrl-@".to_owned(), |keys, key| format!("{keys},{key}"))),
        cmd: Some(req.argv.clone()),
        env: Some(env.chain([format!("{MARK_ENV}={mark}")]).collect()),
        // The image's own may be a link.
        working_dir: Some(if req.cwd.is_empty() { "/".into() } else { req.cwd.clone() }),
        user: Some(user.clone()),
        ..ExecConfig::default()
    };
    let (id, output, input) = begin(engine, container, config).await?;
    if let Some((cols, rows)) = req.tty {
        resize(engine, &id, cols, rows).await?;
    }
    let (set, ended) = watch::channel(None);
    let feeding = runtime()?.spawn(feed(io.stdin, input));
    let (stdout, stderr) = (sender(io.stdout)?, io.stderr.map(sender).transpose()?);
    let (pumped, exec) = (engine.clone(), id.clone());
    runtime()?.spawn(async move {
        let drained = drain(output, stdout, stderr).await;
        feeding.abort();
        let status = match drained {
            Ok(()) => exit_status(&pumped, &exec).await,
            Err(error) => Err(error),
        };
        let _ = set.send(Some(status));
    });
    Ok(Exec { engine: engine.clone(), id, container: container.to_owned(), user, mark, ended })
}

/// Creates and starts an exec.
async fn begin(engine: &Engine, container: &str, config: ExecConfig) -> Result<(String, Output, Input)> {
    let what = config.cmd.iter().flatten().next().cloned().unwrap_or_default();
    let attempt = || format!("run {what} in the bottle");
    let id = engine.docker.create_exec(container, config).await.with_context(attempt)?.id;
    let options = StartExecOptions { detach: false, tty: false, output_capacity: None };
    match engine.docker.start_exec(&id, Some(options)).await.with_context(attempt)? {
        StartExecResults::Attached { output, input } => Ok((id, output, input)),
        StartExecResults::Detached => {
            Err(Error::new(ErrorKind::RUNTIME, "the engine started the process without its streams"))
        }
    }
}

fn new_mark() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Process for Exec {
    fn wait(&self, cancel: &Cancel) -> Result<ExitStatus> {
        block_on(async {
            let mut ended = self.ended.clone();
            let end = async { Ok(ended.wait_for(Option::is_some).await?.clone()) };
            match Stop::follow(cancel)?.or(end).await? {
                Some(status) => status,
                None => Err(Error::new(ErrorKind::RUNTIME, "the process's streams were given up")),
            }
        })
    }

    fn resize(&self, req: &ResizeRequest) -> Result<()> {
        block_on(resize(&self.engine, &self.id, req.cols, req.rows))
    }

    fn signal(&self, req: &SignalRequest) -> Result<()> {
        block_on(async {
            let config = ExecConfig {
                attach_stdout: Some(true),
                attach_stderr: Some(true),
                cmd: Some(vec![HELPER_PATH.into(), "signal".into(), self.mark.clone(), req.signal.to_string()]),
                user: Some(self.user.clone()),
                ..ExecConfig::default()
            };
            let (id, mut output, _) = begin(&self.engine, &self.container, config).await?;
            let mut said = String::new();
            while let Some(frame) = output.next().await {
                said.push_str(&frame.context("read what the helper says")?.to_string());
            }
            let sent = exit_status(&self.engine, &id).await?.code == 0;
            // One that has ended needs none any more.
            if sent || self.ended.borrow().is_some() {
                return Ok(());
            }
            Err(Error::new(ErrorKind::RUNTIME, format!("send signal {}: {}", req.signal, said.trim())))
        })
    }
}

async fn resize(engine: &Engine, exec: &str, cols: u16, rows: u16) -> Result<()> {
    let options = ResizeExecOptionsBuilder::default().w(cols.into()).h(rows.into()).build();
    engine.docker.resize_exec(exec, options).await.context("resize the terminal")
}

/// Host → process, until the host closes its end.
async fn feed(from: OwnedFd, mut input: Input) -> Result<()> {
    let mut from = pipe::Receiver::from_owned_fd(from)?;
    let mut chunk = vec![0; 64 << 10];
    loop {
        match from.read(&mut chunk).await? {
            0 => return Ok(input.shutdown().await?),
            n => input.write_all(&chunk[..n]).await?,
        }
        input.flush().await?;
    }
}

/// Process → host, until both its streams end. A host that has gone away does not stop the process.
async fn drain(mut output: Output, mut stdout: pipe::Sender, mut stderr: Option<pipe::Sender>) -> Result<()> {
    while let Some(frame) = output.next().await {
        let (to, bytes) = match frame.context("read the process's output")? {
            LogOutput::StdErr { message } => (stderr.as_mut().unwrap_or(&mut stdout), message),
            LogOutput::StdOut { message } | LogOutput::Console { message } | LogOutput::StdIn { message } => {
                (&mut stdout, message)
            }
        };
        let _ = to.write_all(&bytes).await;
    }
    Ok(())
}

fn sender(fd: OwnedFd) -> Result<pipe::Sender> {
    pipe::Sender::from_owned_fd(fd).context("use the host's pipe")
}

/// The engine records the end a moment after the streams have closed.
async fn exit_status(engine: &Engine, exec: &str) -> Result<ExitStatus> {
    let mut pause = Duration::from_millis(2);
    loop {
        let found = engine.docker.inspect_exec(exec).await.context("ask for the process's exit code")?;
        match (found.running, found.exit_code) {
            (Some(false) | None, Some(code)) => {
                return Ok(ExitStatus { code: i32::try_from(code).unwrap_or(255) });
            }
            _ if pause > Duration::from_secs(2) => {
                return Err(Error::new(ErrorKind::RUNTIME, "the engine does not say how the process ended"));
            }
            _ => tokio::time::sleep(pause).await,
        }
        pause *= 2;
    }
}
