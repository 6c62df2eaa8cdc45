//! A `claude` of a few kilobytes, and an image that has it: it waits until it is told to end, or returns at once where that
//! is its prompt. For many bottles, at once or one after another.

use crate::{
    bottle::{Home, images},
    lab::{Lab, output},
    target::Target,
};
use anyhow::Result;
use std::{fs, path::Path, process::Command, sync::OnceLock};

const CLAUDE: &str = r#"
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    const char *end = "/home/agent/end"; // what is in the workspace is work, and saved
    if (argc == 2 && !strcmp(argv[1], "end")) return creat(end, 0600) < 0;
    if (!strcmp(argv[argc - 1], "return")) return 0;
    while (access(end, F_OK)) usleep(50000);
    return 0;
}
"#;
const DOCKERFILE: &str = "FROM scratch\nCOPY claude /usr/local/bin/claude\nCOPY --chown=1000:1000 empty /workspace\n\
     COPY --chown=1000:1000 empty /home/agent\nENV PATH=/usr/local/bin HOME=/home/agent\nWORKDIR /workspace\n";

/// The home with such a `claude` in its bottles.
pub fn at(home: Home, lab: &Lab) -> Result<Home> {
    match home.target() {
        Target::Docker => Ok(home.with_env("CLAUDE_BOTTLE_IMAGE", image(lab)?)),
        Target::Namespace(_) => {
            let program = home.path().join("tiny-claude");
            compile(&program)?;
            Ok(home.with_env("CLAUDE_BOTTLE_CLAUDE", &program.display().to_string()))
        }
    }
}

fn compile(program: &Path) -> Result<()> {
    let source = program.with_extension("c");
    fs::write(&source, CLAUDE)?;
    output(Command::new("cc").args(["-static", "-Os", "-s", "-o"]).args([program, source.as_path()])).map(drop)
}

/// The image's name, built once. It is nobody's recipe: bottle uses it as it is.
pub fn image(lab: &Lab) -> Result<&'static str> {
    static NAME: OnceLock<String> = OnceLock::new();
    if let Some(name) = NAME.get() {
        return Ok(name);
    }
    let (dir, name) = (tempfile::tempdir()?, images("bottle-test-tiny"));
    fs::create_dir(dir.path().join("empty"))?;
    compile(&dir.path().join("claude"))?;
    fs::write(dir.path().join("Dockerfile"), DOCKERFILE)?;
    lab.docker(&["build", "-q", "-t", &name, &dir.path().display().to_string()])?;
    Ok(NAME.get_or_init(|| name))
}
