//! A call that may block takes a cancellation.

use bottle_api::{ExitStatus, Process, Result};

struct MyProcess;

impl Process for MyProcess {
    fn wait(&self) -> Result<ExitStatus> {
        Ok(ExitStatus::default())
    }
}

fn main() {}
