//! A home with a manifest, and the staged `bottle` run in it.

use crate::{
    bare::{self, Who},
    lab::{self, Lab},
    standin::Standin,
    target::Target,
    wire::Authority,
};
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    os::unix::fs::lchown,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The real credential of the tests: whoever finds it in a bottle has found a leak.
pub const REAL_TOKEN: &str = "sk-ant-oat01-THE-REAL-ONE-0123456789";
/// The value of an env secret that the agent may see.
pub const ENV_SECRET: &str = "an-env-secret-for-the-agent-only";
/// How long a test waits for something that should happen at once.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The same in an emulated machine, where nothing does: seconds.
const PATIENCE_ENV: &str = "BOTTLE_PATIENCE_SECS";

/// A throw-away home: manifest, state, and the variables that `bottle` runs with.
pub struct Home {
    dir: TempDir,
    program: PathBuf,
    env: Vec<(String, String)>,
    target: Target,
}

impl Home {
    /// A home whose agent `dev` lives in a bottle that reaches `standin` as the model.
    pub fn new(lab: &Lab, authority: &Authority, standin: &Standin) -> Result<Self> {
        Self::on(Target::chosen(), lab, authority, standin)
    }

    /// The same with its bottles there.
    pub fn on(target: Target, lab: &Lab, authority: &Authority, standin: &Standin) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut home = Self {
            program: lab.stage.join("bin/bottle"),
            env: vec![
                ("DOCKER_HOST".into(), lab.docker_host.clone()),
                ("CLAUDE_BOTTLE_BASE_IMAGE".into(), lab.base_image.clone()),
                ("CLAUDE_BOTTLE_IMAGE".into(), images("bottle-test")),
                ("CLAUDE_BOTTLE_SIDECAR_IMAGE".into(), images("bottle-test-sidecars")),
                ("CLAUDE_BOTTLE_UPSTREAM_CA".into(), dir.path().join("ca.pem").display().to_string()),
                ("CLAUDE_BOTTLE_OAUTH_TOKEN".into(), REAL_TOKEN.into()),
                ("HOST_SECRET".into(), ENV_SECRET.into()),
            ],
            dir,
            target,
        };
        if target != Target::Docker {
            let claude = bare::claude(lab)?.display().to_string();
            home = home.with_env("CLAUDE_BOTTLE_BACKEND", target.backend()).with_env("CLAUDE_BOTTLE_CLAUDE", &claude);
        }
        home.write("ca.pem", &authority.pem)?;
        home.bottle("box", &[&format!("{{host: api.anthropic.com, address: {}}}", standin.address)])?;
        home.agent("dev", "box", "You are under test.")?;
        Ok(home)
    }

    /// A home that no engine is needed for: its agent `dev` lives in a bottle that any backend may run.
    pub fn bare() -> Result<Self> {
        let (program, dir) = (lab::stage().join("bin/bottle"), tempfile::tempdir()?);
        let token = ("CLAUDE_BOTTLE_OAUTH_TOKEN".into(), REAL_TOKEN.into());
        let home = Self { dir, program, env: vec![token], target: Target::Namespace(Who::Root) };
        home.write(".claude-bottle/bottles/box.md", "---\nisolation: process\n---\n")?;
        home.agent("dev", "box", "You are under test.")?;
        Ok(home)
    }

    /// Writes a file below the home.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().context("a file has a directory")?)?;
        Ok(fs::write(path, text)?)
    }

    /// Defines a bottle with these routes, written as YAML.
    pub fn bottle(&self, name: &str, routes: &[&str]) -> Result<()> {
        let routes: String = routes.iter().map(|r| format!("    - {r}\n")).collect();
        let env = "env:\n  PLAIN: a literal\n  AGENT_SECRET: ${HOST_SECRET}\n";
        self.write(
            &format!(".claude-bottle/bottles/{name}.md"),
            &format!("---\n{env}egress:\n  routes:\n{routes}---\n"),
        )
    }

    /// Defines an agent.
    pub fn agent(&self, name: &str, bottle: &str, prompt: &str) -> Result<()> {
        self.write(&format!(".claude-bottle/agents/{name}.md"), &format!("---\nbottle: {bottle}\n---\n{prompt}\n"))
    }

    /// The home's path.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where the bottles' state is.
    pub fn state(&self) -> PathBuf {
        self.path().join(".claude-bottle/state")
    }

    /// Uses another program than the staged one.
    pub fn with_program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// Runs everything with this variable too, or with this value of it.
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.into(), value.into()));
        self
    }

    /// Where its bottles are.
    pub fn target(&self) -> Target {
        self.target
    }

    /// Gives everything in it to that user. Root alone can.
    fn hand_over(&self, user: u32) {
        let mut paths = vec![self.path().to_owned()];
        while let Some(path) = paths.pop() {
            // What a bottle has taken away meanwhile needs no owner.
            let _ = lchown(&path, Some(user), Some(user));
            if !path.is_symlink() {
                paths.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
            }
        }
    }

    /// `bottle` with these arguments, in an environment that holds nothing else.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = match self.target.user() {
            None => Command::new(&self.program),
            Some(user) => {
                self.hand_over(user);
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={user}"), format!("--regid={user}")]).args(["--clear-groups", "--"]);
                command.arg(&self.program);
                command
            }
        };
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path())
            .env("TERM", "xterm-256color")
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs `bottle` to its end.
    pub fn run(&self, args: &[&str]) -> Result<Run> {
        Ok(self.command(args).output()?.into())
    }

    /// Runs a headless session of `dev` whose Claude plays these lines; what each tool gave back.
    pub fn play(&self, lines: &[&str]) -> Result<(Vec<String>, Run)> {
        let prompt: String = lines.iter().map(|line| format!("@@bash {line}\n")).collect();
        let run = self.run(&["start", "dev", "--yes", "--prompt", &prompt])?;
        let results = run.results().with_context(|| format!("{run:?}"))?;
        Ok((results, run))
    }

    /// Starts `bottle` with these variables too.
    pub fn start(&self, args: &[&str], env: &[(&str, &str)]) -> Result<KillOnDrop> {
        Ok(KillOnDrop(self.command(args).envs(env.iter().copied()).spawn()?))
    }

    /// The identities that `list active` shows.
    pub fn listed(&self) -> Vec<String> {
        let Ok(run) = self.run(&["list", "active", "--json"]) else { return vec![] };
        let rows: Value = serde_json::from_str(&run.stdout).unwrap_or_default();
        let identities = rows["bottles"].as_array().into_iter().flatten().filter_map(|row| row["identity"].as_str());
        identities.map(str::to_owned).collect()
    }

    /// The identities that have state here.
    pub fn identities(&self) -> Vec<String> {
        let entries = fs::read_dir(self.state()).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|name| !name.starts_with('.')).collect()
    }

    /// The lines of every egress log that is there now.
    pub fn egress_log(&self) -> Vec<Value> {
        self.identities()
            .iter()
            .filter_map(|identity| fs::read_to_string(self.state().join(identity).join("egress.jsonl")).ok())
            .flat_map(|text| text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect::<Vec<_>>())
            .collect()
    }
}

