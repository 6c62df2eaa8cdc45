//! What to say last of what is kept.

use super::Saved;

impl Saved {
    /// How a person gets at it: looks at the work, takes it, or has the agent go on with it.
    pub fn lines(&self, identity: &str) -> Vec<String> {
        let mut lines = vec![];
        if self.any() {
            lines.push(format!("look at the agent's work with: bottle diff {identity}"));
            lines.push(format!("apply with: bottle apply {identity}"));
        }
        if self.any() || self.conversation {
            lines.push(format!("resume with: bottle resume {identity}"));
        }
        lines
    }
}
