//! The command line, in one place: help, completions and man page come from here.

use crate::{gate, manifest::Kind};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Runs coding agents with full permissions inside throw-away bottles.
#[derive(Debug, Parser)]
#[command(name = "bottle", version, disable_help_subcommand = true)]
pub struct Cli {
    /// Where bottles run, over CLAUDE_BOTTLE_BACKEND, over docker; the only backend that is asked
    #[arg(long, global = true, value_name = "NAME")]
    pub backend: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start an agent in a new bottle
    Start(Start),
    /// Have an agent go on where an earlier session of its left off
    Resume(Resume),
    /// Run a command in a running bottle, as its agent would
    Exec(Exec),
    /// Show what a bottle asked for, and what was refused
    Logs(Logs),
    /// Show what agents ask their operator for, and decide on it (supervise: true)
    Supervise(Supervise),
    /// Show or verify the log of what was asked, decided and done
    #[command(subcommand, disable_help_subcommand = true)]
    Audit(AuditWhat),
    /// List the agents that the manifest has, or the bottles that run
    List(List),
    /// Show what an agent left: its commits and changes, and what of them a host would obey
    Diff(Diff),
    /// Bring home what an agent left, through the exit gate
    Apply(Apply),
    /// List or remove what is kept of bottles that have ended
    #[command(subcommand, disable_help_subcommand = true)]
    State(StateWhat),
    /// Remove what earlier bottles left behind, on every backend
    Cleanup(Cleanup),
    /// List the installed backends
    Backends(Backends),
    /// Build and list the images that bottles are made of
    #[command(subcommand, disable_help_subcommand = true)]
    Image(Image),
    /// Show an agent resolved: its bottle, where it comes from, what it may reach
    Info(Info),
    /// Say what each backend needs, whether it is there, and what to type to get it
    Doctor(Doctor),
    /// Print the JSON Schema of the manifest's frontmatter
    Schema {
        /// Of which kind of file; both without it
        kind: Option<Kind>,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the man page
    Man,
}

impl Command {
    /// The exit code of our own errors: where the agent's own code is passed on, ours must not be taken for one.
    pub fn own_error_code(&self) -> u8 {
        if matches!(self, Self::Start(_) | Self::Resume(_) | Self::Exec(_)) { 125 } else { 1 }
    }
}

/// `start`
#[derive(Debug, Args)]
pub struct Start {
    /// The agent, as named by its file
    pub agent: String,
    /// Stop after the preflight; create nothing, ask for nothing
    #[arg(long, env = "CLAUDE_BOTTLE_DRY_RUN", value_parser = clap::builder::FalseyValueParser::new())]
    pub dry_run: bool,
    /// How to print the preflight of a dry run
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Show the whole prompt, every path and every file in the preflight
    #[arg(long)]
    pub full: bool,
    /// Bring a copy of the working directory along: its history, and every file that git does not ignore
    #[arg(long)]
    pub cwd: bool,
    /// The same with the files that git ignores; without history, where the repository is not the directory's own
    #[arg(long, conflicts_with = "cwd")]
    pub cwd_all: bool,
    /// Bring the last commit of the working directory's repository along, on a branch of the agent's own: this one, or
    /// `bottle/IDENTITY`
    #[arg(long, value_name = "BRANCH", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["cwd", "cwd_all"])]
    pub worktree: Option<String>,
    /// Do not ask whether to launch
    #[arg(long)]
    pub yes: bool,
    /// Run headless with this prompt, and end
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Let the agent reach your clipboard and query your terminal (OSC 52, reports)
    #[arg(long)]
    pub raw_terminal: bool,
    /// More arguments for the agent's own command line
    #[arg(last = true, value_name = "ARGS")]
    pub arguments: Vec<String>,
}

/// `resume`
#[derive(Debug, Args)]
pub struct Resume {
    /// The bottle, as `bottle state ls` shows it
    pub identity: String,
    /// Show the whole prompt, every path and every file in the preflight
    #[arg(long)]
    pub full: bool,
    /// Do not ask whether to launch
    #[arg(long)]
    pub yes: bool,
    /// Run headless with this prompt, and end
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Let the agent reach your clipboard and query your terminal (OSC 52, reports)
    #[arg(long)]
    pub raw_terminal: bool,
    /// Go on in the backend's own image, for good: without what was approved for this bottle's
    #[arg(long)]
    pub forget_image: bool,
    /// More arguments for the agent's own command line
    #[arg(last = true, value_name = "ARGS")]
    pub arguments: Vec<String>,
}

/// `diff`
#[derive(Debug, Args)]
pub struct Diff {
    /// The bottle, as `bottle state ls` shows it
    pub identity: String,
    /// The directory to compare with, instead of the one that the bottle was started in
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
    /// Names only
    #[arg(long)]
    pub stat: bool,
}

/// `apply`
#[derive(Debug, Args)]
pub struct Apply {
    /// The bottle, as `bottle state ls` shows it
    pub identity: String,
    /// Where it goes, instead of the directory that the bottle was started in
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
    /// Take what the gate asks for of this kind; may be given more than once
    #[arg(long, value_enum, value_name = "KIND")]
    pub accept: Vec<gate::Kind>,
    /// Do not ask whether to take it; what the gate asks for is asked for all the same
    #[arg(long)]
    pub yes: bool,
}

/// `state`
#[derive(Debug, Subcommand)]
pub enum StateWhat {
    /// List it: log, conversation, work
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove it for good
    Rm {
        /// The bottles, as `bottle state ls` shows them
        #[arg(value_name = "IDENTITY")]
        identities: Vec<String>,
        /// Of every bottle that has ended
        #[arg(long, conflicts_with = "identities")]
        all: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// `exec`
#[derive(Debug, Args)]
pub struct Exec {
    /// The bottle, as `bottle list active` shows it
    pub identity: String,
    /// Let the command reach your clipboard and query your terminal (OSC 52, reports)
    #[arg(long)]
    pub raw_terminal: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `logs`
#[derive(Debug, Args)]
pub struct Logs {
    /// The bottle, as `bottle list active` shows it; or one that has ended and whose log was kept
    pub identity: String,
    /// Go on with what it asks for next, until it ends
    #[arg(short, long)]
    pub follow: bool,
    /// Only what was refused, or would have been (egress.mode: audit)
    #[arg(long)]
    pub denied: bool,
    /// Print the lines of JSON as they are
    #[arg(long)]
    pub json: bool,
}

/// `supervise`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct Supervise {
    /// Print what waits, and end, instead of showing it on a screen that decides
    #[arg(long)]
    pub once: bool,
    /// Print JSON
    #[arg(long, requires = "once")]
    pub json: bool,
    /// What is decided, without a screen.
    #[command(subcommand)]
    pub decide: Option<Decide>,
}

/// `supervise approve`, `supervise reject`
#[derive(Debug, Subcommand)]
pub enum Decide {
    /// Approve a proposal: it holds at once
    Approve {
        /// The proposal, as `bottle supervise --once` shows it
        id: String,
        /// For this session only: one that is resumed begins without it
        #[arg(long)]
        once: bool,
        /// Tell the agent this with it
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        note: String,
    },
    /// Reject a proposal
    Reject {
        /// The proposal, as `bottle supervise --once` shows it
        id: String,
        /// Tell the agent why
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
    },
}

/// `audit`
#[derive(Debug, Subcommand)]
pub enum AuditWhat {
    /// Print it, the oldest line first
    Show {
        /// Print the lines of JSON as they are
        #[arg(long)]
        json: bool,
    },
    /// Find out whether a line was changed, removed or moved
    Verify,
}

/// Text for people or JSON for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// `list`
#[derive(Debug, Args)]
pub struct List {
    /// What to list
    #[arg(value_enum, default_value_t = ListWhat::Agents)]
    pub what: ListWhat,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `list` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListWhat {
    /// The manifest's agents and their bottles
    Agents,
    /// The bottles that run, on every backend
    Active,
}

/// `image`
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Build what is missing, or was built from another recipe
    Build {
        /// Claude Code's version, like 2.1.329; without it the one that bottle pins by hash
        #[arg(long, value_name = "VERSION")]
        claude: Option<String>,
    },
    /// List the images, and whether they are what the next start wants
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `info`
#[derive(Debug, Args)]
pub struct Info {
    /// The agent, as named by its file
    pub agent: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `cleanup`
#[derive(Debug, Args)]
pub struct Cleanup {
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Also remove what another machine or user left, whether it is in use or not
    #[arg(long)]
    pub foreign: bool,
    /// Also remove the bottles whose work cannot be saved
    #[arg(long)]
    pub unsaved: bool,
    /// With --yes: what carries no label of bottle's and is only named like its own, too
    #[arg(long)]
    pub unlabelled: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `backends`
#[derive(Debug, Args)]
pub struct Backends {
    /// Load each plugin, in a process of its own
    #[arg(long)]
    pub probe: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The command line as clap knows it, for completions and man page.
pub fn command() -> clap::Command {
    Cli::command()
}

/// The plugin that this process is to load, where it is the child that goes first. Not a command: nobody types it.
pub fn probed() -> Option<PathBuf> {
    let mut arguments = std::env::args_os().skip(1);
    (arguments.next()? == PROBE).then(|| arguments.next())?.map(PathBuf::from)
}

/// The first argument of [`probed`].
pub const PROBE: &str = "__probe";

/// Reads the command line; ends the process with usage (code 2) or help.
pub fn parse() -> Cli {
    Cli::parse()
}
