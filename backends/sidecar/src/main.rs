//! One static binary under two names.
//!
//! * `bottle-sidecar bundle`: PID 1 of a bottle's sidecar. Its control channel is standard input and output; it
//!   has each daemon, `bottle-sidecar daemon NAME`, run by a keeper of the daemon's own user, `bottle-sidecar keep NAME`.
//! * `bottle-helper init|run|signal|probe`: inside the bottle: its first process, what becomes the agent, what sends it a
//!   signal, and what looks around before it runs.
//! * `bottle-helper settle|attend|enter|unpack|pack`: the same bottle in a machine of its own, whose engine offers less than
//!   Docker's.
//! * `pre-receive`, `proc-receive`, `askpass`, `dial`: what git and OpenSSH start of it, beside the daemon `git-gate`.

mod archive;
mod attend;
mod bundle;
mod daemon;
mod dns;
mod egress;
mod enter;
mod feed;
mod git_gate;
mod helper;
mod link;
mod listeners;
mod pipelock;
mod probe;
mod rights;
mod settle;
mod supervise;
mod tied;
mod users;

use bottle_api::{
    attend::{ATTEND_ARGUMENT, PACK_ARGUMENT, SETTLE_ARGUMENT, UNPACK_ARGUMENT},
    control::BUNDLE_ARGUMENT,
};
use git_gate::Program;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let (name, words) = args.split_first().map_or(("", &args[..]), |(name, words)| (name.as_str(), words));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let Some(program) = Program::named(name) {
        return ended(program.run(&words));
    }
    let result = match words[..] {
        [BUNDLE_ARGUMENT] => bundle::run(),
        ["keep", name] => bundle::keep(name),
        ["daemon", name, ref lent @ ..] => daemon::run(name, lent),
        ["tied", memory, program, ref words @ ..] => tied::become_program(memory, program, words),
        ["init"] => helper::init(),
        ["run"] => return helper::run(),
        ["front", program, ref arguments @ ..] => return helper::front(program, arguments),
        ["probe"] => probe::run(),
        ["signal", mark, number] => helper::signal(mark, number),
        [ATTEND_ARGUMENT] => return attend::run(),
        ["enter", ref words @ ..] => return enter::run(words),
        [SETTLE_ARGUMENT, address] => settle::run(address),
        [UNPACK_ARGUMENT, dest] => archive::unpack(dest),
        [PACK_ARGUMENT, path] => archive::pack(path),
        _ => {
            eprintln!("bottle-sidecar {}: run by bottle, not by hand", env!("CARGO_PKG_VERSION"));
            return ExitCode::from(2);
        }
    };
    ended(result)
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bottle-sidecar: {error:#}");
            ExitCode::FAILURE
        }
    }
}
