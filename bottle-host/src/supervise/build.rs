//! An image of what an agent proposed: its steps, run one after the other in a builder beside the bottle, whose only way out
//! is the bottle's own. The next session of that bottle goes on from it.
//!
//! ```text
//! builder ─ certificate ─ steps ─▶ commit ─ searched for what only the bottle may know ─▶ state ─▶ ledger lets it go
//!     └── an error, a cancellation ──▶ what the ledger has that it had not before is taken away
//! ```
//!
//! The image is the state's from the moment its metadata names it; before that it is the ledger's, as everything that a launch
//! makes: a crash in between leaves no image that nobody knows of.

use crate::{
    fault,
    life::take_away,
    plan::environment,
    plugin::{Backend, Bottle},
    session::owner,
    state::{OwnImage, State},
    ui::hinted,
};
use anyhow::{Context, Result, anyhow, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use bottle_api::{
    AGENT_UID, BuilderRequest, CommitRequest, FileEntry, GetRequest, HELPER_PATH, LedgerEntry, PutRequest, Secret,
    StartRequest,
    control::{ExecFrame, HELPER_READY, write_frame},
    provision::pack,
};
use bottle_policy::dockerfile::{Recipe, Step, User};
use memchr::memmem;
use rustix::pipe::{PipeFlags, pipe_with};
use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::Read,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    thread,
    time::Duration,
};
use tar::EntryType;
use zeroize::{Zeroize, Zeroizing};

/// How long an image may take.
pub const BUILD_TIME: Duration = Duration::from_secs(600);
/// How long the builder may take to go.
const CLOSE_DEADLINE: Duration = Duration::from_secs(60);
/// Of a step's output, what an error has of it.
const LAST_LINES: usize = 8;
const LONGEST_LINE: usize = 300;
/// What is read of a line: enough that nothing is cut off in what is shown.
const LONGEST_READ: usize = 4 << 10;
/// The longest list of users.
const MOST_USERS: u64 = 1 << 20;
/// The longest certificate that a bottle has.
const CERTIFICATE: u64 = 64 << 10;
/// What is said instead of what nobody is to read.
const HIDDEN: &str = "[the bottle's password]";

/// What an image is made with.
pub struct Workshop<'a> {
    /// Where the bottle is.
    pub backend: &'a Backend,
    /// The bottle that it is for.
    pub bottle: &'a Bottle,
    /// Its state.
    pub state: &'a State,
    /// Whose it is.
    pub identity: &'a str,
    /// See `identity`.
    pub owner: &'a str,
    /// The variables that lead the backend back to it.
    pub env: &'a BTreeMap<String, String>,
    /// By which the sidecar knows the bottle.
    pub capability: &'a Secret,
    /// Where a bottle's certificate authority goes.
    pub ca_paths: &'a [String],
}

