//! The `bottle` command.

use bottle_host::{cli, commands, ui};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::parse();
    let own_error = cli.command.own_error_code();
    match commands::run(cli) {
        Ok(code) => ExitCode::from(code),
        // `bottle list | head`: whoever read has read enough.
        Err(error) if ui::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            ui::error(&error);
            ExitCode::from(ui::usage_code(&error).unwrap_or(own_error))
        }
    }
}
