//! The host's end of the sidecar's control channel: what comes up is logged and answered to, what goes down is asked for.
//!
//! ```text
//! sidecar ══ log lines ══▶ egress log, summary
//!         ══ answers ════▶ whoever asked
//!         ══ proposals ══▶ the desk
//!         ◀═ reload, restart, program, answer, stop
//! ```

use super::{
    egress_log::{Rotating, now},
    summary::Summary,
};
use crate::supervise::desk::{Word, Words};
use anyhow::{Context, Result, anyhow, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_api::control::{read_frame, write_frame};
use bottle_policy::{
    Policy,
    message::{Down, LogLine, Up},
};
use std::{
    fs::File,
    io::{BufReader, Read},
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

/// How long the sidecar may take to end once it is told to, and to send its last lines.
const LAST_WORDS_TIME: Duration = Duration::from_secs(3);
/// How long it may take to answer, and to take what it is sent.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// The decision of a line that tells of a daemon's end, and of no request.
pub const ENDED: &str = "ended";
/// A piece of a program: in base64 it still fits a frame.
const PIECE: usize = 3 << 20;

/// The channel while the bottle runs. Dropping it closes it, and with it the sidecar.
pub struct SidecarChannel {
    stream: UnixStream,
    /// Held while a frame is written: two of them at once would be none.
    writing: Mutex<()>,
    /// One question at a time.
    answers: Mutex<Receiver<Up>>,
    summary: Mutex<Receiver<Summary>>,
    /// It is told to end: that it does is nothing to tell.
    stopping: Arc<AtomicBool>,
}

impl SidecarChannel {
    /// Begins to listen, and to write the log to a file. What an agent proposes goes to a desk, where there is one.
    pub fn follow(channel: OwnedFd, log: &Path, desk: Option<Words>) -> Result<Self> {
        let file = Rotating::open(log)?;
        let stream = UnixStream::from(channel);
        stream.set_write_timeout(Some(ANSWER_TIME))?;
        let (from, stopping) = (stream.try_clone()?, Arc::new(AtomicBool::new(false)));
        let ((done, summary), (answer, answers)) = (sync_channel(1), mpsc::channel());
        let told = stopping.clone();
        thread::Builder::new()
            .name("sidecar".into())
            .spawn(move || drop(done.send(listen(&from, file, &answer, &told, desk.as_ref()))))?;
        Ok(Self {
            stream,
            writing: Mutex::default(),
            answers: Mutex::new(answers),
            summary: Mutex::new(summary),
            stopping,
        })
    }

    /// Has every request from now on judged by another policy. Where the sidecar does not take it, the old one stands,
    /// and the error says why.
    pub fn reload(&self, policy: &Policy) -> Result<()> {
        let question = Down::Reload { policy: serde_json::to_value(policy)? };
        self.ask(&question, |word| match word {
            Up::Reloaded { error } => {
                Some(error.map_or(Ok(()), |why| Err(anyhow!("the old policy still stands: {why}"))))
            }
            _ => None,
        })
        .context("give the sidecar another policy")
    }

    /// Ends a daemon, which begins anew.
    pub fn restart(&self, daemon: &str) -> Result<()> {
        let question = Down::Restart { daemon: daemon.into() };
        self.ask(&question, |word| match word {
            Up::DaemonEnded { daemon: ended, .. } if ended == daemon => Some(Ok(())),
            _ => None,
        })
        .with_context(|| format!("restart the sidecar's daemon {daemon}"))
    }

    /// Sends a daemon its program, and waits until it serves.
    pub fn deliver(&self, daemon: &str, mut program: File) -> Result<()> {
        let attempt = || format!("have {daemon} run in the sidecar");
        let mut rest = program.metadata().with_context(attempt)?.len();
        let mut piece = vec![0; PIECE];
        let answers = self.quiet();
        loop {
            let len = program.read(&mut piece).with_context(attempt)?;
            rest = rest.saturating_sub(len as u64);
            let last = len == 0 || rest == 0;
            let bytes = BASE64_STANDARD.encode(&piece[..len]);
            self.say(&Down::Program { daemon: daemon.into(), bytes, last }).with_context(attempt)?;
            if last {
                break;
            }
        }
        await_answer(&answers, |word| match word {
            Up::Serving { daemon: serving } if serving == daemon => Some(Ok(())),
            Up::DaemonEnded { daemon: ended, status } if ended == daemon => {
                Some(Err(anyhow!("it ended before it served ({status})")))
            }
            _ => None,
        })
        .with_context(attempt)
    }

    /// Has the sidecar end in order, after which it serves nobody, and sums up.
    pub fn finish(self) -> Summary {
        self.stopping.store(true, Ordering::SeqCst);
        if self.say(&Down::Stop).is_err() {
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        let summary = self.summary.lock().unwrap_or_else(PoisonError::into_inner);
        summary.recv_timeout(LAST_WORDS_TIME).unwrap_or_else(|_| {
            let _ = self.stream.shutdown(Shutdown::Both);
            summary.recv().unwrap_or_default()
        })
    }

    fn ask(&self, question: &Down, answered: impl FnMut(Up) -> Option<Result<()>>) -> Result<()> {
        let answers = self.quiet();
        self.say(question)?;
        await_answer(&answers, answered)
    }

    /// The answers, without those that nobody waited for.
    fn quiet(&self) -> MutexGuard<'_, Receiver<Up>> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        while answers.try_recv().is_ok() {}
        answers
    }

    /// Says something that is not answered.
    pub fn say(&self, word: &Down) -> Result<()> {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = write_frame(&mut &self.stream, word);
        if sent.is_err() {
            // Half a frame may be on its way: nothing that follows would be understood.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        sent.context("the sidecar takes no more words")
    }
}

impl Drop for SidecarChannel {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn await_answer(answers: &Receiver<Up>, mut answered: impl FnMut(Up) -> Option<Result<()>>) -> Result<()> {
    let deadline = Instant::now() + ANSWER_TIME;
    loop {
        match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(word) => match answered(word) {
                Some(answer) => return answer,
                None => continue,
            },
            Err(RecvTimeoutError::Timeout) => bail!("the sidecar does not answer within {} s", ANSWER_TIME.as_secs()),
            Err(RecvTimeoutError::Disconnected) => bail!("the sidecar has ended"),
        }
    }
}

/// Writes lines until the channel closes. What cannot be logged must not happen: an error closes the channel, and with
/// it the bottle's way out.
fn listen(
    stream: &UnixStream,
    mut file: Rotating,
    answers: &Sender<Up>,
    stopping: &AtomicBool,
    desk: Option<&Words>,
) -> Summary {
    let (mut summary, mut from) = (Summary::default(), BufReader::new(stream));
    loop {
        let line = match read_frame::<Up>(&mut from) {
            Ok(Some(Up::Log(line))) => line,
            Ok(Some(word @ (Up::Proposal { .. } | Up::Asked { .. }))) => {
                // No line of the log waits for a desk: what finds it full is not answered, and is asked again.
                desk.iter().for_each(|desk| drop(desk.try_send(Word::Sidecar(word.clone()))));
                continue;
            }
            Ok(Some(word)) => {
                let end = match &word {
                    Up::DaemonEnded { daemon, status } => {
                        summary.daemon_ended(daemon, status);
                        Some(LogLine {
                            time: now(),
                            daemon: daemon.clone(),
                            decision: ENDED.into(),
                            rule: status.clone(),
                            ..LogLine::default()
                        })
                    }
                    _ => None,
                };
                let _ = answers.send(word);
                let Some(line) = end else { continue };
                line
            }
            Ok(None) | Err(_) => {
                if !stopping.load(Ordering::SeqCst) {
                    summary.ended("its channel closed");
                }
                return summary;
            }
        };
        summary.count(&line);
        if let Err(error) = file.write(&line) {
            summary.ended(&format!("its log cannot be written ({error})"));
            let _ = stream.shutdown(Shutdown::Both);
            return summary;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A channel whose far end answers by `answer` until it says `None`; what was logged, and the summary.
    fn with_sidecar(
        answer: impl Fn(Down) -> Option<Vec<Up>> + Send + 'static,
        host: impl FnOnce(&SidecarChannel),
    ) -> (String, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("egress.jsonl");
        let (own, mut far) = UnixStream::pair().unwrap();
        let sidecar = SidecarChannel::follow(own.into(), &path, None).unwrap();
        let far = thread::spawn(move || {
            while let Ok(Some(word)) = read_frame(&mut far) {
                let Some(words) = answer(word) else { return };
                words.iter().for_each(|word| write_frame(&mut far, word).unwrap());
            }
        });
        host(&sidecar);
        let summary = sidecar.finish();
        far.join().unwrap();
        (fs::read_to_string(path).unwrap(), summary.lines())
    }

    fn line(decision: &str) -> Up {
        Up::Log(LogLine { decision: decision.into(), rule: "r".into(), host: "h".into(), ..LogLine::default() })
    }

    #[test]
    fn what_is_asked_for_is_answered_and_log_lines_in_between_are_logged() {
        let end = |daemon: &str| Up::DaemonEnded { daemon: daemon.into(), status: "exit status: 0".into() };
        let answer = move |word| match word {
            Down::Reload { policy } if policy["mode"] == "audit" => {
                Some(vec![line("deny"), Up::Reloaded { error: Some("no audit here".into()) }])
            }
            Down::Reload { .. } => Some(vec![line("allow"), Up::Reloaded { error: None }]),
            Down::Restart { daemon } => Some(vec![end("another"), end(&daemon)]),
            Down::Program { .. } | Down::Answer { .. } | Down::Stop => None,
        };
        let (log, said) = with_sidecar(answer, |sidecar| {
            sidecar.reload(&Policy::default()).unwrap();
            let audit = Policy { mode: bottle_policy::Mode::Audit, ..Policy::default() };
            let error = format!("{:#}", sidecar.reload(&audit).unwrap_err());
            assert!(error.contains("no audit here") && error.contains("still stands"), "{error}");
            sidecar.restart("egress").unwrap();
        });
        assert_eq!(log.lines().count(), 4, "{log}");
        assert!(log.contains("\"ended\"") && log.contains("exit status: 0"), "{log}");
        assert_eq!(said[0], "egress: 1 allowed, 1 denied");
        assert!(said.iter().all(|line| !line.starts_with("the sidecar ended")), "{said:?}");
    }

    #[test]
    fn a_program_arrives_whole_and_its_daemon_is_waited_for() {
        let program: Vec<u8> = (0..2 * PIECE + 7).map(|n| (n % 251) as u8).collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        for (content, ends) in [(&program[..], false), (&program[..PIECE], false), (&[], true)] {
            fs::write(&path, content).unwrap();
            let arrived = Arc::new(Mutex::new(vec![]));
            let received = arrived.clone();
            let answer = move |word| match word {
                Down::Program { daemon, bytes, last } => {
                    received.lock().unwrap().extend(BASE64_STANDARD.decode(bytes).unwrap());
                    let word = match ends {
                        true => Up::DaemonEnded { daemon, status: "exit status: 1".into() },
                        false => Up::Serving { daemon },
                    };
                    Some(if last { vec![word] } else { vec![] })
                }
                _ => None,
            };
            with_sidecar(answer, |sidecar| {
                let delivered = sidecar.deliver("pipelock", File::open(&path).unwrap());
                assert_eq!(delivered.is_err(), ends, "{delivered:?}");
            });
            assert!(*arrived.lock().unwrap() == content);
        }
    }

    #[test]
    fn a_sidecar_that_ends_by_itself_is_told_of_and_asked_no_more() {
        let (_, said) = with_sidecar(
            |_| None,
            |sidecar| {
                assert!(sidecar.reload(&Policy::default()).is_err());
                assert!(sidecar.restart("egress").is_err());
            },
        );
        assert!(said.iter().any(|line| line.starts_with("the sidecar ended during the session")), "{said:?}");
    }
}