impl Workshop<'_> {
    /// Makes the image of a proposal, by its Dockerfile, until `cancel` becomes readable: its id.
    pub fn build(&self, proposal: &str, dockerfile: &str, cancel: BorrowedFd<'_>) -> Result<String> {
        let before = self.state.ledger.entries();
        let earlier = self.state.image()?;
        let built = self.make(proposal, dockerfile, earlier.as_ref(), cancel.as_raw_fd());
        let is_new = |entry: &LedgerEntry| !before.iter().any(|known| known.uuid == entry.uuid);
        let mut left: Vec<LedgerEntry> = self.state.ledger.entries().into_iter().filter(is_new).collect();
        if let (Ok(_), Some(OwnImage { id, name, .. })) = (&built, earlier) {
            // Nobody goes on from that one any more.
            left.push(LedgerEntry { identity: self.identity.into(), name, id: Some(id), ..LedgerEntry::default() });
        }
        if !left.is_empty() {
            let keep = self.state.image()?.map(|image| image.id);
            // What stays in spite of this is found by `cleanup`.
            let _ = take_away(self.backend, self.owner, self.env, left, keep);
        }
        built
    }

    fn make(&self, proposal: &str, dockerfile: &str, earlier: Option<&OwnImage>, cancel: i32) -> Result<String> {
        let mut image = earlier.cloned().unwrap_or_default();
        let path = image.env.get("PATH").map_or(environment::PATH, String::as_str);
        let recipe = Recipe::parse(dockerfile, path).map_err(anyhow::Error::msg)?;
        let req = BuilderRequest {
            identity: self.identity.into(),
            owner: self.owner.into(),
            image: image.id.clone(),
            env: self.env.clone(),
        };
        // Dropped on any way out, it is gone.
        let builder = self.backend.builder(&req, cancel).context("begin an image")?;
        step_taken()?;
        self.have_it_trust_the_sidecar(&builder, cancel)?;
        let info = builder.describe()?;
        for step in &recipe.steps {
            let env = environment::builder(&info, self.capability, step, &image.env);
            self.run(&builder, step, &env, cancel).with_context(|| format!("line {}", step.line))?;
            step_taken()?;
        }
        let built = builder.commit(&CommitRequest { name: proposal.into() }, cancel)?;
        step_taken()?;
        // Nothing runs there any more.
        self.search(&builder, cancel)?;
        builder.close(CLOSE_DEADLINE)?;
        image.proposals.push(proposal.into());
        image.env.extend(recipe.env);
        let image = OwnImage { id: built.id.clone(), name: built.name, ..image };
        self.state.go_on_from(&image)?;
        step_taken()?;
        let is_it = |entry: &LedgerEntry| entry.id.as_ref() == Some(&built.id);
        if let Some(entry) = self.state.ledger.entries().into_iter().find(is_it) {
            self.state.ledger.gone(&entry).map_err(bottle_api::Error::into_std)?;
        }
        Ok(built.id)
    }

    /// Only the certificate: it stays in the image until the next session's takes its place, and nobody has its key by then.
    fn have_it_trust_the_sidecar(&self, builder: &Bottle, cancel: i32) -> Result<()> {
        let attempt = "have the builder trust the sidecar";
        let Some(from) = self.ca_paths.first() else { return Ok(()) };
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        // Before it is asked for: the pipe may be smaller than what comes.
        let certificate = thread::spawn(move || -> Result<Vec<u8>> {
            let mut archive = tar::Archive::new(File::from(read).take(2 * CERTIFICATE));
            let entry = archive.entries()?.next().context("there is none")??;
            let mut pem = vec![];
            entry.take(CERTIFICATE).read_to_end(&mut pem)?;
            Ok(pem)
        });
        self.bottle
            .get(&GetRequest { path: from.clone(), max_bytes: 2 * CERTIFICATE }, write, cancel)
            .context(attempt)?;
        let pem =
            certificate.join().map_err(|_| anyhow!("its reader panicked")).and_then(|pem| pem).context(attempt)?;
        let files: Vec<FileEntry> = self.ca_paths.iter().map(|path| FileEntry::root(path, &pem[..])).collect();
        let archive = pack(&files).map_err(bottle_api::Error::into_std)?;
        builder.put(&PutRequest { dest: "/".into(), owner: None }, archive.into(), cancel).context(attempt)
    }

    /// Runs a step to its end. What it says is nobody's but an error's.
    fn run(&self, builder: &Bottle, step: &Step, env: &BTreeMap<String, Secret>, cancel: i32) -> Result<()> {
        let id = if step.user == User::Root { 0 } else { AGENT_UID };
        let argv = vec![HELPER_PATH.into(), "run".into()];
        let req = StartRequest { argv, uid: id, gid: id, ..StartRequest::default() };
        let (stdin, to_process) = pipe_with(PipeFlags::CLOEXEC)?;
        let (from_process, output) = pipe_with(PipeFlags::CLOEXEC)?;
        let process = builder.start(&req, stdin.as_fd(), output.as_fd(), Some(output.as_fd()), cancel)?;
        drop((stdin, output));
        let mut frame = ExecFrame { argv: step.argv.clone(), env: owner::encode_env(env), cwd: step.cwd.clone() };
        // Of its own: nobody may read what a pipe has no room for.
        thread::spawn(move || {
            let _ = write_frame(&mut File::from(to_process), &frame);
            frame.env.values_mut().for_each(Zeroize::zeroize);
        });
        let listening = thread::spawn(move || LastWords::of(File::from(from_process)));
        // One that is cancelled ends with its builder.
        let code = process.wait(cancel)?.code;
        if code == 0 {
            return Ok(());
        }
        let words = listening.join().map(|words| words.shown(self.capability)).unwrap_or_default();
        let said = if words.is_empty() { "it said nothing".into() } else { format!("its last words: {words}") };
        bail!("`{}` ended with {code}; {said}", step.argv.last().map(String::as_str).unwrap_or_default())
    }

    /// Reads the whole tree of a builder that became an image: nowhere in it may the bottle's password stand.
    fn search(&self, builder: &Bottle, cancel: i32) -> Result<()> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        let known = self.capability.clone();
        let search = thread::spawn(move || found_in(File::from(read), &known));
        let got = builder.get(&GetRequest { path: "/".into(), ..GetRequest::default() }, write, cancel);
        let found = search.join().map_err(|_| anyhow!("the search of the image panicked"))?;
        match found.context("search the image")? {
            None => got.context("search the image"),
            // It was read no further.
            Some(Unfit::Told(path)) => Err(hinted(
                format!("a step has written {HIDDEN} for its proxy to {path}"),
                "No image keeps it: have the step not store its environment.",
            )),
            Some(Unfit::Shape(path)) => Err(hinted(
                format!("a step has made of /{path} what it must not be"),
                "Directories that a bottle begins in stay directories, and the list of users a file.",
            )),
        }
    }
}