/// A name for an image of this checkout's: another one's may be built otherwise.
pub fn images(name: &str) -> String {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_MANIFEST_DIR").hash(&mut hasher);
    format!("{name}-{:016x}:latest", hasher.finish())
}

/// A run of `bottle`.
#[derive(Debug)]
pub struct Run {
    /// Its exit code, or none where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    /// What the tools of a played session gave back.
    pub fn results(&self) -> Result<Vec<String>> {
        let json: Value = serde_json::from_str(self.stdout.trim())?;
        let results = json["results"].as_array().context("results")?;
        Ok(results.iter().map(|r| r["text"].as_str().unwrap_or_default().to_owned()).collect())
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Says something that a passing test is to be seen to have found.
pub fn report(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}"); // `print!` would be kept for failures
}

/// A child that does not outlive a test that fails.
pub struct KillOnDrop(pub Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl std::ops::Deref for KillOnDrop {
    type Target = Child;
    fn deref(&self) -> &Child {
        &self.0
    }
}

impl std::ops::DerefMut for KillOnDrop {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl KillOnDrop {
    /// Waits for its end; all that it said. One that hangs is killed in the end: a test fails rather than waits.
    pub fn finish(mut self) -> Result<Run> {
        use std::io::Read;
        let (pid, (_ended, end)) = (Pid::from_child(&self.0), channel::<()>());
        thread::spawn(move || {
            if end.recv_timeout(PATIENCE * 4) == Err(RecvTimeoutError::Timeout) {
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        let (stdout, stderr) = (self.0.stdout.take(), self.0.stderr.take());
        let errors = thread::spawn(move || {
            let mut bytes = vec![];
            stderr.map(|mut from| from.read_to_end(&mut bytes)).transpose().map(|_| bytes)
        });
        let mut bytes = vec![];
        stdout.map(|mut from| from.read_to_end(&mut bytes)).transpose()?;
        let errors = errors.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        Ok(Output { status: self.0.wait()?, stdout: bytes, stderr: errors }.into())
    }
}

/// Waits until something is so.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let patience = std::env::var(PATIENCE_ENV).ok().and_then(|seconds| seconds.parse().ok());
    let patience = patience.map_or(PATIENCE, Duration::from_secs);
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        anyhow::ensure!(Instant::now() < deadline, "waited {patience:?} in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// What the engine has of a bottle, by its identity: as a label on containers and networks, and as a name anywhere,
/// images' tags too.
pub fn left_in_engine(lab: &Lab, identity: &str) -> Result<Vec<String>> {
    let label = format!("label=claude-bottle.identity={identity}");
    let image = ["images", "-a", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"];
    // An image without a name has its label alone, which no format shows.
    let labelled = lab.docker(&[&image[..], &["--filter", &label]].concat())?;
    let mut left: Vec<String> = labelled.lines().map(|line| format!("image {line}")).collect();
    for (kind, args) in [
        ("container", &["ps", "-a", "--format", "{{.ID}} {{.Names}} {{.Labels}}"][..]),
        ("network", &["network", "ls", "--format", "{{.ID}} {{.Name}} {{.Labels}}"]),
        ("image", &image),
        ("volume", &["volume", "ls", "--format", "{{.Name}} {{.Labels}}"]),
    ] {
        let found = lab.docker(args)?;
        left.extend(found.lines().filter(|line| line.contains(identity)).map(|line| format!("{kind} {line}")));
    }
    left.sort();
    left.dedup();
    Ok(left)
}

/// Asserts that nothing of a bottle is left: in the engine or the kernel, in the state directory, or as a process.
pub fn assert_nothing_left(lab: &Lab, home: &Home, identity: &str) -> Result<()> {
    anyhow::ensure!(home.identities().is_empty(), "left in the state directory: {:?}", home.identities());
    assert_only_log_left(lab, home, identity)
}

/// Asserts that nothing of a bottle is left but, where its session did not end by itself, its egress log
/// and its conversation.
pub fn assert_only_log_left(lab: &Lab, home: &Home, identity: &str) -> Result<()> {
    let left = home.target().left(lab, identity)?;
    anyhow::ensure!(left.is_empty(), "left of the bottle: {left:?}");
    for dir in home.identities() {
        let mut files: Vec<_> = fs::read_dir(home.state().join(dir))?.flatten().map(|e| e.file_name()).collect();
        // What a resume takes up again.
        files.retain(|name| !["transcript", ".preserve", "came", "workspace.tar"].iter().any(|kept| name == kept));
        files.sort();
        anyhow::ensure!(files == ["egress.jsonl", "lock", "metadata.json"], "left in the state directory: {files:?}");
    }
    let processes = processes_of(home);
    anyhow::ensure!(processes.is_empty(), "left running: {processes:?}");
    Ok(())
}

/// Processes of this machine whose environment names the home, with their command lines.
pub fn processes_of(home: &Home) -> Vec<(i32, String)> {
    let own = home.path().display().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|e| fs::read(e.path().join("environ")).is_ok_and(|env| contains(&env, own.as_bytes())))
        .filter_map(|e| {
            let command = fs::read_to_string(e.path().join("cmdline")).unwrap_or_default().replace('\0', " ");
            Some((e.file_name().to_str()?.parse().ok()?, command))
        })
        .collect()
}

/// Is there such a process, and not only its exit status that nobody has asked for?
pub fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Is `needle` somewhere in `haystack`?
pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// The identity that a preflight shows.
pub fn identity_in(stderr: &str) -> Result<String> {
    let line = stderr.lines().find_map(|l| l.split_once("identity  ")).context("a preflight with an identity")?;
    Ok(line.1.trim().to_owned())
}
