//! A process is waited for in one thread and resized from another.

use bottle_api::{Cancel, ExitStatus, Process, Result};
use std::cell::Cell;

struct MyProcess(Cell<i32>);

impl Process for MyProcess {
    fn wait(&self, _: &Cancel) -> Result<ExitStatus> {
        Ok(ExitStatus { code: self.0.get() })
    }
}

fn main() {}