/// Why a tree is no bottle's, by its first file that says so.
#[derive(Debug, PartialEq)]
enum Unfit {
    /// A secret stands in it.
    Told(String),
    /// It is of another kind than an engine and a bottle rely on. An engine reads the list of users of every container
    /// that it starts, itself: at a pipe it would wait for ever.
    Shape(String),
}

/// What stays what it is.
fn keeps_its_shape(path: &str, kind: EntryType, bytes: u64) -> bool {
    match path {
        "etc" | "home" | "home/agent" | "workspace" => kind.is_dir(),
        "etc/passwd" | "etc/group" => kind.is_file() && bytes <= MOST_USERS,
        _ => true,
    }
}

/// A secret as it is, and as a proxy is told it.
fn needles(secret: &Secret) -> [Zeroizing<Vec<u8>>; 2] {
    let told = Zeroizing::new([b"bottle:", secret.expose()].concat());
    [secret.expose().to_vec(), BASE64_STANDARD.encode(&*told).into_bytes()].map(Zeroizing::new)
}

/// The first file of an archive in which a secret stands, or that is not what it must be.
fn found_in(archive: impl Read, secret: &Secret) -> Result<Option<Unfit>> {
    let needles = needles(secret);
    let longest = needles.iter().map(|needle| needle.len()).max().unwrap_or_default();
    let mut archive = tar::Archive::new(archive);
    let mut chunk = vec![0; 1 << 20];
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let plain = path.trim_start_matches("./").trim_matches('/');
        if !keeps_its_shape(plain, entry.header().entry_type(), entry.size()) {
            return Ok(Some(Unfit::Shape(plain.into())));
        }
        let link = entry.link_name_bytes().map(|link| link.into_owned()).unwrap_or_default();
        let named = [path.as_bytes(), &link].iter().any(|name| needles.iter().any(|needle| holds(name, needle)));
        // What may be the beginning of one stays for the next piece.
        let (mut kept, mut found) = (0, named);
        loop {
            let read = entry.read(&mut chunk[kept..])?;
            let filled = kept + read;
            found |= needles.iter().any(|needle| holds(&chunk[..filled], needle));
            if read == 0 || found {
                break;
            }
            let from = filled.saturating_sub(longest);
            chunk.copy_within(from..filled, 0);
            kept = filled - from;
        }
        if found {
            return Ok(Some(Unfit::Told(path)));
        }
    }
    Ok(None)
}

fn holds(text: &[u8], needle: &[u8]) -> bool {
    memmem::find(text, needle).is_some()
}

/// The end of what a program said.
#[derive(Default)]
struct LastWords(VecDeque<Vec<u8>>);

impl LastWords {
    fn of(mut from: impl Read) -> Self {
        let (mut words, mut line, mut chunk) = (Self::default(), vec![], vec![0; 16 << 10]);
        let mut is_first = true;
        while let Ok(read @ 1..) = from.read(&mut chunk) {
            let mut said = &chunk[..read];
            if std::mem::take(&mut is_first) {
                said = said.strip_prefix(&[HELPER_READY]).unwrap_or(said);
            }
            for byte in said {
                match byte {
                    b'\n' | b'\r' => words.add(&mut line),
                    _ if line.len() < LONGEST_READ => line.push(*byte),
                    _ => {}
                }
            }
        }
        words.add(&mut line);
        words
    }

    fn add(&mut self, line: &mut Vec<u8>) {
        let line = std::mem::take(line);
        if !line.trim_ascii().is_empty() {
            self.0.push_back(line);
            if self.0.len() > LAST_LINES {
                self.0.pop_front();
            }
        }
    }

    /// In one line, without what only the bottle may know.
    fn shown(&self, secret: &Secret) -> String {
        let needles = needles(secret);
        let lines: Vec<_> = self.0.iter().map(|line| shortened(&hidden(line.trim_ascii(), &needles))).collect();
        lines.join(" | ")
    }
}

