//! One static binary under two names.
//!
//! * `bottle-sidecar bundle`: PID 1 of a bottle's sidecar. Its control channel is standard input and output; it
//!   runs each daemon as a child, `bottle-sidecar daemon NAME`.
//! * `bottle-helper init|run|signal|probe`: inside the bottle: its first process, what becomes the agent, what sends it a
//!   signal, and what looks around before it runs.

mod bundle;
mod daemon;
mod dns;
mod egress;
mod helper;
mod probe;
mod users;

use bottle_api::control::BUNDLE_ARGUMENT;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        [BUNDLE_ARGUMENT] => bundle::run(),
        ["daemon", name] => daemon::run(name),
        ["init"] => helper::init(),
        ["run"] => return helper::run(),
        ["probe"] => probe::run(),
        ["signal", mark, number] => helper::signal(mark, number),
        _ => {
            eprintln!("bottle-sidecar {}: run by bottle, not by hand", env!("CARGO_PKG_VERSION"));
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bottle-sidecar: {error:#}");
            ExitCode::FAILURE
        }
    }
}
