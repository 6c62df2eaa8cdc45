//! How a person gets at saved work.

use super::{COMMITS, DELETED, Saved};

impl Saved {
    /// What to say last: where the work is, and what brings it home. Into a directory and refs of its own: nothing that
    /// an agent wrote is to run because it lies where a tool looks.
    pub fn lines(&self, identity: &str) -> Vec<String> {
        let at = |name: &str| self.dir.join(name).display().to_string();
        let mut lines =
            vec![format!("the agent's work is in {}; look at it before anything of it runs:", self.dir.display())];
        if self.commits {
            let refs = format!("'refs/*:refs/bottle/{identity}/*'");
            lines.push(format!(
                "  git -c fetch.fsckObjects=true fetch --no-tags --no-recurse-submodules {} {refs}",
                at(COMMITS)
            ));
        }
        if let Some(archive) = self.archive {
            lines.push(format!("  mkdir {identity} && tar -xf {} -C {identity}", at(archive)));
        }
        if self.deleted {
            lines.push(format!("  tr '\\0' '\\n' < {} | cat -v  # what is gone", at(DELETED)));
        }
        lines
    }
}
