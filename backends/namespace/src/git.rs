//! What git-gate runs of this machine's: git, and OpenSSH's client. Only bottles with remotes for git need any of it.

use crate::tools::is_of_system;
use bottle_api::{Error, ErrorKind, Result, control::GIT_GATE_DAEMON};
use std::path::Path;

/// Where the gate looks for them.
const PLACES: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];
const PROGRAMS: [&str; 4] = ["git", "ssh", "ssh-add", "ssh-agent"];

/// Refuses a bottle whose gate could not work here.
pub(crate) fn check(daemons: &[String]) -> Result<()> {
    if daemons.iter().any(|daemon| daemon == GIT_GATE_DAEMON) { find().map(drop) } else { Ok(()) }
}

/// Where git is.
pub(crate) fn find() -> Result<String> {
    let at = |program: &str| {
        let files = PLACES.iter().map(|place| Path::new(place).join(program));
        // The sidecar sees the system and nothing else of the machine.
        files.into_iter().find(|file| file.canonicalize().is_ok_and(|real| real.is_file() && is_of_system(&real)))
    };
    let needs = |what: String| Error::new(ErrorKind::PREREQUISITE, format!("git-gate needs {what}"));
    for program in PROGRAMS {
        if at(program).is_none() {
            let missing = needs(format!("{program}, which is not in {}", PLACES.join(", ")));
            return Err(missing.hint("apt-get install git openssh-client; or use another backend: --backend docker."));
        }
    }
    if !bottle_namespace::holds_git_gate() {
        let missing = needs("a kernel whose Landlock keeps sockets apart, Linux 6.12 or newer with Landlock".into());
        return Err(missing.hint("Use another backend: --backend docker."));
    }
    Ok(at(PROGRAMS[0]).map(|git| git.display().to_string()).unwrap_or_default())
}