/// A line without what nobody is to read.
fn hidden(line: &[u8], needles: &[Zeroizing<Vec<u8>>]) -> String {
    let without = |line: Vec<u8>, needle: &Zeroizing<Vec<u8>>| {
        let ends: Vec<usize> = memmem::find_iter(&line, needle.as_slice()).map(|at| at + needle.len()).collect();
        let (mut out, mut from) = (vec![], 0);
        for end in ends {
            out.extend_from_slice(&line[from..end - needle.len()]);
            out.extend_from_slice(HIDDEN.as_bytes());
            from = end;
        }
        out.extend_from_slice(&line[from..]);
        out
    };
    String::from_utf8_lossy(&needles.iter().fold(line.to_vec(), without)).into_owned()
}

fn shortened(line: &str) -> String {
    line.chars().take(LONGEST_LINE).collect()
}

/// Between any two of these a test may end the owner.
fn step_taken() -> Result<()> {
    Ok(fault::point("build").map_err(bottle_api::Error::into_std)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret {
        Secret::new("0123456789abcdef0123456789abcdef")
    }

    fn archive(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(vec![]);
        for (name, data) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, &data[..]).unwrap();
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn the_password_is_found_wherever_it_stands() {
        let own = String::from_utf8(secret().expose().to_vec()).unwrap();
        let at = |n: usize, text: &str| [vec![b'x'; n], text.into(), vec![b'y'; 10]].concat();
        let told = BASE64_STANDARD.encode(format!("bottle:{own}"));
        for (files, found) in [
            (vec![("a", at(0, "nothing")), ("b", at(3 << 20, &own[..31]))], None),
            (vec![("a", at(0, "")), ("b/c", at(0, &own))], Some("b/c")),
            (vec![("a", at((1 << 20) - 7, &own))], Some("a")),
            (vec![("a", at((2 << 20) + 5, &told))], Some("a")),
            (vec![(&format!("log/{own}"), at(0, ""))], Some("log/")),
        ] {
            let path = found_in(&archive(&files)[..], &secret()).unwrap();
            let told = matches!(&path, Some(Unfit::Told(path)) if path.starts_with(found.unwrap_or("?")));
            assert_eq!((path.is_some(), told), (found.is_some(), found.is_some()));
        }
        assert!(found_in(&b"no archive at all, and longer than any header of one would be"[..], &secret()).is_err());
    }

    #[test]
    fn what_an_engine_relies_on_stays_what_it_is() {
        let tree = |path: &str, kind: EntryType, bytes: usize| {
            let (mut tar, mut header) = (tar::Builder::new(vec![]), tar::Header::new_gnu());
            header.set_entry_type(kind);
            header.set_size(bytes as u64);
            tar.append_data(&mut header, path, &vec![b'x'; bytes][..]).unwrap();
            found_in(&tar.into_inner().unwrap()[..], &secret()).unwrap()
        };
        for (path, kind, bytes) in [
            ("etc/passwd", EntryType::Fifo, 0),
            ("./etc/group", EntryType::Char, 0),
            ("etc/passwd", EntryType::Directory, 0),
            ("etc/passwd", EntryType::Regular, (1 << 20) + 1),
            ("workspace", EntryType::Regular, 0),
            ("home/agent/", EntryType::Fifo, 0),
        ] {
            assert!(matches!(tree(path, kind, bytes), Some(Unfit::Shape(_))), "{path} {kind:?}");
        }
        for (path, kind, bytes) in [
            ("etc/passwd", EntryType::Regular, 900),
            ("workspace/", EntryType::Directory, 0),
            ("srv/etc/passwd", EntryType::Fifo, 0),
        ] {
            assert_eq!(tree(path, kind, bytes), None, "{path} {kind:?}");
        }
    }

    #[test]
    fn of_what_a_step_says_the_end_is_kept_and_no_password() {
        let own = String::from_utf8(secret().expose().to_vec()).unwrap();
        let many: String = (0..1000).map(|n| format!("line {n}\r\n\n")).collect();
        let text =
            [&[HELPER_READY][..], many.as_bytes(), b"http://bottle:", own.as_bytes(), b"@proxy\n", &[b'z'; 9999]];
        let shown = LastWords::of(&text.concat()[..]).shown(&secret());
        assert!(shown.starts_with("line 994 | ") && !shown.contains(&own), "{shown}");
        let told = BASE64_STANDARD.encode(format!("bottle:{own}"));
        for (filler, secret_text) in [(0, &own), (290, &own), (280, &told), (5000, &own)] {
            let line = [&[HELPER_READY][..], &vec![b'x'; filler], secret_text.as_bytes()].concat();
            let shown = LastWords::of(&line[..]).shown(&secret());
            assert!(!shown.contains(&secret_text[..8]), "{shown}");
        }
        assert!(shown.contains(HIDDEN) && shown.ends_with("zzz") && shown.len() < 600, "{shown}");
        assert_eq!(LastWords::of(&[HELPER_READY][..]).shown(&secret()), "");
    }
}
