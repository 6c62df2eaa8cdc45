//! A home whose agent may ask, a host that it asks for, and the operator's hands.

use anyhow::{Context, Result, ensure};
use bottle_tests::{
    bottle::{Home, KillOnDrop, REAL_TOKEN, eventually, images},
    lab::Lab,
    standin::Standin,
    target::Target,
    wire::Authority,
};
use serde_json::{Value, json};
use std::fs;

/// An older client, which `cargo xtask setup` has fetched.
const OLDER_PINS: &str = include_str!("claude.pins");
/// The image with it: the tests' own with another program.
const OLDER_IMAGE: &str = "USER root\nCOPY claude /usr/local/bin/claude\nUSER 1000:1000\n";

/// A home, and the model and `later.example` in one: of that host the manifest opens a path where nothing is.
pub(crate) struct Place {
    pub(crate) home: Home,
    pub(crate) standin: Standin,
}

impl Place {
    /// `more` goes into the bottle.
    pub(crate) fn new(more: &str) -> Result<Self> {
        let (lab, authority) = (Lab::get(), Authority::new()?);
        let hosts = ["api.anthropic.com", "later.example"];
        let standin = Standin::start(&authority, &hosts, &format!("Bearer {REAL_TOKEN}"))?;
        let home = Home::new(lab, &authority, &standin)?;
        let routes = format!(
            "[{{host: api.anthropic.com, address: {0}}}, {{host: later.example, address: {0}, path_allowlist: [/none]}}]",
            standin.address
        );
        let bottle = format!("---\nsupervise: true\n{more}egress: {{routes: {routes}}}\n---\n");
        home.write(".claude-bottle/bottles/box.md", &bottle)?;
        Ok(Self { home, standin })
    }

    /// The same with an older Claude Code in its bottles.
    pub(crate) fn with_older_client(mut self) -> Result<Self> {
        let lab = Lab::get();
        let version = OLDER_PINS.lines().find_map(|line| line.strip_prefix("version ")).context("a version")?;
        let program = lab.stage.with_file_name("lab").join(format!("claude-{version}"));
        ensure!(program.exists(), "there is no {}; run `cargo xtask setup` first", program.display());
        self.home = match self.home.target() {
            Target::Docker => {
                ensure!(self.home.run(&["image", "build"])?.code == Some(0), "the agent's image is not built");
                let (image, dir) = (images("bottle-test-older"), tempfile::tempdir()?);
                fs::copy(&program, dir.path().join("claude"))?;
                let recipe = format!("FROM {}\n{OLDER_IMAGE}", images("bottle-test"));
                fs::write(dir.path().join("Dockerfile"), recipe)?;
                lab.docker(&["build", "-q", "-t", &image, &dir.path().display().to_string()])?;
                self.home.with_env("CLAUDE_BOTTLE_IMAGE", &image)
            }
            Target::Namespace(_) => self.home.with_env("CLAUDE_BOTTLE_CLAUDE", &program.display().to_string()),
        };
        Ok(self)
    }

    /// A headless session that plays these lines.
    pub(crate) fn session(&self, lines: &[String]) -> Result<KillOnDrop> {
        self.home.start(&["start", "dev", "--yes", "--prompt", &lines.join("\n")], &[])
    }

    /// The proposal that waits in a running bottle and is none of these, once one does.
    pub(crate) fn waiting(&self, but: &[&str]) -> Result<Value> {
        eventually("a proposal waits", || {
            let listed = self.listed().ok()?;
            listed.into_iter().find(|row| row["running"] == true && !but.iter().any(|id| row["id"] == *id))
        })
    }

    /// The proposals that wait.
    pub(crate) fn listed(&self) -> Result<Vec<Value>> {
        let run = self.home.run(&["supervise", "--once", "--json"])?;
        let listing: Value = serde_json::from_str(&run.stdout).with_context(|| format!("{run:?}"))?;
        Ok(listing["proposals"].as_array().cloned().unwrap_or_default())
    }

    /// What the operator says.
    pub(crate) fn decide(&self, words: &[&str]) -> Result<()> {
        let run = self.home.run(&[&["supervise"], words].concat())?;
        ensure!(run.code == Some(0), "{run:?}");
        Ok(())
    }

    /// The model was, from its first turn on.
    pub(crate) fn told_of_the_tools(&self) -> Result<()> {
        let turns = self.standin.seen().into_iter().filter(|seen| seen.path.starts_with("/v1/messages"));
        let turn: Value = serde_json::from_slice(&turns.map(|turn| turn.body).next().context("a turn")?)?;
        let tools = turn["tools"].as_array().into_iter().flatten();
        let named: Vec<&str> = tools.filter_map(|tool| tool["name"].as_str()).collect();
        for tool in ["egress-block", "pipelock-block", "capability-block", "list-egress-routes"] {
            ensure!(named.contains(&format!("mcp__supervise__{tool}").as_str()), "{tool}: {named:?}");
        }
        Ok(())
    }

    /// The audit log is whole; the events in it, in their order.
    pub(crate) fn audited(&self) -> Result<Vec<String>> {
        Ok(self.log()?.iter().filter_map(|record| record["event"].as_str().map(str::to_owned)).collect())
    }

    /// The same; what it holds of one bottle.
    pub(crate) fn audited_of(&self, identity: &str) -> Result<Vec<Value>> {
        Ok(self.log()?.into_iter().filter(|record| record["identity"] == identity).collect())
    }

    fn log(&self) -> Result<Vec<Value>> {
        let run = self.home.run(&["audit", "verify"])?;
        ensure!(run.code == Some(0), "{run:?}");
        let shown = self.home.run(&["audit", "show", "--json"])?.stdout;
        shown.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

/// An id of a proposal.
pub(crate) fn id(proposal: &Value) -> &str {
    proposal["id"].as_str().unwrap_or_default()
}

/// Has the agent print the status that a path of the host answers with.
pub(crate) fn status_of(path: &str) -> String {
    format!("@@bash curl -s -o /dev/null -w '%{{http_code}}' https://later.example{path}")
}

/// Has it ask for a path of the host, by its client's tool.
pub(crate) fn ask_for(path: &str) -> String {
    let routes = json!([{"host": "later.example", "paths": [path]}]);
    let arguments = json!({"routes": routes, "justification": "a test needs it\u{1b}[31m"});
    format!("@@tool mcp__supervise__egress-block {arguments}")
}
