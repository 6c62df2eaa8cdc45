//! The `bottle` command.

use bottle_host::{cli, commands, plugin::probe, ui};
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(plugin) = cli::probed() {
        return probe::answer(&plugin).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let cli = cli::parse();
    let _last_words = ui::LastWords;
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
